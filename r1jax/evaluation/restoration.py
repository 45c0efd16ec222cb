"""Restoring a photo of any size with an agent: `r1jax.restore` and the command behind it.

The agent decides on views: the photo itself where it is small, otherwise a grid of crops at full resolution, whose
preferences are averaged. Tools run on the whole photo, in overlapping tiles where it is large; a tool that needs the
whole image at once (`Tool.whole_image`) is never tiled.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from r1jax.agent.agent import Agent, agent_file, load_agent
from r1jax.errors import UsageError
from r1jax.evaluation.search import Node, Problem, Search
from r1jax.images.convert import quantise, to_float, to_uint8
from r1jax.images.io import read_image
from r1jax.images.resize import resize_bicubic
from r1jax.images.tiling import GRID, bucket, crop_to, pad_to, restore_tiled
from r1jax.reward.scorer import Scorer, scorer

_WHOLE = 512  # a photo whose sides are at most this goes through tools and encoder in one piece
_VIEW = 256  # side of the crops that the agent looks at otherwise
_VIEWS = 3  # along each side
_LEAST = 16  # smaller photos are mirrored to this for the tools


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A restored photo and how it came about.

    Attributes:
      image: uint8 [H, W, 3].
      plan: the tools called, in order.
      scores: the quality before the first and after each tool, len(plan) + 1; empty where no scorer was given.
    """

    image: UInt8[np.ndarray, "h w 3"]
    plan: tuple[str, ...]
    scores: tuple[float, ...]


def restore(
    image: str | pathlib.Path | UInt8[np.ndarray, "h w 3"],
    agent: str | pathlib.Path | Agent | None = None,
    upscale: int = 1,
    search: str = "argmax",
    toolbox: str = "lite",
) -> Restoration:
    """Restores a photo with a shipped agent, or with another one.

    Args:
      image: a file, or sRGB uint8 [H, W, 3].
      agent: an agent, or where one is saved.
      upscale: the result is so many times larger; the agent starts from the bicubic enlargement.
      search: how it plans, see `r1jax.evaluation.search.Search`: "argmax", "sample:8", "beam:3".
      toolbox: whose shipped agent, where none is given: "lite" or "published".

    Raises:
      ImageError: the file cannot be read.
      UsageError: `image` is an array of another kind or shape, `upscale` is not in 1..4, or there is no agent.
      R1JaxError: the weights of the agent's tools are not here; the line says how to get them.
    """
    pixels = image if isinstance(image, np.ndarray) else read_image(image).pixels
    if isinstance(agent, Agent):
        restorer = Restorer(agent)
    else:
        file = agent_file(agent, toolbox)
        restorer = _loaded_restorer(file, file.stat().st_mtime_ns)
    return restorer(pixels, upscale, search=search)


@functools.lru_cache(maxsize=2)
def _loaded_restorer(file: pathlib.Path, written: int) -> "Restorer":
    """`written` tells an agent from the one that was trained into the same file before."""
    return Restorer(load_agent(file))


class Restorer:
    """An agent made ready to restore many photos: programs are compiled once for each size bucket."""

    def __init__(self, agent: Agent, score: bool = True):
        """`score`: also rate every step, with the scorer that the agent was trained with if that is the embedded one or
        a file of your own, else with the embedded one: a restoration needs no multimodal LLM."""
        self.agent = agent
        reward = agent.config.reward
        own = ":" in reward.scorer
        rated_by = scorer(reward.scorer, reward.options) if own and score else None
        self.scorer: Scorer | None = rated_by or (scorer("lite") if score else None)
        policy = agent.policy

        def preferences(
            params: Any, encoder_params: Any, views: Array, record: Array, step: Array
        ) -> tuple[Array, Array]:
            features = policy.encoder.apply(encoder_params, views)
            logits, value = policy.apply(params, features, record, step)
            return jax.nn.log_softmax(jax.nn.log_softmax(logits).mean(0)), value.mean()

        self._preferences = jax.jit(preferences)
        self._tools = [
            jax.jit(lambda params, x, tool=tool: quantise(tool.checked_apply(params, x)))
            for tool in agent.env.toolbox.tools
        ]

    def __call__(
        self,
        pixels: UInt8[np.ndarray, "h w 3"],
        upscale: int = 1,
        *,
        search: str = "argmax",
        plan: Sequence[str] | None = None,
    ) -> Restoration:
        """Restores one photo.

        Args:
          search: how the agent plans; "argmax" is the paper's: the likeliest action at every step, one pass.
          plan: follow this plan instead, as for the frames of a video after the first.

        Raises:
          UsageError: `pixels` are of another kind or shape, `upscale` is not in 1..4, there is no such search or tool, or a
            search lacks its scorer.
        """
        if upscale not in (1, 2, 3, 4):
            raise UsageError(f"upscale {upscale}: want 1, 2, 3 or 4")
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise UsageError(f"image: want sRGB uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        height, width = (side * upscale for side in pixels.shape[:2])
        x = to_float(pixels)
        if upscale > 1:
            x = to_float(to_uint8(resize_bicubic(x, height, width)))
        x = pad_to(x, max(height, _LEAST), max(width, _LEAST))
        node = Node(x, scores=(self._score(x),))
        node = self._search(search, node) if plan is None else self._replay(plan, node)
        image = to_uint8(crop_to(node.image, height, width))
        names = tuple(self.agent.env.toolbox.names[action] for action in node.plan)
        return Restoration(image, names, node.scores if self.scorer else ())

    def _search(self, text: str, root: Node) -> Node:
        env, search = self.agent.env, Search.parse(text)
        if self.scorer is None and search.kind != "argmax" and search.by != "likelihood":
            raise UsageError(f"search {text}: chooses by a scorer, but there is none; want {text}:likelihood")
        looks: dict[tuple[int, ...], tuple[np.ndarray, float]] = {}

        def look(node: Node) -> tuple[np.ndarray, float]:
            if node.plan not in looks:
                looks[node.plan] = self._look(node)
            return looks[node.plan]

        return search.plan(Problem(env.horizon, len(env.toolbox), look, self._apply, self._score), root)

    def _replay(self, plan: Sequence[str], node: Node) -> Node:
        names = self.agent.env.toolbox.names
        for name in plan:
            if name not in names:
                raise UsageError(f"plan: no tool {name!r} in the agent's toolbox; there are {', '.join(names)}")
            image = self._apply(names.index(name), node.image)
            node = Node(image, (*node.plan, names.index(name)), (*node.scores, self._score(image)))
        return node

    def _look(self, node: Node) -> tuple[np.ndarray, float]:
        """Returns the log probabilities of the actions and the critic's value, means over the views."""
        views, policy, horizon = _views(node.image), self.agent.policy, self.agent.env.horizon
        record = np.full((len(views), horizon), -1, np.int32)
        record[:, : len(node.plan)] = node.plan
        steps = np.full(len(views), len(node.plan), np.int32)
        log_probs, value = self._preferences(self.agent.params, policy.encoder.params, views, record, steps)
        return np.asarray(log_probs), float(value)

    def _apply(self, action: int, x: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
        tool, apply = self.agent.env.toolbox.tools[action], self._tools[action]
        height, width = x.shape[:2]
        if tool.whole_image or max(height, width) <= _WHOLE:
            return crop_to(np.asarray(apply(tool.params, pad_to(x, *bucket(height, width))[None])[0]), height, width)
        tiled = restore_tiled(lambda tile: np.asarray(apply(tool.params, tile)), x, _WHOLE)
        return to_float(to_uint8(tiled))  # blending leaves the 8-bit grid

    def _score(self, x: Float[np.ndarray, "h w 3"]) -> float:
        return float(np.mean(self.scorer.score(to_uint8(_views(x))))) if self.scorer else 0.0


def _views(x: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "n vh vw 3"]:
    """What agent and scorer look at: the photo, or an even grid of crops of a large one, which cut no block of a JPEG."""
    height, width = x.shape[:2]
    if max(height, width) <= _WHOLE:
        return pad_to(x, *bucket(height, width))[None]
    x = pad_to(x, max(height, _VIEW), max(width, _VIEW))
    tops, lefts = (np.unique(np.linspace(0, side - _VIEW, _VIEWS).astype(int) // GRID * GRID) for side in x.shape[:2])
    return np.stack([x[top : top + _VIEW, left : left + _VIEW] for top in tops for left in lefts])
