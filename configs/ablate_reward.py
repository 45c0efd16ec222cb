"""Ablation: the scorer that the reward comes from, as in the paper's Table 3, beside the shipped one.

    r1jax sweep configs/ablate_reward.py --tree 'trees/{reward.scorer}' --eval-tree 'trees/{reward.scorer}_test' --seeds 3

A tree for each scorer, built as configs/ablation.py says but into trees/SCORER and trees/SCORER_test, with
--reward.scorer=SCORER. deqa needs a GPU, maniqa, clip-iqa and musiq need pyiqa: docs/guide-scorers.md. Scores of different
scorers do not compare: look at PSNR-Y, or evaluate the saved agents with one judge. One without its scorer fails alone.
The last variant is no scorer's: PSNR-Y against the clean crop in decibels, which a tree knows and a score stands in for.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from r1jax.config import Config, load

SMALL = {"ppo.updates": 30, "eval.every": 30}


def config() -> Config:
    base = load(pathlib.Path(__file__).with_name("ablation.py"))
    return dataclasses.replace(base, name="ablate_reward")


def sweep() -> Iterator[dict[str, Any]]:
    for scorer in ("lite", "deqa", "maniqa", "clip-iqa", "musiq"):
        yield {"reward.scorer": scorer}
    # Decibels are some ten times a score's numbers, and the critic's loss goes with their square.
    yield {"reward.scorer": "lite", "reward.metric": "psnr_y", "env.step_cost": 0.15, "ppo.value_coef": 0.05}
