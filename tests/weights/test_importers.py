"""Importers that need no other framework: ncnn and Keras models, and PyTorch's files without PyTorch."""

import json
import pathlib
import pickle
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r1jax.errors import R1JaxError, WeightMismatch
from r1jax.nets import create, skeleton
from r1jax.nets.upconv7 import Deconvolution
from r1jax.weights import flat_state, import_tfjs, read_checkpoint, update_module
from r1jax.weights.keras import import_keras
from r1jax.weights.ncnn import import_ncnn, read_ncnn
from r1jax.weights.published import load_published
from r1jax.weights.torch_pickle import read_torch_pickle

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"  # torch_*.pth: written by torch 2.14
WIDTHS = (4, 4, 4, 4, 4, 5)


def write_ncnn(folder, half=True, drop=0):
    """A small UpConv7; returns the weights, [out, in, h, w], and biases."""
    rng, lines, data, layers = np.random.default_rng(0), [], [], []
    shapes = [(after, before, 3, 3) for before, after in zip((3, *WIDTHS), WIDTHS)] + [(3, WIDTHS[-1], 4, 4)]
    for number, shape in enumerate(shapes[: len(shapes) - drop], 1):
        kind = "Convolution" if shape[-1] == 3 else "Deconvolution"
        weight, bias = rng.normal(size=shape), rng.normal(size=shape[0]).astype(np.float32)
        size = weight.size
        lines.append(f"{kind} conv{number} 1 1 in{number} out{number} 0={shape[0]} 1={shape[-1]} 5=1 6={size} -23310=1,0.1")
        raw = weight.astype(np.float16 if half else np.float32)
        flag = np.uint32(0x01306B47 if half else 0)
        data += [flag.tobytes(), raw.tobytes(), b"\0" * (-raw.nbytes % 4), bias.tobytes()]
        layers.append((raw.astype(np.float32), bias))
    header = ["7767517", "9 9", "Input input 0 1 in1 0=8 1=8 2=3"]
    (folder / "net.param").write_text("\n".join(header + lines) + "\n")
    (folder / "net.bin").write_bytes(b"".join(data))
    return layers


@pytest.mark.parametrize("half", [True, False])
def test_ncnn_layers_in_the_order_of_the_computation(tmp_path, half):
    layers = write_ncnn(tmp_path, half)
    net = import_ncnn(skeleton("upconv7", widths=WIDTHS), tmp_path / "net.param")
    flat = flat_state(net)
    for number, (weight, bias) in enumerate(layers, 1):
        np.testing.assert_array_equal(flat[f"conv{number}/kernel"], weight.transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(flat[f"conv{number}/bias"], bias)
    assert net(jnp.zeros((2, 5, 6, 3))).shape == (2, 10, 12, 3)


def test_ncnn_files_that_do_not_fit(tmp_path):
    write_ncnn(tmp_path, drop=1)
    with pytest.raises(WeightMismatch, match="missing conv7"):
        import_ncnn(skeleton("upconv7", widths=WIDTHS), tmp_path / "net.param")
    with pytest.raises(R1JaxError, match="no order of layers is known for FFDNet"):
        import_ncnn(skeleton("ffdnet"), tmp_path / "net.param")
    data = (tmp_path / "net.bin").read_bytes()
    (tmp_path / "net.bin").write_bytes(data + b"more")
    with pytest.raises(R1JaxError, match="the layers need"):
        list(read_ncnn(tmp_path / "net.param"))
    (tmp_path / "net.bin").write_bytes(data[:100])
    with pytest.raises(R1JaxError, match="layer conv1 cannot be read"):
        list(read_ncnn(tmp_path / "net.param"))
    (tmp_path / "net.param").write_text("text")
    with pytest.raises(R1JaxError, match=r"no ncnn \.param file"):
        list(read_ncnn(tmp_path / "net.param"))


SMALL_RRDN = {"C": 2, "D": 1, "G": 3, "G0": 4, "T": 1, "x": 2}


def write_keras(folder, flat, kind="Conv2D"):
    """A Functional model of a network's layers, as TensorFlow.js's converter writes it."""
    names = {name.rpartition("/")[0] for name in flat}
    layers = [{"class_name": kind, "config": {"name": name}} for name in sorted(names)]
    layers.append({"class_name": "MultiplyBeta", "config": {"name": "multiply_beta"}})
    topology = {"model_config": {"class_name": "Functional", "config": {"name": "model", "layers": layers}}}
    weights = [{"name": name, "shape": value.shape, "dtype": "float32"} for name, value in flat.items()]
    (folder / "a.bin").write_bytes(b"".join(value.tobytes() for value in flat.values()))
    manifest = [{"paths": ["a.bin"], "weights": weights}]
    (folder / "model.json").write_text(json.dumps({"modelTopology": topology, "weightsManifest": manifest}))


def random_rrdn():
    rng, net = np.random.default_rng(0), create("rrdn", **SMALL_RRDN)
    return {name: rng.normal(size=value.shape).astype(np.float32) for name, value in flat_state(net).items()}


def test_keras_layers_by_their_names(tmp_path):
    flat = random_rrdn()
    write_keras(tmp_path, flat)
    net = import_keras(skeleton("rrdn", **SMALL_RRDN), tmp_path)
    for name, value in flat_state(net).items():
        np.testing.assert_array_equal(value, flat[name], name)
    assert net(jnp.zeros((2, 5, 6, 3))).shape == (2, 10, 12, 3)


def test_keras_models_that_do_not_fit(tmp_path):
    flat = random_rrdn()
    del flat["SR/bias"]
    flat |= {"extra/kernel": np.zeros(2, np.float32), "F_1_1_1/bias": np.zeros(7, np.float32)}
    write_keras(tmp_path, flat)
    with pytest.raises(WeightMismatch) as caught:
        import_keras(skeleton("rrdn", **SMALL_RRDN), tmp_path)
    assert caught.value.missing == ["SR/bias"] and caught.value.unexpected == ["extra/kernel"]
    assert caught.value.misshaped == [("F_1_1_1/bias", (3,), (7,))]
    with pytest.raises(R1JaxError, match=r"no TF\.js graph model"):
        import_tfjs(skeleton("rrdn", **SMALL_RRDN), tmp_path)
    write_keras(tmp_path, flat, kind="Conv2DTranspose")
    with pytest.raises(R1JaxError, match="is of a Conv2DTranspose layer"):
        import_keras(skeleton("rrdn", **SMALL_RRDN), tmp_path)
    (tmp_path / "model.json").write_text('{"modelTopology": {"node": []}, "weightsManifest": []}')
    with pytest.raises(R1JaxError, match="no Keras layers model"):
        import_keras(skeleton("rrdn", **SMALL_RRDN), tmp_path)


def test_rrdn_is_the_layers_one_by_one():
    flat, x = random_rrdn(), np.random.default_rng(1).normal(size=(1, 4, 5, 3)).astype(np.float32)
    net = update_module(create("rrdn", **SMALL_RRDN), flat)

    def layer(name, x):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        return np.einsum("bhwcij,ijcd->bhwd", windows, flat[f"{name}/kernel"]) + flat[f"{name}/bias"]

    first = layer("Pre_blocks_conv", x)
    dense = first
    for number in (1, 2):
        dense = np.concatenate([dense, np.maximum(layer(f"F_1_1_{number}", dense), 0)], -1)
    block = first + 0.2 * layer("LFF_1_1", dense)
    y = layer("PreShuffle", layer("post_blocks_conv", first + 0.2 * block) + first)
    large = np.zeros((1, 8, 10, 3), np.float32)
    for ry in range(2):
        for rx in range(2):
            large[:, ry::2, rx::2] = y[..., 3 * (2 * ry + rx) : 3 * (2 * ry + rx) + 3]
    np.testing.assert_allclose(net(jnp.asarray(x)), layer("SR", large), rtol=1e-3, atol=1e-2)


def test_the_deconvolution_is_the_transposed_convolution():
    layer = Deconvolution(3, 2, nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 7, 3)), jnp.float32)
    spread = jax.lax.conv_general_dilated(
        x,
        layer.kernel[...][::-1, ::-1],
        (1, 1),
        [(0, 0), (0, 0)],  # padding 3 of a 4-wide kernel leaves 3 - 3
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(layer(x), spread, atol=1e-5)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_torch_files_without_torch(form, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    read = read_torch_pickle(GOLDENS / f"torch_{form}.pth")
    assert read["epoch"] == 4 and read["best_psnr"] == 31.5 and read["size"] == (4, 6)
    assert read["params"]["module.half"].dtype == np.float16 and read["params"]["module.brain"].dtype == jnp.bfloat16
    tensors = read_checkpoint(GOLDENS / f"torch_{form}.pth")
    expected = {"a.weight": base.T, "a.bias": base[1], "half": base, "brain": base[0], "count": np.int64(3)}
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(tensors[name], value)
        assert tensors[name].dtype == value.dtype, name


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_torch_files_that_end_early(tmp_path, form, share):
    data = (GOLDENS / f"torch_{form}.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(data[: int(share * len(data))])
    with pytest.raises(R1JaxError, match=r"a\.pth: cannot be read as a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_as_this_torch_writes_them(tmp_path, zipped):
    import torch

    base = torch.arange(24.0).reshape(4, 6)
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    content = {str(dtype): base.to(dtype).T[1:] for dtype in (*dtypes, torch.bool)}
    content |= {"p": torch.nn.Parameter(base), "empty": base[:0], "again": base[2:, ::2]}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    read = read_torch_pickle(tmp_path / "a.pth")
    assert read.keys() == content.keys()
    for name, value in content.items():
        np.testing.assert_array_equal(read[name].astype(np.float64), value.detach().double().numpy())


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_code_in_a_torch_file_is_never_executed(tmp_path, capsys):
    for content in (pickle.dumps(Evil()), pickle.dumps({"a": Evil()}, 2)):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(R1JaxError, match=r"a\.pth: holds more than tensors, which is never executed"):
            read_torch_pickle(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("z/data.pkl", pickle.dumps({"a": Evil()}, 2))
    with pytest.raises(R1JaxError, match=r"z\.pth: holds more than tensors, which is never executed \(\w+\.print"):
        read_torch_pickle(tmp_path / "z.pth")
    assert "executed" not in capsys.readouterr().out
    (tmp_path / "b.pth").write_bytes(b"no pickle")
    with pytest.raises(R1JaxError, match=r"b\.pth"):
        read_torch_pickle(tmp_path / "b.pth")


def test_published_weights_that_are_missing_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("R1JAX_CACHE", str(tmp_path))
    with pytest.raises(R1JaxError, match="r1jax weights pull maxim-deraining"):
        load_published("maxim-deraining")
