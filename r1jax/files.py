"""Files that are there whole or not at all, and their folders."""

import contextlib
import os
import pathlib
import secrets

from r1jax.errors import R1JaxError


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes a file so that its name never shows a part of it, not even after a crash; an old file stays until then.

    Args:
      path: a symbolic link stays one: the file that it names is replaced. A device or a pipe is written to, not replaced.
      data: text is written as UTF-8.

    Raises:
      OSError: the folder is missing or not writable, or the disk is full; it names `path`, and nothing is left behind.
    """
    target, content = pathlib.Path(path).resolve(), data.encode() if isinstance(data, str) else data
    if target.exists() and not target.is_file():
        target.write_bytes(content)
        return
    temporary = target.parent / f".r1jax-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # the temporary name would tell the user nothing
            error.filename = os.fspath(path)
        raise


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder and those above it; it may be there.

    Raises:
      R1JaxError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise R1JaxError(f"{folder}: cannot be made: {error.strerror}") from None
