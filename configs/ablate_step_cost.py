"""Ablation: what a tool call costs the agent. A higher cost buys shorter plans with score.

    r1jax sweep configs/ablate_step_cost.py --tree trees/ablation --eval-tree trees/ablation_test --seeds 3

The trees are built as configs/ablation.py says.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from r1jax.config import Config, load

SMALL = {"ppo.updates": 30, "eval.every": 30}


def config() -> Config:
    base = load(pathlib.Path(__file__).with_name("ablation.py"))
    return dataclasses.replace(base, name="ablate_step_cost")


def sweep() -> Iterator[dict[str, Any]]:
    for cost in (0.0, 0.02, 0.05, 0.1, 0.2):
        yield {"env.step_cost": cost}
