"""The published tools beside the lite ones; one JSON line a degradation and tool.

    r1jax weights pull published
    python benchmarks/published_tools.py --photos DIR [--limit N] [--crop 128] [--tools maxim_derain,derain]
    python benchmarks/published_tools.py --photos DIR --ffdnet     # FFDNet told the noise level, as its authors publish it
    python benchmarks/published_tools.py --pairs     # the result images that three of the packages hold
    python benchmarks/published_tools.py --photos DIR --bfloat16 --limit 8 --crop 64     # MAXIM deraining in half precision

DIR holds CBSD68/, degraded by the MiO100 protocol with its synthetic depth. `gain_db` is the mean over photos of the
restored PSNR (RGB) less the input's; `cpu_seconds` the processor time of one image, median.
"""

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.degradations.dataset import NamedPhoto, load_photos
from r1jax.degradations.mixes import degrade
from r1jax.images.convert import to_float
from r1jax.images.io import read_image
from r1jax.images.metrics import psnr
from r1jax.nets import skeleton
from r1jax.tools.lite import LITE_TOOLS, lite_tool
from r1jax.tools.published import PUBLISHED_TOOLS, published_tool
from r1jax.tools.toolbox import Tool
from r1jax.weights import flat_state, update_module
from r1jax.weights.cache import cached
from r1jax.weights.catalogue import catalogue
from r1jax.weights.published import load_published

# Tools that are tried on a degradation besides that of their own task.
ALSO = {"maxim_deblur": ("defocus blur",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=pathlib.Path)
    parser.add_argument("--tools", default=",".join([*LITE_TOOLS, *PUBLISHED_TOOLS]))
    parser.add_argument("--limit", type=int, help="only the first N photos")
    parser.add_argument("--crop", type=int, default=128, help="side of the crop from each photo's centre")
    parser.add_argument("--ffdnet", action="store_true")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    args = parser.parse_args()
    if args.pairs:
        return packaged_results()
    if not args.photos:
        parser.error("--photos is missing")
    photos = load_photos(str(args.photos / "CBSD68"))[: args.limit]
    if args.ffdnet:
        return published_figure(photos)
    if args.bfloat16:
        return half_precision(photos, args.crop)
    programs: dict[Any, Any] = {}
    for name in args.tools.split(","):
        lite = name in LITE_TOOLS
        tasks = (LITE_TOOLS[name].degradation,) if lite else (PUBLISHED_TOOLS[name].task, *ALSO.get(name, ()))
        tool = lite_tool(name) if lite else published_tool(name)
        for task in tasks:
            if task != "retouching":  # no degradation of the protocol
                print(json.dumps(measure(name, tool, task, photos, args.crop, programs)), flush=True)


def measure(
    name: str, tool: Tool, task: str, photos: list[NamedPhoto], crop: int, programs: dict[Any, Any]
) -> dict[str, Any]:
    program, before, after, times = _program(name, tool, programs), [], [], []
    for number, photo in enumerate(photos):
        clean = _centre(photo.pixels, crop)
        degraded = jnp.asarray(to_float(degrade(clean, (task,), number).image))[None]
        target = jnp.asarray(to_float(clean))[None]
        if not number:
            program(tool.params, degraded).block_until_ready()  # compiles
        start = time.process_time()
        restored = program(tool.params, degraded).block_until_ready()
        times.append(time.process_time() - start)
        before.append(float(psnr(degraded, target)[0]))
        after.append(float(psnr(restored, target)[0]))
    return {
        "degradation": task,
        "toolbox": "lite" if name in LITE_TOOLS else "published",
        "tool": name,
        "photos": f"CBSD68 ({len(photos)}, {crop} px)",
        "input_db": round(statistics.fmean(before), 2),
        "gain_db": round(statistics.fmean(after) - statistics.fmean(before), 2),
        "cpu_seconds": round(statistics.median(times), 2),
    }


def _program(name: str, tool: Tool, programs: dict[Any, Any]) -> Callable[..., jax.Array]:
    """The compiled tool; tools that differ in their weights only share one."""
    key: Any = name
    if name in PUBLISHED_TOOLS:
        spec = PUBLISHED_TOOLS[name]
        entry = catalogue()[spec.weights]
        key = (entry.net, json.dumps(dict(entry.config)), spec.restore)
    return programs.setdefault(key, jax.jit(lambda params, x: tool.apply(params, x).clip(0, 1)))


def _centre(pixels: np.ndarray, crop: int) -> np.ndarray:
    top, left = ((side - crop) // 2 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + crop, left : left + crop])


# PSNR on CBSD68 by noise level: Zhang et al., "FFDNet", IEEE TIP 2018, the table of colour images
FFDNET_FIGURES = {15: 33.87, 25: 31.21, 35: 29.58, 50: 27.96, 75: 26.24}


def published_figure(photos: list[NamedPhoto]) -> None:
    """Noise as the authors make it: not clipped, one generator of seed 0, the level told."""
    net: Any = load_published("ffdnet-color")
    run = jax.jit(lambda x, level: net(x, level.reshape(1, 1, 1, 1)).clip(0, 1))
    for sigma, published in FFDNET_FIGURES.items():
        rng, figures = np.random.default_rng(0), []
        for photo in photos:
            clean = to_float(photo.pixels)
            noisy = clean + rng.normal(0, sigma / 255, clean.shape).astype(np.float32)
            restored = run(jnp.asarray(noisy)[None], jnp.float32(sigma / 255))
            figures.append(float(psnr(restored, jnp.asarray(clean)[None])[0]))
        row = {"network": "ffdnet-color", "sigma": sigma, "photos": len(photos), "psnr_db": round(np.mean(figures), 3)}
        print(json.dumps(row | {"published_db": published}), flush=True)


def half_precision(photos: list[NamedPhoto], crop: int) -> None:
    """PSNR of both precisions against the clean crops, and of one against the other; means over photos."""
    full = load_published("maxim-deraining")
    half = update_module(skeleton("maxim", variant="S-2", dtype="bfloat16"), flat_state(full))
    clean = np.stack([_centre(photo.pixels, crop) for photo in photos])
    rainy = to_float(np.stack([degrade(image, ("rain",), number).image for number, image in enumerate(clean)]))
    exact, rounded = (jax.jit(lambda x, net=net: net(x).astype(jnp.float32).clip(0, 1))(rainy) for net in (full, half))
    pairs = {"float32": (exact, to_float(clean)), "bfloat16": (rounded, to_float(clean)), "between": (exact, rounded)}
    figures = {name: round(float(psnr(*map(jnp.asarray, pair)).mean()), 2) for name, pair in pairs.items()}
    print(json.dumps({"network": "maxim-deraining", "photos": len(photos), "crop": crop, "psnr_db": figures}))


# The other packages' result.png show something else than the network's output.
PAIRS = ("maxim_denoise", "maxim_derain", "maxim_dehaze_indoor")


def packaged_results() -> None:
    """PSNR of a tool's output on a package's fixture.png, with its result.png as the target."""
    for name in PAIRS:
        folder, tool = cached(PUBLISHED_TOOLS[name].weights) / "assets", published_tool(name)
        source, result = (to_float(read_image(folder / file).pixels)[None] for file in ("fixture.png", "result.png"))
        restored = jax.jit(tool.apply)(tool.params, jnp.asarray(source))
        figure = float(psnr(restored, jnp.asarray(result))[0])
        print(json.dumps({"tool": name, "size": source.shape[1:3], "psnr_db": round(figure, 2)}), flush=True)


if __name__ == "__main__":
    main()
