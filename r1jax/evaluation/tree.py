"""The exhaustive transition tree of one image: every state that K tools reach in up to T calls, scored once.

With K = 8 and T = 3 an image has 585 states. Their images are not kept: a tree is a handful of numbers a
state, from which random, fixed, greedy and exhaustive planning are look-ups. States with equal content are
expanded and scored once.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from r1jax.evaluation.simulator import Simulator, measure_quality, num_states
from r1jax.files import make_folder, write_whole

Metric = Callable[..., Any]  # (image [b, h, w, 3], clean [b, h, w, 3]) in [0, 1] -> [b]
Encode = Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n f"]]


@dataclasses.dataclass(frozen=True)
class Tree:
    """All states of one image, numbered like a heap (see `r1jax.evaluation.simulator`).

    Attributes:
      num_tools: K.
      horizon: T, most calls.
      scores: quality by the scorer.
      metrics: full-reference metrics by name.
      unique: states with the same number here have the same content.
      features: what an encoder sees of each content, by number; None where none was asked for.
    """

    num_tools: int
    horizon: int
    scores: Float[np.ndarray, " s"]
    metrics: dict[str, Float[np.ndarray, " s"]]
    unique: Int[np.ndarray, " s"]
    features: Float[np.ndarray, "u f"] | None = None

    @property
    def first(self) -> Int[np.ndarray, " u"]:
        """The first state of each content."""
        return np.unique(self.unique, return_index=True)[1]

    @property
    def children(self) -> Int[np.ndarray, "u k"]:
        """The content that each tool makes of each content; -1 where only the last call reaches it."""
        children = self.first[:, None] * self.num_tools + 1 + np.arange(self.num_tools)
        known = children < len(self.unique)
        return np.where(known, self.unique[np.where(known, children, 0)], -1)


def build_tree(
    simulator: Simulator,
    image: UInt8[np.ndarray, "h w 3"],
    clean: UInt8[np.ndarray, "h w 3"] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    encode: Encode | None = None,
    beam: int = 0,
) -> Tree:
    """Computes the tree level by level; `metrics` need `clean`, `encode` gives the features.

    Args:
      beam: go on from so many states a level, those that score best; 0: from all. A state that was not gone on from stays
        what it is, whatever tool is called.
    """
    states = _States(simulator, clean, metrics or {}, encode)
    num_tools = simulator.num_tools
    frontier = states.add(image[None])
    children: dict[int, list[int]] = {}
    for depth in range(simulator.horizon):
        fresh: list[tuple[int, np.ndarray]] = []
        for slab in _slabs(frontier.fresh, max(1, simulator.block(*image.shape[:2]) // num_tools)):
            parents = np.stack([parent for _, parent in slab])
            actions = np.tile(np.arange(num_tools), len(slab))
            added = states.add(simulator.step(np.repeat(parents, num_tools, 0), actions))
            for row, (number, _) in enumerate(slab):
                children[number] = added.numbers[row * num_tools : (row + 1) * num_tools]
            # The images of the last level are needed no more.
            fresh += added.fresh if depth + 1 < simulator.horizon else []
        if beam:
            fresh = sorted(fresh, key=lambda state: -states.values["score"][state[0]])[:beam]
        frontier = _Added([], fresh)
    unique = _unroll(children, num_tools, simulator.horizon)
    values = {name: np.asarray(column)[unique] for name, column in states.values.items()}
    features = np.concatenate(states.features) if states.features else None
    return Tree(num_tools, simulator.horizon, values.pop("score"), values, unique, features)


@dataclasses.dataclass(frozen=True)
class _Added:
    numbers: list[int]  # of every image given
    fresh: list[tuple[int, np.ndarray]]  # number and image of those never seen before


class _States:
    """The distinct images of a tree: numbers by content, and the values of each number."""

    def __init__(
        self, simulator: Simulator, clean: np.ndarray | None, metrics: Mapping[str, Metric], encode: Encode | None
    ):
        self._simulator, self._clean, self._metrics, self._encode = simulator, clean, metrics, encode
        self._number: dict[bytes, int] = {}
        self.values: dict[str, list[float]] = {name: [] for name in ("score", *metrics)}
        self.features: list[np.ndarray] = []

    def add(self, images: UInt8[np.ndarray, "n h w 3"]) -> _Added:
        """Numbers the images, and scores those that are new."""
        numbers, fresh = [], []
        for image in images:
            content = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            if content not in self._number:
                self._number[content] = len(self._number)
                fresh.append((self._number[content], image))
            numbers.append(self._number[content])
        if fresh:
            self._evaluate(np.stack([image for _, image in fresh]))
        return _Added(numbers, fresh)

    def _evaluate(self, images: np.ndarray) -> None:
        self.values["score"] += self._simulator.score(images).tolist()
        if self._encode is not None:
            self.features.append(self._encode(images))
        for name, metric in self._metrics.items():
            assert self._clean is not None, "a metric needs the clean photo"
            clean = np.broadcast_to(self._clean, images.shape)
            block = self._simulator.block(*images.shape[1:3])
            self.values[name] += measure_quality(metric, images, clean, block).tolist()


def _slabs(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _unroll(children: dict[int, list[int]], num_tools: int, horizon: int) -> Int[np.ndarray, " s"]:
    """Returns the content number of every node; a number was expanded where it first occurred."""
    levels = [np.zeros(1, np.int32)]
    for _ in range(horizon):
        made = [children.get(number, [number] * num_tools) for number in levels[-1].tolist()]
        levels.append(np.array(made, np.int32).reshape(-1))
    unique = np.concatenate(levels)
    assert len(unique) == num_states(num_tools, horizon)
    return unique


def cached_tree(
    simulator: Simulator,
    image: UInt8[np.ndarray, "h w 3"],
    clean: UInt8[np.ndarray, "h w 3"] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    folder: pathlib.Path | None = None,
    fingerprint: str = "",
) -> Tree:
    """`build_tree`, kept in `folder`, so that an interrupted evaluation goes on where it was.

    Args:
      folder: where trees are kept; None computes only.
      fingerprint: `simulator.fingerprint(...)`: trees of other tools or scorers are not read.
    """
    if folder is None:
        return build_tree(simulator, image, clean, metrics)
    key = hashlib.sha256(
        json.dumps([image.shape, simulator.horizon, sorted(metrics or {}), fingerprint]).encode()
    )
    key.update(image.tobytes())
    key.update(b"" if clean is None else clean.tobytes())
    path = folder / f"{key.hexdigest()[:32]}.npz"
    stored = read_tree(path)
    if stored is None:
        stored = build_tree(simulator, image, clean, metrics)
        write_tree(path, stored)
    return stored


def read_tree(path: pathlib.Path) -> Tree | None:
    """Returns the stored tree, or None where there is none that can be read: it is then made again."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            metrics = {name[7:]: arrays[name] for name in arrays.files if name.startswith("metric_")}
            num_tools, horizon = (int(n) for n in arrays["shape"])
            features = arrays["features"] if "features" in arrays.files else None
            return Tree(num_tools, horizon, arrays["scores"], metrics, arrays["unique"], features)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def write_tree(path: pathlib.Path, tree: Tree) -> None:
    """Writes a tree to a file PATH.npz, complete or not at all."""
    make_folder(path.parent)
    arrays: dict[str, Any] = {f"metric_{name}": values for name, values in tree.metrics.items()}
    if tree.features is not None:
        arrays["features"] = tree.features
    file, shape = io.BytesIO(), np.array([tree.num_tools, tree.horizon])
    np.savez_compressed(file, shape=shape, scores=tree.scores, unique=tree.unique, **arrays)
    write_whole(path, file.getvalue())
