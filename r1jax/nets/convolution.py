"""Convolutions that are fast on CPUs: 3x3 ones on all processors, their gradient by the kernel, large kernels. NHWC, HWIO.

XLA:CPU has two libraries for convolutions. The one that it prefers, YNNPACK, shares work between processors by columns and
features, never by rows or images, and leaves all but one of them idle where images are small or features few; the other,
Eigen, shares by pixels. `_forward` picks by shape.

XLA:CPU computes the gradient by the kernel as a convolution with a kernel as large as the image, at a fraction of the
forward speed where channels are few. Here each image's patches are one matrix that stays in cache, and the gradient is a sum
of matrix products.
"""

import functools
import operator
import os
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jaxtyping import Array, Float

_NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], strides: Any, padding: Any, **kwargs: Any
) -> Array:
    """`lax.conv_general_dilated` for `nnx.Conv`; the plain 3x3 case is the fast one, all others are as they were."""
    plain = kwargs.get("feature_group_count", 1) == 1 and kernel.shape[:2] == (3, 3)
    plain &= all(set(kwargs.get(key) or (1,)) == {1} for key in ("lhs_dilation", "rhs_dilation"))
    # A zero on every side is "SAME" for stride 1, and not for stride 2.
    same = padding == "SAME" or (set(strides) == {1} and list(padding) == [(1, 1), (1, 1)])
    if plain and same and len(set(strides)) == 1 and kwargs.get("preferred_element_type") is None:
        return _conv3x3(x, kernel, strides[0])
    return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)


def _forward(x: Array, kernel: Array, stride: int) -> Array:
    def reference(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=_NUMBERS)

    def by_eigen(x: Array, kernel: Array) -> Array:
        # YNNPACK is not asked for convolutions with more rows than their input has: one more, which is then dropped.
        padding = [(1, 2), (1, 1)]
        return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_NUMBERS)[:, : x.shape[1]]

    if stride == 1 and x.dtype == jnp.float32 and _eigen_is_faster(x.shape[2], *kernel.shape[2:]):
        return lax.platform_dependent(x, kernel, cpu=by_eigen, default=reference)
    return reference(x, kernel)


def _eigen_is_faster(width: int, features_in: int, features_out: int) -> bool:
    """Whether it is on this machine, as measured for sides of 32 to 256 and 3 to 256 features on two processors.

    There it takes 0.55 to 0.9 of YNNPACK's time in the last case, on one processor 1.0 to 1.3 times; from few features to 24
    or 32 it takes 0.2 to 0.8 on any.
    """
    if features_in < 16:
        return 16 < features_out <= 32
    several = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1
    shared = features_in >= 64 and width * features_out >= 2**14  # YNNPACK has work for all
    return several and features_out >= 32 and not shared


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3x3(x: Array, kernel: Array, stride: int) -> Array:
    return _forward(x, kernel, stride)


def _conv3x3_fwd(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _forward(x, kernel, stride), (x, kernel)


def _conv3x3_bwd(stride: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    (dx,) = jax.vjp(lambda x: _forward(x, kernel, stride), x)[1](dy)

    def reference(x: Array, dy: Array) -> Array:
        return jax.vjp(lambda kernel: _forward(x, kernel, stride), kernel)[1](dy)[0]

    dkernel = lax.platform_dependent(x, dy, cpu=functools.partial(_kernel_gradient, stride=stride), default=reference)
    return dx, dkernel.astype(kernel.dtype)


_conv3x3.defvjp(_conv3x3_fwd, _conv3x3_bwd)


def _kernel_gradient(x: Array, dy: Array, stride: int) -> Array:
    height, width = dy.shape[1:3]
    pads = lax.padtype_to_pads(x.shape[1:3], (3, 3), (stride, stride), "SAME")
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    last_row, last_col = stride * (height - 1) + 1, stride * (width - 1) + 1

    def add_image(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        a, d = image
        shifts = [a[i : i + last_row : stride, j : j + last_col : stride] for i in range(3) for j in range(3)]
        patches = jnp.concatenate(shifts, -1).reshape(height * width, -1)
        return total + patches.T @ d.reshape(height * width, -1), None

    zero = jnp.zeros((9 * x.shape[-1], dy.shape[-1]), dy.dtype)
    return lax.scan(add_image, zero, (padded, dy))[0].reshape(3, 3, x.shape[-1], dy.shape[-1])


def convolve_valid(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"]) -> Float[Array, "b hs ws o"]:
    """The convolution without padding, for kernels of 5x5 and more: on CPUs one matrix product.

    On one core for 24 channels at 256x256 and a 5x5 kernel that takes 83 ms, XLA's own 181 ms.
    """

    def reference(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_NUMBERS)

    return lax.platform_dependent(x, kernel, cpu=_product_of_columns, default=reference)


def _product_of_columns(x: Array, kernel: Array) -> Array:
    """Each pixel's row of neighbours times all rows of the kernel at once; then the rows' results are shifted and added."""
    size, _, _, features = kernel.shape
    height, width = (side - size + 1 for side in x.shape[1:3])
    # Barriers, or XLA would make the copies again for every row.
    neighbours = lax.optimization_barrier(jnp.concatenate([x[:, :, j : j + width] for j in range(size)], -1))
    products = lax.optimization_barrier(neighbours @ rearrange(kernel, "y x i o -> (x i) (y o)"))
    rows = (products[:, i : i + height, :, i * features : (i + 1) * features] for i in range(size))
    return functools.reduce(operator.add, rows)
