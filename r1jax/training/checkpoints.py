"""Checkpoints of a run, by Orbax: written in the background, complete or not there at all.

A checkpoint is named by the number k of updates done and holds the trained state. Random numbers and batches of data
are functions of the config's seed and the update's number: with config.json this is all that a resume needs.
"""

import pathlib
from typing import Any

import orbax.checkpoint as ocp

from r1jax.errors import R1JaxError
from r1jax.training.update import TrainState


class Checkpoints:
    """The checkpoints of a run folder; close it, or use it as a context manager, to finish pending writes."""

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def latest(self) -> int | None:
        """Returns the number of updates in the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, update: int, state: TrainState) -> None:
        """Starts writing a checkpoint; one that exists already stays."""
        if update != self.latest():
            self._manager.save(update, args=ocp.args.StandardSave(_present(state)))

    def restore(self, like: TrainState) -> TrainState:
        """Returns the state of the newest checkpoint, with the shapes and shardings of `like`.

        Raises:
          R1JaxError: there is none, or it cannot be read into those shapes.
        """
        update = self.latest()
        try:
            return TrainState(**self._manager.restore(update, args=ocp.args.StandardRestore(_present(like))))
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise R1JaxError(f"{self._manager.directory}/{update}: cannot be restored: {reason}") from error

    def close(self) -> None:
        """Waits for pending writes."""
        self._manager.close()


def _present(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if value is not None}
