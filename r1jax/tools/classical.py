"""Classical brightening tools: a constant shift, a gamma curve and CLAHE, each on V of HSV. No weights.

Images are float32 NHWC in [0, 1]. V is the largest channel. Replacing V at constant hue and saturation
multiplies the three channels by V' / V, so no round trip through HSV is needed; a black pixel, whose hue is
undefined, becomes grey of value V', as in OpenCV.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1jax.tools.toolbox import register_tool, register_toolbox

SHIFT = 40.0 / 255.0
GAMMA = 1.0 / 1.5
CLAHE_CLIP = 2.0
CLAHE_GRID = 8
_LEVELS = 256


@register_tool("brighten_shift", task="brighten")
def brighten_shift(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Adds 40 (of 255) to V, clipped at 1."""
    value = _value(x)
    return _replace_value(x, value, jnp.minimum(value + SHIFT, 1.0))


@register_tool("brighten_gamma", task="brighten")
def brighten_gamma(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Raises V to the power 1 / 1.5."""
    value = _value(x)
    return _replace_value(x, value, jnp.maximum(value, 0.0) ** GAMMA)


@register_tool("clahe", task="brighten", whole_image=True)
def clahe(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Contrast-limited adaptive histogram equalisation of V: clip 2, 8 x 8 tiles.

    Follows OpenCV's `createCLAHE(2.0, (8, 8))` on 8-bit V, for any size (Zuiderveld, "Contrast limited
    adaptive histogram equalization", Graphics Gems IV, 1994).
    """
    value = _value(x)
    levels = jnp.clip(jnp.round(value * 255.0), 0, 255).astype(jnp.int32)
    return _replace_value(x, value, equalise(levels).astype(x.dtype) / 255.0)


def equalise(levels: Int[Array, "b h w"]) -> Int[Array, "b h w"]:
    """CLAHE of images of 8-bit levels (0..255), clip 2 on 8 x 8 tiles."""
    tiles, tile_height, tile_width = _cut_tiles(levels)
    tables = _tables(tiles)
    top, bottom, row_weight = _neighbours(levels.shape[1], tile_height)
    left, right, column_weight = _neighbours(levels.shape[2], tile_width)

    def look_up(rows: Array, columns: Array) -> Array:
        image = jnp.arange(levels.shape[0])[:, None, None]
        return tables[image, rows[:, None], columns[None, :], levels]

    row_weight, column_weight = row_weight[:, None], column_weight[None, :]
    upper = look_up(top, left) * (1 - column_weight) + look_up(top, right) * column_weight
    lower = look_up(bottom, left) * (1 - column_weight) + look_up(bottom, right) * column_weight
    return jnp.round(upper * (1 - row_weight) + lower * row_weight).astype(jnp.int32)


def _value(x: Array) -> Array:
    return jnp.max(x, axis=-1)


def _replace_value(x: Array, value: Array, new: Array) -> Array:
    """Sets V to `new` at constant hue and saturation."""
    black = value <= 0
    ratio = new / jnp.where(black, 1.0, value)
    return jnp.where(black[..., None], new[..., None], x * ratio[..., None])


def _cut_tiles(levels: Array) -> tuple[Array, int, int]:
    """Returns the pixels of each tile [b, 8, 8, n], and the height and width of a tile.

    As OpenCV does, an image that the grid does not divide is extended on both axes, by mirroring, by 8 minus
    the remainder: an axis that was divisible grows by 8 then.
    """
    batch, height, width = levels.shape
    if height % CLAHE_GRID or width % CLAHE_GRID:
        growth = [CLAHE_GRID - size % CLAHE_GRID for size in (height, width)]
        levels = jnp.pad(levels, ((0, 0), (0, growth[0]), (0, growth[1])), mode="reflect")
    tile_height, tile_width = (size // CLAHE_GRID for size in levels.shape[1:])
    tiles = levels.reshape(batch, CLAHE_GRID, tile_height, CLAHE_GRID, tile_width).swapaxes(2, 3)
    return tiles.reshape(batch, CLAHE_GRID, CLAHE_GRID, -1), tile_height, tile_width


def _tables(tiles: Int[Array, "b 8 8 n"]) -> Float[Array, "b 8 8 256"]:
    """Each tile's map from a level to its equalised level."""
    num_pixels = tiles.shape[-1]
    flat = tiles.reshape(-1, num_pixels)
    tile = jnp.arange(flat.shape[0])[:, None]
    counts = jnp.zeros((flat.shape[0], _LEVELS), jnp.int32).at[tile, flat].add(1)
    counts = _clip_counts(counts, max(int(CLAHE_CLIP * num_pixels / _LEVELS), 1))
    scale = jnp.float32((_LEVELS - 1) / num_pixels)
    table = jnp.clip(jnp.round(jnp.cumsum(counts, axis=-1).astype(jnp.float32) * scale), 0, _LEVELS - 1)
    return table.reshape(*tiles.shape[:-1], _LEVELS)


def _clip_counts(counts: Int[Array, "t 256"], limit: int) -> Int[Array, "t 256"]:
    """Cuts counts at `limit`, spreads the excess evenly, and the rest of it over equally spaced levels."""
    excess = jnp.sum(jnp.maximum(counts - limit, 0), axis=-1, keepdims=True)
    rest = excess % _LEVELS
    spacing = jnp.maximum(_LEVELS // jnp.maximum(rest, 1), 1)
    level = jnp.arange(_LEVELS)
    extra = (level % spacing == 0) & (level // spacing < rest)
    return jnp.minimum(counts, limit) + excess // _LEVELS + extra


def _neighbours(size: int, tile: int) -> tuple[Array, Array, Array]:
    """For each pixel of an axis: the tiles before and after it, and the weight of the one after."""
    position = jnp.arange(size, dtype=jnp.float32) * jnp.float32(1 / tile) - 0.5
    before = jnp.floor(position)
    last = CLAHE_GRID - 1
    after = jnp.clip(before + 1, 0, last).astype(jnp.int32)
    return jnp.clip(before, 0, last).astype(jnp.int32), after, position - before


register_toolbox("classical", ("brighten_shift", "brighten_gamma", "clahe"))
