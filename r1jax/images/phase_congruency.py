"""Phase congruency: how far edges and lines, at any contrast, stand out of an image; the map FSIM compares."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_EPSILON = float(np.finfo(np.float32).eps)
_TINY = 1e-12  # for images of a pixel, which the filters do not pass
_NUM_SCALES, _NUM_ORIENTATIONS = 4, 4
_MIN_WAVELENGTH = 6  # pixels; doubles from scale to scale
_NOISE_DEVIATIONS, _NOISE_RESCALE = 2.0, 1.7


class _LogGabor(NamedTuple):
    """Filters of one image size in frequency; the filter (o, s) is angular[o] * radial[s]."""

    radial: np.ndarray  # [s, h, w]
    angular: np.ndarray  # [o, h, w]: about one half plane, so that responses are complex, with a phase
    noise: np.ndarray  # [o]: threshold of the energy / median response at the finest scale


@functools.lru_cache(maxsize=16)
def _log_gabor_bank(height: int, width: int) -> _LogGabor:
    down, right = np.meshgrid(_frequencies(height), _frequencies(width), indexing="ij")
    radius, angle = np.hypot(down, right), np.arctan2(-right, down)
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1  # any positive number: the filters are 0 there
    wavelengths = _MIN_WAVELENGTH * 2.0 ** np.arange(_NUM_SCALES)[:, None, None]
    radial = low_pass * np.exp(-0.5 * (np.log(radius * wavelengths) / math.log(0.55)) ** 2)
    radial[:, 0, 0] = 0
    offset = angle - np.arange(_NUM_ORIENTATIONS)[:, None, None] * math.pi / _NUM_ORIENTATIONS
    offset = np.arctan2(np.sin(offset), np.cos(offset))
    angular = np.exp(-0.5 * (offset * _NUM_ORIENTATIONS * 1.2 / math.pi) ** 2)
    noise = _noise_factor(radial, angular)
    return _LogGabor(*(x.astype(np.float32) for x in (radial, angular, noise)))


def _frequencies(size: int) -> np.ndarray:
    """Returns the frequencies of an FFT, cycles a pixel; for odd sizes stretched to reach 0.5, as in FSIM."""
    steps = np.arange(size) - size // 2
    return np.fft.ifftshift(steps / max(size - size % 2, 1))


def _noise_factor(radial: np.ndarray, angular: np.ndarray) -> np.ndarray:
    """Returns the noise threshold of each orientation for a median magnitude of 1 at the finest scale.

    The energy of white noise is Rayleigh distributed, with a parameter that follows from the power of the
    finest responses (their median square / log 2) and, by Parseval, from the filters' spectra.
    """
    mirrored = np.roll(angular[:, ::-1, ::-1], (1, 1), axis=(1, 2))  # at the negative frequencies
    even = (angular + mirrored) / 2  # the spectrum of the real part
    finest = np.sum((angular * radial[0]) ** 2, axis=(1, 2))
    power = 1 / (math.log(2) * np.maximum(finest, _TINY))
    rayleigh = np.sqrt(power * np.sum((even * radial.sum(axis=0)) ** 2, axis=(1, 2)))
    deviations = math.sqrt(math.pi / 2) + _NOISE_DEVIATIONS * math.sqrt(2 - math.pi / 2)
    return rayleigh * deviations / _NOISE_RESCALE


def phase_congruency(x: Float[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """Returns phase congruency, in [0, 1], of luma in [0, 255]: where features of all scales are in phase.

    Kovesi, "Image features from phase congruency", Videre 1(3), 1999: log-Gabor filters of four scales and four
    orientations, less the energy that noise would have; the parameters are FSIM's.
    """
    bank = _log_gabor_bank(*x.shape[-2:])
    bands = jnp.fft.fft2(x)[..., None, None, :, :] * bank.radial
    responses = jnp.fft.ifft2(bands * bank.angular[:, None])  # [*n, orientation, scale, h, w]
    even, odd = responses.real, responses.imag
    magnitude = jnp.sqrt(even * even + odd * odd)
    sum_even, sum_odd = jnp.sum(even, axis=-3, keepdims=True), jnp.sum(odd, axis=-3, keepdims=True)
    squares = sum_even * sum_even + sum_odd * sum_odd
    deviation = jnp.sum(jnp.abs(even * sum_odd - odd * sum_even), axis=-3, keepdims=True)
    energy = (squares - deviation) / (jnp.sqrt(squares) + _EPSILON)
    noise = spatial_median(magnitude[..., 0, :, :]) * bank.noise
    energy = jnp.maximum(energy[..., 0, :, :] - noise[..., None, None], 0.0)
    total = jnp.sum(magnitude, axis=(-4, -3)) + _EPSILON
    return (jnp.sum(energy, axis=-3) + _EPSILON) / total


def spatial_median(x: Float[Array, "*n h w"]) -> Float[Array, "*n"]:
    """Returns the lower median of each plane of numbers >= 0.

    Found bit by bit, which XLA does much faster on CPU than sorting: floats >= 0 are in the order of their
    bit patterns.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    rank = (x.shape[-2] * x.shape[-1] - 1) // 2

    def with_next_bit(i: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | (1 << (30 - i))
        below = jnp.sum((bits < candidate[..., None, None]).astype(jnp.int32), axis=(-2, -1))
        return jnp.where(below <= rank, candidate, found)

    found = jax.lax.fori_loop(0, 31, with_next_bit, jnp.zeros(x.shape[:-2], jnp.int32))
    return jax.lax.bitcast_convert_type(found, jnp.float32)
