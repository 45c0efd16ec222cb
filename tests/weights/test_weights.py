"""Weight files and PyTorch state dicts."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from r1jax.errors import R1JaxError, WeightMismatch
from r1jax.nets import create, skeleton
from r1jax.weights import flat_state, import_torch, load_module, save_module
from r1jax.weights.recorded import versions

CONFIG = {"nc": 6, "nb": 3}


def torch_state_dict(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"model.0": (6, 13, 3, 3), "model.2": (6, 6, 3, 3), "model.4": (12, 6, 3, 3)}
    weights = {f"{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
    biases = {f"{name}.bias": rng.normal(size=shape[0]) for name, shape in shapes.items()}
    return {name: value.astype(np.float32) for name, value in {**weights, **biases}.items()}


def test_torch_names_and_layouts():
    state = torch_state_dict()
    flat = flat_state(import_torch(skeleton("ffdnet", **CONFIG), state))
    np.testing.assert_array_equal(flat["model/layers/2/kernel"], state["model.2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(flat["model/layers/4/bias"], state["model.4.bias"])


def test_a_file_gives_back_the_network(tmp_path):
    # Imported kernels are transposed views: the file must hold them in their own order.
    net = import_torch(create("ffdnet", **CONFIG), torch_state_dict())
    path = tmp_path / "net.safetensors"
    save_module(path, net, "ffdnet", CONFIG, np.float32, training={"seed": 3})
    loaded, metadata = load_module(path)
    assert metadata["training"] == {"seed": 3, "versions": versions()} and metadata["net"] == "ffdnet"
    assert list(versions()) == ["python", "jax", "flax", "numpy"] and versions()["numpy"] == np.__version__
    for name, value in flat_state(net).items():
        np.testing.assert_array_equal(flat_state(loaded)[name], value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_mismatch_lists_everything():
    state = torch_state_dict()
    del state["model.0.bias"]
    state["model.9.bias"] = np.zeros(1, np.float32)
    state["model.4.weight"] = np.zeros((12, 5, 3, 3), np.float32)
    with pytest.raises(WeightMismatch) as caught:
        import_torch(create("ffdnet", **CONFIG), state)
    assert caught.value.missing == ["model.0.bias"]
    assert caught.value.unexpected == ["model.9.bias"]
    assert caught.value.misshaped == [("model.4.weight", (12, 6, 3, 3), (12, 5, 3, 3))]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(R1JaxError, match=r"none\.safetensors"):
        load_module(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(R1JaxError, match=r"text\.safetensors: cannot be read"):
        load_module(tmp_path / "text.safetensors")
    save_file({"a": np.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(R1JaxError, match="names no network"):
        load_module(tmp_path / "plain.safetensors")
