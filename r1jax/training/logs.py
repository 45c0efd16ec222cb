"""The log of a run: metrics.jsonl with one object an update, TensorBoard files, a progress bar."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from r1jax.files import write_whole
from r1jax.reward.service import RewardService

_SHOWN = {"score_gain": "gain", "entropy": "entropy", "mean_calls": "calls"}


def read_log(run_dir: str | pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects of a run's metrics.jsonl; a line cut off by a kill is left out."""
    path = pathlib.Path(run_dir) / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class RunLog:
    """Writes each update's metrics to every place at once.

    Args:
      start: updates done before; later lines, left by a run that got further than its last checkpoint, are dropped.
      total: updates of the whole run.
      enabled: False on all processes but the first.
    """

    def __init__(self, run_dir: pathlib.Path, *, start: int, total: int, progress: bool = True, enabled: bool = True):
        self.rows = [row for row in read_log(run_dir) if row["update"] <= start]
        self._enabled = enabled
        if not enabled:
            return
        path = run_dir / "metrics.jsonl"
        write_whole(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._file = path.open("a")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)
        self._bar = tqdm(total=total, initial=start, unit="update", disable=not progress)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def write(self, update: int, metrics: Mapping[str, float]) -> None:
        """Adds update number `update`, counted from 1."""
        row = {"update": update, **metrics}
        self.rows.append(row)
        if not self._enabled:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, update)
        self._bar.set_postfix({short: f"{metrics[name]:.3f}" for name, short in _SHOWN.items() if name in metrics})
        self._bar.update()

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._enabled:
            self._file.close()
            self._board.close()
            self._bar.close()


class ServiceMeter:
    """What the reward service did in each update; nothing where scores come from inside the program."""

    def __init__(self, service: Any):
        self._service = service if isinstance(service, RewardService) else None
        self._before = self._stats()

    def row(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Returns counts since the start of the run, percentiles of the latest scores, and of this update:

        requests_per_s; scorer_busy_share, of the time that the scorer worked; device_idle_share, of the time that the
        devices waited for data or for scores after the rollout (while they wait inside it nobody can tell).

        Args:
          seconds: "seconds" of the update and "seconds/PHASE" of its phases.
        """
        if self._service is None:
            return {}
        now, before, total = self._stats(), self._before, max(seconds["seconds"], 1e-9)
        self._before = now
        rates = {
            "requests_per_s": (now["requests"] - before["requests"]) / total,
            "scorer_busy_share": (now["busy_s"] - before["busy_s"]) / total,
            "device_idle_share": (seconds["seconds/data"] + seconds["seconds/scores"]) / total,
        }
        return {f"service/{name}": value for name, value in (now | rates).items() if np.isfinite(value)}

    def _stats(self) -> dict[str, float]:
        stats = self._service.stats() if self._service else {}
        return {name: float(value) for name, value in stats.items() if not isinstance(value, str)}
