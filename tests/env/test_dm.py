"""The dm_env adapter: dm_env's own conformance tests, and rewards worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from dm_env import test_utils

from r1jax.env import Environment
from r1jax.env.dm import DMEnvironment
from r1jax.errors import R1JaxError, UsageError
from r1jax.tools import Tool, Toolbox

HALVE = Tool("halve", "", lambda params, x: x * params, jnp.float32(0.5))
INVERT = Tool("invert", "", lambda params, x: 1.0 - x)
BOX = Toolbox("toys", (HALVE, INVERT))
STOP = 2
IMAGES = np.stack([np.full((4, 6, 3), level / 255, np.float32) for level in (0, 51, 204)])


def make(horizon=3, scorer=np.mean, **fields):
    """An adapter whose scorer is the mean of the image."""
    return DMEnvironment(Environment(BOX, horizon, **fields), BOX.params, IMAGES, scorer)


class ConformanceTest(test_utils.EnvironmentTestMixin, absltest.TestCase):
    """dm_env's contract, over episodes that end by STOP and by the horizon."""

    def make_object_under_test(self):
        """The mixin's hook."""
        return make()

    def make_action_sequence(self):
        """The mixin's hook."""
        for action in [0, 1, STOP, 9, 1, 1, 0, 0, STOP, 1, 0]:
            yield np.int32(action % 3)


def test_rewards_are_gains_less_the_step_cost():
    env = make(step_cost=0.05)
    env.reset()
    env.reset()  # the second image: level 51, score 0.2
    first, second, third = (env.step(action) for action in (1, 0, STOP))
    assert first.reward == pytest.approx(0.8 - 0.2 - 0.05, abs=1e-6)
    assert second.reward == pytest.approx(102 / 255 - 0.8 - 0.05, abs=1e-6)
    assert third.reward == 0 and third.last() and third.discount == 0
    assert third.observation["record"].tolist() == [1, 0, -1] and third.observation["step"] == 3


def test_images_take_turns():
    env = make()
    levels = [round(float(env.reset().observation["image"][0, 0, 0]) * 255) for _ in range(4)]
    assert levels == [0, 51, 204, 0]


def test_the_scorer_is_called_once_an_image():
    seen = []
    env = make(scorer=lambda image: seen.append(image.shape) or 3.0)
    env.reset()
    for action in (0, 1, STOP):
        env.step(action)
    assert seen == [(4, 6, 3)] * 3  # the first image and two tool calls; STOP changes nothing


def test_a_score_that_failed_leaves_the_episode_where_it_was():
    failures = [True, False, True, False]
    env = make(scorer=lambda image: np.nan if failures and failures.pop(0) else np.mean(image))
    with pytest.raises(R1JaxError):
        env.reset()
    assert env.step(0).first()  # the second image: level 51
    with pytest.raises(R1JaxError):
        env.step(1)
    step = env.step(1)
    assert step.reward == pytest.approx(0.8 - 0.2, abs=1e-6) and step.observation["step"] == 1


def test_unusable_scores_and_images():
    with pytest.raises(R1JaxError, match="scorer gave nan"):
        make(scorer=lambda image: float("nan")).reset()
    with pytest.raises(UsageError, match="is not \\[n, h, w, 3\\]"):
        DMEnvironment(Environment(BOX), BOX.params, IMAGES[0], np.mean)
