"""Catalogue entries describe networks that exist, of the sizes that their authors state."""

import inspect
import math

import numpy as np
import pytest

from r1jax.nets import skeleton
from r1jax.nets.registry import _NETS
from r1jax.weights import recognise
from r1jax.weights.catalogue import catalogue
from r1jax.weights.files import saved_variables
from r1jax.weights.torch_names import official_entries

# Millions of parameters of the official full-size constructors.
QUICK = {"fbcnn-color": 71.922, "drunet-color": 32.641, "nafnet-gopro-32": 17.112, "retinexformer-lol-v1": 1.606}
SLOW = {
    "swinir-denoise-15": 11.504,
    "swinir-jpeg-40": 11.492,
    "swinir-real-m-gan": 11.716,
    "swinir-real-l-gan": 28.013,
    "restormer-derain": 26.127,
    "restormer-denoise": 26.112,
    "nafnet-sidd-64": 115.983,
    "nafnet-sidd-32": 29.160,
    "nafnet-gopro-64": 67.889,
    "xrestormer-denoise": 26.041,
    "mprnet-motion": 20.127,
    "mprnet-denoise": 15.741,
    "mprnet-derain": 3.637,
    "dehazeformer-t-indoor": 0.687,
    "dehazeformer-b-outdoor": 2.518,
    "dehazeformer-m-indoor": 4.636,
    "dehazeformer-l-indoor": 25.452,
    "hat-real-gan-sharper": 20.773,
    "hat-l-x4-imagenet": 40.847,
    "hat-s-x4": 9.621,
    "scunet-real-psnr": 17.946,
    "dncnn-gray-15": 0.555,
    "dncnn-color-blind": 0.668,
    "realesr-general-x4v3": 1.213,
}


def check_size(name, millions):
    entry = catalogue()[name]
    sizes = [math.prod(variable.shape) for _, variable in saved_variables(skeleton(entry.net, **entry.config))]
    assert sum(sizes) / 1e6 == pytest.approx(millions, abs=6e-4)


@pytest.mark.parametrize("name, millions", QUICK.items())
def test_sizes(name, millions):
    check_size(name, millions)


@pytest.mark.slow
@pytest.mark.parametrize("name, millions", SLOW.items())
def test_more_sizes(name, millions):
    check_size(name, millions)


# Assumed to be the published models' where no tensor tells, or told by buffers that are not made here.
NOT_IN_THE_WEIGHTS = {"img_size", "train_size", "hidden_act", "layer_norm_eps", "conv_scale", "scale"}
OFFICIAL = {repr((e.net, e.config)): e for e in catalogue().values() if e.format in ("torch", "safetensors", "clip")}


@pytest.mark.slow
@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in OFFICIAL.values()])
def test_every_entry_is_recognised_by_its_tensors(entry):
    module = skeleton(entry.net, **entry.config)
    shapes = {"/".join(map(str, path)): variable.shape for path, variable in saved_variables(module)}
    official = {name: layout.official_shape(shapes[path]) for name, (path, layout) in official_entries(module).items()}
    net, config = recognise({name: np.broadcast_to(np.float32(0), shape) for name, shape in official.items()})
    assert net == entry.net.removesuffix("_local")
    arguments = inspect.signature(_NETS[net].__init__).parameters
    for key, value in entry.config.items():
        if key == "num_heads" and "attn_ratio" in entry.config:
            # A stage without attention has heads in name only.
            seen = [bool(ratio) for ratio in entry.config["attn_ratio"]]
            assert [n for n, use in zip(config[key], seen, strict=True) if use] == [
                n for n, use in zip(value, seen, strict=True) if use
            ]
        elif key not in NOT_IN_THE_WEIGHTS:
            assert _plain(config.get(key, arguments[key].default)) == pytest.approx(_plain(value), abs=0.01), key


def _plain(value):
    return list(value) if isinstance(value, (tuple, list)) and not isinstance(value[0], str) else value
