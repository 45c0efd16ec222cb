"""Images that wait for a score: duplicates are joined, micro-batches formed, failures turned into NaN.

One thread asks the backend. It sends one micro-batch at a time, so when the scorer's process dies only that
micro-batch is suspect: each of its images is tried once more, alone, and everything else just waits on.
"""

import collections
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from r1jax.errors import R1JaxError
from r1jax.reward.cache import ScoreCache
from r1jax.reward.process import Backend, WorkerLost
from r1jax.reward.scorer import Identity
from r1jax.reward.slots import Slots

logger = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False, slots=True)
class Request:
    """One image on its way; `score` is NaN until `done`, and after it if the image could not be scored."""

    key: bytes
    shape: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    since: float = 0.0  # time.monotonic() seconds
    attempts: int = 0
    tickets: int = 1  # given out for it and not waited for yet
    waiters: int = 0  # calls of `wait` that go on, each as often as it names the request
    score: float = math.nan
    problem: str = "timed out"  # why there is no score, where there is none
    done: bool = False


@dataclasses.dataclass
class Counts:
    """What happened so far, in images unless it says otherwise."""

    requests: int = 0
    hits: int = 0  # answered by the cache or by the same image already under way
    scored: int = 0
    failed: int = 0
    refused: int = 0  # no slot came free in time
    restarts: int = 0  # of the scorer's process
    busy_s: float = 0.0  # seconds that the scorer worked
    last_error: str = ""


class ScoreQueue:
    """Scores images in the order of their arrival. Methods are thread-safe and never raise.

    Args:
      backend: started already.
      identity: what its start returned; a restart must return the same.
      slots: memory that the backend reads.
      cache: known scores; new ones are added.
      max_batch: most images of one shape scored together.
    """

    def __init__(self, backend: Backend, identity: Identity, slots: Slots, cache: ScoreCache, max_batch: int):
        self._backend, self._identity, self._slots, self._cache = backend, identity, slots, cache
        self._max_batch = max_batch
        self.counts = Counts()
        self._latencies: collections.deque[float] = collections.deque(maxlen=10_000)
        self._waiting: collections.deque[Request] = collections.deque()
        self._under_way: dict[bytes, Request] = {}  # waiting or with the backend
        self._condition = threading.Condition()
        self._closed = False
        self._needs_start = False
        self._thread = threading.Thread(target=self._run, name="r1jax-score-queue", daemon=True)
        self._thread.start()

    def put(self, image: UInt8[np.ndarray, "h w 3"], deadline: float) -> Request | None:
        """Queues one image, copying it.

        Returns:
          A request, done already if the score is known; None if no slot came free before `deadline`
          (`time.monotonic()` seconds) or the queue is closed.
        """
        key = self._cache.key(image)
        with self._condition:
            self.counts.requests += 1
            if known := self._known(key):
                return known
        blocks = self._slots.write(image, deadline)  # may wait, so not under the lock
        with self._condition:
            if blocks is None or self._closed:
                self.counts.refused += 1
                return None
            if known := self._known(key):  # another thread was faster
                self._slots.release(blocks)
                return known
            request = Request(key, image.shape, blocks, time.monotonic())
            self._under_way[key] = request
            self._waiting.append(request)
            self._condition.notify_all()
            return request

    def wait(self, requests: Sequence[Request], deadline: float, redeemed: Sequence[Request] | None = None) -> None:
        """Returns when all are done, or at `deadline`.

        What has no score then and is not with the backend is given up, and stays NaN, unless another caller wants it too:
        equal images are one request.

        Args:
          redeemed: those whose ticket is waited for for the first time; None is all of them.
        """
        with self._condition:
            for request in requests if redeemed is None else redeemed:
                request.tickets = max(0, request.tickets - 1)
            for request in requests:
                request.waiters += 1
            for request in requests:
                while not request.done:
                    if not self._condition.wait(max(0.0, deadline - time.monotonic())):
                        break
            for request in requests:
                request.waiters -= 1
            # Scoring what nobody waits for any more, or is about to, would only make the next ones late.
            unwanted = {r for r in requests if not (r.done or r.waiters or r.tickets)}
            given_up = unwanted.intersection(self._waiting)
            self._waiting = collections.deque(r for r in self._waiting if r not in given_up)
            for request in given_up:
                self._finish(request, math.nan)

    def recent_latencies(self) -> list[float]:
        """Returns seconds from `put` to score of the latest scored images."""
        with self._condition:
            return list(self._latencies)

    def close(self) -> None:
        """Ends the thread and the backend; whatever is under way becomes NaN."""
        with self._condition:
            self._closed = True
            self._waiting.clear()
            self._condition.notify_all()
        self._backend.stop()
        if threading.current_thread() is not self._thread:  # a garbage collection may close it from there
            self._thread.join(timeout=15.0)
        with self._condition:
            for request in list(self._under_way.values()):
                self._finish(request, math.nan)
        self._slots.close()
        self._cache.close()

    def _known(self, key: bytes) -> Request | None:
        score = self._cache.get(key)
        request = self._under_way.get(key) if score is None else Request(key, score=score, done=True)
        self.counts.hits += request is not None
        if request and not request.done:
            request.tickets += 1
        return request

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                batch = self._next_batch()
            try:
                self._score(batch)
            except Exception:  # a mistake here must not leave callers waiting for ever
                logger.exception("scoring failed")
                self._settle(batch, lambda request: math.nan, "internal error")
                with self._condition:  # what was to be tried again has given its blocks back
                    self._waiting = collections.deque(r for r in self._waiting if not r.done)

    def _next_batch(self) -> list[Request]:
        """Takes the oldest request and others of its shape; one that is tried again goes alone."""
        first = self._waiting.popleft()
        batch = [first]
        if not first.attempts:
            alike = [r for r in self._waiting if r.shape == first.shape and not r.attempts]
            batch += alike[: self._max_batch - 1]
            taken = set(batch)
            self._waiting = collections.deque(r for r in self._waiting if r not in taken)
        return batch

    def _score(self, batch: list[Request]) -> None:
        try:
            if self._needs_start:
                self._start_again()
            started = time.monotonic()
            scores, problem = self._backend.score([(request.blocks, request.shape) for request in batch])
            self.counts.busy_s += time.monotonic() - started
        except WorkerLost as lost:
            self._needs_start = True
            self._lost(batch, lost)
            self._start_early()
            return
        except R1JaxError as error:  # it could not be started again; the next micro-batch tries once more
            self._settle(batch, lambda request: math.nan, str(error))
            return
        by_key = {request.key: float(score) for request, score in zip(batch, scores, strict=True)}
        for key, score in by_key.items():
            self._cache.put(key, score)
        self._settle(batch, lambda request: by_key[request.key], problem)

    def _start_again(self) -> None:
        self.counts.restarts += 1
        found = self._backend.start()
        if found != self._identity:
            raise R1JaxError(f"the scorer changed while it ran: {self._identity} before, {found} now")
        self._needs_start = False

    def _start_early(self) -> None:
        """Loads the scorer again before the next image asks for it."""
        try:
            self._start_again()
        except R1JaxError as error:
            self._settle([], lambda request: math.nan, str(error))

    def _lost(self, batch: list[Request], lost: WorkerLost) -> None:
        """The process died: once more, alone. It hung: no, that would cost the whole timeout for each."""
        again = [r for r in batch if not lost.hung and not r.attempts and not self._closed]
        with self._condition:
            for request in reversed(again):
                request.attempts += 1
                self._waiting.appendleft(request)
        gone = [request for request in batch if request not in again]
        self._settle(gone, lambda request: math.nan, str(lost))

    def _settle(self, batch: list[Request], score_of: Callable[[Request], float], problem: str) -> None:
        with self._condition:
            if problem and not self._closed:
                logger.warning("%s", problem)
                self.counts.last_error = problem
            for request in batch:
                request.problem = problem
                self._finish(request, score_of(request))

    def _finish(self, request: Request, score: float) -> None:
        """Marks a request done; the caller holds the lock."""
        if request.done:
            return
        request.score, request.done = score, True
        self._under_way.pop(request.key, None)
        self._slots.release(request.blocks)
        if math.isnan(score):
            self.counts.failed += 1
        else:
            self.counts.scored += 1
            self._latencies.append(time.monotonic() - request.since)
        self._condition.notify_all()
