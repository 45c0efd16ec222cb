"""sha256 of files that came without one in the catalogue: written down when they come, so that a later change shows.

They lie in the entry's folder of the cache as `sha256sums`, in the form of the command of that name. They say that a file
is still what came first, not that what came was right.
"""

import hashlib
import pathlib

from r1jax.files import write_whole

_NAME = "sha256sums"


def sha256_of(path: pathlib.Path) -> str:
    """Returns the sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def recorded(folder: pathlib.Path) -> dict[str, str]:
    """Returns sha256 by file, empty where none was written down."""
    path = folder / _NAME
    lines = path.read_text().splitlines() if path.is_file() else []
    return {file: sha256 for sha256, _, file in (line.partition("  ") for line in lines)}


def record(folder: pathlib.Path, file: str) -> None:
    """Writes down the sha256 of `folder / file`, in place of an earlier one."""
    sums = recorded(folder) | {file: sha256_of(folder / file)}
    write_whole(folder / _NAME, "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()))
