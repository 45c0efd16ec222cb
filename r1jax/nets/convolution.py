"""Convolutions that are fast on CPUs, on all processors, and the gradient of a 3x3 one by its kernel. NHWC, HWIO.

XLA:CPU has two libraries for convolutions. The one that it prefers, YNNPACK, shares work between processors by columns and
features, never by rows or images, and leaves all but one of them idle where images are small or features few; the other,
Eigen, shares by pixels. Which is asked is told here by shape. Kernels of 1x1 are matrix products, which use all processors,
where as convolutions they would use one. Kernels of a few groups are widened by zeros, as neither library knows groups.

XLA:CPU computes the gradient by the kernel as a convolution with a kernel as large as the image, at a fraction of the
forward speed where channels are few. Here each image's patches are one matrix that stays in cache, and the gradient is a sum
of matrix products.
"""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"], strides: Any, padding: Any, **kwargs: Any
) -> Array:
    """`lax.conv_general_dilated` for `nnx.Conv`, by the ways above where they apply."""
    options = ("precision", "preferred_element_type", "out_sharding")
    dilated = any(set(kwargs.get(key) or (1,)) != {1} for key in ("lhs_dilation", "rhs_dilation"))
    if dilated or len(set(strides)) > 1 or any(kwargs.get(key) is not None for key in options):
        return lax.conv_general_dilated(x, kernel, strides, padding, **kwargs)
    stride = strides[0]
    if (groups := kwargs.get("feature_group_count", 1)) > 1:
        return _grouped(x, kernel, stride, padding, groups)
    pads = _pads(x, kernel, padding)
    if kernel.shape[:2] == (1, 1) and stride == 1 and not any(map(any, pads)):
        return x @ kernel[0, 0]
    # A zero on every side is "SAME" for stride 1, and not for stride 2.
    if kernel.shape[:2] == (3, 3) and (padding == "SAME" or (stride == 1 and pads == [(1, 1), (1, 1)])):
        return _conv3x3(x, kernel, stride)
    return _forward(x, kernel, stride, padding)


def _pads(x: Array, kernel: Array, padding: Any) -> list[tuple[int, int]]:
    """Returns the zeros before and after rows and columns, for stride 1."""
    if isinstance(padding, str):
        return lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (1, 1), padding)
    return list(padding)


def _grouped(x: Array, kernel: Array, stride: int, padding: Any, groups: int) -> Array:
    def reference(x: Array, kernel: Array) -> Array:
        strides = (stride, stride)
        return lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=_NUMBERS, feature_group_count=groups
        )

    def widened(x: Array, kernel: Array) -> Array:
        own = kernel.shape[2]
        places = [(n * own, x.shape[3] - (n + 1) * own) for n in range(groups)]
        parts = zip(jnp.split(kernel, groups, -1), places, strict=True)
        wide = jnp.concatenate([jnp.pad(part, ((0, 0), (0, 0), place, (0, 0))) for part, place in parts], -1)
        return _forward(x, wide, stride, padding)

    return lax.platform_dependent(x, kernel, cpu=widened, default=reference)


def _forward(x: Array, kernel: Array, stride: int, padding: Any = "SAME") -> Array:
    def reference(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_NUMBERS)

    def by_eigen(x: Array, kernel: Array) -> Array:
        # YNNPACK is not asked for convolutions with more rows than their input has: that many more, which are then dropped.
        (above, below), columns = _pads(x, kernel, padding)
        rows = x.shape[1] + above + below - kernel.shape[0] + 1
        more = max(x.shape[1] + 1 - rows, 0)
        y = lax.conv_general_dilated(x, kernel, (1, 1), [(above, below + more), columns], dimension_numbers=_NUMBERS)
        return y[:, :rows]

    if stride == 1 and x.dtype == jnp.float32 and _eigen_is_faster(kernel.shape, x.shape[2]):
        return lax.platform_dependent(x, kernel, cpu=by_eigen, default=reference)
    return reference(x, kernel)


def _eigen_is_faster(kernel: tuple[int, ...], width: int) -> bool:
    """Whether it is on this machine, as measured for sides of 32 to 256 and 3 to 256 features on two processors.

    There it takes 0.55 to 0.9 of YNNPACK's time in the last case, on one processor 1.0 to 1.3 times; from few features to 24
    or 32 it takes 0.2 to 0.8 on any, for 5x5 kernels and up to 96 features 0.16 to 0.27.
    """
    size, _, features_in, features_out = kernel
    if size > 3:
        return min(features_in, features_out) >= 16
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
