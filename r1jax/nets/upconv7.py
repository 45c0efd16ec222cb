"""UpConv7, waifu2x's network (github.com/nagadomi/waifu2x): removes JPEG artefacts and noise, and enlarges x2."""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.convolution import convolve
from r1jax.nets.layers import conv, pixel_shuffle
from r1jax.nets.registry import register_net

WIDTHS = (16, 32, 64, 128, 128, 256)
MARGIN = 7  # pixels that the convolutions without padding use up at each edge


@register_net("upconv7")
class UpConv7(nnx.Module):
    """Six 3x3 convolutions without padding, then a 4x4 transposed one with stride 2.

    Args:
      num_in_ch, num_out_ch: channels. widths: features of the convolutions.
    """

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, widths: tuple[int, ...] = WIDTHS, *, rngs: nnx.Rngs
    ):
        for number, (before, after) in enumerate(zip((num_in_ch, *widths), widths), 1):
            setattr(self, f"conv{number}", conv(before, after, 3, rngs, padding=0))
        self.num_convs = len(widths)
        self.conv7 = Deconvolution(widths[-1], num_out_ch, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """Returns the image of twice the size, not clipped; edges are repeated outwards."""
        x = jnp.pad(x, [(0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)], mode="edge")
        for number in range(1, self.num_convs + 1):
            x = nnx.leaky_relu(getattr(self, f"conv{number}")(x), 0.1)
        return self.conv7(x)


class Deconvolution(nnx.Module):
    """A transposed 4x4 convolution, stride 2, padding 3: [h, w] becomes [2 (h - 2), 2 (w - 2)].

    The kernel is [4, 4, in, out], torch's orientation. It is computed as a 3x3 convolution that makes the four pixels of
    each 2x2 block: no zeros are put between pixels.
    """

    def __init__(self, features_in: int, features_out: int, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (4, 4, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        rows = _phases(self.kernel[...], 0)  # [3, 2, 4, c, d]
        kernel = rearrange(_phases(rows, 2), "y i x j c d -> y x c (d i j)").astype(x.dtype)
        y = convolve(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return pixel_shuffle(y, 2) + self.bias[...].astype(x.dtype)


def _phases(kernel: Array, axis: int) -> Array:
    """Replaces an axis of 4 taps by [3 offsets, 2 phases]: pixel 2m takes taps 3 and 1, pixel 2m + 1 taps 2 and 0."""
    tap = [jnp.take(kernel, k, axis) for k in range(4)]
    none = jnp.zeros_like(tap[0])
    offsets = [(tap[3], none), (tap[1], tap[2]), (none, tap[0])]
    return jnp.stack([jnp.stack(phases, axis) for phases in offsets], axis)
