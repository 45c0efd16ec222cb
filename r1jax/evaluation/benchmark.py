"""Runs planners on a benchmark: `evaluate` is the whole of it.

Photos are taken a chunk at a time, so memory does not grow with the benchmark. If the oracle is among the
planners, each photo's tree is computed once (and kept in a folder, if one is given) and greedy and oracle are
look-ups in it.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from r1jax.degradations.dataset import Benchmark
from r1jax.errors import UsageError
from r1jax.evaluation import judges
from r1jax.evaluation.planners import NoTools, Oracle, Planner, PlanResult, find_best_fixed_order, run_planner
from r1jax.evaluation.simulator import Simulator, measure_quality, path_of
from r1jax.evaluation.table import Record, Table, summarise
from r1jax.evaluation.tree import Metric, cached_tree
from r1jax.evaluation.world import World
from r1jax.files import make_folder, write_whole
from r1jax.images.convert import to_uint8
from r1jax.images.io import write_image

_CHUNK = 16  # photos whose states are held at once
_SAMPLES = 12


def evaluate(
    planners: Sequence[Planner],
    benchmark: Benchmark,
    simulator: Simulator,
    *,
    folder: pathlib.Path | None = None,
    tree_folder: pathlib.Path | None = None,
    judge: bool = False,
    no_reference: bool = False,
    reference: str | None = "agent",
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Table:
    """Returns the table of `planners` on `benchmark`; its first row is the unrestored input.

    Args:
      simulator: the tools and the scorer.
      folder: gets table.json, images.jsonl and samples/ (a run's `evaluation` folder) once all is evaluated, until then
        it keeps those that it has; None writes nothing.
      tree_folder: keeps the trees, so that an interrupted evaluation goes on and another one starts from
        them.
      judge: adds VSI, computed of every state of a tree.
      no_reference: adds MANIQA, CLIP-IQA and MUSIQ of every restored image; needs pyiqa.
      reference: the planner whose differences to the others get intervals, and whose images are the samples.
      about: added to the provenance: the command, the config, the photo set, the digest of the agent's
        weights.
      progress: show a progress bar on stderr.

    Raises:
      UsageError: two planners have one name.
      R1JaxError: the scorer gave no score.
    """
    if not any(isinstance(planner, NoTools) for planner in planners):
        planners = [NoTools(), *planners]
    planners = sorted(planners, key=lambda planner: not isinstance(planner, NoTools))
    names = [planner.name for planner in planners]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"planners: two are named {twice[0]!r}; give each a name of its own")
    height, width = benchmark.degraded.shape[1:3]
    simulator.measure(height, width)
    runner = _Runner(planners, benchmark, simulator, tree_folder, judges.tree_metrics(judge))
    runner.metrics |= judges.no_reference() if no_reference else {}
    if folder:  # now: a folder that cannot be made is not to be found out at the end
        make_folder(folder / "samples")
    wanted = choose_samples(benchmark.mix) if folder else []
    sampled = reference if reference in names else planners[-1].name
    records: list[Record] = []
    samples: dict[int, np.ndarray] = {}
    for record, image in runner.run(progress):
        if record["planner"] == sampled and record["index"] in wanted:
            record["sample"] = f"{record['index']:04d}"
            samples[record["index"]] = image.copy()  # not a view of its chunk
        records.append(record)
    provenance = _provenance(benchmark, simulator, about or {})
    table = summarise(sorted(records, key=lambda record: record["index"]), reference, provenance)
    if folder:
        _write(folder, table, records, samples, benchmark)
    return table


class _Runner:
    """Goes through the benchmark by chunks; yields a record and a restored image an image and planner."""

    def __init__(
        self,
        planners: Sequence[Planner],
        benchmark: Benchmark,
        simulator: Simulator,
        tree_folder: pathlib.Path | None,
        tree_metrics: dict[str, Metric],
    ):
        self._planners, self._benchmark, self._simulator = planners, benchmark, simulator
        self._tree_folder, self._tree_metrics = tree_folder, tree_metrics
        self.metrics = judges.ALWAYS | tree_metrics
        self._exhaustive = any(isinstance(planner, Oracle) for planner in planners)
        shape = benchmark.degraded.shape[1:3]
        self._fingerprint = simulator.fingerprint(*shape) if tree_folder and self._exhaustive else ""

    def run(self, progress: bool) -> Iterator[tuple[Record, UInt8[np.ndarray, "h w 3"]]]:
        from tqdm import tqdm

        with tqdm(total=len(self._benchmark), unit="image", disable=not progress, desc="evaluate") as bar:
            for start in range(0, len(self._benchmark), _CHUNK):
                indices = np.arange(start, min(start + _CHUNK, len(self._benchmark)))
                yield from self._chunk(indices, bar)

    def _chunk(self, indices: np.ndarray, bar: Any) -> Iterator[tuple[Record, np.ndarray]]:
        degraded = to_uint8(self._benchmark.degraded[indices])
        clean = to_uint8(self._benchmark.clean[indices])
        trees = None
        if self._exhaustive:
            trees = []
            for image, truth in zip(degraded, clean, strict=True):
                trees.append(self._tree(image, truth))
                bar.update()
        best = [{} if trees is None else self._best(tree) for tree in trees or [None] * len(indices)]
        world = World(self._simulator, degraded, trees)
        for planner in self._planners:
            result = run_planner(planner, world)
            for row, record in enumerate(self._records(planner, result, world, clean)):
                index = int(indices[row])
                names = {"photo": self._benchmark.photo[index], "mix": self._benchmark.mix[index]}
                yield {"index": index, **names, **record, "best": best[row]}, result.images[row]
        if trees is None:
            bar.update(len(indices))

    def _tree(self, image: np.ndarray, clean: np.ndarray) -> Any:
        return cached_tree(
            self._simulator, image, clean, self._tree_metrics, self._tree_folder, self._fingerprint
        )

    def _best(self, tree: Any) -> dict[str, float]:
        """The best that any state of the tree reaches, in the score and in each metric on its own."""
        columns = {"score": tree.scores, **tree.metrics}
        return {name: float(np.max(values)) for name, values in columns.items()}

    def _records(
        self, planner: Planner, result: PlanResult, world: World, clean: np.ndarray
    ) -> Iterator[Record]:
        block = min(self._simulator.block(*clean.shape[1:3]), _CHUNK)
        measured = {
            name: measure_quality(metric, result.images, clean, block)
            for name, metric in self.metrics.items()
        }
        for row, actions in enumerate(result.actions):
            path = path_of(actions, world.num_tools)
            scores = world.scores(np.full(len(path), row), np.array(path)).tolist()
            yield {
                "planner": planner.name,
                "plan": [self._simulator.names[action] for action in actions if action >= 0],
                "scores": scores,  # of the input and after each tool
                "score": scores[-1],
                **{name: float(values[row]) for name, values in measured.items()},
                "calls": int(result.calls[row]),
                "tool_runs": int(result.tool_runs[row]),
                "scorings": int(result.scorings[row]),
                "seconds": float(result.seconds[row]),
            }


def _write(
    folder: pathlib.Path, table: Table, records: list[Record], samples: Mapping[int, np.ndarray], benchmark: Benchmark
) -> None:
    """Replaces what a folder holds of an earlier evaluation; called when the new one is complete, and quickly done."""
    for stale in (folder / "samples").glob("[0-9]*_*.png"):
        stale.unlink()
    for index, restored in samples.items():
        truth = {"degraded": benchmark.degraded[index], "clean": benchmark.clean[index]}
        for kind, pixels in {"restored": restored, **{k: to_uint8(v) for k, v in truth.items()}}.items():
            write_image(folder / "samples" / f"{index:04d}_{kind}.png", pixels, overwrite=True)
    write_whole(folder / "images.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    write_whole(folder / "table.json", table.to_json() + "\n")


def choose_samples(mix: Sequence[str], count: int = _SAMPLES) -> list[int]:
    """Returns images for a gallery: one of each mix in turn, of different photos, whatever the result."""
    members = {name: [i for i, own in enumerate(mix) if own == name] for name in dict.fromkeys(mix)}
    rotated = [
        ids[place % len(ids) :] + ids[: place % len(ids)] for place, ids in enumerate(members.values())
    ]
    longest = max((len(ids) for ids in rotated), default=0)
    return [ids[turn] for turn in range(longest) for ids in rotated if turn < len(ids)][:count]


def best_fixed_order(benchmark: Benchmark, simulator: Simulator) -> tuple[str, ...]:
    """Returns a fixed order that scores well on `benchmark`, which should be made of training photos."""
    images = to_uint8(benchmark.degraded)
    starts = range(0, len(images), _CHUNK)
    return find_best_fixed_order([World(simulator, images[start : start + _CHUNK]) for start in starts])


def _provenance(benchmark: Benchmark, simulator: Simulator, about: Mapping[str, Any]) -> dict[str, Any]:
    import jax

    from r1jax.weights.recorded import versions

    device = jax.devices()[0]
    height, width = benchmark.degraded.shape[1:3]
    return {
        "num_images": len(benchmark),
        "num_photos": len(set(benchmark.photo)),
        "image_size": [height, width],
        "horizon": simulator.horizon,
        "tools": list(simulator.names),
        "tools_and_scorer": simulator.fingerprint(height, width),
        "scorer": f"{simulator.scorer_identity.name} {simulator.scorer_identity.version}",
        "device": f"{jax.device_count()} {device.device_kind} ({device.platform}), {os.cpu_count()} cores",
        "versions": versions(),
        **about,
    }
