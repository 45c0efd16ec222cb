"""Advantages and losses on a batch of decisions, some of which do not count. This file alone imports rlax.

A decision's weight is 0 after its episode has ended, and for the whole episode where a score is missing. rlax's
losses are means over all entries: entries are weighted here and the mean is turned into one over the weights.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import rlax
from jaxtyping import Array, Bool, Float, Int

from r1jax.agent.policy import Evaluate
from r1jax.config import EnvConfig, PPOConfig
from r1jax.env.environment import guarded_scores, rewards_from_scores
from r1jax.training.rollout import Trajectory

WITH_CRITIC = ("ppo", "vtrace")
_LEAST_DEVIATION = 1e-2  # of advantages, in score units


class Batch(NamedTuple):
    """Decisions, n = T b of them, flattened from a trajectory."""

    seen: Array  # [n, ...]
    record: Int[Array, "n T"]
    step: Int[Array, " n"]
    action: Int[Array, " n"]
    log_prob: Float[Array, " n"]  # what ratios refer to: of the policy that acted; vtrace: of the one before the update
    value: Float[Array, " n"]  # predicted by that policy
    logits: Float[Array, "n a"]  # of the policy that acted
    adv: Float[Array, " n"]
    target: Float[Array, " n"]  # of the value: the lambda-return
    weight: Float[Array, " n"]  # 1 counts, 0 does not


def scored_episodes(trajectory: Trajectory, scores: Float[Array, "T1 b"]) -> Bool[Array, " b"]:
    """Returns which episodes have every score that they need: of the initial image and after every tool call."""
    needed = jnp.concatenate([jnp.ones_like(trajectory.valid[:1]), trajectory.valid])
    return jnp.all(jnp.isfinite(scores) | ~needed, axis=0)


def make_batch(
    trajectory: Trajectory,
    scores: Float[Array, "T1 b"],
    config: PPOConfig,
    env: EnvConfig,
    current: tuple[Float[Array, "T b a"], Float[Array, "T b"]] | None = None,
) -> Batch:
    """Returns the weighted decisions of a trajectory with their advantages by `config.algorithm`.

    The horizon is part of the task, and the policy sees how much of it is left: its end is terminal, without a
    value to bootstrap from. Rewards of missing scores are 0 before any arithmetic, see `rewards_from_scores`.

    Args:
      env: its step cost and guard are part of the reward.
      current: logits and values of the policy that is to be trained, where another one acted (vtrace).
    """
    weight = (trajectory.live & scored_episodes(trajectory, scores)).astype(jnp.float32)
    guarded = guarded_scores(scores, trajectory.kept, env.guard_weight, env.guard_band)
    r_t = rewards_from_scores(guarded, trajectory.valid, env.step_cost)
    log_prob, value = trajectory.log_prob, trajectory.value
    if config.algorithm == "vtrace":
        assert current is not None
        log_prob, value = _log_prob(current[0], trajectory.action), current[1]
        adv_t, target_t = _vtrace(trajectory, r_t, log_prob - trajectory.log_prob, value, weight, config)
    elif config.algorithm in ("ppo", "distill"):
        adv_t = _gae(trajectory, r_t, config)
        target_t = adv_t + value
    else:
        adv_t = _against_group(r_t, weight, config)
        target_t = jnp.zeros_like(adv_t)
    if config.normalise_advantage and config.algorithm != "grpo":  # GRPO's are normalised within their group
        adv_t = _normalise(adv_t, weight)
    decisions = (*trajectory[:4], log_prob, value, trajectory.logits, adv_t, target_t, weight)
    return Batch(*(x.reshape(-1, *x.shape[2:]) for x in decisions))


def _gae(trajectory: Trajectory, r_t: Float[Array, "T b"], config: PPOConfig) -> Float[Array, "T b"]:
    """Returns generalised advantages (arXiv 1506.02438)."""
    values = jnp.concatenate([trajectory.value, jnp.zeros_like(trajectory.value[:1])])
    gae = jax.vmap(rlax.truncated_generalized_advantage_estimation, in_axes=(1, 1, None, 1), out_axes=1)
    return gae(r_t, config.gamma * trajectory.discount, config.gae_lambda, values)


def _vtrace(
    trajectory: Trajectory,
    r_t: Float[Array, "T b"],
    log_rho: Float[Array, "T b"],
    value: Float[Array, "T b"],
    weight: Float[Array, "T b"],
    config: PPOConfig,
) -> tuple[Float[Array, "T b"], Float[Array, "T b"]]:
    """Returns advantages and value targets corrected for a policy that lagged behind (IMPALA, arXiv 1802.01561).

    What follows an episode's end has ratio 1: its discount is 0, and it must not be infinite times 0.
    """
    rho = jnp.exp(jnp.where(weight > 0, log_rho, 0.0))
    following = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    vtrace = jax.vmap(rlax.vtrace_td_error_and_advantage, in_axes=(1, 1, 1, 1, 1, None), out_axes=1)
    result = vtrace(value, following, r_t, config.gamma * trajectory.discount, rho, config.gae_lambda)
    return result.pg_advantage, value + result.errors


def _against_group(r_t: Float[Array, "T b"], weight: Float[Array, "T b"], config: PPOConfig) -> Float[Array, "T b"]:
    """Returns each episode's return against those of the same image, the same for all its decisions.

    GRPO (arXiv 2402.03300): minus the group's mean, over its deviation. REINFORCE with the leave-one-out baseline
    (arXiv 2402.14740): minus the mean of the others. Episodes without a score take no part; where none is left to
    compare with, the advantage is 0.
    """
    discount_t = config.gamma ** jnp.arange(r_t.shape[0], dtype=jnp.float32)
    grouped = "(g e) -> g e"
    returns = einops.rearrange(discount_t @ r_t, grouped, e=config.group_size)
    counts = einops.rearrange(weight[0], grouped, e=config.group_size)
    number = jnp.sum(counts, axis=1, keepdims=True)
    mean = jnp.sum(returns * counts, axis=1, keepdims=True) / jnp.maximum(number, 1.0)
    centred = (returns - mean) * counts
    if config.algorithm == "reinforce":  # R - mean of the others
        adv = centred * number / jnp.maximum(number - 1, 1.0)
    elif config.normalise_advantage:
        deviation = jnp.sqrt(jnp.sum(jnp.square(centred), axis=1, keepdims=True) / jnp.maximum(number, 1.0))
        adv = centred / jnp.maximum(deviation, _LEAST_DEVIATION)
    else:
        adv = centred
    return jnp.broadcast_to(einops.rearrange(adv, "g e -> (g e)"), r_t.shape)


def _normalise(x: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, "..."]:
    centred = x - weighted_mean(x, weight)
    # With a floor: once all episodes of a batch end alike, what still differs is the critic's error.
    return centred / jnp.maximum(jnp.sqrt(weighted_mean(jnp.square(centred), weight)), _LEAST_DEVIATION)


def weighted_mean(x: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, ""]:
    """Returns sum(x w) / sum(w), and 0 where no entry counts; a non-finite entry of weight 0 does no harm."""
    return jnp.sum(jnp.where(weight > 0, x, 0.0) * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def policy_loss(
    evaluate: Evaluate, batch: Batch, config: PPOConfig, entropy_coef: float | Array
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Policy loss + value_coef * squared value error - entropy_coef * entropy + kl_coef * KL(behaviour, policy).

    The policy loss is PPO's clipped surrogate (arXiv 1707.06347), of REINFORCE the plain score function. The two
    algorithms that compare within a group have no critic, and so no value error.

    Args:
      evaluate: the policy with the parameters that are trained.

    Returns:
      The loss and its parts with diagnostics, means over the weights.
    """
    logits_t, value_t = evaluate(batch.seen, batch.record, batch.step)
    log_ratio_t = jnp.where(batch.weight > 0, _log_prob(logits_t, batch.action) - batch.log_prob, 0.0)
    ratio_t = jnp.exp(log_ratio_t)

    # rlax divides by the number of entries.
    per_weight = batch.weight.size / jnp.maximum(jnp.sum(batch.weight), 1.0)
    adv_t = jnp.where(batch.weight > 0, batch.adv, 0.0) * batch.weight
    if config.algorithm == "reinforce":
        surrogate = rlax.policy_gradient_loss(logits_t, batch.action, adv_t, batch.weight) * per_weight
    else:
        surrogate = rlax.clipped_surrogate_pg_loss(ratio_t, adv_t, config.clip) * per_weight
    value_loss = weighted_mean(rlax.l2_loss(value_t, batch.target), batch.weight)
    entropy = -rlax.entropy_loss(logits_t, batch.weight) * per_weight
    kl = weighted_mean(_kl(batch.logits, logits_t), batch.weight)
    value_coef = config.value_coef if config.algorithm in WITH_CRITIC else 0.0
    loss = surrogate + value_coef * value_loss - entropy_coef * entropy + config.kl_coef * kl
    return loss, {
        "loss": loss,
        "policy_loss": surrogate,
        "value_loss": value_loss,
        "entropy": entropy,
        "kl": kl,
        "approx_kl": weighted_mean(ratio_t - 1 - log_ratio_t, batch.weight),
        "clip_fraction": weighted_mean((jnp.abs(ratio_t - 1) > config.clip).astype(jnp.float32), batch.weight),
        "ratio_error": jnp.max(jnp.abs(ratio_t - 1)),
    }


def distillation_loss(
    logits: Float[Array, "n a"], value: Float[Array, " n"], action_value: Float[Array, "n a"], config: PPOConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """KL(softmax(action value / temperature), policy) + value_coef * squared value error.

    Args:
      action_value: the return of an action if the best ones follow.

    Returns:
      The loss and its parts, means over the decisions.
    """
    policy_loss = jnp.mean(_kl(action_value / config.temperature, logits))
    value_loss = jnp.mean(rlax.l2_loss(value, jnp.max(action_value, axis=-1)))
    loss = policy_loss + config.value_coef * value_loss
    entropy = -rlax.entropy_loss(logits, jnp.ones_like(value))
    return loss, {"loss": loss, "policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}


def _log_prob(logits: Float[Array, "*n a"], action: Int[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]


def _kl(reference: Float[Array, "n a"], logits: Float[Array, "n a"]) -> Float[Array, " n"]:
    """Returns KL(reference, policy) of each decision, both given as logits."""
    wanted = jax.nn.log_softmax(reference)
    return jnp.sum(jnp.exp(wanted) * (wanted - jax.nn.log_softmax(logits)), axis=-1)
