"""No-reference quality metrics of the package `pyiqa` as scorers: MANIQA, CLIP-IQA, MUSIQ.

They are the rewards that Restore-R1 compares with its multimodal LLM. Their weights are downloaded by pyiqa at first use.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from r1jax.errors import R1JaxError, UsageError
from r1jax.reward.scorer import one_line, register_scorer


class PyIQAScorer:
    """Rates images by a metric of pyiqa, mapped from its own range to 1..5.

    Args:
      metric: its name at pyiqa.
      low, high: the ends of the metric's range; they become 1 and 5.
      device: "cpu", "cuda:1", ...; by default a GPU if there is one.

    Raises:
      R1JaxError: pyiqa is missing, or the metric's weights cannot be had.
      UsageError: lower is better for the metric, or its range is none.
    """

    def __init__(self, metric: str, low: float = 0.0, high: float = 1.0, device: str = ""):
        if not low < high:
            raise UsageError(f"low={low}, high={high}: want low below high")
        self._torch, pyiqa = _libraries(metric)
        self._device = device or ("cuda" if self._torch.cuda.is_available() else "cpu")
        try:
            self._metric = pyiqa.create_metric(metric, device=self._device)
        except Exception as error:
            raise R1JaxError(f"metric {metric!r}: pyiqa cannot build it ({one_line(error)})") from None
        if self._metric.lower_better:
            raise UsageError(f"metric {metric!r}: lower is better, so it cannot be a reward")
        self._low, self._high = low, high
        self.name = f"pyiqa-{metric}"
        self.version = f"{getattr(pyiqa, '__version__', '0')}-{low}-{high}"

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Returns one score an image, 1 and 5 at the ends of the metric's range."""
        x = self._torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with self._torch.inference_mode():
            values = self._metric(x.to(self._device).float() / 255).float().reshape(-1).cpu().numpy()
        return np.asarray(1 + 4 * (values - self._low) / (self._high - self._low), np.float32)


def _libraries(metric: str) -> tuple[Any, Any]:
    try:
        import pyiqa
        import torch
    except ImportError as error:
        raise R1JaxError(f"scorer {metric!r} needs pyiqa ({error}); install it with: pip install pyiqa") from None
    return torch, pyiqa


register_scorer("maniqa")(functools.partial(PyIQAScorer, metric="maniqa"))  # of KonIQ-10k
register_scorer("clip-iqa")(functools.partial(PyIQAScorer, metric="clipiqa"))  # with the ResNet-50 of CLIP
register_scorer("musiq")(functools.partial(PyIQAScorer, metric="musiq", high=100.0))  # of KonIQ-10k
