"""A trained agent and its file: the policy's parameters, and in the metadata all that rebuilds the policy."""

import dataclasses
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Int

from r1jax.agent.encoder import encoder
from r1jax.agent.policy import Params, Policy
from r1jax.config import Config, from_dict, to_dict
from r1jax.env.environment import Environment, State
from r1jax.errors import R1JaxError, UsageError, WeightMismatch
from r1jax.files import make_folder, write_whole
from r1jax.tools.toolbox import toolbox
from r1jax.weights import SHIPPED_AGENTS, weight_file

_FILE = "agent.safetensors"


@dataclasses.dataclass(frozen=True)
class Agent:
    """A policy with its parameters, and the environment that it acts in."""

    policy: Policy
    params: Params
    env: Environment
    config: Config

    def act(self, state: State) -> Int[Array, " b"]:
        """Returns the likeliest action of each image; pure, so it can be jitted."""
        features = self.policy.see(self.policy.encoder.params, state)
        logits, _ = self.policy.apply(self.params, features, state.record, state.step)
        return jnp.argmax(logits, axis=-1)


def make_environment(config: Config, tools: tuple[str, ...] | None = None) -> Environment:
    """Returns the environment of a config.

    Args:
      tools: the names that the toolbox must come to. If the config's toolbox has others by now, these are taken.
    """
    env = config.env
    box = toolbox(env.toolbox)
    if tools is not None and box.names != tools:
        box = toolbox(tools)
    return Environment(box, env.horizon, env.stop, env.step_cost, env.block_size, env.guard_weight > 0)


def save_agent(path: str | pathlib.Path, agent: Agent, half: bool = False) -> pathlib.Path:
    """Writes an agent to a file PATH.safetensors or into a folder; returns the file. An old one is replaced whole.

    A folder also gets agent.json, the metadata for people to read. `half` stores kernels as float16: half the size.
    """
    path = pathlib.Path(path)
    file = path if path.suffix == ".safetensors" else path / _FILE
    make_folder(file.parent)
    metadata = {
        "config": to_dict(agent.config),
        "tools": list(agent.env.toolbox.names),
        "encoder": agent.policy.encoder.name,
        "encoder_version": agent.policy.encoder.version,
    }
    stored = {name: np.float16 if half and name.endswith("kernel") else np.float32 for name in agent.params}
    arrays = {name: np.ascontiguousarray(array, stored[name]) for name, array in agent.params.items()}
    write_whole(file, safetensors.numpy.save(arrays, {"agent": json.dumps(metadata)}))
    if file.name == _FILE and file.parent == path:
        write_whole(path / "agent.json", json.dumps(metadata, indent=2) + "\n")
    return file


def load_agent(path: str | pathlib.Path | None = None, toolbox: str = "lite") -> Agent:
    """Loads an agent from a .safetensors file, its folder or a run folder; None is the shipped one.

    Args:
      toolbox: whose shipped agent, where `path` is None: "lite" or "published".

    Raises:
      UsageError: there is no agent at `path`, or none is shipped for the toolbox.
      R1JaxError: the file is not an agent's, was trained on the features of other encoder weights, or its tools' weights are
        not here.
      WeightMismatch: its arrays do not fit its own config.
    """
    file = agent_file(path, toolbox)
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            metadata = json.loads((opened.metadata() or {})["agent"])
            params = {name: jnp.asarray(opened.get_tensor(name), jnp.float32) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise R1JaxError(f"{file}: not an agent's file; want the {_FILE} of a run, or the run's folder") from error
    config = from_dict(metadata["config"])
    try:
        env = make_environment(config, tuple(metadata["tools"]))
    except UsageError as error:
        raise UsageError(f"{file}: its tools: {error}; is this the folder that it was trained in?") from error
    frozen = encoder(metadata["encoder"])
    trained_on = metadata.get("encoder_version", frozen.version)
    if trained_on != frozen.version:
        raise R1JaxError(f"{file}: trained on {frozen.name} {trained_on}, this package has {frozen.version}: train it anew")
    policy = Policy(frozen, env, config.agent)
    _check(params, policy.shapes())
    return Agent(policy, params, env, config)


def agent_file(path: str | pathlib.Path | None = None, toolbox: str = "lite") -> pathlib.Path:
    """Returns the file that `load_agent` reads.

    Raises:
      UsageError: there is no agent at `path`, or none is shipped for the toolbox.
    """
    return _shipped(toolbox) if path is None else _find(path)


def _shipped(toolbox: str) -> pathlib.Path:
    if toolbox not in SHIPPED_AGENTS:
        raise UsageError(f"toolbox {toolbox!r}: no agent is shipped for it; there are {', '.join(SHIPPED_AGENTS)}")
    return weight_file("agent", toolbox)


def _find(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path)
    for file in (path, path / _FILE, path / "agent" / _FILE):
        if file.is_file():
            return file
    raise UsageError(f"{path}: no agent here; it would be a .safetensors file, or a folder with {_FILE}")


def _check(params: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    missing, unexpected = sorted(shapes.keys() - params.keys()), sorted(params.keys() - shapes.keys())
    both = sorted(shapes.keys() & params.keys())
    misshaped = [(name, shapes[name], params[name].shape) for name in both if params[name].shape != shapes[name]]
    if missing or unexpected or misshaped:
        raise WeightMismatch(missing, unexpected, misshaped)
