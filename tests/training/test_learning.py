"""Probe environments: the best policy is known and must be learned in seconds."""

import numpy as np
import pytest
from probes import BRIGHTEN, DARKEN, STOP, Flat, greedy_actions, probe_config

from r1jax.training.loop import train

GROUPS = {"ppo__group_size": 8, "ppo__episodes": 48}
ALGORITHMS = {
    "ppo": {},
    "grpo": {"ppo__algorithm": "grpo", **GROUPS},
    "reinforce": {"ppo__algorithm": "reinforce", **GROUPS, "ppo__epochs": 1, "ppo__updates": 150},
    "vtrace": {"ppo__algorithm": "vtrace", "ppo__lag": 1, "ppo__updates": 60},
}
# PPO meets every problem in `make test`, the others the hardest one.
OTHERS = [name for name in ALGORITHMS if name != "ppo"]
EVERY = ["ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


def learn(tmp_path, data, config):
    result = train(config, tmp_path / "run", data=data, progress=False)
    images = data.batch(seed=99, step=0, batch_size=12).degraded
    return result, greedy_actions(result.agent, images)


@pytest.mark.parametrize("algorithm", EVERY)
def test_bandit_picks_the_tool_that_suits_the_image(tmp_path, algorithm):
    data, config = Flat((0.5, 1.0, 0.75)), probe_config(env__horizon=1, **({"ppo__updates": 30} | ALGORITHMS[algorithm]))
    result, actions = learn(tmp_path, data, config)
    np.testing.assert_array_equal(actions[:, 0], [BRIGHTEN, DARKEN, STOP] * 4)
    assert result.history[-1]["score_gain"] > 1.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_restored_images_are_left_alone(tmp_path, algorithm):
    config = probe_config(**({"ppo__updates": 60} | ALGORITHMS[algorithm]))
    result, actions = learn(tmp_path, Flat((0.25, 0.5, 0.75)), config)
    best = [[BRIGHTEN, BRIGHTEN], [BRIGHTEN, STOP], [STOP, -1]]
    np.testing.assert_array_equal(actions, best * 4)
    assert result.history[-1]["stop_at_0"] == pytest.approx(1 / 3, abs=0.1)
    assert result.history[-1]["mean_calls"] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("algorithm", EVERY)
def test_stop_is_learned_where_no_tool_helps(tmp_path, algorithm):
    result, actions = learn(tmp_path, Flat((0.75,)), probe_config(**ALGORITHMS[algorithm]))
    np.testing.assert_array_equal(actions, [[STOP, -1]] * 12)
    assert result.history[-1]["stop_at_0"] > 0.9
    assert result.history[-1]["mean_calls"] < 0.2


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("gamma, best", [(0.99, [BRIGHTEN, BRIGHTEN]), (0.2, [STOP, -1])])
def test_two_steps_credit_the_first_as_far_as_the_discount_says(tmp_path, gamma, best, algorithm):
    # Two calls cost 1.5 and then bring 2.5: worth it for gamma > 0.6 only.
    _, actions = learn(tmp_path, Flat((0.25,)), probe_config("Valley", ppo__gamma=gamma, **ALGORITHMS[algorithm]))
    np.testing.assert_array_equal(actions, [best] * 12)
