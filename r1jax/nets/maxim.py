"""MAXIM (Tu et al., arXiv 2201.02973): multi-stage U-Nets of multi-axis gated MLPs.

Submodules carry the names of the official Flax code, google-research/maxim, and weights keep its layouts. Images are
NHWC in [0, 1].
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.multi_axis import (
    Convolution,
    CrossGatingBlock,
    Dense,
    Doubling,
    Keys,
    LayerNorm,
    MultiAxisGmlp,
    Pointwise,
    Size,
)
from r1jax.nets.registry import register_net

# The published sizes: S-1, S-2, S-3 and M-1, M-2, M-3, by stages.
VARIANTS = {
    f"{letter}-{stages}": {"features": features, "num_stages": stages, "num_groups": 2, "num_bottleneck_blocks": 2}
    for letter, features in (("S", 32), ("M", 64))
    for stages in (1, 2, 3)
}


class ChannelAttention(nnx.Module):
    """Squeeze and excitation: the official CALayer."""

    def __init__(self, features: int, reduction: int, use_bias: bool, rngs: Keys):
        self.Conv_0 = Pointwise(features, features // reduction, use_bias, rngs)
        self.Conv_1 = Pointwise(features // reduction, features, use_bias, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        pooled = jnp.mean(x, (1, 2), keepdims=True)
        return x * nnx.sigmoid(self.Conv_1(nnx.relu(self.Conv_0(pooled))))


class ResidualChannelAttention(nnx.Module):
    """Norm, two convolutions, channel attention, residual: the official RCAB."""

    def __init__(self, features: int, reduction: int, use_bias: bool, rngs: Keys):
        self.LayerNorm = LayerNorm(features)
        self.conv1 = Convolution(features, features, use_bias, rngs)
        self.conv2 = Convolution(features, features, use_bias, rngs)
        self.channel_attention = ChannelAttention(features, reduction, use_bias, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return x + self.channel_attention(self.conv2(nnx.leaky_relu(self.conv1(self.LayerNorm(x)), 0.2)))


class ChannelMlp(nnx.Module):
    """The official MlpBlock."""

    def __init__(self, features: int, use_bias: bool, rngs: Keys):
        self.Dense_0 = Dense(features, features, use_bias, rngs)
        self.Dense_1 = Dense(features, features, use_bias, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return self.Dense_1(nnx.gelu(self.Dense_0(x)))


class DenseChannelAttention(nnx.Module):
    """Norm, channel MLP, channel attention, residual: the official RDCAB."""

    def __init__(self, features: int, reduction: int, use_bias: bool, rngs: Keys):
        self.LayerNorm = LayerNorm(features)
        self.channel_mixing = ChannelMlp(features, use_bias, rngs)
        self.channel_attention = ChannelAttention(features, reduction, use_bias, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return x + self.channel_attention(self.channel_mixing(self.LayerNorm(x)))


class Resized(nnx.Module):
    """Bilinear resizing by a power of two, then a 1x1 convolution: the official UpSampleRatio.

    Both are linear and the weights of each pixel sum to one, so the cheaper order is taken.
    """

    def __init__(self, features_in: int, features_out: int, log2_ratio: int, use_bias: bool, rngs: Keys):
        self.log2_ratio = log2_ratio
        self.Conv_0 = Pointwise(features_in, features_out, use_bias, rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n hs ws d"]:
        if self.log2_ratio > 0:
            return enlarge(self.Conv_0(x), 2**self.log2_ratio)
        return self.Conv_0(shrink(x, 2**-self.log2_ratio) if self.log2_ratio else x)


def shrink(x: Float[Array, "n h w c"], factor: int) -> Float[Array, "n hs ws c"]:
    """`jax.image.resize(..., "bilinear")` to 1 / factor: a triangle as wide as two output pixels, both axes in turn."""
    taps = [min(2 * k + 1, 4 * factor - 2 * k - 1) for k in range(2 * factor)]
    for axis in (1, 2):
        size = x.shape[axis] // factor
        x = _pad(x, axis, factor // 2, factor // 2)
        parts = [tap * _every(x, axis, k, factor, size) for k, tap in enumerate(taps)]
        # At the two ends, where taps fall outside, the others are scaled up.
        outside = sum(taps[: factor // 2])
        norm = jnp.full(size, 1 / sum(taps)).at[jnp.array([0, size - 1])].set(1 / (sum(taps) - outside))
        if size == 1:
            norm = jnp.full(1, 1 / (sum(taps) - 2 * outside))
        x = sum(parts[1:], parts[0]) * jnp.expand_dims(norm.astype(x.dtype), [a for a in range(4) if a != axis])
    return x


def enlarge(x: Float[Array, "n h w c"], factor: int) -> Float[Array, "n hl wl c"]:
    """`jax.image.resize(..., "bilinear")` to an even factor: each pixel becomes `factor` mixtures with its neighbours."""
    for axis in (1, 2):
        size = x.shape[axis]
        edges = jnp.take(x, jnp.array([0]), axis), jnp.take(x, jnp.array([size - 1]), axis)
        padded = jnp.concatenate([edges[0], x, edges[1]], axis)
        before, after = _every(padded, axis, 0, 1, size), _every(padded, axis, 2, 1, size)
        shares = [(k + 0.5) / factor - 0.5 for k in range(factor)]
        parts = [x * (1 - abs(share)) + abs(share) * (before if share < 0 else after) for share in shares]
        shape = [*x.shape[:axis], size * factor, *x.shape[axis + 1 :]]
        x = jnp.stack(parts, axis + 1).reshape(shape)
    return x


def _pad(x: Array, axis: int, before: int, after: int) -> Array:
    return jnp.pad(x, [(before, after) if a == axis else (0, 0) for a in range(x.ndim)])


def _every(x: Array, axis: int, start: int, stride: int, count: int) -> Array:
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, start + stride * (count - 1) + 1, stride)
    return x[tuple(index)]


class Bottleneck(nnx.Module):
    """Multi-axis MLPs and channel attention at the lowest resolution."""

    def __init__(self, features_in: int, config: Any, rngs: Keys):
        features, self.num_groups = config.width(config.depth - 1), config.num_groups
        self.input_proj = Pointwise(features_in, features, config.use_bias, rngs)
        for i in range(self.num_groups):
            setattr(self, f"SplitHeadMultiAxisGmlpLayer_{i}", config.multi_axis(features, config.depth, rngs))
            attention = DenseChannelAttention(features, config.channels_reduction, config.use_bias, rngs)
            setattr(self, f"channel_attention_block_1_{i}", attention)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        x = shortcut = self.input_proj(x)
        for i in range(self.num_groups):
            x = getattr(self, f"SplitHeadMultiAxisGmlpLayer_{i}")(x)
            x = getattr(self, f"channel_attention_block_1_{i}")(x)
        return x + shortcut


class EncoderBlock(nnx.Module):
    """The blocks of one level, fused with the features of the stage before where there is one."""

    def __init__(self, features_in: int, level: int, config: Any, rngs: Keys, fuse: bool = False, down: bool = True):
        features, self.num_groups, self.fuse, self.down = config.width(level), config.num_groups, fuse, down
        self.Conv_0 = Pointwise(features_in, features, config.use_bias, rngs)
        for i in range(self.num_groups):
            setattr(self, f"SplitHeadMultiAxisGmlpLayer_{i}", config.multi_axis(features, level, rngs))
            attention = ResidualChannelAttention(features, config.channels_reduction, config.use_bias, rngs)
            setattr(self, f"channel_attention_block_1{i}", attention)
        if fuse:
            self.cross_gating_block = config.cross_gating(features, features, level, rngs)
        if down:
            self.Conv_1 = Convolution(features, features, config.use_bias, rngs, size=4, stride=2)

    def __call__(
        self, x: Float[Array, "n h w c"], previous: Float[Array, "n h w d"] | None = None
    ) -> tuple[Float[Array, "n hs ws d"], Float[Array, "n h w d"]]:
        """Returns the features for the level below (if `down`, else the same again) and those of this level."""
        x = shortcut = self.Conv_0(x)
        for i in range(self.num_groups):
            x = getattr(self, f"SplitHeadMultiAxisGmlpLayer_{i}")(x)
            x = getattr(self, f"channel_attention_block_1{i}")(x)
        x = x + shortcut
        if self.fuse:
            x, _ = self.cross_gating_block(x, previous)
        return self.Conv_1(x) if self.down else x, x


class DecoderBlock(nnx.Module):
    """Doubles the resolution and joins the skip features."""

    def __init__(self, features_in: int, features_skip: int, level: int, config: Any, rngs: Keys):
        features = config.width(level)
        self.ConvTranspose_0 = Doubling(features_in, features, config.use_bias, rngs)
        self.UNetEncoderBlock_0 = EncoderBlock(features + features_skip, level, config, rngs, down=False)

    def __call__(self, x: Float[Array, "n h w c"], skip: Float[Array, "n hl wl s"]) -> Float[Array, "n hl wl d"]:
        return self.UNetEncoderBlock_0(jnp.concatenate([self.ConvTranspose_0(x), skip], -1))[1]


class SupervisedAttention(nnx.Module):
    """The image of a stage, and its features gated by that image for the next: the official SAM."""

    def __init__(self, features: int, outputs: int, use_bias: bool, rngs: Keys):
        self.Conv_0 = Convolution(features, features, use_bias, rngs)
        self.Conv_1 = Convolution(features, outputs, use_bias, rngs)
        self.Conv_2 = Convolution(outputs, features, use_bias, rngs)

    def __call__(
        self, x: Float[Array, "n h w c"], photo: Float[Array, "n h w 3"]
    ) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w 3"]]:
        image = self.Conv_1(x) + photo
        return self.Conv_0(x) * nnx.sigmoid(self.Conv_2(image)) + x, image


@register_net("maxim")
class MAXIM(nnx.Module):
    """All task heads of the paper are this network with other weights.

    Args:
      variant: "S-1", ..., "M-3" sets features, num_stages, num_groups and num_bottleneck_blocks; else they are given.
      features: width at full resolution. num_supervision_scales: scales of the output and of the image that goes in.
      high_res_stages: levels that use the sizes `_hr` of blocks and grids; the others use `block_size_lr`.
      dtype: what it computes in; weights and the image that comes out are float32.
      grid_size_lr, dropout_rate: accepted as in the official constructor, which does not use them at inference.
    """

    def __init__(
        self,
        variant: str | None = None,
        features: int = 64,
        depth: int = 3,
        num_stages: int = 2,
        num_groups: int = 1,
        use_bias: bool = True,
        num_supervision_scales: int = 3,
        high_res_stages: int = 2,
        block_size_hr: Size = (16, 16),
        block_size_lr: Size = (8, 8),
        grid_size_hr: Size = (16, 16),
        grid_size_lr: Size = (8, 8),
        num_bottleneck_blocks: int = 1,
        block_gmlp_factor: int = 2,
        grid_gmlp_factor: int = 2,
        input_proj_factor: int = 2,
        channels_reduction: int = 4,
        num_outputs: int = 3,
        dropout_rate: float = 0.0,
        dtype: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        chosen = VARIANTS[variant] if variant else {}
        self.features, self.depth = chosen.get("features", features), depth
        self.num_stages, self.num_groups = chosen.get("num_stages", num_stages), chosen.get("num_groups", num_groups)
        self.num_bottleneck_blocks = chosen.get("num_bottleneck_blocks", num_bottleneck_blocks)
        self.use_bias, self.num_scales, self.high_res_stages = use_bias, num_supervision_scales, high_res_stages
        self.block_sizes, self.grid_sizes = (block_size_hr, block_size_lr), (grid_size_hr, block_size_lr)
        self.factors = (block_gmlp_factor, grid_gmlp_factor, input_proj_factor)
        self.channels_reduction, self.num_outputs, self.dtype = channels_reduction, num_outputs, jnp.dtype(dtype)
        keys = Keys(rngs.params())
        for stage in range(self.num_stages):
            self._build_stage(stage, keys)

    # --- What the blocks are made with ---

    def width(self, level: int) -> int:
        """Features of a level; 0 is full resolution."""
        return 2**level * self.features

    def _sizes(self, level: int) -> tuple[Size, Size]:
        low = int(level >= self.high_res_stages)
        return self.block_sizes[low], self.grid_sizes[low]

    def multi_axis(self, features: int, level: int, rngs: Keys) -> MultiAxisGmlp:
        return MultiAxisGmlp(features, *self._sizes(level), self.factors, self.use_bias, rngs)

    def cross_gating(self, x: int, y: int, level: int, rngs: Keys, upsample_y: bool = False) -> CrossGatingBlock:
        sizes, factor = self._sizes(level), self.factors[2]
        return CrossGatingBlock(x, y, self.width(level), *sizes, factor, self.use_bias, rngs, upsample_y=upsample_y)

    def _build_stage(self, stage: int, rngs: Keys) -> None:
        name, depth, bias = f"stage_{stage}", self.depth, self.use_bias
        for i in range(self.num_scales):
            setattr(self, f"{name}_input_conv_{i}", Convolution(3, self.width(i), bias, rngs))
            if stage:
                fuse = self.cross_gating(self.width(i), self.width(i), i, rngs)
                setattr(self, f"{name}_input_fuse_sam_{i}", fuse)
        for i in range(depth):
            # Level 0 takes the features of the image twice: as what enters, and as that scale's own.
            entering = self.width(max(i - 1, 0)) + self.width(i) * (i < self.num_scales)
            setattr(self, f"{name}_encoder_block_{i}", EncoderBlock(entering, i, self, rngs, fuse=stage > 0))
        for i in range(self.num_bottleneck_blocks):
            setattr(self, f"{name}_global_block_{i}", Bottleneck(self.width(depth - 1), self, rngs))
        for i in reversed(range(depth)):
            above = self.width(min(i + 1, depth - 1))
            block = self.cross_gating(depth * self.width(i), above, i, rngs, upsample_y=True)
            setattr(self, f"{name}_cross_gating_block_{i}", block)
            setattr(self, f"{name}_decoder_block_{i}", DecoderBlock(above, depth * self.width(i), i, self, rngs))
            if i < self.num_scales:
                last = stage == self.num_stages - 1
                head = "output_conv" if last else "supervised_attention_module"
                made: Any = Convolution(self.width(i), self.num_outputs, bias, rngs)
                if not last:
                    made = SupervisedAttention(self.width(i), self.num_outputs, bias, rngs)
                setattr(self, f"{name}_{head}_{i}", made)
            for j in range(depth):
                # Numbered in the order of the official calls: encoders' features first, then skip features, coarse first.
                number = 2 * depth * depth * stage + depth * (depth - 1 - i) + j
                self._set_resized(number, j, i, rngs)
                self._set_resized(number + depth * depth, depth - 1 - j, i, rngs)

    def _set_resized(self, number: int, source: int, target: int, rngs: Keys) -> None:
        resized = Resized(self.width(source), self.width(target), source - target, self.use_bias, rngs)
        setattr(self, f"UpSampleRatio_{number}", resized)

    # --- Inference ---

    @property
    def multiple(self) -> int:
        """What both sides of an image must divide by inside: 64 for the published sizes."""
        high, low = max(*self.block_sizes[0], *self.grid_sizes[0]), max(self.block_sizes[1])
        return max(high * 2 ** (self.high_res_stages - 1), low * 2**self.depth)

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Weights that `__call__` does not use, so that exported graphs lack them: the last stage's coarse images."""
        return tuple(f"stage_{self.num_stages - 1}_output_conv_{i}/" for i in range(1, self.num_scales))

    def __call__(self, x: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        """Returns the restored image of the last stage at full resolution, float32, not clipped; any size of x."""
        height, width = x.shape[1:3]
        padded, top, left = pad_as_official(x, self.multiple)
        return self.outputs(padded)[-1][-1][:, top : top + height, left : left + width]

    def outputs(self, x: Float[Array, "n h w 3"]) -> list[list[Float[Array, "n hs ws 3"]]]:
        """Returns every stage's images, coarse to fine; the sides of x divide by `multiple`."""
        photos = [x[:, 2**i // 2 :: 2**i, 2**i // 2 :: 2**i].astype(self.dtype) for i in range(self.num_scales)]
        outputs: list[list[Array]] = []
        handed: tuple[list[Array], ...] = ([], [], [])
        for stage in range(self.num_stages):
            images, handed = self._stage(stage, photos, handed)
            outputs.append([image.astype(jnp.float32) for image in images])
        return outputs

    def _stage(
        self, stage: int, photos: list[Array], handed: tuple[list[Array], ...]
    ) -> tuple[list[Array], tuple[list[Array], ...]]:
        """Returns the images and what the next stage takes: gated, encoder and decoder features, by level."""

        def part(name: str) -> Any:
            return getattr(self, f"stage_{stage}_{name}")

        gated, encoded_before, decoded_before = handed
        scales = [part(f"input_conv_{i}")(photo) for i, photo in enumerate(photos)]
        if stage:
            scales = [part(f"input_fuse_sam_{i}")(scale, gated[i])[0] for i, scale in enumerate(scales)]
        x, encoded = scales[0], []
        for i in range(self.depth):
            x = jnp.concatenate([x, scales[i]], -1) if i < self.num_scales else x
            previous = encoded_before[i] + decoded_before[i] if stage else None
            x, features = part(f"encoder_block_{i}")(x, previous)
            encoded.append(features)
        for i in range(self.num_bottleneck_blocks):
            x = part(f"global_block_{i}")(x)
        return self._decode(stage, part, photos, encoded, x)

    def _decode(
        self, stage: int, part: Any, photos: list[Array], encoded: list[Array], bottom: Array
    ) -> tuple[list[Array], tuple[list[Array], ...]]:
        depth, gate, x = self.depth, bottom, bottom
        first = 2 * depth * depth * stage
        skips: list[Array] = []
        for row, i in enumerate(reversed(range(depth))):
            skip, gate = part(f"cross_gating_block_{i}")(self._gather(first + depth * row, encoded), gate)
            skips.append(skip)
        images, gated, decoded = [], [], []
        for row, i in enumerate(reversed(range(depth))):
            x = part(f"decoder_block_{i}")(x, self._gather(first + depth * (depth + row), skips))
            decoded.append(x)
            if i < self.num_scales and stage == self.num_stages - 1:
                images.append(part(f"output_conv_{i}")(x).astype(jnp.float32) + photos[i])
            elif i < self.num_scales:
                features, image = part(f"supervised_attention_module_{i}")(x, photos[i])
                images.append(image)
                gated.append(features)
        return images, (gated[::-1], encoded, decoded[::-1])

    def _gather(self, first: int, features: list[Array]) -> Array:
        """Features of all levels, each resized by the next UpSampleRatio from number `first` on."""
        return jnp.concatenate([getattr(self, f"UpSampleRatio_{first + j}")(x) for j, x in enumerate(features)], -1)


def pad_as_official(x: Float[Array, "n h w 3"], multiple: int) -> tuple[Float[Array, "n hp wp 3"], int, int]:
    """Mirrors x to even sides and then, half on each side, to multiples; returns it with its place (top, left)."""
    even = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)], mode="reflect")
    top, left = (-even.shape[1] % multiple // 2, -even.shape[2] % multiple // 2)
    return jnp.pad(even, [(0, 0), (top, top), (left, left), (0, 0)], mode="reflect"), top, left
