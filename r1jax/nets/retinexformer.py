"""Retinexformer (Cai et al., arXiv 2303.06705) with the official names: brightens, guided by illumination features."""

from collections.abc import Sequence
from typing import Any, cast

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.convolution import convolve
from r1jax.nets.depthwise import DepthwiseConv
from r1jax.nets.layers import UpConv, conv, gelu, layer_norm, size_preserving
from r1jax.nets.registry import register_net
from r1jax.nets.restormer import transposed_attention

_LEVELS = 2
_ESTIMATOR_CHANNELS = 4  # the image and its mean


@register_net("retinexformer")
class RetinexFormer(nnx.Module):
    """Maps [b, h, w, in_channels] to [b, h, w, out_channels]; any size, mirrored to a multiple of 4 inside.

    Args:
      n_feat: features at full size. stage: networks one after the other. num_blocks: blocks of the three scales.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        n_feat: int = 40,
        stage: int = 3,
        num_blocks: Sequence[int] = (1, 1, 1),
        *,
        rngs: nnx.Rngs,
    ):
        stages = [_SingleStage(in_channels, out_channels, n_feat, num_blocks, rngs) for _ in range(stage)]
        self.body = nnx.Sequential(*stages)

    @size_preserving(4, "reflect")
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return self.body(x)


class _SingleStage(nnx.Module):
    def __init__(self, channels_in: int, channels_out: int, features: int, num_blocks: Sequence[int], rngs: nnx.Rngs):
        self.estimator = _IlluminationEstimator(channels_in, features, rngs)
        self.denoiser = _Denoiser(channels_in, channels_out, features, num_blocks, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        illumination, light_up = self.estimator(x)
        return self.denoiser(x * light_up + x, illumination)


class _IlluminationEstimator(nnx.Module):
    def __init__(self, channels: int, features: int, rngs: nnx.Rngs):
        self.conv1 = conv(channels + 1, features, 1, rngs)
        grouped: Any = {"feature_group_count": _ESTIMATOR_CHANNELS, "conv_general_dilated": convolve}
        self.depth_conv = nnx.Conv(features, features, (5, 5), rngs=rngs, **grouped)
        self.conv2 = conv(features, channels, 1, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w f"], Float[Array, "b h w c"]]:
        features = self.conv1(jnp.concatenate([x, x.mean(-1, keepdims=True)], -1))
        features = self.depth_conv(features)
        return features, self.conv2(features)


class _Denoiser(nnx.Module):
    """A U-Net of three scales; the illumination features go down with the image's."""

    def __init__(self, channels_in: int, channels_out: int, features: int, num_blocks: Sequence[int], rngs: nnx.Rngs):
        def stack(level: int) -> _Stack:
            return _Stack(features * 2**level, 2**level, num_blocks[level], rngs)

        def halve(level: int) -> nnx.Conv:
            wide = features * 2**level
            return conv(wide, 2 * wide, 4, rngs, stride=2, padding=1, use_bias=False)

        def down(level: int) -> nnx.List:
            return nnx.List([stack(level), halve(level), halve(level)])

        def up(level: int) -> nnx.List:
            wide = features * 2**level
            return nnx.List([UpConv(2 * wide, wide, rngs), conv(2 * wide, wide, 1, rngs, use_bias=False), stack(level)])

        self.embedding = conv(channels_in, features, 3, rngs, use_bias=False)
        self.encoder_layers = nnx.List([down(level) for level in range(_LEVELS)])
        self.bottleneck = stack(_LEVELS)
        self.decoder_layers = nnx.List([up(level) for level in reversed(range(_LEVELS))])
        self.mapping = conv(features, channels_out, 3, rngs, use_bias=False)

    def __call__(self, x: Float[Array, "b h w c"], light: Float[Array, "b h w f"]) -> Float[Array, "b h w d"]:
        y, skips = self.embedding(x), []
        for stack, halve, halve_light in self.encoder_layers:
            y = stack(y, light)
            skips.append((y, light))
            y, light = halve(y), halve_light(light)
        y = self.bottleneck(y, light)
        for (enlarge, fuse, stack), (skip, light) in zip(self.decoder_layers, reversed(skips)):
            y = stack(fuse(jnp.concatenate([enlarge(y), skip], -1)), light)
        return self.mapping(y) + x


class _Stack(nnx.Module):
    """Pairs of attention and feed-forward layer, each added to its input."""

    def __init__(self, features: int, heads: int, num: int, rngs: nnx.Rngs):
        pairs = [[_Attention(features, heads, rngs), _PreNorm(features, rngs)] for _ in range(num)]
        self.blocks = nnx.List([nnx.List(pair) for pair in pairs])

    def __call__(self, x: Float[Array, "b h w c"], light: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        for attention, feed_forward in self.blocks:
            x = x + attention(x, light)
            x = x + feed_forward(x)
        return x


class _Attention(nnx.Module):
    """Attention over channels whose values are multiplied by the illumination features."""

    def __init__(self, features: int, heads: int, rngs: nnx.Rngs):
        def linear(use_bias: bool = False) -> nnx.Linear:
            return nnx.Linear(features, features, use_bias=use_bias, rngs=rngs)

        self.to_q, self.to_k, self.to_v, self.proj = linear(), linear(), linear(), linear(True)
        self.rescale = nnx.Param(jnp.ones((heads, 1, 1)))
        depthwise = [DepthwiseConv(features, 3, rngs, use_bias=False) for _ in range(2)]
        self.pos_emb = nnx.Sequential(depthwise[0], gelu, depthwise[1])

    def __call__(self, x: Float[Array, "b h w c"], light: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        value, rescale = self.to_v(x), self.rescale.get_value()
        # The rows of the official attention belong to the keys.
        y = transposed_attention(self.to_k(x), self.to_q(x), value * light, rescale, self.proj.kernel.get_value())
        return y + cast(nnx.Param, self.proj.bias).get_value() + self.pos_emb(value)


class _PreNorm(nnx.Module):
    def __init__(self, features: int, rngs: nnx.Rngs):
        self.norm = layer_norm(features, rngs)
        self.fn = _FeedForward(features, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.fn(self.norm(x))


class _FeedForward(nnx.Module):
    def __init__(self, features: int, rngs: nnx.Rngs, mult: int = 4):
        wide = mult * features
        first, last = conv(features, wide, 1, rngs, use_bias=False), conv(wide, features, 1, rngs, use_bias=False)
        self.net = nnx.Sequential(first, gelu, DepthwiseConv(wide, 3, rngs, use_bias=False), gelu, last)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.net(x)
