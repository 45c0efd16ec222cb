"""The policy: what it sees of the record, how it starts, and what it does not train."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.agent.encoder import Encoder
from r1jax.agent.policy import Policy, encode_record
from r1jax.config import AgentConfig

ENV = types.SimpleNamespace(num_actions=4, stop_action=3, horizon=2)
ENCODER = Encoder("none", lambda params, x: x, (), 5)
RECORD = jnp.array([[-1, -1], [2, -1], [0, 1]])
STEP = jnp.array([0, 1, 2])
FEATURES = jnp.asarray(np.random.default_rng(0).normal(3, 10, (3, 5)).astype(np.float32))


def make(**fields):
    return Policy(ENCODER, ENV, AgentConfig(**{"hidden": (16, 8), **fields}))


def test_record_is_a_one_hot_a_slot_and_the_share_that_remains():
    expected = [[0, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 0.5], [1, 0, 0, 0, 1, 0, 0]]
    np.testing.assert_array_equal(encode_record(RECORD, STEP, 3), expected)


def test_hidden_record_leaves_the_step():
    hidden, shown = make(record=False), make()
    params = shown.init(jax.random.key(0))

    def moved(policy, record, step):
        apply = jax.jit(policy.apply)
        before, after = apply(params, FEATURES, RECORD, STEP), apply(params, FEATURES, record, step)
        return np.abs(before[0] - after[0]).max()

    assert moved(hidden, RECORD * 0, STEP) == 0
    assert moved(hidden, RECORD, STEP * 0) > 1e-5
    assert moved(shown, RECORD * 0, STEP) > 1e-5


def test_init_is_orthogonal_and_nearly_uniform():
    policy = make()
    params = policy.init(jax.random.key(0))
    kernel = np.asarray(params["actor.layers.0.kernel"])  # [12, 16]
    np.testing.assert_allclose(kernel @ kernel.T, 2 * np.eye(12), atol=1e-5)
    last = np.asarray(params["actor.layers.2.kernel"])  # [8, 4]
    np.testing.assert_allclose(last.T @ last, 1e-4 * np.eye(4), atol=1e-7)
    logits, value = policy.apply(params, FEATURES, RECORD, STEP)
    assert logits.shape == (3, 4) and value.shape == (3,)
    assert np.ptp(logits) < 0.1
    assert np.abs(value).max() < 0.1
    np.testing.assert_array_equal(policy.init(jax.random.key(0))["actor.layers.1.kernel"], params["actor.layers.1.kernel"])
    assert {name: array.shape for name, array in params.items()} == policy.shapes()


def test_features_are_standardised_by_the_sample():
    policy = make()
    sample = jnp.asarray(np.random.default_rng(1).normal([0, 100, -3, 0.5, 7], [1, 50, 0.01, 0.2, 0], (400, 5)))
    params = policy.init(jax.random.key(0), sample)
    standard = (sample - params["norm.mean"]) * params["norm.scale"]
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(standard.std(0)[1], 1, atol=1e-3)
    assert (standard.std(0) < 1.01).all()  # what hardly varies is not blown up
    far = sample[:3].at[0, 1].set(1e9)
    assert np.isfinite(policy.apply(params, far, RECORD, STEP)[0]).all()


def test_constants_of_the_normalisation_are_not_trained():
    policy = make()
    params = policy.init(jax.random.key(0))
    grad = jax.jit(jax.grad(lambda p: sum(x.sum() for x in policy.apply(p, FEATURES, RECORD, STEP))))(params)
    for name, array in grad.items():
        assert (np.abs(array).max() == 0) == name.startswith("norm."), name


@pytest.mark.parametrize("num_actions, stop_action", [(3, -1), (4, 3)])
def test_an_environment_without_stop_has_one_action_less(num_actions, stop_action):
    env = types.SimpleNamespace(num_actions=num_actions, stop_action=stop_action, horizon=2)
    policy = Policy(ENCODER, env, AgentConfig(hidden=(4,)))
    assert policy.shapes()["actor.layers.0.kernel"] == (5 + 2 * 3 + 1, 4)
    assert policy.shapes()["actor.layers.1.kernel"] == (4, num_actions)
