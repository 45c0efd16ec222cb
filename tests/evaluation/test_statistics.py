"""Group means and intervals against what they are by definition."""

import numpy as np
import pytest

from r1jax.evaluation.statistics import group_mean, paired_interval


def test_a_mix_counts_once_whatever_its_size():
    assert group_mean(np.array([1.0, 1.0, 1.0, 5.0]), ["a", "a", "a", "b"]) == 3.0


def test_a_share_is_a_ratio_of_sums_in_each_mix():
    gain, best = np.array([1.0, 0.0, 1.0]), np.array([1.0, 3.0, 2.0])
    assert group_mean(gain, ["a", "a", "b"], best) == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_a_mix_without_anything_to_gain_is_left_out():
    assert group_mean(np.array([0.0, 1.0]), ["a", "b"], np.array([0.0, 2.0])) == 0.5
    assert np.isnan(group_mean(np.array([0.0]), ["a"], np.array([0.0])))


def test_an_interval_of_a_constant_difference_is_a_point():
    values = np.arange(6.0)
    interval = paired_interval(values + 2, values, list("aabbab"), list("xyxyzz"))
    np.testing.assert_allclose(interval, (2, 2, 2))


def test_an_interval_is_deterministic_and_contains_its_value():
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    photo = [str(i % 20) for i in range(40)]
    mix = ["a"] * 20 + ["b"] * 20
    first = paired_interval(values, np.zeros(40), mix, photo)
    assert first == paired_interval(values, np.zeros(40), mix, photo)
    assert first != paired_interval(values, np.zeros(40), mix, photo, seed=1)
    assert first.low < first.value < first.high
    assert first.value == pytest.approx(group_mean(values, mix))


def test_images_of_one_photo_stay_together():
    photo_effect = np.random.default_rng(0).normal(size=10)
    values = np.tile(photo_effect, 8)  # eight mixes tell no more than one
    mix = [f"mix{i}" for i in range(8) for _ in range(10)]
    together = paired_interval(values, np.zeros(80), mix, [str(i) for i in range(10)] * 8)
    one_mix = paired_interval(photo_effect, np.zeros(10), ["a"] * 10, [str(i) for i in range(10)])
    np.testing.assert_allclose(together, one_mix)
    apart = paired_interval(values, np.zeros(80), mix, [str(i) for i in range(80)])
    assert apart.high - apart.low < 0.5 * (together.high - together.low)


def test_the_width_is_that_of_the_normal_approximation():
    values = np.random.default_rng(2).normal(size=400)
    interval = paired_interval(values, np.zeros(400), ["a"] * 400, [str(i) for i in range(400)])
    expected = 2 * 1.645 * values.std() / 20
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_the_interval_of_a_share_divides_by_the_same_draw():
    best = np.array([1.0, 2.0, 4.0, 8.0])
    interval = paired_interval(0.75 * best, 0.25 * best, ["a"] * 4, list("wxyz"), best)
    np.testing.assert_allclose(interval, (0.5, 0.5, 0.5))


def test_one_photo_has_no_interval():
    low, value, high = paired_interval(np.array([2.0, 3.0]), np.zeros(2), ["a", "b"], ["one", "one"])
    assert value == 2.5 and np.isnan([low, high]).all()
