"""Reading other people's checkpoint files: .safetensors, .npz and PyTorch's own, without ever unpickling code."""

import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from r1jax.errors import R1JaxError
from r1jax.weights.files import read_tensors
from r1jax.weights.torch_names import unwrap

_TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")


def read_checkpoint(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint file by their official names, containers and prefixes taken off.

    Raises:
      R1JaxError: the file is missing or damaged, of an unknown kind, holds no tensors, holds code instead of tensors, or
        is PyTorch's and torch is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise R1JaxError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        tensors: Mapping[str, Any] = read_tensors(path)[1]
    elif path.suffix == ".npz":
        tensors = _read_npz(path)
    elif path.suffix in _TORCH_SUFFIXES:
        tensors = _read_torch(path)
    else:
        known = ", ".join((".safetensors", ".npz", *_TORCH_SUFFIXES))
        raise R1JaxError(f"{path}: a checkpoint ends in one of {known}")
    arrays = {name: value for name, value in unwrap(tensors).items() if isinstance(value, np.ndarray)}
    if not arrays:
        raise R1JaxError(f"{path}: holds no tensors")
    return arrays


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise R1JaxError(f"{path}: cannot be read as .npz ({error})") from None


def _read_torch(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError:
        hint = "pip install torch, or convert the file to .safetensors"
        raise R1JaxError(f"{path}: reading PyTorch's format needs torch; {hint}") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise R1JaxError(f"{path}: holds more than tensors, which is never executed ({reason})") from None
    except (OSError, RuntimeError, EOFError) as error:
        raise R1JaxError(f"{path}: cannot be read as a PyTorch checkpoint ({str(error).splitlines()[0]})") from None
    if not isinstance(loaded, Mapping):
        raise R1JaxError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    return _to_numpy(loaded, torch)


def _to_numpy(tree: Mapping[str, Any], torch: Any) -> dict[str, Any]:
    """Tensors of a nested mapping as arrays (half and bfloat16 as float32); the rest stays what it is."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _to_numpy(value, torch)
        if not isinstance(value, torch.Tensor):
            return value
        return (value.float() if value.is_floating_point() else value).detach().numpy()

    return {str(name): convert(value) for name, value in tree.items()}
