"""The training loop: repeatable, resumable, with a complete log, and errors of one line."""

import json
import shutil
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Flat, check_finished, greedy_actions, probe_config, start_on_devices

from r1jax.agent.agent import load_agent
from r1jax.errors import R1JaxError, UsageError
from r1jax.tools import register_tool
from r1jax.training import loop
from r1jax.training.logs import read_log
from r1jax.training.loop import entropy_coef, train

CONFIG = probe_config(ppo__updates=6, eval__every=2, eval__checkpoint_every=3)
SHORT = {"ppo__updates": 2}
LEVELS = (0.25, 0.5, 1.0)


class Killed(Exception):
    pass


def run(folder, config=CONFIG, **options):
    return train(config, folder, data=options.pop("data", None) or Flat(LEVELS), progress=False, **options)


def untimed(history):
    return [{name: value for name, value in row.items() if not name.startswith(("seconds", "steps_per"))} for row in history]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "straight")


def assert_same_run(one, other):
    assert untimed(one.history) == untimed(other.history)
    for name, array in one.agent.params.items():
        np.testing.assert_array_equal(array, other.agent.params[name], err_msg=name)


def test_two_runs_are_equal(straight, tmp_path):
    assert_same_run(run(tmp_path / "run"), straight)


def test_a_run_begins_from_an_agent(straight, tmp_path):
    still = probe_config(ppo__updates=1, ppo__learning_rate=0.0)
    result = run(tmp_path / "run", still, init=straight.agent)
    for name, array in straight.agent.params.items():
        np.testing.assert_array_equal(result.agent.params[name], array, err_msg=name)
    with pytest.raises(UsageError, match=r"holds a run that began from .*, not fresh parameters"):
        run(tmp_path / "run", still)
    with pytest.raises(UsageError, match=r"with env\.stop True, this config has False"):
        run(tmp_path / "other", probe_config(env__stop=False), init=straight.agent)
    others = {"agent__hidden": (16,), "env__horizon": 1, "env__toolbox": ("probe_noop",), "agent__record": False}
    for field, value in others.items():
        with pytest.raises(UsageError, match=f"--init: the agent was trained with {field.replace('__', '.')}"):
            run(tmp_path / "other", probe_config(**{field: value}), init=straight.agent)
    assert not (tmp_path / "other").exists()


def test_another_seed_is_another_run(straight, tmp_path):
    other = run(tmp_path / "run", probe_config(seed=1, ppo__updates=1))
    assert untimed(other.history)[0] != untimed(straight.history)[0]


def test_a_killed_run_resumes_to_the_same_end(straight, tmp_path):
    class Dying(Flat):
        def batch(self, seed, step, batch_size):
            if step == 4:
                raise Killed
            return super().batch(seed, step, batch_size)

    with pytest.raises(Killed):
        run(tmp_path / "run", data=Dying(LEVELS))
    assert [row["update"] for row in read_log(tmp_path / "run")] == [1, 2, 3, 4]
    data = Flat(LEVELS)
    resumed = run(tmp_path / "run", data=data)
    assert data.asked == [3, 4, 5]  # update 4 is done again: the checkpoint is of update 3
    assert_same_run(resumed, straight)
    assert untimed(read_log(tmp_path / "run")) == untimed(straight.history)


def test_a_finished_run_is_only_loaded(straight):
    data = Flat(LEVELS)
    again = run(straight.run_dir, data=data)
    assert data.asked == [] and (straight.trained, again.trained) == (6, 0)
    assert_same_run(again, straight)


@pytest.mark.parametrize("algorithm", ["grpo", "vtrace"])
def test_other_algorithms_resume_to_the_same_end(algorithm, tmp_path):
    fields = {"grpo": {"ppo__group_size": 4}, "vtrace": {"ppo__lag": 2}}[algorithm]
    config = probe_config(ppo__updates=4, ppo__algorithm=algorithm, eval__checkpoint_every=2, **fields)
    straight = run(tmp_path / "straight", config)

    class Dying(Flat):
        def batch(self, seed, step, batch_size):
            if step == 3:
                raise Killed
            return super().batch(seed, step, batch_size)

    with pytest.raises(Killed):
        run(tmp_path / "run", config, data=Dying(LEVELS))
    assert_same_run(run(tmp_path / "run", config), straight)
    for row in straight.history:
        assert row["ratio_error"] < 1e-5


def test_the_first_minibatch_is_on_policy_and_the_policy_moves(straight):
    for row in straight.history:
        assert row["ratio_error"] < 1e-5
        assert row["approx_kl"] > 1e-6


def test_log_is_complete(straight):
    rows = [json.loads(line) for line in (straight.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert rows == straight.history
    assert [row["update"] for row in rows] == [1, 2, 3, 4, 5, 6]
    wanted = {
        "loss",
        "policy_loss",
        "value_loss",
        "entropy",
        "approx_kl",
        "clip_fraction",
        "explained_variance",
    }
    wanted |= {
        "grad_norm",
        "mean_calls",
        "stop_at_0",
        "score_first",
        "score_last",
        "score_gain",
        "missing_share",
    }
    wanted |= {"action/probe_brighten", "action/probe_darken", "action/probe_noop", "action/stop", "seconds"}
    for row in rows:
        assert wanted <= row.keys()
        assert abs(sum(share for name, share in row.items() if name.startswith("action/")) - 1) < 1e-5
        assert row["score_last"] == pytest.approx(row["score_first"] + row["score_gain"], abs=1e-5)
    assert list((straight.run_dir / "tensorboard").glob("events*"))
    assert json.loads((straight.run_dir / "config.json").read_text())["ppo"]["updates"] == 6


def test_saved_agent_acts_as_the_trained_one(straight):
    images = Flat(LEVELS).batch(9, 0, 9).degraded
    for path in (
        straight.run_dir,
        straight.run_dir / "agent",
        straight.run_dir / "agent" / "agent.safetensors",
    ):
        np.testing.assert_array_equal(greedy_actions(load_agent(path), images), greedy_actions(straight.agent, images))


def test_evaluation_is_injected_and_logged(tmp_path):
    agents = []

    def evaluate(agent):
        agents.append(agent)
        return {"psnr": jnp.float32(20 + len(agents))}

    result = run(tmp_path / "run", probe_config(ppo__updates=3, eval__every=2), evaluate=evaluate)
    assert [row.get("eval/psnr") for row in result.history] == [None, 21.0, 22.0]
    name = "critic.layers.1.bias"
    assert not np.array_equal(agents[0].params[name], agents[1].params[name])
    np.testing.assert_array_equal(agents[1].params[name], result.agent.params[name])


def test_entropy_coefficient_falls_on_a_line():
    config = probe_config(ppo__updates=5, ppo__entropy_start=0.05, ppo__entropy_end=0.01).ppo
    np.testing.assert_allclose([entropy_coef(config, u) for u in range(1, 6)], [0.05, 0.04, 0.03, 0.02, 0.01])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "served", probe_config(**{**SHORT, "reward__mode": "ticket"}))


def test_the_reward_service_trains_like_the_graph(straight, served):
    for one, other in zip(served.history, straight.history, strict=False):
        assert one["score_gain"] == pytest.approx(other["score_gain"], abs=1e-3)
        assert one["action/stop"] == other["action/stop"]
    for row in served.history:
        assert row["service/scored"] + row["service/hits"] == row["service/requests"] > 0
        assert row["service/requests_per_s"] > 0 and 0 <= row["service/hit_rate"] <= 1
        assert 0 < row["service/latency_p50_s"] <= row["service/latency_p95_s"] < 60
        assert 0 <= row["service/scorer_busy_share"] <= 1 and 0 <= row["service/device_idle_share"] <= 1


def test_the_four_modes_end_in_equal_parameters(tmp_path):
    results = {}
    for mode in ("graph", "ticket", "blocking", "outside"):
        config = probe_config("Exact", reward__mode=mode, reward__options={"slope": 4}, **SHORT)
        results[mode] = run(tmp_path / mode, config)
        assert (tmp_path / mode / "scorer.log").is_file() == (mode != "graph")
    reference = results["graph"]
    assert reference.history[0]["score_gain"] != 0
    for mode, result in results.items():
        assert [row["score_gain"] for row in result.history] == [row["score_gain"] for row in reference.history], mode
        for name, array in result.agent.params.items():
            np.testing.assert_array_equal(array, reference.agent.params[name], err_msg=f"{mode} {name}")


def assert_like_one_device(run_dir, served):
    rows = read_log(run_dir)
    assert len(rows) == len(served.history)
    for row, wanted in zip(rows, served.history, strict=True):
        for name in ("score_gain", "loss", "entropy", "grad_norm", "action/stop", "mean_calls"):
            assert row[name] == pytest.approx(wanted[name], abs=1e-3), name
    for name, array in load_agent(run_dir).params.items():
        np.testing.assert_allclose(array, served.agent.params[name], atol=1e-3, err_msg=name)


def test_two_devices_train_as_one(served, tmp_path):
    check_finished(start_on_devices(2, "train", str(tmp_path / "run")))
    assert_like_one_device(tmp_path / "run", served)


@pytest.mark.slow
def test_two_processes_train_as_one(served, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    check_finished(*(start_on_devices(1, "train", str(tmp_path / "run"), str(i), "2", port) for i in range(2)))
    assert_like_one_device(tmp_path / "run", served)


def test_an_episode_without_a_score_is_masked_or_ends_the_run(tmp_path):
    masked = run(tmp_path / "masked", probe_config("Fading", **SHORT))
    assert 0 < masked.history[0]["missing_share"] < 1
    assert all(np.isfinite(list(row.values())).all() for row in masked.history)
    assert all(np.isfinite(array).all() for array in masked.agent.params.values())
    with pytest.raises(R1JaxError, match=r"update 1: \d+% of the episodes lack a score"):
        run(tmp_path / "raised", probe_config("Fading", reward__on_missing="raise", **SHORT))


def test_a_dead_scorer_ends_the_run_without_moving_the_policy(tmp_path):
    config = probe_config("Silent", ppo__updates=9)
    with pytest.raises(R1JaxError, match="update 3: no score has come for 3 updates"):
        run(tmp_path / "run", config)
    assert [row["missing_share"] for row in read_log(tmp_path / "run")] == [1, 1]
    assert [row["ratio_error"] for row in read_log(tmp_path / "run")] == [0, 0]


def test_a_diverged_run_stops_before_it_saves(tmp_path):
    with pytest.raises(R1JaxError, match=r"update 1: (loss|grad_norm) is (nan|inf); try a lower ppo\.learning_rate"):
        run(tmp_path / "run", probe_config(ppo__learning_rate=1e30, **SHORT))
    assert not (tmp_path / "run" / "agent").exists()


def test_what_is_refused_leaves_no_folder(tmp_path):
    register_tool("probe_grows", "test")(lambda x: jnp.repeat(x, 2, 1))
    with pytest.raises(R1JaxError, match=r"turned shape .* it must keep it"):
        train(probe_config(env__toolbox=("probe_grows",)), tmp_path / "grows", progress=False)
    with pytest.raises(UsageError, match="unknown scorer 'wise'"):
        train(probe_config(reward__scorer="wise", reward__mode="ticket"), tmp_path / "wise", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_holds_one_run(straight):
    other = probe_config(ppo__updates=6, ppo__clip=0.1, eval__every=2, eval__checkpoint_every=3)
    with pytest.raises(UsageError, match=r"holds a run with ppo\.clip=0\.2, not 0\.1"):
        run(straight.run_dir, other)
    with pytest.raises(UsageError, match="holds a run already"):
        run(straight.run_dir, resume=False)


def test_a_run_does_not_go_on_with_other_weights(straight, tmp_path):
    shutil.copytree(straight.run_dir, tmp_path / "run")
    place = tmp_path / "run" / "weights.json"
    began = json.loads(place.read_text())
    assert list(began["tools"]) == ["probe_brighten", "probe_darken", "probe_noop"] and "Target" in began["scorer"]
    place.write_text(json.dumps(began | {"encoder": "pixels (older)"}))
    with pytest.raises(UsageError, match=r"holds a run with encoder='pixels \(older\)', not 'pixels \(.*use another --run"):
        run(tmp_path / "run")
    place.unlink()  # a run of an earlier version
    run(tmp_path / "run")
    assert json.loads(place.read_text()) == began


def test_features_are_measured_on_several_images_where_a_batch_has_one():
    config = probe_config(ppo__algorithm="grpo", ppo__group_size=24)
    first = loop._batch(Flat(LEVELS), config, 0)
    assert len(np.unique(first.degraded, axis=0)) == 1
    assert len(np.unique(loop._sample(Flat(LEVELS), config, first), axis=0)) == 32
    assert loop._sample(Flat(LEVELS), CONFIG, first) is first.degraded  # several images, as before


def test_batches_that_do_not_divide_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"ppo\.minibatches=5 does not divide 48"):
        run(tmp_path / "a", probe_config(ppo__minibatches=5))
    assert not (tmp_path / "a").exists()  # the corrected config may have it
    monkeypatch.setattr(jax, "device_count", lambda: 7)
    with pytest.raises(UsageError, match=r"ppo\.episodes=24 does not divide over 7 devices"):
        run(tmp_path / "b", probe_config())


def test_a_scorer_outside_jax_cannot_run_in_the_graph(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("class Own:\n    def score(self, images):\n        return images.mean((1, 2, 3))\n")
    config = probe_config(reward__scorer=f"{path}:Own")
    with pytest.raises(UsageError, match=r"reward\.mode=graph: the scorer .* is no Flax net"):
        run(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_data_are_those_of_the_config(tmp_path, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    config = probe_config(data__photos=str(tmp_path), data__mixes="noise+jpeg", data__crop=16).data
    batch = loop.training_data(config).batch(0, 0, 2)
    assert batch.degraded.shape == (2, 16, 16, 3)
