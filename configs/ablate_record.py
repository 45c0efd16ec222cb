"""Ablation: whether the policy sees which tools were called.

    r1jax sweep configs/ablate_record.py --tree trees/ablation --eval-tree trees/ablation_test --seeds 3

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
    return dataclasses.replace(base, name="ablate_record")


def sweep() -> Iterator[dict[str, Any]]:
    for record in (True, False):
        yield {"agent.record": record}
