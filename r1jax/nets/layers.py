"""Layers that several networks share. Images are NHWC."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from r1jax.nets.convolution import convolve


def conv3x3(features_in: int, features_out: int, rngs: nnx.Rngs, scale: float = 1.0, stride: int = 1) -> nnx.Conv:
    """A 3x3 convolution, zero padded, He-initialised and then scaled; 0 makes a residual branch start as nothing."""
    init = nnx.initializers.variance_scaling(max(2 * scale**2, 1e-12), "fan_in", "truncated_normal")
    kwargs: Any = {"strides": (stride, stride), "kernel_init": init, "conv_general_dilated": convolve}
    return nnx.Conv(features_in, features_out, (3, 3), rngs=rngs, **kwargs)


def conv(
    features_in: int,
    features_out: int,
    size: int,
    rngs: nnx.Rngs,
    *,
    stride: int = 1,
    use_bias: bool = True,
    padding: int | None = None,
) -> nnx.Conv:
    """A square convolution as PyTorch pads it: `padding` zeros on every side, size // 2 unless said."""
    padding = size // 2 if padding is None else padding
    kwargs: Any = {"strides": (stride, stride), "padding": [(padding, padding)] * 2, "conv_general_dilated": convolve}
    return nnx.Conv(features_in, features_out, (size, size), use_bias=use_bias, rngs=rngs, **kwargs)


class UpConv(nnx.ConvTranspose):
    """A 2x2 transposed convolution of stride 2: windows do not overlap, so it is one matrix product."""

    def __init__(self, features_in: int, features_out: int, rngs: nnx.Rngs, use_bias: bool = True):
        super().__init__(features_in, features_out, (2, 2), strides=(2, 2), padding="VALID", use_bias=use_bias, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        kernel = self.kernel.get_value()[::-1, ::-1]
        y = x @ rearrange(kernel, "ry rx i o -> i (ry rx o)")
        y = rearrange(y, "b h w (ry rx o) -> b (h ry) (w rx) o", ry=2, rx=2)
        return y if self.bias is None else y + self.bias.get_value()


class PReLU(nnx.Module):
    """max(x, 0) + weight min(x, 0), with a slope a channel or, of one feature, one for all."""

    def __init__(self, features: int = 1, init: float = 0.25):
        self.weight = nnx.Param(jnp.full(features, init))

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        return jnp.where(x >= 0, x, x * self.weight.get_value())


def layer_norm(features: int, rngs: nnx.Rngs, epsilon: float = 1e-5) -> nnx.LayerNorm:
    """Layer normalisation over channels; the variance is of centred values, as PyTorch's, not E[x^2] - E[x]^2."""
    return nnx.LayerNorm(features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU by erf, which costs less than the erfc of `jax.nn.gelu`."""
    return x * (0.5 * (1 + lax.erf(x * 0.7071067811865476)))


def mean_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
    """The mean over the image."""
    return x.mean((1, 2), keepdims=True)


def image_by_image(net: Callable[[Array], Array], x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
    """net(x); on CPUs one image after the other, so that what a long chain of layers passes on stays in cache."""

    def mapped(x: Array) -> Array:
        return lax.map(lambda image: net(image[None])[0], x)

    return lax.platform_dependent(x, cpu=mapped, default=net)


class Blocks(nnx.Module):
    """Blocks one after the other, under the official name `blocks`."""

    def __init__(self, blocks: Sequence[nnx.Module]):
        self.blocks = nnx.List(blocks)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        for block in self.blocks:
            x = block(x)
        return x


class ResidualBlock(nnx.Module):
    """x + conv(relu(conv(x))), as in EDSR (arXiv 1707.02921): no normalisation."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        self.conv1 = conv3x3(features, features, rngs)
        self.conv2 = conv3x3(features, features, rngs, scale=0.1)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x + self.conv2(nnx.relu(self.conv1(x)))


def pixel_unshuffle(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b hs ws cs"]:
    """Space to depth; the channel order is torch's (c, ry, rx)."""
    return rearrange(x, "b (h ry) (w rx) c -> b h w (c ry rx)", ry=factor, rx=factor)


def pixel_shuffle(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b hs ws cs"]:
    """Depth to space; the channel order is torch's (c, ry, rx)."""
    return rearrange(x, "b h w (c ry rx) -> b (h ry) (w rx) c", ry=factor, rx=factor)


def nearest(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b hs ws c"]:
    """Enlarges by repeating pixels."""
    return jnp.repeat(jnp.repeat(x, factor, 1), factor, 2)


def pad_to_multiple(x: Float[Array, "b h w c"], multiple: int, mode: str = "symmetric") -> Float[Array, "b hp wp c"]:
    """Extends the right and bottom edges until both sides divide by `multiple`; nothing where they do.

    Args:
      mode: of `jnp.pad`. "symmetric" mirrors with the edge pixel, "reflect" without it, "edge" repeats it.
    """
    height, width = x.shape[1:3]
    pad_height, pad_width = -height % multiple, -width % multiple
    if pad_height == pad_width == 0:
        return x
    return jnp.pad(x, ((0, 0), (0, pad_height), (0, pad_width), (0, 0)), mode=mode)


def size_preserving(multiple: int, mode: str = "symmetric"):
    """Decorates `__call__(self, x)`: pads x to a multiple (`mode` of `pad_to_multiple`) and crops the result back."""

    def decorate(call):
        @functools.wraps(call)
        def padded(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
            height, width = x.shape[1:3]
            return call(self, pad_to_multiple(x, multiple, mode))[:, :height, :width]

        return padded

    return decorate
