"""FFDNet (Zhang et al., arXiv 1710.04026) with the official names, and a blind form that estimates its own noise map."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.layers import ResidualBlock, conv3x3, pad_to_multiple, pixel_shuffle, pixel_unshuffle
from r1jax.nets.registry import register_net


@register_net("ffdnet")
class FFDNet(nnx.Module):
    """Denoises at half resolution, given the noise level.

    Args:
      in_nc, out_nc: image channels. nc: features. nb: convolutions.
    """

    def __init__(self, in_nc: int = 3, out_nc: int = 3, nc: int = 96, nb: int = 12, *, rngs: nnx.Rngs):
        widths = [4 * in_nc + 1] + [nc] * (nb - 1) + [4 * out_nc]
        convs = [conv3x3(widths[i], widths[i + 1], rngs) for i in range(nb)]
        # Alternating, so that positions are those of the official `nn.Sequential`.
        self.model = nnx.Sequential(*[layer for conv in convs for layer in (conv, nnx.relu)][:-1])

    def __call__(self, x: Float[Array, "b h w c"], sigma: Float[Array, "b hs ws 1"]) -> Float[Array, "b h w c"]:
        """Returns the clean image; `sigma` is the noise's standard deviation in [0, 1], [b, 1, 1, 1] or at half size."""
        height, width = x.shape[1:3]
        halves = pixel_unshuffle(pad_to_multiple(x, 2), 2)
        sigma = jnp.broadcast_to(sigma, (*halves.shape[:3], 1))
        clean = self.model(jnp.concatenate([halves, sigma], -1))
        return pixel_shuffle(clean, 2)[:, :height, :width]


@register_net("blind_ffdnet")
class BlindFFDNet(nnx.Module):
    """FFDNet with a small network before it that estimates the noise map, as CBDNet (arXiv 1807.04686) does."""

    def __init__(self, nc: int = 96, nb: int = 12, width: int = 32, *, rngs: nnx.Rngs):
        self.denoiser = FFDNet(3, 3, nc, nb, rngs=rngs)
        self.stem = conv3x3(48, width, rngs)
        self.blocks = nnx.Sequential(ResidualBlock(width, rngs), ResidualBlock(width, rngs))
        self.head = conv3x3(width, 1, rngs, scale=0.1)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, 4)
        return self.denoiser(x, self.noise_map(x))[:, :height, :width]

    def noise_map(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b hs ws 1"]:
        """Returns the estimated standard deviation at half size; sides of x divide by 4."""
        features = self.blocks(nnx.relu(self.stem(pixel_unshuffle(x, 4) - 0.5)))
        quarter = 0.1 * nnx.softplus(self.head(features) + 0.5)
        return jnp.repeat(jnp.repeat(quarter, 2, 1), 2, 2)
