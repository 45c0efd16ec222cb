"""Programs compiled by one test are read from disk by the next, by the commands that tests start, and by the next run.

launch_scripts.py can be imported whatever pytest's import mode.
"""

import os
import pathlib
import sys

import jax

sys.path.append(str(pathlib.Path(__file__).parent))


def pytest_configure(config):
    settings = {
        "jax_compilation_cache_dir": str(config.cache.mkdir("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.3,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
