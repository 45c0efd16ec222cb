"""Weights: files, and importers from other frameworks' checkpoints."""

from r1jax.weights.checkpoint_files import read_checkpoint
from r1jax.weights.files import (
    SHIPPED_AGENTS,
    flat_state,
    load_module,
    read_tensors,
    save_module,
    update_module,
    weight_file,
)
from r1jax.weights.flax_names import import_linen, import_tfjs
from r1jax.weights.recognise import recognise
from r1jax.weights.torch_names import export_torch, import_torch

__all__ = [
    "SHIPPED_AGENTS",
    "export_torch",
    "flat_state",
    "import_linen",
    "import_tfjs",
    "import_torch",
    "load_module",
    "read_checkpoint",
    "read_tensors",
    "recognise",
    "save_module",
    "update_module",
    "weight_file",
]
