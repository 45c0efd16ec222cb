"""Restoration figures of the lite tools on photos never trained on; one JSON line a test.

    python benchmarks/lite_tools.py --photos DIR [--tools denoise,derain] [--limit N] [--update-cards]

DIR holds CBSD68/, LIVE1/ and Set14/. Every test is the one that the field publishes figures on, or the MiO100 protocol
on CBSD68 with its synthetic depth. `gain` is the mean over images of the restored PSNR less the input's.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.degradations.dataset import NamedPhoto, load_photos
from r1jax.degradations.mixes import degrade
from r1jax.degradations.operations import compress_jpeg
from r1jax.images.convert import to_float
from r1jax.images.metrics import psnr, psnr_y
from r1jax.tools.lite import LITE_TOOLS, lite_tool
from r1jax.weights import weight_file

Case = tuple[np.ndarray, np.ndarray]  # degraded, clean: float32 [h, w, 3]


def gaussian(sigma: float) -> Callable[[list[NamedPhoto]], Iterator[Case]]:
    """Float noise without clipping, one generator of seed 0 for the whole set."""

    def cases(photos: list[NamedPhoto]) -> Iterator[Case]:
        rng = np.random.default_rng(0)
        for photo in photos:
            clean = to_float(photo.pixels)
            yield clean + rng.normal(0, sigma / 255, clean.shape).astype(np.float32), clean

    return cases


def jpeg_quality(quality: int) -> Callable[[list[NamedPhoto]], Iterator[Case]]:
    return lambda photos: ((to_float(compress_jpeg(p.pixels, quality)), to_float(p.pixels)) for p in photos)


def protocol(degradation: str) -> Callable[[list[NamedPhoto]], Iterator[Case]]:
    def cases(photos: list[NamedPhoto]) -> Iterator[Case]:
        for number, photo in enumerate(photos):
            height, width = (side - side % 4 for side in photo.pixels.shape[:2])
            clean = np.ascontiguousarray(photo.pixels[:height, :width])
            yield to_float(degrade(clean, (degradation,), number).image), to_float(clean)

    return cases


# tool, test, photo set, cases, metric
TESTS: list[tuple[str, str, str, Callable[[list[NamedPhoto]], Iterator[Case]], Any]] = [
    ("denoise", "Gaussian 25", "CBSD68", gaussian(25), psnr),
    ("denoise", "Gaussian 50", "CBSD68", gaussian(50), psnr),
    ("denoise", "protocol noise", "CBSD68", protocol("noise"), psnr),
    ("dejpeg", "quality 10", "LIVE1", jpeg_quality(10), psnr),
    ("dejpeg", "quality 20", "LIVE1", jpeg_quality(20), psnr),
    ("super_resolution", "x4, Y", "Set14", protocol("low resolution"), psnr_y),
    ("derain", "protocol rain", "CBSD68", protocol("rain"), psnr),
    ("dehaze", "protocol haze", "CBSD68", protocol("haze"), psnr),
    ("brighten", "protocol dark", "CBSD68", protocol("dark"), psnr),
    ("motion_deblur", "protocol motion blur", "CBSD68", protocol("motion blur"), psnr),
    ("defocus_deblur", "protocol defocus blur", "CBSD68", protocol("defocus blur"), psnr),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=pathlib.Path, required=True)
    parser.add_argument("--tools", default=",".join(LITE_TOOLS))
    parser.add_argument("--limit", type=int, help="only the first N photos of each set")
    parser.add_argument("--update-cards", action="store_true", help="write the figures into the tools' model cards")
    args = parser.parse_args()
    rows = [measure(test, args) for test in TESTS if test[0] in args.tools.split(",")]
    if args.update_cards:
        update_cards(rows)


def measure(test: tuple[Any, ...], args: argparse.Namespace) -> dict[str, Any]:
    name, title, photo_set, cases, metric = test
    tool = lite_tool(name)
    apply = jax.jit(lambda params, x: tool.apply(params, x).clip(0, 1))
    photos = load_photos(str(args.photos / photo_set))[: args.limit]
    before, after = [], []
    for degraded, clean in cases(photos):
        restored = apply(tool.params, jnp.asarray(degraded)[None])
        before.append(float(metric(jnp.asarray(degraded)[None], jnp.asarray(clean)[None])[0]))
        after.append(float(metric(restored, jnp.asarray(clean)[None])[0]))
    row = {
        "tool": name,
        "test": title,
        "photos": f"{photo_set} ({len(photos)})",
        "metric": "PSNR-Y" if metric is psnr_y else "PSNR",
        "input_db": round(float(np.mean(before)), 2),
        "output_db": round(float(np.mean(after)), 2),
        "gain_db": round(float(np.mean(after) - np.mean(before)), 2),
        "seconds_256": round(seconds(apply, tool.params), 3),
    }
    print(json.dumps(row | {"device": jax.devices()[0].device_kind, "jax": jax.__version__}), flush=True)
    return row


def seconds(apply: Callable[..., jax.Array], params: Any) -> float:
    """Median time of one 256 x 256 image."""
    x = jnp.full((1, 256, 256, 3), 0.5)
    apply(params, x).block_until_ready()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        apply(params, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def update_cards(rows: list[dict[str, Any]]) -> None:
    for name in {row["tool"] for row in rows}:
        path = weight_file(name).with_suffix(".json")
        card = json.loads(path.read_text()) if path.exists() else {}
        card["figures"] = [row for row in rows if row["tool"] == name]
        path.write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
