"""The transition tree equals running every sequence, and does nothing twice."""

import itertools

import numpy as np
import pytest

from r1jax.evaluation.simulator import path_of
from r1jax.evaluation.tree import build_tree, cached_tree, read_tree
from r1jax.images.metrics import psnr_y


def _replay(simulator, image, actions):
    for action in actions:
        image = simulator.step(image[None], np.array([action]))[0]
    return image


def test_every_state_is_what_its_sequence_gives(make_toy):
    toy = make_toy(1)
    tree = build_tree(toy.simulator, toy.images[0], toy.clean[0], {"psnr_y": psnr_y})
    assert len(tree.scores) == 40
    for actions in itertools.chain.from_iterable(itertools.product(range(3), repeat=t) for t in range(4)):
        node = path_of(actions, 3)[-1]
        image = _replay(toy.simulator, toy.images[0], actions)[None]
        assert tree.scores[node] == pytest.approx(toy.simulator.score(image)[0])
        expected = psnr_y(image / np.float32(255), toy.clean[:1] / np.float32(255))[0]
        assert tree.metrics["psnr_y"][node] == pytest.approx(float(expected), abs=1e-4)


def test_equal_states_are_scored_and_expanded_once(make_toy, monkeypatch):
    toy = make_toy(1, horizon=4)
    runs = []
    step = toy.simulator.step
    monkeypatch.setattr(
        toy.simulator, "step", lambda images, actions: runs.append(len(images)) or step(images, actions)
    )
    tree = build_tree(toy.simulator, toy.images[0])
    # A state is a number of lightenings and of darkenings, at most 4 in all; one of the former undoes 3.
    assert len(tree.scores) == 121 and len(set(tree.unique.tolist())) == 14
    assert toy.scorer.asked == 14
    assert sum(runs) == 3 * 10  # those reached within 3 calls, by 3 tools


def test_a_beam_goes_on_from_the_best_states_only(make_toy):
    whole = build_tree(make_toy(1).simulator, make_toy(1).images[0])
    toy = make_toy(1)
    beam = build_tree(toy.simulator, toy.images[0], beam=1)
    assert toy.scorer.asked < len(set(whole.unique.tolist()))
    np.testing.assert_array_equal(beam.scores[:4], whole.scores[:4])
    expanded = {whole.unique[0], whole.unique[1 + int(np.argmax(whole.scores[1:4]))]}
    for first in (1, 2, 3):
        second = slice(3 * first + 1, 3 * first + 4)
        # What was not gone on from stays what it is.
        expected = whole.scores[second] if whole.unique[first] in expanded else np.full(3, whole.scores[first])
        np.testing.assert_array_equal(beam.scores[second], expected)


def test_small_blocks_give_the_same_tree(make_toy):
    whole = build_tree(make_toy(1).simulator, make_toy(1).images[0])
    pieces = build_tree(make_toy(1, block=2).simulator, make_toy(1).images[0])
    np.testing.assert_array_equal(whole.scores, pieces.scores)
    np.testing.assert_array_equal(whole.unique, pieces.unique)


def test_a_stored_tree_is_read_and_not_made_again(make_toy, tmp_path):
    toy = make_toy(2)
    arguments = dict(metrics={"psnr_y": psnr_y}, folder=tmp_path, fingerprint="a")
    first = cached_tree(toy.simulator, toy.images[0], toy.clean[0], **arguments)
    asked = toy.scorer.asked
    again = cached_tree(toy.simulator, toy.images[0], toy.clean[0], **arguments)
    assert toy.scorer.asked == asked
    np.testing.assert_array_equal(first.scores, again.scores)
    np.testing.assert_array_equal(first.metrics["psnr_y"], again.metrics["psnr_y"])
    np.testing.assert_array_equal(first.unique, again.unique)
    assert (again.num_tools, again.horizon) == (3, 3)


def test_a_file_with_arrays_that_nothing_reads_any_more_is_read(make_toy, tmp_path):
    toy = make_toy(1)
    first = cached_tree(toy.simulator, toy.images[0], folder=tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path) as arrays:
        held = dict(arrays)
    assert held.keys() == {"shape", "scores", "unique"}
    np.savez_compressed(path, **held, parents=np.arange(40), actions=np.arange(40))
    old = read_tree(path)
    np.testing.assert_array_equal(old.scores, first.scores)
    np.testing.assert_array_equal(old.unique, first.unique)


@pytest.mark.parametrize("change", ["image", "clean", "tools", "metrics", "horizon"])
def test_a_stored_tree_of_something_else_is_not_read(make_toy, tmp_path, change):
    toy = make_toy(2)
    cached_tree(toy.simulator, toy.images[0], toy.clean[0], {"psnr_y": psnr_y}, tmp_path, "a")
    asked = toy.scorer.asked
    simulator = make_toy(horizon=2, scorer=toy.scorer).simulator if change == "horizon" else toy.simulator
    cached_tree(
        simulator,
        toy.images[int(change == "image")],
        toy.clean[int(change == "clean")],
        {} if change == "metrics" else {"psnr_y": psnr_y},
        tmp_path,
        "b" if change == "tools" else "a",
    )
    assert toy.scorer.asked > asked and len(list(tmp_path.glob("*.npz"))) == 2


@pytest.mark.parametrize("content", [b"", b"not a zip", None])
def test_a_damaged_file_is_made_again(make_toy, tmp_path, content):
    toy = make_toy(1)
    first = cached_tree(toy.simulator, toy.images[0], folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    again = cached_tree(toy.simulator, toy.images[0], folder=tmp_path)
    np.testing.assert_array_equal(first.scores, again.scores)
    np.testing.assert_array_equal(np.load(path)["scores"], first.scores)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
