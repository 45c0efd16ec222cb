"""Calling the host from inside a jitted program, and the two calls that leave the device for a reward.

Images are float32 NHWC in [0, 1] here and leave as uint8.
"""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, Float, Int

from r1jax.images import to_uint8_in_graph
from r1jax.reward.service import RewardService

logger = logging.getLogger(__name__)


def host_call(fn: Callable[..., Any], result: jax.ShapeDtypeStruct, *args: Array) -> Array:
    """Calls `fn` on NumPy copies of `args` whenever the program gets here, and returns its result.

    On CPU the call goes through a buffer_callback: an io_callback waits for its own argument to be copied,
    which never happens once every XLA thread is in a callback (several devices, images of 256x256). Elsewhere
    it is an io_callback. Calls are ordered by the data that flows between them, as in a scan, and no more.

    Args:
      fn: must not call JAX: the program that waits for it may hold the device. If it raises, or returns
        another shape, the result is all -1 (integers) or NaN (floats) and the error is logged: an exception
        here would end every later callback of the process too.
      result: shape and dtype of what `fn` returns.
      args: arrays; each is copied before `fn` sees it.
    """

    def to_buffer(context: Any, out: Any, *buffers: Any) -> None:
        np.asarray(out)[...] = _guarded(fn, result, buffers)

    def on_cpu(*arrays: Array) -> Array:
        return buffer_callback(to_buffer, result, has_side_effect=True)(*arrays)

    def elsewhere(*arrays: Array) -> Array:
        return io_callback(lambda *values: _guarded(fn, result, values), result, *arrays)

    return jax.lax.platform_dependent(*args, cpu=on_cpu, default=elsewhere)


def submit_in_graph(service: RewardService, images: Float[Array, "b h w 3"]) -> Int[Array, " b"]:
    """Submits images in [0, 1] and returns their tickets (int32) at once; -1 where there was no room."""
    result = jax.ShapeDtypeStruct(images.shape[:1], jnp.int32)
    return host_call(service.submit, result, to_uint8_in_graph(images))


def score_in_graph(service: RewardService, images: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns the scores of images in [0, 1], waiting for them; NaN where there is none."""
    result = jax.ShapeDtypeStruct(images.shape[:1], jnp.float32)
    return host_call(service.score, result, to_uint8_in_graph(images))


def _guarded(fn: Callable[..., Any], result: jax.ShapeDtypeStruct, values: tuple[Any, ...]) -> np.ndarray:
    try:
        answer = np.asarray(fn(*(np.array(np.asarray(value)) for value in values)))
        if answer.shape != result.shape:
            raise ValueError(f"the host function returned shape {answer.shape}, not {result.shape}")
        return answer.astype(result.dtype)
    except Exception:
        logger.exception("a host call failed")
        return np.full(
            result.shape, np.nan if jnp.issubdtype(result.dtype, np.floating) else -1, result.dtype
        )
