"""Reading other people's checkpoint files: .safetensors, .npz and PyTorch's own, without ever unpickling code."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from r1jax.errors import R1JaxError
from r1jax.weights.files import read_tensors
from r1jax.weights.torch_names import unwrap
from r1jax.weights.torch_pickle import read_torch_pickle

_TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")


def read_checkpoint(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint file by their official names, containers and prefixes taken off.

    Numbers of any precision become float32; integers stay what they are.

    Raises:
      R1JaxError: the file is missing or damaged, of an unknown kind, holds no tensors, or code instead of tensors.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise R1JaxError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        tensors: Mapping[str, Any] = read_tensors(path)[1]
    elif path.suffix == ".npz":
        tensors = _read_npz(path)
    elif path.suffix in _TORCH_SUFFIXES:
        tensors = read_torch_pickle(path)
        if not isinstance(tensors, Mapping):
            raise R1JaxError(f"{path}: holds a {type(tensors).__name__}, not a state dict")
    else:
        known = ", ".join((".safetensors", ".npz", *_TORCH_SUFFIXES))
        raise R1JaxError(f"{path}: a checkpoint ends in one of {known}")
    arrays = {name: _in_float32(value) for name, value in unwrap(tensors).items() if isinstance(value, np.ndarray)}
    if not arrays:
        raise R1JaxError(f"{path}: holds no tensors")
    return arrays


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise R1JaxError(f"{path}: cannot be read as .npz ({error})") from None


def _in_float32(value: np.ndarray) -> np.ndarray:
    is_float = value.dtype.kind == "f" or value.dtype == ml_dtypes.bfloat16
    return value.astype(np.float32) if is_float else value
