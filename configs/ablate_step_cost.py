"""Ablation: what a tool call costs the agent, and whether it may stop and sees its own record.

    r1jax sweep configs/ablate_step_cost.py

Six runs of the quickstart's size, a few minutes each on two CPU cores. A higher cost buys shorter plans with score.
"""

from collections.abc import Iterator
from typing import Any

from r1jax.config import Config, DataConfig, EnvConfig, EvalConfig, PPOConfig


def config() -> Config:
    return Config(
        name="ablate_step_cost",
        data=DataConfig(photos="builtin:train", mixes="A", crop=96),
        env=EnvConfig(toolbox=("lite",), horizon=3, step_cost=0.02),
        ppo=PPOConfig(updates=80, episodes=32, epochs=6, minibatches=2, learning_rate=2e-3, entropy_end=0.002),
        eval=EvalConfig(photos="builtin:test", every=80, images=48),
    )


def sweep() -> Iterator[dict[str, Any]]:
    for cost in (0.0, 0.02, 0.05, 0.1):
        yield {"env.step_cost": cost}
    yield {"env.stop": False}
    yield {"agent.record": False}
