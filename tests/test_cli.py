"""The command line end to end, with the shipped agent, on small photos."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from r1jax.cli import main
from r1jax.degradations import degrade, load_photos
from r1jax.images.io import read_image, write_image

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for photo in load_photos("builtin:test")[:2]:
        small = np.ascontiguousarray(photo.pixels[64:192, 64:192])
        write_image(folder / f"{photo.name}.png", degrade(small, ("noise",), 1).image)
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_restore_a_folder(photos, tmp_path, capsys):
    code, out, err = run(capsys, "restore", photos, "-o", tmp_path / "out", "--json")
    rows = json.loads(out)
    assert (code, err, len(rows)) == (0, "", 2)
    for row in rows:
        assert read_image(row["output"]).pixels.shape == (128, 128, 3)
        assert len(row["scores"]) == len(row["plan"]) + 1
    before = pathlib.Path(rows[0]["output"]).read_bytes()
    code, out, err = run(capsys, "restore", photos, "-o", tmp_path / "out")
    assert code == 1 and out == "" and err.count("\n") == 1 and "exists already, and 1 more; --overwrite replaces" in err
    assert pathlib.Path(rows[0]["output"]).read_bytes() == before
    pathlib.Path(rows[1]["output"]).unlink()  # an interrupted folder goes on
    code, out, _ = run(capsys, "restore", photos, "-o", tmp_path / "out", "--json")
    assert code == 1 and [row["output"] for row in json.loads(out)] == [rows[1]["output"]]
    assert run(capsys, "restore", photos, "-o", tmp_path / "out", "--overwrite")[0] == 0


def test_restore_prints_the_plan_and_upscales(photos, tmp_path, capsys):
    source = next(photos.glob("*.png"))
    crop = read_image(source).pixels[:40, :50]
    alpha = np.full((40, 50), 77, np.uint8)
    write_image(tmp_path / "in.png", crop, alpha)
    code, out, _ = run(capsys, "restore", tmp_path / "in.png", "--upscale", 4)
    assert code == 0 and out.startswith(str(tmp_path / "in.png")) and "[" in out
    restored = read_image(tmp_path / "in_restored.png")
    assert restored.pixels.shape == (160, 200, 3) and (restored.alpha == 77).all()


def bad_files(folder):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "whole.png")
    (folder / "truncated.png").write_bytes((folder / "whole.png").read_bytes()[:2000])
    (folder / "whole.png").unlink()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    (folder / "huge.png").write_bytes(huge_png_header())
    return ["missing.png", "empty.jpg", "truncated.png", "text.png", "huge.png"]


def huge_png_header():
    import struct
    import zlib

    ihdr = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + ihdr
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 64


def test_bad_input_is_one_line_each_and_the_rest_is_restored(tmp_path, capsys):
    bad = bad_files(tmp_path)
    Image.fromarray(np.full((1, 1, 3), 90, np.uint8)).save(tmp_path / "dot.png")
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "good.png")
    names = [*bad, "dot.png", "good.png"]
    code, out, err = run(capsys, "restore", *(tmp_path / name for name in names), "-o", tmp_path / "out")
    assert code == 1
    lines = err.splitlines()
    assert len(lines) == len(bad)
    for name in bad:
        assert sum(name in line for line in lines) == 1, err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dot.png", "good.png"]
    assert read_image(tmp_path / "out" / "dot.png").pixels.shape == (1, 1, 3)
    assert out.count("\n") == 2


def test_a_full_disk_is_one_line_and_leaves_nothing(photos, tmp_path, capsys, monkeypatch):
    import errno
    import os

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    source = next(photos.glob("*.png"))
    code, _, err = run(capsys, "restore", source, "-o", tmp_path / "out.png")
    assert code == 1 and "no space left" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_s_own_results_are_not_restored_again(tmp_path, capsys):
    for name in ("x.png", "x_restored.png", "y_restored.png"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / name)
    code, out, _ = run(capsys, "restore", tmp_path, "--overwrite", "--json")
    assert code == 0 and [pathlib.Path(row["image"]).name for row in json.loads(out)] == ["x.png", "y_restored.png"]


def test_two_images_of_one_stem_keep_their_endings(tmp_path, capsys):
    for name in ("x.png", "x.bmp", "y.png"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / name)
    wanted = ["x.bmp_restored.png", "x.png_restored.png", "y_restored.png"]
    for _ in range(2):  # the second time its own results are none of the folder's photos
        assert run(capsys, "restore", tmp_path, "--overwrite")[0] == 0
        assert sorted(path.name for path in tmp_path.glob("*_restored.png")) == wanted
    assert run(capsys, "restore", tmp_path / "x.png", tmp_path / "x.bmp", "-o", tmp_path / "out.v2")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out.v2").iterdir()) == ["x.bmp.png", "x.png.png"]


def test_two_images_for_one_place_are_refused_before_anything_is_made(tmp_path, capsys):
    (tmp_path / "more").mkdir()
    for name in ("x.png", "more/x.png"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    code, _, err = run(capsys, "restore", tmp_path / "x.png", tmp_path / "more" / "x.png", "-o", tmp_path / "out")
    message = f"{tmp_path}/x.png and {tmp_path}/more/x.png: both would be written to {tmp_path}/out/x.png.png"
    assert code == 2 and message in err and err.count("\n") == 1
    code, _, err = run(capsys, "restore", tmp_path / "x.png", "-o", tmp_path / "out", "--agent", tmp_path / "none")
    assert code == 2 and "no agent here" in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_target_that_cannot_be_written_is_one_line(photos, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "restore", photos, "-o", tmp_path / "file" / "out")
    assert code == 1 and err.count("\n") == 1 and "cannot be made" in err
    code, _, err = run(capsys, "restore", next(photos.glob("*.png")), "-o", tmp_path / "file" / "out.png")
    assert code == 1 and err.count("\n") == 1 and "cannot be made" in err
    assert run(capsys, "restore", next(photos.glob("*.png")), "-o", tmp_path / "new" / "out.png")[0] == 0
    assert (tmp_path / "new" / "out.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["restore", "r1jax/assets/photos/test/astronaut.webp", "--toolbox", "full"], "toolbox 'full': no agent is shipped"),
        (["tree", "build", "configs/quickstart.py", "-o", "t", "--beam", "-3"], "--beam -3: want a number of states"),
        (["tree", "build", "configs/quickstart.py", "-o", "t", "--images", "0"], "--images: want a whole number"),
        (["tree", "build", "configs/quickstart.py", "-o", "t", "--part", "2/2"], "--part 2/2: want I/N"),
        (["train", "none.py"], "none.py: no such config file"),
        (["train", "configs/quickstart.py", "--ppo.klip=1"], "no field 'klip'"),
        (["train", "configs/quickstart.py", "--ppo.clip=much"], "'much' is not a number"),
        (["train", "configs/quickstart.py", "--ppo.clip"], "want --ppo.clip=VALUE"),
        (["evaluate", "configs/quickstart.py", "--planners", "wise"], "no planner 'wise'"),
        (["evaluate", "configs/quickstart.py", "--checkpoint", "nowhere"], "nowhere: no agent here"),
        (["evaluate", "configs/quickstart.py", "--env.horizon=9"], "trained for 3"),
        (["sweep", "configs/quickstart.py"], "defines no sweep()"),
        (["report", "nowhere"], "no such run folder"),
        (["synth", "nowhere", "-o", "out"], "no such folder"),
        (["score", "README.md", "--scorer", "wise"], "unknown scorer 'wise'"),
        (["restore", ""], "an empty name"),
        (["restore", "README.md", "--search", "wise"], "wise"),
        (["restore", "README.md", "--reuse-plan", "0"], "--reuse-plan: want a whole number"),
        (["score", "README.md", "--scorer", "own.py"], "want own.py:Class"),
        (["train", "README.md"], "README.md: want a Python file"),
        (["report", "runs", "--fast"], "unrecognized arguments: --fast"),
        (["sweep", "configs/ablate_stop.py", "--seeds", "none"], "--seeds: want a whole number of at least 1, not 'none'"),
        (["train", "configs/quickstart.py", "--ppo.updates=0"], "--ppo.updates: 0 is out of range; want 1 or more"),
        (["train", "configs/quickstart.py", "--eval.every=0", "--eval-tree", "t"], "--eval-tree: eval.every=0"),
        (["evaluate", "configs/quickstart.py", "--tree", "t", "--per-mix", "2"], "--per-mix: has no meaning with --tree"),
        (["evaluate", "configs/quickstart.py", "--tree", "t", "--seed=2"], "--seed: has no meaning with --tree"),
        (["evaluate", "configs/quickstart.py", "--order-tree", "t"], "--order-tree: is for --tree"),
        (["evaluate", "configs/quickstart.py", "--env.toolbox=clahe"], "--env.toolbox=('clahe',): the agent has ('lite',);"),
        (["evaluate", "configs/quickstart.py", "--mixes", "Z"], "degradation 'Z' is unknown; there are low resolution, "),
        (["train", "configs/quickstart.py", "--data.mixes=noise+noise"], "data.mixes: the mix 'noise+noise' has"),
        (["synth", "README.md", "-o", "out"], "README.md': a file; want a folder"),
        (["tree", "build", "configs/quickstart.py", "-o", "README.md"], "README.md: a file; want a folder for the tree"),
        (["evaluate", "configs/quickstart.py", "--toolbox", "full"], "toolbox 'full': no agent is shipped"),
        (["evaluate", "configs/quickstart.py", "--toolbox", "full", "--planners", "greedy"], "--planners has no agent"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    code, _, err = run(capsys, *arguments)
    assert code == 2 and message in err and err.count("\n") == 1


def test_score(photos, capsys):
    code, out, _ = run(capsys, "score", photos, "--json")
    rows = json.loads(out)
    assert code == 0 and len(rows) == 2 and all(1 <= row["score"] <= 5 for row in rows)
    first = next(photos.glob("*.png"))
    code, out, err = run(capsys, "score", "missing.png", first, photos, first, "--json")
    assert code == 1 and sorted(json.loads(out), key=str) == sorted(rows, key=str)  # each once, and none less
    assert err == "r1jax: missing.png: no such file or folder\n"


def test_synth(photos, tmp_path, capsys):
    code, out, _ = run(capsys, "synth", photos, "-o", tmp_path / "set", "--mixes", "rain+haze,jpeg", "--json")
    assert code == 0 and json.loads(out) == {"images": 4}
    assert len((tmp_path / "set" / "records.jsonl").read_text().splitlines()) == 4


def test_train_evaluate_report_restore(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    small = ["--data.crop=32", "--env.horizon=2", "--env.toolbox=brighten,clahe", "--data.mixes=dark"]
    run_dir = tmp_path / "run"
    fields = ["--ppo.updates=2", "--ppo.episodes=4", "--eval.every=2", "--eval.images=4", *small]
    code, out, err = run(capsys, "train", "configs/quickstart.py", "--run", run_dir, "--quiet", "--json", *fields)
    assert code == 0, err
    assert "eval/score_gain" in json.loads(out)
    planners = "random,fixed,greedy,oracle,agent"
    code, out, err = run(
        capsys, "evaluate", "configs/quickstart.py", "--checkpoint", run_dir, "--planners", planners,
        "--per-mix", 3, "--quiet", "--json", "--trees", tmp_path / "trees", *small,
    )  # fmt: skip
    assert code == 0, err
    table = {row["planner"]: row for row in json.loads(out)["rows"]}
    assert set(table) == {"input", "random", "fixed order", "greedy", "oracle", "agent"}
    assert table["oracle"]["score"] >= table["greedy"]["score"] >= table["input"]["score"]
    assert table["oracle"]["share"] == pytest.approx(1)
    code, out, _ = run(capsys, "report", run_dir)
    page = (run_dir / "report.html").read_text()
    assert code == 0 and "report.html" in out and "http://" not in page and "https://" not in page
    source = next(photos.glob("*.png"))
    code, out, _ = run(capsys, "restore", source, "--agent", run_dir, "-o", tmp_path / "restored.webp")
    assert code == 0 and (tmp_path / "restored.webp").exists()


def test_planners_that_need_no_agent_use_the_config_s_tools(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    fields = ["--env.toolbox=brighten_shift", "--env.horizon=2", "--data.mixes=dark", "--data.crop=32", "--per-mix", 1]
    code, out, err = run(
        capsys, "evaluate", "configs/quickstart.py", "--planners", "greedy", "--quiet", "--json", *fields
    )
    assert code == 0, err
    row = next(row for row in json.loads(out)["rows"] if row["planner"] == "greedy")
    assert row["tool_runs"] <= 2  # one tool, two calls: with the shipped agent's eight there are sixteen


def test_sweep(tmp_path, capsys):
    config = tmp_path / "tiny.py"
    shutil.copy(ROOT / "configs" / "quickstart.py", config)
    with config.open("a") as file:
        file.write("\n\ndef sweep():\n    yield {'ppo.clip': 0.1}\n    yield {'ppo.minibatches': 7}\n")
    fields = ["--data.crop=32", "--env.toolbox=brighten", "--ppo.updates=1", "--ppo.episodes=2", "--eval.every=0"]
    code, out, _ = run(capsys, "sweep", config, "--run", tmp_path / "runs", "--dry-run", "--json", *fields)
    assert code == 0 and [row["status"] for row in json.loads(out)] == ["listed", "listed"]
    done = subprocess.run(
        [sys.executable, "-m", "r1jax", "sweep", str(config), "--run", str(tmp_path / "runs"), "--json", *fields[1:],
         "--agent.encoder=pixels"],
        capture_output=True, text=True, cwd=ROOT, timeout=280,
    )  # fmt: skip
    rows = json.loads(done.stdout)
    assert [row["status"] for row in rows] == ["complete", "failed"] and done.returncode == 1
    assert (tmp_path / "runs" / "sweep.jsonl").read_text().count("\n") == 2
