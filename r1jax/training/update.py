"""One PPO update: the trajectory becomes a batch, and epochs of minibatches train on it in one program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from r1jax.agent.policy import Params, Policy
from r1jax.config import Config, PPOConfig
from r1jax.env.environment import rewards_from_scores
from r1jax.errors import UsageError
from r1jax.training.losses import Batch, make_batch, ppo_loss, scored_episodes, weighted_mean
from r1jax.training.rollout import Trajectory

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """What training changes; with the config, all that a resume needs."""

    params: Params
    opt_state: optax.OptState


def optimiser(config: PPOConfig) -> optax.GradientTransformation:
    """Adam behind a clip of the global gradient norm."""
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate, eps=1e-5))


def make_update(
    policy: Policy, config: Config
) -> Callable[[TrainState, Trajectory, Array, PRNGKeyArray, Any], tuple[TrainState, Metrics]]:
    """Returns the pure `update(state, trajectory, scores, key, entropy_coef) -> (state, metrics)`.

    Metrics are scalars, but for `actions` [a]. The `ratio_error` is how far the first minibatch's probability
    ratios are from 1: before a gradient step the trained policy is the one that acted.

    Raises:
      UsageError: the decisions of an update do not divide into ppo.minibatches.
    """
    ppo = config.ppo
    decisions = ppo.episodes * config.env.horizon
    if decisions % ppo.minibatches:
        raise UsageError(f"ppo.minibatches={ppo.minibatches} does not divide {decisions} (ppo.episodes * env.horizon)")
    tx = optimiser(ppo)

    def update(
        state: TrainState,
        trajectory: Trajectory,
        scores: Float[Array, "T1 b"],
        key: PRNGKeyArray,
        entropy_coef: Float[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        batch = make_batch(trajectory, scores, ppo, config.env.step_cost)

        def train_minibatch(state: TrainState, rows: Array) -> tuple[TrainState, Metrics]:
            minibatch = jax.tree.map(lambda x: x[rows], batch)
            grad, metrics = jax.grad(ppo_loss, has_aux=True)(state.params, policy, minibatch, ppo, entropy_coef)
            updates, opt_state = tx.update(grad, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(params, opt_state), {**metrics, "grad_norm": optax.tree.norm(grad)}

        orders = jax.vmap(lambda k: jax.random.permutation(k, decisions))(jax.random.split(key, ppo.epochs))
        rows = orders.reshape(ppo.epochs * ppo.minibatches, -1)
        state, history = jax.lax.scan(train_minibatch, state, rows)
        metrics = {name: jnp.mean(values) for name, values in history.items()}
        metrics["ratio_error"] = history["ratio_error"][0]
        return state, metrics | diagnostics(trajectory, scores, batch, config)

    return update


def diagnostics(trajectory: Trajectory, scores: Float[Array, "T1 b"], batch: Batch, config: Config) -> Metrics:
    """Returns what shows a policy's collapse: which actions it takes, how early it stops, what it gains."""
    scored = scored_episodes(trajectory, scores).astype(jnp.float32)
    gain = jnp.sum(rewards_from_scores(scores, trajectory.valid), axis=0)
    reward = jnp.sum(rewards_from_scores(scores, trajectory.valid, config.env.step_cost), axis=0)
    live = trajectory.live[..., None]
    taken = jax.nn.one_hot(trajectory.action, trajectory.logits.shape[-1]) * live
    calls = jnp.sum(trajectory.valid, axis=0)
    first = weighted_mean(scores[0], scored)
    return {
        "actions": jnp.sum(taken, axis=(0, 1)) / jnp.sum(live),
        "stop_at_0": jnp.mean(calls == 0),
        "mean_calls": jnp.mean(calls),
        "score_first": first,
        "score_last": first + weighted_mean(gain, scored),
        "score_gain": weighted_mean(gain, scored),
        "return": weighted_mean(reward, scored),
        "explained_variance": _explained_variance(batch),
        "missing_share": 1 - jnp.mean(scored),
    }


def _explained_variance(batch: Batch) -> Float[Array, ""]:
    """Returns 1 - Var(target - value) / Var(target); 0 where the targets do not vary."""

    def variance(x: Array) -> Array:
        return weighted_mean(jnp.square(x - weighted_mean(x, batch.weight)), batch.weight)

    total = variance(batch.target)
    return jnp.where(total > 1e-12, 1 - variance(batch.target - batch.value) / jnp.maximum(total, 1e-12), 0.0)
