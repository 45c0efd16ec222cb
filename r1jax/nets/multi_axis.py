"""The multi-axis gated MLP blocks of MAXIM (Tu et al., arXiv 2201.02973), arranged for speed.

Submodules carry the names of the official Flax code, google-research/maxim. Images are NHWC.

The official blocks mix tokens by a Dense layer between two transposes of axes. Here an image is cut into tokens once,
with the axis that is mixed in front: [p, r, c], so that mixing is one large matrix product without further transposes,
and the channels stay last for everything else.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.convolution import convolve

Size = tuple[int, int]


class Keys:
    """What the layers here draw keys from. `nnx.Rngs` itself takes longer with each key when a net is built abstractly."""

    def __init__(self, key: jax.Array):
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        """The next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def _gelu_halves(x: Float[Array, "... c"]) -> list[Float[Array, "... d"]]:
    return jnp.split(nnx.gelu(x), 2, -1)


class LayerNorm(nnx.Module):
    """Over channels, epsilon 1e-6, statistics in float32: Flax's, in a form that is built fifty times as fast.

    MAXIM S-3 has 370 of these, and half as many convolutions: with `nnx.LayerNorm` building it takes longer than running.
    """

    def __init__(self, features: int):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        wide = x.astype(jnp.float32)
        mean = jnp.mean(wide, -1, keepdims=True)
        variance = jnp.maximum(jnp.mean(wide * wide, -1, keepdims=True) - mean * mean, 0.0)
        return ((wide - mean) * (jax.lax.rsqrt(variance + 1e-6) * self.scale[...]) + self.bias[...]).astype(x.dtype)


class Convolution(nnx.Module):
    """A zero-padded convolution, kernel [size, size, in, out]."""

    def __init__(
        self, features_in: int, features_out: int, use_bias: bool, rngs: Keys, size: int = 3, stride: int = 1
    ):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (size, size, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out)) if use_bias else None
        self.stride = stride

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n hs ws d"]:
        numbers, strides = ("NHWC", "HWIO", "NHWC"), (self.stride, self.stride)
        kernel = self.kernel[...].astype(x.dtype)
        y = convolve(x, kernel, strides, "SAME", dimension_numbers=numbers)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Pointwise(nnx.Module):
    """A 1x1 convolution, kernel [1, 1, in, out], as the matrix product that it is."""

    def __init__(self, features_in: int, features_out: int, use_bias: bool, rngs: Keys):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (1, 1, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out)) if use_bias else None

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... d"]:
        y = x @ self.kernel[0, 0].astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class Dense(nnx.Module):
    """x @ kernel + bias over the last axis, in the dtype of x."""

    def __init__(self, features_in: int, features_out: int, use_bias: bool, rngs: Keys, bias: float = 0.0):
        self.kernel = nnx.Param(nnx.initializers.normal(2e-2)(rngs.params(), (features_in, features_out)))
        self.bias = nnx.Param(jnp.full(features_out, bias)) if use_bias else None

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... d"]:
        y = x @ self.kernel.astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)

    def mix(self, x: Float[Array, "p r c"]) -> Float[Array, "q r c"]:
        """Applies the layer to the first axis instead of the last."""
        positions, rest, channels = x.shape
        # The barrier keeps XLA from folding the transpose into the product, which halves its speed on CPU.
        weights = jax.lax.optimization_barrier(self.kernel.astype(x.dtype).T)
        y = (weights @ x.reshape(positions, rest * channels)).reshape(-1, rest, channels)
        return y if self.bias is None else y + self.bias.astype(x.dtype)[:, None, None]


class Axes:
    """Cuts images into tokens along one of MAXIM's two axes, and puts them together again."""

    def __init__(self, size: Size, grid: bool):
        self.size, self.grid = size, grid

    @property
    def positions(self) -> int:
        """How many positions are mixed with each other."""
        return self.size[0] * self.size[1]

    def tokens(self, x: Float[Array, "n h w c"]) -> Float[Array, "p r c"]:
        """Mixed positions first: the cells of a fixed grid (global), or the pixels of a block of fixed size (local)."""
        pattern = "n (a i) (b j) c -> (a b) (n i j) c" if self.grid else "n (i a) (j b) c -> (a b) (n i j) c"
        return rearrange(x, pattern, a=self.size[0], b=self.size[1])

    def image(self, tokens: Float[Array, "p r c"], shape: tuple[int, ...]) -> Float[Array, "n h w c"]:
        """The inverse of `tokens` for images of `shape`."""
        pattern = "(a b) (n i j) c -> n (a i) (b j) c" if self.grid else "(a b) (n i j) c -> n (i a) (j b) c"
        height, width = self.size
        return rearrange(tokens, pattern, a=height, b=width, n=shape[0], i=shape[1] // height, j=shape[2] // width)


class GatingUnit(nnx.Module):
    """u * (1 + v mixed over positions), as in gMLP (arXiv 2105.08050)."""

    def __init__(self, features: int, positions: int, use_bias: bool, rngs: Keys):
        self.intermediate_layernorm = LayerNorm(features)
        self.Dense_0 = Dense(positions, positions, use_bias, rngs)

    def __call__(self, u: Float[Array, "p r c"], v: Float[Array, "p r c"]) -> Float[Array, "p r c"]:
        return u * (self.Dense_0.mix(self.intermediate_layernorm(v)) + 1.0)


class GmlpLayer(nnx.Module):
    """gMLP along one axis, with a residual: the official GridGmlpLayer and BlockGmlpLayer."""

    def __init__(self, features: int, axes: Axes, factor: int, use_bias: bool, rngs: Keys):
        self.axes = axes
        self.LayerNorm = LayerNorm(features)
        self.in_project = Dense(features, features * factor, use_bias, rngs)
        unit = GatingUnit(features * factor // 2, axes.positions, use_bias, rngs)
        setattr(self, "GridGatingUnit" if axes.grid else "BlockGatingUnit", unit)
        self.out_project = Dense(features * factor // 2, features, use_bias, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        tokens = self.axes.tokens(x)
        unit = getattr(self, "GridGatingUnit" if self.axes.grid else "BlockGatingUnit")
        gated = unit(*_gelu_halves(self.in_project(self.LayerNorm(tokens))))
        return self.axes.image(tokens + self.out_project(gated), x.shape)


class MultiAxisGmlp(nnx.Module):
    """Half of the channels through the grid gMLP, half through the block gMLP."""

    def __init__(
        self, features: int, block: Size, grid: Size, factors: tuple[int, int, int], use_bias: bool, rngs: Keys
    ):
        block_factor, grid_factor, input_factor = factors
        half = features * input_factor // 2
        self.LayerNorm_in = LayerNorm(features)
        self.in_project = Dense(features, 2 * half, use_bias, rngs)
        self.GridGmlpLayer = GmlpLayer(half, Axes(grid, grid=True), grid_factor, use_bias, rngs)
        self.BlockGmlpLayer = GmlpLayer(half, Axes(block, grid=False), block_factor, use_bias, rngs)
        self.out_project = Dense(2 * half, features, use_bias, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        u, v = _gelu_halves(self.in_project(self.LayerNorm_in(x)))
        return x + self.out_project(jnp.concatenate([self.GridGmlpLayer(u), self.BlockGmlpLayer(v)], -1))


class SpatialGatingWeights(nnx.Module):
    """The gate that one signal holds over another: grid mixing of half of the channels, block mixing of the others."""

    def __init__(self, features: int, block: Size, grid: Size, input_factor: int, use_bias: bool, rngs: Keys):
        self.axes = (Axes(grid, grid=True), Axes(block, grid=False))
        half = features * input_factor // 2
        self.LayerNorm_in = LayerNorm(features)
        self.in_project = Dense(features, 2 * half, use_bias, rngs)
        self.Dense_0 = Dense(self.axes[0].positions, self.axes[0].positions, use_bias, rngs, bias=1.0)
        self.Dense_1 = Dense(self.axes[1].positions, self.axes[1].positions, use_bias, rngs, bias=1.0)
        self.out_project = Dense(2 * half, features, use_bias, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        u, v = _gelu_halves(self.in_project(self.LayerNorm_in(x)))
        grid, block = self.axes
        u = grid.image(self.Dense_0.mix(grid.tokens(u)), u.shape)
        v = block.image(self.Dense_1.mix(block.tokens(v)), v.shape)
        return self.out_project(jnp.concatenate([u, v], -1))


class CrossGatingBlock(nnx.Module):
    """Two signals that gate each other; y may come at half the size."""

    def __init__(
        self,
        features_x: int,
        features_y: int,
        features: int,
        block: Size,
        grid: Size,
        input_factor: int,
        use_bias: bool,
        rngs: Keys,
        upsample_y: bool = False,
    ):
        if upsample_y:
            self.ConvTranspose_0 = Doubling(features_y, features, use_bias, rngs)
        self.upsample_y = upsample_y
        self.Conv_0 = Pointwise(features_x, features, use_bias, rngs)
        self.Conv_1 = Pointwise(features if upsample_y else features_y, features, use_bias, rngs)
        self.LayerNorm_x, self.LayerNorm_y = LayerNorm(features), LayerNorm(features)
        self.in_project_x = Dense(features, features, use_bias, rngs)
        self.in_project_y = Dense(features, features, use_bias, rngs)
        self.SplitHeadMultiAxisGating_x = SpatialGatingWeights(features, block, grid, input_factor, use_bias, rngs)
        self.SplitHeadMultiAxisGating_y = SpatialGatingWeights(features, block, grid, input_factor, use_bias, rngs)
        self.out_project_x = Dense(features, features, use_bias, rngs)
        self.out_project_y = Dense(features, features, use_bias, rngs)

    def __call__(
        self, x: Float[Array, "n h w c"], y: Float[Array, "n hy wy d"]
    ) -> tuple[Float[Array, "n h w f"], Float[Array, "n h w f"]]:
        if self.upsample_y:
            y = self.ConvTranspose_0(y)
        shortcut_x, shortcut_y = self.Conv_0(x), self.Conv_1(y)
        x = nnx.gelu(self.in_project_x(self.LayerNorm_x(shortcut_x)))
        y = nnx.gelu(self.in_project_y(self.LayerNorm_y(shortcut_y)))
        gate_x, gate_y = self.SplitHeadMultiAxisGating_x(x), self.SplitHeadMultiAxisGating_y(y)
        y = self.out_project_y(y * gate_x) + shortcut_y
        return self.out_project_x(x * gate_y) + y + shortcut_x, y


class Doubling(nnx.Module):
    """Flax's 2x2 transposed convolution with stride 2: each pixel becomes four, by one matrix product."""

    def __init__(self, features_in: int, features_out: int, use_bias: bool, rngs: Keys):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out)) if use_bias else None

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n hh ww d"]:
        # Flax lays the kernel over the spread-out image without turning it, so its last row makes the upper pixel.
        kernel = rearrange(self.kernel[::-1, ::-1].astype(x.dtype), "i j c d -> c (i j d)")
        y = rearrange(x @ kernel, "n h w (i j d) -> n (h i) (w j) d", i=2, j=2)
        return y if self.bias is None else y + self.bias.astype(x.dtype)
