"""PPO whose reward is a vision-language model of `transformers` in a process of its own."""

import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "reward"))

import tiny_vlm
from probes import check_finished, start_on_devices

from r1jax.config import Config, override
from r1jax.training.logs import read_log
from r1jax.training.loop import train

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_vlm.make("llava_onevision", tmp_path_factory.mktemp("models") / "llava"))


def test_tickets_train_as_blocking_does(model, tmp_path):
    fields = {
        "env.toolbox": ("lite",), "env.horizon": 2, "env.block_size": 2, "data.crop": 32, "agent.hidden": (32,),
        "ppo.episodes": 4, "ppo.updates": 20, "eval.every": 0, "eval.checkpoint_every": 0,
        "reward.scorer": "vlm", "reward.options": {"model": model, "device": "cpu"}, "reward.max_batch": 1,
    }  # fmt: skip
    results = {}
    for mode in ("ticket", "blocking"):
        config = override(Config(), {**fields, "reward.mode": mode})
        results[mode] = train(config, tmp_path / mode, progress=False)
        assert all(row["missing_share"] == 0 for row in results[mode].history)
    assert len({row["score_gain"] for row in results["ticket"].history}) > 10
    for name, array in results["blocking"].agent.params.items():
        np.testing.assert_array_equal(results["ticket"].agent.params[name], array, err_msg=name)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_they_do_on_several_devices_and_256_pixels(count, model, tmp_path):
    check_finished(start_on_devices(count, "vlm", str(tmp_path), model), timeout=1200)
    for mode in ("ticket", "blocking"):
        assert [row["missing_share"] for row in read_log(tmp_path / mode)] == [0] * 20
