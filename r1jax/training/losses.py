"""PPO's losses on a batch of decisions, some of which do not count. This file alone imports rlax.

A decision's weight is 0 after its episode has ended, and for the whole episode where a score is missing. rlax's
losses are means over all entries: entries are weighted here and the mean is turned into one over the weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import rlax
from jaxtyping import Array, Bool, Float, Int

from r1jax.agent.policy import Params, Policy
from r1jax.config import PPOConfig
from r1jax.env.environment import rewards_from_scores
from r1jax.training.rollout import Trajectory

_LEAST_DEVIATION = 1e-2  # of advantages, in score units


class Batch(NamedTuple):
    """Decisions, n = T b of them, flattened from a trajectory."""

    features: Float[Array, "n f"]
    record: Int[Array, "n T"]
    step: Int[Array, " n"]
    action: Int[Array, " n"]
    log_prob: Float[Array, " n"]  # under the policy that acted
    value: Float[Array, " n"]  # predicted when it acted
    adv: Float[Array, " n"]
    target: Float[Array, " n"]  # of the value: the lambda-return
    weight: Float[Array, " n"]  # 1 counts, 0 does not


def scored_episodes(trajectory: Trajectory, scores: Float[Array, "T1 b"]) -> Bool[Array, " b"]:
    """Returns which episodes have every score that they need: of the initial image and after every tool call."""
    needed = jnp.concatenate([jnp.ones_like(trajectory.valid[:1]), trajectory.valid])
    return jnp.all(jnp.isfinite(scores) | ~needed, axis=0)


def make_batch(trajectory: Trajectory, scores: Float[Array, "T1 b"], config: PPOConfig, step_cost: float = 0.0) -> Batch:
    """Returns the weighted decisions of a trajectory with their generalised advantages (arXiv 1506.02438).

    The horizon is part of the task, and the policy sees how much of it is left: its end is terminal, without a
    value to bootstrap from. Rewards of missing scores are 0 before any arithmetic, see `rewards_from_scores`.
    """
    weight = (trajectory.live & scored_episodes(trajectory, scores)).astype(jnp.float32)
    r_t = rewards_from_scores(scores, trajectory.valid, step_cost)
    discount_t = config.gamma * trajectory.discount
    values = jnp.concatenate([trajectory.value, jnp.zeros_like(trajectory.value[:1])])
    gae = jax.vmap(rlax.truncated_generalized_advantage_estimation, in_axes=(1, 1, None, 1), out_axes=1)
    adv_t = gae(r_t, discount_t, config.gae_lambda, values)
    target_t = adv_t + trajectory.value
    if config.normalise_advantage:
        adv_t = _normalise(adv_t, weight)
    decisions = (*trajectory[:4], trajectory.log_prob, trajectory.value, adv_t, target_t, weight)
    return Batch(*(x.reshape(-1, *x.shape[2:]) for x in decisions))


def _normalise(x: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, "..."]:
    centred = x - weighted_mean(x, weight)
    # With a floor: once all episodes of a batch end alike, what still differs is the critic's error.
    return centred / jnp.maximum(jnp.sqrt(weighted_mean(jnp.square(centred), weight)), _LEAST_DEVIATION)


def weighted_mean(x: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, ""]:
    """Returns sum(x w) / sum(w), and 0 where no entry counts; a non-finite entry of weight 0 does no harm."""
    return jnp.sum(jnp.where(weight > 0, x, 0.0) * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def ppo_loss(
    params: Params, policy: Policy, batch: Batch, config: PPOConfig, entropy_coef: float | Array
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Clipped surrogate (arXiv 1707.06347) + value_coef * squared value error - entropy_coef * entropy.

    Returns:
      The loss and its parts with PPO's diagnostics, means over the weights.
    """
    logits_t, value_t = policy.apply(params, batch.features, batch.record, batch.step)
    log_prob_t = jnp.take_along_axis(jax.nn.log_softmax(logits_t), batch.action[:, None], axis=1)[:, 0]
    log_ratio_t = jnp.where(batch.weight > 0, log_prob_t - batch.log_prob, 0.0)
    ratio_t = jnp.exp(log_ratio_t)

    # rlax divides by the number of entries.
    per_weight = batch.weight.size / jnp.maximum(jnp.sum(batch.weight), 1.0)
    adv_t = jnp.where(batch.weight > 0, batch.adv, 0.0) * batch.weight
    policy_loss = rlax.clipped_surrogate_pg_loss(ratio_t, adv_t, config.clip) * per_weight
    value_loss = weighted_mean(rlax.l2_loss(value_t, batch.target), batch.weight)
    entropy = -rlax.entropy_loss(logits_t, batch.weight) * per_weight
    loss = policy_loss + config.value_coef * value_loss - entropy_coef * entropy
    return loss, {
        "loss": loss,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": weighted_mean(ratio_t - 1 - log_ratio_t, batch.weight),
        "clip_fraction": weighted_mean((jnp.abs(ratio_t - 1) > config.clip).astype(jnp.float32), batch.weight),
        "ratio_error": jnp.max(jnp.abs(ratio_t - 1)),
    }
