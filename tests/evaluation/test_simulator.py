"""Numbering of states, and tools and scorers run in blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.errors import R1JaxError
from r1jax.evaluation.simulator import actions_of, in_blocks, num_states, path_of, probe_image


def test_number_of_states():
    assert num_states(8, 3) == 585
    assert num_states(1, 4) == 5
    assert num_states(3, 0) == 1


@given(st.integers(1, 9), st.lists(st.integers(0, 8), max_size=5))
def test_a_node_is_its_sequence(num_tools, actions):
    actions = tuple(action % num_tools for action in actions)
    path = path_of(actions, num_tools)
    assert len(path) == len(actions) + 1
    assert actions_of(path[-1], num_tools) == actions
    assert path[-1] < num_states(num_tools, len(actions))


def test_path_ends_where_no_tool_is_called():
    assert path_of((1, -1, -1), 3) == (0, 2)


@pytest.mark.parametrize("block", [1, 4, 64])
def test_step_applies_each_image_its_tool(make_toy, block):
    toy = make_toy(6, block=block)
    stepped = toy.simulator.step(toy.images, np.array([0, 1, 2, 2, 1, 0]))
    levels = toy.images.astype(int)
    change = np.array([30, -10, 0, 0, -10, 30])[:, None, None, None]
    np.testing.assert_array_equal(stepped, np.clip(levels + change, 0, 255))


def test_step_is_traced_once_for_any_number_of_images(make_toy):
    toy = make_toy(7, block=4)
    for count in (1, 3, 4, 7):
        toy.simulator.step(toy.images[:count], np.zeros(count, int))
    assert toy.simulator._step._cache_size() == 1


def test_blocks_have_two_shapes_and_lose_nothing():
    shapes = set()

    def double(x):
        shapes.add(x.shape)
        return 2 * x

    for length in range(1, 90):
        x = np.arange(length, dtype=float)
        np.testing.assert_array_equal(in_blocks(double, 32, x), 2 * x)
    assert shapes == {(8,), (32,)}


def test_a_scorer_that_is_a_net_sees_few_shapes(make_toy, likes_brightness):
    scorer = likes_brightness()
    scorer.graph = "a net"
    toy = make_toy(30, scorer=scorer, block=16)
    alone = make_toy(30).simulator.score(toy.images)
    for count in (1, 7, 16, 30):
        np.testing.assert_array_equal(toy.simulator.score(toy.images[:count]), alone[:count])
    assert {shape[0] for shape in scorer.shapes} == {8, 16}


def test_a_missing_score_ends_the_evaluation(make_toy):
    toy = make_toy()
    toy.scorer.score = lambda images: np.full(len(images), np.nan)
    with pytest.raises(R1JaxError, match="'likes brightness' gave no score for 5 of 5 images"):
        toy.simulator.score(toy.images)


def test_measure_times_every_call(make_toy):
    toy = make_toy()
    toy.simulator.measure(16, 12)
    assert (toy.simulator.tool_seconds > 0).all() and toy.simulator.score_seconds > 0
    before = toy.scorer.asked
    toy.simulator.measure(16, 12)
    assert toy.scorer.asked == before  # once for each size


def test_fingerprint_tells_tools_and_scorers_apart(make_toy, likes_brightness):
    own = make_toy().simulator.fingerprint(16, 12)
    assert make_toy(seed=3).simulator.fingerprint(16, 12) == own
    toy = make_toy()
    toy.scorer.version = "2"
    from r1jax.reward.scorer import identity

    toy.simulator.scorer_identity = identity(toy.scorer)
    assert toy.simulator.fingerprint(16, 12) != own
    changed = make_toy()
    changed.simulator._params = (changed.simulator._params[0] * 2, *changed.simulator._params[1:])
    assert changed.simulator.fingerprint(16, 12) != own


def test_the_probe_is_changed_by_every_toy(make_toy):
    probe = probe_image(16, 12)
    simulator = make_toy().simulator
    out = simulator.step(np.stack([probe, probe]), np.array([0, 1]))
    assert (out != probe).any((1, 2, 3)).all()
