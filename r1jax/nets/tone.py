"""Two small networks that change tone, not detail: they look at a shrunken image and change the full-size one by a formula.

`HazeNet` inverts the atmospheric scattering model with a smooth transmission map, as AOD-Net (arXiv 1707.06543) and its kin
do; `CurveNet` applies one brightness curve to the whole image, in the spirit of Zero-DCE (arXiv 2001.06826).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.layers import ResidualBlock, conv3x3, pixel_unshuffle, size_preserving
from r1jax.nets.registry import register_net


class _Pyramid(nnx.Module):
    """Features of an image at a quarter, and at a sixteenth of its size with the global mean mixed in."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.stem = conv3x3(48, width, rngs)
        self.fine = ResidualBlock(width, rngs)
        self.down1 = conv3x3(width, width, rngs, stride=2)
        self.middle = ResidualBlock(width, rngs)
        self.down2 = conv3x3(width, 2 * width, rngs, stride=2)
        self.coarse = nnx.Sequential(ResidualBlock(2 * width, rngs), ResidualBlock(2 * width, rngs))
        self.summary = nnx.Linear(6 * width, 2 * width, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b hs ws d"]:
        fine = self.fine(nnx.relu(self.stem(pixel_unshuffle(x, 4) - 0.5)))
        middle = self.middle(nnx.relu(self.down1(fine)))
        coarse = self.coarse(nnx.relu(self.down2(middle)))
        whole = jnp.concatenate([coarse.mean((1, 2)), coarse.max((1, 2)), coarse.min((1, 2))], -1)
        return coarse + nnx.relu(self.summary(whole))[:, None, None]


@register_net("haze_net")
class HazeNet(nnx.Module):
    """Removes haze: predicts transmission t (smooth) and airlight A, returns (x - A (1 - t)) / t."""

    def __init__(self, width: int = 32, *, rngs: nnx.Rngs):
        self.pyramid = _Pyramid(width, rngs)
        self.transmission = conv3x3(2 * width, 1, rngs, scale=0.1)
        self.airlight = nnx.Linear(2 * width, 3, rngs=rngs)

    @size_preserving(16)
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        coarse = self.pyramid(x)
        coarse_t = 0.08 + 0.94 * nnx.sigmoid(self.transmission(coarse) + 3)
        t = jax.image.resize(coarse_t, (*x.shape[:3], 1), "bilinear")
        airlight = 0.85 + 0.3 * jnp.tanh(self.airlight(coarse.mean((1, 2))))[:, None, None]
        return (x - airlight * (1 - t)) / t


@register_net("curve_net")
class CurveNet(nnx.Module):
    """Brightens: predicts a rising curve of V = max(R, G, B) with `knots` pieces and scales the colours by V' / V."""

    def __init__(self, width: int = 24, knots: int = 16, *, rngs: nnx.Rngs):
        self.pyramid = _Pyramid(width, rngs)
        self.knots = knots
        self.hidden = nnx.Linear(4 * width + 64, 128, rngs=rngs)
        self.rises = nnx.Linear(128, knots + 1, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)

    @size_preserving(16)
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        value = x.max(-1, keepdims=True)
        coarse = self.pyramid(x)
        statistics = jnp.concatenate([coarse.mean((1, 2)), coarse.max((1, 2)), _quantiles(value, 64)], -1)
        rises = self.rises(nnx.relu(self.hidden(statistics)))
        # The first number lifts black, the others are slopes around 1, so that an untrained net changes nothing.
        levels = jnp.cumsum(jnp.concatenate([0.1 * rises[:, :1], jnp.exp(rises[:, 1:]) / self.knots], -1), -1)
        brighter = jax.vmap(lambda v, y: jnp.interp(v, jnp.linspace(0, 1, self.knots + 1), y))(value, levels)
        lifted = (x + 1e-3) * (jnp.maximum(brighter, 0) / (value + 1e-3))
        return lifted


def _quantiles(value: Float[Array, "b h w 1"], num: int) -> Float[Array, "b n"]:
    """Sorted brightness of a regular subsample, thinned to `num` values: what a histogram knows."""
    flat = jnp.sort(value[:, ::4, ::4, 0].reshape(value.shape[0], -1), -1)
    return flat[:, jnp.linspace(0, flat.shape[1] - 1, num).astype(int)]
