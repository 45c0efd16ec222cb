"""How much of an image's structure another one keeps, without a clean photo: a guard against invented detail."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_WINDOW = 4  # pixels a side, at half the resolution
_FLOOR = 0.03**2 / 2  # as in SSIM: what makes a flat window's noise not count


def structure_kept(image: ArrayT, first: ArrayT) -> ArrayT:
    """Returns the mean correlation of luma between two images [b, h, w, 3] over windows of 8x8 pixels: [b], in [-1, 1].

    It is the structure term of SSIM (Wang et al., IEEE TIP 13(4), 2004) at half the resolution: brightness and contrast
    may change freely, and noise that is removed counts little; edges that appear or vanish count. Sides that are no
    multiple of 8 lose their last pixels.
    """
    a, b = _windows(image), _windows(first)
    xp = jnp if isinstance(image, jax.Array) else np
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    deviations = xp.sqrt((a**2).mean(-1) * (b**2).mean(-1))
    return (((a * b).mean(-1) + _FLOOR) / (deviations + _FLOOR)).mean(-1)


def _windows(image: ArrayT) -> ArrayT:
    """Returns half-size luma as [b, windows, pixels]."""
    side = 2 * _WINDOW
    height, width = (image.shape[1] // side * side, image.shape[2] // side * side)
    luma = image[:, :height, :width] @ _LUMA
    half = reduce(luma, "b (h 2) (w 2) -> b h w", "mean")
    return rearrange(half, "b (h y) (w x) -> b (h w) (y x)", y=_WINDOW, x=_WINDOW)
