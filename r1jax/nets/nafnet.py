"""NAFNet (Chen et al., arXiv 2204.04676) with the official names, and its test-time form with local means."""

from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.depthwise import DepthwiseConv
from r1jax.nets.layers import conv, layer_norm, mean_pool, pixel_shuffle
from r1jax.nets.registry import register_net


@register_net("nafnet")
class NAFNet(nnx.Module):
    """Maps [b, h, w, img_channel] to its restored form; any size, zero padded inside.

    Args:
      width: features at full size, doubled with every scale.
      enc_blk_nums, middle_blk_num, dec_blk_nums: blocks of the scales on the way down, at the bottom, on the way up.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 16,
        middle_blk_num: int = 1,
        enc_blk_nums: Sequence[int] = (),
        dec_blk_nums: Sequence[int] = (),
        *,
        rngs: nnx.Rngs,
    ):
        widths = [width * 2**level for level in range(len(enc_blk_nums) + 1)]
        down, up = widths[:-1], widths[-2::-1]
        self.intro = conv(img_channel, width, 3, rngs)
        self.encoders = nnx.List([_blocks(c, n, rngs) for c, n in zip(down, enc_blk_nums)])
        self.downs = nnx.List([conv(c, 2 * c, 2, rngs, stride=2, padding=0) for c in down])
        self.middle_blks = _blocks(widths[-1], middle_blk_num, rngs)
        self.ups = nnx.List([nnx.Sequential(conv(2 * c, 4 * c, 1, rngs, use_bias=False), _shuffle) for c in up])
        self.decoders = nnx.List([_blocks(c, n, rngs) for c, n in zip(up, dec_blk_nums)])
        self.ending = conv(width, img_channel, 3, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        height, width = x.shape[1:3]
        multiple = 2 ** len(self.encoders)
        x = jnp.pad(x, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)))
        y, skips = self.intro(x), []
        for encoder, down in zip(self.encoders, self.downs):
            skips.append(encoder(y))
            y = down(skips[-1])
        y = self.middle_blks(y)
        for decoder, up, skip in zip(self.decoders, self.ups, reversed(skips)):
            y = decoder(up(y) + skip)
        return (self.ending(y) + x)[:, :height, :width]


@register_net("nafnet_local")
class NAFNetLocal(NAFNet):
    """NAFNet whose channel attention looks at means of windows of 1.5 times the training patch (arXiv 2112.04491).

    Args:
      train_size: (batch, channels, height, width) of training patches.
      fast_imp: the official approximation of the local means; only False is supported.
    """

    def __init__(self, *args, train_size: Sequence[int] = (1, 3, 256, 256), fast_imp: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        if fast_imp:
            raise ValueError("fast_imp: only False, the exact local means")
        scales = len(self.encoders)
        windows = [_window(train_size[2:], level, scales) for level in range(scales + 1)]
        for level, blocks in enumerate([*self.encoders, self.middle_blks]):
            _pool_locally(blocks, windows[level])
        for level, blocks in enumerate(reversed(self.decoders)):
            _pool_locally(blocks, windows[level])


def _window(train_size: Sequence[int], level: int, scales: int) -> tuple[int, int]:
    """The window's sides at a level: 1.5 times what a training patch, padded for the network, measures there."""
    padded = [-(-side // 2**scales) * 2**scales for side in train_size]
    return tuple((p >> level) * int(1.5 * side) // side for p, side in zip(padded, train_size))


def _pool_locally(blocks: nnx.Sequential, window: tuple[int, int]) -> None:
    for block in cast(list[NAFBlock], blocks.layers):
        block.sca.layers[0] = lambda x: local_mean(x, window)


def local_mean(x: Float[Array, "b h w c"], window: tuple[int, int]) -> Float[Array, "b h w c"]:
    """Returns means over windows (height, width), those at the edge repeated; over the image where it is no larger."""
    if window[0] >= x.shape[1] and window[1] >= x.shape[2]:
        return mean_pool(x)
    for axis, size in ((1, window[0]), (2, window[1])):
        x = _moving_mean(x, axis, min(size, x.shape[axis]))
    return x


def _moving_mean(x: Array, axis: int, size: int) -> Array:
    length = x.shape[axis]
    sums = jnp.cumsum(x, axis)
    sums = jnp.concatenate([jnp.zeros_like(jnp.take(sums, jnp.array([0]), axis)), sums], axis)
    # Window i starts at i - (size - 1) // 2, kept inside: the same as repeating the outermost means.
    missing = size - 1
    starts = jnp.clip(jnp.arange(length) - missing // 2, 0, length - size)
    return (jnp.take(sums, starts + size, axis) - jnp.take(sums, starts, axis)) / size


def _blocks(features: int, num: int, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(*[NAFBlock(features, rngs) for _ in range(num)])


def _shuffle(x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
    return pixel_shuffle(x, 2)


def _gate(x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    first, second = jnp.split(x, 2, -1)
    return first * second


class NAFBlock(nnx.Module):
    """Depthwise convolution, gate and channel attention; then a gated pointwise layer. No activation function."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        wide = 2 * features
        self.norm1 = layer_norm(features, rngs, epsilon=1e-6)
        self.conv1 = conv(features, wide, 1, rngs)
        self.conv2 = DepthwiseConv(wide, 3, rngs)
        self.sca = nnx.Sequential(mean_pool, conv(features, features, 1, rngs))
        self.conv3 = conv(features, features, 1, rngs)
        self.norm2 = layer_norm(features, rngs, epsilon=1e-6)
        self.conv4 = conv(features, wide, 1, rngs)
        self.conv5 = conv(features, features, 1, rngs)
        self.beta = nnx.Param(jnp.zeros((1, 1, 1, features)))
        self.gamma = nnx.Param(jnp.zeros((1, 1, 1, features)))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = _gate(self.conv2(self.conv1(self.norm1(x))))
        y = x + self.conv3(y * self.sca(y)) * self.beta.get_value()
        return y + self.conv5(_gate(self.conv4(self.norm2(y)))) * self.gamma.get_value()
