"""One update: the trajectory becomes a batch, and epochs of minibatches train on it in one program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from r1jax.agent.policy import Evaluate, Params, Policy
from r1jax.config import Config, PPOConfig
from r1jax.env.environment import guarded_scores, rewards_from_scores
from r1jax.errors import UsageError
from r1jax.training.losses import Batch, distillation_loss, make_batch, policy_loss, scored_episodes, weighted_mean
from r1jax.training.rollout import Trajectory
from r1jax.training.tree import Points, TreePolicy, action_values

_BLOCK = 8192  # decisions that a critic looks at at once

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """What training changes; with the config, all that a resume needs."""

    params: Params
    opt_state: optax.OptState
    behaviour: Params | None = None  # the policy that acts, where it lags behind; None: `params` act


def acting_params(state: TrainState) -> Params:
    """Returns the parameters of the policy that acts."""
    return state.params if state.behaviour is None else state.behaviour


def optimiser(config: PPOConfig) -> optax.GradientTransformation:
    """Adam behind a clip of the global gradient norm."""
    adam = optax.adam(learning_rate(config), eps=1e-5)
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)


def learning_rate(config: PPOConfig) -> optax.Schedule:
    """Returns the learning rate as a function of the gradient steps done."""
    an_update = config.epochs * config.minibatches
    warmup, rest = config.warmup * an_update, max(config.updates - config.warmup, 1) * an_update
    after = {
        "constant": optax.constant_schedule(config.learning_rate),
        "linear": optax.linear_schedule(config.learning_rate, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, rest),
    }[config.learning_rate_schedule]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup), after], [warmup])


def check_algorithm(config: PPOConfig) -> None:
    """Raises UsageError where fields do not fit the algorithm."""
    name, group = config.algorithm, config.group_size
    if group < 1 or config.episodes % group:
        raise UsageError(f"ppo.group_size={group} does not divide ppo.episodes={config.episodes}")
    if name in ("grpo", "reinforce") and group < 2:
        raise UsageError(f"ppo.algorithm={name} compares the episodes of an image: ppo.group_size must be 2 or more")
    if name == "reinforce" and config.epochs != 1:
        raise UsageError(f"ppo.algorithm=reinforce learns from a decision once: ppo.epochs must be 1, not {config.epochs}")
    if config.lag and name != "vtrace":
        raise UsageError(f"ppo.lag={config.lag}: only ppo.algorithm=vtrace corrects for a policy that lags behind")


def make_update(
    policy: Policy, config: Config
) -> Callable[[TrainState, Any, Trajectory, Array, PRNGKeyArray, Any], tuple[TrainState, Metrics]]:
    """Returns the pure `update(state, encoder_params, trajectory, scores, key, entropy_coef) -> (state, metrics)`.

    Metrics are scalars, but for `actions` [a]. The `ratio_error` is how far the first minibatch's probability
    ratios are from 1: before a gradient step the trained policy is the one that acted.

    Raises:
      UsageError: the decisions of an update do not divide into ppo.minibatches, or a tree is missing.
    """
    ppo, tx, decisions = config.ppo, optimiser(config.ppo), config.ppo.episodes * config.env.horizon
    check_algorithm(ppo)
    distil = ppo.algorithm == "distill"
    pupil = policy if distil and isinstance(policy, TreePolicy) else None
    if distil and pupil is None:
        raise UsageError("ppo.algorithm=distill learns from a transition tree: give one by --tree")
    if not distil and decisions % ppo.minibatches:
        raise UsageError(f"ppo.minibatches={ppo.minibatches} does not divide {decisions} (ppo.episodes * env.horizon)")

    def update(
        state: TrainState,
        encoder_params: Any,
        trajectory: Trajectory,
        scores: Float[Array, "T1 b"],
        key: PRNGKeyArray,
        entropy_coef: Float[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        current = None
        if ppo.algorithm == "vtrace":
            current = _evaluate(policy.bind(state.params, encoder_params, decisions), trajectory)
        batch = make_batch(trajectory, scores, ppo, config.env, current)
        # Distillation goes through all decisions of a tree; the trajectory then only shows what the policy does.
        pool = encoder_params.known if distil else jnp.arange(decisions)
        count = len(pool) // ppo.minibatches * ppo.minibatches
        if not count:
            raise UsageError(f"ppo.minibatches={ppo.minibatches}: the tree has only {len(pool)} decisions to learn from")
        orders = [jax.random.permutation(k, pool)[:count] for k in jax.random.split(key, ppo.epochs)]
        rows = jnp.stack(orders).reshape(ppo.epochs * ppo.minibatches, -1)
        worth = _worth(pupil, state.params, encoder_params, config) if pupil else None

        def loss(params: Params, rows: Array) -> tuple[Array, Metrics]:
            if pupil and worth is not None:
                return _lesson(pupil, params, encoder_params, worth, rows, ppo)
            evaluate = policy.bind(params, encoder_params, rows.size)
            return policy_loss(evaluate, jax.tree.map(lambda x: x[rows], batch), ppo, entropy_coef)

        state, history = jax.lax.scan(lambda state, rows: _descend(tx, state, lambda p: loss(p, rows)), state, rows)
        metrics = {name: jnp.mean(values) for name, values in history.items()}
        metrics["ratio_error"] = history["ratio_error"][0]
        return state, metrics | diagnostics(trajectory, scores, batch, config)

    return update


def _worth(policy: TreePolicy, params: Params, points: Points, config: Config) -> Float[Array, "r_p a"]:
    """Returns what each action of each of a tree's decisions is worth; what the tree does not know, by the critic."""

    def look(row: Int[Array, ""]) -> Float[Array, ""]:
        return policy.at(params, points, row[None])[1][0]

    value = jax.lax.map(look, points.ends, batch_size=_BLOCK)
    return action_values(points, value, int(config.env.stop), config.ppo.gamma)


def _lesson(
    policy: TreePolicy, params: Params, points: Points, worth: Float[Array, "r_p a"], rows: Array, config: PPOConfig
) -> tuple[Array, Metrics]:
    """Returns the loss of distillation on some of a tree's decisions, and metrics."""
    logits, value = policy.at(params, points, rows)
    loss, metrics = distillation_loss(logits, value, worth[rows], config)
    return loss, metrics | {"ratio_error": jnp.zeros(())}


def _descend(
    tx: optax.GradientTransformation, state: TrainState, loss: Callable[[Params], tuple[Array, Metrics]]
) -> tuple[TrainState, Metrics]:
    """Takes one gradient step."""
    grad, metrics = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(grad, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, opt_state=opt_state), {**metrics, "grad_norm": optax.tree.norm(grad)}


def _evaluate(evaluate: Evaluate, trajectory: Trajectory) -> tuple[Array, Array]:
    """Returns the logits [T, b, a] and values [T, b] of a policy at every decision."""
    logits, value = evaluate(*(x.reshape(-1, *x.shape[2:]) for x in trajectory[:3]))
    return logits.reshape(trajectory.logits.shape), value.reshape(trajectory.value.shape)


def diagnostics(trajectory: Trajectory, scores: Float[Array, "T1 b"], batch: Batch, config: Config) -> Metrics:
    """Returns what shows a policy's collapse: which actions it takes, how early it stops, what it gains."""
    scored = scored_episodes(trajectory, scores).astype(jnp.float32)
    gain = jnp.sum(rewards_from_scores(scores, trajectory.valid), axis=0)
    guarded = guarded_scores(scores, trajectory.kept, config.env.guard_weight, config.env.guard_band)
    reward = jnp.sum(rewards_from_scores(guarded, trajectory.valid, config.env.step_cost), axis=0)
    live = trajectory.live[..., None]
    taken = jax.nn.one_hot(trajectory.action, trajectory.logits.shape[-1]) * live
    calls = jnp.sum(trajectory.valid, axis=0)
    first = weighted_mean(scores[0], scored)
    return {
        "actions": jnp.sum(taken, axis=(0, 1)) / jnp.sum(live),
        "decisions": jnp.sum(trajectory.live),
        "stop_at_0": jnp.mean(calls == 0),
        "mean_calls": jnp.mean(calls),
        "score_first": first,
        "score_last": first + weighted_mean(gain, scored),
        "score_gain": weighted_mean(gain, scored),
        "return": weighted_mean(reward, scored),
        "structure_kept": weighted_mean(trajectory.kept[-1], scored),
        "explained_variance": _explained_variance(batch),
        # Exactly 0 and 1 at its ends, which the loop compares it with: 1 - n * (1 / n) need not be 0.
        "missing_share": jnp.where(jnp.any(scored), jnp.mean(1 - scored), 1.0),
    }


def _explained_variance(batch: Batch) -> Float[Array, ""]:
    """Returns 1 - Var(target - value) / Var(target); 0 where the targets do not vary."""

    def variance(x: Array) -> Array:
        return weighted_mean(jnp.square(x - weighted_mean(x, batch.weight)), batch.weight)

    total = variance(batch.target)
    return jnp.where(total > 1e-12, 1 - variance(batch.target - batch.value) / jnp.maximum(total, 1e-12), 0.0)
