"""DnCNN (Zhang et al., arXiv 1608.03981) and FDnCNN as KAIR names them: a plain stack of convolutions."""

from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.layers import conv
from r1jax.nets.registry import register_net


@register_net("dncnn")
class DnCNN(nnx.Module):
    """Denoises [b, h, w, in_nc]; what it predicts is the noise (mode "DnCNN") or the clean image ("FDnCNN").

    Args:
      in_nc, out_nc: channels in and out; FDnCNN's last input channel is the noise level, sigma / 255 everywhere.
      nc: features. nb: convolutions.
      act_mode: "R", or "BR" with batch normalisation (epsilon 1e-4) before the inner activations.
    """

    def __init__(
        self,
        in_nc: int = 1,
        out_nc: int = 1,
        nc: int = 64,
        nb: int = 17,
        act_mode: str = "BR",
        mode: str = "DnCNN",
        *,
        rngs: nnx.Rngs,
    ):
        if act_mode not in ("R", "BR"):
            raise UsageError(f"act_mode {act_mode!r} is unknown; there are 'R' and 'BR'")
        if mode not in ("DnCNN", "FDnCNN"):
            raise UsageError(f"mode {mode!r} is unknown; there are 'DnCNN' and 'FDnCNN'")
        self.mode = mode
        layers: list = [conv(in_nc, nc, 3, rngs), nnx.relu]
        for _ in range(nb - 2):
            norm = [nnx.BatchNorm(nc, use_running_average=True, epsilon=1e-4, rngs=rngs)] if act_mode == "BR" else []
            layers += [conv(nc, nc, 3, rngs), *norm, nnx.relu]
        self.model = nnx.Sequential(*layers, conv(nc, out_nc, 3, rngs))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        y = self.model(x)
        return x - y if self.mode == "DnCNN" else y
