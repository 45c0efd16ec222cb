"""Ablation: the scorer that the reward comes from, as in the paper's Table 3, beside the shipped one.

    r1jax sweep configs/ablate_reward.py --tree 'trees/{reward.scorer}' --eval-tree 'trees/{reward.scorer}_test' --seeds 3

A tree for each scorer, built as configs/ablation.py says but into trees/SCORER and trees/SCORER_test, with
--reward.scorer=SCORER. deqa needs a GPU, maniqa, clip-iqa and musiq need pyiqa: docs/guide-scorers.md. Scores of different
scorers do not compare: look at PSNR-Y, or evaluate the saved agents with one judge. One without its scorer fails alone.
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
