"""Images on their way to the scorer's process: a memory-mapped file of blocks and a list of the free ones.

An image occupies as many blocks as it needs, not always neighbours, so images of any size share one file
without fragmentation. The file has no name once it is open (the worker inherits its descriptor): nothing is
left behind however the process ends. Only this side has the free list, and only this side writes.
"""

import logging
import mmap
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from r1jax.errors import R1JaxError

logger = logging.getLogger(__name__)

SHARED_MEMORY = pathlib.Path("/dev/shm")


class Slots:
    """Shared blocks with a free list.

    Args:
      capacity_bytes: size of the file; 64 MiB hold 341 images of 256x256.
      block_bytes: size of a block, a multiple of the page size.

    Attributes:
      fd: descriptor of the file, for the worker to inherit.
      folder: where the file is: /dev/shm, or the temporary folder where that is missing or too small.

    Raises:
      R1JaxError: neither has room.
    """

    def __init__(self, capacity_bytes: int = 64 << 20, block_bytes: int = 64 << 10):
        self.block_bytes = block_bytes
        self.num_blocks = max(1, capacity_bytes // block_bytes)
        self.fd, self.folder = _reserve(self.num_blocks * block_bytes)
        self._blocks = map_blocks(self.fd, self.num_blocks, block_bytes, mmap.ACCESS_WRITE)
        self._free = list(range(self.num_blocks))[::-1]
        self._condition = threading.Condition()
        self._closed = False

    def write(self, image: UInt8[np.ndarray, "h w 3"], deadline: float) -> tuple[int, ...] | None:
        """Copies an image in, waiting for free blocks.

        Args:
          image: any size.
          deadline: in `time.monotonic()` seconds.

        Returns:
          The blocks it occupies until `release`, or None: none came free in time, or it never fits.
        """
        num_needed = max(1, -(-image.nbytes // self.block_bytes))
        if num_needed > self.num_blocks:
            logger.warning("an image of shape %s is larger than all slots together", image.shape)
            return None
        with self._condition:
            enough = self._condition.wait_for(
                lambda: self._closed or len(self._free) >= num_needed, deadline - time.monotonic()
            )
            if self._closed or not enough:
                return None
            blocks = tuple(self._free.pop() for _ in range(num_needed))
        data = np.ascontiguousarray(image).reshape(-1)
        for position, block in enumerate(blocks):
            part = data[position * self.block_bytes : (position + 1) * self.block_bytes]
            self._blocks[block, : part.size] = part
        return blocks

    def read(self, blocks: Sequence[int], shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a copy of the image in `blocks`."""
        return read_blocks(self._blocks, blocks, shape)

    def release(self, blocks: Sequence[int]) -> None:
        """Makes blocks free again."""
        with self._condition:
            self._free.extend(blocks)
            self._condition.notify_all()

    def close(self) -> None:
        """Ends every wait; the memory goes when the last reader lets go of it."""
        with self._condition:
            if not self._closed:
                self._closed = True
                os.close(self.fd)
            self._condition.notify_all()


def map_blocks(fd: int, num_blocks: int, block_bytes: int, access: int) -> UInt8[np.ndarray, "n size"]:
    """Maps the file `fd` as an array with one row a block; `access` is mmap.ACCESS_READ or ACCESS_WRITE."""
    memory = mmap.mmap(fd, num_blocks * block_bytes, access=access)
    return np.frombuffer(memory, np.uint8).reshape(num_blocks, block_bytes)


def read_blocks(
    memory: UInt8[np.ndarray, "n size"], blocks: Sequence[int], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a copy of the image of `shape` that lies in `blocks`, in their order."""
    return memory[list(blocks)].reshape(-1)[: int(np.prod(shape))].reshape(shape)


def _reserve(num_bytes: int) -> tuple[int, pathlib.Path]:
    """Opens a nameless file whose bytes exist already.

    Without that, writing to a mapping in a full /dev/shm (64 MiB in a container) ends the process: SIGBUS.
    """
    for folder in (SHARED_MEMORY, pathlib.Path(tempfile.gettempdir())):
        if not folder.is_dir():
            continue
        fd, name = -1, ""
        try:
            fd, name = tempfile.mkstemp(prefix="r1jax-slots-", dir=folder)
            os.unlink(name)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, num_bytes)
            else:
                os.truncate(fd, num_bytes)
            return fd, folder
        except OSError as error:
            logger.info("no room for %d bytes of slots in %s: %s", num_bytes, folder, error)
            if fd >= 0:
                os.close(fd)
    raise R1JaxError(f"no room for {num_bytes} bytes of shared image slots in {SHARED_MEMORY} or {tempfile.gettempdir()}")
