"""Full-reference quality of images.

All functions take float images in [0, 1], sRGB, NHWC, and return one number for each pair. They are pure and
can be jitted. RGB and Y figures of the same images differ by about a decibel: never compare one with the
other.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_PSNR_EPSILON = 1e-8  # keeps the PSNR of identical images finite: 80 dB
_SSIM_SIZE, _SSIM_SIGMA = 11, 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2


def psnr(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Returns the peak signal-to-noise ratio, decibels: 10 log10(1 / (mse + 1e-8)), at most 80.

    The mean squared error is over all channels together.
    """
    a, b = _checked_pair(a, b)
    mse = jnp.mean(jnp.square(a - b), axis=(1, 2, 3))
    return -10.0 * jnp.log10(mse + _PSNR_EPSILON)


def ssim(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Returns the structural similarity, the mean of the channels', at most 1.

    Window 11 x 11, Gaussian of sigma 1.5, averaged where the window lies inside the image. Wang, Bovik,
    Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004.

    Raises:
      ValueError: an image side is shorter than 11 pixels.
    """
    a, b = _checked_pair(a, b)
    if min(a.shape[1:3]) < _SSIM_SIZE:
        raise ValueError(f"ssim: want sides of at least {_SSIM_SIZE} pixels, got {a.shape[1]} x {a.shape[2]}")
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a * mean_a
    variance_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _SSIM_C1) / (mean_a**2 + mean_b**2 + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variance_a + variance_b + _SSIM_C2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def psnr_y(a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns `psnr` of the luma planes, see `luma`."""
    return psnr(luma(a), luma(b))


def ssim_y(a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns `ssim` of the luma planes, see `luma`."""
    return ssim(luma(a), luma(b))


def luma(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    """Returns Y of ITU-R BT.601 in studio swing, 16/255 (black) to 235/255 (white).

    As MATLAB's rgb2ycbcr: Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255, not rounded.
    """
    red, green, blue = x[..., 0:1], x[..., 1:2], x[..., 2:3]
    return (65.481 * red + 128.553 * green + 24.966 * blue + 16.0) / 255.0


def _checked_pair(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"want two image batches [B, H, W, C] of one shape, got {a.shape} and {b.shape}")
    if not (jnp.issubdtype(a.dtype, jnp.floating) and jnp.issubdtype(b.dtype, jnp.floating)):
        raise ValueError(f"want float images in [0, 1], got {a.dtype} and {b.dtype}")
    return a, b


def _blur(x: Float[Array, "b h w c"]) -> Float[Array, "b h-10 w-10 c"]:
    """Returns Gaussian window means, by shifted sums: XLA's depthwise convolution is slow on CPU."""
    offsets = np.arange(_SSIM_SIZE) - _SSIM_SIZE // 2
    taps = np.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    for axis in (1, 2):
        size = x.shape[axis] - _SSIM_SIZE + 1
        shifted = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(_SSIM_SIZE)]
        weighted = [float(tap) * part for tap, part in zip(taps / taps.sum(), shifted, strict=True)]
        x = sum(weighted[1:], start=weighted[0])
    return x
