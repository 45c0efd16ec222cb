"""Probe environments: the best policy is known and must be learned in seconds."""

import numpy as np
import pytest
from probes import BRIGHTEN, DARKEN, NOOP, STOP, Flat, greedy_actions, probe_config

from r1jax.training.loop import train


def learn(tmp_path, data, config):
    result = train(config, tmp_path / "run", data=data, progress=False)
    images = data.batch(seed=99, step=0, batch_size=12).degraded
    return result, greedy_actions(result.agent, images)


def test_bandit_picks_the_tool_that_suits_the_image(tmp_path):
    data = Flat((0.5, 1.0, 0.75))
    result, actions = learn(tmp_path, data, probe_config(env__horizon=1, ppo__updates=30))
    suits = np.arange(12) % 3 < 2
    np.testing.assert_array_equal(actions[suits, 0], [BRIGHTEN, DARKEN] * 4)
    assert set(actions[~suits, 0]) <= {NOOP, STOP}  # nothing to gain: leave the image as it is
    assert result.history[-1]["score_gain"] > 1.0


@pytest.mark.parametrize("gamma, best", [(0.99, [BRIGHTEN, BRIGHTEN]), (0.2, None)])
def test_two_steps_credit_the_first_as_far_as_the_discount_says(tmp_path, gamma, best):
    # Brightening costs 1 and then gains 3: worth it for gamma > 1/3 only.
    config = probe_config("Valley", ppo__gamma=gamma, ppo__updates=60, ppo__gae_lambda=1.0)
    _, actions = learn(tmp_path, Flat((0.25,)), config)
    if best:
        np.testing.assert_array_equal(actions, [best] * 12)
    else:
        assert BRIGHTEN not in actions[:, 0]


def test_stop_is_learned_where_no_tool_helps(tmp_path):
    # Without the cost, undoing a call by another, or the tool that does nothing, would be as good.
    result, actions = learn(tmp_path, Flat((0.75,)), probe_config(env__step_cost=0.5))
    np.testing.assert_array_equal(actions, [[STOP, -1]] * 12)
    assert result.history[-1]["stop_at_0"] > 0.9
    assert result.history[-1]["mean_calls"] < 0.2
