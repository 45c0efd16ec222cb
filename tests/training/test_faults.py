"""A scorer that fails in every way while an agent trains: the run goes on without the step, or ends with a line."""

import os
import pathlib
import signal
import sys
import threading
import time

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "reward"))

from fake_server import Fake
from probes import Flat, probe_config
from worker_processes import worker_pid

from r1jax.errors import R1JaxError
from r1jax.reward import service as services
from r1jax.training.loop import train

LEVELS = (0.25, 0.5, 1.0)
SHORT = {"ppo__updates": 2, "reward__mode": "ticket", "reward__timeout_s": 8.0}
FAULTS = ("raises", "nan", "shape", "dies", "hangs")
SERVER_FAULTS = (500, 429, "garbage", "half")
pytestmark = pytest.mark.timeout(280)

SCORER = """
import os, time
import numpy as np

class Faulty:
    def __init__(self, fault):
        self.fault = fault

    def score(self, images):
        brightness = images.mean((1, 2, 3)) / 255
        bad = brightness > 0.9
        if bad.any() and self.fault == "raises":
            raise RuntimeError("too bright")
        if bad.any() and self.fault == "shape":
            return np.ones(len(images) + 1, np.float32)
        if bad.any() and self.fault == "dies":
            os._exit(3)
        if bad.any() and self.fault == "hangs":
            time.sleep(1000)
        return np.where(bad & (self.fault == "nan"), np.nan, 5 - 8 * np.abs(brightness - 0.5)).astype(np.float32)
"""


def run(folder, config):
    return train(config, folder, data=Flat(LEVELS), progress=False)


@pytest.fixture
def scorer(tmp_path):
    (tmp_path / "faulty.py").write_text(SCORER)
    return {"reward__scorer": f"{tmp_path}/faulty.py:Faulty"}


@pytest.mark.parametrize("fault", [pytest.param(f, marks=[] if f == "raises" else pytest.mark.slow) for f in FAULTS])
def test_the_step_is_masked_and_the_run_goes_on(fault, scorer, tmp_path):
    quick = {"reward__timeout_s": 3.0, "reward__max_batch": 1} if fault == "hangs" else {}
    result = run(tmp_path / "run", probe_config(**{**SHORT, **scorer, **quick}, reward__options={"fault": fault}))
    assert all(0 < row["missing_share"] <= 1 for row in result.history)
    assert all(np.isfinite(list(row.values())).all() for row in result.history)
    assert all(np.isfinite(array).all() for array in result.agent.params.values())
    assert result.history[-1]["service/failed"] > 0
    again = run(tmp_path / "next", probe_config(**SHORT, **scorer, reward__options={"fault": ""}))
    assert [row["missing_share"] for row in again.history] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("fault", SERVER_FAULTS)
def test_a_server_that_fails_costs_its_images_and_the_run_goes_on(fault, tmp_path):
    with Fake(fault_of=lambda image: fault if image.mean() > 230 else None) as server:
        options = {"model": "q-sit", "endpoints": server.url, "retries": 1, "backoff_s": 0.01, "timeout_s": 5}
        fields = {**SHORT, "reward__scorer": "http", "reward__options": options}
        result = run(tmp_path / "run", probe_config(**fields))
        assert all(0 < row["missing_share"] <= 1 for row in result.history)
        assert all(np.isfinite(array).all() for array in result.agent.params.values())
        with pytest.raises(R1JaxError, match=r"update 1: \d+% of the episodes lack a score") as caught:
            run(tmp_path / "ends", probe_config(**fields, reward__on_missing="raise"))
        assert "\n" not in str(caught.value)
        server.fault_of = lambda image: None
        again = run(tmp_path / "next", probe_config(**fields))
        assert [row["missing_share"] for row in again.history] == [0, 0]


@pytest.mark.slow
def test_the_run_ends_with_a_line_where_that_is_the_rule(scorer, tmp_path):
    config = probe_config(**SHORT, **scorer, reward__options={"fault": "nan"}, reward__on_missing="raise")
    with pytest.raises(R1JaxError, match=r"update 1: \d+% of the episodes lack a score") as caught:
        run(tmp_path / "run", config)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_killed_scorer_is_started_again_and_no_score_is_lost(scorer, tmp_path, monkeypatch):
    opened = []
    real = services.RewardService.__init__

    def noted(self, *args, **options):
        real(self, *args, **options)
        opened.append(self)

    monkeypatch.setattr(services.RewardService, "__init__", noted)

    def kill():
        while not opened or not opened[0].stats()["scored"]:
            time.sleep(0.02)
        os.kill(worker_pid(), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    config = probe_config(**{**SHORT, "ppo__updates": 4}, **scorer, reward__options={"fault": ""})
    result = run(tmp_path / "run", config)
    thread.join()
    assert result.history[-1]["service/restarts"] == 1
    assert [row["missing_share"] for row in result.history] == [0] * 4
