"""What each tool would do to an image's statistics, and so to its score: a model to plan in, without running a tool.

As in MuZero (arXiv 1911.08265) a learned model is unrolled in place of the environment; as in world models (arXiv
1803.10122) a small policy acts on what it shows. A tool's effect is predicted as a change of the statistics that the scorer
looks at, along few directions, and the scorer's own heads say what that is worth. A second head predicts the gain directly:
the two err differently. Several members, each trained without a part of the photos, are averaged.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from r1jax.nets.quality_net import Heads, QualityNet, expected_score
from r1jax.nets.registry import register_net

_CLIP = 5.0  # standard deviations that an input may stray
THROUGH = 0.75  # weight of the gain through the scorer's heads: of photos never seen it errs less than the direct one


class Imagined(NamedTuple):
    """The states after each of k tools, by one member."""

    change: Float[Array, "b k r"]  # of the statistics, along the basis
    direct: Float[Array, "b k"]  # gain in score, by the head of its own
    through: Float[Array, "b k"]  # gain in score, by the scorer's heads on the changed statistics
    heads: Heads  # of the scorer, [b, k, ...]

    @property
    def gain(self) -> Float[Array, "b k"]:
        """The weighted mean of both predictions."""
        return (1 - THROUGH) * self.direct + THROUGH * self.through


@register_net("foresight_net")
class ForesightNet(nnx.Module):
    """Maps the scorer's view of an image to what each tool would gain, and each second tool after each first one.

    Args:
      num_tools: k.
      num_inputs: features of the scorer's heads and the statistics.
      num_statistics: of the scorer, the last of the inputs.
      rank: directions along which statistics change.
      hidden, width: of the two layers.
      num_members: nets whose predictions are averaged.
    """

    def __init__(
        self,
        num_tools: int,
        num_inputs: int,
        num_statistics: int,
        rank: int = 64,
        hidden: int = 352,
        width: int = 256,
        num_members: int = 6,
        *,
        rngs: nnx.Rngs,
    ):
        def linear(num_in: int, num_out: int, scale: float = 1.0) -> nnx.Param:
            shape = (num_members, num_in, num_out)
            return nnx.Param(scale * num_in**-0.5 * jax.random.normal(rngs.params(), shape))

        def bias(num_out: int) -> nnx.Param:
            return nnx.Param(jnp.zeros((num_members, num_out)))

        self.num_tools, self.rank, self.num_members = num_tools, rank, num_members
        self.mean = nnx.BatchStat(jnp.zeros(num_inputs))
        self.scale = nnx.BatchStat(jnp.ones(num_inputs))
        self.basis = nnx.BatchStat(jnp.zeros((rank, num_statistics)))
        self.kernel1, self.bias1 = linear(num_inputs, hidden), bias(hidden)
        self.kernel2, self.bias2 = linear(hidden, width), bias(width)
        self.kernel_gain, self.bias_gain = linear(width, num_tools, 0.1), bias(num_tools)
        self.kernel_change, self.bias_change = linear(width, num_tools * rank, 0.1), bias(num_tools * rank)

    def __call__(self, quality: QualityNet, statistics: Float[Array, "b s"]) -> Float[Array, "b f"]:
        """Returns what a policy looks at: the levels' logits; each tool's gain in score; the same by the direct head alone;
        the gain of each second tool after each first one.

        Args:
          quality: the scorer's net.
          statistics: standardised, see `QualityNet.standardised`.
        """
        return self.by_member(quality, statistics).mean(0)

    def by_member(self, quality: QualityNet, statistics: Float[Array, "b s"]) -> Float[Array, "m b f"]:
        """Returns the same of each member alone."""
        # One after the other: the program is compiled once, not once a member.
        return jax.lax.map(lambda member: self._foresee(member, quality, statistics), self.members())

    def of_member(
        self, index: int | Int[Array, ""], quality: QualityNet, statistics: Float[Array, "b s"]
    ) -> Float[Array, "b f"]:
        """Returns the same of one member."""
        return self._foresee({name: array[index] for name, array in self.members().items()}, quality, statistics)

    def _foresee(
        self, member: dict[str, Array], quality: QualityNet, statistics: Float[Array, "b s"]
    ) -> Float[Array, "b f"]:
        heads = quality.heads(statistics)
        first = self.imagine(member, quality, heads, statistics)
        after = (statistics[:, None] + first.change @ self.basis[...]).reshape(-1, statistics.shape[-1])
        flat = Heads(*(x.reshape(len(after), -1) for x in first.heads))
        second = self.imagine(member, quality, flat, after).gain.reshape(len(statistics), -1)
        return jnp.concatenate([heads.levels, first.gain, first.direct, second], -1)

    def members(self) -> dict[str, Array]:
        """Returns the parameters by name, the members along the first axis."""
        names = ("kernel1", "bias1", "kernel2", "bias2", "kernel_gain", "bias_gain", "kernel_change", "bias_change")
        return {name: getattr(self, name)[...] for name in names}

    def imagine(
        self,
        member: dict[str, Array],
        quality: QualityNet,
        heads: Heads,
        statistics: Float[Array, "b s"],
        tools: Int[Array, "b k"] | None = None,
    ) -> Imagined:
        """Returns what a member, one of `members`, expects of every tool, or of those that are named."""
        seen = jnp.concatenate([*heads, statistics], -1)
        x = jnp.clip((seen - self.mean[...]) * self.scale[...], -_CLIP, _CLIP)
        x = nnx.gelu(x @ member["kernel1"] + member["bias1"])
        x = nnx.gelu(x @ member["kernel2"] + member["bias2"])
        direct = x @ member["kernel_gain"] + member["bias_gain"]
        change = (x @ member["kernel_change"] + member["bias_change"]).reshape(-1, self.num_tools, self.rank)
        if tools is not None:
            direct = jnp.take_along_axis(direct, tools, 1)
            change = jnp.take_along_axis(change, tools[..., None], 1)
        after = quality.heads_after(statistics, change, self.basis[...])
        through = expected_score(after.levels) - expected_score(heads.levels)[:, None]
        return Imagined(change, direct, through, after)
