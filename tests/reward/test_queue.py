"""One request for equal images of several callers: one that gives up takes nothing from the others."""

import math
import threading
import time

import numpy as np
import pytest

from r1jax.reward.cache import ScoreCache
from r1jax.reward.process import WorkerLost
from r1jax.reward.queue import ScoreQueue
from r1jax.reward.scorer import Identity
from r1jax.reward.service import RewardService
from r1jax.reward.slots import Slots

pytestmark = pytest.mark.timeout(60)
IDENTITY = Identity("held", "1")


class Held:
    """A backend that answers only when `let_go` is set; every score is 3."""

    def __init__(self):
        self.let_go, self.asked = threading.Event(), 0

    def start(self):
        return IDENTITY

    def score(self, batch):
        self.asked += len(batch)
        self.let_go.wait(30)
        return np.full(len(batch), 3, np.float32), ""

    def stop(self):
        self.let_go.set()


@pytest.fixture
def backend():
    return Held()


@pytest.fixture
def queue(backend):
    """A queue whose backend is busy with another image, so that whatever comes has to wait."""
    slots = Slots(capacity_bytes=8 * 4096, block_bytes=4096)
    made = ScoreQueue(backend, IDENTITY, slots, ScoreCache(IDENTITY), max_batch=1)
    made.put(image(0), soon(10))
    while not backend.asked:
        time.sleep(0.01)
    yield made
    made.close()


def image(value):
    return np.full((4, 4, 3), value, np.uint8)


def soon(seconds):
    return time.monotonic() + seconds


def in_a_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def test_a_caller_out_of_time_leaves_the_image_to_one_who_still_waits(queue, backend):
    first, second = queue.put(image(1), soon(1)), queue.put(image(1), soon(1))
    assert first is second
    patient = in_a_thread(queue.wait, [second], soon(20))
    hasty = in_a_thread(queue.wait, [first], soon(0.1))
    hasty.join()
    assert not first.done and patient.is_alive()
    backend.let_go.set()
    patient.join()
    assert second.score == 3 and queue.counts.failed == 0


def test_a_caller_out_of_time_leaves_the_image_to_one_who_is_yet_to_wait(queue, backend):
    first, second = queue.put(image(1), soon(1)), queue.put(image(1), soon(1))
    queue.wait([first], soon(0.05))
    assert not second.done
    backend.let_go.set()
    queue.wait([second], soon(20))
    assert second.score == 3


def test_an_image_that_nobody_waits_for_any_more_is_given_up(queue, backend):
    first, second = queue.put(image(1), soon(1)), queue.put(image(1), soon(1))
    threads = [in_a_thread(queue.wait, [request], soon(seconds)) for request, seconds in ((first, 0.05), (second, 0.2))]
    for thread in threads:
        thread.join()
    assert first.done and math.isnan(first.score) and queue.counts.failed == 1
    backend.let_go.set()
    again = queue.put(image(1), soon(1))
    queue.wait([again], soon(20))
    assert again.score == 3 and backend.asked == 2  # the busy one, and this


def test_the_same_image_twice_in_one_call_is_given_up_with_it(queue):
    twice = [queue.put(image(1), soon(1)) for _ in range(2)]
    queue.wait(twice, soon(0.05))
    assert twice[0].done and math.isnan(twice[0].score)


class Fallen:
    """A backend that dies at the first image and cannot be started once; then the score is the mean when `let_go` is set."""

    def __init__(self, slots):
        self.slots, self.failures = slots, [WorkerLost("died", hung=False), OSError("no more processes")]
        self.let_go = threading.Event()

    def _fail(self, kind):
        if self.failures and isinstance(self.failures[0], kind):
            raise self.failures.pop(0)

    def start(self):
        self._fail(OSError)
        return IDENTITY

    def score(self, batch):
        self._fail(WorkerLost)
        self.let_go.wait(30)
        return np.array([self.slots.read(*item).mean() for item in batch], np.float32), ""

    def stop(self):
        pass


def test_a_restart_that_breaks_leaves_no_request_whose_blocks_another_image_gets(caplog):
    slots = Slots(capacity_bytes=4096, block_bytes=4096)  # of one image
    backend = Fallen(slots)
    made = ScoreQueue(backend, IDENTITY, slots, ScoreCache(IDENTITY), max_batch=1)
    lost = made.put(image(1), soon(10))
    made.wait([lost], soon(10))
    requests = [made.put(image(2), soon(10))]
    backend.let_go.set()
    made.wait(requests, soon(10))
    requests.append(made.put(image(1), soon(10)))
    made.wait(requests, soon(10))
    made.close()
    assert math.isnan(lost.score) and [request.score for request in requests] == [2, 1]
    assert "no more processes" in caplog.text


def test_a_ticket_that_is_collected_twice_takes_nothing_from_another():
    let_go = threading.Event()

    class Slow:
        def score(self, images):
            let_go.wait(30)
            return images.mean((1, 2, 3))

    with RewardService(Slow(), worker=False, max_batch=1, timeout_s=0.05) as service:
        busy = service.submit(image(0)[None])
        first, second = (service.submit(image(1)[None]) for _ in range(2))
        for _ in range(2):
            assert math.isnan(service.collect(first)[0])
        let_go.set()
        service.timeout_s = 20
        assert service.collect(second) == 1 and service.collect(busy) == 0


def test_waiting_again_after_giving_up_takes_nothing_from_a_caller_who_waits(queue, backend):
    first, second = queue.put(image(1), soon(1)), queue.put(image(1), soon(1))
    patient = in_a_thread(queue.wait, [second], soon(20))
    while not second.waiters:
        time.sleep(0.01)
    for _ in range(3):
        queue.wait([first], soon(0.02))
    assert not second.done
    backend.let_go.set()
    patient.join()
    assert second.score == 3
