"""Small decision problems whose best policy is known: trivial tools on nearly flat 16x16 images."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.agent.agent import make_environment
from r1jax.agent.encoder import encoder
from r1jax.agent.policy import Policy
from r1jax.config import Config, override
from r1jax.tools import register_tool
from r1jax.training.loop import train

SCORERS = pathlib.Path(__file__).with_name("probe_scorers.py")


@register_tool("probe_brighten", task="test")
def brighten(x):
    return jnp.clip(x + 0.25, 0, 1)


@register_tool("probe_darken", task="test")
def darken(x):
    return jnp.clip(x - 0.25, 0, 1)


@register_tool("probe_noop", task="test")
def noop(x):
    return x


BRIGHTEN, DARKEN, NOOP, STOP = range(4)


@dataclasses.dataclass
class Flat:
    """Images of the given brightnesses, in turn, with a little noise; notes which batches it was asked for."""

    brightness: tuple[float, ...]
    side: int = 16
    asked: list[int] = dataclasses.field(default_factory=list)

    def batch(self, seed, step, batch_size):
        self.asked.append(step)
        rng = np.random.default_rng([seed, step])
        level = np.resize(np.array(self.brightness, np.float32), batch_size)[:, None, None, None]
        noise = rng.normal(0, 0.01, (batch_size, self.side, self.side, 3)).astype(np.float32)
        images = np.clip(level + noise, 0, 1)
        ids = step * batch_size + np.arange(batch_size, dtype=np.int32)
        return types.SimpleNamespace(degraded=images, clean=images, ids=ids)


def probe_config(scorer="Target", **overrides) -> Config:
    """A config that learns a probe in some seconds; keywords are dotted fields with __ for the dots."""
    fields = {
        "env.toolbox": ("probe_brighten", "probe_darken", "probe_noop"),
        "env.horizon": 2,
        "env.block_size": 4,
        "env.step_cost": 0.5,  # without it, undoing a call by another, or a tool that does nothing, may be as good
        "agent.encoder": "pixels",
        "agent.hidden": (32,),
        "reward.scorer": f"{SCORERS}:{scorer}",
        "reward.mode": "graph",
        "ppo.updates": 40,
        "ppo.episodes": 24,
        "ppo.learning_rate": 1e-2,
        "ppo.entropy_start": 0.02,
        "ppo.entropy_end": 0.0,
    }
    return override(Config(), fields | {name.replace("__", "."): value for name, value in overrides.items()})


def check_tickets_train_as_blocking(run_dir, model: str, crop: int) -> None:
    """20 updates on the lite tools, scored by a vision-language model in its own process, end in the same parameters."""
    fields = {
        "env.toolbox": ("lite",), "env.horizon": 2, "env.block_size": 2, "data.crop": crop, "agent.hidden": (32,),
        "ppo.episodes": 4, "ppo.updates": 20, "eval.every": 0, "eval.checkpoint_every": 0,
        "reward.scorer": "vlm", "reward.options": {"model": model, "device": "cpu"}, "reward.max_batch": 1,
    }  # fmt: skip
    results = {}
    for mode in ("ticket", "blocking"):
        config = override(Config(), {**fields, "reward.mode": mode})
        results[mode] = train(config, pathlib.Path(run_dir) / mode, progress=False)
        assert [row["missing_share"] for row in results[mode].history] == [0] * 20
        assert len({row["score_gain"] for row in results[mode].history}) > 10
    for name, array in results["blocking"].agent.params.items():
        np.testing.assert_array_equal(results["ticket"].agent.params[name], array, err_msg=name)


def build(config: Config):
    """Returns (env, policy, policy params) of a config, fresh and peaked enough that actions differ by image."""
    env = make_environment(config)
    policy = Policy(encoder(config.agent.encoder), env, config.agent)
    params = policy.init(jax.random.key(1))
    last = f"actor.layers.{len(config.agent.hidden)}.kernel"
    return env, policy, params | {last: params[last] * 50}


def greedy_actions(agent, images: np.ndarray) -> np.ndarray:
    """Returns the actions [b, T] of an agent; -1 after the end."""
    state = agent.env.reset(jnp.asarray(images))
    actions = []
    for _ in range(agent.env.horizon):
        action = jnp.where(state.done, -1, agent.act(state))
        actions.append(np.asarray(action))
        state, _ = agent.env.step(agent.env.toolbox.params, state, action)
    return np.stack(actions, axis=1)


def start_on_devices(count: int, *arguments: str) -> subprocess.Popen:
    """Starts on_devices.py with so many fake devices."""
    here = pathlib.Path(__file__).parent
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    env["PYTHONPATH"] = os.pathsep.join([str(here.parents[1]), str(here), env.get("PYTHONPATH", "")])
    command = [sys.executable, str(here / "on_devices.py"), *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check_finished(*started: subprocess.Popen, timeout: float = 240) -> None:
    """Waits for processes; one that fails or hangs fails the test with what it printed."""
    try:
        for process in started:
            output, _ = process.communicate(timeout=timeout)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in started:
            process.kill()
