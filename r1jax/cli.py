"""The command `r1jax`. Every command imports what it needs when it runs, so that `--help` is quick.

Exit codes: 0 done, 1 failed, 2 wrong usage. Errors are one line on stderr. `--json` prints tables as JSON.
"""

import argparse
import importlib
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from r1jax import __version__
from r1jax.errors import R1JaxError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args, "takes_overrides", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.command_line = "r1jax " + shlex.join(argv)
    try:
        if getattr(args, "takes_overrides", False):
            args.overrides = _overrides(rest)
        return args.run(args)
    except UsageError as error:
        print(f"r1jax: {error}", file=sys.stderr)
        return 2
    except (R1JaxError, FloatingPointError) as error:
        print(f"r1jax: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("r1jax: interrupted", file=sys.stderr)
        return 1


def _overrides(rest: Sequence[str]) -> dict[str, str]:
    """Parses `--ppo.clip=0.1 --seed 3` into {"ppo.clip": "0.1", "seed": "3"}."""
    words, overrides = list(rest), {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"{word!r}: want --FIELD=VALUE")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words:
                raise UsageError(f"--{name}: has no value; want --{name}=VALUE")
            value = words.pop(0)
        overrides[name] = value
    return overrides


_SCORED_TOGETHER = 16  # files read ahead by `score`

# --- restore, score, synth: for people with photos ---------------------------------------------------------------


def _restore(args: argparse.Namespace) -> int:
    from r1jax.agent.agent import load_agent
    from r1jax.evaluation.restoration import Restorer
    from r1jax.images.io import read_image, write_image

    jobs, failures = _restore_jobs(args)
    if not jobs:
        return 1
    restorer, rows = Restorer(load_agent(args.agent)), []
    plan, planned = None, 0  # the plan that is followed, and by how many images
    for source, target in jobs:
        try:
            photo = read_image(source)
            if target.exists() and not args.overwrite:
                raise R1JaxError(f"{target}: exists already; --overwrite replaces it")
            plan = plan if planned < args.reuse_plan else None
            result = restorer(photo.pixels, args.upscale, search=args.search, plan=plan)
            plan, planned = result.plan, 1 if plan is None else planned + 1
            alpha = _enlarged(photo.alpha, args.upscale)
            write_image(target, result.image, alpha, overwrite=args.overwrite)
        except R1JaxError as error:
            print(f"r1jax: {error}", file=sys.stderr)
            failures += 1
            continue
        row = {"image": str(source), "output": str(target), "plan": result.plan, "scores": result.scores}
        rows.append(row)
        if not args.json:
            print(_plan_line(row), flush=True)
    if args.json:
        print(json.dumps(rows))
    return 1 if failures else 0


def _restore_jobs(args: argparse.Namespace) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], int]:
    """Returns ((source, target) of each image, number of paths that led to none)."""
    from r1jax.images.io import WRITABLE, list_images

    sources: list[pathlib.Path] = []
    failures = 0
    for path in args.images:
        try:
            sources += list_images([path])
        except R1JaxError as error:
            print(f"r1jax: {error}", file=sys.stderr)
            failures += 1
    if args.output is None:
        return [(source, source.with_name(f"{source.stem}_restored.png")) for source in sources], failures
    output = pathlib.Path(args.output)
    one_file = len(args.images) == 1 and pathlib.Path(args.images[0]).is_file() and not output.is_dir()
    if one_file and output.suffix.lower() in WRITABLE:
        return [(source, output) for source in sources], failures
    if output.suffix.lower() in WRITABLE and sources:
        raise UsageError(f"-o {output}: want a folder, there is more than one image")
    if output.suffix and not output.is_dir():
        raise UsageError(f"-o {output}: want a folder or one of {', '.join(WRITABLE)}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise R1JaxError(f"-o {output}: cannot be made: {error.strerror}") from None
    targets = [output / f"{source.stem}.png" for source in sources]
    twice = [target for target in targets if targets.count(target) > 1]
    if twice:
        raise UsageError(f"{twice[0]}: two images would be written here; rename one or restore them apart")
    return list(zip(sources, targets, strict=True)), failures


def _enlarged(alpha: Any, upscale: int) -> Any:
    if alpha is None or upscale == 1:
        return alpha
    from r1jax.images import resize_bicubic, to_float, to_uint8

    height, width = alpha.shape
    return to_uint8(resize_bicubic(to_float(alpha)[..., None], height * upscale, width * upscale))[..., 0]


def _plan_line(row: dict[str, Any]) -> str:
    """photo.jpg  2.11 -> denoise 3.02 -> dejpeg 3.20  out.png"""
    scores = [f"{score:.2f}" for score in row["scores"]]
    steps = [f"{tool} {score}" for tool, score in zip(row["plan"], scores[1:], strict=True)]
    plan = " -> ".join([scores[0], *steps]) if steps else f"{scores[0]}, nothing to do"
    return f"{row['image']}: {plan}  [{row['output']}]"


def _score(args: argparse.Namespace) -> int:
    from r1jax.images.io import list_images
    from r1jax.reward.service import RewardService

    paths, rows, failures = list_images(args.images), [], 0
    with RewardService(args.scorer, timeout_s=args.timeout, options=_options(args.option)) as service:
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


def _serve_scorer(args: argparse.Namespace) -> int:
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


def _synth(args: argparse.Namespace) -> int:
    from r1jax.degradations.synth import synthesise

    count = synthesise(
        args.photos, args.output, args.mixes, seed=args.seed, depth_folder=args.depth, overwrite=args.overwrite
    )
    print(json.dumps({"images": count}) if args.json else f"{count} images in {args.output}")
    return 0


# --- train, evaluate, sweep, report: for researchers -------------------------------------------------------------


def _join_processes() -> int:
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


def _train(args: argparse.Namespace) -> int:
    process = _join_processes()
    from r1jax import config as configuration
    from r1jax.agent.agent import load_agent
    from r1jax.evaluation.during_training import TrainingEvaluation
    from r1jax.training.loop import train
    from r1jax.training.tree import load_training_tree
    from r1jax.training.tree_evaluation import TreeEvaluation

    config = configuration.load(args.config, args.overrides)
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
        print(f"trained {config.ppo.updates} updates in {result.seconds:.0f} s: {run}")
    return 0


def _tree(args: argparse.Namespace) -> int:
    from r1jax import config as configuration
    from r1jax.training.tree_build import build_training_tree

    index, _, parts = args.part.partition("/")
    if not (index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise UsageError(f"--part {args.part}: want I/N with I from 0 to N - 1")
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


def _evaluate(args: argparse.Namespace) -> int:
    from r1jax import config as configuration
    from r1jax.evaluation.command import run_evaluation

    config = configuration.load(args.config, args.overrides)
    if args.tree:
        return _evaluate_on_tree(args, config)
    table = run_evaluation(
        config,
        checkpoint=args.checkpoint,
        planners=args.planners.split(","),
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
    from r1jax.training.sweep import rows_on_tree, table

    rows = rows_on_tree(config, args.tree, agent=load_agent(args.checkpoint))
    print(json.dumps(rows) if args.json else table(rows))
    return 0


def _sweep(args: argparse.Namespace) -> int:
    from r1jax.training.sweep import run_sweep, table

    slurm = None
    if args.slurm is not None:
        slurm = dict(_key_value(word) for word in args.slurm.split(",") if word)
    rows = run_sweep(
        args.config, args.run_dir, args.overrides, seeds=args.seeds, tree=args.tree, eval_tree=args.eval_tree,
        small=args.small, jobs=args.jobs, slurm=slurm, dry_run=args.dry_run,
    )  # fmt: skip
    print(json.dumps(rows) if args.json else table(rows))
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _key_value(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"--slurm {word}: want NAME=VALUE,NAME=VALUE, such as slurm_partition=gpu,timeout_min=60")
    return name, int(value) if value.isdecimal() else value


def _report(args: argparse.Namespace) -> int:
    from r1jax.evaluation.report import write_report

    path = write_report(args.run_dir, args.output)
    print(json.dumps({"report": str(path)}) if args.json else f"report: {path}")
    return 0


def _scorer_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--scorer", default="lite", help="a scorer, or FILE.py:Class (default: %(default)s)")
    sub.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="keyword of the scorer")
    sub.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for scores (default: %(default)s)")


# --- The parser --------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r1jax", description="Photo-restoration agents in JAX.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"r1jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str, config: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run, takes_overrides=config)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if config:
            sub.add_argument("config", help="a config file; any field as --FIELD=VALUE, such as --ppo.clip=0.1")
            sub.add_argument("--quiet", action="store_true", help="no progress bar")
        return sub

    sub = command("restore", _restore, "Restore photos with an agent and print the plans that it took.")
    sub.add_argument("images", nargs="+", help="files, folders, patterns")
    sub.add_argument("-o", "--output", help="a file for one image, else a folder (default: NAME_restored.png)")
    sub.add_argument("--agent", help="a trained agent or its run folder (default: the shipped one)")
    sub.add_argument("--upscale", type=int, default=1, choices=(1, 2, 3, 4), help="enlarge so many times")
    search = "how to plan: argmax, sample:N, beam:N or beam:N:value (default: %(default)s)"
    sub.add_argument("--search", default="argmax", help=search)
    frames = "frames of a video, sorted by name: follow one plan for so many images before planning anew"
    sub.add_argument("--reuse-plan", type=int, default=1, metavar="N", help=frames)
    sub.add_argument("--overwrite", action="store_true", help="replace files that exist")

    sub = command("train", _train, "Train an agent; continues a run that was stopped.", config=True)
    sub.add_argument("--run", dest="run_dir", help="the run's folder (default: runs/NAME)")
    sub.add_argument("--tree", help="train by look-ups in a folder that `r1jax tree build` has made")
    sub.add_argument("--init", metavar="AGENT", help="start from the parameters of an agent's file or run")
    sub.add_argument("--eval-tree", help="evaluate by look-ups too, in a tree of held-out photos")

    sub = command("tree", _tree, "Compute every state of a config's training images once, for `train --tree`.")
    sub.set_defaults(takes_overrides=True)
    sub.add_argument("action", choices=("build",))
    sub.add_argument("config", help="a config file; any field as --FIELD=VALUE")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    sub.add_argument("-o", "--output", required=True, help="the tree's folder; a build that was stopped goes on")
    sub.add_argument("--photos", help="folder of clean photos (default: data.photos of the config)")
    sub.add_argument("--images", type=int, help="images of the tree (default: every photo under every mix once)")
    sub.add_argument("--tree-seed", type=int, default=0, help="of crops and degradations (default: %(default)s)")
    sub.add_argument("--part", default="0/1", metavar="I/N", help="build every N-th image from I on; run N such processes")
    sub.add_argument("--dtype", default="float16", choices=("float16", "float32"), help="of features (default: %(default)s)")
    sub.add_argument("--beam", type=int, default=0, metavar="N", help="go on from a level's N best states by score only")
    sub.add_argument("--estimate", action="store_true", help="only print time and size")

    sub = command("evaluate", _evaluate, "Compare an agent with other planners.", config=True)
    sub.add_argument("--checkpoint", help="a run folder or an agent (default: the shipped agent)")
    sub.add_argument("--planners", default="random,fixed,greedy,agent", help="with input always: %(default)s, oracle")
    sub.add_argument("--photos", help="folder of clean photos (default: eval.photos of the config)")
    sub.add_argument("--mixes", help="group A, B, C, or mixes (default: data.mixes of the config)")
    sub.add_argument("--per-mix", type=int, help="use only so many photos a mix")
    sub.add_argument("--judge", action="store_true", help="add VSI, which no scorer here was trained on")
    sub.add_argument("--no-reference", action="store_true", help="add MANIQA, CLIP-IQA and MUSIQ (pip install pyiqa)")
    sub.add_argument("-o", "--output", help="folder for table, records, samples (default: RUN/evaluation)")
    sub.add_argument("--tree", help="instead by look-ups in a tree of held-out photos, with the share of the oracle's gain")
    sub.add_argument("--trees", help="folder that keeps the oracle's trees for the next time")
    sub.add_argument("--markdown", action="store_true", help="print the table as Markdown")

    sub = command("sweep", _sweep, "Train every variant of a config file's sweep().", config=True)
    sub.add_argument("--run", dest="run_dir", help="folder of the variants' runs (default: runs/NAME)")
    sub.add_argument("--seeds", type=int, default=1, help="runs of each variant (default: %(default)s)")
    sub.add_argument("--small", action="store_true", help="apply the file's SMALL: minutes on two CPU cores")
    sub.add_argument("--tree", help="one transition tree for all runs")
    sub.add_argument("--eval-tree", help="evaluate by look-ups in a tree of held-out photos")
    sub.add_argument("--jobs", type=int, default=1, help="runs at once (default: %(default)s)")
    sub.add_argument("--slurm", metavar="NAME=VALUE,...", help="run by submitit with these parameters")
    sub.add_argument("--dry-run", action="store_true", help="only list the variants")

    sub = command("synth", _synth, "Degrade photos by the MiO100 protocol.")
    sub.add_argument("photos", help="folder of clean photos")
    sub.add_argument("-o", "--output", required=True, help="folder to write")
    sub.add_argument("--mixes", default="all", help="A, B, C, all, single, or mixes such as rain+haze,noise+jpeg")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--depth", help="folder of depth maps, named like the photos (default: synthetic depth)")
    sub.add_argument("--overwrite", action="store_true", help="replace files that exist")

    sub = command("score", _score, "Print the quality score of images.")
    sub.add_argument("images", nargs="+", help="files, folders, patterns")
    _scorer_arguments(sub)

    sub = command("serve-scorer", _serve_scorer, "Serve a scorer over HTTP, for --reward.scorer=remote.")
    _scorer_arguments(sub)
    sub.add_argument("--host", default="127.0.0.1", help="another than loopback needs a token in R1JAX_SCORER_TOKEN")
    sub.add_argument("--port", type=int, default=8400, help="0 takes a free one (default: %(default)s)")
    sub.add_argument("--max-batch", type=int, default=16, help="most images scored together (default: %(default)s)")
    sub.add_argument("--max-mb", type=int, default=64, help="most MiB of one request (default: %(default)s)")
    sub.add_argument("--cache", default="", help="folder where scores are kept (default: in memory)")
    sub.add_argument("--start-timeout", type=float, default=600.0, help="seconds to load it (default: %(default)s)")
    sub.add_argument("--log", help="file for the scorer's output (default: a temporary one)")

    sub = command("report", _report, "Write one HTML page about a run.")
    sub.add_argument("run_dir", metavar="RUN")
    sub.add_argument("-o", "--output", help="the page (default: RUN/report.html)")

    _weights_parser(commands)
    return parser


def _weights_parser(commands: Any) -> None:
    title = "Published weights: list, pull, verify, path; import and export of checkpoints."
    group = commands.add_parser("weights", help=title, description=title, allow_abbrev=False)
    subcommands = group.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")

    def command(name: str, function: str, help: str, module: str = "command") -> argparse.ArgumentParser:
        def run(args: argparse.Namespace) -> int:
            return getattr(importlib.import_module(f"r1jax.weights.{module}"), function)(args)

        sub = subcommands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    sub = command("list", "list_weights", "Print the catalogue: task, licence, published figure.")
    sub.add_argument("names", nargs="*", metavar="NAME", help="weights or a group, such as full (default: all)")

    sub = command("pull", "pull_weights", "Download weights into the cache; continues what was stopped.")
    sub.add_argument("names", nargs="+", metavar="NAME", help="weights or a group of them, such as published")
    sub.add_argument("--file", help="that was downloaded by hand: copied into the cache as NAME")
    sub.add_argument("--offline", action="store_true", help="download nothing: fail if they are not in the cache")
    sub.add_argument("--mirror", help="URL or folder with the packages by their file names (default: R1JAX_MIRROR)")
    sub.add_argument("--accept-license", action="store_true", help="agree to licences that forbid commercial use")
    sub.add_argument("--quiet", action="store_true", help="no progress bars")

    sub = command("verify", "verify_weights", "Compare cached weights with their sha256; damaged files are removed.")
    sub.add_argument("names", nargs="*", metavar="NAME", help="default: all that are in the cache")

    sub = command("path", "print_path", "Print where weights are cached.")
    sub.add_argument("name", nargs="?", help="default: the cache folder")

    help = "Recognise a PyTorch checkpoint (.pth, .ckpt, .safetensors, .npz) by its tensors, and write it for r1jax."
    sub = command("import", "import_weights", help, "convert")
    sub.add_argument("file", metavar="FILE")
    sub.add_argument("-o", "--output", help="default: FILE's name with .r1jax.safetensors, beside it")
    sub.add_argument("--overwrite", action="store_true", help="replace the output")

    help = "Write weights with PyTorch's official names (safetensors), or the network as a program (stablehlo)."
    sub = command("export", "export_weights", help, "convert")
    sub.add_argument("network", metavar="NAME_OR_FILE", help="weights in the cache, or a .safetensors file of r1jax")
    sub.add_argument("--format", choices=["safetensors", "stablehlo"], default="safetensors")
    sub.add_argument("-o", "--output", help="default: NAME.torch.safetensors or NAME.stablehlo, here")
    sub.add_argument("--overwrite", action="store_true", help="replace the output")
    sub.add_argument("--size", default="256x256", help="of the program's images: HEIGHTxWIDTH")
    sub.add_argument("--batch", type=int, default=1, help="of the program's images")
    sub.add_argument("--channels", type=int, default=3, help="of the program's images")
    sub.add_argument("--platforms", default="cpu", help="that the program shall run on: cpu,cuda,tpu")


if __name__ == "__main__":
    sys.exit(main())
