"""Attention within square windows: what SwinIR, HAT, SCUNet, X-Restormer and DehazeFormer share. Images are NHWC.

Queries, keys and values are projected as images and cut into windows and heads by one transpose each. Indices and
masks follow from sizes alone: they are NumPy constants of the trace, never parameters.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from r1jax.nets.layers import gelu

Bias = Float[Array, "heads n m"] | Callable[[Float[Array, "b w heads n d"]], Float[Array, "b w heads n m"]]


def window_attention(
    q: Float[Array, "b h w c"],
    k: Float[Array, "b h w c"],
    v: Float[Array, "b h w c"],
    num_heads: int,
    window: int,
    bias: Bias,
    *,
    overlap: int = 0,
    shift: int = 0,
    scale: float | None = None,
) -> Float[Array, "b h w c"]:
    """Lets every pixel attend to the pixels of its window.

    Args:
      q, k, v: channels are (head, feature); both sides divide by `window`.
      bias: added to the logits, or a function of the scaled queries that gives what is added.
      overlap: by how many pixels a window of keys is larger than one of queries; beyond the image there are zeros.
      shift: by how much the image was rolled: pixels that were no neighbours before do not see each other.
      scale: of the queries; 1 / sqrt(features) by default.
    """
    height, width, channels = q.shape[1:]
    q = split_windows(q, window, num_heads) * (scale or (channels // num_heads) ** -0.5)
    k, v = (split_windows(x, window, num_heads, overlap) for x in (k, v))
    logits = jnp.einsum("bwhnd,bwhmd->bwhnm", q, k) + (bias(q) if callable(bias) else bias)
    if shift:
        # Behind a barrier, or XLA would fold the comparison into a constant of [windows, n, m].
        region = jax.lax.optimization_barrier(shift_regions(height, width, window, shift))
        # Official code adds -100 instead, which in float32 comes to the same.
        logits = jnp.where(region[:, None, :, None] == region[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
    attended = jnp.einsum("bwhnm,bwhmd->bwhnd", jax.nn.softmax(logits, -1), v)
    nh = height // window
    return rearrange(attended, "b (nh nw) h (wh ww) d -> b (nh wh) (nw ww) (h d)", nh=nh, wh=window)


def split_windows(
    x: Float[Array, "b h w c"], window: int, num_heads: int, overlap: int = 0
) -> Float[Array, "b w heads n d"]:
    """Cuts an image into windows, row by row, and channels into heads; with an overlap, windows reach out on all sides."""
    if not overlap:
        pattern = "b (nh wh) (nw ww) (h d) -> b (nh nw) h (wh ww) d"
        return rearrange(x, pattern, wh=window, ww=window, h=num_heads)
    around = (overlap // 2, window - overlap // 2)
    blocks = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    blocks = rearrange(blocks, "b (nh wh) (nw ww) c -> b nh wh nw ww c", wh=window, ww=window)
    blocks = jnp.concatenate([blocks[:, :-1], blocks[:, 1:, :overlap]], 2)
    blocks = jnp.concatenate([blocks[:, :, :, :-1], blocks[:, :, :, 1:, :overlap]], 4)
    return rearrange(blocks, "b nh wh nw ww (h d) -> b (nh nw) h (wh ww) d", h=num_heads)


def shift_regions(height: int, width: int, window: int, shift: int) -> Int[np.ndarray, "w n"]:
    """Returns, for an image rolled by `shift`, which part of the original plane each pixel of each window is from."""

    def parts(size: int) -> np.ndarray:
        position = np.arange(size)
        return (position >= size - window).astype(np.int32) + (position >= size - shift)

    plane = 3 * parts(height)[:, None] + parts(width)
    return rearrange(plane, "(nh wh) (nw ww) -> (nh nw) (wh ww)", wh=window, ww=window)


def buffers(
    net: nnx.Module, name: str, value: np.ndarray, owns: Callable[[nnx.Module], bool]
) -> dict[str, np.ndarray]:
    """Returns `value` under the official name that the buffer `name` has in every module of `net` that owns one."""
    owners = [path for path, module in nnx.iter_modules(net) if owns(module)]
    return {".".join(map(str, (*path, name))): value for path in owners}


def relative_offsets(window: int, key_window: int | None = None) -> Int[np.ndarray, "n m 2"]:
    """Returns (row, column) of each key less that of each query, both counted from the first pixel of their own window."""
    query, key = _positions(window), _positions(key_window or window)
    return key[None] - query[:, None]


def relative_index(window: int, key_window: int | None = None) -> Int[np.ndarray, "n m"]:
    """Returns the row of a relative position table for each pair of a query and a key.

    Between windows of one size the table runs over query less key, as in Swin (arXiv 2103.14030); against larger windows
    over key less query, as in HAT (arXiv 2205.04437), whose negative indices count from the table's end.
    """
    if key_window in (None, window):
        offsets, first, span = -relative_offsets(window), window - 1, 2 * window - 1
    else:
        offsets, first, span = relative_offsets(window, key_window), window - key_window + 1, window + key_window - 1
    rows, columns = np.moveaxis(offsets + first, -1, 0)
    return span * rows + columns


def _positions(window: int) -> Int[np.ndarray, "n 2"]:
    return np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1).reshape(-1, 2)


class WindowAttention(nnx.Module):
    """Swin's attention with a table of relative positions, on the image shifted by `shift` pixels."""

    def __init__(
        self, dim: int, window: int, num_heads: int, qkv_bias: bool = True, scale: float | None = None, *, rngs: nnx.Rngs
    ):
        init = nnx.initializers.truncated_normal(0.02)
        self.relative_position_bias_table = nnx.Param(init(rngs.params(), ((2 * window - 1) ** 2, num_heads)))
        self.qkv = nnx.Linear(dim, 3 * dim, use_bias=qkv_bias, rngs=rngs)
        self.proj = nnx.Linear(dim, dim, rngs=rngs)
        self.window, self.num_heads, self.scale = window, num_heads, scale

    def __call__(self, x: Float[Array, "b h w c"], shift: int) -> Float[Array, "b h w c"]:
        bias = self.relative_position_bias_table.get_value().T[:, relative_index(self.window)]
        q, k, v = jnp.split(self.qkv(roll_back(x, shift)), 3, -1)
        x = window_attention(q, k, v, self.num_heads, self.window, bias, shift=shift, scale=self.scale)
        return roll_back(self.proj(x), -shift)


def roll_back(x: Float[Array, "b h w c"], shift: int) -> Float[Array, "b h w c"]:
    """Rolls both axes of an image, so that pixel (shift, shift) comes first."""
    return jnp.roll(x, (-shift, -shift), (1, 2)) if shift else x


class Mlp(nnx.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, *, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(dim, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        return self.fc2(gelu(self.fc1(x)))
