"""Every dataclass of the configuration.

A config file is Python: it defines `config() -> Config` and, for ablations, `sweep()` that yields dictionaries of
overrides such as `{"ppo.clip": 0.1}`. Any field can be overridden on the command line: `--ppo.clip=0.1`.
"""

import ast
import dataclasses
import functools
import math
import pathlib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

from r1jax import user_files
from r1jax.errors import UsageError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where photos come from and how they are degraded."""

    photos: str = "builtin:train"  # a folder, or the shipped crops: builtin:train, builtin:test
    mixes: str = "A"  # group A, B, C, "single" (the eight operations alone), "wide", all, or mixes "noise+jpeg,rain+haze"
    extra_mixes: str = ""  # for training only, on half of its images: "wide" is all but A and what holds a mix of B or C
    crop: int = 128  # side of the square training crop, pixels
    clean_share: float = 0.0  # share of training images left undegraded, so that STOP at once is sometimes right


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The decision process."""

    toolbox: tuple[str, ...] = ("lite",)  # a toolbox, or tools one by one: ("denoise", "clahe", ...)
    horizon: int = 4  # most tool calls an episode
    stop: bool = True  # whether the agent may end an episode early
    step_cost: float = 0.0  # subtracted from the reward of every tool call, in score units
    guard_weight: float = 0.0  # what an image loses in score units for each unit of structure below the band
    guard_band: float = 0.6  # correlation with the first image that costs nothing, see images/fidelity.py
    block_size: int = 1  # G of the grouped dispatch: images of one tool run together; 1 on CPU, larger on GPU


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """The policy: frozen encoder, action record, MLP actor-critic."""

    # lite_scorer, lite_statistics, lite_foresight, pixels, efficientnet_lite0, clip_vit_l14 (the paper's),
    # clip_vit_l14_336, or several side by side: "lite_foresight+lite_statistics"
    encoder: str = "lite_scorer"
    hidden: tuple[int, ...] = (256, 128)  # of the actor's and of the critic's layers
    record: bool = True  # whether the policy sees which tools were called


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """The quality scorer and the service around it."""

    scorer: str = "lite"  # a registered scorer, or FILE.py:Class for your own
    metric: str = ""  # on a tree: reward by this full-reference metric of its states instead, "psnr_y" in decibels
    # Keyword arguments of the scorer: --reward.options.model=Qwen/Qwen3-VL-4B-Instruct
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # ticket: scored beside the tools, collected after the last step; blocking: waited for at each step; outside: submitted
    # from the host, for devices without callbacks; graph: an embedded scorer as a part of the program
    mode: Literal["ticket", "blocking", "outside", "graph"] = "ticket"
    timeout_s: float = 60.0  # how long a missing score is waited for
    start_timeout_s: float = 600.0  # how long the scorer may take to load
    max_batch: int = 16  # most images scored together; 1: no score depends, in the last bits, on what waits beside it
    gpu: str = ""  # CUDA_VISIBLE_DEVICES of the scorer's process; empty: it shares the trainer's
    on_missing: Literal["mask", "raise"] = "mask"  # an episode without a score has weight 0, or ends the run
    cache_dir: str = ""  # folder of the on-disk score cache; empty: memory only

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _plain(self.options))


def _plain(value: Any) -> Any:
    """Lists become tuples, so that a config equals the one read back from its JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Policy optimisation; by default proximal (arXiv 1707.06347) with GAE (arXiv 1506.02438).

    grpo compares the episodes of an image with each other instead of with a critic, reinforce each with the mean of the
    others; vtrace is for a policy that acts while it lags behind the one that learns; distill learns, on a transition tree,
    from what every action of every decision is worth.
    """

    algorithm: Literal["ppo", "grpo", "reinforce", "vtrace", "distill"] = "ppo"
    group_size: int = 1  # episodes of one image in an update; grpo and reinforce need 2 or more
    lag: int = 0  # updates after which the acting policy is renewed, beyond the first; needs vtrace
    updates: int = 200
    episodes: int = 32  # episodes an update, all devices together
    epochs: int = 4  # passes over an update's episodes
    minibatches: int = 2  # a pass
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_coef: float = 0.5
    entropy_start: float = 0.05  # coefficient of the entropy bonus, from the first update to the last
    entropy_end: float = 0.01
    entropy_schedule: Literal["linear", "cosine"] = "linear"
    kl_coef: float = 0.0  # of the KL divergence from the policy that acted
    temperature: float = 0.05  # of distill, in score units: actions this much apart differ by e in probability
    learning_rate: float = 1e-3
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"  # the last two end at 0
    warmup: int = 0  # updates in which the learning rate rises from 0
    max_grad_norm: float = 0.5
    normalise_advantage: bool = True


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation during training, on photos held out of it."""

    photos: str = "builtin:test"  # as data.photos
    every: int = 50  # updates between evaluations; 0: never
    images: int = 32
    checkpoint_every: int = 50  # updates between checkpoints; 0: one at the end


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run."""

    name: str = "agent"
    seed: int = 0
    data: DataConfig = DataConfig()
    env: EnvConfig = EnvConfig()
    agent: AgentConfig = AgentConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    eval: EvalConfig = EvalConfig()


_RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("data.clean_share", "env.guard_band", "ppo.gamma", "ppo.gae_lambda"), (0, 1)),
    **dict.fromkeys(("env.horizon", "env.block_size", "agent.hidden", "reward.max_batch", "eval.images"), (1, math.inf)),
    **dict.fromkeys(("ppo.updates", "ppo.episodes", "ppo.epochs", "ppo.minibatches", "ppo.group_size"), (1, math.inf)),
    **dict.fromkeys(("eval.every", "eval.checkpoint_every", "env.step_cost", "env.guard_weight"), (0, math.inf)),
    **dict.fromkeys(("reward.timeout_s", "reward.start_timeout_s"), (0, math.inf)),
    **dict.fromkeys(("ppo.lag", "ppo.warmup", "ppo.learning_rate", "ppo.max_grad_norm", "ppo.clip"), (0, math.inf)),
    **dict.fromkeys(("ppo.value_coef", "ppo.entropy_start", "ppo.entropy_end", "ppo.kl_coef"), (0, math.inf)),
    "ppo.temperature": (1e-6, math.inf),
    "seed": (0, 2**31 - 1),  # programs take it as an int32
    "data.crop": (11, math.inf),  # SSIM looks through windows of 11 pixels
}


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Returns `config` with dotted fields replaced; strings are parsed to the field's type.

    Raises:
      UsageError: a field does not exist (the line lists those that do), or a value does not fit its type or range.
    """
    for dotted, value in overrides.items():
        config = _replace(config, dotted.split("."), value, dotted)
    for dotted, (low, high) in _RANGES.items():
        found: Any = functools.reduce(getattr, dotted.split("."), config)
        for number in found if isinstance(found, tuple) else (found,):
            if not low <= number <= high:
                wanted = f"{low} or more" if high == math.inf else f"{low} to {high}"
                raise UsageError(f"--{dotted}: {number} is out of range; want {wanted}")
    return config


def _replace(node: T, path: list[str], value: Any, dotted: str) -> T:
    if isinstance(node, Mapping):
        if len(path) > 1:
            raise UsageError(f"--{dotted}: an option has no fields; give {path[0]} as a whole")
        return {**node, path[0]: _literal(value)}  # type: ignore[return-value]
    names = [field.name for field in dataclasses.fields(node)]  # type: ignore[arg-type]
    if path[0] not in names:
        raise UsageError(f"--{dotted}: no field {path[0]!r}; there are {', '.join(names)}")
    current = getattr(node, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(current) and not isinstance(current, Mapping):
            raise UsageError(f"--{dotted}: {path[0]} has no fields")
        new: Any = _replace(current, path[1:], value, dotted)
    elif dataclasses.is_dataclass(current):
        raise UsageError(f"--{dotted}: {path[0]} is a group; set one of its fields")
    else:
        new = _coerce(value, typing.get_type_hints(type(node))[path[0]], dotted)
    return dataclasses.replace(node, **{path[0]: new})  # type: ignore[type-var]


def _coerce(value: Any, kind: Any, dotted: str) -> Any:
    """Fits `value`, a Python value or the text of one, to the annotated type of a field."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise UsageError(f"--{dotted}: {value!r} is not one of {', '.join(map(str, typing.get_args(kind)))}")
        return value
    if origin is tuple:
        if isinstance(value, str):
            value = _parse_tuple(value)
        item = typing.get_args(kind)[0]
        return tuple(_coerce(v, item, dotted) for v in (value if isinstance(value, (tuple, list)) else (value,)))
    if origin is Mapping:
        value = _literal(value)
        if not isinstance(value, Mapping):
            raise UsageError(f"--{dotted}: {value!r} is no dictionary; set one entry with --{dotted}.NAME=VALUE")
        return value
    if origin in (types.UnionType, typing.Union):
        raise TypeError(f"config field {dotted} has a union type, which overrides cannot fill")
    if isinstance(value, str) and kind is not str:
        try:
            value = ast.literal_eval(value.capitalize() if value.lower() in ("true", "false") else value)
        except (ValueError, SyntaxError):
            raise UsageError(f"--{dotted}: {value!r} is not {_kind_name(kind)}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"--{dotted}: {value!r} is not {_kind_name(kind)}")
    return value


def _literal(value: Any) -> Any:
    """Returns the number, tuple, ... that a text spells, or the text."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.capitalize() if value.lower() in ("true", "false") else value)
    except (ValueError, SyntaxError):
        return value


def _parse_tuple(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return tuple(part.strip() for part in text.split(",") if part.strip())


def _kind_name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))


def load(path: str | pathlib.Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Loads `config()` of a config file and applies overrides.

    Raises:
      UsageError: the file does not exist, raises, or does not define `config()`; or a value does not fit its field.
    """
    return override(_config_of(_module(path), path), overrides or {})


def load_sweep(path: str | pathlib.Path) -> Iterator[tuple[dict[str, Any], Config]]:
    """Yields (overrides, config) for every variant that the file's `sweep()` yields.

    Raises:
      UsageError: the file defines no `sweep()`, it yields no dictionary, or as for `load`.
    """
    module = _module(path)
    if not hasattr(module, "sweep"):
        raise UsageError(f"{path}: defines no sweep()")
    for overrides in user_files.call(lambda: list(module.sweep()), pathlib.Path(path)):
        if not isinstance(overrides, Mapping):
            raise UsageError(f"{path}: sweep() yields {overrides!r}; want dictionaries such as {{'ppo.clip': 0.1}}")
        yield dict(overrides), override(_config_of(module, path), overrides)


def load_small(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns the file's `SMALL`: overrides that let its sweep run on two CPU cores in minutes.

    Raises:
      UsageError: the file defines none.
    """
    module = _module(path)
    if not hasattr(module, "SMALL"):
        raise UsageError(f"{path}: defines no SMALL")
    return dict(module.SMALL)


def load_curve(path: str | pathlib.Path) -> tuple[str, str] | None:
    """Returns the file's `CURVE`: two figures of its sweep that are drawn against each other, x and y."""
    return getattr(_module(path), "CURVE", None)


def _module(path: str | pathlib.Path) -> types.ModuleType:
    path = pathlib.Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such config file")
    module = user_files.import_file(path, f"r1jax_config_{path.stem}")
    if not callable(getattr(module, "config", None)):
        raise UsageError(f"{path}: defines no config()")
    return module


def _config_of(module: types.ModuleType, path: str | pathlib.Path) -> Config:
    """Returns what `config()` returns, each value fitted to its field's type."""
    config = user_files.call(module.config, pathlib.Path(path))
    if not isinstance(config, Config):
        raise UsageError(f"{path}: config() returns {type(config).__name__}; want r1jax.config.Config")
    try:
        return from_dict(to_dict(config))
    except UsageError as error:
        raise UsageError(f"{path}: {str(error).removeprefix('--')}") from None


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the config as nested plain values, for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> Config:
    """Rebuilds a config from `to_dict`'s result; fields that it lacks keep their defaults."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, node: Mapping[str, Any]) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping) and prefix + key != "reward.options":
                walk(f"{prefix}{key}.", value)
            else:
                flat[prefix + key] = value

    walk("", values)
    return override(Config(), flat)
