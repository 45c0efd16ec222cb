"""X-Restormer (Chen et al., arXiv 2310.11881) with the official names: Restormer whose blocks also attend within windows."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.layers import conv, pad_to_multiple
from r1jax.nets.registry import register_net
from r1jax.nets.restormer import ChannelNorm, ChannelSelfAttention, GatedFeedForward, Restormer
from r1jax.nets.windows import window_attention


@register_net("xrestormer")
class XRestormer(Restormer):
    """Maps [b, h, w, c] to [b, scale h, scale w, c]; any size, mirrored so that windows fit at an eighth of it.

    Args:
      channel_heads, spatial_heads: heads of the two kinds of attention at the four scales.
      overlap_ratio: by how much of a window the windows of keys are larger. spatial_dim_head: features of a spatial head.
      scale: the image is first enlarged bilinearly by it.
      The others are Restormer's.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        channel_heads: Sequence[int] = (1, 2, 4, 8),
        spatial_heads: Sequence[int] = (2, 2, 3, 4),
        overlap_ratio: Sequence[float] = (0.5, 0.5, 0.5, 0.5),
        window_size: int = 8,
        spatial_dim_head: int = 16,
        bias: bool = False,
        ffn_expansion_factor: float = 2.66,
        LayerNorm_type: str = "WithBias",
        dual_pixel_task: bool = False,
        scale: int = 1,
        *,
        rngs: nnx.Rngs,
    ):
        if dual_pixel_task:
            raise UsageError("dual_pixel_task: the official network ignores it; use inp_channels and out_channels")
        self.spatial_heads, self.spatial_dim_head = tuple(spatial_heads), spatial_dim_head
        self.overlaps = tuple(int(window_size * ratio) for ratio in overlap_ratio)
        self.window_size, self.scale = window_size, scale
        super().__init__(
            inp_channels,
            out_channels,
            dim,
            num_blocks,
            num_refinement_blocks,
            channel_heads,
            ffn_expansion_factor,
            bias,
            LayerNorm_type,
            rngs=rngs,
        )

    def _block(self, level: int, features: int, rngs: nnx.Rngs) -> nnx.Module:
        heads, overlap = self.spatial_heads[level], self.overlaps[level]
        spatial = _OverlapAttention(features, self.window_size, overlap, heads, self.spatial_dim_head, self.bias, rngs)
        channel = ChannelSelfAttention(features, self.heads[level], self.bias, rngs)
        return _Block(features, channel, spatial, self.ffn_expansion_factor, self.bias, self.norm_type, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
        height, width = (self.scale * side for side in x.shape[1:3])
        multiple = 8 * self.window_size
        x = pad_to_multiple(x, multiple // math.gcd(multiple, self.scale), "reflect")
        if self.scale > 1:
            sides = [self.scale * side for side in x.shape[1:3]]
            x = jax.image.resize(x, (len(x), *sides, x.shape[-1]), "bilinear")
        return super().__call__(x)[:, :height, :width]


class _Block(nnx.Module):
    """Attention over channels, then within windows, each followed by a gated feed-forward layer."""

    def __init__(
        self,
        dim: int,
        channel_attn: ChannelSelfAttention,
        spatial_attn: "_OverlapAttention",
        expansion: float,
        bias: bool,
        norm_type: str,
        rngs: nnx.Rngs,
    ):
        self.spatial_attn, self.channel_attn = spatial_attn, channel_attn
        self.norm1, self.norm2 = ChannelNorm(dim, norm_type, rngs), ChannelNorm(dim, norm_type, rngs)
        self.norm3, self.norm4 = ChannelNorm(dim, norm_type, rngs), ChannelNorm(dim, norm_type, rngs)
        self.channel_ffn = GatedFeedForward(dim, expansion, bias, rngs)
        self.spatial_ffn = GatedFeedForward(dim, expansion, bias, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = x + self.channel_attn(self.norm1(x))
        x = x + self.channel_ffn(self.norm2(x))
        x = x + self.spatial_attn(self.norm3(x))
        return x + self.spatial_ffn(self.norm4(x))


class _OverlapAttention(nnx.Module):
    """Attention from windows to larger ones around them; positions enter as products of queries with learned vectors."""

    def __init__(self, dim: int, window: int, overlap: int, num_heads: int, head_dim: int, bias: bool, rngs: nnx.Rngs):
        inner = num_heads * head_dim
        self.qkv = conv(dim, 3 * inner, 1, rngs, use_bias=bias)
        self.project_out = conv(inner, dim, 1, rngs, use_bias=bias)
        self.rel_pos_emb = _RelativePositions(window, overlap, head_dim, rngs)
        self.window, self.overlap, self.num_heads = window, overlap, num_heads

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        q, k, v = jnp.split(self.qkv(x), 3, -1)
        return self.project_out(
            window_attention(q, k, v, self.num_heads, self.window, self.rel_pos_emb, overlap=self.overlap)
        )


class _RelativePositions(nnx.Module):
    """q . (row vector of the offset + column vector of the offset), one table for each."""

    def __init__(self, window: int, overlap: int, head_dim: int, rngs: nnx.Rngs):
        keys = window + overlap
        init = nnx.initializers.normal(head_dim**-0.5)
        self.rel_height = nnx.Param(init(rngs.params(), (2 * keys - 1, head_dim)))
        self.rel_width = nnx.Param(init(rngs.params(), (2 * keys - 1, head_dim)))
        self.window, self.keys = window, keys

    def __call__(self, q: Float[Array, "b w heads n d"]) -> Float[Array, "b w heads n m"]:
        q = rearrange(q, "b w h (y x) d -> b w h y x d", y=self.window)
        index = np.arange(self.keys)[None] - np.arange(self.window)[:, None] + self.keys - 1
        rows = jnp.einsum("bwhyxd,yid->bwhyxi", q, self.rel_height.get_value()[index])
        columns = jnp.einsum("bwhyxd,xjd->bwhyxj", q, self.rel_width.get_value()[index])
        return rearrange(rows[..., :, None] + columns[..., None, :], "b w h y x i j -> b w h (y x) (i j)")
