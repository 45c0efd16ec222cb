"""The lite toolbox: one small network for each of the eight degradations, shipped in the package.

`launch/train_lite_tool.py` trains them; r1jax/assets/lite holds a weight file and a model card each.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from r1jax.images.resize import undo_enlargement
from r1jax.nets.layers import pad_to_multiple
from r1jax.tools.toolbox import Tool, register_tool, register_toolbox
from r1jax.weights import load_module, weight_file


def restore_directly(net: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The net's own input and output are the canvas."""
    return net(x)


def restore_enlarged(net: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The canvas is an enlarged small image: recovers that and lets the net enlarge it x4."""
    height, width = x.shape[1:3]
    x = pad_to_multiple(x, 4)
    return net(undo_enlargement(x, x.shape[1] // 4, x.shape[2] // 4))[:, :height, :width]


@dataclasses.dataclass(frozen=True)
class LiteTool:
    """What one tool of the box is made of."""

    degradation: str  # the operation that it undoes
    net: str
    config: dict[str, Any]
    restore: Callable[[Any, Array], Array] = restore_directly
    whole_image: bool = False


DETAIL = {"widths": (32, 64, 128), "depths": (1, 2, 4)}
LITE_TOOLS = {
    "denoise": LiteTool("noise", "blind_ffdnet", {"nc": 96, "nb": 12, "width": 32}),
    "dejpeg": LiteTool("jpeg", "unet", {"widths": (48, 96), "depths": (1, 4)}),
    "super_resolution": LiteTool("low resolution", "super_resolver", {"width": 64, "depth": 8}, restore_enlarged),
    "derain": LiteTool("rain", "unet", {"widths": (48, 96), "depths": (1, 3)}),
    "dehaze": LiteTool("haze", "haze_net", {"width": 32}, whole_image=True),
    "brighten": LiteTool("dark", "curve_net", {"width": 32, "knots": 16}, whole_image=True),
    "motion_deblur": LiteTool("motion blur", "unet", DETAIL),
    "defocus_deblur": LiteTool("defocus blur", "unet", {"widths": (48, 96), "depths": (1, 4)}),
}


def lite_tool(name: str) -> Tool:
    """Returns one shipped tool.

    Raises:
      R1JaxError: its weight file is missing or damaged.
    """
    net, _ = load_module(weight_file(name))
    return tool_of(name, net)


def tool_of(name: str, net: nnx.Module) -> Tool:
    """Wraps a network of the right kind, trained or not, as the lite tool `name`."""
    spec = LITE_TOOLS[name]
    graph, params = nnx.split(net)

    def apply(params: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        return spec.restore(nnx.merge(graph, params), x)

    return Tool(name, spec.degradation, apply, params, spec.whole_image)


for _name in LITE_TOOLS:
    register_tool(_name, task=LITE_TOOLS[_name].degradation)(functools.partial(lite_tool, _name))
register_toolbox("lite", LITE_TOOLS)
