"""Every network against the reference implementation's own output: tests/goldens/NAME.npz.

A file holds a small, randomly filled instance's state dict (`sd/NAME`), an input `x`, the output `y` and `meta`, a JSON
with the constructor's arguments and the numerical noise of the reference (its float32 against its float64). A new file
is a new test. Torch's arrays are NCHW, the networks' NHWC.
"""

import json
import pathlib

import jax
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from r1jax.nets import skeleton
from r1jax.weights import import_torch

GOLDENS = sorted((pathlib.Path(__file__).parents[1] / "goldens").glob("*.npz"))
# What a file's name adds to the network's.
SUFFIXES = ("_realsr",)


def net_name(path):
    name = path.stem
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def load_golden(path):
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    state_dict = {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")}
    return json.loads(str(arrays["meta"])), state_dict, arrays


def restored(path):
    """The network of a golden, filled, and its metadata and arrays."""
    meta, state_dict, arrays = load_golden(path)
    return import_torch(skeleton(net_name(path), **meta["kwargs"]), state_dict), meta, arrays


def to_nhwc(x):
    return rearrange(x, "b c h w -> b h w c")


def restoration_goldens():
    """Those of PyTorch networks that map an image to an image."""
    chosen = []
    for path in GOLDENS:
        meta, state_dict, arrays = load_golden(path)
        if state_dict and meta.get("layout", "NCHW") == "NCHW" and arrays.get("y", np.empty(0)).ndim == 4:
            chosen.append(pytest.param(path, id=path.stem))
    return chosen


@pytest.mark.parametrize("path", restoration_goldens())
def test_the_official_output(path):
    net, meta, arrays = restored(path)
    graph, params = nnx.split(net)
    y = np.asarray(jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, to_nhwc(arrays["x"])))
    tolerance = 20 * meta["fp32_vs_fp64_maxabs"]
    np.testing.assert_allclose(y, to_nhwc(arrays["y"]), rtol=1e-4, atol=tolerance)


def test_fbcnn_tells_and_is_told_the_quality():
    net, meta, arrays = restored(next(path for path in GOLDENS if path.stem == "fbcnn"))
    x, tolerance = to_nhwc(arrays["x"]), 20 * meta["fp32_vs_fp64_maxabs"]
    told, quality = jax.jit(net.with_quality)(x, np.full((1, 1), 0.35, np.float32))
    np.testing.assert_allclose(quality, arrays["qf"], rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(told, to_nhwc(arrays["y1"]), rtol=1e-4, atol=tolerance)


def test_mprnet_shows_its_earlier_stages():
    net, meta, arrays = restored(next(path for path in GOLDENS if path.stem == "mprnet"))
    for stage, key in zip(jax.jit(net.stages)(to_nhwc(arrays["x"])), ("y", "y1", "y2"), strict=True):
        np.testing.assert_allclose(stage, to_nhwc(arrays[key]), rtol=1e-4, atol=20 * meta["fp32_vs_fp64_maxabs"])
