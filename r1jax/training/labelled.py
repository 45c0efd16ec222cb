"""Labelled images on disk: what launch/train_lite_scorer.py makes, for whoever learns from them.

A folder holds shards 00012.npz of groups of eight images of one crop: clean, degraded, and what tools made of them; with
--plans five in a row are of one crop, in random order. Beside a shard lie the statistics that a quality net takes of its
images, computed once.
"""

import io
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx

from r1jax.errors import UsageError
from r1jax.files import write_whole
from r1jax.images.convert import to_float
from r1jax.nets.quality_net import QualityNet

GROUP = 8  # images of one crop
NO_TOOL = -1


def shards_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the complete shards of a folder: a kill leaves a partial 00012.tmp.npz."""
    return sorted(folder.glob("[0-9]" * 5 + ".npz"))


def labelled_statistics(folders: Sequence[pathlib.Path], net: QualityNet) -> Iterator[dict[str, np.ndarray]]:
    """Yields shards with their images' statistics in their place; these are kept beside them, for nets that see as much.

    Raises:
      UsageError: a folder holds none.
    """
    graph, params = nnx.split(net)
    statistics = jax.jit(lambda params, x: nnx.merge(graph, params).statistics(x))
    for folder in folders:
        if not shards_of(folder):
            raise UsageError(f"{folder}: holds no labelled images; `launch/train_lite_scorer.py label` makes them")
    for path in (path for folder in folders for path in shards_of(folder)):
        shard, cached = np.load(path), path.with_suffix(f".{net.num_statistics}.npy")
        if not cached.exists() or cached.stat().st_mtime_ns < path.stat().st_mtime_ns:  # or: the shard was made anew
            images, buffer = shard["images"], io.BytesIO()
            blocks = [to_float(images[i : i + 16]) for i in range(0, len(images), 16)]
            np.save(buffer, np.concatenate([np.asarray(statistics(params, block)) for block in blocks]))
            write_whole(cached, buffer.getvalue())
        yield {key: shard[key] for key in shard if key != "images"} | {"statistics": np.load(cached)}
