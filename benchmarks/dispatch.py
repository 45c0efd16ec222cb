"""What the grouped dispatch costs over the tools themselves. Prints one line of JSON.

For each batch size the actions are drawn uniformly over the tools. The time of one jitted dispatch is divided
by the sum, over the images, of the time per image of that image's tool alone, at whichever batch size runs
that tool fastest. Both are measured in turns in one process; the ratio is the median over the turns. Goal: at
most 1.15. About two minutes for the lite tools on two cores.

    python benchmarks/dispatch.py                                    # lite tools, 128 x 128, B = 16 and 64
    python benchmarks/dispatch.py --toolbox lite,clahe --block-size 8 --size 256
    python benchmarks/dispatch.py --toolbox benchmarks/synthetic_tools.py
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jaxlib
import numpy as np

from r1jax.tools import Toolbox, dispatch, toolbox

GOAL = 1.15


def main() -> None:
    """Parses the options and prints the result."""
    args = _parse()
    box = toolbox(args.toolbox.split(","))
    result = measure(box, args.batches, args.alone_batches, args.size, args.block_size, args.repeats)
    device = jax.devices()[0]
    record = {
        "benchmark": "dispatch",
        "toolbox": args.toolbox,
        "size": args.size,
        "block_size": args.block_size,
        "repeats": args.repeats,
        "device": device.device_kind,
        "platform": device.platform,
        "versions": _versions(),
        "goal": GOAL,
        **result,
    }
    print(json.dumps(record))


def _versions() -> dict[str, str]:
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "python": platform.python_version()}


def measure(
    box: Toolbox, batches: list[int], alone_batches: list[int], size: int, block_size: int, repeats: int
) -> dict[str, Any]:
    """Times tools and dispatches in turns.

    Returns:
      `alone_ms_per_image`: each tool's time per image at its best batch size; `batches`: for each B the
      median milliseconds of a dispatch, those of the tools alone, and the ratio.
    """
    images = np.random.default_rng(0).random((max(*batches, *alone_batches), size, size, 3), dtype=np.float32)
    params = jax.device_put(box.params)
    alone = [jax.jit(tool.apply) for tool in box.tools]
    grouped = jax.jit(lambda params, x, action: dispatch(box, params, x, action, block_size))
    cases = [(k, b, jax.device_put(images[:b])) for k in range(len(box)) for b in alone_batches]
    inputs = {b: jax.device_put(images[:b]) for b in batches}
    draws = {b: np.random.default_rng(b).integers(0, len(box), (repeats, b)) for b in batches}

    alone_s: dict[tuple[int, int], list[float]] = {(k, b): [] for k, b, _ in cases}
    dispatch_s: dict[int, list[float]] = {b: [] for b in batches}
    for turn in range(-1, repeats):  # the first turn compiles
        for k, b, x in cases:
            alone_s[k, b].append(_seconds(alone[k], params[k], x) / b)
        for b in batches:
            action = jax.device_put(draws[b][turn])
            dispatch_s[b].append(_seconds(grouped, params, inputs[b], action))

    medians = {case: statistics.median(seconds[1:]) for case, seconds in alone_s.items()}
    best = np.array([min(medians[k, b] for b in alone_batches) for k in range(len(box))])
    return {
        "alone_ms_per_image": {name: round(1e3 * s, 3) for name, s in zip(box.names, best, strict=True)},
        "batches": [_compare(b, np.array(dispatch_s[b][1:]), best[draws[b]].sum(axis=1)) for b in batches],
    }


def _compare(batch: int, dispatch_s: np.ndarray, alone_s: np.ndarray) -> dict[str, Any]:
    return {
        "batch": batch,
        "dispatch_ms": round(1e3 * float(np.median(dispatch_s)), 2),
        "alone_ms": round(1e3 * float(np.median(alone_s)), 2),
        "ratio": round(float(np.median(dispatch_s / alone_s)), 3),
    }


def _seconds(fn: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(fn(*args))
    return time.perf_counter() - start


def _parse() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--toolbox", default="lite", help="toolboxes, tools or FILE.py, separated by commas")
    parser.add_argument("--size", type=int, default=128, help="side of the square images, pixels")
    parser.add_argument("--block-size", type=int, default=1, help="G: images of one tool that run together")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--alone-batches", type=int, nargs="+", default=[1, 4, 16], help="tried alone")
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
