"""What a planner may ask about a batch of photos: the image and the score of any state, each at its price.

Where trees exist, scores are look-ups; images are always made by running the tools. What a planner asked for
is written down, so that its tool calls, scorings and seconds are those of the planner alone on one photo at a
time, whatever was looked up or already there.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from r1jax.evaluation.simulator import Simulator, actions_of, num_states
from r1jax.evaluation.tree import Tree, build_tree


class World:
    """The reachable states of a batch of photos; states are numbered as in `r1jax.evaluation.simulator`."""

    def __init__(
        self, simulator: Simulator, images: UInt8[np.ndarray, "n h w 3"], trees: Sequence[Tree] | None = None
    ):
        """`trees`: one for each photo, or None where planners must run the tools."""
        self.simulator = simulator
        self.num_photos, self.num_tools, self.horizon = len(images), simulator.num_tools, simulator.horizon
        self._images = {(photo, 0): image for photo, image in enumerate(images)}
        self._scores: dict[tuple[int, int], float] = {}
        self._trees = list(trees) if trees is not None else None
        self.start()

    def start(self) -> None:
        """Forgets what has been asked for, but no image and no score: call it before each planner."""
        self._made: set[tuple[int, int]] = set()
        self._scored: set[tuple[int, int]] = set()
        self._exhausted = False
        self._other_seconds = 0.0

    def images(
        self, photos: Int[np.ndarray, " n"], nodes: Int[np.ndarray, " n"]
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns the images of states; states in between are made on the way."""
        pairs = _pairs(photos, nodes)
        self._note(pairs)
        self._make(pairs)
        return np.stack([self._images[pair] for pair in pairs])

    def scores(self, photos: Int[np.ndarray, " n"], nodes: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Returns the scorer's quality of states."""
        pairs = _pairs(photos, nodes)
        self._note(pairs)
        self._scored.update(pairs)
        if self._trees is not None:
            return np.array([self._trees[photo].scores[node] for photo, node in pairs])
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._scores]
        if unknown:
            self._make(unknown)
            scores = self.simulator.score(np.stack([self._images[pair] for pair in unknown]))
            self._scores.update(zip(unknown, scores.tolist(), strict=True))
        return np.array([self._scores[pair] for pair in pairs])

    def all_scores(self) -> Float[np.ndarray, "n s"]:
        """Returns the scores of all states of every photo, computing the trees if there are none."""
        self._exhausted = True
        if self._trees is None:
            roots = [self._images[photo, 0] for photo in range(self.num_photos)]
            self._trees = [build_tree(self.simulator, image) for image in roots]
        return np.stack([tree.scores for tree in self._trees])

    def charge(self, seconds: float) -> None:
        """Adds time that a planner spent on something else, such as its policy, for all photos together."""
        self._other_seconds += seconds

    def tool_runs(self) -> Int[np.ndarray, "n k"]:
        """Returns how often the planner had to run each tool on each photo."""
        runs = np.zeros((self.num_photos, self.num_tools), int)
        if self._exhausted:
            return runs + (num_states(self.num_tools, self.horizon) - 1) // self.num_tools
        for photo, node in self._made:
            runs[photo, (node - 1) % self.num_tools] += 1
        return runs

    def scorings(self) -> Int[np.ndarray, " n"]:
        """Returns how often the planner had to score a state of each photo."""
        if self._exhausted:
            return np.full(self.num_photos, num_states(self.num_tools, self.horizon))
        return np.bincount([photo for photo, _ in self._scored], minlength=self.num_photos)

    def seconds(self) -> Float[np.ndarray, " n"]:
        """Returns the price of all that was asked for on each photo, from the measured time of each call."""
        calls = (
            self.tool_runs() @ self.simulator.tool_seconds + self.scorings() * self.simulator.score_seconds
        )
        return calls + self._other_seconds / self.num_photos

    def _note(self, pairs: list[tuple[int, int]]) -> None:
        """Writes down the tool runs that these states need: one for each, and for each state before it."""
        for photo, node in pairs:
            while node and (photo, node) not in self._made:
                self._made.add((photo, node))
                node = (node - 1) // self.num_tools

    def _make(self, pairs: list[tuple[int, int]]) -> None:
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self._images]
        if not missing:
            return
        parents = [(photo, (node - 1) // self.num_tools) for photo, node in missing]
        self._make(parents)
        actions = np.array([(node - 1) % self.num_tools for _, node in missing])
        made = self.simulator.step(np.stack([self._images[pair] for pair in parents]), actions)
        self._images.update(zip(missing, made, strict=True))


def sequences(nodes: Int[np.ndarray, " n"], num_tools: int, horizon: int) -> Int[np.ndarray, "n T"]:
    """Returns the tool sequence of each node, filled up with -1."""
    actions = np.full((len(nodes), horizon), -1)
    for row, node in enumerate(nodes.tolist()):
        sequence = actions_of(node, num_tools)
        actions[row, : len(sequence)] = sequence
    return actions


def _pairs(photos: np.ndarray, nodes: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(np.asarray(photos).tolist(), np.asarray(nodes).tolist(), strict=True))
