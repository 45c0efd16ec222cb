"""PyTorch checkpoint files without PyTorch: a pickle of which only tensors are understood, so that no code can run."""

import collections
import io
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from r1jax.errors import R1JaxError

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch_pickle(path: str | pathlib.Path) -> Any:
    """Returns what `torch.save` wrote, tensors as arrays: both the zip form and the one before torch 1.6.

    Raises:
      R1JaxError: the file is missing, damaged, or holds more than tensors, dictionaries, lists and numbers.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_legacy(path)
    except pickle.UnpicklingError as error:
        raise R1JaxError(f"{path}: holds more than tensors, which is never executed ({error})") from None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError) as error:
        raise R1JaxError(f"{path}: cannot be read as a PyTorch checkpoint ({type(error).__name__}: {error})") from None


class _Storage:
    """Numbers that tensors are views of; filled after the pickle in the old form."""

    def __init__(self, dtype: Any, count: int):
        self.data = np.zeros(count, dtype)


class _Tensors(pickle.Unpickler):
    """Knows how tensors are rebuilt and refuses every other global."""

    def __init__(self, stream: io.BufferedIOBase, storage: Callable[[Any, str, int], _Storage]):
        super().__init__(stream)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "collections" and name == "OrderedDict":
            return collections.OrderedDict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _view
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda data, *_: data
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, count, *_ = identity
        if kind != "storage":
            raise pickle.UnpicklingError(f"persistent {kind!r}")
        return self._storage(dtype, key, count)


def _view(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if all(size) else offset
    if min((offset, last, *stride), default=0) < 0 or last >= max(len(storage.data), 1):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [step * storage.data.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage.data[offset:], size, strides, writeable=False)


def _read_zip(path: str | pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")

        def storage(dtype: Any, key: str, count: int) -> _Storage:
            found = _Storage(dtype, 0)
            found.data = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
            return found

        return _Tensors(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load()


def _read_legacy(path: str | pathlib.Path) -> Any:
    storages: dict[str, _Storage] = {}

    def storage(dtype: Any, key: str, count: int) -> _Storage:
        if key not in storages:
            storages[key] = _Storage(dtype, count)
        return storages[key]

    with open(path, "rb") as stream:
        if _Tensors(stream, storage).load() != _LEGACY_MAGIC:
            raise ValueError("no PyTorch magic number")
        for _ in range(2):  # protocol and machine
            _Tensors(stream, storage).load()
        content = _Tensors(stream, storage).load()
        for key in _Tensors(stream, storage).load():
            count = int(np.frombuffer(stream.read(8), np.int64)[0])
            data = storages[key].data
            content_bytes = stream.read(data.nbytes)
            if count != len(data) or len(content_bytes) != data.nbytes:
                raise ValueError("the file ends early")
            data[:] = np.frombuffer(content_bytes, data.dtype)
        return content
