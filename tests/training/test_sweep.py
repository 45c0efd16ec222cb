"""The sweep's bookkeeping: seeds, means and intervals, small presets, submitit. Whole sweeps run in test_cli.py."""

import json
import pathlib
import sys
import types
import xml.etree.ElementTree

import numpy as np
import pytest
from scipy import stats

from r1jax import config as configuration
from r1jax.errors import R1JaxError, UsageError
from r1jax.training import sweep
from r1jax.training.tree import describe_tree

CONFIG = """
from r1jax.config import Config

SMALL = {"ppo.updates": 2}
CURVE = ("eval/calls", "eval/score_gain")

def config():
    return Config(name="tiny")

def sweep():
    yield {}
    yield {"ppo.clip": 0.1}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def pretend(command, log, environment):
    """Leaves what a finished run leaves; the variant with seed 1 and a clip of 0.1 fails."""
    words = dict(word[2:].split("=", 1) for word in command if word.startswith("--") and "=" in word)
    if (words["seed"], words.get("ppo.clip")) == ("1", "0.1"):
        return 1
    run = pathlib.Path(command[command.index("--run") + 1])
    tree, _ = pathlib.Path(words.pop("tree")), words.pop("eval-tree", None)
    config = configuration.load(command[command.index("train") + 1], words)
    assert config.ppo.updates == 2
    (run / "agent").mkdir(parents=True, exist_ok=True)
    (run / "agent" / "agent.safetensors").touch()
    (run / "config.json").write_text(json.dumps(configuration.to_dict(config)))
    (run / "tree.json").write_text(json.dumps(describe_tree(json.loads((tree / "tree.json").read_text())) | {"images": 1}))
    gain = config.ppo.clip + config.seed
    (run / "metrics.jsonl").write_text(json.dumps({"update": 2, "eval/score_gain": gain, "eval/calls": 2.0}) + "\n")
    return 0


def run(path, folder, photo="one", **options):
    tree = path.parent / f"tree_{photo}"
    tree.mkdir(exist_ok=True)
    names = ("tools", "encoder", "scorer", "effect", "horizon", "crop", "seed", "dtype")
    meta = dict.fromkeys(names, 0) | {"images": [{"photo": photo, "mix": mix} for mix in ("noise", "dark")]}
    (tree / "tree.json").write_text(json.dumps(meta))
    (tree / "images").mkdir(exist_ok=True)
    (tree / "images" / "00000.npz").touch()
    return sweep.run_sweep(path, folder, seeds=3, small=True, tree=str(tree), **options)


def test_means_and_intervals_over_seeds(path, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "run_command", pretend)
    whole, broken = run(path, tmp_path / "runs", jobs=2)
    assert (whole["status"], whole["runs"], broken["status"], broken["runs"]) == ("complete", 3, "failed", 2)
    assert whole["eval/score_gain"] == pytest.approx(1.2) and broken["eval/score_gain"] == pytest.approx(1.1)
    wanted = stats.t.interval(0.9, 2, 1.2, 1 / np.sqrt(3))
    assert whole["eval/score_gain/interval"] == pytest.approx(wanted)
    assert "| ppo.clip=0.1 | 2, failed | 1.100 ±" in sweep.table([whole, broken])
    assert (tmp_path / "runs" / "sweep.jsonl").read_text().count("\n") == 2

    svg = xml.etree.ElementTree.parse(tmp_path / "runs" / "curve.svg").getroot()
    assert len([element for element in svg if element.tag.endswith("circle")]) == 2

    asked = []
    monkeypatch.setattr(sweep, "run_command", lambda *call: asked.append(call[0]) or pretend(*call))
    run(path, tmp_path / "runs")
    assert len(asked) == 1 and "--seed=1" in asked[0]  # complete runs are not done again
    run(path, tmp_path / "runs", photo="another")
    assert len(asked) == 1 + 6  # those on another tree are other runs

    monkeypatch.setattr(sweep, "run_command", lambda *call: 1)  # each folder holds another run
    rows = run(path, tmp_path / "runs", photo="another", overrides={"ppo.gamma": 0.5})
    assert [(row["status"], row["runs"]) for row in rows] == [("failed", 0)] * 2
    assert [row["runs"] for row in run(path, tmp_path / "runs", photo="another")] == [3, 2]
    (tmp_path / "tree_another" / "images" / "00001.npz").touch()  # a run on half of a tree is not one on the whole of it
    assert [row["runs"] for row in run(path, tmp_path / "runs", photo="another")] == [0, 0]


def test_planners_are_those_of_each_environment(path):
    path.write_text(CONFIG.replace("{}", "{'env.horizon': 2}").replace('{"ppo.clip": 0.1}', "{'env.stop': False}"))
    asked = []

    def rows(config, *_):
        asked.append((config.env.horizon, config.env.stop))
        return [{"variant": "random", "eval/calls": config.env.horizon}, {"variant": "oracle", "eval/calls": 1}]

    variants = list(configuration.load_sweep(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "rows_on_tree", rows)
        found = sweep._planner_rows(variants, None, None)
        alone = sweep._planner_rows(variants[:1], None, None)
    assert asked == [(2, True), (4, False), (2, True)]
    assert [row["variant"] for row in found] == ["random, env.horizon=2", "random, env.stop=False", "oracle"]
    assert [row["variant"] for row in alone] == ["random", "oracle"]


def test_variants_that_would_share_a_folder_are_refused(path, tmp_path):
    path.write_text(CONFIG.replace('{"ppo.clip": 0.1}', "{}"))
    with pytest.raises(UsageError, match="two variants have one folder"):
        run(path, tmp_path / "runs")
    path.write_text(CONFIG.split("    yield")[0] + "    return iter(())\n")
    with pytest.raises(UsageError, match="yields nothing"):
        run(path, tmp_path / "runs")


def test_a_tree_for_each_value(path, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(sweep, "run_command", lambda command, *_: commands.append(command) or 1)
    with pytest.raises(UsageError, match="trees/shared: no transition tree here"):
        sweep.run_sweep(path, tmp_path, tree="trees/shared")
    assert not commands
    sweep.run_sweep(path, tmp_path, tree="trees/{ppo.clip}", eval_tree="trees/{agent.encoder}_test")
    assert [word for command in commands for word in command if word.startswith(("--tree", "--eval"))] == [
        "--tree=trees/0.2", "--eval-tree=trees/lite_scorer_test", "--tree=trees/0.1", "--eval-tree=trees/lite_scorer_test"
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"trees/\{ppo.klip\}: the config has no field ppo.klip"):
        sweep.run_sweep(path, tmp_path, tree="trees/{ppo.klip}")


def test_one_seed_has_no_interval():
    assert sweep.interval([1.0]) is None


def test_a_file_without_a_small_preset(path):
    path.write_text(CONFIG.replace("SMALL", "LARGE"))
    with pytest.raises(UsageError, match="defines no SMALL"):
        run(path, path.parent / "runs", dry_run=True)


def test_slurm_by_submitit(path, tmp_path, monkeypatch):
    seen = {}

    class Job:
        def __init__(self, call):
            self.call = call

        def result(self):
            if "--seed=2" in self.call[1]:
                raise RuntimeError("timed out\nat node 7")
            return pretend(*self.call[1:])

    class Executor:
        def __init__(self, folder):
            seen["folder"] = folder

        def update_parameters(self, **parameters):
            seen.update(parameters)

        def batch(self):
            import contextlib

            return contextlib.nullcontext()

        def submit(self, function, *arguments):
            return Job((function, *arguments))

    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(AutoExecutor=Executor))
    rows = run(path, tmp_path / "runs", slurm={"slurm_partition": "gpu"}, jobs=4)
    assert seen["slurm_partition"] == "gpu" and seen["slurm_array_parallelism"] == 4
    assert [(row["status"], row["runs"]) for row in rows] == [("failed", 2), ("failed", 1)]
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(R1JaxError, match="pip install submitit"):
        run(path, tmp_path / "other", slurm={})


def test_a_variant_whose_own_tree_is_missing_does_not_lose_the_table(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "run_command", pretend)
    rows = run(path, tmp_path / "runs", eval_tree=str(tmp_path / "eval_{ppo.clip}"))
    assert [(row["status"], row["runs"]) for row in rows] == [("not evaluated", 0)] * 2
    assert "eval_0.1: no transition tree here" in capsys.readouterr().err
    assert (tmp_path / "runs" / "sweep.jsonl").read_text().count("\n") == 2
