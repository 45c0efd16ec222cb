"""What the scorer `deqa` costs: memory and FLOPs of the full-size network by shapes alone, and its speed on a GPU.

    python benchmarks/deqa.py [--batch 1 8 32] [--peak-tflops 989] [--tiny]

Weights are random: neither speed nor memory depends on their values. Prints one JSON line: parameters, GB in bfloat16,
TFLOP an image (XLA's count of the lowered program), and for every batch size on an accelerator images/s, TFLOP/s and the
share of the peak. On a CPU only `--tiny`, a network of toy size that shows that the program runs, is timed.
"""

import argparse
import json
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from r1jax.nets.mplug_owl2 import MPLUGOwl2
from r1jax.reward.deqa import level_scores

TINY: dict[str, Any] = {
    "llm": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    "visual_model": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56,
    },
    "visual_abstractor": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "encoder_hidden_size": 64, "grid_size": 4,
    },
}  # fmt: skip


def random_params(params: Any) -> Any:
    """Returns arrays of the shapes of `params`, made on the device leaf by leaf."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    make = jax.jit(lambda key, like: 0.02 * jax.random.normal(key, like.shape, like.dtype), static_argnums=1)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(tree, [make(key, shape) for key, shape in zip(keys, shapes, strict=True)])


def images_per_second(program: Any, params: Any, pixels: jax.Array, repeats: int = 5) -> float:
    """Returns the best of `repeats` timings, after one that compiles."""
    jax.block_until_ready(program(params, pixels))
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(params, pixels))
        best = min(best, time.perf_counter() - start)
    return len(pixels) / best


def main() -> None:
    """Prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bfloat16 peak of the device (default: H100 SXM)")
    parser.add_argument("--tiny", action="store_true", help="a toy network, on any device")
    args = parser.parse_args()
    config = TINY if args.tiny else {}
    side = config.get("visual_model", {}).get("image_size", 448)
    graph, params = nnx.split(nnx.eval_shape(lambda: MPLUGOwl2(**config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))))
    program = jax.jit(lambda params, x: level_scores(nnx.merge(graph, params), x))
    one = jax.ShapeDtypeStruct((1, side, side, 3), jnp.bfloat16)
    flops = float(program.lower(params, one).cost_analysis()["flops"])
    device = jax.devices()[0]
    result: dict[str, Any] = {
        "benchmark": "deqa",
        "network": "tiny" if args.tiny else "full size",
        "device": device.device_kind,
        "jax": jax.__version__,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "gigabytes": round(sum(leaf.size * 2 for leaf in jax.tree.leaves(params)) / 1e9, 3),
        "tflop_per_image": round(flops / 1e12, 6),
    }
    if args.tiny or device.platform != "cpu":
        params = random_params(params)
        for batch in args.batch:
            pixels = jax.random.normal(jax.random.key(1), (batch, side, side, 3), jnp.bfloat16)
            rate = images_per_second(program, params, pixels)
            tflops = rate * flops / 1e12
            result[f"batch_{batch}"] = {
                "images_per_s": round(rate, 2),
                "tflop_per_s": round(tflops, 3),
                "share_of_peak": round(tflops / args.peak_tflops, 4),
            }
        if stats := device.memory_stats():
            result["peak_gigabytes"] = round(stats["peak_bytes_in_use"] / 1e9, 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
