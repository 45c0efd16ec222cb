"""Checkpoints of many gigabytes, in shards, read one tensor at a time into a network that lies over several devices.

A folder as Hugging Face has it: *.safetensors, or pytorch_model*.bin (needs torch), with or without an index. At most one
tensor is on the host at a time, so that loading needs little more memory than the network itself.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.errors import R1JaxError, WeightMismatch
from r1jax.weights.files import saved_variables
from r1jax.weights.torch_names import DERIVED, official_entries

Place = Callable[[str, np.ndarray], jax.Array]

_DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_DTYPES |= {"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}
_DERIVED = re.compile(r"\.inv_freq$")  # a buffer that some language models hold, besides those of DERIVED


def stream_checkpoint(folder: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (official name, tensor) of a checkpoint folder, reading each when it is its turn.

    Raises:
      R1JaxError: there is no checkpoint, a shard that the index names is missing, or a file is damaged.
    """
    for path in _shards(folder):
        yield from _read_safetensors(path) if path.suffix == ".safetensors" else _read_bin(path)


def _shards(folder: pathlib.Path) -> list[pathlib.Path]:
    for index in sorted(folder.glob("*.index.json")):
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return [folder / name for name in names]
        if not any((folder / name).is_file() for name in names) and len(list(folder.glob("*.index.json"))) > 1:
            continue  # the index of the other format, whose shards were not downloaded
        raise R1JaxError(f"{folder}: {index.name} names {missing[0]}, which is not there; download it again")
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise R1JaxError(f"{folder}: no *.safetensors or pytorch_model*.bin here")
    return found


def _read_safetensors(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Reads by offset: a memory map would keep the whole file in the process's memory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"][0])
            ends = [entry["data_offsets"][1] + 8 + length for _, entry in entries]
        except (ValueError, KeyError, MemoryError, AttributeError):
            raise R1JaxError(f"{path}: cannot be read as .safetensors") from None
        if max(ends, default=0) > size:
            raise R1JaxError(f"{path}: is cut off ({size} of {max(ends)} bytes); download it again")
        for name, entry in entries:
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            dtype = np.dtype(_DTYPES[entry["dtype"]])
            yield name, np.fromfile(file, dtype, (end - start) // dtype.itemsize).reshape(entry["shape"])


def _read_bin(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        import torch
    except ImportError:
        raise R1JaxError(f"{path}: needs torch; install it with: pip install 'r1jax[mllm]'") from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise R1JaxError(f"{path}: cannot be read as a PyTorch checkpoint ({type(error).__name__})") from None
    for name in list(tensors):
        tensor = tensors.pop(name)
        if tensor.dtype == torch.bfloat16:
            yield name, tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        else:
            yield name, tensor.numpy()


def load_checkpoint(module: nnx.Module, folder: pathlib.Path, place: Place | None = None) -> nnx.Module:
    """Fills an abstract module from a checkpoint and returns it.

    Args:
      module: of `nnx.eval_shape`: shapes and dtypes without arrays. Its attributes carry the official names.
      folder: see `stream_checkpoint`.
      place: (official name, array of the module's shape and dtype) -> array on a device; by default the first device.

    Raises:
      R1JaxError: no checkpoint, or a damaged one.
      WeightMismatch: names or shapes differ.
    """
    place = place or (lambda name, value: jnp.asarray(value))
    entries, variables = official_entries(module), saved_variables(module)
    by_path = {"/".join(map(str, path)): variable for path, variable in variables}
    missing, unexpected, misshaped = set(entries), [], []
    for name, value in stream_checkpoint(folder):
        if name not in entries:
            if not (_DERIVED.search(name) or DERIVED.search(name)):
                unexpected.append(name)
            continue
        missing.discard(name)
        path, layout = entries[name]
        variable, value = by_path[path], layout.to_flax(value) if value.ndim else value
        if value.shape != variable.shape:
            misshaped.append((name, tuple(variable.shape), value.shape))
            continue
        variable.set_value(jax.block_until_ready(place(name, np.ascontiguousarray(value, variable.dtype))))
    if missing or unexpected or misshaped:
        raise WeightMismatch(sorted(missing), sorted(unexpected), misshaped)
    nnx.update(module, nnx.from_flat_state(variables))
    return module


def over_devices(mesh: Mesh, rows: re.Pattern[str]) -> Place:
    """Returns a `place` that splits matrices over a mesh with one axis.

    The layers whose names match `rows` are split along their inputs, all others along their outputs, so that a layer of
    one kind after one of the other exchanges its result once (arXiv 1909.08053). What does not divide is repeated.
    """
    (axis,) = mesh.axis_names

    def place(name: str, value: np.ndarray) -> jax.Array:
        dim = 0 if rows.search(name) else value.ndim - 1
        split = value.ndim > 1 and name.endswith("weight") and value.shape[dim] % mesh.size == 0
        spec = P(*(axis if split and d == dim else None for d in range(value.ndim)))
        return jax.device_put(value, NamedSharding(mesh, spec))

    return place
