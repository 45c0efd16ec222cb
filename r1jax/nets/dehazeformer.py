"""DehazeFormer (Song et al., arXiv 2204.03883) with the official names.

Images are in [-1, 1] here, not in [0, 1], as in the official code: feed 2x - 1, and clip and halve what comes out. The
normalisation takes its statistics over the whole image, so tiles differ from the whole.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.dehazing_unet import DehazingUNet, ReflectConv
from r1jax.nets.depthwise import DepthwiseConv
from r1jax.nets.layers import Blocks, conv
from r1jax.nets.registry import register_net
from r1jax.nets.windows import buffers, relative_offsets, window_attention


@register_net("dehazeformer")
class DehazeFormer(DehazingUNet):
    """Removes haze from [b, h, w, 3] in [-1, 1].

    Args:
      embed_dims, mlp_ratios, depths, num_heads: of the five stages.
      attn_ratio: the share of a stage's blocks, counted from its end, that attend.
      conv_type: "DWConv" or "Conv" a stage.
    """

    def __init__(
        self,
        in_chans: int = 3,
        out_chans: int = 4,
        window_size: int = 8,
        embed_dims: Sequence[int] = (24, 48, 96, 48, 24),
        mlp_ratios: Sequence[float] = (2.0, 4.0, 4.0, 2.0, 2.0),
        depths: Sequence[int] = (16, 16, 16, 8, 8),
        num_heads: Sequence[int] = (2, 4, 6, 1, 1),
        attn_ratio: Sequence[float] = (1 / 4, 1 / 2, 3 / 4, 0, 0),
        conv_type: Sequence[str] = ("DWConv",) * 5,
        *,
        rngs: nnx.Rngs,
    ):
        self.window_size = window_size
        self.widths, self.mlp_ratios, self.depths = tuple(embed_dims), tuple(mlp_ratios), tuple(depths)
        self.num_heads, self.attn_ratio, self.conv_type = tuple(num_heads), tuple(attn_ratio), tuple(conv_type)
        super().__init__(in_chans, out_chans, embed_dims, 2, rngs=rngs)

    def derived_buffers(self) -> dict[str, np.ndarray]:
        """What official checkpoints hold although it follows from the configuration, by official names."""
        offsets = _log_offsets(self.window_size)
        return buffers(self, "relative_positions", offsets, lambda module: isinstance(module, _RelativePositions))

    def stage(self, index: int, rngs: nnx.Rngs) -> nnx.Module:
        depth, dim = self.depths[index], self.widths[index]
        first = depth - self.attn_ratio[index] * depth

        def block(i: int) -> _Block:
            shift = self.window_size // 2 if i % 2 else 0
            attention = _Attention(
                dim, self.num_heads[index], self.window_size, shift, i >= first, self.conv_type[index], rngs
            )
            return _Block(dim, attention, int(dim * self.mlp_ratios[index]), rngs)

        return Blocks([block(i) for i in range(depth)])


class _Block(nnx.Module):
    def __init__(self, dim: int, attention: "_Attention", hidden: int, rngs: nnx.Rngs):
        if attention.attends:
            self.norm1 = _RescaledLayerNorm(dim, rngs)
        self.attn = attention
        self.mlp = _Mlp(dim, hidden, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.attn.attends:
            normed, rescale, rebias = self.norm1(x)
            x = x + self.attn(normed) * rescale + rebias
        else:
            x = x + self.attn(x)
        return x + self.mlp(x)


class _RescaledLayerNorm(nnx.Module):
    """Normalises an image as a whole and returns what its brightness and contrast give back after the attention."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.weight = nnx.Param(jnp.ones((1, 1, 1, dim)))
        self.bias = nnx.Param(jnp.zeros((1, 1, 1, dim)))
        self.meta1, self.meta2 = conv(1, dim, 1, rngs), conv(1, dim, 1, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], ...]:
        wide = x.astype(jnp.float32)
        mean = wide.mean((1, 2, 3), keepdims=True)
        std = jnp.sqrt(((wide - mean) ** 2).mean((1, 2, 3), keepdims=True) + 1e-5)
        mean, std = mean.astype(x.dtype), std.astype(x.dtype)
        normed = (x - mean) / std * self.weight + self.bias
        return normed, self.meta1(std), self.meta2(mean)


class _Attention(nnx.Module):
    """A convolution of the values, and in the attending blocks window attention added to it."""

    def __init__(self, dim: int, num_heads: int, window: int, shift: int, attends: bool, conv_type: str, rngs: nnx.Rngs):
        self.attends, self.window, self.shift, self.num_heads = attends, window, shift, num_heads
        if conv_type not in ("Conv", "DWConv"):
            raise UsageError(f"conv_type: want 'Conv' or 'DWConv', got {conv_type!r}")
        self.projects = attends or conv_type == "DWConv"
        if conv_type == "DWConv":
            self.conv: Any = DepthwiseConv(dim, 5, rngs, mode="reflect")
        else:
            self.conv = nnx.Sequential(ReflectConv(dim, dim, 3, rngs), nnx.relu, ReflectConv(dim, dim, 3, rngs))
        if self.projects:
            self.V, self.proj = conv(dim, dim, 1, rngs), conv(dim, dim, 1, rngs)
        if attends:
            self.QK = conv(dim, 2 * dim, 1, rngs)
            self.attn = _RelativePositions(num_heads, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if not self.projects:
            return self.conv(x)
        value = self.V(x)
        mixed = self.conv(value)
        return self.proj(mixed + self._attend(x, value) if self.attends else mixed)

    def _attend(self, x: Float[Array, "b h w c"], value: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        height, width = x.shape[1:3]
        # Windows are shifted by mirroring the border, not by rolling: none straddles the image's edge.
        qkv = jnp.concatenate([self.QK(x), value], -1)
        pads = [(self.shift, -(side + self.shift) % self.window) for side in (height, width)]
        qkv = jnp.pad(qkv, ((0, 0), *pads, (0, 0)), mode="reflect")
        q, k, v = jnp.split(qkv, 3, -1)
        bias = self.attn(self.window).astype(x.dtype)
        out = window_attention(q, k, v, self.num_heads, self.window, bias)
        return out[:, self.shift : self.shift + height, self.shift : self.shift + width]


class _RelativePositions(nnx.Module):
    """A small network from the logarithm of an offset to each head's bias."""

    def __init__(self, num_heads: int, rngs: nnx.Rngs):
        self.meta = nnx.Sequential(nnx.Linear(2, 256, rngs=rngs), nnx.relu, nnx.Linear(256, num_heads, rngs=rngs))

    def __call__(self, window: int) -> Float[Array, "heads n n"]:
        return rearrange(self.meta(jnp.asarray(_log_offsets(window))), "n m heads -> heads n m")


def _log_offsets(window: int) -> Float[np.ndarray, "n n 2"]:
    offsets = -relative_offsets(window).astype(np.float32)
    return np.sign(offsets) * np.log1p(np.abs(offsets))


class _Mlp(nnx.Module):
    def __init__(self, dim: int, hidden: int, rngs: nnx.Rngs):
        self.mlp = nnx.Sequential(conv(dim, hidden, 1, rngs), nnx.relu, conv(hidden, dim, 1, rngs))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.mlp(x)
