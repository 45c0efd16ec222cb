"""Finding scorers, and refusing those that another process cannot build."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from r1jax.errors import R1JaxError, UsageError
from r1jax.reward import Scorer, register_scorer, scorer
from r1jax.reward.scorer import Identity, identity, portable

FILE = pathlib.Path(__file__).with_name("scorers.py")
pytestmark = pytest.mark.timeout(60)


def test_a_scorer_from_a_file_scores():
    built = scorer(f"{FILE}:Brightness")
    assert isinstance(built, Scorer) and (built.name, built.version) == ("Brightness", "0")
    np.testing.assert_allclose(built.score(np.full((2, 4, 4, 3), 255, np.uint8)), [5.0, 5.0])


def test_a_scorer_object_is_returned_as_it_is():
    built = scorer(f"{FILE}:Brightness")
    assert scorer(built) is built


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("nothing", "unknown scorer 'nothing'; there are clip-iqa, deqa"),
        ("missing.py:A", "scorer file missing.py: no such file"),
        (f"{FILE}:Nothing", "defines no 'Nothing'"),
        (f"{FILE}:NoScore", "has no score(images) method"),
        ("no_such_module:A", "no module 'no_such_module'"),
    ],
)
def test_a_scorer_that_is_not_there_is_a_usage_error(spec, line):
    with pytest.raises(UsageError) as caught:
        scorer(spec)
    assert line in str(caught.value)


def test_a_constructor_that_raises_gives_one_line():
    with pytest.raises(R1JaxError) as caught:
        scorer(f"{FILE}:Broken")
    assert str(caught.value) == f"scorer '{FILE}:Broken': ValueError: no weights here"


def test_a_file_with_a_mistake_gives_one_line(tmp_path):
    (tmp_path / "mistake.py").write_text("import no_such_package\n")
    with pytest.raises(
        R1JaxError, match=r"mistake\.py: ModuleNotFoundError: No module named 'no_such_package'"
    ):
        scorer(f"{tmp_path}/mistake.py:A")


def test_the_version_follows_the_source_file(tmp_path):
    text = "class S:\n    version = '2'\n    def score(self, images): return images\n"
    (tmp_path / "one.py").write_text(text)
    (tmp_path / "two.py").write_text(text + "# edited\n")
    one, two = (identity(scorer(f"{tmp_path}/{name}.py:S")) for name in ("one", "two"))
    assert one.name == two.name == "S"
    assert one.version.startswith("2+") and two.version.startswith("2+") and one != two


def test_the_version_of_a_built_in_scorer_is_its_own():
    cls = type("Built", (), {"name": "built", "version": "3", "__module__": "r1jax.reward.built"})
    assert identity(cls()) == Identity("built", "3")


def test_a_class_of_a_file_is_portable_as_its_file():
    assert portable(type(scorer(f"{FILE}:Brightness"))) == f"{FILE}:Brightness"
    assert portable(f"{FILE.parent}/../reward/scorers.py:Slow") == f"{FILE}:Slow"


def test_a_registered_class_is_portable_as_its_module():
    register_scorer("registered-for-a-test")(Registered)
    assert type(scorer("registered-for-a-test")) is Registered
    assert portable("registered-for-a-test") == f"{__name__}:Registered"


class Registered:
    def score(self, images):
        return np.zeros(len(images), np.float32)


def test_an_object_and_a_local_class_are_refused():
    class Local(Registered):
        pass

    with pytest.raises(UsageError, match="pass its class"):
        portable(Registered())
    with pytest.raises(UsageError, match=r"put it in a file and pass 'FILE\.py:Local'"):
        portable(Local)


NOTEBOOK = """
from r1jax.errors import UsageError
from r1jax.reward import RewardService
class Mine:
    def score(self, images): return images.mean((1, 2, 3))
for spec in (Mine, "__main__:Mine"):
    try:
        RewardService(spec)
    except UsageError as error:
        print(error)
"""


def test_a_class_of_a_notebook_is_refused_with_the_hint():
    run = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, timeout=60, check=True
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    assert all("put it in a file and pass 'FILE.py:Mine'" in line for line in lines)


def test_importing_the_room_imports_no_jax():
    code = (
        "import sys, r1jax.reward, r1jax.reward.worker; print('jax' in sys.modules or 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "False"


def test_name_and_version_may_be_left_out_where_nothing_can_be_added(tmp_path):
    head = "import dataclasses\n"
    frozen = "@dataclasses.dataclass(frozen=True)\nclass Frozen:\n    def score(self, images): return images\n"
    slotted = "class Slotted(Frozen):\n    __slots__ = ()\n@dataclasses.dataclass(frozen=True, slots=True)\nclass Both:\n"
    (tmp_path / "own.py").write_text(head + frozen + slotted + "    def score(self, images): return images\n")
    found = [identity(scorer(f"{tmp_path}/own.py:{name}")) for name in ("Frozen", "Slotted", "Both")]
    assert [one.name for one in found] == ["Frozen", "Slotted", "Both"] and found[0].version.startswith("0+")


def test_options_reach_the_constructor_and_the_version(tmp_path):
    text = "class S:\n    def __init__(self, slope=1): self.slope = slope\n    def score(self, images): return images\n"
    (tmp_path / "own.py").write_text(text)
    spec = f"{tmp_path}/own.py:S"
    assert scorer(spec, {"slope": 3}).slope == 3
    assert identity(scorer(spec, {"slope": 3}), {"slope": 3}) != identity(scorer(spec))
    with pytest.raises(UsageError, match=r"unexpected keyword argument 'incline'; its options are slope"):
        scorer(spec, {"incline": 3})
    with pytest.raises(UsageError, match="is built already"):
        scorer(scorer(spec), {"slope": 3})
