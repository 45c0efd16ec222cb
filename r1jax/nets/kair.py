"""DRUNet (Zhang et al., arXiv 2008.13751) and FBCNN (Jiang et al., arXiv 2109.14573) as KAIR names them.

Both are U-Nets of four scales with plain residual blocks, strided convolutions down and transposed ones up.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.layers import UpConv, conv, mean_pool, pad_to_multiple, size_preserving
from r1jax.nets.registry import register_net

_HIDDEN = 512  # of FBCNN's quality layers, in every version


def _check_modes(act_mode: str, downsample_mode: str, upsample_mode: str) -> None:
    """The published checkpoints have one way down and up; others are named, not built."""
    for field, value, known in [
        ("act_mode", act_mode, "R"),
        ("downsample_mode", downsample_mode, "strideconv"),
        ("upsample_mode", upsample_mode, "convtranspose"),
    ]:
        if value != known:
            raise UsageError(f"{field} {value!r} is not supported; the published models have {known!r}")


class ResBlock(nnx.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, features: int, rngs: nnx.Rngs, use_bias: bool = True):
        convs = [conv(features, features, 3, rngs, use_bias=use_bias) for _ in range(2)]
        self.res = nnx.Sequential(convs[0], nnx.relu, convs[1])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x + self.res(x)


class QFAttention(ResBlock):
    """A residual block whose branch is scaled and shifted by what the quality factor says."""

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "b h w c"], gamma: Float[Array, "b 1 1 c"], beta: Float[Array, "b 1 1 c"]
    ) -> Float[Array, "b h w c"]:
        return x + gamma * self.res(x) + beta


def _blocks(features: int, num: int, rngs: nnx.Rngs, use_bias: bool) -> list[nnx.Module]:
    return [ResBlock(features, rngs, use_bias) for _ in range(num)]


def _down(features: int, wider: int, num: int, rngs: nnx.Rngs, use_bias: bool) -> nnx.Sequential:
    down = conv(features, wider, 2, rngs, stride=2, padding=0, use_bias=use_bias)
    return nnx.Sequential(*_blocks(features, num, rngs, use_bias), down)


@register_net("drunet")
class DRUNet(nnx.Module):
    """Denoises [b, h, w, in_nc], whose last channel is the noise level sigma / 255 everywhere.

    Args:
      in_nc, out_nc: channels in (the noise level included) and out. nc: features of the four scales.
      nb: residual blocks of each. Convolutions have no bias, as in the published checkpoints.
    """

    def __init__(
        self,
        in_nc: int = 4,
        out_nc: int = 3,
        nc: Sequence[int] = (64, 128, 256, 512),
        nb: int = 4,
        act_mode: str = "R",
        downsample_mode: str = "strideconv",
        upsample_mode: str = "convtranspose",
        *,
        rngs: nnx.Rngs,
    ):
        def up(features: int, narrower: int) -> nnx.Sequential:
            return nnx.Sequential(UpConv(features, narrower, rngs, False), *_blocks(narrower, nb, rngs, False))

        _check_modes(act_mode, downsample_mode, upsample_mode)
        self.m_head = conv(in_nc, nc[0], 3, rngs, use_bias=False)
        self.m_down1 = _down(nc[0], nc[1], nb, rngs, False)
        self.m_down2 = _down(nc[1], nc[2], nb, rngs, False)
        self.m_down3 = _down(nc[2], nc[3], nb, rngs, False)
        self.m_body = nnx.Sequential(*_blocks(nc[3], nb, rngs, False))
        self.m_up3 = up(nc[3], nc[2])
        self.m_up2 = up(nc[2], nc[1])
        self.m_up1 = up(nc[1], nc[0])
        self.m_tail = conv(nc[0], out_nc, 3, rngs, use_bias=False)

    @size_preserving(8, "edge")
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        x1 = self.m_head(x)
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        y = self.m_up3(self.m_body(x4) + x4)
        y = self.m_up1(self.m_up2(y + x3) + x2)
        return self.m_tail(y + x1)


@register_net("fbcnn")
class FBCNN(nnx.Module):
    """Removes JPEG artefacts of [b, h, w, in_nc]; estimates the quality factor, or takes it from the caller.

    Args:
      in_nc, out_nc: channels in and out. nc: features of the four scales, the last 512. nb: blocks of each scale.
    """

    def __init__(
        self,
        in_nc: int = 3,
        out_nc: int = 3,
        nc: Sequence[int] = (64, 128, 256, 512),
        nb: int = 4,
        act_mode: str = "R",
        downsample_mode: str = "strideconv",
        upsample_mode: str = "convtranspose",
        *,
        rngs: nnx.Rngs,
    ):
        _check_modes(act_mode, downsample_mode, upsample_mode)
        if nc[-1] != _HIDDEN:
            raise UsageError(f"nc: the last must be {_HIDDEN}, which the quality layers need, got {list(nc)}")

        def up(features: int, narrower: int) -> nnx.List:
            return nnx.List([UpConv(features, narrower, rngs), *[QFAttention(narrower, rngs) for _ in range(nb)]])

        def linear(features_out: int, features_in: int = _HIDDEN) -> nnx.Linear:
            return nnx.Linear(features_in, features_out, rngs=rngs)

        self.m_head = conv(in_nc, nc[0], 3, rngs)
        self.m_down1 = _down(nc[0], nc[1], nb, rngs, True)
        self.m_down2 = _down(nc[1], nc[2], nb, rngs, True)
        self.m_down3 = _down(nc[2], nc[3], nb, rngs, True)
        self.m_body_encoder = nnx.Sequential(*_blocks(nc[3], nb, rngs, True))
        self.m_body_decoder = nnx.Sequential(*_blocks(nc[3], nb, rngs, True))
        self.m_up3, self.m_up2, self.m_up1 = up(nc[3], nc[2]), up(nc[2], nc[1]), up(nc[1], nc[0])
        self.m_tail = conv(nc[0], out_nc, 3, rngs)
        layers: list[Callable] = [linear(_HIDDEN), nnx.relu, linear(_HIDDEN), nnx.relu, linear(1), nnx.sigmoid]
        self.qf_pred = nnx.Sequential(*_blocks(nc[3], nb, rngs, True), mean_pool, _flatten, *layers)
        layers = [linear(_HIDDEN, 1), nnx.relu, linear(_HIDDEN), nnx.relu, linear(_HIDDEN), nnx.relu]
        self.qf_embed = nnx.Sequential(*layers)
        self.to_gamma_3, self.to_beta_3 = nnx.Sequential(linear(nc[2])), nnx.Sequential(linear(nc[2]))
        self.to_gamma_2, self.to_beta_2 = nnx.Sequential(linear(nc[1])), nnx.Sequential(linear(nc[1]))
        self.to_gamma_1, self.to_beta_1 = nnx.Sequential(linear(nc[0])), nnx.Sequential(linear(nc[0]))

    def __call__(self, x: Float[Array, "b h w c"], qf_input: Float[Array, "b 1"] | None = None) -> Float[Array, "b h w d"]:
        """Returns the restored image; `qf_input` is 1 - QF / 100, and is estimated where it is None."""
        return self.with_quality(x, qf_input)[0]

    def with_quality(
        self, x: Float[Array, "b h w c"], qf_input: Float[Array, "b 1"] | None = None
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b 1"]]:
        """Returns (restored image, estimated 1 - QF / 100)."""
        height, width = x.shape[1:3]
        x1 = self.m_head(pad_to_multiple(x, 8, "edge"))
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        y = self.m_body_encoder(x4)
        quality = self.qf_pred(y)
        embedding = self.qf_embed(quality if qf_input is None else qf_input)
        y = self.m_body_decoder(y) + x4
        y = self._up(self.m_up3, self.to_gamma_3, self.to_beta_3, y, embedding) + x3
        y = self._up(self.m_up2, self.to_gamma_2, self.to_beta_2, y, embedding) + x2
        y = self._up(self.m_up1, self.to_gamma_1, self.to_beta_1, y, embedding) + x1
        return self.m_tail(y)[:, :height, :width], quality

    def _up(
        self, layers: nnx.List, to_gamma: nnx.Sequential, to_beta: nnx.Sequential, y: Array, embedding: Float[Array, "b e"]
    ) -> Array:
        gamma = nnx.sigmoid(to_gamma(embedding))[:, None, None]
        beta = jnp.tanh(to_beta(embedding))[:, None, None]
        y = layers[0](y)
        for block in layers[1:]:
            y = block(y, gamma, beta)
        return y


def _flatten(x: Float[Array, "b 1 1 c"]) -> Float[Array, "b c"]:
    return x[:, 0, 0]
