"""Statistics of an image in which its degradations show, for a no-reference quality network.

What natural-scene-statistics metrics (BRISQUE, DIIVINE) collect, chosen for eight degradations: energies and sparseness of
8x8 DCT coefficients (JPEG, noise, lost detail), increments over many offsets and correlations of the Laplacian (direction
and length of a blur, streaks), and how tone and contrast are spread over brightness and over rows (darkness; haze, which
grows with depth). All are means and quantiles: any size gives as many.

Sums of pixels are sums of integers, exact in any order, so that sorting by them does not depend on the program.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Float

_LAGS = (1, 2, 3, 4, 6, 8, 11, 15)
_DIRECTIONS = 8
_QUANTILES = 12
_BANDS = 6
NUM_STATISTICS = 948
_SMALLEST = 64  # images are enlarged to this side by repeating their edge


def scene_statistics(x: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
    """Returns the statistics of 8-bit images in [0, 1]; rows and columns beyond a multiple of 8 are left out."""
    pad = [max(0, _SMALLEST - side) for side in x.shape[1:3]]
    if any(pad):
        x = jnp.pad(x, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
    pixels = jnp.round(255 * x[:, : x.shape[1] // 8 * 8, : x.shape[2] // 8 * 8])
    luma = pixels @ jnp.array([0.299, 0.587, 0.114])
    chroma = [pixels @ jnp.array(row) for row in ([-0.169, -0.331, 0.5], [0.5, -0.419, -0.081])]
    bright, dark = pixels.max(-1), pixels.min(-1)
    brightest = reduce(bright, "b (h i) (w j) -> b h w", "max", i=8, j=8)
    darkest = reduce(dark, "b (h i) (w j) -> b h w", "min", i=8, j=8)
    scales = [luma]
    while len(scales) < 4:
        scales.append(_halved(scales[-1]))
    # Each of them once, not again for every statistic.
    pixels, scales, chroma, bright, dark = jax.lax.optimization_barrier((pixels, scales, chroma, bright, dark))
    luma = scales[0]
    groups = [
        _dct_statistics(luma, 8, (0.6, 2.5, 10.0)),
        *(_dct_statistics(plane, 4, (0.6, 5.0)) for plane in chroma),
        *(_dct_statistics(plane, 8, ()) for plane in scales[1:3]),
        *(_gradient_statistics(plane) for plane in scales),
        _phases(luma),
        _offsets(luma),
        _tones(pixels, bright, dark, brightest, darkest),
        _rows(luma, bright, dark, brightest, darkest),
    ]
    return jnp.concatenate(groups, -1)


def _halved(plane: Float[Array, "b h w"]) -> Float[Array, "b i j"]:
    plane = plane[:, : plane.shape[1] // 2 * 2, : plane.shape[2] // 2 * 2]
    return reduce(plane, "b (h 2) (w 2) -> b h w", "mean")


def _log(x: Array, floor: float) -> Array:
    return jnp.log(x + floor)


@functools.cache
def _dct_matrix() -> np.ndarray:
    """The orthonormal DCT-II of eight samples, frequency by sample."""
    k, n = np.mgrid[:8, :8]
    matrix = np.cos(np.pi * k * (2 * n + 1) / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    return matrix.astype(np.float32)


def _dct_statistics(plane: Float[Array, "b h w"], kept: int, thresholds: tuple[float, ...]) -> Float[Array, "b f"]:
    """Of each of the lowest kept x kept coefficients: log energy; with thresholds log mean size and shares above, softly."""
    matrix = jnp.array(_dct_matrix()[:kept])
    plane = plane[:, : plane.shape[1] // 8 * 8, : plane.shape[2] // 8 * 8]
    blocks = rearrange(plane, "b (h i) (w j) -> b (h w) i j", i=8, j=8)
    squares = rearrange((matrix @ blocks @ matrix.T) ** 2, "b n i j -> b n (i j)")
    found = [_log(squares.mean(1), 0.05)]
    if thresholds:
        found.append(_log(jnp.sqrt(squares).mean(1), 0.1))
    found += [(squares / (squares + t * t)).mean(1) for t in thresholds]
    return jnp.concatenate(found, -1)


def _gradient_statistics(plane: Float[Array, "b h w"]) -> Float[Array, "b f"]:
    """Of differences of neighbours along x and y: the logarithm of their mean size, and shares above sizes, softly."""
    found = []
    for axis in (1, 2):
        squares = jnp.diff(plane, axis=axis) ** 2
        found.append(_log(jnp.sqrt(squares).mean((1, 2)), 0.1))
        found += [(squares / (squares + t * t)).mean((1, 2)) for t in (1.0, 2.5, 6.0, 15.0, 40.0)]
    return jnp.stack(found, -1)


def _phases(plane: Float[Array, "b h w"]) -> Float[Array, "b 16"]:
    """Log mean step between neighbours at each of eight phases: a grid of blocks sticks out."""
    rows = jnp.abs(jnp.diff(plane, axis=1, append=plane[:, -1:])).mean(2)
    columns = jnp.abs(jnp.diff(plane, axis=2, append=plane[:, :, -1:])).mean(1)
    phases = [reduce(line, "b (n p) -> b p", "mean", p=8) for line in (rows, columns)]
    return _log(jnp.concatenate(phases, -1), 0.1)


@functools.cache
def _offset_grid() -> np.ndarray:
    """The offsets (dy >= 0, dx) of each lag in eight directions of a half circle, [lag, direction, 2]."""
    angles = np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    return np.array([[(round(lag * math.sin(a)), round(lag * math.cos(a))) for a in angles] for lag in _LAGS])


def _offsets(plane: Float[Array, "b h w"]) -> Float[Array, "b f"]:
    """Increments of the image and correlations of its Laplacian over a polar grid of offsets.

    The Laplacian whitens a natural image, so what correlates it is the degradation. Each lag's largest, smallest and
    spread over the directions come besides.
    """
    inner = plane[:, 1:-1, 1:-1]
    laplacian = 4 * inner - plane[:, :-2, 1:-1] - plane[:, 2:, 1:-1] - plane[:, 1:-1, :-2] - plane[:, 1:-1, 2:]
    power = (laplacian**2).mean((1, 2)) + 0.5
    increments = _log(_means_over_offsets(lambda a, b: (a - b) ** 2, plane), 0.1)
    correlations = _means_over_offsets(lambda a, b: a * b, laplacian) / power[:, None, None]
    found = []
    for values in (increments, correlations):
        summary = [values.max(-1), values.min(-1), jnp.sqrt(values.var(-1) + 1e-6)]
        found += [rearrange(values, "b l d -> b (l d)"), *summary]
    return jnp.concatenate(found, -1)


def _means_over_offsets(
    function: Callable[[Array, Array], Array], plane: Float[Array, "b h w"]
) -> Float[Array, "b l d"]:
    """Returns the mean of a function of two pixels at each offset of the grid, where both exist.

    One offset after another: all at once they hold 64 planes, and compile for seconds. The sums are products with the
    pixels' weights, as XLA's sums on CPUs add one number after another.
    """
    height, width = plane.shape[1:]
    reach, grid = max(_LAGS), _offset_grid()
    dy, dx = grid.reshape(-1, 2).T
    rows = (np.arange(height) < height - dy[:, None]) / (height - dy[:, None])
    column = np.arange(width) + dx[:, None]
    columns = ((column >= 0) & (column < width)) / (width - np.abs(dx[:, None]))
    padded = jnp.pad(plane, ((0, 0), (0, reach), (reach, reach)))

    def mean(offset: tuple[Array, Array, Array, Array]) -> Float[Array, " b"]:
        dy, dx, row_weights, column_weights = offset
        shifted = jax.lax.dynamic_slice(padded, (0, dy, reach + dx), plane.shape)
        return function(plane, shifted) @ column_weights @ row_weights

    means = jax.lax.map(mean, (dy, dx, rows.astype(np.float32), columns.astype(np.float32)))
    return rearrange(means, "(l d) b -> b l d", l=len(_LAGS))


def _tones(
    pixels: Float[Array, "b h w 3"],
    bright: Float[Array, "b h w"],
    dark: Float[Array, "b h w"],
    brightest: Float[Array, "b i j"],
    darkest: Float[Array, "b i j"],
) -> Float[Array, "b f"]:
    """Quantiles of the brightest and darkest channel and of their extremes in blocks, contrast and colour by brightness."""
    block = "b (h i) (w j) -> b (h w)"
    sums = reduce(pixels.sum(-1), block, "sum", i=8, j=8)
    squares = reduce(pixels.sum(-1) ** 2, block, "sum", i=8, j=8)
    spread = _log(jnp.sqrt(jnp.maximum(squares / 64 - (sums / 64) ** 2, 0)) / 3, 0.3)
    colour = reduce(bright - dark, block, "mean", i=8, j=8) / 64
    order = jnp.argsort(sums, -1)
    sorted_columns = [jnp.take_along_axis(a, order, -1) for a in (sums / 12288, spread, colour)]
    means = [_band_means(a) for a in sorted_columns]
    planes = (bright[:, ::4, ::4], dark[:, ::4, ::4], darkest, brightest)
    quantiles = [_quantiles(plane.reshape(len(pixels), -1)) / 64 for plane in planes]
    channels = pixels.reshape(len(pixels), -1, 3)
    moments = [channels.mean(1) / 64, jnp.sqrt(channels.var(1) + 0.01) / 64]
    return jnp.concatenate([*quantiles, _quantiles(spread), *means, *moments], -1)


def _quantiles(values: Float[Array, "b n"]) -> Float[Array, "b q"]:
    picks = np.linspace(0, values.shape[1] - 1, _QUANTILES).astype(int)
    return jnp.sort(values, -1)[:, picks]


def _band_means(values: Float[Array, "b n"]) -> Float[Array, "b k"]:
    """Means over `_BANDS` equal parts of the row; columns on a border count in proportion."""
    num = values.shape[1]
    edges = np.linspace(0, num, _BANDS + 1)[:, None]
    inside = np.clip(np.minimum(edges[1:], np.arange(num) + 1) - np.maximum(edges[:-1], np.arange(num)), 0, 1)
    return values @ jnp.array((inside * _BANDS / num).T.astype(np.float32))


def _rows(
    luma: Float[Array, "b h w"],
    bright: Float[Array, "b h w"],
    dark: Float[Array, "b h w"],
    brightest: Float[Array, "b i j"],
    darkest: Float[Array, "b i j"],
) -> Float[Array, "b f"]:
    """Tone, colour and contrast of bands from top to bottom: haze grows with depth, and depth upwards.

    The darkest pixel of a band is about A (1 - t) of haze I = J t + A (1 - t), and what the haze has changed is
    ((1 - t) / t)^2 (A - I)^2.
    """
    step = jnp.abs(jnp.diff(luma, axis=2)).mean(2)
    squares = jnp.sqrt(_band_means((luma**2).mean(2))) / 64
    lines = [bright.mean(2) / 64, dark.mean(2) / 64, (bright - dark).mean(2) / 64]
    lines += [darkest.mean(2) / 64, darkest.min(2) / 64, brightest.mean(2) / 64]
    return jnp.concatenate([*(_band_means(line) for line in lines), _log(_band_means(step), 0.1), squares], -1)
