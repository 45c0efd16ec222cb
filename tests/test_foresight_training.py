"""launch/train_foresight.py on a small tree of made-up statistics: it learns, encodes and checks."""

import dataclasses
import functools
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from launch_scripts import load
from safetensors.numpy import save

from r1jax.agent.encoder import encoder
from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation.tree import Tree, read_tree, write_tree
from r1jax.nets.quality_net import expected_score
from r1jax.reward.lite import lite_scorer
from r1jax.tools.lite import LITE_TOOLS, lite_tool
from r1jax.training.tree import META_FILE, describe_encoder, image_path, load_training_tree
from r1jax.weights import load_module
from r1jax.weights.files import read_tensors
from r1jax.weights.recorded import digest, versions

TOOLS, IMAGES = 8, 6


@pytest.fixture(scope="module")
def script():
    return load("train_foresight")


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    """Trees of one call, where tool k adds its own direction to the statistics."""
    folder, rng, quality = tmp_path_factory.mktemp("tree"), np.random.default_rng(0), script.scorer_net()
    effects = rng.normal(size=(TOOLS, quality.num_statistics)) / 4
    for index in range(IMAGES):
        before = rng.normal(size=(1, quality.num_statistics)) / 4
        statistics = np.concatenate([before, before + effects])
        heads = quality.heads(statistics)
        features, scores = np.concatenate([*heads, statistics], -1), np.asarray(expected_score(heads.levels))
        write_tree(image_path(folder, index), Tree(TOOLS, 1, scores, {}, np.arange(1 + TOOLS), features.astype(np.float16)))
    meta = {"name": "x", "encoder": describe_encoder("lite_statistics"), "scorer": "lite (1)", "seed": 0}
    meta |= {"tools": {name: digest(lite_tool(name).params) for name in LITE_TOOLS}}
    meta |= {"dtype": "float16"}
    images = [{"photo": f"photo{i}", "mix": "noise"} for i in range(IMAGES)]
    meta |= {"num_images": IMAGES, "config": {"agent": {}}, "images": images}
    (folder / META_FILE).write_text(json.dumps(meta))
    return folder


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["train_foresight.py", *map(str, arguments)])
    script.main()


def test_it_learns_what_tools_do_and_refuses_to_be_checked_on_its_own_photos(script, folder, tmp_path, monkeypatch):
    weights, fast = tmp_path / "foresight.safetensors", ("--members=2", "--rank=8", "--batch=8", "--steps=200")
    run(script, monkeypatch, "train", folder, "--run", tmp_path / "run", "-o", weights, *fast)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    net, about = load_module(weights)
    moves = script.read_moves(folder)
    gain = np.asarray(jax.jit(functools.partial(net, script.scorer_net()))(moves.statistics))[:, 5 : 5 + TOOLS]
    assert log[-1]["loss"] < 0.1 * log[0]["loss"] and script.explained(gain, moves.gain) > 0.5
    assert sorted(about["training"]["photos"]) == [f"photo{i}" for i in range(IMAGES)]
    held = json.loads((tmp_path / "run" / "checkpoints" / "settings.json").read_text())
    training = held["data"] | {"versions": versions()}
    assert training.pop("scorer") == about["scorer"] and training.pop("tools") == about["tools"]
    assert about["training"] == training
    with pytest.raises(UsageError, match=r"data\.settings\.seed=0, not 1; use another --run"):
        run(script, monkeypatch, "train", folder, "--run", tmp_path / "run", "-o", weights, *fast, "--seed=1")
    with pytest.raises(R1JaxError, match="was trained on the photo photo0"):
        run(script, monkeypatch, "check", folder, "-o", weights)
    further = ("--run", tmp_path / "further", "-o", tmp_path / "further.safetensors", "--init", weights)
    run(script, monkeypatch, "train", folder, *further, *fast[:3], "--steps=2", "--seed=1")
    again, going_on = load_module(tmp_path / "further.safetensors")
    np.testing.assert_allclose(again.kernel1[...], net.kernel1[...], atol=0.02)
    assert going_on["training"]["photos"] == about["training"]["photos"]  # a member goes on with the photos that it knows
    first = json.loads((tmp_path / "further" / "log.jsonl").read_text().splitlines()[0])
    assert first["loss"] < 0.2 * log[0]["loss"]


def test_members_learn_from_all_photos_but_their_share(script, folder, tmp_path, monkeypatch):
    caught = []
    monkeypatch.setattr(script, "fit", lambda net, *rest: caught.extend(rest) or net)
    small = ("--members=3", "--rank=4", "--batch=64")
    run(script, monkeypatch, "train", folder, "--run", tmp_path, "-o", tmp_path / "net.safetensors", *small)
    (batch_at, _, _, _, depends, _), moves = caught, script.read_moves(folder)
    folds = np.array([depends["photos"][photo] for photo in moves.photo])
    assert sorted(folds) == [0, 0, 1, 1, 2, 2]
    before, _, gain, tools = batch_at(7)
    for member in range(3):
        rows = [int(np.abs(moves.statistics - seen).sum(1).argmin()) for seen in before[member]]
        assert set(folds[rows]) == {0, 1, 2} - {member}
        np.testing.assert_array_equal(gain[member], moves.gain[rows])
    assert (tools == np.arange(TOOLS)).all()


def test_apart_shows_each_photo_by_the_member_that_did_not_learn_from_it(script, folder, tmp_path, monkeypatch):
    net, about = load_module(script.weight_file("foresight"))
    folds, quality = about["training"]["photos"], script.scorer_net()
    photos = [next(name for name, fold in folds.items() if fold == member) for member in range(IMAGES)]
    shutil.copytree(folder, tmp_path / "source")
    change_meta(tmp_path / "source", images=[{"photo": photo, "mix": "noise"} for photo in photos])
    run(script, monkeypatch, "encode", tmp_path / "source", "-o", tmp_path / "apart", "--apart")
    tree, source = load_training_tree(tmp_path / "apart"), load_training_tree(folder)
    statistics = source.features[source.roots, -quality.num_statistics :].astype(np.float32)
    by_member = np.asarray(jax.jit(functools.partial(net.by_member, quality))(statistics))
    wanted = by_member[np.arange(IMAGES), np.arange(IMAGES)]
    np.testing.assert_allclose(tree.features[tree.roots], wanted, atol=0.02)
    assert np.abs(np.diff(wanted, axis=0)).max() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tools": {f"tool{k}": "" for k in range(TOOLS)}}, "has the tools tool0, "),
        ({"scorer": "deqa"}, "has the scorer deqa; want lite"),
    ],
)
def test_a_tree_of_other_tools_or_of_another_scorer_is_refused(script, folder, tmp_path, monkeypatch, changes, message):
    shutil.copytree(folder, tmp_path / "tree")
    change_meta(tmp_path / "tree", **changes)
    with pytest.raises(UsageError, match=message):
        run(script, monkeypatch, "train", tmp_path / "tree", "-o", tmp_path / "net.safetensors")


def test_a_tree_of_tools_of_other_weights_is_refused(script, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "tree")
    tools = json.loads((folder / META_FILE).read_text())["tools"]
    change_meta(tmp_path / "tree", tools=tools | {"derain": "", "dehaze": ""})
    message = "tree: its derain, dehaze had other weights than "
    with pytest.raises(UsageError, match=message + "the foresight's; build it anew"):
        run(script, monkeypatch, "encode", tmp_path / "tree", "-o", tmp_path / "encoded")
    with pytest.raises(UsageError, match=message + "the foresight's; build it anew"):
        run(script, monkeypatch, "check", tmp_path / "tree")
    with pytest.raises(UsageError, match=message + "those of "):
        run(script, monkeypatch, "train", folder, tmp_path / "tree", "-o", tmp_path / "net.safetensors")


def test_labelled_images_are_states_with_one_tool(script, folder, tmp_path, monkeypatch):
    labelled, quality, rng = tmp_path / "labelled", script.scorer_net(), np.random.default_rng(1)
    train = ("train", folder, "--labelled", labelled, "--run", tmp_path / "run", "-o", tmp_path / "foresight.safetensors")
    labelled.mkdir()
    with pytest.raises(UsageError, match="labelled: holds no labelled images"):
        run(script, monkeypatch, *train)
    statistics = quality.mean[...] + quality.scale[...] * rng.normal(size=(8, quality.num_statistics)) / 4

    def label(**columns):
        np.savez(labelled / "00000.npz", **columns)
        np.save(labelled / f"00000.{quality.num_statistics}.npy", statistics)  # what the scorer sees, made after the images

    label(photo=np.full(8, "other"))
    with pytest.raises(UsageError, match="do not say which tool made them"):
        run(script, monkeypatch, *train)
    tools, photos = np.array([-1, -1, 3, 5, -1, 0, -1, -1], np.int8), np.array([f"other{i}" for i in range(8)])
    label(photo=photos, tools=tools)
    moves = script.read_labelled(labelled)
    assert moves.tools.tolist() == [[3], [5], [0]]  # of the images 1, 2 and 4
    heads = quality.heads(quality.standardised(statistics))
    score = np.asarray(expected_score(heads.levels))
    np.testing.assert_allclose(moves.gain[:, 0], score[[2, 3, 5]] - score[[1, 2, 4]], atol=1e-4)
    np.testing.assert_allclose(moves.seen[1], np.concatenate([*heads, quality.standardised(statistics)], -1)[2], atol=0.01)
    fast = ("--members=2", "--rank=8", "--batch=8", "--labelled-batch=4", "--steps=2")
    run(script, monkeypatch, *train, *fast)
    _, about = load_module(tmp_path / "foresight.safetensors")
    assert about["training"]["settings"]["labelled_states"] == 3
    assert {"photo0", "other2", "other3", "other5"} <= set(about["training"]["photos"])
    label(photo=np.full(8, "other"), tools=tools)
    with pytest.raises(UsageError, match=r"member [01] would learn from no photo"):
        run(script, monkeypatch, *train, *fast, "--run", tmp_path / "another")


def test_an_encoded_tree_is_one_that_was_built_with_the_encoder(script, folder, tmp_path, monkeypatch, capsys):
    run(script, monkeypatch, "encode", folder, "-o", tmp_path, "--apart")
    tree, source, frozen = load_training_tree(tmp_path), load_training_tree(folder), encoder("lite_foresight")
    assert tree.meta["encoder"].startswith("lite_foresight (")
    assert tree.features.shape == (len(source.scores), frozen.num_features)
    np.testing.assert_array_equal(tree.scores, source.scores)
    net, _ = load_module(script.weight_file("foresight"))
    quality = script.scorer_net()
    statistics = source.features[source.roots, -quality.num_statistics :].astype(np.float32)
    wanted = jax.jit(functools.partial(net, quality))(statistics)
    # Photos that no member learned from: the mean of all.
    np.testing.assert_allclose(tree.features[tree.roots], wanted, atol=0.02)
    assert not np.delete(tree.features, tree.roots, axis=0).any()  # after the only call no decision is made
    run(script, monkeypatch, "check", folder)
    assert json.loads(capsys.readouterr().out)[folder.name]["states"] == IMAGES
    with pytest.raises(UsageError, match=r"build it with --agent\.encoder=lite_statistics"):
        run(script, monkeypatch, "encode", tmp_path, "-o", tmp_path / "again")


def test_beside_keeps_the_statistics(script, folder, tmp_path, monkeypatch):
    for name, also in (("alone", ()), ("both", ("--beside",))):
        run(script, monkeypatch, "encode", folder, "-o", tmp_path / name, *also)
    alone, both, source = (load_training_tree(path) for path in (tmp_path / "alone", tmp_path / "both", folder))
    assert both.meta["encoder"] == describe_encoder("lite_foresight+lite_statistics")
    np.testing.assert_array_equal(both.features, np.concatenate([alone.features, source.features], -1))


def change_meta(folder, **changes):
    path = folder / META_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_of_another_tree_is_not_encoded_into(script, folder, tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(folder, source)
    run(script, monkeypatch, "encode", source, "-o", target)
    held = (target / META_FILE).read_text()
    with pytest.raises(UsageError, match="holds a tree with apart False, not True"):
        run(script, monkeypatch, "encode", source, "-o", target, "--apart")
    change_meta(source, scorer="lite (2)")
    with pytest.raises(UsageError, match=r"holds a tree with scorer lite \(1\), not lite \(2\)"):
        run(script, monkeypatch, "encode", source, "-o", target)
    change_meta(source, scorer="lite (1)", images=[{"photo": f"other{i}", "mix": "noise"} for i in range(IMAGES)])
    with pytest.raises(UsageError, match="holds a tree of other photos"):
        run(script, monkeypatch, "encode", source, "-o", target)
    assert (target / META_FILE).read_text() == held
    shutil.copy(folder / META_FILE, source)
    changed = read_tree(image_path(source, 2))
    write_tree(image_path(source, 2), dataclasses.replace(changed, scores=changed.scores + 1))
    with pytest.raises(UsageError, match=r"00002\.npz: was encoded from another tree than"):
        run(script, monkeypatch, "encode", source, "-o", target)


def save_former(script, path, change):
    """Saves the shipped scorer with a change, and returns the encoder that a tree of it has."""
    metadata, tensors = read_tensors(script.weight_file("scorer"))
    change(tensors)
    path.write_bytes(save(tensors, metadata))
    return f"lite_statistics ({digest(nnx.split(load_module(path)[0])[1])})"


def test_a_tree_of_a_former_scorer_becomes_one_of_the_shipped(script, folder, tmp_path, monkeypatch):
    weights, source = tmp_path / "former.safetensors", tmp_path / "source"
    shutil.copytree(folder, source)

    def change(tensors):
        tensors["levels/bias"] = tensors["levels/bias"] + 1

    change_meta(source, encoder=save_former(script, weights, change), scorer="lite (0)")
    for index in range(IMAGES):
        tree = read_tree(image_path(source, index))
        features = tree.features.copy()
        features[:, : -script.scorer_net().num_statistics] = 7  # what the former's heads said
        write_tree(image_path(source, index), dataclasses.replace(tree, features=features, scores=tree.scores[::-1]))
    run(script, monkeypatch, "rescore", source, "-o", tmp_path / "new", "--former", weights)
    wanted, found = load_training_tree(folder), load_training_tree(tmp_path / "new")
    np.testing.assert_allclose(found.scores, wanted.scores, atol=5e-3)  # its statistics are stored as float16
    assert (found.scores * 4096 % 1 == 0).all()
    np.testing.assert_allclose(found.features.astype(float), wanted.features, atol=0.05)
    np.testing.assert_array_equal(found.children, wanted.children)
    assert found.meta["encoder"] == wanted.meta["encoder"]
    assert found.meta["scorer"] == f"lite ({lite_scorer().version})"
    with pytest.raises(UsageError, match=r"not that of .*scorer\.safetensors"):
        run(script, monkeypatch, "rescore", source, "-o", tmp_path / "x", "--former", script.weight_file("scorer"))


def test_a_scorer_that_looks_otherwise_asks_for_another_tree(script, folder, tmp_path, monkeypatch):
    weights, source = tmp_path / "former.safetensors", tmp_path / "source"
    shutil.copytree(folder, source)
    encoder = save_former(script, weights, lambda tensors: tensors.update(mean=tensors["mean"] + 1))
    change_meta(source, encoder=encoder)
    with pytest.raises(UsageError, match=r"former\.safetensors: looks at other statistics"):
        run(script, monkeypatch, "rescore", source, "-o", tmp_path / "new", "--former", weights)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("arguments", [["tree"], ["tree", "more", "-o", "new"]])
def test_encode_wants_one_tree_and_a_folder(script, monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit):
        run(script, monkeypatch, "encode", *arguments)
    assert "encode: want one TREE" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["tree", "-o", "new"], ["tree", "--former", "file"]])
def test_rescore_wants_the_former_scorer_and_a_folder(script, monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit):
        run(script, monkeypatch, "rescore", *arguments)
    assert "rescore: want one TREE" in capsys.readouterr().err
