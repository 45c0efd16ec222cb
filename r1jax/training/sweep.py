"""`r1jax sweep`: trains every variant of a config file, each with several seeds, each run in a process of its own.

A run that fails does not stop the others; one that is complete is not done again. Results stand in RUN/sweep.jsonl, one line
a variant, and are printed as a table of means with 90% intervals over seeds. All runs may share one transition tree; with
one to evaluate on, the table begins with planners that need no training. A file that names two figures as CURVE gets
RUN/curve.svg, one against the other.
"""

import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r1jax import config as configuration
from r1jax.agent.agent import Agent, load_agent
from r1jax.config import Config
from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation.table import as_json
from r1jax.evaluation.tradeoff import tradeoff
from r1jax.files import make_folder, write_whole
from r1jax.training.logs import read_log

if TYPE_CHECKING:
    from r1jax.training.tree import TrainingTree

COLUMNS = ("eval/score_gain", "eval/share", "eval/psnr_y_gain", "eval/calls", "eval/worse")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: a variant with one seed, on a tree or on images."""

    config: Config
    run: pathlib.Path
    command: list[str]
    tree: str | None


def run_sweep(
    path: str | pathlib.Path,
    run_dir: str | pathlib.Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    seeds: int = 1,
    tree: str | None = None,
    eval_tree: str | None = None,
    small: bool = False,
    jobs: int = 1,
    slurm: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Trains all variants and returns a row for each, and before them for the planners of `eval_tree`, status "planner".

    Args:
      run_dir: by default runs/NAME of the config; a run is a folder VARIANT in it, or VARIANT/seedN of several seeds.
      overrides: applied to every variant, after its own.
      seeds: runs of each variant, with seeds from the config's on.
      tree, eval_tree: passed to `r1jax train`; {FIELD} in them stands for the variant's value.
      small: apply the file's SMALL first: overrides that make it fit two CPU cores.
      jobs: runs at once on this machine.
      slurm: parameters for submitit, which then runs the jobs; needs `pip install submitit`.
      dry_run: only list the variants.

    Raises:
      UsageError: the file has no `sweep()` or no variant, two variants would share a folder, or an override does not fit.
      R1JaxError: submitit is not installed.
    """
    base = (configuration.load_small(path) if small else {}) | dict(overrides or {})
    variants = [(variant, configuration.override(config, base)) for variant, config in configuration.load_sweep(path)]
    if not variants:
        raise UsageError(f"{path}: its sweep() yields nothing; want dicts of overrides")
    folder = pathlib.Path(run_dir or f"runs/{variants[0][1].name}")
    work, trees = [], {"tree": tree, "eval-tree": eval_tree}
    for variant, config in variants:
        for seed in range(config.seed, config.seed + seeds):
            run = folder / _folder_name(variant) / (f"seed{seed}" if seeds > 1 else "")
            work.append(_job(path, variant | base, configuration.override(config, {"seed": seed}), run, trees))
    if len({job.run for job in work}) < len(work):
        raise UsageError(f"{path}: two variants have one folder in {folder}; are they the same, or their values too long?")
    shared = tree and "{" not in tree and not dry_run  # a variant whose own tree is missing fails alone
    if shared and not (pathlib.Path(str(tree)) / "tree.json").is_file():
        raise UsageError(f"{tree}: no transition tree here; `r1jax tree build` makes one")
    load = functools.cache(_load_tree)
    planners = []  # before the runs: a tree that does not fit is refused before hours are spent
    if eval_tree and "{" not in eval_tree and not dry_run:
        training = _load_tree(tree) if tree and "{" not in tree else None
        planners = _planner_rows(variants, load(eval_tree), training)
    statuses = ["listed"] * len(work) if dry_run else _run_all(work, folder, jobs, slurm)
    rows, results = [], _Results(eval_tree, load)
    for place, (variant, _) in enumerate(variants):
        mine = slice(place * seeds, (place + 1) * seeds)
        figures, status = [], statuses[mine]
        try:
            figures = results.of(work[mine])
        except R1JaxError as error:  # the tree that the variant alone names: the table of the others is worth having
            print(f"r1jax: {error}", file=sys.stderr)
            status = ["not evaluated"]
        rows.append(_row(variant, folder / _folder_name(variant), figures, status))
    if not dry_run:
        write_whole(folder / "sweep.jsonl", "".join(as_json(row) + "\n" for row in planners + rows))
        _draw_curve(folder / "curve.svg", configuration.load_curve(path), rows)
    return planners + rows


def _load_tree(folder: str) -> "TrainingTree":
    from r1jax.training.tree import load_training_tree

    return load_training_tree(folder)


def _planner_rows(
    variants: Sequence[tuple[Mapping[str, Any], Config]], eval_tree: "TrainingTree", tree: "TrainingTree | None"
) -> list[dict[str, Any]]:
    """Returns the planners' rows in the variants' environments, one for all where they do not differ."""
    fields = ("env.toolbox", "env.horizon", "env.stop")
    environments: dict[Any, tuple[Mapping[str, Any], Config]] = {}
    for variant, config in variants:
        key = (config.env.toolbox, config.env.horizon, config.env.stop)
        environments.setdefault(key, ({name: variant[name] for name in fields if name in variant}, config))
    rows: list[dict[str, Any]] = []
    places = [_label(changes) for changes, _ in environments.values()]
    for same in zip(*(rows_on_tree(config, eval_tree, tree) for _, config in environments.values()), strict=True):
        labelled = [row | {"variant": f"{row['variant']}, {place}"} for row, place in zip(same, places, strict=True)]
        rows += same[:1] if all(row == same[0] for row in same) else labelled
    return rows


def rows_on_tree(
    config: Config, eval_tree: "TrainingTree", tree: "TrainingTree | None" = None, agent: Agent | None = None
) -> list[dict[str, Any]]:
    """Returns a row of the table for each planner that needs no training, and for an agent, with the 90% bootstrap interval
    of its share over photos.

    Args:
      config: its environment is used, or the agent's own; scores are those of its scorer.
      eval_tree: the tree that they are evaluated on.
      tree: what the best fixed order is chosen on; without it, or where it has a beam, there is no such row.

    Raises:
      UsageError: the tree does not belong to the config or the agent.
    """
    from r1jax.training.tree_evaluation import TreeEvaluation

    if agent is not None:  # what its own training was rewarded by does not matter here
        env = dataclasses.replace(agent.config.env, guard_weight=0.0)
        config = dataclasses.replace(agent.config, env=env, reward=dataclasses.replace(config.reward, metric=""))
    evaluation = TreeEvaluation(config, eval_tree)
    figures = dict(evaluation.planners(tree)) | ({"agent": evaluation.with_interval(agent)} if agent else {})
    named = {name: {f"eval/{key}": value for key, value in values.items()} for name, values in figures.items()}
    empty: dict[str, Any] = {"run": "", "status": "planner", "runs": 0} | {f"{name}/interval": None for name in COLUMNS}
    return [{"variant": name} | empty | values for name, values in named.items()]


def _draw_curve(path: pathlib.Path, names: tuple[str, str] | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws one figure against another if the file wants it and at least two variants have both."""
    points = [(row[names[0]], row[names[1]], row["variant"]) for row in rows if names and all(n in row for n in names)]
    if names and len(points) > 1:
        write_whole(path, tradeoff(points, *(name.removeprefix("eval/").replace("_", " ") for name in names)))


def _job(
    path: str | pathlib.Path, fields: Mapping[str, Any], config: Config, run: pathlib.Path, trees: Mapping[str, str | None]
) -> Job:
    folders = {name: _fill(where, config) for name, where in trees.items() if where}
    flags = [f"--{name}={value}" for name, value in (folders | dict(fields) | {"seed": config.seed}).items()]
    command = [sys.executable, "-m", "r1jax", "train", str(path), "--run", str(run), "--quiet", *flags]
    return Job(config, run, command, folders.get("tree"))


def _fill(text: str, config: Config) -> str:
    """Replaces {FIELD} by the config's value: trees/{agent.encoder}."""

    def value(found: re.Match[str]) -> str:
        try:
            return str(functools.reduce(getattr, found[1].split("."), config))
        except AttributeError:
            raise UsageError(f"{text}: the config has no field {found[1]}") from None

    return re.sub(r"\{([\w.]+)\}", value, text)


def _run_all(work: Sequence[Job], folder: pathlib.Path, jobs: int, slurm: Mapping[str, Any] | None) -> list[str]:
    """Runs what is not complete yet; returns each job's status."""
    open_jobs = [job for job in work if not _complete(job)]
    for job in open_jobs:
        make_folder(job.run)
    start = _on_slurm if slurm is not None else _on_this_machine
    # Programs are the same for all seeds, and for variants that differ in numbers only at run time.
    environment = {"JAX_COMPILATION_CACHE_DIR": str((folder / "xla").absolute())} | dict(os.environ)
    calls = [(job.command, str(job.run / "output.log"), environment) for job in open_jobs]
    codes = dict(zip((job.run for job in open_jobs), start(calls, folder, jobs, slurm or {}), strict=True))
    for job in open_jobs:
        print(f"{'complete' if codes[job.run] == 0 else 'failed':9}{job.run}", file=sys.stderr, flush=True)
    return ["complete" if codes.get(job.run, 0) == 0 else "failed" for job in work]


def run_command(command: list[str], log: str, environment: dict[str, str]) -> int:
    """Runs one training, all that it prints in `log`; returns its exit code."""
    with open(log, "ab") as file:
        return subprocess.run(command, stdout=file, stderr=file, env=environment, check=False).returncode


def _on_this_machine(
    calls: Sequence[tuple[list[str], str, dict[str, str]]], folder: pathlib.Path, jobs: int, _: Mapping[str, Any]
) -> list[int]:
    with concurrent.futures.ThreadPoolExecutor(max(jobs, 1)) as pool:
        return list(pool.map(lambda call: run_command(*call), calls))


def _on_slurm(
    calls: Sequence[tuple[list[str], str, dict[str, str]]], folder: pathlib.Path, jobs: int, parameters: Mapping[str, Any]
) -> list[int]:
    """One array job by submitit; a job that dies counts as failed."""
    try:
        import submitit
    except ImportError:
        raise R1JaxError("--slurm: needs submitit; pip install submitit") from None
    executor = submitit.AutoExecutor(folder=str(folder / "slurm"))
    executor.update_parameters(**{"slurm_array_parallelism": jobs} | dict(parameters))
    with executor.batch():
        submitted = [executor.submit(run_command, *call) for call in calls]
    return [_result(job.result) for job in submitted]


def _result(wait: Callable[[], int]) -> int:
    try:
        return wait()
    except Exception as error:  # submitit's errors, of a job that timed out or was cancelled
        print(f"r1jax: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", file=sys.stderr)
        return 1


def _complete(job: Job) -> bool:
    """Whether the run is the job's and its agent has been saved."""
    return _begun(job) and (job.run / "agent" / "agent.safetensors").is_file()


def _begun(job: Job) -> bool:
    """Whether the folder holds a run of this very config, on this tree."""
    saved = job.run / "config.json"
    if not saved.is_file() or configuration.from_dict(json.loads(saved.read_text())) != job.config:
        return False
    place = job.run / "tree.json"
    held = json.loads(place.read_text()) if place.is_file() else {}
    return held == (held | _describe_tree(job.tree) if job.tree else {})


def _describe_tree(folder: str) -> dict[str, Any]:
    from r1jax.training.tree import META_FILE, describe_tree, image_path

    place = pathlib.Path(folder)
    if not (place / META_FILE).is_file():
        return {"of": "no tree"}
    meta = json.loads((place / META_FILE).read_text())
    # A run on half of a tree is not one on the whole of it.
    return describe_tree(meta) | {"images": sum(image_path(place, i).is_file() for i in range(len(meta["images"])))}


# --- The table ---------------------------------------------------------------------------------------------------


class _Results:
    """What runs reached: on a tree to evaluate on, their agents' figures there; else their last evaluation in training.

    A complete run is not done again for another such tree, so its log may be of the one before.
    """

    def __init__(self, eval_tree: str | None, load: Callable[[str], "TrainingTree"]):
        self._eval_tree, self._load = eval_tree, load
        self._evaluations: dict[Any, Any] = {}  # runs that differ by their seed share one

    def of(self, runs: Sequence[Job]) -> list[dict[str, float]]:
        """Returns the figures of each of a variant's runs that has any."""
        if self._eval_tree is None:
            return [result for result in (_last_evaluation(job.run) for job in runs if _begun(job)) if result]
        return [self._on_tree(job, _fill(self._eval_tree, job.config)) for job in runs if _complete(job)]

    def _on_tree(self, job: Job, folder: str) -> dict[str, float]:
        from r1jax.training.tree_evaluation import TreeEvaluation

        key = (folder, repr(dataclasses.replace(job.config, seed=0)))
        if key not in self._evaluations:
            self._evaluations[key] = TreeEvaluation(job.config, self._load(folder))
        return {f"eval/{name}": value for name, value in self._evaluations[key](load_agent(job.run)).items()}


def _row(
    variant: Mapping[str, Any], folder: pathlib.Path, results: Sequence[Mapping[str, float]], statuses: Sequence[str]
) -> dict[str, Any]:
    status = next((status for status in statuses if status != "complete"), "complete")
    row: dict[str, Any] = {"variant": _label(variant), "run": str(folder), "status": status}
    row["runs"] = len(results)
    for name in COLUMNS:
        values = [result[name] for result in results if name in result]
        if values:
            row[name] = float(np.mean(values))
            row[f"{name}/interval"] = interval(values)
    return row


def interval(values: Sequence[float]) -> list[float] | None:
    """Returns the 90% interval of a mean over seeds by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    from scipy import stats

    half = stats.t.ppf(0.95, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a Markdown table: mean, and half the width of the interval over seeds; runs, if there are any."""
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    trained = any(row["status"] != "planner" for row in rows)
    head = ["variant", *(["runs"] if trained else []), *(name.removeprefix("eval/").replace("_", " ") for name in names)]
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for row in rows:
        runs = {"complete": str(row["runs"]), "planner": ""}.get(row["status"], f"{row['runs']}, {row['status']}")
        cells = [row["variant"], *([runs] if trained else []), *(_cell(row, name) for name in names)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return ""
    ends = row[f"{name}/interval"]
    return f"{row[name]:.3f}" + (f" ± {(ends[1] - ends[0]) / 2:.3f}" if ends else "")


def _last_evaluation(run: pathlib.Path) -> dict[str, float]:
    return next((row for row in reversed(read_log(run)) if COLUMNS[0] in row), {})


def _label(variant: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in variant.items()) or "as it is"


def _folder_name(variant: Mapping[str, Any]) -> str:
    safe = "".join(letter if letter.isalnum() or letter in "=.-" else "_" for letter in _label(variant))
    return safe[:120]
