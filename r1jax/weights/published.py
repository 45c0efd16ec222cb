"""Networks filled with published weights, by their names in the catalogue."""

import pathlib

from flax import nnx

from r1jax.errors import R1JaxError
from r1jax.nets import skeleton
from r1jax.nets.clip_vision import vision_tower
from r1jax.weights.cache import cached
from r1jax.weights.catalogue import entries
from r1jax.weights.checkpoint_files import read_checkpoint
from r1jax.weights.flax_names import import_linen, import_tfjs
from r1jax.weights.keras import import_keras
from r1jax.weights.ncnn import import_ncnn
from r1jax.weights.torch_names import import_torch


def _official(net: nnx.Module, path: pathlib.Path) -> nnx.Module:
    return import_torch(net, read_checkpoint(path))


_FORMATS = {
    "tfjs": import_tfjs,
    "keras": import_keras,
    "ncnn": import_ncnn,
    "torch": _official,
    "safetensors": _official,
    "clip": lambda net, path: import_torch(net, vision_tower(read_checkpoint(path))),
    "linen": lambda net, path: import_linen(net, read_checkpoint(path)),
}


def load_published(name: str, weights: str | None = None) -> nnx.Module:
    """Returns the network of a catalogue entry with its weights; they must be in the cache, nothing is downloaded.

    Args:
      weights: another file of the entry than its usual one.

    Raises:
      R1JaxError: the weights are not in the cache (the line says how to get them), or damaged.
      WeightMismatch: they are not those of the network.
    """
    (entry,) = entries([name])
    path = cached(name) / (weights or entry.weights)
    if entry.format not in _FORMATS:
        raise R1JaxError(f"weights {name}: format {entry.format!r} is unknown; there are {', '.join(_FORMATS)}")
    return _FORMATS[entry.format](skeleton(entry.net, **entry.config), pathlib.Path(path))
