"""A folder belongs to the settings that its files came from: work on it goes on with these, or not at all."""

import json
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from r1jax.errors import UsageError
from r1jax.files import make_folder

SETTINGS_FILE = "settings.json"


def claim_settings(folder: pathlib.Path, settings: Mapping[str, Any], begun: bool, option: str) -> None:
    """Makes the folder that of these settings, or refuses. Processes that share it may claim it at once.

    Args:
      settings: must be JSON.
      begun: the folder holds results; without settings.json nobody knows what of.
      option: the command's option that names the folder.

    Raises:
      UsageError: the folder belongs to other settings, or to unknown ones.
    """
    path = folder / SETTINGS_FILE
    wanted = json.loads(json.dumps(settings))  # tuples become lists, as they do in the file
    if not path.is_file():
        if begun:
            raise UsageError(f"{folder}: holds a run without {SETTINGS_FILE}; use another {option}")
        make_folder(folder)
        _write_first(path, json.dumps(wanted, indent=1) + "\n")
    held = json.loads(path.read_text())  # by now maybe another process's
    if difference := next(differences(held, wanted), None):
        raise UsageError(f"{folder}: holds a run with {difference}; use another {option}")


def _write_first(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all; where another process was first, its file stays."""
    partial = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    partial.write_text(text)
    try:
        os.link(partial, path)  # which never replaces
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        partial.replace(path)
    partial.unlink(missing_ok=True)


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Names the fields that differ, with both values; one that is not there is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**new, **old}:
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name}={old!r}, not {new!r}"
