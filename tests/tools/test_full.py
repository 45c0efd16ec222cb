"""The toolbox `full` with small untrained networks in a cache of its own."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from r1jax.cli import main
from r1jax.errors import R1JaxError
from r1jax.nets import skeleton
from r1jax.tools import toolbox
from r1jax.tools.full import FULL_TOOLS, WITH_WEIGHTS, restore_centred, restore_told_quality, restore_told_sigma
from r1jax.weights import export_torch
from r1jax.weights.catalogue import catalogue, groups
from r1jax.weights.files import saved_variables, update_module

WINDOWED = {"embed_dim": 8, "depths": [1], "num_heads": [2], "mlp_ratio": 2}
REST = {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "ffn_expansion_factor": 2}
SMALL = {
    "swinir-denoise-15": WINDOWED,
    "swinir-jpeg-40": WINDOWED,
    "swinir-real-l-gan": WINDOWED,
    "hat-real-gan-sharper": {**WINDOWED, "window_size": 4, "squeeze_factor": 4},
    "restormer-defocus": {**REST, "heads": [1, 1, 1, 1]},
    "xrestormer-sr": {**REST, "window_size": 2, "spatial_dim_head": 2, "channel_heads": [1] * 4, "spatial_heads": [1] * 4},
    "mprnet-derain": {"n_feat": 4, "scale_unetfeats": 2, "scale_orsnetfeats": 2, "num_cab": 1},
    "fbcnn-color": {"nc": [4, 4, 4, 512], "nb": 2},
    "dehazeformer-b-outdoor": {"embed_dims": [4, 8, 8, 8, 4], "depths": [1] * 5, "num_heads": [1] * 5},
    "drunet-color": {"nc": [4, 4, 4, 4], "nb": 1},
}
X = jnp.asarray(np.random.default_rng(0).random((2, 13, 22, 3)), jnp.float32)


def untrained(net, config):
    """As `create`, but drawn by numpy: JAX would compile a program for every shape."""
    module, rng = skeleton(net, **config), np.random.default_rng(0)
    shapes = {"/".join(map(str, path)): variable.shape for path, variable in saved_variables(module)}
    return update_module(module, {name: rng.normal(0.1, 0.1, shape) for name, shape in shapes.items()})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of small networks with official names, and the catalogue that they are in."""
    folder = tmp_path_factory.mktemp("full")
    records = []
    for name, config in SMALL.items():
        entry = catalogue()[name]
        config = {**entry.config, **config}
        path = folder / f"{name}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in export_torch(untrained(entry.net, config)).items()}, path)
        record = {"name": name, "source": entry.source, "task": entry.task, "license": entry.license, "net": entry.net}
        file = {"weights": "net.safetensors", "files": {"net.safetensors": None}, "format": "safetensors"}
        records.append({**record, **file, "config": config, "noncommercial": entry.noncommercial})
    (folder / "own.json").write_text(json.dumps({"entries": records}))
    return folder


@pytest.fixture
def own(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("R1JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("R1JAX_CATALOGUE", str(weights / "own.json"))
    return weights


def put(own: pathlib.Path, name: str, *arguments: str) -> int:
    return main(["weights", "pull", name, "--file", str(own / f"{name}.safetensors"), *arguments])


def test_present_tools_run_at_an_odd_size(own, capsys):
    assert toolbox("full").names == ("brighten_shift", "brighten_gamma", "clahe")
    for name in SMALL:
        assert put(own, name, "--accept-license") == 0
    assert "has no sha256 in the catalogue; recorded " in capsys.readouterr().out
    box = toolbox("full")
    told = capsys.readouterr().err
    assert "`r1jax weights pull " in told and "maxim-denoising" in told and "restormer-derain" in told
    assert "restormer-defocus" not in told
    expected = {name for name, spec in FULL_TOOLS.items() if spec.weights in SMALL}
    assert set(box.names) == expected | {"brighten_shift", "brighten_gamma", "clahe"}
    for tool in box.tools:
        assert jax.eval_shape(tool.checked_apply, tool.params, X).shape == X.shape, tool.name


@pytest.mark.parametrize("name", ["drunet_denoise", "fbcnn_dejpeg_5"])
def test_values_are_an_images(own, name):
    assert put(own, FULL_TOOLS[name].weights) == 0
    check_values(toolbox(name).tools[0])


@pytest.mark.slow
@pytest.mark.parametrize("weights_name", SMALL)
def test_values_of_every_tool(own, weights_name):
    assert put(own, weights_name, "--accept-license") == 0
    for name, spec in FULL_TOOLS.items():
        if spec.weights == weights_name:
            check_values(toolbox(name).tools[0])


def check_values(tool):
    y = np.asarray(jax.jit(tool.checked_apply)(tool.params, X))
    assert y.shape == X.shape and np.isfinite(y).all() and 0 <= y.min() <= y.max() <= 1
    assert np.abs(y - np.asarray(X)).max() > 1e-3


def test_missing_weights_name_the_command(own):
    with pytest.raises(R1JaxError, match="r1jax weights pull swinir-denoise-50"):
        toolbox("swinir_denoise_50")


def test_weights_of_a_page_come_by_hand(own, capsys):
    assert main(["weights", "pull", "mprnet-derain"]) == 1
    line = capsys.readouterr().err
    assert "https://drive.google.com/" in line and "--file FILE --accept-license" in line and line.count("\n") == 1
    assert put(own, "mprnet-derain") == 2 and "--accept-license" in capsys.readouterr().err
    assert put(own, "mprnet-derain", "--accept-license") == 0
    capsys.readouterr()
    assert main(["weights", "verify", "mprnet-derain"]) == 0
    assert "unverified (sha256 at its first download: " in capsys.readouterr().out
    path = next(pathlib.Path(own).glob("mprnet*"))
    cached = pathlib.Path(main_path(capsys, "mprnet-derain")) / "net.safetensors"
    cached.write_bytes(path.read_bytes()[:-1])
    assert main(["weights", "verify", "mprnet-derain"]) == 1
    assert main(["weights", "list", "mprnet-derain"]) == 0
    printed = capsys.readouterr().out
    assert "NON-COMMERCIAL" in printed and "unverified; download by hand" in printed


def main_path(capsys, name: str) -> str:
    assert main(["weights", "path", name]) == 0
    return capsys.readouterr().out.strip()


def test_every_tool_has_its_weights_in_the_group():
    assert {spec.weights for spec in WITH_WEIGHTS.values()} == set(groups()["full"])


class Spy(nnx.Module):
    """Returns its input's first channels and keeps what it was called with."""

    def __call__(self, x, *told):
        self.seen = nnx.data((x, *told))
        return x[..., :3]


def test_what_networks_are_told():
    net = Spy()
    np.testing.assert_allclose(restore_centred(net, X), X, atol=1e-6)
    assert float(net.seen[0].min()) < -0.9
    restore_told_quality(net, X, 5)
    np.testing.assert_allclose(net.seen[1], np.full((2, 1), 0.95), atol=1e-6)
    noisy = 0.5 + 0.1 * jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    restore_told_sigma(net, noisy)
    assert net.seen[0].shape == (1, 64, 64, 4)
    np.testing.assert_allclose(net.seen[0][..., 3], 0.1, rtol=0.1)
