"""Weights of Keras models in TF.js's layers format: model.json, with the layers' configurations, and shards beside it."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from flax import nnx

from r1jax.errors import R1JaxError
from r1jax.weights.files import update_module
from r1jax.weights.flax_names import read_tfjs

_SAME_LAYOUT = ("Conv2D", "Dense")  # kernels [h, w, in, out] and [in, out], as in Flax


def import_keras(module: nnx.Module, folder: str | pathlib.Path) -> nnx.Module:
    """Fills `module`, whose attributes carry the layers' names, from a Keras layers model, and returns it.

    Raises:
      R1JaxError: no such model there, its files are damaged, or a layer with weights is of a kind that is not read.
      WeightMismatch: names or shapes differ.
    """
    path = pathlib.Path(folder) / "model.json"
    topology, tensors = read_tfjs(folder)
    kinds = {layer["config"]["name"]: layer["class_name"] for layer in _layers(topology, path)}
    for name in tensors:
        kind = kinds.get(name.rpartition("/")[0])
        if kind is not None and kind not in _SAME_LAYOUT:
            raise R1JaxError(f"{path}: {name} is of a {kind} layer; weights of {' and '.join(_SAME_LAYOUT)} are read")
    return update_module(module, {name: np.asarray(value) for name, value in tensors.items()})


def _layers(topology: Any, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields every layer, those of models inside a model too."""
    if not isinstance(topology, dict) or "model_config" not in topology:
        raise R1JaxError(f"{path}: is no Keras layers model (its modelTopology has no model_config)")
    waiting = [topology["model_config"]]
    while waiting:
        layer = waiting.pop()
        inner = layer["config"].get("layers")
        if inner is None:
            yield layer
        else:
            waiting += inner
