"""How a trained policy is turned into a plan for one photo: the likeliest actions, the best of samples, or a beam."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from r1jax.errors import UsageError

_CRITERIA = ("score", "value", "likelihood")


@dataclasses.dataclass(frozen=True)
class Node:
    """A photo on its way.

    Attributes:
      image: float [h, w, 3].
      plan: the tools called, by number.
      scores: `Problem.score` of the input and after each tool; without a scorer that is 0, and nothing looks at it.
      log_likelihood: of the plan under the policy, its STOP included.
    """

    image: Float[np.ndarray, "h w 3"]
    plan: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    log_likelihood: float = 0.0


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a search may ask for.

    Attributes:
      horizon: most calls.
      num_tools: an action from here on is STOP.
      look: node -> (log probabilities of the actions, the critic's value).
      call: (tool, image) -> image.
      score: image -> quality; 0 where there is no scorer.
    """

    horizon: int
    num_tools: int
    look: Callable[[Node], tuple[np.ndarray, float]]
    call: Callable[[int, Any], Any]
    score: Callable[[Any], float]


@dataclasses.dataclass(frozen=True)
class Search:
    """A way to plan; `Search.parse` reads it from a text.

    Attributes:
      kind: "argmax" (the paper: likeliest action at each step, one pass), "sample" or "beam".
      width: samples drawn, or plans kept after each step, each of which tries its `width` likeliest actions.
      by: what the best is chosen by: "score" of the scorer, "value" (score and what the critic still expects), or
        "likelihood", which needs no scorer.
      seed: of the samples.
    """

    kind: str = "argmax"
    width: int = 1
    by: str = "score"
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> "Search":
        """Reads "argmax", "sample:8", "beam:3" or "beam:3:value".

        Raises:
          UsageError: it is none of these.
        """
        kind, *rest = text.split(":")
        width, by = (rest + ["score"] * 2)[:2] if rest else ("1", "score")
        good = kind in ("argmax", "sample", "beam") and width.isdecimal() and int(width) > 0 and by in _CRITERIA
        if not good or len(rest) > 2 or (kind == "argmax") == bool(rest):
            raise UsageError(f"--search {text}: want argmax, sample:N or beam:N, the last two with :{', :'.join(_CRITERIA)}")
        return cls(kind, int(width), by)

    def plan(self, problem: Problem, root: Node) -> Node:
        """Returns the photo after the plan that this search finds."""
        if self.kind == "argmax":
            return _follow(problem, root, lambda log_probs: int(np.argmax(log_probs)))
        if self.kind == "sample":
            rng, known = np.random.default_rng(self.seed), {root.plan: root}
            draw = lambda log_probs: int(rng.choice(len(log_probs), p=_probabilities(log_probs)))  # noqa: E731
            return self._best([_follow(problem, root, draw, known) for _ in range(self.width)])
        return self._beam(problem, root)

    def _beam(self, problem: Problem, root: Node) -> Node:
        frontier, finished = [root], []
        for _ in range(problem.horizon):
            children = []
            for node in frontier:
                log_probs, _ = problem.look(node)
                for action in np.argsort(-log_probs)[: self.width].tolist():
                    likelihood = node.log_likelihood + float(log_probs[action])
                    if action >= problem.num_tools:
                        finished.append(dataclasses.replace(node, log_likelihood=likelihood))
                    else:
                        children.append(_child(problem, node, action, likelihood))
            frontier = sorted(children, key=lambda node: -self._criterion(problem, node))[: self.width]
        return self._best(finished + frontier)

    def _best(self, nodes: list[Node]) -> Node:
        # Finished plans expect nothing more: by score, and among equals the shortest.
        by = (lambda node: node.log_likelihood) if self.by == "likelihood" else (lambda node: node.scores[-1])
        return max(nodes, key=lambda node: (by(node), -len(node.plan)))

    def _criterion(self, problem: Problem, node: Node) -> float:
        if self.by == "likelihood":
            return node.log_likelihood
        expected = problem.look(node)[1] if self.by == "value" and len(node.plan) < problem.horizon else 0.0
        return node.scores[-1] + expected


def _follow(
    problem: Problem, root: Node, choose: Callable[[np.ndarray], int], known: dict[tuple[int, ...], Node] | None = None
) -> Node:
    """Takes chosen actions until STOP or the horizon; what another sample has made already is not made again."""
    node, known = root, {} if known is None else known
    while len(node.plan) < problem.horizon:
        log_probs, _ = problem.look(node)
        action = choose(log_probs)
        likelihood = node.log_likelihood + float(log_probs[action])
        if action >= problem.num_tools:
            return dataclasses.replace(node, log_likelihood=likelihood)
        plan = (*node.plan, action)
        if plan not in known:
            known[plan] = _child(problem, node, action, likelihood)
        node = known[plan]
    return node


def _child(problem: Problem, node: Node, action: int, log_likelihood: float) -> Node:
    image = problem.call(action, node.image)
    return Node(image, (*node.plan, action), (*node.scores, problem.score(image)), log_likelihood)


def _probabilities(log_probs: np.ndarray) -> np.ndarray:
    probabilities = np.exp(log_probs.astype(np.float64))
    return probabilities / probabilities.sum()
