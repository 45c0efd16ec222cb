"""Ablation: PPO, GRPO, REINFORCE with a leave-one-out baseline, V-trace with a policy that lags behind, or distillation.

    r1jax sweep configs/ablate_algorithm.py --tree trees/ablation --eval-tree trees/ablation_test --seeds 3

The trees are built as configs/ablation.py says. REINFORCE learns from each decision once, the others four times: its
learning rate is larger.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from r1jax.config import Config, load

SMALL = {"ppo.updates": 30, "eval.every": 30}


def config() -> Config:
    base = load(pathlib.Path(__file__).with_name("ablation.py"))
    return dataclasses.replace(base, name="ablate_algorithm")


def sweep() -> Iterator[dict[str, Any]]:
    group = {"ppo.group_size": 8}
    yield {"ppo.algorithm": "ppo"}
    yield {"ppo.algorithm": "grpo", **group}
    yield {"ppo.algorithm": "reinforce", **group, "ppo.epochs": 1, "ppo.learning_rate": 3e-3}
    yield {"ppo.algorithm": "vtrace", "ppo.lag": 2}
    yield {"ppo.algorithm": "distill", "ppo.updates": 40, "ppo.epochs": 1, "ppo.learning_rate": 2e-3}
