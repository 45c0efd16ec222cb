"""Weights of ncnn models: NAME.param (text, one layer a line) and NAME.bin beside it, float32 or float16."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from r1jax.errors import R1JaxError, WeightMismatch
from r1jax.weights.files import update_module

_MAGIC = "7767517"
_FLOAT16, _FLOAT32 = 0x01306B47, 0x0002C056


class Layer(NamedTuple):
    """One convolution; `weight` is [out, in, h, w], that of a transposed one too."""

    name: str
    weight: np.ndarray
    bias: np.ndarray | None


def import_ncnn(module: nnx.Module, path: str | pathlib.Path) -> nnx.Module:
    """Fills `module` from an ncnn model and returns it.

    Conversion to ncnn loses the official names, so layers are taken in the order of the file, which is that of the
    computation. `path` is the .param file.

    Raises:
      R1JaxError: the files are missing, damaged, or quantised to integers, or no order is known for the module.
      WeightMismatch: the layers are not those of the module.
    """
    order = _ORDERS.get(type(module).__name__)
    if order is None:
        raise R1JaxError(f"{path}: no order of layers is known for {type(module).__name__}; there are {', '.join(_ORDERS)}")
    layers, names = list(read_ncnn(path)), order(module)
    if len(layers) != len(names):
        unexpected = [layer.name for layer in layers[len(names) :]]
        raise WeightMismatch(names[len(layers) :], unexpected, [])
    tensors = {f"{name}/kernel": layer.weight.transpose(2, 3, 1, 0) for name, layer in zip(names, layers)}
    tensors |= {f"{name}/bias": layer.bias for name, layer in zip(names, layers) if layer.bias is not None}
    return update_module(module, tensors)


def read_ncnn(path: str | pathlib.Path) -> Iterator[Layer]:
    """Yields the convolutions of an ncnn model in the order of the file.

    Raises:
      R1JaxError: the files are missing, damaged, or quantised to integers.
    """
    path = pathlib.Path(path)
    try:
        lines, data = path.read_text().splitlines(), path.with_suffix(".bin").read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise R1JaxError(f"{path}: cannot be read as an ncnn model ({error})") from None
    if not lines or lines[0].strip() != _MAGIC:
        raise R1JaxError(f"{path}: is no ncnn .param file (its first line is not {_MAGIC})")
    offset = 0
    for line in lines[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        if kind not in ("Convolution", "Deconvolution"):
            continue
        options = dict(option.split("=", 1) for option in rest[int(inputs) + int(outputs) :])
        try:
            layer, offset = _layer(name, options, data, offset)
        except (KeyError, ValueError) as error:
            raise R1JaxError(f"{path}: layer {name} cannot be read ({error})") from None
        yield layer
    if offset != len(data):
        raise R1JaxError(f"{path}: its .bin has {len(data)} bytes, the layers need {offset}")


def _layer(name: str, options: dict[str, str], data: bytes, offset: int) -> tuple[Layer, int]:
    outputs, size, width = int(options["0"]), int(options["6"]), int(options["1"])
    height = int(options.get("11", width))
    flag = int(np.frombuffer(data, np.uint32, 1, offset)[0])
    offset += 4
    if flag == _FLOAT16:
        weight = np.frombuffer(data, np.float16, size, offset).astype(np.float32)
        offset += -(-2 * size // 4) * 4  # to the next four bytes
    elif flag in (0, _FLOAT32):
        weight = np.frombuffer(data, np.float32, size, offset)
        offset += 4 * size
    else:
        raise ValueError("it is quantised; want float16 or float32")
    bias = None
    if options.get("5") == "1":
        bias = np.frombuffer(data, np.float32, outputs, offset)
        offset += 4 * outputs
    return Layer(name, weight.reshape(outputs, -1, height, width), bias), offset


def _rrdbnet(module: Any) -> list[str]:
    blocks = [
        f"body/layers/{block}/rdb{dense}/conv{layer}"
        for block in range(len(module.body.layers))
        for dense in (1, 2, 3)
        for layer in (1, 2, 3, 4, 5)
    ]
    return ["conv_first", *blocks, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]


_ORDERS: dict[str, Callable[[Any], list[str]]] = {
    "RRDBNet": _rrdbnet,
    "UpConv7": lambda module: [f"conv{layer}" for layer in range(1, 8)],
}
