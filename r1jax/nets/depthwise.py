"""Depthwise convolution with a lowering for each platform.

XLA:CPU has no fast depthwise convolution: for 96 channels at 256x256 on one core its own takes 198 ms, PyTorch's 20 ms to
35 ms, and the same as shifted copies, multiplied and added in one fused loop, 24 ms.
"""

import functools
import operator

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float


class DepthwiseConv(nnx.Conv):
    """A square convolution of odd size with one kernel a channel, padded with zeros or by another `mode` of `jnp.pad`."""

    def __init__(
        self,
        features: int,
        size: int,
        rngs: nnx.Rngs,
        *,
        use_bias: bool = True,
        dilation: int = 1,
        stride: int = 1,
        mode: str = "constant",
    ):
        super().__init__(features, features, (size, size), feature_group_count=features, use_bias=use_bias, rngs=rngs)
        self.dilation, self.stride, self.mode = dilation, stride, mode

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "b h w c"]
    ) -> Float[Array, "b i j c"]:
        y = depthwise(x, self.kernel.get_value(), self.dilation, self.mode, self.stride)
        return y if self.bias is None else y + self.bias.get_value()


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], dilation: int = 1, mode: str = "constant", stride: int = 1
) -> Float[Array, "b i j c"]:
    """Returns the depthwise convolution; size of the kernel odd, `mode` that of `jnp.pad`, i = ceil(h / stride).

    Padded as TensorFlow's "SAME": with a stride above 1 an odd margin has its larger part below and to the right.
    """
    span = dilation * (len(kernel) - 1)
    margins = [max(0, (side - 1) // stride * stride + span + 1 - side) for side in x.shape[1:3]]
    padded = jnp.pad(x, ((0, 0), *((margin // 2, margin - margin // 2) for margin in margins), (0, 0)), mode=mode)
    cpu, default = (functools.partial(lowering, dilation=dilation, stride=stride) for lowering in (_shifted, _convolved))
    return lax.platform_dependent(padded, kernel, cpu=cpu, default=default)


def _convolved(padded: Array, kernel: Array, dilation: int, stride: int) -> Array:
    numbers, groups = ("NHWC", "HWIO", "NHWC"), padded.shape[-1]
    return lax.conv_general_dilated(
        padded,
        kernel,
        (stride, stride),
        "VALID",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=numbers,
        feature_group_count=groups,
    )


def _shifted(padded: Array, kernel: Array, dilation: int, stride: int) -> Array:
    # The barrier keeps the padding out of the loop, where it would be a test a pixel.
    padded = lax.optimization_barrier(padded)
    size = len(kernel)
    height, width = (side - dilation * (size - 1) for side in padded.shape[1:3])
    taps = [(dilation * i, dilation * j, kernel[i, j, 0]) for i in range(size) for j in range(size)]
    return functools.reduce(
        operator.add, [padded[:, i : i + height : stride, j : j + width : stride] * weight for i, j, weight in taps]
    )
