"""The shared blocks: nothing is overwritten, waiting ends, a small /dev/shm is no problem."""

import mmap
import pathlib
import tempfile
import threading
import time

import numpy as np
import pytest

from r1jax.errors import R1JaxError
from r1jax.reward import slots as slots_module
from r1jax.reward.slots import Slots, map_blocks, read_blocks

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def slots():
    made = Slots(capacity_bytes=4 * 4096, block_bytes=4096)
    yield made
    made.close()


def image(seed, height=30, width=40):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def soon(seconds=0.05):
    return time.monotonic() + seconds


def test_images_of_any_size_come_back_through_a_second_mapping(slots):
    images = [image(0), image(1, 1, 1), image(2, 60, 40)]  # 1, 1 and 2 blocks
    blocks = [slots.write(x, soon()) for x in images]
    memory = map_blocks(slots.fd, slots.num_blocks, slots.block_bytes, mmap.ACCESS_READ)
    for x, where in zip(images, blocks, strict=True):
        np.testing.assert_array_equal(read_blocks(memory, where, x.shape), x)
    assert slots.write(image(3, 1, 1), soon()) is None  # all four are taken
    with pytest.raises(ValueError):
        memory[0, 0] = 1  # the worker cannot write


def test_full_slots_give_up_in_time_and_overwrite_nothing(slots):
    held = [(slots.write(image(seed), soon()), image(seed)) for seed in range(4)]
    start = time.monotonic()
    assert slots.write(image(9), soon(0.2)) is None
    assert 0.15 < time.monotonic() - start < 2.0
    for blocks, x in held:
        np.testing.assert_array_equal(slots.read(blocks, x.shape), x)


def test_a_waiting_write_gets_the_blocks_that_are_released(slots):
    held = [slots.write(image(seed), soon()) for seed in range(4)]
    threading.Timer(0.1, slots.release, held[:1]).start()
    assert slots.write(image(9), soon(10.0)) == held[0]


def test_an_image_larger_than_everything_is_refused_at_once(slots):
    start = time.monotonic()
    assert slots.write(image(0, 100, 100), soon(10.0)) is None
    assert time.monotonic() - start < 2.0


def test_closing_ends_a_wait(slots):
    for seed in range(4):
        slots.write(image(seed), soon())
    threading.Timer(0.1, slots.close).start()
    start = time.monotonic()
    assert slots.write(image(9), soon(30.0)) is None
    assert time.monotonic() - start < 5.0


def test_a_small_shared_memory_falls_back_to_a_temporary_file(monkeypatch):
    real = slots_module.os.posix_fallocate
    calls = []

    def full_the_first_time(fd, offset, size):
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        real(fd, offset, size)

    monkeypatch.setattr(slots_module.os, "posix_fallocate", full_the_first_time)
    made = Slots(capacity_bytes=4 * 4096, block_bytes=4096)
    assert len(calls) == 2
    assert made.folder == pathlib.Path(tempfile.gettempdir())
    np.testing.assert_array_equal(made.read(made.write(image(0), soon()), image(0).shape), image(0))
    made.close()


def test_no_room_anywhere_is_one_line(monkeypatch):
    def full(fd, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slots_module.os, "posix_fallocate", full)
    with pytest.raises(R1JaxError, match=f"no room for 16384 bytes .* in /dev/shm or {tempfile.gettempdir()}$"):
        Slots(capacity_bytes=4 * 4096, block_bytes=4096)
