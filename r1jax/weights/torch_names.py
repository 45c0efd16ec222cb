"""PyTorch state dicts into Flax modules whose attributes carry the official names.

One rule a kind of parameter: a convolution's OIHW becomes HWIO, a linear layer's (out, in) becomes (in, out); names are
joined with dots, and the `layers` of a Flax `Sequential` vanish.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from r1jax.weights.files import flat_state, update_module


def import_torch(module: nnx.Module, state_dict: Mapping[str, np.ndarray]) -> nnx.Module:
    """Fills `module` from a PyTorch state dict with official names and returns it.

    Raises:
      WeightMismatch: names or shapes differ; the names in it are the module's paths.
    """
    official = {_official(path): path for path in flat_state(module)}
    tensors = {official.get(name, name): _to_flax(name, np.asarray(value)) for name, value in state_dict.items()}
    return update_module(module, tensors)


def _official(path: str) -> str:
    parts = [part for part in path.split("/") if part != "layers"]
    leaf = {"kernel": "weight", "scale": "weight"}.get(parts[-1], parts[-1])
    return ".".join([*parts[:-1], leaf])


def _to_flax(name: str, value: Any) -> np.ndarray:
    if name.endswith("weight") and value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if name.endswith("weight") and value.ndim == 2:
        return value.T
    return value
