"""`r1jax sweep`: trains every variant of a config file, each in a process of its own.

A variant that fails does not stop the others; one that is complete is not run again. Results stand in RUN/sweep.jsonl and
are printed as a table.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from r1jax import config as configuration
from r1jax.config import Config

_COLUMNS = ("eval/score_gain", "eval/psnr_y_gain", "eval/calls", "eval/worse")


def run_sweep(
    path: str | pathlib.Path,
    run_dir: str | pathlib.Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Trains the variants one after the other and returns a row for each.

    Args:
      run_dir: by default runs/NAME of the config; a variant's run is a folder in it.
      overrides: applied to every variant, after its own.
      dry_run: only list the variants.

    Raises:
      UsageError: the file has no `sweep()`, or an override does not fit.
    """
    overrides = dict(overrides or {})
    variants = [
        (variant | overrides, configuration.override(config, overrides))
        for variant, config in configuration.load_sweep(path)
    ]
    folder = pathlib.Path(run_dir or f"runs/{variants[0][1].name}") if variants else pathlib.Path(run_dir or "runs")
    rows = []
    for variant, config in variants:
        run = folder / _folder_name(variant)
        status = "listed" if dry_run else _train(path, variant, config, run)
        rows.append({"variant": _label(variant), "run": str(run), "status": status} | _results(run))
        print(_line(rows[-1]), file=sys.stderr, flush=True)
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _train(path: str | pathlib.Path, variant: Mapping[str, Any], config: Config, run: pathlib.Path) -> str:
    if _complete(run, config):
        return "complete"
    run.mkdir(parents=True, exist_ok=True)
    flags = [f"--{name}={value}" for name, value in variant.items()]
    command = [sys.executable, "-m", "r1jax", "train", str(path), "--run", str(run), "--quiet", *flags]
    with (run / "output.log").open("ab") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=os.environ, check=False).returncode
    return "complete" if code == 0 else "failed"


def _complete(run: pathlib.Path, config: Config) -> bool:
    """Whether the run is this very config's and its agent has been saved."""
    saved = run / "config.json"
    if not (saved.is_file() and (run / "agent" / "agent.safetensors").is_file()):
        return False
    return configuration.from_dict(json.loads(saved.read_text())) == config


def _results(run: pathlib.Path) -> dict[str, float]:
    """The last evaluation in the run's log."""
    log = run / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")] if log.is_file() else []
    last: dict[str, float] = next((row for row in reversed(rows) if _COLUMNS[0] in row), {})
    return {name: last[name] for name in _COLUMNS if name in last}


def _label(variant: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in variant.items()) or "as it is"


def _folder_name(variant: Mapping[str, Any]) -> str:
    safe = "".join(letter if letter.isalnum() or letter in "=.-" else "_" for letter in _label(variant))
    return safe[:120]


def _line(row: Mapping[str, Any]) -> str:
    numbers = "  ".join(f"{name.removeprefix('eval/')} {row[name]:.3f}" for name in _COLUMNS if name in row)
    return f"{row['status']:9} {row['variant']}  {numbers or row['run']}"
