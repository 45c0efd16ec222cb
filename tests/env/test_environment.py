"""The batched environment: what a step does, when an episode ends, what stays frozen, rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.env import Environment, rewards_from_scores
from r1jax.errors import UsageError
from r1jax.tools import Tool, Toolbox

DARKEN = Tool("darken", "", lambda params, x: x * params, jnp.float32(0.51))
INVERT = Tool("invert", "", lambda params, x: 1.0 - x)
BLOW_UP = Tool("blow_up", "", lambda params, x: 3.0 * x - 1.0)
BOX = Toolbox("toys", (DARKEN, INVERT, BLOW_UP))
STOP = 3


def _images(batch=4, seed=0):
    return jax.random.uniform(jax.random.key(seed), (batch, 6, 5, 3))


def _levels(image):
    """An image's 8-bit levels; checks that it lies on them."""
    levels = np.round(np.asarray(image, np.float64) * 255)
    np.testing.assert_allclose(image, levels / 255, atol=1e-7)
    return levels.astype(int)


def _play(env, actions, images=None):
    """Returns the states [T + 1] and time steps [T] under a jitted step, for actions [T, b]."""
    step = jax.jit(env.step)
    states, timesteps = [env.reset(_images() if images is None else images)], []
    for action in np.asarray(actions):
        state, timestep = step(BOX.params, states[-1], action)
        states.append(state)
        timesteps.append(timestep)
    return states, timesteps


def test_reset():
    state = Environment(BOX, horizon=3).reset(_images())
    np.testing.assert_array_equal(_levels(state.image), np.round(np.asarray(_images()) * 255))
    assert state.record.tolist() == [[-1] * 3] * 4
    assert state.step.tolist() == [0] * 4 and not state.done.any()
    assert state.image.dtype == jnp.float32 and state.record.dtype == state.step.dtype == jnp.int32


def test_actions():
    env = Environment(BOX, horizon=3)
    assert (env.num_actions, env.stop_action) == (4, STOP)
    endless = Environment(BOX, horizon=3, stop=False)
    assert (endless.num_actions, endless.stop_action) == (3, -1)


def test_each_image_gets_its_tool_and_is_quantised():
    (first, second), (timestep,) = _play(Environment(BOX, horizon=3), [[0, 1, 2, STOP]])
    before = _levels(first.image)
    expected = [before[0] * 0.51, 255 - before[1], np.clip(3 * before[2] - 255, 0, 255), before[3]]
    assert np.abs(_levels(second.image) - np.stack(expected)).max() <= 0.5 + 1e-3
    assert not np.allclose(before[0] * 0.51, np.round(before[0] * 0.51))  # the tool alone leaves the grid
    assert second.record[:, 0].tolist() == [0, 1, 2, -1] and (second.record[:, 1:] == -1).all()
    assert timestep.valid.tolist() == [True, True, True, False]


def test_stop_ends_its_episode_only():
    states, timesteps = _play(Environment(BOX, horizon=3), [[STOP, 0, 1, STOP], [0, STOP, 1, STOP]])
    assert states[1].done.tolist() == [True, False, False, True]
    assert states[2].done.tolist() == [True, True, False, True]
    assert [t.valid.tolist() for t in timesteps] == [[False, True, True, False], [False, False, True, False]]
    assert [t.discount.tolist() for t in timesteps] == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert states[2].step.tolist() == [1, 2, 2, 1]


def test_ended_episodes_are_frozen():
    actions = [[STOP, 0, 0, 0], [0, STOP, 1, 2], [1, 2, STOP, 0], [2, 2, 2, 2]]
    states, timesteps = _play(Environment(BOX, horizon=4), actions)
    for image, end in enumerate((1, 2, 3)):
        for later in states[end + 1 :]:
            for now, then in zip(states[end], later, strict=True):
                np.testing.assert_array_equal(now[image], then[image])
        assert not any(timestep.valid[image] for timestep in timesteps[end:])


def test_ended_episodes_cost_no_tool():
    calls = []

    def counted(params, x):
        jax.debug.callback(lambda: calls.append("call"))
        return x

    env = Environment(Toolbox("counted", (Tool("counted", "", counted),)), horizon=4)
    step, state = jax.jit(env.step), env.reset(_images())
    for action in ([0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]):  # 2, 1 and 1 live tool calls
        state, _ = step(env.toolbox.params, state, jnp.array(action))
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert len(calls) == 4


def test_horizon_ends_every_episode():
    states, timesteps = _play(Environment(BOX, horizon=2), [[0, 1, 2, 0]] * 3)
    assert [state.done.all().item() for state in states] == [False, False, True, True]
    assert [timestep.discount[0].item() for timestep in timesteps] == [1, 0, 0]
    assert [timestep.valid.all().item() for timestep in timesteps] == [True, True, False]
    np.testing.assert_array_equal(states[2].image, states[3].image)
    assert states[3].record.tolist() == [[0, 0], [1, 1], [2, 2], [0, 0]]


def test_without_stop_an_unknown_action_is_an_idle_step():
    states, timesteps = _play(Environment(BOX, horizon=2, stop=False), [[3, -1, 9, 0]] * 2)
    np.testing.assert_array_equal(states[1].image[:3], states[0].image[:3])
    assert timesteps[0].valid.tolist() == [False, False, False, True]
    assert not states[1].done.any() and states[2].done.all()
    assert states[2].record.tolist() == [[-1, -1]] * 3 + [[0, 0]]


def test_traced_once_and_equal_without_jit():
    traces = []

    def counted(tool_params, state, action):
        traces.append(action)
        return env.step(tool_params, state, action)

    env = Environment(BOX, horizon=2, block_size=2)
    step, state, eager = jax.jit(counted), env.reset(_images()), env.reset(_images())
    for action in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 1, 1]):
        state, timestep = step(BOX.params, state, jnp.array(action))
        eager, eager_timestep = env.step(BOX.params, eager, jnp.array(action))
        jax.tree.map(np.testing.assert_array_equal, (state, timestep), (eager, eager_timestep))
    assert len(traces) == 1


def test_runs_in_a_scan():
    env, actions = Environment(BOX, horizon=3), jnp.array([[0, 1, 2, 3], [1, 3, 0, 0], [2, 0, 1, 1]])
    state, timesteps = jax.jit(
        lambda params, images: jax.lax.scan(lambda s, a: env.step(params, s, a), env.reset(images), actions)
    )(BOX.params, _images())
    states, expected = _play(env, actions)
    jax.tree.map(np.testing.assert_array_equal, state, states[-1])
    np.testing.assert_array_equal(timesteps.valid, [t.valid for t in expected])


@pytest.mark.parametrize("field", ["horizon", "block_size"])
def test_fields_are_checked(field):
    with pytest.raises(UsageError, match=f"env.{field}: 0"):
        Environment(BOX, **{field: 0})


def test_rewards():
    scores = jnp.array([[1.0, 2.0], [1.5, 2.5], [1.25, 9.0]])
    valid = jnp.array([[True, True], [True, False]])
    np.testing.assert_allclose(rewards_from_scores(scores, valid, 0.1), [[0.4, 0.4], [-0.35, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_a_missing_score_reaches_neither_rewards_nor_gradients(missing):
    scores = jnp.array([[1.0, 2.0], [missing, 2.5], [1.25, 2.75], [1.5, missing]])
    valid = jnp.array([[True, True], [True, True], [True, False]])
    with jax.debug_nans(True):  # raises where any arithmetic gives NaN
        rewards = rewards_from_scores(scores, valid)
        grad = jax.grad(lambda s: jnp.sum(rewards_from_scores(s, valid) ** 2))(scores)
    np.testing.assert_allclose(rewards, [[0, 0.5], [0, 0.25], [0.25, 0]])
    np.testing.assert_allclose(grad, [[0, -1], [0, 0.5], [-0.5, 0.5], [0.5, 0]])
