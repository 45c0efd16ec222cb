"""Checkpoints recognised from names and shapes alone: every golden's, and near misses that must be refused."""

import inspect
import json
import pathlib

import numpy as np
import pytest

from r1jax.errors import R1JaxError
from r1jax.nets import skeleton
from r1jax.nets.registry import _NETS
from r1jax.weights import export_torch, import_torch, recognise
from r1jax.weights.torch_names import DERIVED, official_entries

GOLDENS = sorted((pathlib.Path(__file__).parents[1] / "goldens").glob("*.npz"))
# What no tensor tells; `recognise` leaves these to the constructor.
NOT_IN_THE_WEIGHTS = {
    "clip_vision": {"num_attention_heads"},
    "hat": {"img_size", "conv_scale"},
    "nafnet_local": {"train_size", "fast_imp"},
    "scunet": {"official_pad", "input_resolution", "drop_path_rate"},
}


def torch_goldens():
    chosen = []
    for path in GOLDENS:
        with np.load(path) as file:
            meta = json.loads(str(file["meta"]))
            if meta.get("layout", "NCHW") == "NCHW" and "kwargs" in meta and file["x"].ndim == 4 and "sd" in str(file.files):
                chosen.append(pytest.param(path, id=path.stem))
    return [param for param in chosen if net_name(param.values[0]) in _NETS]


def net_name(path):
    return path.stem.removesuffix("_realsr")


def load(path):
    with np.load(path) as file:
        state = {key.removeprefix("sd/"): file[key] for key in file.files if key.startswith("sd/")}
        return state, json.loads(str(file["meta"]))["kwargs"]


def plain(value):
    return list(value) if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize("path", torch_goldens())
def test_every_golden(path):
    state, kwargs = load(path)
    expected_net = net_name(path).removesuffix("_local")
    net, config = recognise({"params": state})
    assert net == expected_net
    defaults = {name: p.default for name, p in inspect.signature(_NETS[net].__init__).parameters.items()}
    for key in kwargs.keys() - NOT_IN_THE_WEIGHTS.get(net_name(path), set()):
        assert plain({**defaults, **config}[key]) == plain(kwargs[key]), key


@pytest.mark.parametrize("path", torch_goldens())
def test_export_gives_the_official_state_dict_back(path):
    """Derived buffers included, without which PyTorch's own loaders refuse; but not training's counters."""
    state, kwargs = load(path)
    exported = export_torch(import_torch(skeleton(net_name(path), **kwargs), state))
    expected = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert exported.keys() == expected.keys()
    for name, value in expected.items():
        assert exported[name].dtype == value.dtype, name
        np.testing.assert_allclose(exported[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("path", torch_goldens())
def test_truncated_and_shuffled_ones_are_refused(path):
    state, _ = load(path)
    net = net_name(path).removesuffix("_local")
    gone = max((name for name in state if not DERIVED.search(name)), key=len)  # the deepest: inside of a block
    with pytest.raises(R1JaxError, match=f"not recognised: .*{net}") as caught:
        recognise({name: value for name, value in state.items() if name != gone})
    assert gone in str(caught.value)
    names = list(state)
    order = np.random.default_rng(0).permutation(len(names))
    with pytest.raises(R1JaxError, match=f"not recognised: .*{net}"):
        recognise({names[i]: state[names[j]] for i, j in enumerate(order)})


def test_a_strangers_tensors_are_refused():
    with pytest.raises(R1JaxError, match=r"no known network has such tensors .*known are .*restormer"):
        recognise({"layer4.2.bn3.weight": np.zeros(2048)})


def test_half_a_network_names_the_closest():
    state = export_torch(import_torch(*_filled("nafnet", width=4, enc_blk_nums=(1,), dec_blk_nums=(1,))))
    half = {name: value for name, value in state.items() if not name.startswith("middle_blks")}
    with pytest.raises(R1JaxError, match=r"closest is nafnet, of which middle_blks.0.sca.1.weight"):
        recognise(half)
    assert recognise(state) == (
        "nafnet",
        {"img_channel": 3, "width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]},
    )


@pytest.mark.parametrize(
    "net, config",
    [
        ("dncnn", {"in_nc": 1, "out_nc": 1, "nc": 8, "nb": 4, "act_mode": "BR", "mode": "DnCNN"}),
        ("dncnn", {"in_nc": 4, "out_nc": 3, "nc": 8, "nb": 4, "act_mode": "R", "mode": "FDnCNN"}),
        ("ffdnet", {"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 4}),
        ("rrdbnet", {"num_in_ch": 3, "num_out_ch": 3, "scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}),
        ("srvgg_compact", {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_conv": 2, "upscale": 2, "act_type": "relu"}),
    ],
)
def test_variants(net, config):
    state = _filled(net, **config)[1]
    assert recognise(state) == (net, config)


def _filled(net, **config):
    """A network without values and a state dict of zeros that fits it."""
    module = skeleton(net, **config)
    entries = official_entries(module)
    from r1jax.weights.files import saved_variables

    shapes = {"/".join(map(str, path)): variable.shape for path, variable in saved_variables(module)}
    return module, {name: np.zeros(layout.official_shape(shapes[path])) for name, (path, layout) in entries.items()}
