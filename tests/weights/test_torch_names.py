"""One layout rule a kind of parameter, and checkpoint files of every format."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from r1jax.errors import R1JaxError
from r1jax.weights import export_torch, flat_state, import_torch, read_checkpoint


class Everything(nnx.Module):
    """One layer of every kind; `layers` is a list of the author's, which must not vanish from the names."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(4, 6, (3, 2), feature_group_count=2, rngs=rngs)
        self.line = nnx.Conv(4, 6, (5,), rngs=rngs)
        self.up = nnx.ConvTranspose(3, 2, (2, 2), strides=(2, 2), padding="VALID", rngs=rngs)
        self.layers = nnx.List([nnx.Sequential(nnx.relu, nnx.Linear(2, 3, rngs=rngs)), nnx.LayerNorm(3, rngs=rngs)])
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
        self.act = nnx.PReLU()
        self.words = nnx.Embed(5, 3, rngs=rngs)
        self.beta = nnx.Param(jnp.zeros((1, 1, 1, 3)))
        self.table = nnx.Param(jnp.zeros((9, 2)))


SHAPES = {
    "conv.weight": (6, 2, 3, 2),
    "conv.bias": (6,),
    "line.weight": (6, 4, 5),
    "line.bias": (6,),
    "up.weight": (3, 2, 2, 2),
    "up.bias": (2,),
    "layers.0.1.weight": (3, 2),
    "layers.0.1.bias": (3,),
    "layers.1.weight": (3,),
    "layers.1.bias": (3,),
    "norm.weight": (3,),
    "norm.bias": (3,),
    "norm.running_mean": (3,),
    "norm.running_var": (3,),
    "act.weight": (),
    "words.weight": (5, 3),
    "beta": (1, 3, 1, 1),
    "table": (9, 2),
}


def state_dict():
    rng = np.random.default_rng(0)
    return {name: rng.random(shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_every_kind_has_its_layout():
    state = state_dict()
    module = import_torch(nnx.eval_shape(Everything), state)
    exported = export_torch(module)
    assert exported.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(exported[name], value, err_msg=name)
    flat = flat_state(module)
    assert flat["conv/kernel"].shape == (3, 2, 2, 6) and flat["line/kernel"].shape == (5, 4, 6)
    np.testing.assert_array_equal(flat["layers/0/layers/1/kernel"], state["layers.0.1.weight"].T)
    np.testing.assert_array_equal(flat["beta"][0, 0, 0], state["beta"][0, :, 0, 0])


def test_transposed_convolutions_are_torchs():
    """Torch scatters: y[2i + a, 2j + b] = sum_c x[i, j, c] w[c, :, a, b] + bias."""
    state = state_dict()
    module = import_torch(nnx.eval_shape(Everything), state)
    x = np.random.default_rng(1).random((1, 2, 3, 3)).astype(np.float32)
    y = np.asarray(module.up(jnp.asarray(x)))
    expected = np.einsum("bijc,cdxy->bixjyd", x, state["up.weight"]).reshape(1, 4, 6, 2) + state["up.bias"]
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    "container", ["params", "params_ema", "params-ema", "state_dict", "model_state_dict", "weights", "only"]
)
@pytest.mark.parametrize("prefix", ["module.", "netG.", "module.netG."])
def test_containers_prefixes_and_derived_buffers_are_passed_over(container, prefix):
    extra = {"norm.num_batches_tracked": np.array(3), "a.relative_position_index": np.zeros(4, np.int64)}
    nested = {container: {prefix + name: value for name, value in {**state_dict(), **extra}.items()}}
    if container != "only":
        nested["iteration"] = 7
    imported = flat_state(import_torch(nnx.eval_shape(Everything), nested))
    for name, value in flat_state(import_torch(nnx.eval_shape(Everything), state_dict())).items():
        np.testing.assert_array_equal(imported[name], value)


def test_averaged_weights_are_preferred():
    averaged, raw = state_dict(), {name: value + 1 for name, value in state_dict().items()}
    module = import_torch(nnx.eval_shape(Everything), {"params": raw, "params_ema": averaged})
    np.testing.assert_array_equal(flat_state(module)["table"], averaged["table"])


def test_npz_and_safetensors(tmp_path):
    state = state_dict()
    np.savez(tmp_path / "w.npz", **state)
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "w.safetensors")
    for file in ("w.npz", "w.safetensors"):
        read = read_checkpoint(tmp_path / file)
        assert read.keys() == state.keys()
        np.testing.assert_array_equal(read["beta"], state["beta"])


def test_bad_checkpoints_are_named(tmp_path):
    for name, content, reason in [
        ("a.npz", b"text", "cannot be read"),
        ("a.txt", b"text", "ends in one of"),
        ("a.safetensors", b"text", "cannot be read"),
        ("a.pth", pickle.dumps([1, 2]), "cannot be read"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(R1JaxError, match=rf"{name}.*{reason}"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(R1JaxError, match=r"none\.pth: no such file"):
        read_checkpoint(tmp_path / "none.pth")
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(R1JaxError, match="holds no tensors"):
        read_checkpoint(tmp_path / "empty.npz")
