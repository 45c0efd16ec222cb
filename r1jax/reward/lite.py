"""The embedded scorer: a small network trained here to agree with full-reference metrics. A proxy, not a multimodal LLM."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, UInt8

from r1jax.images.convert import to_float
from r1jax.reward.scorer import GraphScorer, register_scorer
from r1jax.weights import load_module, weight_file
from r1jax.weights.recorded import sha256_of

# Images a program scores at once, if they are small. It is one number for one shape: the last bits of a score depend on the
# program, and an image's score must not depend on how many came with it.
_BLOCK_CPU, _BLOCK_ACCELERATOR = 4, 64
_SMALL = 512 * 512  # pixels
# Scores are multiples of 1/4096: without the last bits, which differ with the batch and the program, they do not depend on
# where they were computed.
_STEPS = 4096


@register_scorer("lite")
class LiteScorer:
    """Scores images 1..5 with the shipped quality network, on whatever device JAX has.

    Raises:
      R1JaxError: the weight file is missing or damaged.
    """

    name = "lite"

    def __init__(self, path: str | pathlib.Path | None = None):
        path = pathlib.Path(path or weight_file("scorer"))
        module, _ = load_module(path)
        graph, params = nnx.split(module)

        def apply(params: nnx.State, x: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
            return in_steps(nnx.merge(graph, params)(x))

        self.version = f"{sha256_of(path)[:12]}-{_STEPS}"
        self.graph = GraphScorer(apply, params)
        self._score = jax.jit(apply)

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Returns one score an image, float32 on 1..5."""
        if not len(images):
            return np.zeros(0, np.float32)
        small = images.shape[1] * images.shape[2] <= _SMALL
        block = (_BLOCK_CPU if jax.default_backend() == "cpu" else _BLOCK_ACCELERATOR) if small else 1
        padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % block, 0)])
        blocks = [to_float(padded[i : i + block]) for i in range(0, len(padded), block)]
        scores = [np.asarray(self._score(self.graph.params, x), np.float32) for x in blocks]
        return np.concatenate(scores)[: len(images)]


def in_steps(score: Float[Array, " b"]) -> Float[Array, " b"]:
    """Returns scores rounded to the scorer's multiples of 1/4096."""
    return jnp.round(score * _STEPS) / _STEPS


@functools.cache
def lite_scorer() -> LiteScorer:
    """Returns the shipped scorer, loaded once a process."""
    return LiteScorer()
