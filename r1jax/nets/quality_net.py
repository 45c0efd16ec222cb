"""A small no-reference quality network with the five-level head of multimodal scorers.

Like DeQA-Score (arXiv 2501.11561) it predicts a distribution over excellent, good, fair, poor and bad, whose expectation is
the score on 1..5. Features are pooled (mean and spread) at every scale, because noise and JPEG live at the finest and
haze and darkness at the coarsest.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.layers import ResidualBlock, conv3x3, pad_to_multiple, pixel_unshuffle
from r1jax.nets.registry import register_net

LEVELS = (5.0, 4.0, 3.0, 2.0, 1.0)  # excellent .. bad


@register_net("quality_net")
class QualityNet(nnx.Module):
    """Maps images [b, h, w, 3] to scores [b].

    Args:
      widths: features of each scale; scale i is 1 / 2^(i + 1) of the image.
      hidden: width of the head, which is what `features` returns beside the pooled features.
      num_kinds: outputs of `kinds`, an auxiliary head that training uses (which degradations an image carries).
    """

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 80, 128),
        hidden: int = 192,
        num_kinds: int = 8,
        *,
        rngs: nnx.Rngs,
    ):
        self.stem = conv3x3(12, widths[0], rngs)
        self.blocks = nnx.List([ResidualBlock(width, rngs) for width in widths])
        self.downs = nnx.List([conv3x3(a, b, rngs, stride=2) for a, b in itertools.pairwise(widths)])
        self.norm = nnx.LayerNorm(2 * sum(widths) + _NUM_TONES, rngs=rngs)
        self.hidden1 = nnx.Linear(2 * sum(widths) + _NUM_TONES, hidden, rngs=rngs)
        self.hidden2 = nnx.Linear(hidden, hidden, rngs=rngs)
        self.levels = nnx.Linear(hidden, len(LEVELS), rngs=rngs)
        self.kinds = nnx.Linear(hidden, num_kinds, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        return expected_score(self.level_logits(x))

    def level_logits(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b 5"]:
        """Returns the logits of excellent, good, fair, poor and bad."""
        return self.levels(self._hidden(self._pooled(x)))

    def features(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        """Returns what a policy may look at: the hidden layer, the logits of the levels and of the kinds."""
        hidden = self._hidden(self._pooled(x))
        return jnp.concatenate([hidden, self.levels(hidden), self.kinds(hidden)], -1)

    def level_and_kind_logits(self, x: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b 5"], Float[Array, "b k"]]:
        """Returns both heads' logits, for training."""
        hidden = self._hidden(self._pooled(x))
        return self.levels(hidden), self.kinds(hidden)

    def _pooled(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b p"]:
        x = pad_to_multiple(x, 16)
        features, pooled = self.stem(pixel_unshuffle(x, 2) - 0.5), [_tones(x)]
        for level, block in enumerate(self.blocks):
            features = block(nnx.relu(self.downs[level - 1](features)) if level else features)
            mean = features.mean((1, 2))
            spread = jnp.sqrt(((features - mean[:, None, None]) ** 2).mean((1, 2)) + 1e-4)
            pooled += [mean, jnp.log(spread)]
        return self.norm(jnp.concatenate(pooled, -1))

    def _hidden(self, pooled: Float[Array, "b p"]) -> Float[Array, "b f"]:
        return nnx.relu(self.hidden2(nnx.relu(self.hidden1(pooled))))


def expected_score(logits: Float[Array, "b 5"]) -> Float[Array, " b"]:
    """Returns softmax(logits) . (5, 4, 3, 2, 1)."""
    return nnx.softmax(logits, -1) @ jnp.array(LEVELS)


_NUM_TONES = 24


def _tones(x: Float[Array, "b h w 3"]) -> Float[Array, "b 24"]:
    """Quantiles of the brightest and the darkest channel: what tells haze and darkness."""
    half = _NUM_TONES // 2
    planes = [x.max(-1)[:, ::4, ::4], x.min(-1)[:, ::4, ::4]]
    ordered = [jnp.sort(plane.reshape(len(x), -1), -1) for plane in planes]
    picks = jnp.linspace(0, ordered[0].shape[1] - 1, half).astype(int)
    return 4 * jnp.concatenate([plane[:, picks] for plane in ordered], -1)
