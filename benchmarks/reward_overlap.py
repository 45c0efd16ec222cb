"""How much of the scoring time each reward mode hides behind the rollout.

    python benchmarks/reward_overlap.py [--steps 8] [--tool-s 0.03] [--scorer-s 0.1] [--repeats 5]

An episode of `steps` steps computes for `tool-s` seconds a step. Its first image and the one after every step are scored;
none was ever seen before, so the cache never helps. One scorer process takes `scorer-s` seconds a call, asleep (as one that
waits for an accelerator or a server) or keeping a core busy; it takes one image a call, or all that wait (micro-batching).
Timed in turn in this process:

    compute   no scoring
    ticket    a program of the whole episode submits as it goes; scores are collected after it
    outside   a program call a step; the host submits a step's image while the next step computes
    blocking  the program waits for every score

Prints one JSON line for each scorer and batching: median wall times in seconds. `bound_s` is the first step and then one
call after another, the best that is possible for one image a call; the ratios to it are `ticket_over_bound` and
`outside_over_bound`. About 40 s.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.reward import RewardService
from r1jax.reward.host_call import score_in_graph, submit_in_graph
from r1jax.weights.recorded import versions

SIDE = 256  # of the matrices whose products stand for a tool


class Sleeper:
    """A scorer that only takes time: SCORER_S seconds a call."""

    def score(self, images: np.ndarray) -> np.ndarray:
        """Returns 1 for every image."""
        time.sleep(float(os.environ["SCORER_S"]))
        return np.ones(len(images), np.float32)


class Busy:
    """A scorer that keeps a core busy for SCORER_S seconds a call."""

    def score(self, images: np.ndarray) -> np.ndarray:
        """Returns 1 for every image."""
        end = time.perf_counter() + float(os.environ["SCORER_S"])
        while time.perf_counter() < end:
            pass
        return np.ones(len(images), np.float32)


def tool(carry: tuple[jax.Array, jax.Array], products: int) -> tuple[jax.Array, jax.Array]:
    """Changes the image by one level, after `products` matrix products."""
    image, matrix = carry
    matrix = jax.lax.fori_loop(0, products, lambda _, m: jnp.tanh(m @ m), matrix)
    return jnp.mod(image + 1 / 255 + 1e-9 * matrix[0, 0], 1.0), matrix


def make_program(visit: Callable[[jax.Array], jax.Array], steps: int, products: int) -> Callable[..., Any]:
    """Returns a jitted (image, matrix) -> (last image, what `visit` said of the first image and after every step)."""

    def step(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[Any, jax.Array]:
        carry = tool(carry, products)
        return carry, visit(carry[0])

    def program(image: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = visit(image)
        (image, _), said = jax.lax.scan(step, (image, matrix), None, length=steps)
        return image, jnp.concatenate([first[None], said])

    return jax.jit(program)


def make_outside(service: RewardService, steps: int, products: int) -> Callable[..., np.ndarray]:
    """Returns (image, matrix) -> scores, by a program call a step."""
    step = jax.jit(lambda carry: tool(carry, products))

    def submit(image: jax.Array) -> np.ndarray:
        return service.submit(np.rint(np.asarray(image) * 255).astype(np.uint8))

    def run(image: jax.Array, matrix: jax.Array) -> np.ndarray:
        carry, tickets = (image, matrix), []
        for _ in range(steps):
            before, carry = carry, step(carry)
            tickets.append(submit(before[0]))
        tickets.append(submit(carry[0]))
        return service.collect(np.stack(tickets))

    return run


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


def measure(args: argparse.Namespace, scorer: str, max_batch: int, products: int, matrix: jax.Array) -> dict[str, Any]:
    """Returns the line of one scorer and batching."""
    keys = iter(range(10**6))
    env = {"SCORER_S": str(args.scorer_s)}
    with RewardService(f"{__file__}:{scorer}", timeout_s=60.0, max_batch=max_batch, env=env) as service:
        alone = make_program(lambda image: image[:, 0, 0, 0], args.steps, products)
        ticket = make_program(lambda image: submit_in_graph(service, image), args.steps, products)
        blocking = make_program(lambda image: score_in_graph(service, image), args.steps, products)
        outside = make_outside(service, args.steps, products)
        modes: dict[str, Callable[[jax.Array], Any]] = {
            "compute": lambda image: jax.block_until_ready(alone(image, matrix)),
            "ticket": lambda image: service.collect(np.asarray(ticket(image, matrix)[1])),
            "outside": lambda image: outside(image, matrix),
            "blocking": lambda image: jax.block_until_ready(blocking(image, matrix)),
        }
        walls: dict[str, list[float]] = {name: [] for name in modes}
        for repeat in range(args.repeats + 1):
            for name, run in modes.items():
                image = jax.block_until_ready(jax.random.uniform(jax.random.key(next(keys)), (1, 64, 64, 3)))
                seconds = timed(lambda run=run, image=image: run(image))  # type: ignore[misc]
                if repeat:  # the first compiles
                    walls[name].append(seconds)
        stats = service.stats()
    median = {name: statistics.median(values) for name, values in walls.items()}
    bound = median["compute"] / args.steps + (args.steps + 1) * args.scorer_s
    return {
        "benchmark": "reward_overlap",
        "scorer": f"{scorer.lower()}, {args.scorer_s} s a call",
        "max_batch": max_batch,
        "steps": args.steps,
        "tool_s": round(median["compute"] / args.steps, 4),
        "repeats": args.repeats,
        **{f"{name}_s": round(value, 4) for name, value in median.items()},
        "bound_s": round(bound, 4),
        **{f"{name}_over_bound": round(median[name] / bound, 3) for name in ("ticket", "outside", "blocking")},
        "cache_hits": stats["hits"],
        "missing": stats["failed"],
        "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}, {os.cpu_count()} CPU cores",
        "versions": versions(),
    }


def main() -> None:
    """Prints the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tool-s", type=float, default=0.03)
    parser.add_argument("--scorer-s", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    matrix = jax.random.normal(jax.random.key(0), (SIDE, SIDE)) / SIDE
    products = calibrate(args.tool_s, matrix)
    for scorer, max_batch in (("Sleeper", 1), ("Busy", 1), ("Sleeper", 16), ("Busy", 16)):
        print(json.dumps(measure(args, scorer, max_batch, products, matrix)), flush=True)


if __name__ == "__main__":
    main()
