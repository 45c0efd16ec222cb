"""MAXIM against the official Flax code's outputs, and its arrangement for speed against plain code."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r1jax.errors import R1JaxError, WeightMismatch
from r1jax.nets import create, skeleton
from r1jax.nets.maxim import enlarge, pad_as_official, shrink
from r1jax.nets.multi_axis import Axes, Doubling, Keys
from r1jax.weights import flat_state, import_linen, import_tfjs
from r1jax.weights.files import saved_variables

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
TINY = {
    "features": 8,
    "depth": 2,
    "num_stages": 1,
    "num_supervision_scales": 2,
    "high_res_stages": 1,
    "block_size_hr": (4, 4),
    "block_size_lr": (2, 2),
    "grid_size_hr": (4, 4),
    "grid_size_lr": (2, 2),
}


def run(net, x):
    graph, params = nnx.split(net)
    return jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, x)


@pytest.mark.parametrize("name", ["maxim_s2", pytest.param("maxim_s3", marks=pytest.mark.slow)])
def test_the_official_outputs_of_every_stage(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    flat = {f"params/{key[3:]}": value for key, value in arrays.items() if key.startswith("sd/")}
    net = import_linen(skeleton("maxim", **json.loads(str(arrays["meta"]))["kwargs"]), flat)
    graph, params = nnx.split(net)
    outputs = jax.jit(lambda params, x: nnx.merge(graph, params).outputs(x))(params, arrays["x"])
    for stage, images in enumerate(outputs):
        for scale, image in enumerate(images):
            np.testing.assert_allclose(image, arrays[f"out_s{stage}_{scale}"], rtol=1e-4, atol=3e-5)
    np.testing.assert_allclose(outputs[-1][-1], arrays["y"], rtol=1e-4, atol=3e-5)


def test_resizing_is_jax_s_own():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 12, 3)), jnp.float32)
    for factor in (2, 4):
        smaller = jax.image.resize(x, (2, 8 // factor, 12 // factor, 3), "bilinear")
        np.testing.assert_allclose(shrink(x, factor), smaller, atol=1e-6)
        larger = jax.image.resize(x, (2, 8 * factor, 12 * factor, 3), "bilinear")
        np.testing.assert_allclose(enlarge(x, factor), larger, atol=1e-6)
    np.testing.assert_allclose(shrink(x[:, :4, :4], 4), jax.image.resize(x[:, :4, :4], (2, 1, 1, 3), "bilinear"), atol=1e-6)


def test_doubling_is_flax_s_transposed_convolution():
    doubling = Doubling(3, 5, True, Keys(jax.random.key(0)))
    flax = nnx.ConvTranspose(3, 5, (2, 2), strides=(2, 2), rngs=nnx.Rngs(1))
    flax.kernel.set_value(doubling.kernel.get_value())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3, 3)), jnp.float32)
    np.testing.assert_allclose(doubling(x), flax(x), atol=1e-5)


@pytest.mark.parametrize("grid", [True, False])
def test_tokens_are_what_is_mixed(grid):
    x = jnp.arange(2 * 8 * 12).reshape(2, 8, 12, 1)
    axes = Axes((4, 2), grid)
    tokens = axes.tokens(x)
    np.testing.assert_array_equal(axes.image(tokens, x.shape), x)
    # The tokens that are mixed with the first pixel: the corners of all grid cells, or the pixels of its block.
    mixed = x[0, ::2, ::6, 0] if grid else x[0, :4, :2, 0]
    np.testing.assert_array_equal(tokens[:, 0, 0], mixed.reshape(-1))


@pytest.mark.slow
def test_any_size():
    net = create("maxim", **TINY)
    x = jnp.asarray(np.random.default_rng(0).random((2, 13, 22, 3)), jnp.float32)
    padded, top, left = pad_as_official(x, net.multiple)
    assert padded.shape[1] % net.multiple == padded.shape[2] % net.multiple == 0
    y = run(net, x)
    assert y.shape == x.shape
    np.testing.assert_allclose(y, run(net, padded)[:, top : top + 13, left : left + 22], atol=1e-5)


@pytest.mark.slow
def test_bfloat16_is_close():
    x = jnp.asarray(np.random.default_rng(0).random((1, 16, 16, 3)), jnp.float32)
    full, half = run(create("maxim", **TINY), x), run(create("maxim", **TINY, dtype="bfloat16"), x)
    assert half.dtype == jnp.float32
    assert 1e-5 < float(jnp.abs(full - half).max() / jnp.abs(full).max()) < 0.05


def test_linen_names_that_do_not_fit():
    net = skeleton("maxim", **TINY)
    flat = {"/".join(map(str, path)): np.zeros(v.shape, np.float32) for path, v in saved_variables(net)}
    del flat["stage_0_input_conv_0/bias"]
    with pytest.raises(WeightMismatch) as caught:
        import_linen(net, flat | {"stage_9/kernel": np.zeros(1)})
    assert caught.value.missing == ["stage_0_input_conv_0/bias"] and caught.value.unexpected == ["stage_9/kernel"]
    assert not caught.value.misshaped


def write_tfjs(folder, flat):
    """A graph as jax2tf makes it, with the last coarse output folded away."""
    nodes, weights, data = [], [], []
    for number, (name, value) in enumerate(flat.items()):
        if name.startswith("stage_0_output_conv_1/"):
            continue
        module, _, leaf = name.rpartition("/")
        constant, consumer = f"call/backbone/{module}/Reshape_{number}", f"call/backbone/{module}/jit_fn_/Op_{number}"
        operation = {"scale": "Mul", "bias": "AddV2"}.get(leaf, "Conv2D")
        if leaf == "kernel" and "ConvTranspose" in name:
            operation, value = "Conv2DBackpropInput", value.transpose(0, 1, 3, 2)[::-1, ::-1]
        elif leaf == "kernel" and value.ndim == 2:
            operation, constant = "Einsum", f"arg_{number}/ReadVariableOp"
        elif leaf != "kernel":
            value = value.reshape(1, 1, 1, -1)
        nodes.append({"name": consumer, "op": operation, "input": ["x", constant]})
        weights.append({"name": constant, "shape": value.shape, "dtype": "float32"})
        data.append(np.ascontiguousarray(value, np.float32).tobytes())
    blob = b"".join(data)
    (folder / "a.bin").write_bytes(blob[:1001])
    (folder / "b.bin").write_bytes(blob[1001:])
    manifest = [{"paths": ["a.bin", "b.bin"], "weights": weights}]
    (folder / "model.json").write_text(json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": manifest}))


def test_tfjs_graphs(tmp_path):
    net = create("maxim", **TINY)
    rng = np.random.default_rng(0)
    flat = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in flat_state(net).items()}
    write_tfjs(tmp_path, flat)
    for name, value in flat_state(import_tfjs(skeleton("maxim", **TINY), tmp_path)).items():
        np.testing.assert_array_equal(value, 0 if name.startswith("stage_0_output_conv_1/") else flat[name], name)
    (tmp_path / "b.bin").unlink()
    with pytest.raises(R1JaxError, match=r"model\.json: cannot be read"):
        import_tfjs(net, tmp_path)
