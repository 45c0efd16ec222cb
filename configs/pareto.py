"""The trade-off between score and PSNR: a guard against invented detail, from none (the paper's objective) upwards.

    r1jax sweep configs/pareto.py --tree trees/ablation --eval-tree trees/ablation_test --seeds 3

The trees are built as configs/ablation.py says. The sweep writes curve.svg. The guard takes `guard_weight` score units for
each unit of structural correlation with the input below the band; it needs no clean photo. The first variant is the paper's
objective: the difference in score alone, a fixed horizon, no STOP.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from r1jax.config import Config, EnvConfig, load

SMALL = {"ppo.updates": 30, "eval.every": 30}
CURVE = ("eval/psnr_y_gain", "eval/score_gain")


def config() -> Config:
    base = load(pathlib.Path(__file__).with_name("ablation.py"))
    env = EnvConfig(toolbox=("lite",), horizon=3, stop=False, step_cost=0.0)
    return dataclasses.replace(base, name="pareto", env=env)


def sweep() -> Iterator[dict[str, Any]]:
    yield {}
    yield {"env.stop": True}
    for weight in (1.0, 2.0, 4.0, 8.0):
        yield {"env.stop": True, "env.guard_weight": weight, "env.guard_band": 0.8}
