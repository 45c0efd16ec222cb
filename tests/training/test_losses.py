"""Weights, advantages and gradients of the losses."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.agent.encoder import Encoder
from r1jax.agent.policy import Policy
from r1jax.config import AgentConfig, Config, EnvConfig, PPOConfig
from r1jax.errors import UsageError
from r1jax.training.losses import make_batch, policy_loss, scored_episodes
from r1jax.training.rollout import Trajectory
from r1jax.training.update import check_algorithm, diagnostics, learning_rate

T, B, F, A = 3, 4, 5, 3  # two tools and STOP
STOP = 2
CONFIG = PPOConfig(gamma=0.9, gae_lambda=0.8)
FREE, COST = EnvConfig(), EnvConfig(step_cost=0.1)
BATCH = jax.jit(make_batch, static_argnames=("config", "env"))
ENV = types.SimpleNamespace(num_actions=A, stop_action=STOP, horizon=T)
POLICY = Policy(Encoder("none", lambda params, x: x, (), F), ENV, AgentConfig(hidden=(6,)))
PARAMS = POLICY.init(jax.random.key(3))


def make_trajectory() -> tuple[Trajectory, np.ndarray]:
    """Episode 0 stops at once, 1 after a call, 2 and 3 never; acted by a policy slightly unlike PARAMS."""
    rng = np.random.default_rng(0)
    action = np.array([[STOP, 0, 1, 0], [0, STOP, 0, 1], [1, 1, 1, 0]])
    live = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]], bool)
    valid = live & (action != STOP)
    ended = (~live | (action == STOP)) | (np.arange(T) == T - 1)[:, None]
    record = rng.integers(-1, 2, (T, B, T))
    logits = rng.normal(size=(T, B, A)).astype(np.float32)
    log_prob = np.log(rng.uniform(0.25, 0.45, (T, B))).astype(np.float32)
    scores = rng.uniform(1, 5, (T + 1, B)).astype(np.float32)
    fields = [
        rng.normal(size=(T, B, F)).astype(np.float32),
        record,
        np.arange(T)[:, None] * np.ones(B, int),
        action,
        log_prob,
        rng.normal(size=(T, B)).astype(np.float32),
        logits,
        live,
        valid,
        (~ended).astype(np.float32),
        rng.uniform(0.2, 1, (T, B)).astype(np.float32),
        scores,
        np.zeros((B, 2, 2, 3), np.float32),
    ]
    return Trajectory(*map(jnp.asarray, fields)), scores


def keep(trajectory: Trajectory, episodes: list[int]) -> Trajectory:
    return Trajectory(*(x[:, np.array(episodes)] for x in trajectory[:-1]), trajectory.image[np.array(episodes)])


@jax.jit
def gradient(trajectory, scores):
    batch = make_batch(trajectory, scores, CONFIG, env=COST)
    return jax.grad(lambda p: policy_loss(POLICY.bind(p, (), T * B), batch, CONFIG, 0.02)[0])(PARAMS)


def assert_close(one, other, **tolerance):
    for name in one:
        np.testing.assert_allclose(one[name], other[name], err_msg=name, **tolerance)


def test_advantages_are_the_recursion_by_hand():
    trajectory, scores = make_trajectory()
    config = PPOConfig(gamma=0.9, gae_lambda=0.8, normalise_advantage=False)
    batch = BATCH(trajectory, scores, config, COST)
    adv, value = np.asarray(batch.adv).reshape(T, B), np.asarray(trajectory.value)
    # Episode 2 calls a tool at every step.
    expected, following = np.zeros(T), 0.0
    for t in reversed(range(T)):
        reward = scores[t + 1, 2] - scores[t, 2] - 0.1
        next_value = value[t + 1, 2] if t + 1 < T else 0.0
        following = reward + 0.9 * next_value - value[t, 2] + 0.9 * 0.8 * following
        expected[t] = following
    np.testing.assert_allclose(adv[:, 2], expected, rtol=1e-5)
    # STOP at once: reward 0 and nothing after.
    np.testing.assert_allclose(adv[0, 0], -value[0, 0], rtol=1e-6)
    # Stopped after one call: STOP's own advantage flows back to it.
    first = scores[1, 1] - scores[0, 1] - 0.1 + 0.9 * value[1, 1] - value[0, 1] + 0.72 * -value[1, 1]
    np.testing.assert_allclose(adv[0, 1], first, rtol=1e-5)
    np.testing.assert_allclose(batch.target, batch.adv + batch.value, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(batch.weight).reshape(T, B), trajectory.live)


def test_the_guard_takes_what_an_image_lacks_in_structure():
    trajectory, scores = make_trajectory()
    config = dataclasses.replace(CONFIG, normalise_advantage=False, gamma=1.0, gae_lambda=1.0)
    guard = EnvConfig(guard_weight=2.0, guard_band=0.7)
    batch = BATCH(trajectory, jnp.asarray(scores), config, guard)
    lacking = np.maximum(0.7 - np.asarray(trajectory.kept), 0)
    # Episode 2 calls a tool at every step: what counts is the last image.
    wanted = scores[3, 2] - scores[0, 2] - 2 * lacking[2, 2]
    np.testing.assert_allclose(batch.target.reshape(T, B)[0, 2], wanted, rtol=1e-4)
    scores[2, 3] = np.nan
    masked = BATCH(trajectory, jnp.asarray(scores), config, guard)
    assert np.isfinite(np.asarray(masked.adv)).all()


def returns(trajectory, scores, gamma):
    """Discounted returns [b] of rewards with a step cost of 0.1."""
    reward = np.where(np.asarray(trajectory.valid), scores[1:] - scores[:-1] - 0.1, 0)
    return gamma ** np.arange(T) @ reward


def test_grpo_compares_the_episodes_of_an_image():
    trajectory, scores = make_trajectory()
    total = returns(trajectory, scores, 0.9).reshape(2, 2)  # episodes 0 and 1 are of one image, 2 and 3 of another
    config = PPOConfig(algorithm="grpo", group_size=2, gamma=0.9)
    centred = total - total.mean(1, keepdims=True)
    for normalise, wanted in [(True, centred / total.std(1, keepdims=True)), (False, centred)]:
        config = dataclasses.replace(config, normalise_advantage=normalise)
        adv = np.asarray(BATCH(trajectory, jnp.asarray(scores), config, COST).adv).reshape(T, B)
        np.testing.assert_allclose(adv, np.tile(wanted.reshape(-1), (T, 1)), rtol=1e-4)


def test_leave_one_out_takes_the_mean_of_the_others():
    trajectory, scores = make_trajectory()
    total = returns(trajectory, scores, 0.9)
    config = PPOConfig(algorithm="reinforce", group_size=4, epochs=1, gamma=0.9, normalise_advantage=False)
    adv = np.asarray(BATCH(trajectory, jnp.asarray(scores), config, COST).adv).reshape(T, B)
    wanted = [total[i] - np.delete(total, i).mean() for i in range(B)]
    np.testing.assert_allclose(adv, np.tile(wanted, (T, 1)), rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["grpo", "reinforce"])
def test_a_group_is_compared_without_its_unscored_episodes(algorithm):
    trajectory, scores = make_trajectory()
    scores[2, 3] = np.nan
    config = PPOConfig(algorithm=algorithm, group_size=4, normalise_advantage=False)
    batch = BATCH(trajectory, jnp.asarray(scores), config, FREE)
    three = dataclasses.replace(config, group_size=3)
    alone = BATCH(keep(trajectory, [0, 1, 2]), jnp.asarray(scores[:, :3]), three, FREE)
    adv = np.asarray(batch.adv).reshape(T, B)
    np.testing.assert_allclose(adv[:, :3], np.asarray(alone.adv).reshape(T, 3), rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(batch.weight).reshape(T, B)[:, 3], 0)
    assert np.isfinite(adv).all()


def test_vtrace_of_the_policy_that_acted_is_the_lambda_return():
    trajectory, scores = make_trajectory()
    config = dataclasses.replace(CONFIG, normalise_advantage=False)
    plain = BATCH(trajectory, jnp.asarray(scores), config, COST)
    acted = jnp.log(jnp.full((T, B, A), 1e-9)).at[..., 0].set(0)
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(acted), trajectory.action[..., None], axis=-1)[..., 0]
    vtrace = dataclasses.replace(config, algorithm="vtrace")
    same = make_batch(trajectory._replace(log_prob=log_prob), jnp.asarray(scores), vtrace, COST, (acted, trajectory.value))
    counts = np.asarray(plain.weight) > 0
    np.testing.assert_allclose(np.asarray(same.target)[counts], np.asarray(plain.target)[counts], rtol=1e-4, atol=1e-5)


def test_vtrace_cuts_what_the_policy_would_not_do():
    trajectory, scores = make_trajectory()
    config = dataclasses.replace(CONFIG, algorithm="vtrace", normalise_advantage=False)
    unlikely = jnp.zeros((T, B, A)).at[1].set(jnp.where(jnp.arange(A) == trajectory.action[1][:, None], -50.0, 0.0))
    batch = make_batch(trajectory, jnp.asarray(scores), config, COST, (unlikely, trajectory.value))
    value, target = np.asarray(trajectory.value), np.asarray(batch.target).reshape(T, B)
    # Episode 2 goes on after step 1, but not by this policy: its target there is its value, and so is what step 0 sees.
    np.testing.assert_allclose(target[1, 2], value[1, 2], atol=1e-5)
    rho = min(1.0, 1 / A / np.exp(trajectory.log_prob[0, 2]))
    wanted = value[0, 2] + rho * (scores[1, 2] - scores[0, 2] - 0.1 + 0.9 * value[1, 2] - value[0, 2])
    np.testing.assert_allclose(target[0, 2], wanted, rtol=1e-4)


def test_kl_draws_towards_the_policy_that_acted():
    trajectory, scores = make_trajectory()
    batch = BATCH(trajectory, jnp.asarray(scores), CONFIG, FREE)
    far = dataclasses.replace(CONFIG, kl_coef=0.5)

    def loss(config):
        return jax.jit(lambda p: policy_loss(POLICY.bind(p, (), T * B), batch, config, 0.0))(PARAMS)

    (plain, parts), (more, _) = loss(CONFIG), loss(far)
    acted = np.asarray(jax.nn.log_softmax(batch.logits))
    now = np.asarray(jax.nn.log_softmax(POLICY.apply(PARAMS, batch.seen, batch.record, batch.step)[0]))
    kl = (np.exp(acted) * (acted - now)).sum(-1)[np.asarray(batch.weight) > 0].mean()
    np.testing.assert_allclose(parts["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(more - plain, 0.5 * kl, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"algorithm": "grpo"}, "group_size must be 2 or more"),
        ({"algorithm": "grpo", "group_size": 5}, "group_size=5 does not divide ppo.episodes=32"),
        ({"algorithm": "reinforce", "group_size": 4}, "epochs must be 1"),
        ({"lag": 1}, "only ppo.algorithm=vtrace"),
    ],
)
def test_fields_that_do_not_fit_the_algorithm_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        check_algorithm(PPOConfig(**fields))


def test_learning_rate_schedules():
    def rates(**fields):
        schedule = learning_rate(PPOConfig(updates=10, epochs=2, minibatches=1, learning_rate=0.1, **fields))
        return [float(schedule(step)) for step in (0, 2, 4, 12, 20)]

    np.testing.assert_allclose(rates(), [0.1] * 5)
    np.testing.assert_allclose(rates(learning_rate_schedule="linear", warmup=2), [0, 0.05, 0.1, 0.05, 0], atol=1e-6)
    np.testing.assert_allclose(rates(learning_rate_schedule="cosine", warmup=2), [0, 0.05, 0.1, 0.05, 0], atol=1e-6)


def test_advantages_are_normalised_over_what_counts():
    trajectory, scores = make_trajectory()
    batch = BATCH(trajectory, scores, CONFIG, FREE)
    adv = np.asarray(batch.adv)[np.asarray(batch.weight) > 0]
    assert abs(adv.mean()) < 1e-6
    assert abs(adv.std() - 1) < 1e-5


@pytest.mark.parametrize("missing", [(0, 3), (2, 3), (3, 3), (1, 1)])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_episode_without_a_score_leaves_the_gradient_of_the_others(missing, broken):
    trajectory, scores = make_trajectory()
    whole = gradient(trajectory, scores)
    scores = scores.copy()  # JAX may still be reading the other
    scores[missing] = broken
    others = [episode for episode in range(B) if episode != missing[1]]
    without = gradient(keep(trajectory, others), scores[:, others])
    masked = gradient(trajectory, scores)
    assert_close(masked, without, rtol=2e-5, atol=1e-7)
    assert any(not np.allclose(whole[name], masked[name], rtol=1e-3) for name in whole)


def test_scores_that_nobody_needs_may_be_missing():
    trajectory, scores = make_trajectory()
    whole = gradient(trajectory, scores)
    scores = scores.copy()
    scores[1:, 0] = np.nan  # stopped at once
    scores[2:, 1] = np.nan  # stopped after one call
    assert np.asarray(scored_episodes(trajectory, scores)).all()
    assert_close(gradient(trajectory, scores), whole, rtol=0, atol=0)


def test_nothing_scored_gives_a_zero_gradient():
    trajectory, scores = make_trajectory()
    for array in gradient(trajectory, scores * np.nan).values():
        np.testing.assert_array_equal(array, 0)


def test_the_share_of_missing_scores_is_exact_where_none_or_all_are():
    trajectory, scores = make_trajectory()
    many, scores = keep(trajectory, [3] * 41), np.repeat(scores[:, 3:], 41, axis=1)  # 41 * float32(1 / 41) is not 1

    @jax.jit
    def share(scores):
        return diagnostics(many, scores, make_batch(many, scores, CONFIG, FREE), Config())["missing_share"]

    assert share(scores) == 0 and share(scores * np.nan) == 1
    scores[:, 0] = np.nan
    assert share(scores) == pytest.approx(1 / 41)


def test_stop_is_a_decision_and_what_follows_is_not():
    trajectory, scores = make_trajectory()
    only_stop, scores = keep(trajectory, [0]), scores[:, :1]
    config = PPOConfig(normalise_advantage=False, value_coef=0.0)

    @jax.jit
    def stop_logit(value):
        batch = make_batch(only_stop._replace(value=jnp.full((T, 1), value)), jnp.asarray(scores), config, FREE)
        batch = batch._replace(log_prob=jnp.full(T, -1.2))
        grad = jax.grad(lambda p: policy_loss(POLICY.bind(p, (), T * B), batch, config, 0.0)[0])(PARAMS)
        return grad["actor.layers.1.bias"][STOP]

    assert stop_logit(-1.0) < -0.1  # stopping, worth 0, was better than expected: its logit rises by descent
    assert stop_logit(1.0) > 0.1
    changed = only_stop._replace(
        seen=only_stop.seen.at[1:].set(7.0),
        action=only_stop.action.at[1:].set(1),
        log_prob=only_stop.log_prob.at[1:].set(-9.0),
        value=only_stop.value.at[1:].set(5.0),
    )
    assert_close(gradient(only_stop, scores), gradient(changed, scores), rtol=0, atol=0)


def test_surrogate_is_clipped_as_in_the_paper():
    trajectory, scores = make_trajectory()
    batch = BATCH(trajectory, scores, CONFIG, FREE)
    logits, value = map(np.asarray, POLICY.apply(PARAMS, batch.seen, batch.record, batch.step))
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counts = np.asarray(batch.weight) > 0
    ratio = np.exp(log_probs[np.arange(T * B), batch.action] - batch.log_prob)[counts]
    adv = np.asarray(batch.adv)[counts]
    loss, parts = jax.jit(lambda p, b: policy_loss(POLICY.bind(p, (), T * B), b, CONFIG, 0.02))(PARAMS, batch)
    surrogate = -np.minimum(ratio * adv, np.clip(ratio, 0.8, 1.2) * adv).mean()
    value_loss = 0.5 * np.square(value - batch.target)[counts].mean()
    entropy = -(np.exp(log_probs) * log_probs).sum(-1)[counts].mean()
    assert 0 < parts["clip_fraction"] < 1
    np.testing.assert_allclose(parts["policy_loss"], surrogate, rtol=1e-5)
    np.testing.assert_allclose(parts["value_loss"], value_loss, rtol=1e-5)
    np.testing.assert_allclose(parts["entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(loss, surrogate + 0.5 * value_loss - 0.02 * entropy, rtol=1e-5)
    np.testing.assert_allclose(parts["approx_kl"], (ratio - 1 - np.log(ratio)).mean(), rtol=1e-4)
