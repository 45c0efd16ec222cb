"""A small residual U-Net of dense 3x3 convolutions: the workhorse of the lite toolbox.

It starts at half resolution (pixel unshuffle), where dense convolutions reach the CPU's full rate, and predicts the
difference to its input. After EDSR's blocks (arXiv 1707.02921) and NAFNet's plain layout (arXiv 2204.04676).
"""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.layers import ResidualBlock, conv, conv3x3, pixel_shuffle, pixel_unshuffle, size_preserving
from r1jax.nets.registry import register_net


def _blocks(num: int, features: int, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(*[ResidualBlock(features, rngs) for _ in range(num)])


@register_net("unet")
class UNet(nnx.Module):
    """Maps [b, h, w, 3] to [b, h, w, 3].

    Args:
      widths: features of each level; level i works at 1 / 2^(i + 1) of the resolution.
      depths: residual blocks of each level, before and again after the deeper levels (once at the deepest).
    """

    def __init__(self, widths: Sequence[int] = (48, 96), depths: Sequence[int] = (1, 2), *, rngs: nnx.Rngs):
        last = len(widths) - 1
        self.stem = conv3x3(12, widths[0], rngs)
        self.encoders = nnx.List([_blocks(n, c, rngs) for n, c in zip(depths[:last], widths[:last], strict=True)])
        self.downs = nnx.List(
            [nnx.Conv(widths[i], widths[i + 1], (2, 2), strides=(2, 2), rngs=rngs) for i in range(last)]
        )
        self.middle = _blocks(depths[last], widths[last], rngs)
        self.ups = nnx.List([conv(widths[i + 1], 4 * widths[i], 1, rngs) for i in range(last)])
        self.decoders = nnx.List([_blocks(n, c, rngs) for n, c in zip(depths[:last], widths[:last], strict=True)])
        self.tail = conv3x3(widths[0], 12, rngs, scale=0.0)
        self.multiple = 2 ** len(widths)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        return size_preserving(self.multiple)(UNet._restore)(self, x)

    def _restore(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        features = self.stem(pixel_unshuffle(x, 2) - 0.5)
        skips = []
        for encode, down in zip(self.encoders, self.downs, strict=True):
            features = encode(features)
            skips.append(features)
            features = down(features)
        features = self.middle(features)
        for decode, up, skip in reversed(list(zip(self.decoders, self.ups, skips, strict=True))):
            features = decode(skip + pixel_shuffle(up(features), 2))
        return x + pixel_shuffle(self.tail(features), 2)
