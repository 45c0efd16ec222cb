"""Peak memory of a large photo by tiles, and how far tiles are from the whole image; one JSON line.

    python benchmarks/memory.py [--net swinir] [--megapixels 2] [--tile 256] [--overlap 32] [--full]

Restores a synthetic photo of the given size tile by tile and reads the process's peak resident memory; then a part that fits
as a whole, both ways. Weights are random, the last convolution's weakened so that an image comes out. Without --full the
networks are shortened (the same widths, fewer blocks): memory hardly depends on the number of blocks, time does.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r1jax.images.metrics import psnr
from r1jax.images.tiling import restore_tiled
from r1jax.nets import create

# name: (published configuration, what makes it short)
NETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "swinir": (
        {"embed_dim": 180, "depths": (6,) * 6, "num_heads": (6,) * 6, "window_size": 8, "mlp_ratio": 2.0, "upscale": 1},
        {"depths": (2,), "num_heads": (6,)},
    ),
    "restormer": (
        {"dim": 48, "num_blocks": (4, 6, 6, 8), "LayerNorm_type": "BiasFree"},
        {"num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1},
    ),
}

LAST = ("conv_last", "output")  # the last convolution of each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="swinir")
    parser.add_argument("--megapixels", type=float, default=2.0)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=32)
    parser.add_argument("--whole", type=int, default=384, help="side of the image that is also restored as a whole")
    parser.add_argument("--full", action="store_true", help="the published configuration, not a short one")
    args = parser.parse_args()
    config, short = NETS[args.net]
    config = config if args.full else config | short
    apply = restorer(args.net, config)
    before = peak_gib()
    clean = photo(args.megapixels)
    image = (clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape).astype(np.float32)).clip(0, 1)
    start = time.perf_counter()
    restored = restore_tiled(apply, image, args.tile, args.overlap)
    seconds, peak = time.perf_counter() - start, peak_gib()
    assert restored.shape == image.shape and np.isfinite(restored).all()
    row = {"net": args.net, "config": config, "full": args.full, "image": list(image.shape), "tile": args.tile}
    row |= {"overlap": args.overlap, "seconds": round(seconds, 1), "peak_gib": round(peak, 2), "start_gib": round(before, 2)}
    part = np.s_[: args.whole, : args.whole]
    row |= agreement(apply, image[part], clean[part], args.tile, args.overlap)
    print(json.dumps(row | {"device": jax.devices()[0].device_kind, "jax": jax.__version__}), flush=True)


def restorer(name: str, config: dict[str, Any]) -> Callable[[Any], jax.Array]:
    graph, params = nnx.split(create(name, **config))
    flat = list(nnx.to_flat_state(params))
    for path, variable in flat:
        if path[0] in LAST:
            variable.set_value(0.1 * variable.get_value())
    params = nnx.from_flat_state(flat)
    apply = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
    return lambda x: apply(params, jnp.asarray(x))


def photo(megapixels: float) -> np.ndarray:
    """Smooth shapes, 3:2, float32 [h, w, 3] in [0, 1]."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(megapixels * 1e6 / height)
    y, x = np.mgrid[:height, :width].astype(np.float32) / 40
    shapes = np.stack([np.sin(y + c) * np.cos(x * (1 + c / 3)) for c in range(3)], -1)
    return (0.5 + 0.3 * shapes).astype(np.float32)


def agreement(
    apply: Callable[[Any], jax.Array], image: np.ndarray, clean: np.ndarray, tile: int, overlap: int
) -> dict[str, Any]:
    """PSNR of the tiles to the whole, and how much further from the clean image tiles are than the whole is."""
    whole = np.asarray(apply(image[None]))[0]
    tiles = restore_tiled(apply, image, tile, overlap)
    between, of_whole, of_tiles = (
        float(psnr(a[None], b[None])[0]) for a, b in [(tiles, whole), (whole, clean), (tiles, clean)]
    )
    return {"whole": list(image.shape), "psnr_between_db": round(between, 2), "difference_db": round(of_whole - of_tiles, 4)}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
