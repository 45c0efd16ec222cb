"""MPRNet (Zamir et al., arXiv 2102.02808) with the official names: three stages, on quarters, halves and the whole image."""

from collections.abc import Sequence
from typing import cast

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.layers import PReLU, conv, mean_pool, size_preserving
from r1jax.nets.registry import register_net


@register_net("mprnet")
class MPRNet(nnx.Module):
    """Maps [b, h, w, in_c] to [b, h, w, out_c]; any size, mirrored to a multiple of 8 inside.

    Args:
      n_feat: features at full size. scale_unetfeats: added with every scale. scale_orsnetfeats: added in the last stage.
      num_cab: attention blocks of each part of the last stage. reduction: of the channel attention. bias: of convolutions.
    """

    def __init__(
        self,
        in_c: int = 3,
        out_c: int = 3,
        n_feat: int = 80,
        scale_unetfeats: int = 48,
        scale_orsnetfeats: int = 32,
        num_cab: int = 8,
        kernel_size: int = 3,
        reduction: int = 4,
        bias: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        make = _Layers(kernel_size, reduction, bias, rngs)
        widths = [n_feat + level * scale_unetfeats for level in range(3)]
        last = n_feat + scale_orsnetfeats
        self.shallow_feat1 = nnx.Sequential(make.conv(in_c, n_feat), make.cab(n_feat))
        self.shallow_feat2 = nnx.Sequential(make.conv(in_c, n_feat), make.cab(n_feat))
        self.shallow_feat3 = nnx.Sequential(make.conv(in_c, n_feat), make.cab(n_feat))
        self.stage1_encoder = _Encoder(widths, make, fuses=False)
        self.stage1_decoder = _Decoder(widths, make)
        self.stage2_encoder = _Encoder(widths, make, fuses=True)
        self.stage2_decoder = _Decoder(widths, make)
        self.stage3_orsnet = _OriginalResolution(widths, last, num_cab, make)
        self.sam12 = _SupervisedAttention(n_feat, in_c, make)
        self.sam23 = _SupervisedAttention(n_feat, in_c, make)
        self.concat12 = make.conv(2 * n_feat, n_feat)
        self.concat23 = make.conv(2 * n_feat, last)
        self.tail = make.conv(last, out_c)

    @size_preserving(8, "reflect")
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        return self.stages(x)[0]

    def stages(self, x: Float[Array, "b h w c"]) -> tuple[Array, Array, Array]:
        """Returns the images of stages 3, 2 and 1; sides of x divide by 8."""
        halves = rearrange(x, "b (t h) w c -> (b t) h w c", t=2)
        quarters = rearrange(halves, "b h (l w) c -> (b l) h w c", l=2)
        encoded = [_side_by_side(y) for y in self.stage1_encoder(self.shallow_feat1(quarters))]
        decoded = self.stage1_decoder(encoded)
        attended, image1 = self.sam12(decoded[0], halves)
        features = self.concat12(jnp.concatenate([self.shallow_feat2(halves), attended], -1))
        encoded = [_on_top(y) for y in self.stage2_encoder(features, encoded, decoded)]
        decoded = self.stage2_decoder(encoded)
        attended, image2 = self.sam23(decoded[0], x)
        features = self.concat23(jnp.concatenate([self.shallow_feat3(x), attended], -1))
        image3 = self.tail(self.stage3_orsnet(features, encoded, decoded)) + x
        return image3, image2, _on_top(image1)


def _side_by_side(x: Float[Array, "b2 h w c"]) -> Float[Array, "b h w2 c"]:
    return rearrange(x, "(b l) h w c -> b h (l w) c", l=2)


def _on_top(x: Float[Array, "b2 h w c"]) -> Float[Array, "b h2 w c"]:
    return rearrange(x, "(b t) h w c -> b (t h) w c", t=2)


class _Layers:
    """What every part is made of: convolutions and attention blocks of one kind."""

    def __init__(self, size: int, reduction: int, bias: bool, rngs: nnx.Rngs):
        self.size, self.reduction, self.bias, self.rngs = size, reduction, bias, rngs

    def conv(self, features_in: int, features_out: int) -> nnx.Conv:
        return conv(features_in, features_out, self.size, self.rngs, use_bias=self.bias)

    def pointwise(self, features_in: int, features_out: int) -> nnx.Conv:
        return conv(features_in, features_out, 1, self.rngs, use_bias=self.bias)

    def mix(self, features_in: int, features_out: int) -> nnx.Conv:
        """The 1x1 convolution beside a change of size, which never has a bias."""
        return conv(features_in, features_out, 1, self.rngs, use_bias=False)

    def cab(self, features: int) -> "_AttentionBlock":
        return _AttentionBlock(features, self)

    def cabs(self, features: int, num: int = 2) -> nnx.Sequential:
        return nnx.Sequential(*[self.cab(features) for _ in range(num)])


class ChannelAttention(nnx.Module):
    """Scales every channel by what a small network makes of the channels' means."""

    def __init__(self, features: int, reduction: int, use_bias: bool, rngs: nnx.Rngs):
        squeezed = features // reduction
        down, up = (conv(a, b, 1, rngs, use_bias=use_bias) for a, b in ((features, squeezed), (squeezed, features)))
        self.conv_du = nnx.Sequential(down, nnx.relu, up, nnx.sigmoid)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x * self.conv_du(mean_pool(x))


class _AttentionBlock(nnx.Module):
    """x + attention(conv(prelu(conv(x)))). Officially all blocks share one slope, saved under each one's name."""

    def __init__(self, features: int, make: _Layers):
        self.CA = ChannelAttention(features, make.reduction, make.bias, make.rngs)
        self.body = nnx.Sequential(make.conv(features, features), PReLU(), make.conv(features, features))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x + self.CA(self.body(x))


class _SupervisedAttention(nnx.Module):
    """Makes an image of the features, and lets it say which features the next stage gets."""

    def __init__(self, features: int, channels: int, make: _Layers):
        self.conv1 = make.pointwise(features, features)
        self.conv2 = make.pointwise(features, channels)
        self.conv3 = make.pointwise(channels, features)

    def __call__(self, x: Float[Array, "b h w c"], image: Float[Array, "b h w d"]) -> tuple[Array, Array]:
        image = self.conv2(x) + image
        return self.conv1(x) * nnx.sigmoid(self.conv3(image)) + x, image


class _Encoder(nnx.Module):
    """Three scales; where it `fuses`, each takes in what the stage before had there."""

    def __init__(self, widths: Sequence[int], make: _Layers, fuses: bool):
        a, b, c = widths
        self.encoder_level1, self.encoder_level2, self.encoder_level3 = make.cabs(a), make.cabs(b), make.cabs(c)
        self.down12, self.down23 = _Down(a, b, make), _Down(b, c, make)
        self.fuses = fuses
        if fuses:
            self.csff_enc1, self.csff_enc2, self.csff_enc3 = (make.pointwise(width, width) for width in widths)
            self.csff_dec1, self.csff_dec2, self.csff_dec3 = (make.pointwise(width, width) for width in widths)

    def __call__(
        self, x: Float[Array, "b h w c"], encoded: Sequence[Array] = (), decoded: Sequence[Array] = ()
    ) -> list[Array]:
        """Returns the features of every scale, the finest first; `encoded` and `decoded` are the stage's before."""
        level1 = self._fused(0, self.encoder_level1(x), encoded, decoded)
        level2 = self._fused(1, self.encoder_level2(self.down12(level1)), encoded, decoded)
        level3 = self._fused(2, self.encoder_level3(self.down23(level2)), encoded, decoded)
        return [level1, level2, level3]

    def _fused(self, level: int, x: Array, encoded: Sequence[Array], decoded: Sequence[Array]) -> Array:
        if not self.fuses:
            return x
        from_encoder = (self.csff_enc1, self.csff_enc2, self.csff_enc3)[level]
        from_decoder = (self.csff_dec1, self.csff_dec2, self.csff_dec3)[level]
        return x + from_encoder(encoded[level]) + from_decoder(decoded[level])


class _Decoder(nnx.Module):
    def __init__(self, widths: Sequence[int], make: _Layers):
        a, b, c = widths
        self.decoder_level1, self.decoder_level2, self.decoder_level3 = make.cabs(a), make.cabs(b), make.cabs(c)
        self.skip_attn1, self.skip_attn2 = make.cab(a), make.cab(b)
        self.up21, self.up32 = _Up(b, a, make), _Up(c, b, make)

    def __call__(self, encoded: Sequence[Array]) -> list[Array]:
        level3 = self.decoder_level3(encoded[2])
        level2 = self.decoder_level2(self.up32(level3) + self.skip_attn2(encoded[1]))
        level1 = self.decoder_level1(self.up21(level2) + self.skip_attn1(encoded[0]))
        return [level1, level2, level3]


class _Down(nnx.Module):
    """Half the size, by means of 2x2 pixels, and more features."""

    def __init__(self, features: int, wider: int, make: _Layers):
        self.down = nnx.Sequential(_half, make.mix(features, wider))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
        return self.down(x)


class _Up(nnx.Module):
    """Twice the size, bilinearly, and fewer features."""

    def __init__(self, features: int, narrower: int, make: _Layers):
        self.up = nnx.Sequential(_double, make.mix(features, narrower))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws d"]:
        return _double(self.mixed(x))

    def mixed(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """The features before enlarging: the two commute, and this is a quarter of the work."""
        return self.up.layers[1](x)


def _half(x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws c"]:
    rows = x[:, ::2] + x[:, 1::2]
    return 0.25 * (rows[:, :, ::2] + rows[:, :, 1::2])


def _double(x: Float[Array, "b h w c"]) -> Float[Array, "b hs ws c"]:
    for axis in (1, 2):
        margins = [(0, 0)] * 4
        margins[axis] = (1, 1)
        near = 0.75 * x
        padded = 0.25 * jnp.pad(x, margins, mode="edge")
        before, after = (jnp.take(padded, jnp.arange(x.shape[axis]) + shift, axis) for shift in (0, 2))
        shape = [*x.shape]
        shape[axis] *= 2
        x = jnp.stack([near + before, near + after], axis + 1).reshape(shape)
    return x


class _ResidualBody(nnx.Module):
    def __init__(self, features: int, num: int, make: _Layers):
        # The closing convolution has no bias, whatever the others have.
        last = conv(features, features, make.size, make.rngs, use_bias=False)
        self.body = nnx.Sequential(*[make.cab(features) for _ in range(num)], last)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x + self.body(x)


class _OriginalResolution(nnx.Module):
    """Three bodies at full size; after each, one scale of the second stage is enlarged and added."""

    def __init__(self, widths: Sequence[int], last: int, num_cab: int, make: _Layers):
        a, b, c = widths
        self.orb1, self.orb2, self.orb3 = (_ResidualBody(last, num_cab, make) for _ in range(3))
        self.up_enc1, self.up_dec1 = _Up(b, a, make), _Up(b, a, make)
        self.up_enc2 = nnx.Sequential(_Up(c, b, make), _Up(b, a, make))
        self.up_dec2 = nnx.Sequential(_Up(c, b, make), _Up(b, a, make))
        self.conv_enc1, self.conv_enc2, self.conv_enc3 = (make.pointwise(a, last) for _ in range(3))
        self.conv_dec1, self.conv_dec2, self.conv_dec3 = (make.pointwise(a, last) for _ in range(3))

    def __call__(
        self, x: Float[Array, "b h w c"], encoded: Sequence[Array], decoded: Sequence[Array]
    ) -> Float[Array, "b h w c"]:
        x = self.orb1(x) + self.conv_enc1(encoded[0]) + self.conv_dec1(decoded[0])
        added = self.conv_enc2(self.up_enc1.mixed(encoded[1])) + self.conv_dec2(self.up_dec1.mixed(decoded[1]))
        x = self.orb2(x) + _double(added)
        added = self.conv_enc3(_mixed(self.up_enc2, encoded[2])) + self.conv_dec3(_mixed(self.up_dec2, decoded[2]))
        return self.orb3(x) + _double(_double(added))


def _mixed(ups: nnx.Sequential, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    for up in cast(list[_Up], ups.layers):
        x = up.mixed(x)
    return x
