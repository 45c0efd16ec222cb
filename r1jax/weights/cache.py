"""The cache of published weights: one folder an entry, filled atomically and checked against the catalogue.

It lies in R1JAX_CACHE, or in the platform's folder for caches. A file is in it whole or not at all; a download that
was stopped leaves `.partial` files, which the next one continues. Files of an archive are read one by one by their
names in the catalogue, so that nothing in the archive decides where a file goes.
"""

import contextlib
import os
import pathlib
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import IO

from r1jax.errors import R1JaxError, UsageError
from r1jax.weights.catalogue import PAGE, Archive, Entry, entries, groups
from r1jax.weights.recorded import record, recorded, sha256_of
from r1jax.weights.sources import address, download

Report = Callable[[str, int, int | None], None]  # file, bytes done, bytes in all


def cache_folder() -> pathlib.Path:
    """Returns the folder that weights are kept in; R1JAX_CACHE overrides the platform's."""
    if own := os.environ.get("R1JAX_CACHE"):
        return pathlib.Path(own).expanduser() / "weights"
    if sys.platform == "darwin":
        return pathlib.Path.home() / "Library" / "Caches" / "r1jax" / "weights"
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA", pathlib.Path.home() / "AppData" / "Local")) / "r1jax" / "weights"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "r1jax" / "weights"


def present(entry: Entry) -> bool:
    """Whether every file of the entry is in the cache; `verify` says whether they are whole."""
    return all((cache_folder() / entry.name / file).is_file() for file in entry.files)


def cached(name: str) -> pathlib.Path:
    """Returns the folder of an entry in the cache.

    Raises:
      R1JaxError: it is not there; the line says how to get it.
    """
    (entry,) = entries([name])
    if not present(entry):
        together = "".join(f", all of `{group}` with `{group}`" for group, names in groups().items() if name in names)
        raise R1JaxError(f"weights {name} are not in the cache; get them with `r1jax weights pull {name}`{together}")
    return cache_folder() / name


def pull(
    entry: Entry,
    *,
    offline: bool = False,
    mirror: str | None = None,
    accept_license: bool = False,
    own: str | pathlib.Path | None = None,
    report: Report = lambda file, done, total: None,
) -> pathlib.Path:
    """Brings an entry into the cache, continuing what was stopped, and returns its folder.

    Args:
      mirror: see `sources.address`; default R1JAX_MIRROR.
      own: a file that was downloaded by hand, which is copied into the cache in place of what is there.
      report: told of every chunk.

    Raises:
      UsageError: the licence forbids commercial use and was not accepted, or the entry is not one file that `own` can be.
      R1JaxError: offline, or only a browser gets the file from its page, or a file cannot be had or has another sha256
        than the catalogue says; it is removed then.
    """
    folder = cache_folder() / entry.name
    if present(entry) and not own:
        return folder
    mirror = mirror or os.environ.get("R1JAX_MIRROR")
    if entry.source.startswith(PAGE) and not (mirror or own):
        raise R1JaxError(by_hand(entry))
    if offline and not own:
        raise R1JaxError(f"weights {entry.name} are not in {folder.parent}; without --offline they are downloaded")
    if entry.noncommercial and not accept_license:
        raise UsageError(f"weights {entry.name}: {entry.license}, not for commercial use; --accept-license agrees to that")
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / ".lock"):
        if own:
            _own(entry, pathlib.Path(own), folder)
        elif entry.archive:
            _from_archive(entry, entry.archive, folder, mirror, report)
        else:
            for file in entry.files:
                _single(entry, file, folder, mirror, report)
    return folder


def by_hand(entry: Entry) -> str:
    """The line that says how to get an entry whose page only a browser gets files from."""
    licence = f" ({entry.license}, not for commercial use)" if entry.noncommercial else ""
    accept = " --accept-license" if entry.noncommercial else ""
    return (
        f"weights {entry.name}{licence}: download {entry.weights} by hand from {entry.source.removeprefix(PAGE)}, then"
        f" `r1jax weights pull {entry.name} --file FILE{accept}`; `r1jax weights import FILE` reads it apart from the cache"
    )


def unverified(entry: Entry) -> dict[str, str]:
    """Returns the files in the cache of which the catalogue has no sha256, each with the one that it came with."""
    sums = recorded(cache_folder() / entry.name)
    return {file: sums.get(file, "none recorded") for file, sha256 in entry.files.items() if sha256 is None}


def verify(entry: Entry) -> list[str]:
    """Compares an entry's files in the cache with the catalogue and returns what is wrong; damaged files are removed.

    Files of which the catalogue has no sha256 are compared with the one that they came with.
    """
    problems = []
    sums = recorded(cache_folder() / entry.name)
    for file, sha256 in entry.files.items():
        path = cache_folder() / entry.name / file
        try:
            if not path.is_file():
                raise R1JaxError(f"weights {entry.name}: {file} is missing; `r1jax weights pull {entry.name}` gets it")
            _check(entry, file, path, sha256 or sums.get(file))
        except R1JaxError as error:
            problems.append(str(error))
    return problems


def _from_archive(entry: Entry, archive: Archive, folder: pathlib.Path, mirror: str | None, report: Report) -> None:
    partial = folder / f".{archive.sha256[:16]}.partial"
    if not partial.exists() or partial.stat().st_size < archive.size:
        download(address(entry, None, mirror), partial, lambda done, total: report(archive.file, done, total))
    _check(entry, archive.file, partial, archive.sha256)
    missing = {archive.prefix + file: file for file in entry.files if not (folder / file).is_file()}
    for member, stream in _members(partial, set(missing)):
        _store(entry, missing.pop(member), stream, folder)
    if missing:
        raise R1JaxError(f"weights {entry.name}: {archive.file} holds no {next(iter(missing))}")
    partial.unlink()


def _members(archive: pathlib.Path, wanted: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields the wanted regular files of a .tgz or .whl: their content only, never their paths, modes or links."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for name in wanted & set(opened.namelist()):
                with opened.open(name) as stream:
                    yield name, stream
        return
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name in wanted and member.isreg():
                content = tar.extractfile(member)
                assert content
                yield member.name, content


def _store(entry: Entry, file: str, stream: IO[bytes], folder: pathlib.Path) -> None:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as target:
        shutil.copyfileobj(stream, target, 1 << 20)
    _keep(entry, file, partial, folder)


def _keep(entry: Entry, file: str, partial: pathlib.Path, folder: pathlib.Path) -> None:
    """Moves a whole file to its place, if it is the catalogue's."""
    _check(entry, file, partial, entry.files[file])
    os.replace(partial, folder / file)
    if entry.files[file] is None:
        record(folder, file)


def _own(entry: Entry, source: pathlib.Path, folder: pathlib.Path) -> None:
    if entry.archive or len(entry.files) != 1:
        raise UsageError(f"--file {source}: weights {entry.name} are more than one file; use --mirror FOLDER")
    if not source.is_file():
        raise UsageError(f"--file {source}: no such file")
    with open(source, "rb") as stream:
        _store(entry, next(iter(entry.files)), stream, folder)


def _single(entry: Entry, file: str, folder: pathlib.Path, mirror: str | None, report: Report) -> None:
    path = folder / file
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.source.startswith("hf:") and not mirror:
        partial = _from_hub(entry, file, folder)
    else:
        partial = path.with_name(f".{path.name}.partial")
        download(address(entry, file, mirror), partial, lambda done, total: report(file, done, total))
    _keep(entry, file, partial, folder)


def _from_hub(entry: Entry, file: str, folder: pathlib.Path) -> pathlib.Path:
    # Lazy: the hub's client takes a second to import. It resumes, retries and shows its progress by itself.
    from huggingface_hub import hf_hub_download

    repo, _, revision = entry.source.removeprefix("hf:").partition("@")
    try:
        return pathlib.Path(hf_hub_download(repo, file, revision=revision or None, local_dir=folder / ".hub"))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise R1JaxError(f"weights {entry.name}: {file} of {repo} cannot be had: {reason}") from None


def _check(entry: Entry, file: str, path: pathlib.Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    got = sha256_of(path)
    if got != sha256:
        path.unlink()
        raise R1JaxError(f"weights {entry.name}: {file} removed: expected sha256 {sha256}, got {got}")


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    """One process at a time fills a folder; the lock goes with the process that held it."""
    with open(path, "w") as file:
        try:
            import fcntl
        except ImportError:  # not on Windows: there two processes must not pull the same entry at once
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
