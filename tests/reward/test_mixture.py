"""Mixtures of scorers, and the metrics of pyiqa."""

import pathlib
import sys
import types

import numpy as np
import pytest

from r1jax.errors import R1JaxError, UsageError
from r1jax.reward import RewardService, scorer
from r1jax.reward.scorer import identity

FILE = pathlib.Path(__file__).with_name("scorers.py")
PROBES = pathlib.Path(__file__).parents[1] / "training" / "probe_scorers.py"


def images(num):
    return np.random.default_rng(0).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)


def test_a_mixture_is_the_weighted_mean_of_its_scaled_parts():
    brightness, target = scorer(f"{FILE}:Brightness").score(images(6)), scorer(f"{PROBES}:Exact").score(images(6))
    parts = [f"3*{FILE}:Brightness", {"scorer": f"{PROBES}:Exact", "low": 1.2, "high": 1.25, "clip": True}]
    mixed = scorer("mixture", {"parts": parts}).score(images(6))
    scaled = np.clip(1 + 4 * (target - 1.2) / 0.05, 1, 5)
    np.testing.assert_allclose(mixed, 0.75 * brightness + 0.25 * scaled, rtol=1e-5)
    assert mixed.dtype == np.float32


def test_a_mixture_of_flax_nets_runs_inside_a_program():
    parts = [f"{PROBES}:Target", {"scorer": f"{PROBES}:Valley", "weight": 2, "low": 0, "clip": True}]
    mixed = scorer("mixture", {"parts": parts})
    inside = mixed.graph.apply(mixed.graph.params, images(4).astype(np.float32) / 255)
    np.testing.assert_allclose(inside, mixed.score(images(4)), atol=1e-4)
    assert not hasattr(scorer("mixture", {"parts": [f"{FILE}:Brightness", f"{PROBES}:Target"]}), "graph")


def test_a_mixture_works_in_a_process_of_its_own_and_keeps_missing_scores():
    batch = images(3)
    batch[:, 0, 0, 0] = [0, 13, 0]
    options = {"parts": [f"{FILE}:Brightness", f"{FILE}:NotANumber"]}
    with RewardService("mixture", timeout_s=20, options=options) as service:
        assert np.isnan(service.score(batch)).tolist() == [False, True, False]


def test_a_scorer_that_returns_a_list_is_part_of_a_mixture(tmp_path):
    (tmp_path / "own.py").write_text("class S:\n    def score(self, images): return [3.0] * len(images)\n")
    np.testing.assert_array_equal(scorer("mixture", {"parts": [f"{tmp_path}/own.py:S"]}).score(images(2)), [3, 3])


def test_the_version_of_a_mixture_follows_its_parts():
    versions = {
        scorer("mixture", {"parts": parts}).version
        for parts in (
            [f"{FILE}:Brightness"],
            [f"{FILE}:Slow"],
            [{"scorer": f"{FILE}:Brightness", "high": 4}],
            [f"1*{FILE}:Brightness", f"2*{FILE}:Slow"],
            [{"scorer": f"{PROBES}:Exact", "options": {"slope": 3}}],
            [{"scorer": f"{PROBES}:Exact", "options": {"slope": 4}}],
        )
    }
    assert len(versions) == 6


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ([], "want a list of scorers"),
        ("lite", "want a list of scorers"),
        (["much*lite"], r"'much\*lite' is not WEIGHT\*SCORER"),
        (["-1*lite"], "lite: want a weight above 0"),
        ([{"scorer": "lite", "share": 1}], "its fields are scorer, weight, options"),
        ([{"scorer": "lite", "low": 5}], "low below high"),
    ],
)
def test_wrong_parts_are_one_line(parts, line):
    with pytest.raises(UsageError, match=line):
        scorer("mixture", {"parts": parts})


def test_without_pyiqa_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    for name in ("maniqa", "clip-iqa", "musiq"):
        with pytest.raises(R1JaxError, match=r"needs pyiqa.*pip install pyiqa") as caught:
            scorer(name)
        assert "\n" not in str(caught.value)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "metric", "top"), [("maniqa", "maniqa", 1), ("clip-iqa", "clipiqa", 1), ("musiq", "musiq", 100)]
)
def test_metrics_get_torch_images_and_are_mapped_to_1_to_5(name, metric, top, monkeypatch):
    """A stand-in for pyiqa: its own weights come from the network."""
    torch = pytest.importorskip("torch")
    asked = []

    def create_metric(what, device):
        def rate(x):
            assert x.dtype == torch.float32 and x.shape[1] == 3 and x.min() >= 0 and x.max() <= 1
            return x.mean((1, 2, 3), keepdim=False)[:, None] * top

        asked.append((what, device))
        rate.lower_better = what == "lower"
        return rate

    monkeypatch.setitem(sys.modules, "pyiqa", types.SimpleNamespace(create_metric=create_metric, __version__="9"))
    built = scorer(name, {"device": "cpu"})
    np.testing.assert_allclose(built.score(images(3)), scorer(f"{FILE}:Brightness").score(images(3)), rtol=1e-5)
    assert asked == [(metric, "cpu")] and identity(built).name == f"pyiqa-{metric}"
    with pytest.raises(UsageError, match="lower is better"):
        scorer(name, {"device": "cpu", "metric": "lower"})
