"""Shared set-up: probes.py can be imported whatever pytest's import mode, and equal programs are compiled once."""

import pathlib
import sys

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(scope="package", autouse=True)
def compile_cache(tmp_path_factory):
    fields = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_disable_most_optimizations": True,  # here programs take longer to compile than to run
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    before = {name: jax.config.values[name] for name in fields}
    for name, value in fields.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
