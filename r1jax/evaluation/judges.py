"""Judges of restored images, by name: what the scorer is checked against.

Each takes (images, clean), float [b, h, w, 3] in [0, 1], and returns [b]; higher is better. Most compare the two; those of
`no_reference` look at the restored image alone.
"""

from typing import Any

import jax
import numpy as np

from r1jax.evaluation.tree import Metric
from r1jax.images import metrics, perceptual
from r1jax.images.convert import to_uint8
from r1jax.reward.scorer import scorer

ALWAYS: dict[str, Metric] = {
    "psnr": jax.jit(metrics.psnr),
    "psnr_y": jax.jit(metrics.psnr_y),
    "ssim_y": jax.jit(metrics.ssim_y),
}


def tree_metrics(judge: bool) -> dict[str, Metric]:
    """Returns the metrics that are computed of every state: PSNR-Y, and VSI where a judge is wanted.

    VSI (Zhang, Shen, Li, IEEE TIP 23(10), 2014) takes no part in the labels that the lite scorer learned from.
    """
    return {"psnr_y": ALWAYS["psnr_y"]} | ({"vsi": jax.jit(perceptual.vsi)} if judge else {})


# Scorers of pyiqa and the ends of their published ranges, which are not the scorers' 1..5.
_NO_REFERENCE = {"maniqa": (0.0, 1.0), "clip-iqa": (0.0, 1.0), "musiq": (0.0, 100.0)}


def no_reference() -> dict[str, Metric]:
    """Returns MANIQA, CLIP-IQA and MUSIQ in the ranges in which papers report them.

    Raises:
      R1JaxError: pyiqa is missing, or its weights cannot be had.
    """
    return {name: _of_scorer(name, low, high) for name, (low, high) in _NO_REFERENCE.items()}


def _of_scorer(name: str, low: float, high: float) -> Metric:
    built = scorer(name)

    def metric(images: Any, clean: Any) -> np.ndarray:
        return low + (built.score(to_uint8(np.asarray(images))) - 1) / 4 * (high - low)

    return metric
