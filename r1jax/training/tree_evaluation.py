"""Evaluation on a tree of held-out photos: the likeliest actions, and simple planners, by look-ups in place of tools."""

from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Int

from r1jax.agent.agent import Agent, make_environment
from r1jax.config import Config
from r1jax.errors import UsageError
from r1jax.evaluation.statistics import group_mean, made_worse, paired_interval
from r1jax.training.rollout import make_rollout
from r1jax.training.tree import TrainingTree, reached

_DRAWS = 16  # of random tools, for each image


class TreeEvaluation:
    """Callable as the trainer's `evaluate`: agent -> mean gains over the unrestored input, all mixes alike."""

    def __init__(self, config: Config, tree: TrainingTree):
        """Raises UsageError where the tree does not belong to the config, or lacks states."""
        tree.check(config)
        if tree.meta.get("beam"):
            raise UsageError("an evaluation needs every state: build its tree without --beam")
        self._tree, self._env = tree, make_environment(config)
        env, policy, tables = tree.task(config, self._env)
        self._children = tables.children
        self._frozen = (tables, policy.encoder.params, tree.scores)
        self._rollout = jax.jit(make_rollout(env, policy, tree.scorer, "graph", greedy=True))
        self._reached = reached(self._children, tree.roots, env.horizon)
        self._best = tree.scores[self._reached].max(1) - tree.scores[tree.roots]

    def __call__(self, agent: Agent) -> dict[str, float]:
        """Returns gains, worse (share of images scored below the input), calls, and the share of the best possible gain."""
        return self._figures(*self._follow(agent))

    def with_interval(self, agent: Agent) -> dict[str, float]:
        """Returns the same figures, and the ends of the share's 90% bootstrap interval over photos."""
        tree, (final, calls) = self._tree, self._follow(agent)
        share = paired_interval(tree.scores[final], tree.scores[tree.roots], tree.mixes, tree.photos, self._best)
        return self._figures(final, calls) | {"share/low": share.low, "share/high": share.high}

    def _follow(self, agent: Agent) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]:
        """Returns the states that an agent ends in, and its calls."""
        roots = self._tree.roots
        trajectory = self._rollout(agent.params, *self._frozen, roots, np.arange(len(roots)), jax.random.key(0))
        return np.asarray(trajectory.image), np.asarray(trajectory.valid).sum(0)

    def planners(self, training: TrainingTree | None = None) -> Mapping[str, dict[str, float]]:
        """Returns the same figures for what needs no training, by the names that `r1jax evaluate` gives them.

        They are random tools, the order of tools that scores best on the images of `training`, greedy by score, and the
        oracle, which takes the best of all that can be reached.
        """
        num_images, num_tools = self._children[self._tree.roots].shape
        calls = np.repeat(np.arange(self._env.horizon + 1), num_tools ** np.arange(self._env.horizon + 1))
        rows = {"random": self._random()}
        if training is not None:
            children = training.children_by(self._env.toolbox.names)
            scores = training.scores[reached(children, training.roots, self._env.horizon)]
            order = int(np.argmax([group_mean(column, training.mixes) for column in scores.T]))
            rows["fixed order"] = self._figures(self._reached[:, order], np.full(num_images, calls[order]))
        rows["greedy"] = self._greedy()
        best = self._tree.scores[self._reached].argmax(1)  # the first of equals has the fewest calls
        return rows | {"oracle": self._figures(self._reached[np.arange(num_images), best], calls[best])}

    def _random(self) -> dict[str, float]:
        rng, count = np.random.default_rng(0), len(self._tree.roots)
        runs = []
        for _ in range(_DRAWS):
            state, calls, going = self._tree.roots, np.zeros(count, int), np.ones(count, bool)
            for _ in range(self._env.horizon):
                action = rng.integers(self._env.num_actions, size=count)
                going &= action < self._children.shape[1]
                state = np.where(going, self._children[state, np.where(going, action, 0)], state)
                calls += going
            runs.append(self._figures(state, calls))
        return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}

    def _greedy(self) -> dict[str, float]:
        state, calls, scores = self._tree.roots, np.zeros(len(self._tree.roots), int), self._tree.scores
        for _ in range(self._env.horizon):
            made = self._children[state]
            best = made[np.arange(len(made)), scores[made].argmax(1)]
            better = scores[best] > scores[state]  # where none is better, none will be
            state, calls = np.where(better, best, state), calls + better
        return self._figures(state, calls)

    def _figures(self, final: Int[np.ndarray, " r"], calls: Int[np.ndarray, " r"]) -> dict[str, float]:
        tree = self._tree
        gain = tree.scores[final] - tree.scores[tree.roots]
        values = {"score_gain": gain, "worse": made_worse(gain), "calls": calls}
        for name, metric in tree.metrics.items():
            values[f"{name}_gain"] = metric[final] - metric[tree.roots]
        means = {name: group_mean(np.asarray(value, float), tree.mixes) for name, value in values.items()}
        return means | {"share": group_mean(gain, tree.mixes, self._best)}
