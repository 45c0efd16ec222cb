"""What each command of `r1jax` does with its arguments. Each imports what it needs when it runs: see `r1jax.cli`."""

import argparse
import collections
import json
import logging
import math
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from r1jax.errors import R1JaxError, UsageError
from r1jax.files import make_folder

_SCORED_TOGETHER = 16  # files read ahead by `score`

# --- restore, score, synth: for people with photos ---------------------------------------------------------------


def run_restore(args: argparse.Namespace) -> int:
    from r1jax.agent.agent import load_agent
    from r1jax.evaluation.restoration import Restorer
    from r1jax.evaluation.search import Search
    from r1jax.images.io import read_image, write_image

    Search.parse(args.search)  # a wrong one before anything is loaded
    jobs, failures = _restore_jobs(args)
    if kept := [target for _, target in jobs if target.exists() and not args.overwrite]:
        more = f", and {len(kept) - 1} more" if len(kept) > 1 else ""
        print(f"r1jax: {kept[0]}: exists already{more}; --overwrite replaces", file=sys.stderr)
        jobs, failures = [job for job in jobs if job[1] not in kept], failures + len(kept)
    if not jobs:
        return 1
    restorer, rows = Restorer(load_agent(args.agent, args.toolbox)), []
    if args.output:
        make_folder(jobs[0][1].parent)
    plan, planned = None, 0  # the plan that is followed, and by how many images
    for source, target in jobs:
        try:
            photo = read_image(source)
            plan = plan if planned < args.reuse_plan else None
            result = restorer(photo.pixels, args.upscale, search=args.search, plan=plan)
            plan, planned = result.plan, 1 if plan is None else planned + 1
            alpha = _enlarged(photo.alpha, args.upscale)
            if alpha is not None and target.suffix.lower() in (".jpg", ".jpeg"):
                print(f"r1jax: {target}: JPEG has no transparency; it is left out", file=sys.stderr)
            write_image(target, result.image, alpha, overwrite=args.overwrite)
        except R1JaxError as error:
            print(f"r1jax: {error}", file=sys.stderr)
            failures += 1
            continue
        row = {"image": str(source), "output": str(target), "plan": result.plan, "scores": result.scores}
        rows.append(row)
        if not args.json:
            print(_plan_line(row, args.upscale), flush=True)
    if args.json:
        print(json.dumps(rows))
    return 1 if failures else 0


def _restore_jobs(args: argparse.Namespace) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], int]:
    """Returns ((source, target) of each image, number of paths that led to none)."""
    from r1jax.images.io import WRITABLE

    sources, failures = _listed(args.images, results=args.output is not None)
    if args.output is None:
        return _apart(sources, _beside), failures
    output = pathlib.Path(args.output)
    one_file = len(args.images) == 1 and pathlib.Path(args.images[0]).is_file() and not output.is_dir()
    if one_file and output.suffix.lower() in WRITABLE:
        return [(source, output) for source in sources], failures
    if output.suffix.lower() in WRITABLE and sources:
        raise UsageError(f"-o {output}: want a folder, there is more than one image")
    if output.suffix and one_file:
        raise UsageError(f"-o {output}: want a folder that exists, or one of {', '.join(WRITABLE)}")
    return _apart(sources, lambda source, name: output / f"{name}.png"), failures


def _listed(paths: Sequence[str], results: bool = True) -> tuple[list[pathlib.Path], int]:
    """Returns the images that the paths lead to, each once, and how many paths led to none: a line was printed of each.

    Args:
      results: also those in a folder that an earlier restoration has left beside the photos.
    """
    from r1jax.images.io import list_images

    sources: list[pathlib.Path] = []
    failures = 0
    for path in paths:
        try:
            found = list_images([path])
        except R1JaxError as error:
            print(f"r1jax: {error}", file=sys.stderr)
            failures += 1
            continue
        if not results and pathlib.Path(path).is_dir():
            made = {target for source in found for target in (_beside(source), _beside(source, source.name))}
            found = [source for source in found if source not in made]
        sources += found
    return list(dict.fromkeys(sources)), failures


def _beside(source: pathlib.Path, name: str = "") -> pathlib.Path:
    return source.with_name(f"{name or source.stem}_restored.png")


def _apart(
    sources: Sequence[pathlib.Path], place: Callable[[pathlib.Path, str], pathlib.Path]
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Returns (source, target) of each image; two that differ by their ending only keep it: photo.jpg.png.

    Args:
      place: returns where an image goes under a name without ending.

    Raises:
      UsageError: two images would be written to one place.
    """
    targets = [place(source, source.stem) for source in sources]
    counts = collections.Counter(targets)
    pairs = zip(sources, targets, strict=True)
    jobs = [(source, target if counts[target] == 1 else place(source, source.name)) for source, target in pairs]
    first: dict[pathlib.Path, pathlib.Path] = {}
    for source, target in jobs:
        if target in first:
            hint = "rename one or restore them apart"
            raise UsageError(f"{first[target]} and {source}: both would be written to {target}; {hint}")
        first[target] = source
    return jobs


def _enlarged(alpha: Any, upscale: int) -> Any:
    if alpha is None or upscale == 1:
        return alpha
    from r1jax.images import resize_bicubic, to_float, to_uint8

    height, width = alpha.shape
    return to_uint8(resize_bicubic(to_float(alpha)[..., None], height * upscale, width * upscale))[..., 0]


def _plan_line(row: dict[str, Any], upscale: int) -> str:
    """photo.jpg  2.11 -> denoise 3.02 -> dejpeg 3.20  out.png"""
    scores = [f"{score:.2f}" for score in row["scores"]]
    steps = [f"{tool} {score}" for tool, score in zip(row["plan"], scores[1:], strict=True)]
    plan = " -> ".join([scores[0], *steps]) if steps else f"{scores[0]}, {'nothing' if upscale == 1 else 'no more'} to do"
    return f"{row['image']}: {plan}  [{row['output']}]"


def run_score(args: argparse.Namespace) -> int:
    from r1jax.reward.service import RewardService

    logging.getLogger("r1jax.reward").setLevel(logging.ERROR)  # each file says what went wrong with it
    (paths, failures), rows = _listed(args.images), []
    limits = {"timeout_s": args.timeout, "start_timeout_s": args.start_timeout}
    with RewardService(args.scorer, **limits, options=_options(args.option)) as service:
        for start in range(0, len(paths), _SCORED_TOGETHER):
            for path, score, problem in _score_files(service, paths[start : start + _SCORED_TOGETHER]):
                if problem:
                    print(f"r1jax: {problem}", file=sys.stderr)
                    failures += 1
                    continue
                rows.append({"image": str(path), "score": round(score, 4)})
                if not args.json:
                    print(f"{score:.3f}  {path}", flush=True)
    if args.json:
        print(json.dumps(rows))
    return 1 if failures else 0


def _score_files(service: Any, paths: Sequence[pathlib.Path]) -> list[tuple[pathlib.Path, float, str]]:
    """Returns (path, score, what went wrong); images of one size are scored together."""
    import numpy as np

    from r1jax.images.io import read_image

    tickets: list[tuple[pathlib.Path, Any, str]] = []
    for path in paths:
        try:
            tickets.append((path, service.submit(read_image(path).pixels[None]), ""))
        except R1JaxError as error:
            tickets.append((path, None, str(error)))
    rows = []
    for path, ticket, problem in tickets:
        score = float("nan") if problem else float(service.collect(ticket)[0])
        if not problem and not np.isfinite(score):
            problem = f"{path}: no score ({service.stats()['last_error'] or 'timed out'})"
        rows.append((path, score, problem))
    return rows


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Parses the scorer's options, `model=Qwen/Qwen3-VL-4B-Instruct`."""
    from r1jax import config as configuration

    config = configuration.Config()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--option {word}: want NAME=VALUE")
        config = configuration.override(config, {f"reward.options.{name}": value})
    return dict(config.reward.options)


def run_serve_scorer(args: argparse.Namespace) -> int:
    from r1jax.reward.server import ScoreServer, serve, token_from_environment
    from r1jax.reward.service import RewardService

    options = _options(args.option)
    with RewardService(
        args.scorer, timeout_s=args.timeout, cache_dir=args.cache, max_batch=args.max_batch, options=options,
        start_timeout_s=args.start_timeout, log_path=args.log,
    ) as service:  # fmt: skip
        server = ScoreServer(service, args.host, args.port, token_from_environment(), args.max_mb << 20)

        def ready(url: str) -> None:
            about = {"url": url, "scorer": service.name, "version": service.version}
            print(json.dumps(about) if args.json else f"serving {service.name} at {url}", flush=True)

        serve(server, ready)
    return 0


def run_synth(args: argparse.Namespace) -> int:
    from r1jax.degradations.synth import synthesise

    count = synthesise(
        args.photos, args.output, args.mixes, seed=args.seed, depth_folder=args.depth, overwrite=args.overwrite
    )
    print(json.dumps({"images": count}) if args.json else f"{count} images in {args.output}")
    return 0


# --- train, evaluate, sweep, report: for researchers -------------------------------------------------------------


def join_processes() -> int:
    """Joins the processes of one run if R1JAX_DISTRIBUTED=1, before anything touches a device; returns this one's rank.

    JAX finds the others by itself on a TPU, SLURM and Open MPI. Elsewhere, or to give one process all GPUs of its
    node, set JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID. launch/ does all that.
    """
    if os.environ.get("R1JAX_DISTRIBUTED", "") in ("", "0"):
        return 0
    import jax

    given: dict[str, Any] = {}
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        given = {"coordinator_address": os.environ["JAX_COORDINATOR_ADDRESS"], "cluster_detection_method": "deactivate"}
        for name in ("num_processes", "process_id"):
            text = os.environ.get(f"JAX_{name.upper()}", "nothing")
            if not text.isdecimal():
                raise UsageError(f"JAX_{name.upper()}: want a whole number beside JAX_COORDINATOR_ADDRESS, not {text}")
            given[name] = int(text)
    try:
        jax.distributed.initialize(**given)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise R1JaxError(f"R1JAX_DISTRIBUTED: the processes did not join: {reason}") from error
    return jax.process_index()


def run_train(args: argparse.Namespace) -> int:
    process = join_processes()
    from r1jax import config as configuration
    from r1jax.agent.agent import load_agent
    from r1jax.evaluation.during_training import TrainingEvaluation
    from r1jax.training.loop import train
    from r1jax.training.tree import load_training_tree
    from r1jax.training.tree_evaluation import TreeEvaluation

    config = configuration.load(args.config, args.overrides)
    if args.eval_tree and not config.eval.every:
        raise UsageError("--eval-tree: eval.every=0 never evaluates; give it a number of updates")
    run = pathlib.Path(args.run_dir or f"runs/{config.name}")
    tree = load_training_tree(args.tree) if args.tree else None
    make = evaluate = None
    if config.eval.every and args.eval_tree:
        evaluate = TreeEvaluation(config, load_training_tree(args.eval_tree))
    elif config.eval.every:
        make = lambda scorer: TrainingEvaluation(config, scorer)  # noqa: E731
    init = load_agent(args.init) if args.init else None
    result = train(config, run, evaluate=evaluate, make_evaluate=make, progress=not args.quiet, tree=tree, init=init)
    if process > 0:  # the first one speaks for all
        return 0
    last = result.history[-1] if result.history else {}
    summary = {key: value for key, value in last.items() if key.startswith("eval/")}
    if args.json:
        print(json.dumps({"run": str(run), "seconds": round(result.seconds, 1), **summary}))
    else:
        done = f"trained {result.trained} updates in {result.seconds:.0f} s" if result.trained else "is complete already"
        print(f"{done}: {run}")
    return 0


def run_tree(args: argparse.Namespace) -> int:
    from r1jax import config as configuration
    from r1jax.training.tree_build import build_training_tree

    index, _, parts = args.part.partition("/")
    if not (index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise UsageError(f"--part {args.part}: want I/N with I from 0 to N - 1")
    if args.beam < 0:
        raise UsageError(f"--beam {args.beam}: want a number of states, or 0 for all of them")
    result = build_training_tree(
        configuration.load(args.config, args.overrides),
        args.output,
        photos=args.photos,
        num_images=args.images,
        seed=args.tree_seed,
        part=(int(index), int(parts)),
        dtype=args.dtype,
        beam=args.beam,
        estimate_only=args.estimate,
        progress=not args.quiet,
    )
    summary = {"tree": args.output, "built": result.built, "complete": result.complete, "images": result.num_images}
    if args.json:
        print(json.dumps(summary | {"seconds": round(result.seconds, 1)}))
    elif not args.estimate:
        print(f"{args.output}: {result.complete} of {result.num_images} images complete, {result.built} built now")
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    from r1jax import config as configuration
    from r1jax.evaluation.command import run_evaluation

    config = configuration.load(args.config, args.overrides)
    if args.tree:
        return _evaluate_on_tree(args, config)
    if args.order_tree:
        raise UsageError("--order-tree: is for --tree; on images the fixed order is found on those of the config")
    table = run_evaluation(
        config,
        overrides=tuple(args.overrides),
        checkpoint=args.checkpoint,
        toolbox=args.toolbox,
        planners=(args.planners or "random,fixed,greedy,agent").split(","),
        photos=args.photos,
        mixes=args.mixes,
        per_mix=args.per_mix,
        judge=args.judge,
        no_reference=args.no_reference,
        out=args.output,
        trees=args.trees,
        command=args.command_line,
        progress=not args.quiet,
    )
    print(table.to_json() if args.json else table.to_markdown() if args.markdown else table.to_text())
    return 0


def _evaluate_on_tree(args: argparse.Namespace, config: Any) -> int:
    from r1jax.agent.agent import load_agent
    from r1jax.evaluation.table import as_json
    from r1jax.training.sweep import rows_on_tree, table
    from r1jax.training.tree import load_training_tree

    of_images = ("planners", "photos", "mixes", "per_mix", "judge", "no_reference", "output", "trees", "markdown")
    given = [f"--{name.replace('_', '-')}" for name in of_images if getattr(args, name)]
    if given := given + [f"--{name}" for name in args.overrides]:
        raise UsageError(f"{given[0]}: has no meaning with --tree, whose images and planners are given")
    agent = load_agent(args.checkpoint, args.toolbox)
    orders = load_training_tree(args.order_tree) if args.order_tree else None
    if orders and orders.meta.get("beam"):
        raise UsageError(f"--order-tree {args.order_tree}: the best fixed order needs every state: build it without --beam")
    rows = rows_on_tree(config, load_training_tree(args.tree), orders, agent)
    if args.json:
        print(as_json(rows))
        return 0
    print(table(rows))
    low, high = (rows[-1][f"eval/share/{end}"] for end in ("low", "high"))
    if math.isfinite(low):  # one photo has no interval
        print(f"\nThe agent's share: 90% interval {low:.3f} to {high:.3f}, by drawing photos.")
    return 0


def run_sweep(args: argparse.Namespace) -> int:
    from r1jax.evaluation.table import as_json
    from r1jax.training import sweep

    slurm = None
    if args.slurm is not None:
        slurm = dict(_key_value(word) for word in args.slurm.split(",") if word)
    rows = sweep.run_sweep(
        args.config, args.run_dir, args.overrides, seeds=args.seeds, tree=args.tree, eval_tree=args.eval_tree,
        small=args.small, jobs=args.jobs, slurm=slurm, dry_run=args.dry_run,
    )  # fmt: skip
    print(as_json(rows) if args.json else sweep.table(rows))
    return 1 if any(row["status"] in ("failed", "not evaluated") for row in rows) else 0


def _key_value(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"--slurm {word}: want NAME=VALUE,NAME=VALUE, such as slurm_partition=gpu,timeout_min=60")
    return name, int(value) if value.isdecimal() else value


def run_report(args: argparse.Namespace) -> int:
    from r1jax.evaluation.report import write_report

    path = write_report(args.run_dir, args.output)
    print(json.dumps({"report": str(path)}) if args.json else f"report: {path}")
    return 0
