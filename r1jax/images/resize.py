"""Bicubic resizing as MATLAB's `imresize` does it, the field's convention for super-resolution.

Cubic convolution with a = -0.5, antialiased when shrinking, symmetric borders. One weight matrix an axis, so that the
same function serves numpy on the host and JAX in a program. Images are float, NHWC or HWC.
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)


def resize_bicubic(image: ArrayT, height: int, width: int) -> ArrayT:
    """Returns `image` [..., H, W, C] resized to [..., height, width, C]; values are not clipped."""
    return _apply(weight_matrix(image.shape[-3], height), weight_matrix(image.shape[-2], width), image)


def undo_enlargement(image: ArrayT, height: int, width: int) -> ArrayT:
    """Returns the [..., height, width, C] whose bicubic enlargement is nearest to `image` [..., H, W, C].

    Of an image that `resize_bicubic` has enlarged this is the original, where shrinking would blur it a second time.
    """
    return _apply(inverse_matrix(image.shape[-3], height), inverse_matrix(image.shape[-2], width), image)


def _apply(rows: np.ndarray, columns: np.ndarray, image: ArrayT) -> ArrayT:
    if isinstance(image, jax.Array):
        einsum: Any = functools.partial(jnp.einsum, precision="highest")
    else:
        einsum = functools.partial(np.einsum, optimize=True)
    return einsum("xw,...ywc->...yxc", columns, einsum("yh,...hwc->...ywc", rows, image))


@functools.lru_cache(maxsize=64)
def inverse_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Returns the least-squares inverse [size_out, size_in] of an enlargement from size_out to size_in."""
    return np.linalg.pinv(weight_matrix(size_out, size_in).astype(np.float64)).astype(np.float32)


@functools.lru_cache(maxsize=64)
def weight_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Returns the float32 matrix [size_out, size_in] whose rows are MATLAB's bicubic weights."""
    scale = size_out / size_in
    stretch = min(scale, 1.0)  # antialiasing widens the kernel when shrinking
    centre = (np.arange(size_out) + 0.5) / scale - 0.5
    reach = int(np.ceil(2 / stretch)) + 1
    taps = np.floor(centre)[:, None].astype(int) + np.arange(-reach, reach + 1)
    weights = _cubic((centre[:, None] - taps) * stretch)
    weights /= weights.sum(1, keepdims=True)
    mirrored = np.concatenate([np.arange(size_in), np.arange(size_in)[::-1]])
    matrix = np.zeros((size_out, size_in))
    np.add.at(matrix, (np.arange(size_out)[:, None], mirrored[taps % (2 * size_in)]), weights)
    return matrix.astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
