"""PPO whose reward is a vision-language model of `transformers` in a process of its own."""

import pathlib
import sys

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "reward"))

import tiny_vlm
from probes import check_finished, check_tickets_train_as_blocking, start_on_devices

from r1jax.training.logs import read_log

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_vlm.make("llava_onevision", tmp_path_factory.mktemp("models") / "llava"))


def test_tickets_train_as_blocking_does(model, tmp_path):
    check_tickets_train_as_blocking(tmp_path, model, crop=32)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_they_do_on_several_devices_and_256_pixels(count, model, tmp_path):
    check_finished(start_on_devices(count, "vlm", str(tmp_path), model), timeout=1200)
    for mode in ("ticket", "blocking"):
        assert [row["missing_share"] for row in read_log(tmp_path / mode)] == [0] * 20
