"""Any image size with few compiled programs: padding to size buckets, and overlapping tiles for large images.

Padding is at the bottom and the right, so that an image keeps its coordinates. Arrays may be NumPy or JAX;
the result is of the same kind.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

ArrayT = TypeVar("ArrayT")

_STEP = 64
# JPEG's blocks are 8 pixels wide, those of an enlarged small image a divisor of 8. Networks that learned from whole
# images know such blocks where they begin at a multiple of their width, and mend them badly elsewhere.
GRID = 8


def bucket(height: int, width: int) -> tuple[int, int]:
    """Returns the (height, width) to pad an image to: multiples of 64, the same for many image sizes.

    Sides step by 64 up to 512 and by a quarter of an octave beyond (640, 768, 896, 1024, 1280, ...): 8 sides
    to 512, 16 to 2048, and from 257 pixels on a side never grows by more than a quarter.
    """
    return _bucket_side(height), _bucket_side(width)


def _bucket_side(side: int) -> int:
    if side < 1:
        raise ValueError(f"an image side is at least 1 pixel, got {side}")
    step = max(_STEP, 2 ** ((side - 1).bit_length() - 3))
    return -(-side // step) * step


def pad_to(x: ArrayT, height: int, width: int) -> ArrayT:
    """Reflects an image about its last row and column until it has the given size.

    Args:
      x: [..., h, w, c] with h <= height and w <= width; 1 pixel is enough, and is repeated.

    Returns:
      [..., height, width, c]; `crop_to` takes it back.

    Raises:
      ValueError: the image is larger than the given size.
    """
    h, w = x.shape[-3:-1]  # type: ignore[attr-defined]
    if h > height or w > width:
        raise ValueError(f"cannot pad {h} x {w} to {height} x {width}")
    if (h, w) == (height, width):
        return x
    rows, columns = _reflected(h, height), _reflected(w, width)
    return x[..., rows[:, None], columns[None, :], :]  # type: ignore[index]


def crop_to(x: ArrayT, height: int, width: int) -> ArrayT:
    """Returns the top left [..., height, width, c] of x [..., h, w, c].

    Raises:
      ValueError: the image is smaller than that.
    """
    h, w = x.shape[-3:-1]  # type: ignore[attr-defined]
    if h < height or w < width:
        raise ValueError(f"cannot crop {h} x {w} to {height} x {width}")
    return x[..., :height, :width, :]  # type: ignore[index]


def _reflected(size: int, padded: int) -> Int[np.ndarray, " padded"]:
    """Returns the source index of each padded position: 0 1 2 3 2 1 0 1 ... for size 4."""
    period = max(2 * (size - 1), 1)
    index = np.arange(padded) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros(padded, int)


def restore_tiled(
    fn: Callable[[Float[np.ndarray, "1 t t 3"]], Float[np.ndarray, "1 t t 3"]],
    image: Float[np.ndarray, "h w 3"],
    tile: int = 512,
    overlap: int = 64,
    grid: int = GRID,
) -> Float[np.ndarray, "h w 3"]:
    """Applies `fn` to overlapping square tiles and blends the results.

    Tiles are spread evenly over the grid, overlap by at least `overlap` pixels, and fade there by a raised cosine: a tile
    counts least at its border, where `fn` has seen the least around a pixel. The weights sum to 1, so an `fn`
    that changes nothing gives the image back. One tile at a time is processed; beside it only the image and
    the result are held (for 12 megapixels, 150 MB each).

    Args:
      fn: called with [1, tile, tile, 3]; returns the same shape, a NumPy or JAX array.
      image: float32. A side shorter than a tile is padded by reflection.
      tile: side of a tile, pixels.
      overlap: least overlap of neighbours, pixels; less than `tile`.
      grid: tiles begin at multiples of it; it divides `tile` and `overlap`.

    Raises:
      ValueError: `overlap` is not in [0, tile), `grid` does not divide, or `fn` changes the shape.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap: want 0 <= overlap < tile = {tile}, got {overlap}")
    if tile % grid or overlap % grid:
        raise ValueError(f"grid: want a divisor of tile = {tile} and overlap = {overlap}, got {grid}")
    height, width = image.shape[:2]
    padded = pad_to(image, *(max(-(-side // grid) * grid, tile) for side in (height, width)))
    result = np.zeros(padded.shape, np.float32)
    columns = _weighted_tiles(padded.shape[1], tile, overlap, grid)
    for top, weight_y in _weighted_tiles(padded.shape[0], tile, overlap, grid):
        for left, weight_x in columns:
            window = np.s_[top : top + tile, left : left + tile]
            restored = np.asarray(fn(padded[window][None]), np.float32)
            if restored.shape != (1, tile, tile, 3):
                raise ValueError(f"fn: want [1, {tile}, {tile}, 3], got {list(restored.shape)}")
            result[window] += restored[0] * (weight_y[:, None, None] * weight_x[:, None]).astype(np.float32)
    return np.ascontiguousarray(crop_to(result, height, width))


def _weighted_tiles(size: int, tile: int, overlap: int, grid: int) -> list[tuple[int, Float[np.ndarray, " tile"]]]:
    """Returns (start, weights) of the tiles along one axis; at every position the weights sum to 1.

    All four are multiples of `grid`, so that starts rounded down to it are never more than `tile - overlap` apart.
    """
    count = max(1, math.ceil((size - overlap) / (tile - overlap)))
    starts = [i * (size - tile) // max(count - 1, 1) // grid * grid for i in range(count)]
    windows = [_window(tile, overlap, start > 0, start + tile < size) for start in starts]
    total = np.zeros(size)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + tile] += window
    return [(s, window / total[s : s + tile]) for s, window in zip(starts, windows, strict=True)]


def _window(tile: int, overlap: int, fade_in: bool, fade_out: bool) -> Float[np.ndarray, " tile"]:
    """Returns ones, with a raised cosine over `overlap` pixels at the ends that have a neighbour."""
    ramp = np.sin(0.5 * np.pi * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
    window = np.ones(tile)
    if fade_in:
        window[:overlap] *= ramp
    if fade_out:
        window[tile - overlap :] *= ramp[::-1]
    return window
