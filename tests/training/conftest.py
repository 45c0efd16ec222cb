"""Shared set-up: probes.py can be imported whatever pytest's import mode, and programs are compiled quickly."""

import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(scope="package", autouse=True)
def quick_compiles():
    """Here programs take longer to compile than to run."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
