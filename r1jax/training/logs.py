"""The log of a run: metrics.jsonl with one object an update, TensorBoard files, a progress bar."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

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
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
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
