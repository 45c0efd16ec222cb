"""MixDehazeNet (Lu et al., arXiv 2305.17654) with the official names: dilated convolutions and three kinds of attention.

Images are in [-1, 1] here, not in [0, 1], as in the official code: feed 2x - 1, and clip and halve what comes out.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.dehazing_unet import DehazingUNet, ReflectConv
from r1jax.nets.depthwise import DepthwiseConv
from r1jax.nets.layers import Blocks, conv, gelu, mean_pool
from r1jax.nets.registry import register_net


@register_net("mixdehazenet")
class MixDehazeNet(DehazingUNet):
    """Removes haze from [b, h, w, 3] in [-1, 1]; sides above 36 pixels, for the widest mirrored border at quarter size.

    Args:
      embed_dims, depths: features and blocks of the five stages.
    """

    def __init__(
        self,
        in_chans: int = 3,
        out_chans: int = 4,
        embed_dims: Sequence[int] = (24, 48, 96, 48, 24),
        depths: Sequence[int] = (1, 1, 2, 1, 1),
        *,
        rngs: nnx.Rngs,
    ):
        self.widths, self.depths = tuple(embed_dims), tuple(depths)
        super().__init__(in_chans, out_chans, embed_dims, 3, rngs=rngs)

    def stage(self, index: int, rngs: nnx.Rngs) -> nnx.Module:
        return Blocks([_MixBlock(self.widths[index], rngs) for _ in range(self.depths[index])])


class _MixBlock(nnx.Module):
    """Depthwise convolutions of three dilated sizes side by side, then simple channel, channel and pixel attention."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = _batch_norm(dim, rngs), _batch_norm(dim, rngs)
        self.conv1 = conv(dim, dim, 1, rngs)
        self.conv2 = ReflectConv(dim, dim, 5, rngs)
        self.conv3_19 = DepthwiseConv(dim, 7, rngs, dilation=3, mode="reflect")
        self.conv3_13 = DepthwiseConv(dim, 5, rngs, dilation=3, mode="reflect")
        self.conv3_7 = DepthwiseConv(dim, 3, rngs, dilation=3, mode="reflect")
        self.Wv = nnx.Sequential(conv(dim, dim, 1, rngs), DepthwiseConv(dim, 3, rngs, mode="reflect"))
        self.Wg = nnx.Sequential(mean_pool, conv(dim, dim, 1, rngs), nnx.sigmoid)
        self.ca = nnx.Sequential(mean_pool, conv(dim, dim, 1, rngs), gelu, conv(dim, dim, 1, rngs), nnx.sigmoid)
        self.pa = nnx.Sequential(conv(dim, dim // 8, 1, rngs), gelu, conv(dim // 8, 1, 1, rngs), nnx.sigmoid)
        self.mlp, self.mlp2 = _mlp(dim, rngs), _mlp(dim, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = self.conv2(self.conv1(self.norm1(x)))
        x = x + self.mlp(jnp.concatenate([self.conv3_19(y), self.conv3_13(y), self.conv3_7(y)], -1))
        y = self.norm2(x)
        return x + self.mlp2(jnp.concatenate([self.Wv(y) * self.Wg(y), self.ca(y) * y, self.pa(y) * y], -1))


def _mlp(dim: int, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(conv(3 * dim, 4 * dim, 1, rngs), gelu, conv(4 * dim, dim, 1, rngs))


def _batch_norm(dim: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(dim, use_running_average=True, epsilon=1e-5, rngs=rngs)
