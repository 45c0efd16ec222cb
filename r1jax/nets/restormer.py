"""Restormer (Zamir et al., arXiv 2111.09881) with the official names: attention over channels at every scale of a U-Net."""

from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.depthwise import DepthwiseConv
from r1jax.nets.layers import conv, gelu, layer_norm, pixel_shuffle, pixel_unshuffle, size_preserving
from r1jax.nets.registry import register_net


@register_net("restormer")
class Restormer(nnx.Module):
    """Maps [b, h, w, inp_channels] to [b, h, w, out_channels]; any size, mirrored to a multiple of 8 inside.

    Args:
      dim: features at full size. num_blocks, heads: of the four scales. num_refinement_blocks: after the decoder.
      ffn_expansion_factor: hidden features of a block. bias: of its convolutions.
      LayerNorm_type: "WithBias", or "BiasFree" for denoising.
      dual_pixel_task: the input is a pair of 3-channel images (inp_channels 6), and nothing is added to the output.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = "WithBias",
        dual_pixel_task: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        def blocks(level: int, features: int, num: int) -> nnx.Sequential:
            return nnx.Sequential(*[self._block(level, features, rngs) for _ in range(num)])

        self.heads, self.ffn_expansion_factor, self.bias = tuple(heads), ffn_expansion_factor, bias
        self.norm_type, self.dual_pixel_task = LayerNorm_type, dual_pixel_task
        self.patch_embed = PatchEmbed(inp_channels, dim, rngs)
        self.encoder_level1 = blocks(0, dim, num_blocks[0])
        self.down1_2 = Downsample(dim, rngs)
        self.encoder_level2 = blocks(1, 2 * dim, num_blocks[1])
        self.down2_3 = Downsample(2 * dim, rngs)
        self.encoder_level3 = blocks(2, 4 * dim, num_blocks[2])
        self.down3_4 = Downsample(4 * dim, rngs)
        self.latent = blocks(3, 8 * dim, num_blocks[3])
        self.up4_3 = Upsample(8 * dim, rngs)
        self.reduce_chan_level3 = conv(8 * dim, 4 * dim, 1, rngs, use_bias=bias)
        self.decoder_level3 = blocks(2, 4 * dim, num_blocks[2])
        self.up3_2 = Upsample(4 * dim, rngs)
        self.reduce_chan_level2 = conv(4 * dim, 2 * dim, 1, rngs, use_bias=bias)
        self.decoder_level2 = blocks(1, 2 * dim, num_blocks[1])
        self.up2_1 = Upsample(2 * dim, rngs)
        self.decoder_level1 = blocks(0, 2 * dim, num_blocks[0])
        self.refinement = blocks(0, 2 * dim, num_refinement_blocks)
        if dual_pixel_task:
            self.skip_conv = conv(dim, 2 * dim, 1, rngs, use_bias=bias)
        self.output = conv(2 * dim, out_channels, 3, rngs, use_bias=bias)

    def _block(self, level: int, features: int, rngs: nnx.Rngs) -> nnx.Module:
        return TransformerBlock(features, self.heads[level], self.ffn_expansion_factor, self.bias, self.norm_type, rngs)

    @size_preserving(8, "reflect")
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        embedded = self.patch_embed(x)
        level1 = self.encoder_level1(embedded)
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        y = self.up4_3(self.latent(self.down3_4(level3)))
        y = self.decoder_level3(self.reduce_chan_level3(jnp.concatenate([y, level3], -1)))
        y = self.decoder_level2(self.reduce_chan_level2(jnp.concatenate([self.up3_2(y), level2], -1)))
        y = self.decoder_level1(jnp.concatenate([self.up2_1(y), level1], -1))
        y = self.refinement(y)
        if self.dual_pixel_task:
            return self.output(y + self.skip_conv(embedded))
        return self.output(y) + x


class TransformerBlock(nnx.Module):
    """Attention over channels, then a gated feed-forward layer, each on a normalised input and added to it."""

    def __init__(self, dim: int, num_heads: int, ffn_expansion_factor: float, bias: bool, norm_type: str, rngs: nnx.Rngs):
        self.norm1 = ChannelNorm(dim, norm_type, rngs)
        self.attn = ChannelSelfAttention(dim, num_heads, bias, rngs)
        self.norm2 = ChannelNorm(dim, norm_type, rngs)
        self.ffn = GatedFeedForward(dim, ffn_expansion_factor, bias, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class ChannelNorm(nnx.Module):
    """Layer normalisation over channels; its official name is `body`."""

    def __init__(self, dim: int, norm_type: str, rngs: nnx.Rngs):
        if norm_type not in ("WithBias", "BiasFree"):
            raise UsageError(f"LayerNorm_type {norm_type!r} is unknown; there are 'WithBias' and 'BiasFree'")
        self.body = layer_norm(dim, rngs) if norm_type == "WithBias" else _BiasFreeNorm(dim)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.body(x)


class _BiasFreeNorm(nnx.Module):
    """Divides by the standard deviation without taking the mean off."""

    def __init__(self, dim: int):
        self.weight = nnx.Param(jnp.ones(dim))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * self.weight.get_value()


class ChannelSelfAttention(nnx.Module):
    """Multi-Dconv head transposed attention: channels attend to channels, at a cost that grows with pixels."""

    def __init__(self, dim: int, num_heads: int, bias: bool, rngs: nnx.Rngs):
        self.temperature = nnx.Param(jnp.ones((num_heads, 1, 1)))
        self.qkv = conv(dim, 3 * dim, 1, rngs, use_bias=bias)
        self.qkv_dwconv = DepthwiseConv(3 * dim, 3, rngs, use_bias=bias)
        self.project_out = conv(dim, dim, 1, rngs, use_bias=bias)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        q, k, v = jnp.split(self.qkv_dwconv(self.qkv(x)), 3, -1)
        project = self.project_out
        y = transposed_attention(q, k, v, self.temperature.get_value(), project.kernel.get_value()[0, 0])
        return y if project.bias is None else y + project.bias.get_value()


def transposed_attention(
    q: Float[Array, "b h w c"],
    k: Float[Array, "b h w c"],
    v: Float[Array, "b h w c"],
    temperature: Float[Array, "heads 1 1"],
    projection: Float[Array, "c d"],
) -> Float[Array, "b h w d"]:
    """Returns (softmax(temperature q^T k) v) projection with q and k normalised over the image, heads side by side.

    Only small matrices are made: norms divide the products of channels, not the images, and the attention is multiplied
    into the projection, so that v is read once.
    """
    heads, height, width = len(temperature), *q.shape[1:3]
    dim = q.shape[-1] // heads
    q, k, v = (rearrange(part, "b h w c -> b (h w) c") for part in (q, k, v))
    products = jnp.stack([q[..., i : i + dim].mT @ k[..., i : i + dim] for i in range(0, heads * dim, dim)], 1)
    norms = _norms(q, heads)[..., None] * _norms(k, heads)[..., None, :]
    attention = nnx.softmax(products / norms * temperature, -1)
    mixed = jnp.einsum("bncd, nco -> bndo", attention, rearrange(projection, "(n c) o -> n c o", n=heads))
    y = v @ rearrange(mixed, "b n d o -> b (n d) o")
    return rearrange(y, "b (h w) o -> b h w o", h=height, w=width)


def _norms(x: Float[Array, "b n c"], heads: int) -> Float[Array, "b heads d"]:
    return rearrange(jnp.maximum(jnp.sqrt((x * x).sum(1)), 1e-12), "b (n d) -> b n d", n=heads)


class GatedFeedForward(nnx.Module):
    """Gated-Dconv feed-forward network: one half of the hidden features gates the other."""

    def __init__(self, dim: int, expansion: float, bias: bool, rngs: nnx.Rngs):
        hidden = int(dim * expansion)
        self.project_in = conv(dim, 2 * hidden, 1, rngs, use_bias=bias)
        self.dwconv = DepthwiseConv(2 * hidden, 3, rngs, use_bias=bias)
        self.project_out = conv(hidden, dim, 1, rngs, use_bias=bias)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        gate, value = jnp.split(self.dwconv(self.project_in(x)), 2, -1)
        return self.project_out(gelu(gate) * value)


class PatchEmbed(nnx.Module):
    def __init__(self, channels: int, dim: int, rngs: nnx.Rngs, bias: bool = False):
        self.proj = conv(channels, dim, 3, rngs, use_bias=bias)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return self.proj(x)


class Downsample(nnx.Module):
    """Half the size, twice the features."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.body = nnx.Sequential(conv(dim, dim // 2, 3, rngs, use_bias=False), lambda x: pixel_unshuffle(x, 2))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
        return self.body(x)


class Upsample(nnx.Module):
    """Twice the size, half the features."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.body = nnx.Sequential(conv(dim, 2 * dim, 3, rngs, use_bias=False), lambda x: pixel_shuffle(x, 2))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
        return self.body(x)
