"""Ablation: how many calls an episode has, without STOP, as in the paper's Figure 6.

    r1jax sweep configs/ablate_horizon.py --tree trees/ablation --eval-tree trees/ablation_test --seeds 3

The trees are built as configs/ablation.py says. In the paper more calls raise no-reference
scores and lower full-reference metrics.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from r1jax.config import Config, load

SMALL = {"ppo.updates": 30, "eval.every": 30}


def config() -> Config:
    base = load(pathlib.Path(__file__).with_name("ablation.py"))
    return dataclasses.replace(base, name="ablate_horizon")


def sweep() -> Iterator[dict[str, Any]]:
    for horizon in (3, 2, 1):
        yield {"env.horizon": horizon, "env.stop": False, "env.step_cost": 0.0}
    yield {}
