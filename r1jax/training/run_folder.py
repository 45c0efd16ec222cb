"""A run's folder belongs to one config, one tree and one start: config.json, tree.json and init.json say which.

Of a run on images weights.json says, too, what tools, encoder and scorer it began with.
"""

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from r1jax.config import Config, from_dict, to_dict
from r1jax.errors import UsageError
from r1jax.files import make_folder, write_whole
from r1jax.training.claims import differences

_WORDS = {"tree": ("holds a run on", "images"), "init": ("holds a run that began from", "fresh parameters")}


def check_folder(
    run_dir: pathlib.Path, config: Config, resume: bool, origins: Mapping[str, Any], weights: Mapping[str, Any] | None
) -> None:
    """Raises UsageError where the folder holds a run of another config, tree or start, or of other weights."""
    path = run_dir / "config.json"
    if not path.is_file():
        return
    for name, origin in origins.items():
        file, (begins, nothing) = run_dir / f"{name}.json", _WORDS[name]
        held = json.loads(file.read_text()) if file.is_file() else None
        if held != origin:
            raise UsageError(f"{run_dir}: {begins} {held or nothing}, not {origin or nothing}; use another --run")
    old = from_dict(json.loads(path.read_text()))
    file = run_dir / "weights.json"
    began = json.loads(file.read_text()) if file.is_file() else weights  # a run of an earlier version does not say
    pairs = ((to_dict(old), to_dict(config)), (began, weights))
    if difference := next(itertools.chain(*(differences(*pair) for pair in pairs)), None):
        raise UsageError(f"{run_dir}: holds a run with {difference}; use another --run (--init goes on from an agent)")
    if not resume:
        raise UsageError(f"{run_dir}: holds a run already; resume it or use another folder")


def claim_folder(
    run_dir: pathlib.Path, config: Config, origins: Mapping[str, Any], weights: Mapping[str, Any] | None
) -> None:
    """Makes the folder this run's; config.json comes last."""
    make_folder(run_dir)
    for name, origin in {**origins, "weights": weights}.items():
        file = run_dir / f"{name}.json"
        if origin:
            write_whole(file, json.dumps(origin, indent=2) + "\n")
        else:
            file.unlink(missing_ok=True)
    write_whole(run_dir / "config.json", json.dumps(to_dict(config), indent=2) + "\n")
