"""The service as a caller sees it: scores, hits, persistence, and every way a scorer can fail."""

import gc
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from worker_processes import worker_pid, worker_pids

from r1jax.config import RewardConfig
from r1jax.errors import R1JaxError, UsageError
from r1jax.reward import RewardService, scorer
from r1jax.reward import slots as slots_module
from r1jax.reward.service import open_service

FILE = pathlib.Path(__file__).with_name("scorers.py")
BAD = 13
pytestmark = pytest.mark.timeout(90)


def images(num, seed=0, side=8):
    made = np.random.default_rng(seed).integers(0, 256, (num, side, side, 3), dtype=np.uint8)
    made[:, 0, 0, 0] = 0
    return made


def with_bad(num, bad, seed=0):
    made = images(num, seed)
    made[bad, 0, 0, 0] = BAD
    return made


def service(name, **options):
    return RewardService(f"{FILE}:{name}", **{"timeout_s": 20.0, **options})


def direct(batch):
    return scorer(f"{FILE}:Brightness").score(batch)


@pytest.mark.parametrize("worker", [True, False])
def test_scores_are_those_of_the_scorer_for_tickets_of_any_shape(worker):
    batch = images(6)
    with service("Brightness", worker=worker) as made:
        tickets = made.submit(batch)
        assert tickets.dtype == np.int32 and tickets.shape == (6,)
        scores = made.collect(tickets.reshape(3, 2, 1))
        assert scores.dtype == np.float32 and scores.shape == (3, 2, 1)
        np.testing.assert_array_equal(scores.reshape(-1), direct(batch))
        np.testing.assert_array_equal(made.score(batch), direct(batch))
        assert made.collect(np.zeros((0, 4), np.int32)).shape == (0, 4)
        assert made.collect(tickets[2]) == direct(batch)[2]
        assert len(worker_pids()) == worker


def test_images_of_several_sizes_share_the_service():
    with service("Brightness", capacity_bytes=1 << 20) as made:
        for side in (1, 7, 200):
            batch = images(3, side=side)
            np.testing.assert_array_equal(made.score(batch), direct(batch))


def test_submit_copies_and_does_not_wait_for_the_score():
    batch = images(4)
    want = direct(batch)
    with service("Slow") as made:
        start = time.monotonic()
        tickets = made.submit(batch)
        assert time.monotonic() - start < 0.09
        batch[:] = 0
        np.testing.assert_array_equal(made.collect(tickets), want)


def test_equal_images_are_scored_once(tmp_path):
    record = tmp_path / "record"
    batch = images(3)
    with service("RecordingSlow", env={"RECORD_FILE": str(record)}) as made:
        first = made.submit(np.concatenate([batch, batch]))  # equal images under way
        np.testing.assert_array_equal(made.collect(first), np.tile(direct(batch), 2))
        np.testing.assert_array_equal(made.score(batch), direct(batch))  # scores known
        assert sum(map(int, record.read_text().split())) == 3
        stats = made.stats()
    assert (stats["requests"], stats["hits"], stats["scored"], stats["failed"]) == (9, 6, 3, 0)
    assert stats["hit_rate"] == pytest.approx(6 / 9)
    assert 0.05 < stats["latency_p50_s"] <= stats["latency_p95_s"] < 20


def test_scores_outlive_the_process_on_disk(tmp_path):
    record = tmp_path / "record"
    for _ in range(2):
        with service("Recording", cache_dir=tmp_path / "cache", env={"RECORD_FILE": str(record)}) as made:
            assert made.name == "recording" and made.version.startswith("7+")
            np.testing.assert_array_equal(made.score(images(3)), direct(images(3)))
    assert sum(map(int, record.read_text().split())) == 3


def test_waiting_images_are_scored_together_up_to_max_batch(tmp_path):
    record = tmp_path / "record"
    with service("RecordingSlow", max_batch=4, env={"RECORD_FILE": str(record)}) as made:
        made.score(images(9))
    sizes = list(map(int, record.read_text().split()))
    assert sum(sizes) == 9 and max(sizes) == 4


@pytest.mark.parametrize("name", ["Raising", "NotANumber", "WrongShape"])
def test_a_failure_costs_only_the_image_that_causes_it(name):
    batch = with_bad(6, 2)
    want = direct(batch)
    want[2] = np.nan
    with service(name) as made:
        np.testing.assert_array_equal(made.score(batch), want)
        np.testing.assert_array_equal(made.score(images(2, seed=1)), direct(images(2, seed=1)))
        stats = made.stats()
    assert stats["restarts"] == 0 and stats["failed"] == 1
    assert {"Raising": "bad image", "NotANumber": "nan", "WrongShape": "shape"}[name] in stats["last_error"]


def test_a_scorer_that_ends_its_process_costs_only_the_image_that_causes_it():
    batch = with_bad(5, 3)
    want = direct(batch)
    want[3] = np.nan
    with service("Dying") as made:
        np.testing.assert_array_equal(made.score(batch), want)
        np.testing.assert_array_equal(made.score(images(2, seed=1)), direct(images(2, seed=1)))
        stats = made.stats()
    assert stats["restarts"] >= 2 and stats["failed"] == 1
    assert "exit status 3" in stats["last_error"]


def test_a_scorer_that_hangs_is_ended_and_the_next_image_is_scored():
    with service("Hanging", timeout_s=1.5) as made:
        start, pid = time.monotonic(), worker_pid()
        scores = made.score(with_bad(2, 0))
        assert time.monotonic() - start < 5.0
        assert np.isnan(scores).all()
        time.sleep(1.5)  # until the new process is ready
        np.testing.assert_array_equal(made.score(images(2, seed=1)), direct(images(2, seed=1)))
        assert worker_pid() != pid and not alive(pid)
        assert "no answer" in made.stats()["last_error"]


@pytest.mark.parametrize("while_scoring", [True, False])
def test_a_killed_process_costs_nothing(while_scoring):
    with service("Slow") as made:
        tickets = made.submit(images(2)) if while_scoring else None
        time.sleep(0.03)
        os.kill(worker_pid(), signal.SIGKILL)
        tickets = made.submit(images(2)) if tickets is None else tickets
        np.testing.assert_array_equal(made.collect(tickets), direct(images(2)))
        assert made.stats()["restarts"] == 1


def test_a_scorer_that_cannot_be_started_again_costs_scores_until_it_can(tmp_path):
    file = tmp_path / "mine.py"
    text = FILE.read_text()
    file.write_text(text)
    with RewardService(f"{file}:Dying", timeout_s=20.0) as made:
        for broken, line in ((None, "no such file"), (text + "# edited", "the scorer changed while it ran")):
            file.unlink() if broken is None else file.write_text(broken)
            assert np.isnan(made.score(with_bad(1, 0))).all()
            assert np.isnan(made.score(images(2))).all()
            assert line in made.stats()["last_error"]
            file.write_text(text)
            np.testing.assert_array_equal(
                made.score(images(1, seed=len(line))), direct(images(1, seed=len(line)))
            )


def test_a_process_that_cannot_be_started_is_one_line(monkeypatch):
    def refuse(*args, **options):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(R1JaxError, match=r"its process cannot be started \(OSError: no more processes\)"):
        service("Brightness")


def test_threads_that_submit_equal_images_share_their_scores(tmp_path):
    record = tmp_path / "record"
    batch = images(20)
    got = []
    with service("Recording", capacity_bytes=4 << 16, env={"RECORD_FILE": str(record)}) as made:
        threads = [threading.Thread(target=lambda: got.append(made.score(batch))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = made.stats()
    assert len(got) == 6
    for scores in got:
        np.testing.assert_array_equal(scores, direct(batch))
    assert sum(map(int, record.read_text().split())) == 20
    assert (stats["requests"], stats["hits"], stats["scored"]) == (120, 100, 20)


def test_without_a_free_slot_the_ticket_is_minus_one_and_the_score_missing():
    with service("Hanging", timeout_s=0.5, hang_timeout_s=60.0, capacity_bytes=2 << 16) as made:
        tickets = made.submit(with_bad(3, [0, 1, 2]))
        assert tickets[2] == -1 and (tickets[:2] >= 0).all()
        start = time.monotonic()
        assert np.isnan(made.collect(tickets)).all()
        assert time.monotonic() - start < 2.0
        assert made.stats()["refused"] == 1


def test_submit_waits_for_slots_that_come_free():
    with service("Slow", capacity_bytes=2 << 16) as made:
        tickets = made.submit(images(6))
        assert (tickets >= 0).all()
        np.testing.assert_array_equal(made.collect(tickets), direct(images(6)))


def test_collecting_takes_the_timeout_once_however_many_tickets():
    with service("Slow", timeout_s=0.5, max_batch=1) as made:
        tickets = made.submit(images(30))
        start = time.monotonic()
        scores = made.collect(tickets)
        assert 0.4 < time.monotonic() - start < 1.5
        got = np.isfinite(scores)
        assert 1 <= got.sum() <= 10 and np.isnan(scores[-1])
        np.testing.assert_array_equal(scores[got], direct(images(30))[got])
        time.sleep(0.15)  # the one that was being scored; the rest were given up
        np.testing.assert_array_equal(made.score(images(1, seed=1)), direct(images(1, seed=1)))


def test_what_is_no_image_batch_gets_missing_tickets():
    with service("Brightness", worker=False) as made:
        for wrong in (
            np.zeros((2, 4, 4, 3), np.float32),
            np.zeros((2, 4, 4), np.uint8),
            np.zeros((), np.uint8),
        ):
            assert (made.submit(wrong) == -1).all()
        assert np.isnan(made.collect(np.array([-1, 12345]))).all()


def test_a_closed_service_answers_with_missing_scores():
    made = service("Hanging")
    pid = worker_pid()
    tickets = made.submit(with_bad(2, 1))
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(made.collect(tickets)))
    thread.start()
    time.sleep(0.1)
    start = time.monotonic()
    made.close()
    made.close()
    thread.join(5.0)
    assert time.monotonic() - start < 5.0
    assert np.isnan(waiting[0]).all() and not alive(pid)
    assert (made.submit(images(2)) == -1).all()
    assert np.isnan(made.score(images(2))).all()
    assert not made.log_path.exists()


def test_a_service_that_is_forgotten_ends_its_process():
    made = service("Brightness")
    pid = worker_pid()
    assert alive(pid)
    del made
    gc.collect()
    assert not alive(pid)


@pytest.mark.parametrize(
    ("name", "kind", "line"),
    [
        ("Nothing", UsageError, "defines no 'Nothing'"),
        ("Broken", R1JaxError, "ValueError: no weights here"),
        ("LoadsForEver", R1JaxError, "not ready after 1 s"),
    ],
)
def test_a_scorer_that_cannot_be_loaded_is_said_at_once(name, kind, line):
    with pytest.raises(kind) as caught:
        service(name, start_timeout_s=1.0 if name == "LoadsForEver" else 60.0)
    assert type(caught.value) is kind and line in str(caught.value) and "\n" not in str(caught.value)


def test_without_room_for_images_there_is_a_line_and_no_folder_is_left(tmp_path, monkeypatch):
    def full(fd, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slots_module.os, "posix_fallocate", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(R1JaxError, match="no room for 67108864 bytes of shared image slots") as caught:
        service("Brightness")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_config_gives_the_process_a_gpu_of_its_own_or_the_trainers(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    for gpu, seen in (("7", 7), ("", 2)):
        config = RewardConfig(scorer=f"{FILE}:Environment", gpu=gpu, timeout_s=20.0, cache_dir=str(tmp_path / gpu))
        with open_service(config, tmp_path / "scorer.log") as made:
            assert made.score(images(2)).tolist() == [seen, seen]
    assert (tmp_path / "scorer.log").is_file()


def test_other_modes_are_refused():
    with pytest.raises(UsageError, match="ticket or blocking or outside"):
        service("Brightness", mode="graph")


def test_the_log_holds_what_the_scorer_printed(tmp_path):
    with service("Raising", log_path=tmp_path / "log") as made:
        assert math.isnan(made.score(with_bad(1, 0))[0])
    text = (tmp_path / "log").read_text()
    assert text.startswith("Traceback") and text.endswith("RuntimeError: bad image\n")


EXITS = """
import sys, os, numpy as np
from r1jax.reward import RewardService
made = RewardService(sys.argv[1] + ":Hanging")
bad = np.full((1, 4, 4, 3), 13, np.uint8)
made.submit(bad)
print("submitted", flush=True)
sys.stdin.readline()
if sys.argv[2] == "die":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["exit", "die"])
def test_the_process_ends_with_its_parent_even_while_it_hangs(how):
    command = [sys.executable, "-c", EXITS, str(FILE), how]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout.readline() == "submitted\n", run.stderr.read()
        pid = worker_pid(run.pid)
        _, problems = run.communicate("\n", timeout=60)
    if how == "exit":
        assert run.returncode == 0, problems
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


def alive(pid):
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
