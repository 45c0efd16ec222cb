"""What is computed once of labelled images stands beside them, as long as they are the same."""

import os

import numpy as np
import pytest
from flax import nnx

from r1jax.errors import UsageError
from r1jax.training.labelled import labelled_statistics


class Means(nnx.Module):
    """In place of a quality net: the mean of each channel."""

    num_statistics = 3

    def statistics(self, x):
        return x.mean((1, 2))


def write(folder, level):
    np.savez(folder / "00000.npz", images=np.full((24, 8, 8, 3), level, np.uint8), photo=np.full(24, "grey"))


def means(folder):
    [shard] = labelled_statistics([folder], Means())
    assert shard["statistics"].shape == (24, 3) and "images" not in shard and set(shard["photo"]) == {"grey"}
    return float(shard["statistics"].mean())


def test_statistics_are_computed_once_and_anew_for_other_images(tmp_path):
    with pytest.raises(UsageError, match="holds no labelled images"):
        list(labelled_statistics([tmp_path], Means()))
    write(tmp_path, 51)
    assert means(tmp_path) == pytest.approx(0.2)
    kept = tmp_path / "00000.3.npy"
    np.save(kept, np.full((24, 3), 0.5))
    assert means(tmp_path) == 0.5
    write(tmp_path, 102)
    later = kept.stat().st_mtime_ns + 1
    os.utime(tmp_path / "00000.npz", ns=(later, later))
    assert means(tmp_path) == pytest.approx(0.4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.3.npy", "00000.npz"]
