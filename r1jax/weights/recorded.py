"""What is written down about weights: which they are (sha256 of a file, digest of a pytree) and what versions made them.

Sums are recorded of files that came without one in the catalogue, so that a later change shows. They lie in the entry's
folder of the cache as `sha256sums`, in the form of the command of that name. They say that a file is still what came first,
not that what came was right.
"""

import hashlib
import pathlib
import platform
from typing import Any

import flax
import jax
import numpy as np

from r1jax.files import write_whole

_NAME = "sha256sums"


def sha256_of(path: pathlib.Path) -> str:
    """Returns the sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(params: Any) -> str:
    """Returns 16 hex digits that tell which weights these are: sha256 of a pytree's names and arrays."""
    state = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        state.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return state.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Returns the versions of what computes here, by name: python, jax, flax, numpy."""
    packages = {"jax": jax.__version__, "flax": flax.__version__, "numpy": np.__version__}
    return {"python": platform.python_version(), **packages}


def recorded(folder: pathlib.Path) -> dict[str, str]:
    """Returns sha256 by file, empty where none was written down."""
    path = folder / _NAME
    lines = path.read_text().splitlines() if path.is_file() else []
    return {file: sha256 for sha256, _, file in (line.partition("  ") for line in lines)}


def record(folder: pathlib.Path, file: str) -> None:
    """Writes down the sha256 of `folder / file`, in place of an earlier one."""
    sums = recorded(folder) | {file: sha256_of(folder / file)}
    write_whole(folder / _NAME, "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()))
