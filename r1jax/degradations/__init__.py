"""The eight degradations of the benchmark, their mixes and groups, and the data sets made with them."""

from r1jax.degradations.dataset import (
    Batch,
    Benchmark,
    NamedPhoto,
    TrainingData,
    build_benchmark,
    load_photos,
)
from r1jax.degradations.mixes import GROUPS, MIXES, Degraded, Mix, degrade, mix_name, parse_mixes, training_mixes
from r1jax.degradations.operations import OPERATIONS, operation

__all__ = [
    "GROUPS",
    "MIXES",
    "OPERATIONS",
    "Batch",
    "Benchmark",
    "Degraded",
    "Mix",
    "NamedPhoto",
    "TrainingData",
    "build_benchmark",
    "degrade",
    "load_photos",
    "mix_name",
    "operation",
    "parse_mixes",
    "training_mixes",
]
