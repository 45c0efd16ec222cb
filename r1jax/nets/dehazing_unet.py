"""The U-Net of three scales that DehazeFormer and MixDehazeNet share, with the official names.

Images are in [-1, 1] here, not in [0, 1], as in the official code: feed 2x - 1, and clip and halve what comes out.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.convolution import convolve
from r1jax.nets.layers import conv, mean_pool, pad_to_multiple, pixel_shuffle


class DehazingUNet(nnx.Module):
    """The U-Net of three scales that DehazeFormer and MixDehazeNet share; subclasses say what a stage is.

    Predicts K and B of clean = K x - B + x from [b, h, w, 3] in [-1, 1]; any size.
    """

    def __init__(self, in_chans: int, out_chans: int, embed_dims: Sequence[int], merge_kernel: int, *, rngs: nnx.Rngs):
        e1, e2, e3, e4, e5 = embed_dims
        if (e1, e2) != (e5, e4):
            raise UsageError(f"embed_dims: want the same on the way up as down, got {list(embed_dims)}")
        self.patch_embed = _PatchEmbed(in_chans, e1, 3, 1, rngs)
        self.layer1 = self.stage(0, rngs)
        self.patch_merge1 = _PatchEmbed(e1, e2, merge_kernel, 2, rngs)
        self.skip1 = conv(e1, e1, 1, rngs)
        self.layer2 = self.stage(1, rngs)
        self.patch_merge2 = _PatchEmbed(e2, e3, merge_kernel, 2, rngs)
        self.skip2 = conv(e2, e2, 1, rngs)
        self.layer3 = self.stage(2, rngs)
        self.patch_split1 = _PatchUnembed(e3, e4, 1, 2, rngs)
        self.fusion1 = _SKFusion(e4, rngs)
        self.layer4 = self.stage(3, rngs)
        self.patch_split2 = _PatchUnembed(e4, e5, 1, 2, rngs)
        self.fusion2 = _SKFusion(e5, rngs)
        self.layer5 = self.stage(4, rngs)
        self.patch_unembed = _PatchUnembed(e5, out_chans, 3, 1, rngs)

    def stage(self, index: int, rngs: nnx.Rngs) -> nnx.Module:
        raise NotImplementedError

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, 4, "reflect")
        k, b = jnp.split(self._features(x), [1], -1)
        return (k * x - b + x)[:, :height, :width]

    def _features(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 4"]:
        skip1 = self.layer1(self.patch_embed(x))
        skip2 = self.layer2(self.patch_merge1(skip1))
        x = self.patch_split1(self.layer3(self.patch_merge2(skip2)))
        x = self.patch_split2(self.layer4(x + self.fusion1(x, self.skip2(skip2))))
        return self.patch_unembed(self.layer5(x + self.fusion2(x, self.skip1(skip1))))


class _PatchEmbed(nnx.Module):
    def __init__(self, features_in: int, features_out: int, kernel: int, patch: int, rngs: nnx.Rngs):
        self.proj = ReflectConv(features_in, features_out, kernel, rngs, stride=patch)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
        return self.proj(x)


class _PatchUnembed(nnx.Module):
    def __init__(self, features_in: int, features_out: int, kernel: int, patch: int, rngs: nnx.Rngs):
        self.proj = nnx.Sequential(ReflectConv(features_in, features_out * patch**2, kernel, rngs))
        self.patch = patch

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
        return pixel_shuffle(self.proj(x), self.patch)


class _SKFusion(nnx.Module):
    """Selective-kernel fusion (arXiv 1903.06586) of two maps: channel by channel a weighted mean."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        hidden = max(dim // 8, 4)
        down = conv(dim, hidden, 1, rngs, use_bias=False)
        up = conv(hidden, 2 * dim, 1, rngs, use_bias=False)
        self.mlp = nnx.Sequential(down, nnx.relu, up)

    def __call__(self, a: Float[Array, "b h w c"], b: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        logits = self.mlp(mean_pool(a + b))
        weight = jax.nn.softmax(rearrange(logits, "b h w (branch c) -> branch b h w c", branch=2), 0)
        return a * weight[0] + b * weight[1]


class ReflectConv(nnx.Conv):
    """A convolution that mirrors the border, without the edge pixel."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: int,
        rngs: nnx.Rngs,
        stride: int = 1,
    ):
        kwargs: Any = {"strides": (stride, stride), "padding": "VALID", "conv_general_dilated": convolve}
        super().__init__(features_in, features_out, (kernel, kernel), rngs=rngs, **kwargs)
        self.border = (kernel - 1) // 2

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:  # type: ignore[override]
        return super().__call__(jnp.pad(x, ((0, 0), (self.border,) * 2, (self.border,) * 2, (0, 0)), mode="reflect"))
