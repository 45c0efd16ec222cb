"""launch/ship_agent.py: what it writes of runs, and that it writes all of it or nothing."""

import json
import sys

import jax
import numpy as np
import pytest
from launch_scripts import load

from r1jax.agent.agent import Agent, load_agent, make_environment, save_agent
from r1jax.agent.encoder import encoder
from r1jax.agent.policy import Policy
from r1jax.config import Config, override
from r1jax.errors import UsageError

FIELDS = {"agent.encoder": "pixels", "agent.hidden": (8,), "env.toolbox": ("lite",), "env.horizon": 2}


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """Returns ship(*words), which runs the script, and returns the file of the agent that it ships."""
    script = load("ship_agent")
    monkeypatch.setattr(script, "weight_file", lambda name, box: tmp_path / box / f"{name}.safetensors")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ship_agent.py", *map(str, words)])
        script.main()
        return tmp_path / "lite" / "agent.safetensors"

    return run


@pytest.fixture
def runs(tmp_path):
    config = override(Config(), FIELDS | {"data.photos": "/home/me/photos"})
    env = make_environment(config)
    policy = Policy(encoder("pixels"), env, config.agent)
    folders = [tmp_path / f"run{seed}" for seed in range(2)]
    for seed, folder in enumerate(folders):
        save_agent(folder / "agent", Agent(policy, policy.init(jax.random.key(seed)), env, config))
        rows = [{"update": update, "score_gain": update / 10 + seed, "loss": 1.0} for update in (1, 2, 3)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folders


def test_the_mean_of_runs_with_its_log_and_card(ship, runs):
    shipped = load_agent(ship(*runs))
    assert shipped.config.agent.hidden == (16,) and shipped.config.data.photos == "photos"
    for end, run in enumerate(runs):  # each keeps its half of the first layer
        kernel = np.asarray(load_agent(run).params["actor.layers.0.kernel"])
        half = np.asarray(shipped.params["actor.layers.0.kernel"])[:, end * 8 : end * 8 + 8]
        np.testing.assert_allclose(half, kernel, atol=1e-3)
    folder = runs[0].parent / "lite"
    log = [json.loads(line) for line in (folder / "agent.log.jsonl").read_text().splitlines()]
    assert [(row["member"], row["update"]) for row in log] == [(run, update) for run in range(2) for update in (1, 2, 3)]
    assert log[-1]["score_gain"] == pytest.approx(1.3) and "loss" not in log[-1]
    card = (folder / "agent.md").read_text()
    assert "| env.horizon | 2 |" in card and "updates of each run: 3, 3" in card and "/home/me" not in card


def test_a_run_without_a_log_ships_nothing(ship, runs):
    (runs[1] / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        ship(*runs)
    with pytest.raises(UsageError, match="run1: no run that went on from the mean of the others"):
        ship(*runs, "--last", runs[1])
    assert not (runs[0].parent / "lite").exists()
