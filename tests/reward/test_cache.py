"""The score cache: what a key depends on, and what is left on disk."""

import numpy as np
import pytest

from r1jax.reward.cache import ScoreCache
from r1jax.reward.scorer import Identity

pytestmark = pytest.mark.timeout(60)
ONE = Identity("one", "1")


def image(seed=0, shape=(4, 6, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_key_depends_on_content_shape_name_and_version():
    keys = {
        ScoreCache(ONE).key(image()),
        ScoreCache(ONE).key(image(1)),
        ScoreCache(ONE).key(image().reshape(6, 4, 3)),
        ScoreCache(Identity("two", "1")).key(image()),
        ScoreCache(Identity("one", "2")).key(image()),
    }
    assert len(keys) == 5
    assert ScoreCache(ONE).key(image()) in keys
    assert ScoreCache(ONE).key(np.asfortranarray(image())) in keys


def test_scores_come_back_from_disk_for_the_same_scorer_only(tmp_path):
    cache = ScoreCache(ONE, tmp_path)
    keys = [cache.key(image(seed)) for seed in range(200)]
    for number, key in enumerate(keys):
        cache.put(key, number / 7)
    again = ScoreCache(ONE, tmp_path)  # while the other process still has its file open
    assert [again.get(key) for key in keys] == [np.float32(number / 7) for number in range(200)]
    other = ScoreCache(Identity("one", "2"), tmp_path)
    assert len(other) == 0


def test_two_writers_do_not_disturb_each_other(tmp_path):
    first, second = ScoreCache(ONE, tmp_path), ScoreCache(ONE, tmp_path)
    for seed in range(20):
        (first if seed % 2 else second).put(first.key(image(seed)), float(seed))
    again = ScoreCache(ONE, tmp_path)
    assert [again.get(again.key(image(seed))) for seed in range(20)] == [float(seed) for seed in range(20)]


def test_a_torn_or_damaged_record_costs_only_itself(tmp_path):
    cache = ScoreCache(ONE, tmp_path)
    keys = [cache.key(image(seed)) for seed in range(3)]
    for key in keys:
        cache.put(key, 2.0)
    cache.close()
    (path,) = tmp_path.rglob("scores-*")
    data = bytearray(path.read_bytes())
    data[45] ^= 1  # in the second record
    path.write_bytes(bytes(data[:-1]))  # and the third is torn
    again = ScoreCache(ONE, tmp_path)
    assert [again.get(key) for key in keys] == [2.0, None, None]


def test_a_missing_score_is_not_kept():
    cache = ScoreCache(ONE)
    cache.put(b"k" * 32, float("nan"))
    assert cache.get(b"k" * 32) is None


def test_memory_is_bounded_oldest_first():
    cache = ScoreCache(ONE, max_entries=2)
    for number in range(3):
        cache.put(bytes([number]) * 32, float(number))
    assert [cache.get(bytes([number]) * 32) for number in range(3)] == [None, 1.0, 2.0]


def test_a_folder_that_cannot_be_written_keeps_scores_in_memory(tmp_path):
    (tmp_path / "file").write_text("")
    cache = ScoreCache(ONE, tmp_path / "file")
    cache.put(b"k" * 32, 3.0)
    assert cache.get(b"k" * 32) == 3.0
