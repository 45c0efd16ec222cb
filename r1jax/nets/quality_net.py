"""A small no-reference quality network with the five-level head of multimodal scorers.

Like DeQA-Score (arXiv 2501.11561) it predicts a distribution over excellent, good, fair, poor and bad, whose expectation is
the score on 1..5. It sees an image by `scene_statistics`, which tell the degradation, and by means and deviations of the
features of an ImageNet network's first stages, which tell what the scene would be without. Inside one degradation quality
is nearly linear in these, and a ridge regression generalises where a perceptron learns photos by heart; so there is one for
each kind of image, a perceptron tells which kind there is, and corrects what they say together.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.efficientnet_lite import EfficientNetLite, stage_channels
from r1jax.nets.registry import register_net
from r1jax.nets.scene_statistics import NUM_STATISTICS, scene_statistics

LEVELS = (5.0, 4.0, 3.0, 2.0, 1.0)  # excellent .. bad
_SHARPNESS = 2.0  # of the levels around the experts' score
_RANGE = 5.0  # standardised statistics are clipped to it: what training never saw must not run away


@register_net("quality_net")
class QualityNet(nnx.Module):
    """Maps images [b, h, w, 3] to scores [b].

    Args:
      hidden: width of the first hidden layer.
      width: of the second, which is what `features` returns beside the heads.
      num_experts: kinds of image that have a linear regression of their own.
      num_kinds: outputs of `kinds`, an auxiliary head that training uses (which degradations an image carries).
      num_stages: of the ImageNet network that are looked at; 0: scene statistics alone.
    """

    def __init__(
        self,
        hidden: int = 384,
        width: int = 176,
        num_experts: int = 12,
        num_kinds: int = 8,
        num_stages: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        self.trunk = EfficientNetLite(num_stages, rngs=rngs) if num_stages else None
        self.num_statistics = NUM_STATISTICS + (2 * sum(stage_channels(num_stages)) if num_stages else 0)
        self.mean = nnx.BatchStat(jnp.zeros(self.num_statistics))
        self.scale = nnx.BatchStat(jnp.ones(self.num_statistics))
        self.experts = nnx.Linear(self.num_statistics, num_experts, rngs=rngs)
        self.hidden1 = nnx.Linear(self.num_statistics, hidden, rngs=rngs)
        self.hidden2 = nnx.Linear(hidden, width, rngs=rngs)
        self.gate = nnx.Linear(width, num_experts, rngs=rngs)
        self.levels = nnx.Linear(width, len(LEVELS), rngs=rngs)
        self.kinds = nnx.Linear(width, num_kinds, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        return expected_score(self.level_logits(x))

    def level_logits(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b 5"]:
        """Returns the logits of excellent, good, fair, poor and bad."""
        return self.heads(self.look(x)).levels

    def features(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        """Returns what a policy may look at: the hidden layer and the logits of all heads."""
        return jnp.concatenate(self.heads(self.look(x)), -1)

    def look(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b s"]:
        """Returns what `heads` takes: an image's statistics, standardised."""
        return self.standardised(self.statistics(x))

    def statistics(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b s"]:
        """Returns scene statistics, then the mean and the standard deviation of each channel of each stage."""
        found = [scene_statistics(x)]
        if self.trunk is not None:
            found += [moment for y in self.trunk.stages(x) for moment in (y.mean((1, 2)), y.std((1, 2)))]
        return jnp.concatenate(found, -1)

    def set_statistics(self, mean: Float[np.ndarray, " s"], scale: Float[np.ndarray, " s"]) -> None:
        """Sets what statistics are standardised by: their mean and standard deviation over a training set."""
        self.mean.set_value(jnp.asarray(mean))
        self.scale.set_value(jnp.asarray(scale))

    def standardised(self, statistics: Float[Array, "b s"]) -> Float[Array, "b s"]:
        """Returns statistics of mean 0 and deviation 1, clipped: what `heads` takes."""
        return jnp.clip((statistics - self.mean[...]) / self.scale[...], -_RANGE, _RANGE)

    def heads(self, x: Float[Array, "*b s"], kept: Float[Array, "*b f"] | None = None) -> "Heads":
        """Returns all heads from standardised statistics; `kept` is training's dropout: factors of the first layer."""
        return self._heads(self.hidden1(x), self.experts(x), kept)

    def heads_after(
        self, x: Float[Array, "b s"], change: Float[Array, "b k r"], basis: Float[Array, "r s"]
    ) -> "Heads":
        """Returns heads(x + change @ basis) of k changes each, [b, k, ...]; with few directions that costs much less."""
        hidden1, experts = (
            layer(x)[:, None] + change @ (basis @ layer.kernel.get_value()) for layer in (self.hidden1, self.experts)
        )
        return self._heads(hidden1, experts)

    def _heads(
        self, hidden1: Float[Array, "*b f"], experts: Float[Array, "*b e"], kept: Float[Array, "*b f"] | None = None
    ) -> "Heads":
        first = nnx.gelu(hidden1)
        hidden = nnx.gelu(self.hidden2(first if kept is None else first * kept))
        gate = self.gate(hidden)
        score = (nnx.softmax(gate) * jnp.clip(experts, min(LEVELS), max(LEVELS))).sum(-1, keepdims=True)
        levels = self.levels(hidden) - _SHARPNESS * (jnp.array(LEVELS) - score) ** 2
        return Heads(hidden, levels, self.kinds(hidden), gate)


class Heads(NamedTuple):
    """The hidden layer, and logits."""

    hidden: Float[Array, "*b f"]
    levels: Float[Array, "*b 5"]
    kinds: Float[Array, "*b k"]
    gate: Float[Array, "*b e"]


def expected_score(logits: Float[Array, "*b 5"]) -> Float[Array, "*b"]:
    """Returns softmax(logits) . (5, 4, 3, 2, 1)."""
    return nnx.softmax(logits, -1) @ jnp.array(LEVELS)
