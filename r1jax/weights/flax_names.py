"""Weights whose names are Flax Linen's: .npz checkpoints, and the TF.js graphs that jax2tf made of Flax models.

The module's attributes must carry the official names.
"""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx

from r1jax.errors import R1JaxError
from r1jax.weights.files import saved_variables, update_module

_PREFIXES = ("opt/target/", "params/", "target/")


def import_linen(module: nnx.Module, flat: Mapping[str, np.ndarray]) -> nnx.Module:
    """Fills `module` from flat Linen names ("stage_0_input_conv_0/kernel") and returns it.

    Prefixes that checkpoints of whole trainings have are taken off; whatever is not beneath such a prefix is left out.

    Raises:
      WeightMismatch: names or shapes differ.
    """
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in flat):
            flat = {name.removeprefix(prefix): value for name, value in flat.items() if name.startswith(prefix)}
    return update_module(module, {name: np.asarray(value) for name, value in flat.items()})


def import_tfjs(module: nnx.Module, folder: str | pathlib.Path) -> nnx.Module:
    """Fills `module` from a TF.js graph model that jax2tf made, and returns it.

    Constants are named by what consumes them: a convolution or product holds a kernel, a multiplication a norm's scale,
    an addition a bias. The graph lacks what its output does not need: `module.auxiliary`, name prefixes, says what may be
    missing; it becomes 0.

    Raises:
      R1JaxError: no such model there, or its files are damaged.
      WeightMismatch: names or shapes differ.
    """
    topology, constants = read_tfjs(folder)
    if not isinstance(topology, dict) or "node" not in topology:
        raise R1JaxError(f"{folder}: is no TF.js graph model (no modelTopology.node); import_keras reads layers models")
    ours = {"/".join(map(str, path)): tuple(variable.shape) for path, variable in saved_variables(module)}
    tensors = {}
    for name, consumer, value in _weights(topology, constants):
        leaf, value = _leaf(consumer["op"], value)
        path = _path(name, leaf, ours) or _path(consumer["name"], leaf, ours) or f"{consumer['name']}: {leaf}"
        tensors[path] = value
    unused = tuple(getattr(module, "auxiliary", ()))
    zeros = {name: np.zeros(shape, np.float32) for name, shape in ours.items() if name.startswith(unused)}
    return update_module(module, zeros | tensors)


def read_tfjs(folder: str | pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns (modelTopology, weights by name) of a TF.js model: model.json and its shards.

    Raises:
      R1JaxError: the model is missing, damaged, or stores its weights in a compressed form.
    """
    path = pathlib.Path(folder) / "model.json"
    try:
        model = json.loads(path.read_text())
        weights: dict[str, np.ndarray] = {}
        for group in model["weightsManifest"]:
            data = b"".join((path.parent / shard).read_bytes() for shard in group["paths"])
            weights |= _unpack(path, data, group["weights"])
        return model["modelTopology"], weights
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R1JaxError(f"{path}: cannot be read as a TF.js model ({type(error).__name__}: {error})") from None


def _unpack(path: pathlib.Path, data: bytes, records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    weights, offset = {}, 0
    for record in records:
        dtype = {"float32": np.float32, "int32": np.int32, "bool": np.bool_}.get(record["dtype"])
        if dtype is None or "quantization" in record:
            raise R1JaxError(f"{path}: weight {record['name']} is stored as {record['dtype']}; want plain float32")
        count = math.prod(record["shape"])
        weights[record["name"]] = np.frombuffer(data, dtype, count, offset).reshape(record["shape"])
        offset += count * np.dtype(dtype).itemsize
    return weights


def _weights(topology: Any, constants: dict[str, np.ndarray]) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Yields (name, consumer, value) of every float constant of more than one element."""
    consumers = {source.partition(":")[0].lstrip("^"): node for node in topology["node"] for source in node.get("input", [])}
    for name, value in constants.items():
        if value.dtype == np.float32 and value.size > 1 and name in consumers:
            yield name, consumers[name], value


def _leaf(operation: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    if operation == "Conv2DBackpropInput":  # TensorFlow keeps [h, w, out, in], and lays the kernel the other way round
        return "kernel", value[::-1, ::-1].transpose(0, 1, 3, 2)
    if operation in ("Conv2D", "Einsum", "MatMul"):
        return "kernel", value
    return ("scale" if operation == "Mul" else "bias"), value.reshape(-1)


def _path(name: str, leaf: str, ours: Mapping[str, Any]) -> str | None:
    """The longest official path among the parts of a node's name: ".../backbone/A/B/jit_fn_/Mul_4" -> "A/B/scale"."""
    parts = name.split("/")
    for end in range(len(parts), 0, -1):
        for start in range(end):
            if (path := "/".join([*parts[start:end], leaf])) in ours:
                return path
    return None
