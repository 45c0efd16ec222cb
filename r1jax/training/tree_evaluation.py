"""Evaluation on a tree of held-out photos: the likeliest actions, and simple planners, by look-ups in place of tools."""

import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from r1jax.agent.agent import Agent, make_environment
from r1jax.config import Config
from r1jax.env.environment import Environment
from r1jax.errors import UsageError
from r1jax.evaluation.planners import Greedy, Oracle, grow_fixed_order
from r1jax.evaluation.simulator import NO_CALL
from r1jax.evaluation.statistics import group_mean, made_worse, paired_interval
from r1jax.evaluation.world import sequences
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
        oracle. A tree with a beam cannot tell the best order: what one makes of the states that were left out is not known.

        Raises:
          UsageError: `training` has fewer tools or calls.
        """
        rows = {"random": self._random()}
        if training is not None and not training.meta.get("beam"):
            self._check_order(training)
            children = training.children_by(self._env.toolbox.names)
            order = grow_fixed_order([_world(training, reached(children, training.roots, self._env.horizon), self._env)])
            rows["fixed order"] = self._ending_in(np.full(len(self._tree.roots), order))
        world = _world(self._tree, self._reached, self._env)
        return rows | {planner.name: self._ending_in(planner.plan(world)) for planner in (Greedy(), Oracle())}

    def _ending_in(self, nodes: Int[np.ndarray, " r"]) -> dict[str, float]:
        """Returns the figures of ending in these states, by their places in the heap's order."""
        calls = (sequences(nodes, len(self._env.toolbox), self._env.horizon) != NO_CALL).sum(1)
        return self._figures(self._reached[np.arange(len(nodes)), nodes], calls)

    def _check_order(self, training: TrainingTree) -> None:
        tools, horizon = list(training.meta["tools"]), training.meta["horizon"]
        if horizon < self._env.horizon:
            raise UsageError(f"the fixed order wants {self._env.horizon} calls; the tree has {horizon}")
        if lacking := [name for name in self._env.toolbox.names if name not in tools]:
            raise UsageError(f"the fixed order wants the tool {lacking[0]}; the tree has {', '.join(tools)}")

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

    def _figures(self, final: Int[np.ndarray, " r"], calls: Int[np.ndarray, " r"]) -> dict[str, float]:
        tree = self._tree
        gain = tree.scores[final] - tree.scores[tree.roots]
        values = {"score_gain": gain, "worse": made_worse(gain), "calls": calls}
        for name, metric in tree.metrics.items():
            values[f"{name}_gain"] = metric[final] - metric[tree.roots]
        means = {name: group_mean(np.asarray(value, float), tree.mixes) for name, value in values.items()}
        return means | {"share": group_mean(gain, tree.mixes, self._best)}


def _world(tree: TrainingTree, states: Int[np.ndarray, "r s"], env: Environment) -> Any:
    """Returns what those planners ask of a `World` that look at scores alone, by look-ups."""
    scores = tree.scores[states]
    return types.SimpleNamespace(
        num_photos=len(scores),
        num_tools=len(env.toolbox),
        horizon=env.horizon,
        scores=lambda photos, nodes: scores[photos, nodes],
        all_scores=lambda: scores,
    )
