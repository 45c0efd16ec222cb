"""Ablation: the lite toolbox without some of its tools.

    r1jax sweep configs/ablate_toolbox.py --tree trees/ablation --eval-tree trees/ablation_test --seeds 3

The trees are built as configs/ablation.py says. Fewer tools are part of the same tree.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from r1jax.config import Config, load

SMALL = {"ppo.updates": 30, "eval.every": 30}


def config() -> Config:
    base = load(pathlib.Path(__file__).with_name("ablation.py"))
    return dataclasses.replace(base, name="ablate_toolbox")


def sweep() -> Iterator[dict[str, Any]]:
    yield {}
    tools = ("denoise", "dejpeg", "super_resolution", "derain", "dehaze", "brighten", "motion_deblur", "defocus_deblur")
    for missing in (("motion_deblur",), ("motion_deblur", "defocus_deblur"), ("denoise",), ("brighten", "dehaze")):
        yield {"env.toolbox": tuple(tool for tool in tools if tool not in missing)}
