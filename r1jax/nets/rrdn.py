"""RRDN, idealo's network for super-resolution (github.com/idealo/image-super-resolution): dense blocks in residuals.

Layers carry the names of the official Keras code. Images are NHWC in [0, 1].
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.layers import conv
from r1jax.nets.registry import register_net

_BETA = 0.2  # share of a residual branch


@register_net("rrdn")
class RRDN(nnx.Module):
    """Enlarges [b, h, w, 3] by `x`; values are not clipped.

    Args:
      C, D, T: convolutions of a dense block, dense blocks of a residual block, residual blocks.
      G, G0: features that each convolution of a dense block adds, and those between blocks.
    """

    def __init__(self, C: int = 4, D: int = 3, G: int = 32, G0: int = 64, T: int = 10, x: int = 4, *, rngs: nnx.Rngs):
        self.num_convs, self.num_dense, self.num_blocks, self.scale = C, D, T, x
        self.Pre_blocks_conv = conv(3, G0, 3, rngs)
        for t in range(1, T + 1):
            for d in range(1, D + 1):
                for c in range(1, C + 1):
                    setattr(self, f"F_{t}_{d}_{c}", conv(G0 + (c - 1) * G, G, 3, rngs))
                setattr(self, f"LFF_{t}_{d}", conv(G0 + C * G, G0, 3, rngs))
        self.post_blocks_conv = conv(G0, G0, 3, rngs)
        self.PreShuffle = conv(G0, 3 * x * x, 3, rngs)
        self.SR = conv(3, 3, 3, rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b hs ws 3"]:
        first = y = self.Pre_blocks_conv(x)
        for t in range(1, self.num_blocks + 1):
            y = y + _BETA * self._block(t, y)
        y = self.PreShuffle(self.post_blocks_conv(y) + first)
        # TensorFlow's depth_to_space keeps the colours of a pixel together; torch's pixel shuffle does not.
        return self.SR(rearrange(y, "b h w (ry rx c) -> b (h ry) (w rx) c", ry=self.scale, rx=self.scale))

    def _block(self, t: int, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        for d in range(1, self.num_dense + 1):
            dense = x
            for c in range(1, self.num_convs + 1):
                dense = jnp.concatenate([dense, nnx.relu(getattr(self, f"F_{t}_{d}_{c}")(dense))], -1)
            x = x + _BETA * getattr(self, f"LFF_{t}_{d}")(dense)
        return x
