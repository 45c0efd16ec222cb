"""The Real-ESRGAN family with BasicSR's names: RRDBNet (arXiv 1809.00219) and the compact SRVGG net (arXiv 2107.10833)."""

import functools
import itertools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.layers import PReLU, conv, image_by_image, nearest, pad_to_multiple, pixel_shuffle, pixel_unshuffle
from r1jax.nets.registry import register_net

_leaky = functools.partial(nnx.leaky_relu, negative_slope=0.2)


@register_net("rrdbnet")
class RRDBNet(nnx.Module):
    """Enlarges [b, h, w, num_in_ch] by `scale`: residual-in-residual dense blocks, then nearest and convolution twice.

    Args:
      scale: 4, or 2 and 1, which fold pixels into channels first (any size, mirrored to a multiple of that).
      num_feat, num_block, num_grow_ch: features, blocks, features that each dense layer adds.
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: int = 4,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
        *,
        rngs: nnx.Rngs,
    ):
        if scale not in (1, 2, 4):
            raise UsageError(f"scale {scale} is not supported; there are 1, 2 and 4")
        self.scale, self.folding = scale, 4 // scale
        self.conv_first = conv(num_in_ch * self.folding**2, num_feat, 3, rngs)
        self.body = nnx.Sequential(*[_RRDB(num_feat, num_grow_ch, rngs) for _ in range(num_block)])
        self.conv_body = conv(num_feat, num_feat, 3, rngs)
        self.conv_up1 = conv(num_feat, num_feat, 3, rngs)
        self.conv_up2 = conv(num_feat, num_feat, 3, rngs)
        self.conv_hr = conv(num_feat, num_feat, 3, rngs)
        self.conv_last = conv(num_feat, num_out_ch, 3, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
        height, width = (self.scale * side for side in x.shape[1:3])
        x = pixel_unshuffle(pad_to_multiple(x, self.folding, "reflect"), self.folding)
        return image_by_image(self._enlarged, x)[:, :height, :width]

    def _enlarged(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h4 w4 d"]:
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        x = _leaky(self.conv_up1(nearest(x, 2)))
        x = _leaky(self.conv_up2(nearest(x, 2)))
        return self.conv_last(_leaky(self.conv_hr(x)))


class _RRDB(nnx.Module):
    def __init__(self, features: int, growth: int, rngs: nnx.Rngs):
        self.rdb1 = _DenseBlock(features, growth, rngs)
        self.rdb2 = _DenseBlock(features, growth, rngs)
        self.rdb3 = _DenseBlock(features, growth, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class _DenseBlock(nnx.Module):
    """Five convolutions, each of everything before it."""

    def __init__(self, features: int, growth: int, rngs: nnx.Rngs):
        self.conv1 = conv(features, growth, 3, rngs)
        self.conv2 = conv(features + growth, growth, 3, rngs)
        self.conv3 = conv(features + 2 * growth, growth, 3, rngs)
        self.conv4 = conv(features + 3 * growth, growth, 3, rngs)
        self.conv5 = conv(features + 4 * growth, features, 3, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        dense = x
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            dense = jnp.concatenate([dense, _leaky(layer(dense))], -1)
        return x + 0.2 * self.conv5(dense)


@register_net("srvgg_compact")
class SRVGGNetCompact(nnx.Module):
    """Enlarges [b, h, w, num_in_ch] by `upscale`: convolutions at the low resolution, added to the nearest enlargement.

    Args:
      num_feat, num_conv: features and inner convolutions. act_type: "relu", "prelu" or "leakyrelu".
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_conv: int = 16,
        upscale: int = 4,
        act_type: str = "prelu",
        *,
        rngs: nnx.Rngs,
    ):
        if act_type not in ("relu", "prelu", "leakyrelu"):
            raise UsageError(f"act_type {act_type!r} is unknown; there are 'relu', 'prelu' and 'leakyrelu'")

        def activation() -> nnx.Module | functools.partial:
            if act_type == "prelu":
                return PReLU(num_feat)
            return functools.partial(nnx.leaky_relu, negative_slope=0.1 if act_type == "leakyrelu" else 0.0)

        self.upscale = upscale
        widths = [num_in_ch] + [num_feat] * (num_conv + 1)
        layers: list = []
        for features_in, features_out in itertools.pairwise(widths):
            layers += [conv(features_in, features_out, 3, rngs), activation()]
        self.body = nnx.Sequential(*layers, conv(num_feat, num_out_ch * upscale**2, 3, rngs))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws c"]:
        return pixel_shuffle(self.body(x), self.upscale) + nearest(x, self.upscale)
