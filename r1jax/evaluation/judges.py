"""Full-reference judges of restored images, by name: what the scorer is checked against.

Each takes (images, clean), float [b, h, w, 3] in [0, 1], and returns [b]; higher is better.
"""

import jax

from r1jax.evaluation.tree import Metric
from r1jax.images import metrics, perceptual

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
