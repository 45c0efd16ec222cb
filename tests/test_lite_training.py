"""launch/train_lite_tool.py and train_lite_scorer.py: what a run depends on is known before it begins, and kept with it."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from launch_scripts import load

from r1jax.degradations import NamedPhoto
from r1jax.degradations.dataset import photo_hashes
from r1jax.errors import UsageError
from r1jax.images.io import write_image
from r1jax.nets import create
from r1jax.nets.quality_net import expected_score
from r1jax.weights import load_module, weight_file
from r1jax.weights.files import flat_state
from r1jax.weights.recorded import sha256_of, versions


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders of a photo each."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("one", "two"):
        (folder / name).mkdir()
        write_image(folder / name / f"{name}.png", rng.integers(0, 256, (24, 24, 3), np.uint8))
    return folder


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
    script.main()


@pytest.fixture
def fitted(monkeypatch):
    """Makes a script's `fit` return the network as it is, and gives the settings that it was called with."""

    def watch(script):
        calls = []

        def fit(net, batch_at, loss, config, run_dir, settings, *_, **__):
            calls.append(json.loads(json.dumps(settings)))
            return net

        monkeypatch.setattr(script, "fit", fit)
        return calls

    return watch


def test_photos_hash_by_their_pixels_whatever_their_name():
    black, grey = (np.full((2, 2, 3), value, np.uint8) for value in (0, 99))
    one, other = photo_hashes([NamedPhoto("a", black)])["a"], photo_hashes([NamedPhoto("a", grey)])["a"]
    assert one != other and len(one) == 16
    assert photo_hashes([NamedPhoto("a", black), NamedPhoto("a", grey), NamedPhoto("a", black)]) == {"a": f"{one} {other}"}


def test_a_tool_is_fitted_with_what_its_file_then_says(photos, tmp_path, monkeypatch, fitted):
    script = load("train_lite_tool")
    calls, folders = fitted(script), [photos / "one", photos / "two"]
    monkeypatch.setattr(script, "other_tools", lambda name: None)
    command = ("dejpeg", "--photos", *folders, "--run", tmp_path / "run", "--out", tmp_path / "dejpeg.safetensors")
    run(script, monkeypatch, *command, "--init", weight_file("dejpeg"), "--touch")
    [settings] = calls
    _, about = load_module(tmp_path / "dejpeg.safetensors")
    assert about["training"] == settings | {"versions": versions()}
    assert sorted(settings["photos"]) == ["one", "two"] and settings["settings"]["folders"] == ["one", "two"]
    assert settings["settings"]["init_sha256"] == sha256_of(weight_file("dejpeg"))
    assert settings["settings"]["others_sha256"]["denoise"] == sha256_of(weight_file("denoise"))
    run(script, monkeypatch, *command, "--photos", *reversed(folders), "--crop", "96")
    differing = {key for key, value in calls[1]["settings"].items() if value != settings["settings"].get(key)}
    assert differing == {"crop", "folders", "touch"}


# ---------------------------------------------------------------- the scorer


def test_the_model_cards_are_those_of_the_weights_and_figures(tmp_path, monkeypatch):
    script = load("write_model_cards")
    cards = sorted(path for path in script.FOLDER.glob("*.md") if path.stem not in ("agent", "PHOTOS"))
    shutil.copytree(script.FOLDER, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md"))
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    script.main()
    assert len(cards) == 10
    for card in cards:
        assert (tmp_path / card.name).read_text() == card.read_text(), f"{card}: run launch/write_model_cards.py"


@pytest.fixture
def scorer_script(monkeypatch):
    """The script, with groups of grey images in place of tools' outputs."""
    script = load("train_lite_scorer")

    class Maker:
        def __init__(self, *_):
            pass

        def group(self, rng):
            images = rng.integers(0, 256, (script.GROUP, 8, 8, 3), np.uint8)
            kinds = np.zeros((script.GROUP, len(script.KINDS)), np.int8)
            origins, tools = np.arange(script.GROUP, dtype=np.int8) % 4, np.full(script.GROUP, -1, np.int8)
            return script.Group(images, kinds, origins, tools, np.full(script.GROUP, "photo")), images[0]

    def metrics(images, clean):
        psnr = np.linspace(15, 35, len(images), dtype=np.float32)
        return {"psnr_y": psnr, "ms_ssim": psnr / 40, "fsim": psnr / 40}

    monkeypatch.setattr(script, "StateMaker", Maker)
    monkeypatch.setattr(script, "full_reference", metrics)
    # So few images do not show every kind, which its regression needs.
    monkeypatch.setattr(script, "ridge", lambda x, y: (np.zeros(x.shape[1], np.float32), np.float32(0)))
    monkeypatch.setattr(script, "load_published", lambda name: create("efficientnet_lite", seed=3))
    return script


def shards(folder):
    return sorted(path.name for path in folder.glob("*.npz"))


def test_parts_label_one_folder_and_other_settings_do_not(scorer_script, photos, tmp_path, monkeypatch):
    label = ("label", "--data", tmp_path, "--images", 384, "--photos", photos / "one")
    run(scorer_script, monkeypatch, *label, "--part", "0/2")
    assert shards(tmp_path) == ["00000.npz", "00002.npz"]
    run(scorer_script, monkeypatch, *label, "--part", "1/2")
    assert shards(tmp_path) == ["00000.npz", "00001.npz", "00002.npz"]
    held = (tmp_path / "settings.json").read_text()
    others = {
        "seed=0, not 1": ["--seed", 1],
        "crop=128, not 64": ["--crop", 64],
        r"singles=0\.3, not 0\.2": ["--singles", 0.2],
        "vary=False, not True": ["--vary"],
        "plans=None, not True": ["--plans"],
        r"folders=\['one'\], not \['two'\]": ["--photos", photos / "two"],
    }
    for difference, options in others.items():
        with pytest.raises(UsageError, match=f"holds a run with {difference}; use another --data$"):
            run(scorer_script, monkeypatch, *label, *options)
    assert (tmp_path / "settings.json").read_text() == held
    (tmp_path / "settings.json").unlink()
    with pytest.raises(UsageError, match=r"without settings\.json"):
        run(scorer_script, monkeypatch, *label)


def test_other_photos_of_the_same_name_are_seen(scorer_script, tmp_path, monkeypatch):
    label = ("label", "--data", tmp_path / "data", "--images", 128, "--photos", tmp_path / "photos")
    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "a.png", np.full((8, 8, 3), 10, np.uint8))
    run(scorer_script, monkeypatch, *label)
    write_image(tmp_path / "photos" / "a.png", np.full((8, 8, 3), 20, np.uint8), overwrite=True)
    with pytest.raises(UsageError, match=r"photos\.a='\w{16}', not '\w{16}'"):
        run(scorer_script, monkeypatch, *label)


def test_a_scorer_is_fitted_with_what_its_file_then_says(scorer_script, photos, tmp_path, monkeypatch, fitted):
    calls, folders, weights = fitted(scorer_script), [tmp_path / "a", tmp_path / "b"], tmp_path / "scorer.safetensors"
    for folder, name in zip(folders, ("one", "two"), strict=True):
        run(scorer_script, monkeypatch, "label", "--data", folder, "--images", 128, "--photos", photos / name)
    (folders[0] / "00001.tmp.npz").write_bytes(b"half a sha")  # of a kill
    run(scorer_script, monkeypatch, "train", "--data", *folders, "--run", tmp_path / "run", "--out", weights)
    [settings] = calls
    net, about = load_module(weights)
    assert about["training"] == settings | {"versions": versions()}
    stem = flat_state(create("efficientnet_lite", seed=3))["_conv_stem/kernel"]
    np.testing.assert_allclose(flat_state(net.trunk)["_conv_stem/kernel"], stem, atol=1e-3)
    assert settings["settings"]["folders"] == ["a", "b"] and settings["settings"]["images"] == 256
    assert sorted(settings["photos"]) == ["one", "two"]


def test_a_scorer_is_smoothed_from_the_one_it_goes_on_from(scorer_script, photos, tmp_path, monkeypatch, fitted):
    calls, weights = fitted(scorer_script), tmp_path / "scorer.safetensors"
    run(scorer_script, monkeypatch, "label", "--data", tmp_path / "a", "--images", 128, "--photos", photos / "one")
    run(scorer_script, monkeypatch, "smooth", "--data", tmp_path / "a", "--run", tmp_path / "run", "--out", weights)
    [settings] = calls
    net, about = load_module(weights)
    former, of_former = load_module(weight_file("scorer"))
    assert about["training"] == settings | {"versions": versions()}
    assert settings["settings"]["init_sha256"] == sha256_of(weight_file("scorer"))
    assert settings["settings"]["init"] == of_former["training"]["settings"]
    assert set(settings["photos"]) == {"one", *of_former["training"]["photos"]}
    for name, value in flat_state(former).items():  # fitted() leaves the net as it was
        np.testing.assert_array_equal(flat_state(net)[name], value)


def test_smoothing_takes_the_mean_over_shifts_for_right():
    script = load("train_lite_scorer")
    former = create("quality_net", seed=0, hidden=8, width=8)
    loss, rng = script.make_smooth_loss(former), np.random.default_rng(0)
    x, shifts = (rng.standard_normal((n, former.num_statistics)).astype(np.float32) for n in (8, 2))
    shifts *= 3

    def scores(net, x):
        return np.asarray(expected_score(net.heads(x).levels))

    smooth = np.mean([scores(former, x + shift) for shift in shifts], 0)
    assert np.abs(smooth - scores(former, x)).max() > 0.01
    labels = np.linspace(1, 5, 8, dtype=np.float32)
    before = float(loss(former, x, shifts, labels))
    nearer = create("quality_net", seed=0, hidden=8, width=8)
    graph, params, rest = nnx.split(nearer, nnx.Param, ...)
    for _ in range(30):
        gradient = jax.grad(lambda params: loss(nnx.merge(graph, params, rest), x, shifts, smooth))(params)
        params = jax.tree.map(lambda value, slope: value - 3e-3 * slope, params, gradient)
    nearer = nnx.merge(graph, params, rest)
    assert np.abs(scores(nearer, x) - smooth).mean() < np.abs(scores(former, x) - smooth).mean()
    assert float(loss(former, x, shifts, smooth)) < before  # the labels count, too


def test_training_on_a_folder_of_unknown_photos_does_not_begin(scorer_script, tmp_path, monkeypatch, fitted):
    calls = fitted(scorer_script)
    with pytest.raises(UsageError, match=r"holds no settings\.json of labelled images"):
        run(scorer_script, monkeypatch, "train", "--data", tmp_path, "--run", tmp_path / "run")
    assert not calls
