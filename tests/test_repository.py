"""What must hold of the repository as a whole: quick imports, licences, small assets, links that lead on."""

import pathlib
import re
import resource
import subprocess
import sys

import pytest

import r1jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
ASSETS = ROOT / "r1jax" / "assets"
HEAVY = ("jax", "flax", "numpy", "scipy", "cv2", "PIL", "transformers", "torch", "orbax", "rlax")
COMMANDS = ("restore", "train", "evaluate", "sweep", "tree", "synth", "score", "serve-scorer", "report", "weights")


def run_and_time(*arguments: str) -> tuple[str, float]:
    """Returns what `python ARGUMENTS` prints and its processor seconds, which other load does not change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_import_loads_nothing_heavy():
    loaded, seconds = run_and_time("-c", "import sys, r1jax; print(*sys.modules)")
    assert not {name for name in loaded.split() if name in HEAVY}
    assert seconds < 1


def test_help_is_quick_and_names_every_command():
    text, seconds = run_and_time("-m", "r1jax", "--help")
    assert not [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)]
    assert seconds < 1


def test_public_names_resolve():
    assert all(getattr(r1jax, name) is not None for name in r1jax.__all__)
    assert set(r1jax.__all__) <= set(dir(r1jax))


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'restorr'"):
        r1jax.restorr  # noqa: B018


def test_every_weight_file_has_a_card_with_licence():
    weights = [*ASSETS.rglob("*.safetensors")]
    assert weights
    for path in weights:
        card = path.with_suffix(".md")
        assert card.is_file(), f"{path.name} has no model card {card.name}"
        assert re.search("licen[cs]e", card.read_text(), re.IGNORECASE), f"{card.name} names no licence"


def test_assets_are_small():
    sizes = {path: path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()}
    assert max(sizes.values()) < 12e6
    assert sum(sizes.values()) < 35e6


def test_quickstart_runs_the_commands_of_the_readme():
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "quickstart"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    ).stdout
    commands = re.findall(r"bin/r1jax (\S+)", recipe)
    readme = re.findall(r"^r1jax (\S+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(commands) <= set(readme)
    assert {"train", "evaluate", "restore", "report"} <= set(commands)
    files = re.findall(r"\s(configs/\S+|r1jax/assets/\S+)", recipe)
    assert files and all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing
