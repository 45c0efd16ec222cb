"""PyTorch checkpoint files without PyTorch: a pickle of which only tensors are understood, so that no code can run."""

import collections
import io
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from r1jax.errors import R1JaxError

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGE = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OverflowError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)


def read_torch_pickle(path: str | pathlib.Path) -> Any:
    """Returns what `torch.save` wrote, tensors as arrays: both the zip form and the one before torch 1.6.

    Raises:
      R1JaxError: the file is missing, damaged, or holds more than tensors, dictionaries, lists and numbers.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_legacy(path)
    except _ForbiddenError as error:
        raise R1JaxError(f"{path}: holds more than tensors, which is never executed ({error})") from None
    except _DAMAGE as error:
        raise R1JaxError(f"{path}: cannot be read as a PyTorch checkpoint ({type(error).__name__}: {error})") from None


class _ForbiddenError(Exception):
    """The pickle asks for something that is not part of a tensor."""


class _Storage:
    """Numbers that tensors are views of; filled after the pickle in the old form."""

    def __init__(self, data: np.ndarray):
        self.data = data


def _view(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if all(size) else offset
    if min((offset, last, *stride), default=0) < 0 or last >= max(len(storage.data), 1):
        raise ValueError("a tensor reaches beyond its storage")
    strides = [step * storage.data.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage.data[offset:], size, strides, writeable=False)


def _number(dtype: Any, data: bytes) -> Any:
    """A NumPy scalar, as training loops note their best PSNR."""
    return np.frombuffer(data, dtype)[0]


# All that a pickle may name. Whatever is called with the file's arguments only looks at bytes.
_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


class _Tensors(pickle.Unpickler):
    """Knows how tensors are rebuilt and refuses every other global."""

    def __init__(self, stream: io.BufferedIOBase, load: Callable[[Any, str, int], np.ndarray], known: dict[str, _Storage]):
        super().__init__(stream)
        self._load, self._known = load, known

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise _ForbiddenError(f"{module}.{name}")
        return _GLOBALS[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, count, *_ = identity
        if kind != "storage":
            raise ValueError(f"persistent {kind!r}")
        if key not in self._known:
            self._known[key] = _Storage(self._load(dtype, key, count))
        return self._known[key]


def _read_zip(path: str | pathlib.Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("data.pkl")]
        if not roots:
            raise ValueError("the archive has no data.pkl")

        def load(dtype: Any, key: str, count: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{roots[0]}data/{key}"), dtype)

        return _Tensors(io.BytesIO(archive.read(f"{roots[0]}data.pkl")), load, {}).load()


def _read_legacy(path: str | pathlib.Path) -> Any:
    storages: dict[str, _Storage] = {}
    with open(path, "rb") as stream:

        def read() -> Any:
            return _Tensors(stream, lambda dtype, key, count: np.zeros(count, dtype), storages).load()

        if read() != _LEGACY_MAGIC:
            raise ValueError("no PyTorch magic number")
        read(), read()  # protocol and machine
        content = read()
        for key in read():
            count = int(np.frombuffer(stream.read(8), np.int64)[0])
            data = storages[key].data
            content_bytes = stream.read(data.nbytes)
            if count != len(data) or len(content_bytes) != data.nbytes:
                raise ValueError("the file ends early")
            data[:] = np.frombuffer(content_bytes, data.dtype)
        return content
