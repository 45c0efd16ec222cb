"""Every file in configs/ builds, and so does every variant of its sweep."""

import dataclasses
import json
import pathlib
import re

import pytest

from r1jax import config as configuration
from r1jax.config import Config
from r1jax.degradations.dataset import load_photos
from r1jax.degradations.mixes import parse_mixes
from r1jax.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "configs").glob("*.py"))
SWEEPS = [path for path in FILES if "def sweep(" in path.read_text()]

PPO = "from r1jax.config import Config, PPOConfig\ndef config():\n    return Config(ppo=PPOConfig(FIELD))\n"


def check(config: Config) -> None:
    """What a run of this config would refuse, before it needs any weights."""
    assert load_photos(config.data.photos) and load_photos(config.eval.photos)
    assert parse_mixes(config.data.mixes)
    assert config.ppo.episodes * config.env.horizon % config.ppo.minibatches == 0
    assert configuration.from_dict(configuration.to_dict(config)) == config


def test_there_are_configs_and_sweeps():
    assert FILES and SWEEPS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_builds(path):
    config = configuration.load(path)
    check(config)
    assert config.name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_opens_with_its_command(path):
    command = "sweep" if path in SWEEPS else "train"
    assert re.match(rf'"""[^\n]+\n\n    r1jax {command} configs/{path.name}', path.read_text())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_variant_of_a_sweep_builds(path):
    base, seen = configuration.load(path), []
    for overrides, config in configuration.load_sweep(path):
        check(config)
        assert config not in seen, f"{overrides}: the same as another variant"
        seen.append(config)
        for name, value in overrides.items():
            node = config
            for part in name.split("."):
                node = getattr(node, part)
            assert node == value
    assert base in seen, "no variant is the config itself, to compare with"


def test_every_field_can_be_overridden_from_text():
    def leaves(node, prefix=""):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if dataclasses.is_dataclass(value):
                yield from leaves(value, f"{prefix}{field.name}.")
            else:
                yield f"{prefix}{field.name}", value

    config = configuration.load(FILES[0])
    for name, value in leaves(config):
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert configuration.override(config, {name: text}) == config, name


def test_options_of_a_scorer_are_plain_values_and_outlive_json():
    texts = {"model": "Qwen/Qwen3-VL-4B-Instruct", "crops": "2", "levels": "(' good', ' bad')", "clip": "true"}
    config = configuration.override(Config(), {f"reward.options.{name}": text for name, text in texts.items()})
    assert config.reward.options == {"model": texts["model"], "crops": 2, "levels": (" good", " bad"), "clip": True}
    config = configuration.override(config, {"reward.options.parts": [{"scorer": "lite", "weight": 1}, "0.5*deqa"]})
    again = configuration.from_dict(json.loads(json.dumps(configuration.to_dict(config))))
    assert again == config and again.reward.options["parts"][0] == {"scorer": "lite", "weight": 1}
    with pytest.raises(UsageError, match="an option has no fields"):
        configuration.override(Config(), {"reward.options.processor.max_pixels": 3})
    with pytest.raises(UsageError, match="is no dictionary"):
        configuration.override(Config(), {"reward.options": "3"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def config(:\n", "own.py:1: SyntaxError"),
        ("import no_such_module_of_mine\n", "own.py:1: ModuleNotFoundError"),
        ("def config():\n    return 1 / 0\n", "own.py:2: ZeroDivisionError"),
        ("from r1jax.config import Config\ndef config():\n    return Config(sead=1)\n", "own.py:3: TypeError: .*'sead'"),
        ("def config():\n    return None\n", r"config\(\) returns NoneType; want r1jax.config.Config"),
        ("config = 3\n", r"defines no config\(\)"),
        (PPO.replace("FIELD", "updates='many'"), "own.py: ppo.updates: 'many' is not a whole number"),
        (PPO.replace("FIELD", "algorithm='foo'"), "own.py: ppo.algorithm: 'foo' is not one of ppo, grpo"),
        (PPO.replace("FIELD", "episodes=0"), "own.py: ppo.episodes: 0 is out of range; want 1 or more"),
        (PPO.replace("ppo=PPOConfig(FIELD)", "seed=2**31"), "seed: 2147483648 is out of range; want 0 to 2147483647"),
        (PPO.replace("FIELD", "gamma=1.5"), "own.py: ppo.gamma: 1.5 is out of range; want 0 to 1"),
        (PPO.replace("FIELD", "") + "def sweep():\n    yield 'ppo.clip'\n", "yields 'ppo.clip'; want dictionaries"),
        (PPO.replace("FIELD", "") + "def sweep():\n    yield {}[0]\n", "own.py:5: KeyError"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(text, message, tmp_path, monkeypatch):
    path = tmp_path / "own.py"
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in (path, "own.py"):
        with pytest.raises(UsageError, match=message) as caught:
            configuration.load(name)
            list(configuration.load_sweep(name))
        assert "\n" not in str(caught.value)


def test_values_of_a_file_are_fitted_to_their_fields(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("from r1jax.config import Config, EnvConfig\ndef config():\n    return Config(env=EnvConfig('lite'))\n")
    assert configuration.load(path).env.toolbox == ("lite",)
    (tmp_path / "own.yaml").write_text("name: own")
    with pytest.raises(UsageError, match=r"own.yaml: want a Python file"):
        configuration.load(tmp_path / "own.yaml")
