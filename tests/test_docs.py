"""The guides' examples run as written."""

import pathlib
import re

import numpy as np
import pytest

from r1jax.reward import scorer
from r1jax.tools import toolbox

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def write_examples(page: str, folder: pathlib.Path) -> None:
    """Writes every Python block that opens with `# NAME.py` to that file."""
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            (folder / name[1]).write_text(block)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 24, 16, 3), np.uint8)


def test_own_tool(tmp_path, images):
    write_examples("guide-own-tool.md", tmp_path)
    box = toolbox((f"{tmp_path}/my_tools.py:warm", f"{tmp_path}/my_net_tool.py"))
    assert box.names == ("warm", "my_denoiser")
    x = images.astype(np.float32) / 255
    warm = np.asarray(box.apply(0, x))
    np.testing.assert_allclose(warm, np.clip(x * np.float32([1.08, 1, 0.92]), 0, 1), atol=1e-6)
    assert box.apply(1, x).shape == x.shape


def test_own_scorer(tmp_path, images):
    write_examples("guide-own-scorer.md", tmp_path)
    contrast = scorer(f"{tmp_path}/my_scorer.py:Contrast")
    flat = np.full_like(images, 128)
    assert contrast.score(flat) == pytest.approx([1, 1], abs=1e-3)
    assert (contrast.score(images) > 2).all()


def test_own_graph_scorer(tmp_path, images):
    write_examples("guide-own-scorer.md", tmp_path)
    brightness = scorer(f"{tmp_path}/my_graph_scorer.py:Brightness")
    expected = 1 + 4 * images.mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(brightness.score(images), expected, rtol=1e-5)
    inside = brightness.graph.apply(brightness.graph.params, images.astype(np.float32) / 255)
    np.testing.assert_allclose(inside, expected, rtol=1e-5)


def test_the_guide_names_every_scorer_and_its_configs_are_right():
    from r1jax.config import RewardConfig
    from r1jax.reward.scorer import _BUILTIN

    text = (DOCS / "guide-scorers.md").read_text()
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")][:10]
    named = {name for cell in table for name in re.findall(r"`([^`]+)`", cell)}
    assert named - {"FILE.py:Class"} == set(_BUILTIN)
    configs = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names := {"RewardConfig": RewardConfig})
        configs.append(names["reward"])
    assert [config.scorer for config in configs] == ["vlm", "http", "mixture"]


def test_own_planner(tmp_path):
    from r1jax.config import load
    from r1jax.errors import UsageError
    from r1jax.evaluation.command import run_evaluation

    write_examples("index.md", tmp_path)
    fields = {"env.toolbox": "brighten_shift,clahe", "env.horizon": 2, "data.mixes": "dark", "data.crop": 32}
    config = load(DOCS.parent / "configs" / "quickstart.py", fields)
    names = [f"{tmp_path}/my_planner.py:BestFirstTool", "greedy"]
    rows = {row["planner"]: row for row in run_evaluation(config, planners=names, per_mix=3, progress=False).rows}
    assert rows["input"]["score"] <= rows["best first tool"]["score"] <= rows["greedy"]["score"]
    assert rows["best first tool"]["tool_runs"] == 2 and rows["best first tool"]["calls"] <= 1
    for wrong, message in (("my_planner.py:Other", "defines no 'Other'"), ("none.py:Best", "no such file")):
        with pytest.raises(UsageError, match=message):
            run_evaluation(config, planners=[f"{tmp_path}/{wrong}"], progress=False)
