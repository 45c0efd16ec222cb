"""Ablation: whether the agent may stop early, or always makes three calls.

    r1jax sweep configs/ablate_stop.py --tree trees/ablation --eval-tree trees/ablation_test --seeds 3

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
    return dataclasses.replace(base, name="ablate_stop")


def sweep() -> Iterator[dict[str, Any]]:
    for stop in (True, False):
        yield {"env.stop": stop}
