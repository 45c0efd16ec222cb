"""HAT (Chen et al., arXiv 2205.04437) with the official names.

SwinIR with convolutions beside the window attention, and with attention to larger windows around after each group.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.layers import Blocks, conv, conv3x3, gelu, layer_norm, mean_pool
from r1jax.nets.registry import register_net
from r1jax.nets.swinir import ResidualGroup, SwinIR
from r1jax.nets.windows import Mlp, WindowAttention, relative_index, window_attention


@register_net("hat")
class HAT(SwinIR):
    """Maps [b, h, w, c] to [b, upscale h, upscale w, c]; any size, mirrored to a multiple of the window inside.

    Args:
      compress_ratio, squeeze_factor: how much narrower the convolutions and the channel attention beside them are.
      conv_scale: weight of that branch. overlap_ratio: by how much of a window the windows of keys are larger.
      The others are SwinIR's.
    """

    def __init__(
        self,
        img_size: int = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 7,
        compress_ratio: int = 3,
        squeeze_factor: int = 30,
        conv_scale: float = 0.01,
        overlap_ratio: float = 0.5,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: str = "pixelshuffle",
        resi_connection: str = "1conv",
        num_feat: int = 64,
        *,
        rngs: nnx.Rngs,
    ):
        self.compress_ratio, self.squeeze_factor, self.conv_scale = compress_ratio, squeeze_factor, conv_scale
        self.overlap_ratio = overlap_ratio
        super().__init__(
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            depths,
            num_heads,
            window_size,
            mlp_ratio,
            qkv_bias,
            qk_scale,
            upscale,
            img_range,
            upsampler,
            resi_connection,
            num_feat,
            rngs=rngs,
        )

    def derived_buffers(self) -> dict[str, np.ndarray]:
        window = self.window_size
        indices = {"SA": relative_index(window), "OCA": relative_index(window, window + int(window * self.overlap_ratio))}
        return {f"relative_position_index_{kind}": index for kind, index in indices.items()}

    def _group(self, dim: int, depth: int, num_heads: int, rngs: nnx.Rngs) -> nnx.Module:
        hidden = int(dim * self.mlp_ratio)

        def block(index: int) -> _HybridBlock:
            shift = self.window_size // 2 if index % 2 else 0
            attention = WindowAttention(dim, self.window_size, num_heads, self.qkv_bias, self.qk_scale, rngs=rngs)
            branch = _ConvBlock(dim, dim // self.compress_ratio, dim // self.squeeze_factor, rngs)
            return _HybridBlock(dim, attention, branch, shift, hidden, self.conv_scale, rngs)

        overlap = int(self.window_size * self.overlap_ratio)
        across = _OverlapBlock(dim, self.window_size, overlap, num_heads, hidden, self.qkv_bias, self.qk_scale, rngs)
        return ResidualGroup(_HybridBlocks([block(i) for i in range(depth)], across), dim, self.resi_connection, rngs)


class _ChannelAttention(nnx.Module):
    """Scales channels by what a small network makes of their means (RCAN, arXiv 1807.02758)."""

    def __init__(self, dim: int, hidden: int, rngs: nnx.Rngs):
        down, up = conv(dim, hidden, 1, rngs), conv(hidden, dim, 1, rngs)
        self.attention = nnx.Sequential(mean_pool, down, nnx.relu, up, nnx.sigmoid)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x * self.attention(x)


class _ConvBlock(nnx.Module):
    def __init__(self, dim: int, hidden: int, squeezed: int, rngs: nnx.Rngs):
        attention = _ChannelAttention(dim, squeezed, rngs)
        self.cab = nnx.Sequential(conv3x3(dim, hidden, rngs), gelu, conv3x3(hidden, dim, rngs), attention)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.cab(x)


class _HybridBlock(nnx.Module):
    """Swin's block with convolutions beside the attention."""

    def __init__(
        self,
        dim: int,
        attention: WindowAttention,
        conv_block: _ConvBlock,
        shift: int,
        hidden: int,
        conv_scale: float,
        rngs: nnx.Rngs,
    ):
        self.norm1, self.norm2 = layer_norm(dim, rngs), layer_norm(dim, rngs)
        self.attn, self.conv_block, self.mlp = attention, conv_block, Mlp(dim, hidden, rngs=rngs)
        self.shift, self.conv_scale = shift, conv_scale

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        normed = self.norm1(x)
        x = x + self.attn(normed, self.shift) + self.conv_scale * self.conv_block(normed)
        return x + self.mlp(self.norm2(x))


class _OverlapBlock(nnx.Module):
    """Attention from windows to larger ones around them, and an MLP."""

    def __init__(
        self,
        dim: int,
        window: int,
        overlap: int,
        num_heads: int,
        hidden: int,
        qkv_bias: bool,
        scale: float | None,
        rngs: nnx.Rngs,
    ):
        self.norm1, self.norm2 = layer_norm(dim, rngs), layer_norm(dim, rngs)
        init = nnx.initializers.truncated_normal(0.02)
        self.relative_position_bias_table = nnx.Param(init(rngs.params(), ((2 * window + overlap - 1) ** 2, num_heads)))
        self.qkv = nnx.Linear(dim, 3 * dim, use_bias=qkv_bias, rngs=rngs)
        self.proj = nnx.Linear(dim, dim, rngs=rngs)
        self.mlp = Mlp(dim, hidden, rngs=rngs)
        self.window, self.overlap, self.num_heads, self.scale = window, overlap, num_heads, scale

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        bias = self.relative_position_bias_table.get_value().T[:, relative_index(self.window, self.window + self.overlap)]
        q, k, v = jnp.split(self.qkv(self.norm1(x)), 3, -1)
        attended = window_attention(q, k, v, self.num_heads, self.window, bias, overlap=self.overlap, scale=self.scale)
        x = x + self.proj(attended)
        return x + self.mlp(self.norm2(x))


class _HybridBlocks(Blocks):
    def __init__(self, blocks: Sequence[_HybridBlock], overlap_attn: _OverlapBlock):
        super().__init__(blocks)
        self.overlap_attn = overlap_attn

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.overlap_attn(super().__call__(x))
