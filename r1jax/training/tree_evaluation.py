"""Evaluation on a tree of held-out photos: the likeliest actions, by look-ups, in place of tools."""

import jax
import numpy as np
from jaxtyping import Float, Int

from r1jax.agent.agent import Agent, make_environment
from r1jax.config import Config
from r1jax.evaluation.statistics import group_mean, made_worse
from r1jax.training.rollout import make_rollout
from r1jax.training.tree import TrainingTree


class TreeEvaluation:
    """Callable as the trainer's `evaluate`: agent -> mean gains over the unrestored input, all mixes alike."""

    def __init__(self, config: Config, tree: TrainingTree):
        """Raises UsageError where the tree does not belong to the config."""
        tree.check(config)
        self._tree = tree
        env, policy, tables = tree.task(config, make_environment(config))
        self._frozen = (tables, policy.encoder.params, tree.scores)
        self._rollout = jax.jit(make_rollout(env, policy, tree.scorer, "graph", greedy=True))
        self._best = best_reachable(tables[0], tree.scores, env.horizon)[tree.roots] - tree.scores[tree.roots]

    def __call__(self, agent: Agent) -> dict[str, float]:
        """Returns gains, worse (share of images scored below the input), calls, and the share of the best possible gain."""
        tree = self._tree
        trajectory = self._rollout(agent.params, *self._frozen, tree.roots, np.arange(len(tree.roots)), jax.random.key(0))
        final = np.asarray(trajectory.image)
        gain = tree.scores[final] - tree.scores[tree.roots]
        values = {"score_gain": gain, "worse": made_worse(gain), "calls": np.asarray(trajectory.valid).sum(0)}
        for name, metric in tree.metrics.items():
            values[f"{name}_gain"] = metric[final] - metric[tree.roots]
        means = {name: group_mean(np.asarray(value, float), tree.mixes) for name, value in values.items()}
        return means | {"share": group_mean(gain, tree.mixes, self._best)}


def best_reachable(
    children: Int[np.ndarray, "u k"], scores: Float[np.ndarray, " u"], horizon: int
) -> Float[np.ndarray, " u"]:
    """Returns the best score that up to `horizon` calls reach from each state, which itself is one of those reached."""
    best = scores
    for _ in range(horizon):
        best = np.maximum(scores, best[children].max(1))
    return best
