"""A user's Python files: configs and tools. What goes wrong in one is a line that names the file and the line in it."""

import importlib.util
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Callable
from typing import TypeVar

from r1jax.errors import R1JaxError, UsageError

T = TypeVar("T")


def import_file(path: pathlib.Path, name: str) -> types.ModuleType:
    """Runs a Python file anew as the module `name`.

    Raises:
      UsageError: it is no Python file, or raises.
    """
    if path.suffix != ".py":
        raise UsageError(f"{path}: want a Python file, NAME.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    loader = spec.loader
    call(lambda: loader.exec_module(module), path)
    return module


def call(function: Callable[[], T], path: pathlib.Path) -> T:
    """Calls code of a user's file; whatever it raises but R1JaxError becomes a UsageError of one line."""
    try:
        return function()
    except R1JaxError:
        raise
    except Exception as error:
        names = {str(path), os.path.abspath(path)}
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in names]
        line = error.lineno if isinstance(error, SyntaxError) and error.filename in names else (frames or [None])[-1]
        place = f"{path}:{line}" if line else str(path)
        message = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        raise UsageError(f"{place}: {type(error).__name__}: {message}") from error
