"""SCUNet (Zhang et al., arXiv 2203.13278) with the official names: a U-Net of blocks half convolution, half attention."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.layers import UpConv, conv, gelu, layer_norm, pad_to_multiple
from r1jax.nets.registry import register_net
from r1jax.nets.windows import relative_offsets, roll_back, window_attention

_WINDOW = 8
_MULTIPLE = 64


@register_net("scunet")
class SCUNet(nnx.Module):
    """Blind denoiser of [b, h, w, c] in [0, 1]; any size.

    Args:
      in_nc: channels. config: blocks of the seven stages. dim: features at full size. head_dim: of an attention head.
      input_resolution: of training patches; a stage that shrinks it to one window does not shift its windows.
      official_pad: the authors repeat the edge up to a multiple of 64; False mirrors, as spandrel does.
    """

    def __init__(
        self,
        in_nc: int = 3,
        config: Sequence[int] = (4, 4, 4, 4, 4, 4, 4),
        dim: int = 64,
        drop_path_rate: float = 0.0,
        input_resolution: int = 256,
        head_dim: int = 32,
        official_pad: bool = True,
        *,
        rngs: nnx.Rngs,
    ):
        def blocks(stage: int, level: int) -> list[nnx.Module]:
            features, one_window = dim * 2**level, input_resolution // 2**level <= _WINDOW
            shifts = [0 if i % 2 == 0 or one_window else _WINDOW // 2 for i in range(config[stage])]
            return [_ConvTransBlock(features, shift, head_dim, rngs) for shift in shifts]

        def down(level: int) -> nnx.Module:
            return conv(dim * 2**level, dim * 2 ** (level + 1), 2, rngs, stride=2, padding=0, use_bias=False)

        def up(level: int) -> nnx.Module:
            return UpConv(dim * 2 ** (level + 1), dim * 2**level, rngs, use_bias=False)

        self.m_head = nnx.Sequential(conv(in_nc, dim, 3, rngs, use_bias=False))
        self.m_down1 = nnx.Sequential(*blocks(0, 0), down(0))
        self.m_down2 = nnx.Sequential(*blocks(1, 1), down(1))
        self.m_down3 = nnx.Sequential(*blocks(2, 2), down(2))
        self.m_body = nnx.Sequential(*blocks(3, 3))
        self.m_up3 = nnx.Sequential(up(2), *blocks(4, 2))
        self.m_up2 = nnx.Sequential(up(1), *blocks(5, 1))
        self.m_up1 = nnx.Sequential(up(0), *blocks(6, 0))
        self.m_tail = nnx.Sequential(conv(dim, in_nc, 3, rngs, use_bias=False))
        self.pad_mode = "edge" if official_pad else "reflect"

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        height, width = x.shape[1:3]
        x1 = self.m_head(pad_to_multiple(x, _MULTIPLE, self.pad_mode))
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        x = self.m_body(x4)
        x = self.m_up3(x + x4)
        x = self.m_up2(x + x3)
        x = self.m_up1(x + x2)
        return self.m_tail(x + x1)[:, :height, :width]


class _ConvTransBlock(nnx.Module):
    """Half of the channels through convolutions, half through window attention, both mixed before and after."""

    def __init__(self, features: int, shift: int, head_dim: int, rngs: nnx.Rngs):
        half = features // 2
        self.trans_block = _TransBlock(half, shift, head_dim, rngs)
        self.conv1_1 = conv(features, features, 1, rngs)
        self.conv1_2 = conv(features, features, 1, rngs)
        first, second = (conv(half, half, 3, rngs, use_bias=False) for _ in range(2))
        self.conv_block = nnx.Sequential(first, nnx.relu, second)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        conv_x, trans_x = jnp.split(self.conv1_1(x), 2, -1)
        conv_x = conv_x + self.conv_block(conv_x)
        return x + self.conv1_2(jnp.concatenate([conv_x, self.trans_block(trans_x)], -1))


class _TransBlock(nnx.Module):
    def __init__(self, dim: int, shift: int, head_dim: int, rngs: nnx.Rngs):
        self.ln1, self.ln2 = layer_norm(dim, rngs), layer_norm(dim, rngs)
        self.msa = _WindowAttention(dim, shift, head_dim, rngs)
        self.mlp = nnx.Sequential(nnx.Linear(dim, 4 * dim, rngs=rngs), gelu, nnx.Linear(4 * dim, dim, rngs=rngs))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = x + self.msa(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class _WindowAttention(nnx.Module):
    """Swin's attention with its table of relative positions as a plane per head."""

    def __init__(self, dim: int, shift: int, head_dim: int, rngs: nnx.Rngs):
        init, side = nnx.initializers.truncated_normal(0.02), 2 * _WINDOW - 1
        self.relative_position_params = nnx.Param(init(rngs.params(), (dim // head_dim, side, side)))
        self.embedding_layer = nnx.Linear(dim, 3 * dim, rngs=rngs)
        self.linear = nnx.Linear(dim, dim, rngs=rngs)
        self.shift, self.num_heads = shift, dim // head_dim

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        rows, columns = -relative_offsets(_WINDOW).transpose(2, 0, 1) + _WINDOW - 1
        bias = self.relative_position_params.get_value()[:, rows, columns]
        q, k, v = jnp.split(self.embedding_layer(roll_back(x, self.shift)), 3, -1)
        x = window_attention(q, k, v, self.num_heads, _WINDOW, bias, shift=self.shift)
        return roll_back(self.linear(x), -self.shift)
