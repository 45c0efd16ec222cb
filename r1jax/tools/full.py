"""The toolbox `full`: AgenticIR's tools (arXiv 2410.17809) by task, and the classical ones.

The weights are the authors' own. Some forbid commercial use and some can only be downloaded by hand, so that nobody must
have them all: the toolbox holds what is present and says on stderr which command gets the rest. Actions are numbered in
the order of TASKS with absent tools left out. A tool asked for by its own name must be present.
"""

import functools
import sys
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from r1jax.tools.lite import restore_enlarged
from r1jax.tools.published import PUBLISHED_TOOLS, PublishedTool, estimate_sigma, wrap
from r1jax.tools.toolbox import Tool, register_tool, register_toolbox
from r1jax.weights.cache import present
from r1jax.weights.catalogue import entries
from r1jax.weights.published import load_published


def restore_told_sigma(net: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """DRUNet: a fourth channel holds the noise level, here the one that is found in the image."""
    sigma = jnp.broadcast_to(estimate_sigma(x), (*x.shape[:3], 1))
    return net(jnp.concatenate([x, sigma.astype(x.dtype)], -1))


def restore_told_quality(net: Any, x: Float[Array, "b h w 3"], quality: int) -> Float[Array, "b h w 3"]:
    """FBCNN, told JPEG's quality factor (0 to 100) instead of estimating it."""
    return net(x, jnp.full((len(x), 1), 1 - quality / 100, x.dtype))


def restore_centred(net: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """DehazeFormer: values in [-1, 1] on both sides."""
    return net(2 * x - 1).clip(-1.0, 1.0) / 2 + 0.5


def _quality(factor: int) -> Any:
    return functools.partial(restore_told_quality, quality=factor)


FULL_TOOLS = {
    "swinir_denoise_15": PublishedTool("noise", "swinir-denoise-15"),
    "swinir_denoise_50": PublishedTool("noise", "swinir-denoise-50"),
    "mprnet_denoise": PublishedTool("noise", "mprnet-denoise"),
    "restormer_denoise": PublishedTool("noise", "restormer-denoise"),
    "xrestormer_denoise": PublishedTool("noise", "xrestormer-denoise"),
    "drunet_denoise": PublishedTool("noise", "drunet-color", restore_told_sigma),
    "fbcnn_dejpeg": PublishedTool("jpeg", "fbcnn-color", whole_image=True),
    "fbcnn_dejpeg_5": PublishedTool("jpeg", "fbcnn-color", _quality(5)),
    "fbcnn_dejpeg_90": PublishedTool("jpeg", "fbcnn-color", _quality(90)),
    "swinir_dejpeg_40": PublishedTool("jpeg", "swinir-jpeg-40"),
    "swinir_super_resolution": PublishedTool("low resolution", "swinir-real-l-gan", restore_enlarged),
    "swinir_super_resolution_psnr": PublishedTool("low resolution", "swinir-real-l-psnr", restore_enlarged),
    "hat_super_resolution": PublishedTool("low resolution", "hat-real-gan-sharper", restore_enlarged),
    "xrestormer_super_resolution": PublishedTool("low resolution", "xrestormer-sr", restore_enlarged),
    "mprnet_derain": PublishedTool("rain", "mprnet-derain"),
    "restormer_derain": PublishedTool("rain", "restormer-derain"),
    "xrestormer_derain": PublishedTool("rain", "xrestormer-derain"),
    "dehazeformer_dehaze": PublishedTool("haze", "dehazeformer-b-outdoor", restore_centred, whole_image=True),
    "xrestormer_dehaze": PublishedTool("haze", "xrestormer-dehaze", whole_image=True),
    "maxim_deblur_realblur_j": PublishedTool("motion blur", "maxim-realblur-j"),
    "maxim_deblur_realblur_r": PublishedTool("motion blur", "maxim-realblur-r"),
    "mprnet_motion_deblur": PublishedTool("motion blur", "mprnet-motion"),
    "restormer_motion_deblur": PublishedTool("motion blur", "restormer-motion"),
    "xrestormer_motion_deblur": PublishedTool("motion blur", "xrestormer-deblur"),
    "restormer_defocus_deblur": PublishedTool("defocus blur", "restormer-defocus"),
}
# Of the toolbox `published`, what AgenticIR has too.
SHARED_TOOLS = ("maxim_denoise", "maxim_derain", "maxim_dehaze_outdoor")
TASKS = ("noise", "jpeg", "low resolution", "rain", "haze", "motion blur", "defocus blur")
WITH_WEIGHTS = FULL_TOOLS | {name: PUBLISHED_TOOLS[name] for name in SHARED_TOOLS}


def full_tool(name: str) -> Tool:
    """Returns one tool of the box.

    Raises:
      R1JaxError: its weights are not in the cache; the line says which command gets them.
    """
    spec = FULL_TOOLS[name]
    return wrap(name, spec, load_published(spec.weights, spec.file))


def present_tools() -> list[str]:
    """Returns the box's tools whose weights are in the cache, by task, the classical ones last; stderr names the others."""
    here = {name: present(entries([spec.weights])[0]) for name, spec in WITH_WEIGHTS.items()}
    missing = dict.fromkeys(spec.weights for name, spec in WITH_WEIGHTS.items() if not here[name])
    if missing:
        line = f"toolbox full: {sum(here.values())} of {len(here)} tools with weights are present; the others need"
        print(f"{line} `r1jax weights pull {' '.join(missing)}`", file=sys.stderr)
    ordered = [name for task in TASKS for name, spec in WITH_WEIGHTS.items() if spec.task == task]
    return [*(name for name in ordered if here[name]), "classical"]


for _name in FULL_TOOLS:
    register_tool(_name, task=FULL_TOOLS[_name].task)(functools.partial(full_tool, _name))
register_toolbox("full", present_tools)
