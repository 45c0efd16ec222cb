"""Perceptual quality of images against a reference: MS-SSIM, FSIMc and VSI.

All functions take float images in [0, 1], sRGB, NHWC, and return one number for each pair, 1 for equal images.
They are pure, and symmetric in their two arguments; jit them. The conventions (borders, downsampling, colour
constants) are those of the package piq, version 0.8, whose numbers the tests hold these to.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from r1jax.images.metrics import _checked_pair
from r1jax.images.phase_congruency import phase_congruency

_EPSILON = float(np.finfo(np.float32).eps)
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
_MS_SSIM_SIGMA, _MS_SSIM_C1, _MS_SSIM_C2 = 1.5, 0.01**2, 0.03**2

_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_FSIM_PC, _FSIM_GRADIENT, _FSIM_CHROMA, _FSIM_CHROMA_POWER = 0.85, 160.0, 200.0, 0.03

_RGB_TO_LMN = ((0.06, 0.63, 0.27), (0.30, 0.04, -0.35), (0.34, -0.6, 0.17))
_RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_WHITE_D50 = (0.9642119944211994, 1.0, 0.8251882845188288)
_SALIENCY_SIDE = 256  # saliency is computed on a square of this side, whatever the image's size
_VSI_SALIENCY, _VSI_GRADIENT, _VSI_CHROMA = 1.27, 386.0, 130.0
_VSI_GRADIENT_POWER, _VSI_CHROMA_POWER = 0.4, 0.02


def ms_ssim(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], window: int = 7) -> Float[Array, " b"]:
    """Returns the multi-scale structural similarity, the mean of the channels', in [0, 1].

    Five scales, each half the last by 2 x 2 means; Gaussian window of sigma 1.5, averaged where it lies inside
    the image; negative means count as 0. Wang, Simoncelli and Bovik, "Multiscale structural similarity for
    image quality assessment", Asilomar Conference on Signals, Systems and Computers, 2003.

    Args:
      window: side of the window, odd, pixels; the paper's is 11.

    Raises:
      ValueError: `window` is even, or an image side is shorter than 16 (window - 1) + 1: 97 pixels for 7.
    """
    a, b = (_planes(x) for x in _checked_pair(a, b))
    _check_ms_ssim(a.shape[2:], window)
    similarity = jnp.ones(a.shape[:2])
    for scale, weight in enumerate(_MS_SSIM_WEIGHTS):
        if scale:
            a, b = _halved(a), _halved(b)
        luminance, structure = _ssim_maps(a, b, window)
        last = scale == len(_MS_SSIM_WEIGHTS) - 1
        mean = jnp.mean(luminance * structure if last else structure, axis=(2, 3))
        similarity *= jnp.maximum(mean, 0.0) ** weight
    return jnp.mean(similarity, axis=1)


def fsim(a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns the feature similarity with chroma, FSIMc.

    Compares phase congruency, gradients and chroma (YIQ), weighted by phase congruency. An image is first
    shrunk by the whole number nearest to its shorter side / 256. L. Zhang, L. Zhang, Mou and D. Zhang, "FSIM: a
    feature similarity index for image quality assessment", IEEE Transactions on Image Processing 20(8), 2011.
    """
    return _by_pair(_fsim, *_checked_rgb_pair(a, b))


def vsi(a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns the visual saliency-induced index.

    Compares saliency, gradients and chroma (LMN), weighted by saliency. L. Zhang, Shen and Li, "VSI: a visual
    saliency-induced index for perceptual image quality assessment", IEEE Transactions on Image Processing
    23(10), 2014. Saliency: L. Zhang, Gu and Li, "SDSP: a novel saliency detection method by combining simple
    priors", ICIP 2013.
    """
    return _by_pair(_vsi, *_checked_rgb_pair(a, b))


def _fsim(pair: Float[Array, "2 *b 3 h w"]) -> Float[Array, "*b"]:
    yiq = _mixed(_mean_pooled(255.0 * pair, _shrink_factor(pair)), _RGB_TO_YIQ)
    luma, chroma = yiq[..., 0, :, :], yiq[..., 1:, :, :]
    congruency, gradient = phase_congruency(luma), _gradient(luma)
    weight = jnp.max(congruency, axis=0)
    similarity = _similarity(congruency, _FSIM_PC) * _similarity(gradient, _FSIM_GRADIENT)
    colour = jnp.prod(_similarity(chroma, _FSIM_CHROMA), axis=-3)
    weighted = similarity * _power(jnp.abs(colour), _FSIM_CHROMA_POWER) * weight
    return jnp.sum(weighted, axis=(-2, -1)) / jnp.sum(weight, axis=(-2, -1))


def _vsi(pair: Float[Array, "2 *b 3 h w"]) -> Float[Array, "*b"]:
    factor = _shrink_factor(pair)
    saliency = _mean_pooled(_edge_padded(_saliency(pair), factor), factor)
    lmn = _mean_pooled(_edge_padded(_mixed(255.0 * pair, _RGB_TO_LMN), factor), factor)
    gradient, chroma = _gradient(lmn[..., 0, :, :]), lmn[..., 1:, :, :]
    weight = jnp.max(saliency, axis=0)
    similarity = _similarity(saliency, _VSI_SALIENCY)
    similarity *= _power(_similarity(gradient, _VSI_GRADIENT), _VSI_GRADIENT_POWER)
    colour = jnp.prod(_similarity(chroma, _VSI_CHROMA), axis=-3)
    # The real part of a complex power: opposite hues make the product negative.
    turn = jnp.where(colour < 0, math.cos(math.pi * _VSI_CHROMA_POWER), 1.0)
    similarity *= _power(jnp.abs(colour), _VSI_CHROMA_POWER) * turn
    total = jnp.sum(similarity * weight, axis=(-2, -1)) + _EPSILON
    return total / (jnp.sum(weight, axis=(-2, -1)) + _EPSILON)


def _checked_rgb_pair(a: jax.typing.ArrayLike, b: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    a, b = _checked_pair(a, b)
    if a.shape[3] != 3:
        raise ValueError(f"want RGB images [B, H, W, 3], got {a.shape}")
    return a, b


def _by_pair(
    metric: Callable[[jax.Array], jax.Array], a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
) -> Float[Array, " b"]:
    """Returns metric([2, b, 3, h, w]); on CPU for one pair after another, whose planes then stay in the cache."""
    pair = _planes(jnp.stack([a, b]))
    return jax.lax.platform_dependent(
        pair,
        cpu=lambda pair: jax.lax.map(metric, jnp.moveaxis(pair, 1, 0)),
        default=metric,
    )


def _planes(x: jax.Array) -> jax.Array:
    """Returns [..., h, w, c] as [..., c, h, w]: with three channels innermost, loops do not vectorise."""
    return jnp.moveaxis(x, -1, -3)


def _mixed(x: Float[Array, "*n 3 h w"], matrix: tuple[tuple[float, ...], ...]) -> Float[Array, "*n 3 h w"]:
    red, green, blue = x[..., 0, :, :], x[..., 1, :, :], x[..., 2, :, :]
    return jnp.stack([r * red + g * green + b * blue for r, g, b in matrix], axis=-3)


def _similarity(pair: Float[Array, "2 *n"], constant: float) -> Float[Array, "*n"]:
    a, b = pair
    return (2.0 * a * b + constant) / (a * a + b * b + constant)


def _shrink_factor(x: Float[Array, "*n h w"]) -> int:
    return max(1, round(min(x.shape[-2:]) / 256))  # Python's rounding of halves to even is part of it


def _mean_pooled(x: Float[Array, "*n h w"], factor: int) -> Float[Array, "*n h2 w2"]:
    """Returns means of factor x factor blocks; rows and columns that fill no block are dropped."""
    height, width = x.shape[-2] // factor, x.shape[-1] // factor
    x = x[..., : height * factor, : width * factor]
    return jnp.mean(x.reshape(*x.shape[:-2], height, factor, width, factor), axis=(-3, -1))


def _edge_padded(x: Float[Array, "*n h w"], factor: int) -> Float[Array, "*n h2 w2"]:
    if factor == 1:
        return x
    sides = (factor // 2, (factor - 1) // 2)
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [sides, sides], mode="edge")


def _gradient(x: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """Returns gradient magnitudes by Scharr's operator, the outside of the image being 0."""
    height, width = x.shape[-2:]
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)])
    rows = (3.0 * x[..., :height, :] + 10.0 * x[..., 1:-1, :] + 3.0 * x[..., 2:, :]) / 16.0
    columns = (3.0 * x[..., :width] + 10.0 * x[..., 1:-1] + 3.0 * x[..., 2:]) / 16.0
    across = rows[..., 2:] - rows[..., :width]
    down = columns[..., 2:, :] - columns[..., :height, :]
    return jnp.sqrt(across * across + down * down)


# MS-SSIM


def _check_ms_ssim(size: tuple[int, ...], window: int) -> None:
    if window < 1 or window % 2 == 0:
        raise ValueError(f"ms_ssim: want an odd window, got {window}")
    shortest = (window - 1) * 2 ** (len(_MS_SSIM_WEIGHTS) - 1) + 1
    if min(size) < shortest:
        raise ValueError(
            f"ms_ssim: want sides of at least {shortest} pixels for a window of {window}, "
            f"got {size[0]} x {size[1]}"
        )


def _halved(x: Float[Array, "b c h w"]) -> Float[Array, "b c h2 w2"]:
    if x.shape[2] % 2 or x.shape[3] % 2:  # an even side too gains a row, and its last one drops out
        x = jnp.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0)), mode="edge")
    return _mean_pooled(x, 2)


def _ssim_maps(
    a: Float[Array, "b c h w"], b: Float[Array, "b c h w"], window: int
) -> tuple[Float[Array, "b c h2 w2"], Float[Array, "b c h2 w2"]]:
    """Returns the luminance term and the contrast and structure term of SSIM."""
    moments = _window_means(jnp.stack([a, b, a * a + b * b, a * b]), window)
    mean_a, mean_b, mean_squares, mean_product = moments
    squares, product = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
    luminance = (2 * product + _MS_SSIM_C1) / (squares + _MS_SSIM_C1)
    structure = (2 * (mean_product - product) + _MS_SSIM_C2) / (mean_squares - squares + _MS_SSIM_C2)
    return luminance, structure


def _window_means(x: Float[Array, "*n h w"], window: int) -> Float[Array, "*n h2 w2"]:
    """Returns Gaussian means where the window lies inside, by shifted sums, which are fast on CPU."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / _MS_SSIM_SIGMA) ** 2)
    for axis in (x.ndim - 2, x.ndim - 1):
        size = x.shape[axis] - window + 1
        shifted = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(window)]
        weighted = [float(tap) * part for tap, part in zip(taps / taps.sum(), shifted, strict=True)]
        x = sum(weighted[1:], start=weighted[0])
    return x


# Saliency, for VSI


@functools.lru_cache(maxsize=1)
def _saliency_filters() -> tuple[np.ndarray, np.ndarray]:
    """Returns the band pass on the half plane of rfft2 and the prior for the centre of the image."""
    steps = np.arange(_SALIENCY_SIDE) - _SALIENCY_SIDE // 2
    frequency = np.fft.ifftshift(steps / _SALIENCY_SIDE)
    radius = np.hypot(frequency[:, None], frequency)
    band = np.exp(-0.5 * (np.log(np.where(radius > 0, radius, 1) / 0.021) / 1.34) ** 2)
    band *= (radius > 0) & (radius <= 0.5)
    from_centre = steps + 1.0
    centre = np.exp(-(from_centre[:, None] ** 2 + from_centre**2) / 145.0**2)
    return band[:, : _SALIENCY_SIDE // 2 + 1].astype(np.float32), centre.astype(np.float32)


def _resized(
    x: Float[Array, "*n h w"], size: tuple[int, ...], align_corners: bool
) -> Float[Array, "*n h2 w2"]:
    """Returns x in a new size (height, width) by linear interpolation, without antialiasing."""
    if x.shape[-2:] == size:
        return x
    columns = _linear_taps(x.shape[-1], size[1], align_corners)
    rows = _linear_taps(x.shape[-2], size[0], align_corners)
    # Rows are cheap to gather, but columns are not: they go through a matrix.
    matrix = np.zeros((x.shape[-1], size[1]), np.float32)
    for index, weight in columns:
        np.add.at(matrix, (index, np.arange(size[1])), weight)
    x = jnp.matmul(x, matrix, precision="highest")
    low, high = (x[..., index, :] * weight[:, None] for index, weight in rows)
    return low + high


def _linear_taps(size: int, new_size: int, align_corners: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (index, weight) of the lower and of the upper neighbour of each new pixel."""
    if align_corners:
        position = np.arange(new_size) * (size - 1) / max(new_size - 1, 1)
    else:
        position = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    low = np.floor(position).astype(np.int32)
    share = (position - low).astype(np.float32)
    return [(low, 1 - share), (np.minimum(low + 1, size - 1), share)]


def _saliency(x: Float[Array, "*n 3 h w"]) -> Float[Array, "*n h w"]:
    """Returns SDSP saliency in [0, 1] of RGB in [0, 1]: salient are edges, the centre and warm colours."""
    band, centre = _saliency_filters()
    lab = _lab(_resized(x, centre.shape, align_corners=False))
    edges = jnp.fft.irfft2(jnp.fft.rfft2(lab) * band, s=lab.shape[-2:])
    warmth = jnp.sum(_stretched(lab[..., 1:, :, :]) ** 2, axis=-3)
    saliency = jnp.sqrt(jnp.sum(edges * edges, axis=-3)) * centre * (1 - jnp.exp(-warmth / 0.001**2))
    return _stretched(_resized(saliency, x.shape[-2:], align_corners=True))


def _stretched(x: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    low, high = (f(x, axis=(-2, -1), keepdims=True) for f in (jnp.min, jnp.max))
    return (x - low) / (high - low + _EPSILON)


def _lab(rgb: Float[Array, "*n 3 h w"]) -> Float[Array, "*n 3 h w"]:
    """Returns CIE L*a*b* of sRGB, white point D50 without adaptation: VSI's convention."""
    # Barriers: XLA would else compute each power anew for every channel it goes into.
    linear = jnp.where(rgb <= 0.04045, rgb / 12.92, _power((rgb + 0.055) / 1.055, 2.4))
    xyz = _mixed(jax.lax.optimization_barrier(linear), _RGB_TO_XYZ)
    xyz /= np.asarray(_WHITE_D50, np.float32)[:, None, None]
    root = jnp.where(xyz <= 0.008856, (903.3 * xyz + 16.0) / 116.0, _power(xyz, 1 / 3))
    x, y, z = jnp.moveaxis(jax.lax.optimization_barrier(root), -3, 0)
    lab = jnp.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-3)
    return jax.lax.optimization_barrier(lab)


def _power(x: jax.Array, exponent: float) -> jax.Array:
    """Returns x ** exponent for x >= 0, without the special cases that make XLA's power slow on CPU."""
    return jnp.exp(exponent * jnp.log(x))
