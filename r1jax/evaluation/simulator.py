"""Runs tools and the scorer for planners: batches of any length on few compiled shapes, with the price of
each call.

Planners number the states of an image like a heap: node 0 is the input, and tool k takes node n to node n K +
k + 1. A node is thus a sequence of tools, and the states of one depth are neighbours. States are uint8 here:
the environment rounds after each tool, so nothing is lost, and a quarter of the memory is held.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from r1jax.env.environment import Environment
from r1jax.errors import R1JaxError
from r1jax.images.convert import quantise, to_float, to_uint8_in_graph
from r1jax.reward.scorer import identity

NO_CALL = -1  # fills the action sequence of a plan that is shorter than the horizon
_SMALL = 8  # the second, smaller block that short batches are padded to
_BLOCK_PIXELS = 64 * 128 * 128


def num_states(num_tools: int, depth: int) -> int:
    """Returns how many states sequences of up to `depth` tools have: the sum of num_tools**t."""
    return sum(num_tools**t for t in range(depth + 1))


def actions_of(node: int, num_tools: int) -> tuple[int, ...]:
    """Returns the tool sequence that leads to a node."""
    actions: list[int] = []
    while node:
        node, action = divmod(node - 1, num_tools)
        actions.append(action)
    return tuple(reversed(actions))


def path_of(actions: Sequence[int], num_tools: int) -> tuple[int, ...]:
    """Returns the nodes that a tool sequence visits, the input first; stops at the first action below 0."""
    nodes = [0]
    for action in actions:
        if action < 0:
            break
        nodes.append(nodes[-1] * num_tools + int(action) + 1)
    return tuple(nodes)


class Simulator:
    """The tools of an environment and a scorer, callable on any number of images of one size.

    Attributes:
      tool_seconds: median seconds of each tool on one image, once `measure` has run.
      score_seconds: the same of the scorer.
    """

    def __init__(self, env: Environment, tool_params: Any, scorer: Any, block: int | None = None):
        """Takes the tools, the horizon and the transition of `env`.

        Args:
          env: the environment.
          tool_params: its tools' params.
          scorer: a Scorer of `r1jax.reward`, or a RewardService around one.
          block: most images at once; None chooses by size.
        """
        self.env, self.scorer = env, scorer
        self.scorer_identity = identity(scorer)
        self.num_tools, self.horizon = len(env.toolbox), env.horizon
        self.names: tuple[str, ...] = env.toolbox.names
        self.tool_seconds = np.zeros(self.num_tools)
        self.score_seconds = 0.0
        self._block, self._params = block, tool_params
        self._measured: tuple[int, int] | None = None
        self._step = jax.jit(self._transition)

    def _transition(self, params: Any, image: UInt8[Array, "b h w 3"], action: Int[Array, " b"]) -> Array:
        state = self.env.reset(quantise(image.astype(jnp.float32) / 255))
        return to_uint8_in_graph(self.env.step(params, state, action)[0].image)

    def block(self, height: int, width: int) -> int:
        """Returns how many images of this size run at once."""
        return self._block or int(np.clip(_BLOCK_PIXELS // (height * width), 1, 64))

    def step(
        self, images: UInt8[np.ndarray, "n h w 3"], actions: Int[np.ndarray, " n"]
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns the images after one tool each; what pads a block calls no tool, and so costs nothing."""
        size = self.block(*images.shape[1:3])
        out = np.empty_like(images)
        for start in range(0, len(images), size):
            stop = min(start + size, len(images))
            action = np.full(size, self.num_tools, np.int32)
            action[: stop - start] = actions[start:stop]
            padded = _pad(images[start:stop], size)
            out[start:stop] = np.asarray(self._step(self._params, padded, action))[: stop - start]
        return out

    def score(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, " n"]:
        """Returns the scorer's quality of each image.

        Raises:
          R1JaxError: the scorer gave no score for an image.
        """
        if getattr(self.scorer, "graph", None) is None:  # in few images at a time: a service has a timeout
            parts = [images[start : start + 16] for start in range(0, len(images), 16)]
            scores = np.concatenate([np.asarray(self.scorer.score(part), np.float32) for part in parts])
        else:  # compiled for each batch shape: two of them, not one for every length
            scores = in_blocks(self.scorer.score, self.block(*images.shape[1:3]), images).astype(np.float32)
        missing = int(np.sum(~np.isfinite(scores)))
        if missing:
            name = self.scorer_identity.name
            raise R1JaxError(f"scorer {name!r} gave no score for {missing} of {len(images)} images")
        return scores

    def measure(self, height: int, width: int) -> None:
        """Compiles for images of this size and times every tool and the scorer, once for each size."""
        if self._measured == (height, width):
            return
        few = min(self.block(height, width), 4)
        probe = np.repeat(probe_image(height, width)[None], few, 0)
        for tool in range(self.num_tools):
            step = functools.partial(self.step, probe, np.full(few, tool))
            self.tool_seconds[tool] = _median_seconds(step) / few
        # A service knows the scores of images that it has seen, so these are new ones each time.
        noise = np.random.default_rng()
        rows = 4 if getattr(self.scorer, "graph", None) is None else self.block(height, width)
        shape = (rows, height, width, 3)
        self.score_seconds = _median_seconds(lambda: self.score(noise.integers(0, 256, shape, np.uint8))) / rows
        self._measured = (height, width)

    def fingerprint(self, height: int, width: int) -> str:
        """Returns a digest of what decides a tree: the tools' effect on a probe, the scorer's version."""
        probe = np.repeat(probe_image(height, width)[None], self.num_tools, 0)
        digest = hashlib.sha256(self.step(probe, np.arange(self.num_tools)).tobytes())
        digest.update(repr((self.names, self.scorer_identity)).encode())
        return digest.hexdigest()[:16]


def in_blocks(function: Callable[..., Any], block: int, *arrays: np.ndarray) -> np.ndarray:
    """Applies a batched function in blocks of exactly `block` or 8 rows: it is compiled for two shapes.

    The last block repeats its last row; those results are dropped.
    """
    parts, start, length = [], 0, len(arrays[0])
    small = min(_SMALL, block)
    while start < length:
        size = block if length - start > small * ((block - 1) // small) else small
        stop = min(start + size, length)
        part = np.asarray(function(*(_pad(array[start:stop], size) for array in arrays)))
        parts.append(part[: stop - start])
        start = stop
    return np.concatenate(parts)


def probe_image(height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a fixed image of ramps and noise that no tool leaves as it is."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 180, width)[None, :, None] * np.linspace(0.5, 1, height)[:, None, None]
    return np.clip(ramp + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)


def measure_quality(
    metric: Callable[..., Any],
    images: UInt8[np.ndarray, "n h w 3"],
    clean: UInt8[np.ndarray, "n h w 3"],
    block: int,
) -> Float[np.ndarray, " n"]:
    """Returns a full-reference metric of each image, both given to it as float in [0, 1].

    A jitted metric sees two batch shapes, any other at most `block` images.
    """
    if isinstance(metric, jax.stages.Wrapped):
        return in_blocks(lambda a, b: metric(to_float(a), to_float(b)), block, images, clean)
    slices = [slice(start, start + block) for start in range(0, len(images), block)]
    return np.concatenate([np.asarray(metric(to_float(images[s]), to_float(clean[s]))) for s in slices])


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    return array if len(array) == size else np.concatenate([array, np.repeat(array[-1:], size - len(array), 0)])


def _median_seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    function()  # compiles
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
