"""Full-reference judges of restored images, by name: what the scorer is checked against.

Each takes (images, clean), float [b, h, w, 3] in [0, 1], and returns [b]; higher is better.
"""

import jax
import numpy as np

from r1jax.errors import R1JaxError
from r1jax.evaluation.tree import Metric
from r1jax.images import metrics

ALWAYS: dict[str, Metric] = {
    "psnr": jax.jit(metrics.psnr),
    "psnr_y": jax.jit(metrics.psnr_y),
    "ssim_y": jax.jit(metrics.ssim_y),
}


def tree_metrics(judge: bool) -> dict[str, Metric]:
    """Returns the metrics that are computed of every state: PSNR-Y, and VSI where a judge is wanted.

    Raises:
      R1JaxError: VSI is wanted, but torch or piq is not installed.
    """
    return {"psnr_y": ALWAYS["psnr_y"]} | ({"vsi": vsi()} if judge else {})


def vsi() -> Metric:
    """Returns the Visual Saliency-induced Index (Zhang, Shen, Li, IEEE TIP 23(10), 2014), computed by piq.

    Raises:
      R1JaxError: torch or piq is not installed.
    """
    try:
        import piq
        import torch
    except ImportError as error:
        raise R1JaxError(f"--judge needs {error.name}: pip install 'r1jax[eval]'") from None

    def measure(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
        first, second = (
            torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))) for x in (images, clean)
        )
        with torch.inference_mode():
            return piq.vsi(first, second, data_range=1.0, reduction="none").numpy()

    return measure
