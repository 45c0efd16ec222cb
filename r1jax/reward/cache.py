"""Scores by image content, in memory and, where a folder is given, on disk.

On disk a scorer's scores are a folder of record files. Every process appends to a file of its own and reads
those of the others when it starts, so no two processes ever write one file. A record is written by one call
and carries a checksum: a process that is killed, or a full disk, costs the last record only.
"""

import hashlib
import logging
import os
import pathlib
import re
import struct
import tempfile
import threading
import zlib

import numpy as np
from jaxtyping import UInt8

from r1jax.reward.scorer import Identity

logger = logging.getLogger(__name__)

_KEY, _BODY, _RECORD = 32, 36, 40  # bytes: key; key and float32 score; those and their CRC-32
_PREFIX = "scores-"


class ScoreCache:
    """A thread-safe mapping from image content to score, for one scorer. Its methods never raise.

    Args:
      identity: name and version of the scorer; they are part of every key.
      folder: where scores outlive the process; "" keeps them in memory only.
      max_entries: how many scores are held in memory; the oldest go first.
    """

    def __init__(self, identity: Identity, folder: str | os.PathLike[str] = "", max_entries: int = 1_000_000):
        self._prefix = hashlib.sha256(f"{identity.name}\0{identity.version}\0".encode())
        self._scores: dict[bytes, float] = {}
        self._lock = threading.RLock()  # `close` may run in a garbage collection
        self._max_entries = max_entries
        self._file: int | None = None
        self._folder = _folder_of(pathlib.Path(folder), identity) if str(folder) else None
        if self._folder and self._folder.is_dir():
            for path in sorted(self._folder.glob(_PREFIX + "*")):
                self._read(path)

    def key(self, image: UInt8[np.ndarray, "h w 3"]) -> bytes:
        """Returns the 32 bytes that stand for this image under this scorer."""
        digest = self._prefix.copy()
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        return digest.digest()

    def get(self, key: bytes) -> float | None:
        """Returns the score stored under `key`, or None."""
        with self._lock:
            return self._scores.get(key)

    def put(self, key: bytes, score: float) -> None:
        """Stores a finite score; a missing one (NaN) is not stored, so that the image is tried again."""
        if not np.isfinite(score):
            return
        with self._lock:
            self._remember(key, float(score))
            if self._folder is not None:
                self._append(key, score)

    def close(self) -> None:
        """Closes the file of this process; later scores stay in memory."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file, self._folder = None, None

    def __len__(self) -> int:
        return len(self._scores)

    def _remember(self, key: bytes, score: float) -> None:
        self._scores[key] = score
        if len(self._scores) > self._max_entries:
            del self._scores[next(iter(self._scores))]

    def _append(self, key: bytes, score: float) -> None:
        assert self._folder is not None
        body = key + struct.pack("<f", score)
        record = body + struct.pack("<I", zlib.crc32(body))
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file, _ = tempfile.mkstemp(prefix=_PREFIX, dir=self._folder)
            size = os.fstat(self._file).st_size
            if os.write(self._file, record) != len(record):
                os.ftruncate(self._file, size)  # keep records aligned
                raise OSError("the disk is full")
        except OSError as error:
            logger.warning(
                "score cache %s: %s; scores are kept in memory only from here on", self._folder, error
            )
            self._folder = None

    def _read(self, path: pathlib.Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            logger.warning("score cache %s: %s; ignored", path, error)
            return
        for start in range(0, len(data) - _RECORD + 1, _RECORD):
            body = data[start : start + _BODY]
            score, check = struct.unpack_from("<fI", data, start + _KEY)
            if zlib.crc32(body) == check:
                self._remember(body[:_KEY], score)


def _folder_of(root: pathlib.Path, identity: Identity) -> pathlib.Path:
    """One folder a scorer: its name for people, a hash for uniqueness."""
    digest = hashlib.sha256(f"{identity.name}\0{identity.version}".encode()).hexdigest()[:12]
    return root / f"{re.sub(r'[^A-Za-z0-9._-]', '_', identity.name)[:60]}-{digest}"
