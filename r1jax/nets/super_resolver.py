"""Super-resolution x4 that works at the low resolution: EDSR's shape (arXiv 1707.02921), small."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.images.resize import resize_bicubic
from r1jax.nets.layers import ResidualBlock, conv3x3, pixel_shuffle
from r1jax.nets.registry import register_net


@register_net("super_resolver")
class SuperResolver(nnx.Module):
    """Maps [b, h, w, 3] to [b, 4h, 4w, 3]: the bicubic enlargement plus a learned difference."""

    def __init__(self, width: int = 64, depth: int = 8, *, rngs: nnx.Rngs):
        self.stem = conv3x3(3, width, rngs)
        self.blocks = nnx.Sequential(*[ResidualBlock(width, rngs) for _ in range(depth)])
        self.merge = conv3x3(width, width, rngs, scale=0.7)
        self.tail = conv3x3(width, 48, rngs, scale=0.0)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h4 w4 3"]:
        features = self.stem(x - 0.5)
        features = features + self.merge(self.blocks(features))
        base = resize_bicubic(jnp.asarray(x), 4 * x.shape[1], 4 * x.shape[2])
        return base + pixel_shuffle(self.tail(features), 4)
