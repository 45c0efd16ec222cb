"""This side of the scorer's process: start it, ask it, end it."""

import contextlib
import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32

from r1jax.errors import R1JaxError, UsageError
from r1jax.files import make_folder
from r1jax.reward.scorer import Identity, identity, one_line, portable, score_safely, scorer
from r1jax.reward.slots import Slots

Item = tuple[tuple[int, ...], tuple[int, ...]]  # an image: its blocks in the slots, its shape


class WorkerLost(Exception):
    """The scorer's process died or gave no answer in time (`hung`); it is to be started again."""

    def __init__(self, message: str, hung: bool):
        super().__init__(message)
        self.hung = hung


class Backend(Protocol):
    """Where images are scored."""

    def start(self) -> Identity:
        """Makes it ready; raises R1JaxError if it cannot be."""
        ...

    def score(self, batch: Sequence[Item]) -> tuple[Float32[np.ndarray, " b"], str]:
        """Returns scores and one line about a failure ("" if none); raises WorkerLost."""
        ...

    def stop(self) -> None:
        """Ends it for good, from any thread; a `score` or `start` under way raises."""
        ...


class WorkerProcess:
    """A scorer in a process of its own, one micro-batch at a time.

    Args:
      spec: what `r1jax.reward.scorer.scorer` accepts and another process can import.
      slots: where the images lie.
      timeout_s: a micro-batch that takes longer counts as hung.
      start_timeout_s: how long loading the scorer may take.
      log_path: file to which the process's output is appended.
      env: environment variables to set for it.
      options: keyword arguments that the scorer is built with; plain values.
    """

    def __init__(
        self,
        spec: object,
        slots: Slots,
        timeout_s: float,
        start_timeout_s: float,
        log_path: pathlib.Path,
        env: Mapping[str, str],
        options: Mapping[str, Any],
    ):
        self._spec, self._options = portable(spec), _as_json(options)
        self._slots = slots
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        make_folder(log_path.parent)  # now: a scorer that was refused up to here leaves no folder behind
        self._log_path = log_path
        self._env = {**worker_environment(), **env}
        self._lock = threading.RLock()  # `stop` may run in a garbage collection inside `start`
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def start(self) -> Identity:
        """Starts the process anew and waits until its scorer is loaded.

        Raises:
          UsageError, R1JaxError: the scorer cannot be built, or not in time; one line.
        """
        self._end()
        where = f"scorer {self._spec}: its process"
        try:
            connection = self._spawn()
        except OSError as error:
            raise R1JaxError(f"{where} cannot be started ({one_line(error)})") from error
        try:
            if not connection.poll(self._start_timeout_s):
                raise R1JaxError(
                    f"{where} was not ready after {self._start_timeout_s:g} s; log: {self._log_path}"
                )
            answer = connection.recv()
        except (EOFError, OSError):
            raise R1JaxError(
                f"{where} ended at its start ({self._epitaph()}); log: {self._log_path}"
            ) from None
        except R1JaxError:
            self._end()
            raise
        if answer[0] == "failed":
            self._end()
            raise (UsageError if answer[1] else R1JaxError)(answer[2])
        return answer[1]

    def score(self, batch: Sequence[Item]) -> tuple[Float32[np.ndarray, " b"], str]:
        """Scores images of one shape; see Backend."""
        connection = self._connection
        if connection is None:
            raise WorkerLost("the scorer process is not running", hung=False)
        try:
            connection.send(list(batch))
            if not connection.poll(self._timeout_s):
                raise WorkerLost(f"the scorer gave no answer in {self._timeout_s:g} s", hung=True)
            return connection.recv()
        except (EOFError, OSError):
            raise WorkerLost(f"the scorer process died ({self._epitaph()})", hung=False) from None

    def stop(self) -> None:
        """Ends the process and lets none start again."""
        with self._lock:
            self._stopped = True
            self._kill()

    def _spawn(self) -> Connection:
        ours, theirs = socket.socketpair()
        arguments = {
            "connection": theirs.fileno(),
            "slots": self._slots.fd,
            "num-blocks": self._slots.num_blocks,
            "block-bytes": self._slots.block_bytes,
            "parent": os.getpid(),
            "options": self._options,
        }
        # -P: the path is exactly ours. A session of its own: Ctrl-C is the parent's affair, and a kill
        # reaches whatever the scorer started.
        command = [sys.executable, "-P", "-m", "r1jax.reward.worker", self._spec]
        command += [f"--{name}={value}" for name, value in arguments.items()]
        with ours, theirs, self._lock, self._log_path.open("ab") as log:
            if self._stopped:
                raise R1JaxError("the reward service is closed")
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                pass_fds=(theirs.fileno(), self._slots.fd),
                start_new_session=True,
            )
            self._connection = Connection(ours.detach())
            return self._connection

    def _end(self) -> None:
        """Ends a process that may still run, before another one starts. Only for the thread that scores."""
        with self._lock:
            self._kill()
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _kill(self) -> None:
        # The connection stays open: the scoring thread may be waiting on it, and is woken by its end of file.
        # A process that has been waited for is left alone: its number may belong to another one by now.
        if self._process is None or self._process.returncode is not None:
            return
        for number, patience_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
                return

    def _epitaph(self) -> str:
        """Ends what is left of a dead process; returns its exit status and the last line that it logged."""
        self._end()
        lines = self._log_path.read_text(errors="replace").splitlines() if self._log_path.exists() else []
        said = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return f"exit status {self._process.returncode if self._process else None}, {said[:200]}"


def _as_json(options: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(options))
    except TypeError as error:
        raise UsageError(f"reward.options: {error}; want numbers, texts, lists and dictionaries of them") from None


class InProcess:
    """A scorer in this process, for tests: a scorer that hangs or dies takes the process with it.

    It must not call JAX: a program that waits for its score would wait for itself.
    """

    def __init__(self, spec: object, slots: Slots, options: Mapping[str, Any]):
        self._scorer, self._options = scorer(spec, options), options
        self._slots = slots

    def start(self) -> Identity:
        """Returns the scorer's identity."""
        return identity(self._scorer, self._options)

    def score(self, batch: Sequence[Item]) -> tuple[Float32[np.ndarray, " b"], str]:
        """Scores images of one shape."""
        images = np.stack([self._slots.read(blocks, shape) for blocks, shape in batch])
        return score_safely(self._scorer, images)

    def stop(self) -> None:
        """Does nothing."""


def worker_environment() -> dict[str, str]:
    """Returns the environment of a scorer's process: ours, with a share of the accelerator that is not all of
    it."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    env.setdefault("PYTHONUNBUFFERED", "1")
    # JAX takes most of a GPU's memory at its start; the trainer has it already.
    env.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if importlib.util.find_spec("libtpu") and "tpu" in env.get("JAX_PLATFORMS", "tpu"):
        env["JAX_PLATFORMS"] = "cpu"  # a TPU belongs to one process
    return env
