"""SwinIR (Liang et al., arXiv 2108.10257) with the official names: denoising, JPEG artefacts, super-resolution."""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.layers import Blocks, conv, conv3x3, layer_norm, nearest, pad_to_multiple, pixel_shuffle
from r1jax.nets.registry import register_net
from r1jax.nets.windows import Mlp, WindowAttention, buffers, relative_index, shift_regions

UPSAMPLERS = ("", "pixelshuffle", "pixelshuffledirect", "nearest+conv")
_RGB_MEAN = (0.4488, 0.4371, 0.4040)
_NUM_FEAT = 64


@register_net("swinir")
class SwinIR(nnx.Module):
    """Maps [b, h, w, c] to [b, upscale h, upscale w, c]; any size, mirrored to a multiple of the window inside.

    Args:
      img_size: of training patches; the published names carry it, results do not depend on it.
      embed_dim: features. depths, num_heads: blocks and heads of each group. window_size: side of a window.
      mlp_ratio: hidden features of a block's MLP. qkv_bias, qk_scale: of the attention.
      upscale: 1, 2, 3, 4 or 8. img_range: what the image is multiplied by inside.
      upsampler: "" for restoration, "pixelshuffle", "pixelshuffledirect" (lightweight) or "nearest+conv" (real photos).
      resi_connection: "1conv" or, in the large models, "3conv".

    Raises:
      UsageError: an upsampler, a scale or a connection that there is not.
    """

    def __init__(
        self,
        img_size: int = 64,
        patch_size: int = 1,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        upscale: int = 2,
        img_range: float = 1.0,
        upsampler: str = "",
        resi_connection: str = "1conv",
        num_feat: int = _NUM_FEAT,
        *,
        rngs: nnx.Rngs,
    ):
        if patch_size != 1:
            raise UsageError(f"patch_size: every published model has 1, got {patch_size}")
        self.window_size, self.mlp_ratio, self.upscale, self.img_range = window_size, mlp_ratio, upscale, img_range
        self.img_size = img_size
        self.qkv_bias, self.qk_scale, self.upsampler, self.resi_connection = qkv_bias, qk_scale, upsampler, resi_connection
        self.conv_first = conv3x3(in_chans, embed_dim, rngs)
        self.patch_embed = _PatchEmbed(embed_dim, rngs)
        groups = [self._group(embed_dim, depth, heads, rngs) for depth, heads in zip(depths, num_heads, strict=True)]
        self.layers = nnx.List(groups)
        self.norm = layer_norm(embed_dim, rngs)
        self.conv_after_body = residual_conv(embed_dim, resi_connection, rngs)
        self._add_upsampler(in_chans, embed_dim, num_feat, rngs)

    def _group(self, dim: int, depth: int, num_heads: int, rngs: nnx.Rngs) -> nnx.Module:
        def block(index: int) -> SwinBlock:
            shift = self.window_size // 2 if index % 2 else 0
            attention = WindowAttention(dim, self.window_size, num_heads, self.qkv_bias, self.qk_scale, rngs=rngs)
            return SwinBlock(dim, attention, shift, int(dim * self.mlp_ratio), rngs)

        return ResidualGroup(Blocks([block(i) for i in range(depth)]), dim, self.resi_connection, rngs)

    def _add_upsampler(self, channels: int, dim: int, num_feat: int, rngs: nnx.Rngs) -> None:
        if self.upsampler not in UPSAMPLERS:
            raise UsageError(f"upsampler: want one of {', '.join(map(repr, UPSAMPLERS))}, got {self.upsampler!r}")
        if self.upsampler == "pixelshuffledirect":
            self.upsample = shuffled(dim, channels, self.upscale, rngs)
            return
        if self.upsampler:
            leaky = functools.partial(nnx.leaky_relu, negative_slope=0.01)
            self.conv_before_upsample = nnx.Sequential(conv3x3(dim, num_feat, rngs), leaky)
        if self.upsampler == "pixelshuffle":
            self.upsample = shuffled_steps(num_feat, self.upscale, rngs)
        if self.upsampler == "nearest+conv":
            for step in range(1, _num_doublings(self.upscale) + 1):
                setattr(self, f"conv_up{step}", conv3x3(num_feat, num_feat, rngs))
            self.conv_hr = conv3x3(num_feat, num_feat, rngs)
        self.conv_last = conv3x3(num_feat if self.upsampler else dim, channels, rngs)

    def derived_buffers(self) -> dict[str, np.ndarray]:
        """What official checkpoints hold although it follows from the configuration, by official names."""
        index = relative_index(self.window_size)
        indices = buffers(self, "relative_position_index", index, lambda module: isinstance(module, WindowAttention))
        if self.img_size <= self.window_size:
            return indices
        region = shift_regions(self.img_size, self.img_size, self.window_size, self.window_size // 2)
        mask = np.where(region[:, None] == region[..., None], 0, -100).astype(np.float32)
        return indices | buffers(self, "attn_mask", mask, lambda module: isinstance(module, SwinBlock) and module.shift > 0)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws c"]:
        height, width, channels = x.shape[1:]
        mean = jnp.asarray(_RGB_MEAN if channels == 3 else [0.0], x.dtype)
        x = (pad_to_multiple(x, self.window_size, "reflect") - mean) * self.img_range
        y = self._reconstruct(x, self._features(self.conv_first(x))) / self.img_range + mean
        return y[:, : height * self.upscale, : width * self.upscale]

    def _features(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        body = self.patch_embed(x)
        for group in self.layers:
            body = group(body)
        return x + self.conv_after_body(self.norm(body))

    def _reconstruct(self, x: Float[Array, "b h w c"], features: Float[Array, "b h w d"]) -> Float[Array, "b hs ws c"]:
        if not self.upsampler:
            return x + self.conv_last(features)
        if self.upsampler == "pixelshuffledirect":
            return self.upsample(features)
        features = self.conv_before_upsample(features)
        if self.upsampler == "pixelshuffle":
            return self.conv_last(self.upsample(features))
        leaky = functools.partial(nnx.leaky_relu, negative_slope=0.2)
        for step in range(1, _num_doublings(self.upscale) + 1):
            features = leaky(getattr(self, f"conv_up{step}")(nearest(features, 2)))
        return self.conv_last(leaky(self.conv_hr(features)))


class _PatchEmbed(nnx.Module):
    """Patches are pixels: what is left of the embedding is its norm."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.norm = layer_norm(dim, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.norm(x)


class SwinBlock(nnx.Module):
    """Window attention and an MLP, each normalised before and added after."""

    def __init__(self, dim: int, attention: nnx.Module, shift: int, hidden: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = layer_norm(dim, rngs), layer_norm(dim, rngs)
        self.attn = attention
        self.mlp = Mlp(dim, hidden, rngs=rngs)
        self.shift = shift

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = x + self.attn(self.norm1(x), self.shift)
        return x + self.mlp(self.norm2(x))


class ResidualGroup(nnx.Module):
    """x + conv(blocks(x))."""

    def __init__(self, blocks: nnx.Module, dim: int, connection: str, rngs: nnx.Rngs):
        self.residual_group = blocks
        self.conv = residual_conv(dim, connection, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x + self.conv(self.residual_group(x))


def residual_conv(dim: int, connection: str, rngs: nnx.Rngs) -> Callable:
    """The convolution before a skip: one, three through a quarter of the features, or none."""
    if connection == "1conv":
        return conv3x3(dim, dim, rngs)
    if connection == "3conv":
        leaky = functools.partial(nnx.leaky_relu, negative_slope=0.2)
        narrow = conv(dim // 4, dim // 4, 1, rngs)
        return nnx.Sequential(conv3x3(dim, dim // 4, rngs), leaky, narrow, leaky, conv3x3(dim // 4, dim, rngs))
    if connection == "identity":
        return nnx.identity
    raise UsageError(f"resi_connection: want '1conv', '3conv' or 'identity', got {connection!r}")


def shuffled(features_in: int, features_out: int, factor: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """A convolution whose channels become pixels."""
    return nnx.Sequential(
        conv3x3(features_in, factor**2 * features_out, rngs), functools.partial(pixel_shuffle, factor=factor)
    )


def shuffled_steps(features: int, scale: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Enlarges by 3, or by 2 as often as needed."""
    factors = [3] if scale == 3 else [2] * _num_doublings(scale)
    return nnx.Sequential(*[layer for factor in factors for layer in shuffled(features, features, factor, rngs).layers])


def _num_doublings(scale: int) -> int:
    if scale < 1 or scale & (scale - 1):
        raise UsageError(f"upscale: want a power of 2 (or 3 for pixel shuffles), got {scale}")
    return int(np.log2(scale))
