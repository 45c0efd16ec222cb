"""DeQA-Score from a checkpoint in the published layout, made here at tiny size."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import tiny_owl

from r1jax.errors import R1JaxError, UsageError, WeightMismatch
from r1jax.nets import skeleton
from r1jax.reward import scorer
from r1jax.reward.deqa import _fingerprint, network_config
from r1jax.weights import import_torch


@pytest.fixture(scope="module")
def named():
    return tiny_owl.tensors()


@pytest.fixture(scope="module")
def folder(named, tmp_path_factory):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    return tiny_owl.write(tmp_path_factory.mktemp("owl"), {**named, **extra})


@pytest.fixture(scope="module")
def built(folder):
    return scorer("deqa", {"checkpoint": str(folder), "dtype": "float32", "batch_size": 4})


def by_hand(folder, named, image):
    """The authors' recipe: pad to a square, resize, normalise, 92 tokens, softmax over five words."""
    height, width, _ = image.shape
    side = max(height, width)
    canvas = Image.new("RGB", (side, side), (122, 116, 104))
    canvas.paste(Image.fromarray(image), ((side - width) // 2, (side - height) // 2))
    x = np.asarray(canvas.resize((28, 28), Image.Resampling.BICUBIC), np.float32) / 255
    x = (x - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    module = import_torch(skeleton("mplug_owl2", **network_config(folder)), named)
    before = "1 3148 1001 29901 1128 723 366 6554 278 11029 310 445 1967 29973 13"
    after = "29871 13 22933 9047 13566 29901 450 11029 310 278 1967 338"
    ids = np.array([[int(word) for word in f"{before} -200 {after}".split()]])
    logits = module(jnp.asarray(x, jnp.float32)[None], ids)
    assert logits.shape == (1, 92, 32000)
    share = jax.nn.softmax(logits[0, -1, np.array([15129, 1781, 6534, 6460, 4319])])
    return float(share @ jnp.array([5.0, 4, 3, 2, 1]))


def test_scores_are_those_of_the_authors_recipe(built, folder, named):
    pictures = tiny_owl.images(8)
    scores = built.score(pictures)
    assert scores.std() > 1e-3 and scores.dtype == np.float32
    np.testing.assert_allclose(scores[:2], [by_hand(folder, named, image) for image in pictures[:2]], atol=1e-4)
    np.testing.assert_allclose(built.score(pictures[:1]), scores[:1], atol=1e-5)
    np.testing.assert_allclose(built.score(pictures[5:2:-1]), scores[5:2:-1], atol=1e-5)
    assert built.score(pictures[:0]).shape == (0,)


def test_inside_a_program_it_scores_the_same(built):
    pictures = tiny_owl.images(3, 28, 28)
    inside = jax.jit(built.graph.apply)(built.graph.params, pictures.astype(np.float32) / 255)
    np.testing.assert_allclose(inside, built.score(pictures), atol=1e-4)
    pictures = tiny_owl.images(2, 40, 52)
    inside = jax.jit(built.graph.apply)(built.graph.params, pictures.astype(np.float32) / 255)
    np.testing.assert_allclose(inside, built.score(pictures), atol=0.05)


def test_q_align_asks_the_same_question_of_another_checkpoint(built, folder):
    other = scorer("q-align", {"checkpoint": str(folder), "dtype": "float32"})
    np.testing.assert_allclose(other.score(tiny_owl.images(1)), built.score(tiny_owl.images(1)), atol=1e-5)


def test_a_published_name_is_found_in_the_download_cache(folder, tmp_path, monkeypatch):
    """Without network: the cache of Hugging Face's client, as a download leaves it."""
    import huggingface_hub.constants as hub

    place, commit = tmp_path / "models--zhiyuanyou--DeQA-Score-Mix3", "a" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "snapshots").mkdir()
    (place / "snapshots" / commit).symlink_to(folder)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    by_name = scorer("deqa", {"dtype": "float32"})
    by_folder = scorer("deqa", {"dtype": "float32", "checkpoint": str(folder)})
    assert by_name.name == "zhiyuanyou/DeQA-Score-Mix3" and by_name.version == f"{commit[:12]}-float32"
    jax.tree.map(np.testing.assert_array_equal, by_name.graph.params, by_folder.graph.params)
    with pytest.raises(R1JaxError, match=r"'q-future/one-align': no such folder, and no download"):
        scorer("q-align")


def test_the_version_follows_weights_of_equal_names_and_sizes(tmp_path):
    shard = tmp_path / "model.safetensors"
    versions = set()
    for value in (0, 1):
        shard.write_bytes(bytes(1 << 17) + bytes([value]))
        versions.add(_fingerprint(str(tmp_path), tmp_path))
    assert len(versions) == 2


@pytest.mark.torch
def test_a_checkpoint_of_bin_shards_loads_the_same(built, named, tmp_path):
    folder = tiny_owl.write(tmp_path, named, kind="bin")
    other = scorer("deqa", {"checkpoint": str(folder), "dtype": "float32"})
    np.testing.assert_allclose(other.score(tiny_owl.images(2)), built.score(tiny_owl.images(2)), atol=1e-5)


def test_what_does_not_fit_is_named(named, tmp_path):
    def load(folder):
        scorer("deqa", {"checkpoint": str(folder), "dtype": "float32"})

    cut = {name: value for name, value in named.items() if name != "lm_head.weight"}
    cut["model.norm.weight"] = cut["model.norm.weight"][:7]
    cut["model.extra.weight"] = np.ones(3, np.float32)
    with pytest.raises(WeightMismatch) as caught:
        load(tiny_owl.write(tmp_path / "cut", cut))
    assert caught.value.missing == ["lm_head.weight"] and caught.value.unexpected == ["model.extra.weight"]
    assert caught.value.misshaped == [("model.norm.weight", (32,), (7,))]

    folder = tiny_owl.write(tmp_path / "lost", named)
    shard = folder / "model-00002-of-00003.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(R1JaxError, match=r"00002-of-00003.*is cut off"):
        load(folder)
    shard.unlink()
    with pytest.raises(R1JaxError, match=r"names model-00002-of-00003.*, which is not there"):
        load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(R1JaxError, match="describes no mPLUG-Owl2"):
        load(folder)
    with pytest.raises(UsageError, match="devices=99: JAX has"):
        scorer("deqa", {"checkpoint": str(tmp_path / "cut"), "devices": 99})


def in_process(command, folder, **env):
    here = pathlib.Path(__file__)
    path = os.pathsep.join([str(here.parents[2]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(here.with_name("tiny_owl.py")), command, str(folder)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **env},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.slow
def test_four_devices_share_the_network_and_score_the_same(built, folder):
    told = in_process("devices", folder, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    np.testing.assert_allclose(told["scores"], built.score(tiny_owl.images(3)), atol=1e-4)
    assert told["sharded"]["model/layers/0/self_attn/q_proj/kernel"] == [None, "model"]
    assert told["sharded"]["model/layers/0/self_attn/o_proj/kernel"] == ["model", None]
    assert told["held"] < 0.3 * 4 * sum(leaf.size for leaf in jax.tree.leaves(built.graph.params))


@pytest.mark.slow
def test_loading_takes_at_most_a_fifth_more_than_the_network(tmp_path):
    size = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    config = {**tiny_owl.CONFIG, **size}
    folder = tiny_owl.write(tmp_path, tiny_owl.tensors(config), config=config)
    told = in_process("memory", folder)
    assert told["final"] > 200e6
    assert told["grown"] <= 1.2 * told["final"], told
