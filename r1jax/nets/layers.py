"""Layers that several networks share. Images are NHWC."""

import functools
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.convolution import convolve


def conv3x3(features_in: int, features_out: int, rngs: nnx.Rngs, scale: float = 1.0, stride: int = 1) -> nnx.Conv:
    """A 3x3 convolution, zero padded, He-initialised and then scaled; 0 makes a residual branch start as nothing."""
    init = nnx.initializers.variance_scaling(max(2 * scale**2, 1e-12), "fan_in", "truncated_normal")
    kwargs: Any = {"strides": (stride, stride), "kernel_init": init, "conv_general_dilated": convolve}
    return nnx.Conv(features_in, features_out, (3, 3), rngs=rngs, **kwargs)


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


def pad_to_multiple(x: Float[Array, "b h w c"], multiple: int) -> Float[Array, "b hp wp c"]:
    """Mirrors the right and bottom edges until both sides divide by `multiple`; nothing where they do."""
    height, width = x.shape[1:3]
    pad_height, pad_width = -height % multiple, -width % multiple
    if pad_height == pad_width == 0:
        return x
    return jnp.pad(x, ((0, 0), (0, pad_height), (0, pad_width), (0, 0)), mode="symmetric")


def size_preserving(multiple: int):
    """Decorates `__call__(self, x)`: pads x to a multiple and crops the result back."""

    def decorate(call):
        @functools.wraps(call)
        def padded(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
            height, width = x.shape[1:3]
            return call(self, pad_to_multiple(x, multiple))[:, :height, :width]

        return padded

    return decorate
