"""Networks in .safetensors files that say what they are.

The file's metadata holds the network's registered name and its configuration, so that `load_module` needs nothing else.
Tensors may be stored as float16 and are float32 once loaded.
"""

import importlib.resources
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from r1jax.errors import R1JaxError, WeightMismatch
from r1jax.files import write_whole
from r1jax.nets import skeleton
from r1jax.weights.recorded import versions

SHIPPED_AGENTS = ("lite", "published")  # the toolboxes that the package has an agent for


def weight_file(name: str, toolbox: str = "lite") -> pathlib.Path:
    """Returns where the package keeps the shipped weights `name`: a lite tool, "scorer", or a toolbox's "agent"."""
    return pathlib.Path(str(importlib.resources.files("r1jax"))) / "assets" / toolbox / f"{name}.safetensors"


def flat_state(module: nnx.Module) -> dict[str, np.ndarray]:
    """Returns every parameter of `module` by its path: "blocks/layers/0/conv1/kernel"."""
    return {"/".join(map(str, path)): np.asarray(variable.get_value()) for path, variable in saved_variables(module)}


def saved_variables(module: nnx.Module) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns (path, variable) of everything that was learned: parameters, and the statistics of batch normalisation."""
    return list(nnx.to_flat_state(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))))


def update_module(module: nnx.Module, tensors: dict[str, np.ndarray]) -> nnx.Module:
    """Fills `module` in place from `flat_state`'s form and returns it.

    Raises:
      WeightMismatch: names or shapes differ.
    """
    state = saved_variables(module)
    ours = {"/".join(map(str, path)): variable for path, variable in state}
    missing, unexpected = sorted(ours.keys() - tensors.keys()), sorted(tensors.keys() - ours.keys())
    shared = ours.keys() & tensors.keys()
    shapes = {name: (tuple(ours[name].shape), tuple(tensors[name].shape)) for name in sorted(shared)}
    misshaped = [(name, a, b) for name, (a, b) in shapes.items() if a != b]
    if missing or unexpected or misshaped:
        raise WeightMismatch(missing, unexpected, misshaped)
    for name, variable in ours.items():
        variable.set_value(jnp.asarray(tensors[name], jnp.float32))
    nnx.update(module, nnx.from_flat_state(state))
    return module


def save_module(
    path: str | pathlib.Path,
    module: nnx.Module,
    name: str,
    config: dict[str, Any],
    dtype: Any = np.float16,
    **metadata: Any,
) -> None:
    """Writes `module`, made by `create(name, **config)`, as a whole; extra metadata must be JSON.

    `training`, where it is among the metadata, gets the versions of what made the weights.
    """
    if "training" in metadata:
        metadata["training"] = {**metadata["training"], "versions": versions()}
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors writes the raw buffer: an array in another memory order would come back scrambled.
    tensors = {key: np.ascontiguousarray(value, dtype) for key, value in flat_state(module).items()}
    described = {"net": name, "config": json.dumps(config), **{k: json.dumps(v) for k, v in metadata.items()}}
    write_whole(path, save(tensors, described))


def load_module(path: str | pathlib.Path) -> tuple[nnx.Module, dict[str, Any]]:
    """Returns the network of a file written by `save_module`, and its metadata.

    Raises:
      R1JaxError: the file is missing, is not .safetensors, or does not say what it holds.
      WeightMismatch: the tensors do not fit the network that the file names.
    """
    metadata, tensors = read_tensors(path)
    if "net" not in metadata:
        raise R1JaxError(f"{path}: names no network in its metadata (expected a file of save_module)")
    described = {key: json.loads(value) for key, value in metadata.items() if key != "net"}
    module = skeleton(metadata["net"], **described.pop("config"))
    return update_module(module, tensors), {"net": metadata["net"], **described}


def read_tensors(path: str | pathlib.Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Returns (metadata, tensors) of a .safetensors file.

    Raises:
      R1JaxError: the file is missing or damaged.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            return dict(file.metadata() or {}), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise R1JaxError(f"{path}: cannot be read as .safetensors ({error})") from None
