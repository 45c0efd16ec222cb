"""How much of the scoring time each reward mode hides behind the rollout.

    python benchmarks/reward_overlap.py [--steps 8] [--tool-s 0.03] [--scorer-s 0.1] [--max-batch 1]
    [--repeats 5]

A scan of `steps` steps computes for `tool-s` seconds a step and visits one image that no step visited before,
so the score cache never helps. One scorer process sleeps for `scorer-s` seconds a call. Three programs are
timed in turn in this process: without a scorer, with tickets collected after the scan, and waiting in every
step. Prints one JSON line with the median wall times in seconds. `serial_bound_s` is the best that tickets
can do while the scorer takes one image at a time: a step, then call after call. About 15 s.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.reward import RewardService
from r1jax.reward.host_call import score_in_graph, submit_in_graph

SIDE = 256  # of the matrices whose products stand for a tool


class Sleeper:
    """A scorer that only takes time: SLEEP_S seconds a call."""

    def score(self, images: np.ndarray) -> np.ndarray:
        """Returns 1 for every image."""
        time.sleep(float(os.environ["SLEEP_S"]))
        return np.ones(len(images), np.float32)


def make_program(visit: Callable[[jax.Array], jax.Array], steps: int, products: int) -> Callable[..., Any]:
    """Returns a jitted (image, matrix) -> (last image, what `visit` said at every step)."""

    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[Any, jax.Array]:
        image, matrix = carry
        matrix = jax.lax.fori_loop(0, products, lambda _, m: jnp.tanh(m @ m), matrix)
        image = jnp.mod(image + 1 / 255 + 1e-9 * matrix[0, 0], 1.0)
        return (image, matrix), visit(image)

    def program(image: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        (image, _), said = jax.lax.scan(step, (image, matrix), None, length=steps)
        return image, said

    return jax.jit(program)


def timed(run: Callable[[], Any]) -> float:
    """Returns the seconds that `run` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def calibrate(tool_s: float, matrix: jax.Array) -> int:
    """Returns the number of matrix products that take `tool_s` seconds."""
    num = 50
    program = make_program(lambda image: image[:, 0, 0, 0], 1, num)
    image = jnp.zeros((1, 8, 8, 3))
    jax.block_until_ready(program(image, matrix))
    seconds = min(timed(lambda: jax.block_until_ready(program(image, matrix))) for _ in range(20))
    return max(1, round(num * tool_s / seconds))


def main() -> None:
    """Prints the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tool-s", type=float, default=0.03)
    parser.add_argument("--scorer-s", type=float, default=0.1)
    parser.add_argument("--max-batch", type=int, default=1, help="images that the scorer may take together")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    matrix = jax.random.normal(jax.random.key(0), (SIDE, SIDE)) / SIDE
    products = calibrate(args.tool_s, matrix)
    new_image = map(
        lambda seed: jax.random.uniform(jax.random.key(seed), (1, 64, 64, 3)), range(10**6)
    ).__next__
    spec, env = f"{__file__}:Sleeper", {"SLEEP_S": str(args.scorer_s)}
    with RewardService(spec, timeout_s=60.0, max_batch=args.max_batch, env=env) as service:
        alone = make_program(lambda image: image[:, 0, 0, 0], args.steps, products)
        ticket = make_program(lambda image: submit_in_graph(service, image), args.steps, products)
        blocking = make_program(lambda image: score_in_graph(service, image), args.steps, products)
        modes: dict[str, Callable[[jax.Array], Any]] = {
            "compute": lambda image: jax.block_until_ready(alone(image, matrix)),
            "ticket": lambda image: service.collect(np.asarray(ticket(image, matrix)[1])),
            "blocking": lambda image: jax.block_until_ready(blocking(image, matrix)),
        }
        walls: dict[str, list[float]] = {name: [] for name in modes}
        for repeat in range(args.repeats + 1):
            for name, run in modes.items():
                image = jax.block_until_ready(new_image())
                seconds = timed(lambda run=run, image=image: run(image))  # type: ignore[misc]
                if repeat:  # the first compiles
                    walls[name].append(seconds)
        stats = service.stats()
    median = {name: statistics.median(values) for name, values in walls.items()}
    result = {
        "benchmark": "reward_overlap",
        "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}, {os.cpu_count()} CPU cores",
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
        "steps": args.steps,
        "scorer_s": args.scorer_s,
        "tool_s": round(median["compute"] / args.steps, 4),
        "max_batch": args.max_batch,
        "repeats": args.repeats,
        **{f"{name}_s": round(value, 4) for name, value in median.items()},
        "serial_bound_s": round(median["compute"] / args.steps + args.steps * args.scorer_s, 4),
        "ticket_over_compute": round(median["ticket"] / median["compute"], 3),
        "ticket_over_blocking": round(median["ticket"] / median["blocking"], 3),
        "blocking_over_compute": round(median["blocking"] / median["compute"], 3),
        "cache_hits": stats["hits"],
        "missing": stats["failed"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
