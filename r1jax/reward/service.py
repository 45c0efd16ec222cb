"""The reward service: images in, tickets out; scores when they are wanted."""

import dataclasses
import itertools
import logging
import os
import pathlib
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from r1jax.config import RewardConfig
from r1jax.errors import R1JaxError, UsageError
from r1jax.reward.cache import ScoreCache
from r1jax.reward.process import Backend, InProcess, WorkerProcess
from r1jax.reward.queue import Request, ScoreQueue
from r1jax.reward.slots import Slots

logger = logging.getLogger(__name__)

MODES = ("ticket", "blocking", "outside")
_MAX_TICKETS = 1 << 18  # tickets remembered; older ones count as missing
_TICKET_PERIOD = 2**31 - 1  # tickets are int32 and not negative


class RewardService:
    """Scores images in a process of its own while this one goes on.

        with RewardService("my_scorer.py:MyScorer", cache_dir="scores") as service:
            tickets = service.submit(images)    # at once
            ...                                 # other work
            scores = service.collect(tickets)   # NaN where there is no score

    A score can be missing: the scorer raised, hung, returned NaN or something of the wrong shape, or its
    process died. Then the process is started again if need be and the next images are scored. Equal images
    are scored once.
    All methods may be called from any thread, and none but the constructor raises.

    Args:
      spec: a registered scorer, "FILE.py:Class", "package.module:Class", or a class that can be imported.
      mode: how a rollout is to use the service: "ticket" collects after it, "blocking" waits in every step,
        "outside" submits between the steps. All use the same process and give the same scores.
      timeout_s: the most that one `submit` or one `collect` may take.
      cache_dir: folder where scores are kept between runs; "" keeps them in memory.
      max_batch: most images scored together. 1 makes scores independent of what else is waiting, bit for bit.
      hang_timeout_s: a micro-batch that takes longer counts as hung, and its process is ended; by default
        `timeout_s`.
      start_timeout_s: how long loading the scorer may take.
      capacity_bytes: memory for images under way; `submit` waits while it is full.
      log_path: file for the output of the scorer's process; by default a temporary one, removed by `close`.
      env: environment variables for the scorer's process, such as CUDA_VISIBLE_DEVICES.
      options: keyword arguments of the scorer; plain values.
      worker: False runs the scorer in this process, for tests of scorers that neither hang nor call JAX.

    Raises:
      UsageError: there is no such scorer, or another process cannot import it.
      R1JaxError: the scorer could not be loaded, or not in time, or there is no room for images under way.
    """

    def __init__(
        self,
        spec: object,
        mode: Literal["ticket", "blocking", "outside"] = "ticket",
        timeout_s: float = 60.0,
        cache_dir: str | os.PathLike[str] = "",
        *,
        max_batch: int = 16,
        hang_timeout_s: float | None = None,
        start_timeout_s: float = 300.0,
        capacity_bytes: int = 64 << 20,
        log_path: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        worker: bool = True,
    ):
        if mode not in MODES:
            raise UsageError(f"reward.mode: {mode!r} needs no service; with one it is {' or '.join(MODES)}")
        self.mode, self.timeout_s = mode, timeout_s
        temporary = pathlib.Path(tempfile.mkdtemp(prefix="r1jax-reward-")) if log_path is None else None
        self.log_path = temporary / "scorer.log" if temporary else pathlib.Path(log_path or "")
        self._backend: Backend
        slots: Slots | None = None
        try:
            slots = Slots(capacity_bytes)
            if worker:
                hang_s = timeout_s if hang_timeout_s is None else hang_timeout_s
                self._backend = WorkerProcess(
                    spec, slots, hang_s, start_timeout_s, self.log_path, env or {}, options or {}
                )
            else:
                self._backend = InProcess(spec, slots, options or {})
            identity = self._backend.start()
        except R1JaxError as error:
            if slots:
                slots.close()
            if temporary and str(temporary) not in str(error):  # the line may point to the log
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.name, self.version = identity.name, identity.version
        cache = ScoreCache(identity, cache_dir)
        self._queue = ScoreQueue(self._backend, identity, slots, cache, max_batch)
        self._tickets: dict[int, Request] = {}
        self._uncollected: set[int] = set()  # of the tickets
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        # Runs at close(), when the service is forgotten, or at interpreter exit, whichever is first.
        self._finalizer = weakref.finalize(self, _close, self._queue, temporary)

    def submit(self, images: UInt8[np.ndarray, "b h w 3"]) -> Int32[np.ndarray, " b"]:
        """Queues copies of images and returns their tickets; -1 where no slot came free in `timeout_s`."""
        return self._submit(images, time.monotonic() + self.timeout_s)

    def collect(self, tickets: Int[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """Waits at most `timeout_s` in all and returns the score of every ticket, NaN where there is none.

        A ticket may be collected more than once. Images that are still waiting at the end of the time are
        given up, unless another caller wants an equal one.
        """
        return self._collect(tickets, time.monotonic() + self.timeout_s)

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Submits images and waits for their scores; `timeout_s` covers both."""
        return self.score_and_tell(images)[0]

    def score_and_tell(self, images: UInt8[np.ndarray, "b h w 3"]) -> tuple[Float32[np.ndarray, " b"], str]:
        """Returns what `score` does, and one line about the first score that is missing ("" if none is)."""
        deadline = time.monotonic() + self.timeout_s
        tickets = self._submit(images, deadline)
        scores = self._collect(tickets, deadline)
        missing = tickets[np.isnan(scores)].tolist()
        with self._lock:
            requests = [self._tickets.get(number) for number in missing[:1]]
        return scores, next((r.problem if r else "no room for the image, or not in time" for r in requests), "")

    def stats(self) -> dict[str, float | int | str]:
        """Returns counts of images (requests, hits, scored, failed, refused), restarts of the process, the seconds
        that the scorer worked (busy_s), the share of requests that were hits, the last error, and the 50th and 95th
        percentile of seconds from submit to score (of the latest 10 000 scored; NaN before the first)."""
        counts = dataclasses.asdict(self._queue.counts)
        latencies = self._queue.recent_latencies() or [float("nan")]
        p50, p95 = np.percentile(latencies, (50, 95))
        hit_rate = counts["hits"] / max(1, counts["requests"])
        return {**counts, "hit_rate": hit_rate, "latency_p50_s": float(p50), "latency_p95_s": float(p95)}

    def close(self) -> None:
        """Ends the scorer's process; tickets without a score become NaN, later images get the ticket -1."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, images: UInt8[np.ndarray, "b h w 3"], deadline: float) -> Int32[np.ndarray, " b"]:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            logger.warning("images are %s %s, not uint8 [b, h, w, 3]; not scored", images.dtype, images.shape)
            return np.full(images.shape[:1] or (1,), -1, np.int32)
        return np.array([self._ticket(self._queue.put(image, deadline)) for image in images], np.int32)

    def _ticket(self, request: Request | None) -> int:
        if request is None:
            return -1
        with self._lock:
            number = next(self._numbers) % _TICKET_PERIOD
            self._tickets[number] = request
            self._uncollected.add(number)
            if len(self._tickets) > _MAX_TICKETS:
                oldest = next(iter(self._tickets))
                del self._tickets[oldest]
                self._uncollected.discard(oldest)
        return number

    def _collect(self, tickets: Int[np.ndarray, "..."], deadline: float) -> Float32[np.ndarray, "..."]:
        numbers = np.asarray(tickets)
        with self._lock:
            requests = [self._tickets.get(int(number)) for number in numbers.reshape(-1)]
            new = self._uncollected.intersection(numbers.reshape(-1).tolist())
            self._uncollected -= new
            redeemed = [self._tickets[number] for number in new]
        self._queue.wait([request for request in requests if request is not None], deadline, redeemed)
        scores = [np.nan if request is None else request.score for request in requests]
        return np.array(scores, np.float32).reshape(numbers.shape)


def open_service(config: RewardConfig, log_path: str | os.PathLike[str] | None = None) -> RewardService:
    """Starts the service that a config describes; raises what `RewardService` raises."""
    return RewardService(
        config.scorer,
        "ticket" if config.mode == "graph" else config.mode,
        config.timeout_s,
        config.cache_dir,
        max_batch=config.max_batch,
        start_timeout_s=config.start_timeout_s,
        log_path=log_path,
        env={"CUDA_VISIBLE_DEVICES": config.gpu} if config.gpu else {},
        options=config.options,
    )


def _close(queue: ScoreQueue, temporary: pathlib.Path | None) -> None:
    queue.close()
    if temporary:
        shutil.rmtree(temporary, ignore_errors=True)
