"""The command `r1jax`: its arguments. `r1jax.commands` acts on them, and imports what a command needs when it runs, so that
`--help` is quick.

Exit codes: 0 done, 1 failed, 2 wrong usage. Errors are one line on stderr. `--json` prints tables as JSON.
"""

import argparse
import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from r1jax import __version__, commands
from r1jax.errors import R1JaxError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    try:
        args, rest = parser.parse_known_args(argv)
        if rest and not getattr(args, "takes_overrides", False):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.command_line = "r1jax " + shlex.join(argv)
        if getattr(args, "takes_overrides", False):
            args.overrides = _overrides(rest)
        return args.run(args)
    except UsageError as error:
        print(f"r1jax: {error}", file=sys.stderr)
        return 2
    except (R1JaxError, FloatingPointError, OSError) as error:
        print(f"r1jax: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("r1jax: interrupted", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


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


def _scorer_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--scorer", default="lite", help="a scorer, or FILE.py:Class (default: %(default)s)")
    sub.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="keyword of the scorer")
    sub.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for scores (default: %(default)s)")
    sub.add_argument("--start-timeout", type=float, default=600.0, help="seconds to load it (default: %(default)s)")


# --- The parser --------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="r1jax", description="Photo-restoration agents in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"r1jax {__version__}")
    groups = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Any, help: str, config: bool = False, actions: Sequence[str] = ()
    ) -> argparse.ArgumentParser:
        sub = groups.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run, takes_overrides=config)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if actions:
            sub.add_argument("action", choices=actions)
        if config:
            sub.add_argument("config", help="a config file; any field as --FIELD=VALUE, such as --ppo.clip=0.1")
            sub.add_argument("--quiet", action="store_true", help="no progress bar")
        return sub

    _for_photos(command)
    _for_researchers(command)
    _for_scorers(command)
    _weights_parser(groups)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"want a whole number of at least 1, not {text!r}")
    return int(text)


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return text


def _for_photos(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command("restore", commands.run_restore, "Restore photos with an agent and print the plans that it took.")
    sub.add_argument("images", nargs="+", type=_named, help="files, folders (but not those in them), patterns")
    sub.add_argument("-o", "--output", type=_named, help="a file for one image, else a folder (default: NAME_restored.png)")
    whose = sub.add_mutually_exclusive_group()
    whose.add_argument("--agent", help="a trained agent or its run folder (default: the shipped one)")
    whose.add_argument("--toolbox", default="lite", help="whose agent restores: lite or published (default: %(default)s)")
    sub.add_argument("--upscale", type=int, default=1, choices=(1, 2, 3, 4), help="enlarge so many times")
    search = "how to plan: argmax, sample:N, beam:N or beam:N:value (default: %(default)s)"
    sub.add_argument("--search", default="argmax", help=search)
    frames = "frames of a video, sorted by name: follow one plan for so many images before planning anew"
    sub.add_argument("--reuse-plan", type=_positive, default=1, metavar="N", help=frames)
    sub.add_argument("--overwrite", action="store_true", help="replace files that exist")

    sub = command("synth", commands.run_synth, "Degrade photos by the MiO100 protocol.")
    sub.add_argument("photos", help="folder of clean photos")
    sub.add_argument("-o", "--output", required=True, type=_named, help="folder to write")
    sub.add_argument("--mixes", default="all", help="A, B, C, single, wide, all, or mixes such as rain+haze,noise+jpeg")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--depth", help="folder of depth maps, named like the photos (default: synthetic depth)")
    sub.add_argument("--overwrite", action="store_true", help="replace files that exist; those of other mixes stay")


def _for_researchers(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command("train", commands.run_train, "Train an agent; continues a run that was stopped.", config=True)
    sub.add_argument("--run", dest="run_dir", help="the run's folder (default: runs/NAME)")
    sub.add_argument("--tree", help="train by look-ups in a folder that `r1jax tree build` has made")
    sub.add_argument("--init", metavar="AGENT", help="start from the parameters of an agent's file or run")
    sub.add_argument("--eval-tree", help="evaluate by look-ups too, in a tree of held-out photos")

    title = "Compute every state of a config's training images once, for `train --tree`."
    sub = command("tree", commands.run_tree, title, config=True, actions=("build",))
    sub.add_argument("-o", "--output", required=True, type=_named, help="the tree's folder; a stopped build goes on")
    sub.add_argument("--photos", help="folder of clean photos (default: data.photos of the config)")
    sub.add_argument("--images", type=_positive, help="images of the tree (default: every photo under every mix once)")
    sub.add_argument("--tree-seed", type=int, default=0, help="of crops and degradations (default: %(default)s)")
    sub.add_argument("--part", default="0/1", metavar="I/N", help="build every N-th image from I on; run N such processes")
    sub.add_argument("--dtype", default="float16", choices=("float16", "float32"), help="of features (default: %(default)s)")
    sub.add_argument("--beam", type=int, default=0, metavar="N", help="go on from a level's N best states by score only")
    sub.add_argument("--estimate", action="store_true", help="only print time and size")

    sub = command("evaluate", commands.run_evaluate, "Compare an agent with other planners.", config=True)
    whose = sub.add_mutually_exclusive_group()
    whose.add_argument("--checkpoint", help="a run folder or an agent (default: the shipped agent)")
    whose.add_argument("--toolbox", default="lite", help="whose shipped agent: lite or published (default: %(default)s)")
    sub.add_argument("--planners", help="of random, fixed, greedy, oracle, agent, FILE.py:Class (default: no oracle)")
    sub.add_argument("--photos", help="folder of clean photos (default: eval.photos of the config)")
    sub.add_argument("--mixes", help="group A, B, C, or mixes (default: data.mixes of the config)")
    sub.add_argument("--per-mix", type=_positive, help="use only so many photos a mix")
    sub.add_argument("--judge", action="store_true", help="add VSI, which no scorer here was trained on")
    sub.add_argument("--no-reference", action="store_true", help="add MANIQA, CLIP-IQA and MUSIQ (pip install pyiqa)")
    sub.add_argument("-o", "--output", help="folder for table, records, samples (default: RUN/evaluation)")
    sub.add_argument("--tree", help="instead by look-ups in a tree of held-out photos, in the agent's own environment, with "
                     "the share of the oracle's gain")  # fmt: skip
    sub.add_argument("--order-tree", help="with --tree: a tree of training photos, for the row of the best fixed order")
    sub.add_argument("--trees", help="folder that keeps the oracle's trees for the next time")
    sub.add_argument("--markdown", action="store_true", help="print the table as Markdown")

    sub = command("sweep", commands.run_sweep, "Train every variant of a config file's sweep().", config=True)
    sub.add_argument("--run", dest="run_dir", help="folder of the variants' runs (default: runs/NAME)")
    sub.add_argument("--seeds", type=_positive, default=1, help="runs of each variant (default: %(default)s)")
    sub.add_argument("--small", action="store_true", help="apply the file's SMALL: minutes on two CPU cores")
    sub.add_argument("--tree", help="one transition tree for all runs")
    sub.add_argument("--eval-tree", help="evaluate by look-ups in a tree of held-out photos")
    sub.add_argument("--jobs", type=_positive, default=1, help="runs at once (default: %(default)s)")
    sub.add_argument("--slurm", metavar="NAME=VALUE,...", help="run by submitit with these parameters")
    sub.add_argument("--dry-run", action="store_true", help="only list the variants")

    sub = command("report", commands.run_report, "Write one HTML page about a run.")
    sub.add_argument("run_dir", metavar="RUN")
    sub.add_argument("-o", "--output", help="the page (default: RUN/report.html)")


def _for_scorers(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command("score", commands.run_score, "Print the quality score of images.")
    sub.add_argument("images", nargs="+", help="files, folders (but not those in them), patterns")
    _scorer_arguments(sub)

    sub = command("serve-scorer", commands.run_serve_scorer, "Serve a scorer over HTTP, for --reward.scorer=remote.")
    _scorer_arguments(sub)
    sub.add_argument("--host", default="127.0.0.1", help="another than loopback needs a token in R1JAX_SCORER_TOKEN")
    sub.add_argument("--port", type=int, default=8400, help="0 takes a free one (default: %(default)s)")
    sub.add_argument("--max-batch", type=_positive, default=16, help="most images scored together (default: %(default)s)")
    sub.add_argument("--max-mb", type=_positive, default=64, help="most MiB of one request (default: %(default)s)")
    sub.add_argument("--cache", default="", help="folder where scores are kept (default: in memory)")
    sub.add_argument("--log", help="file for the scorer's output (default: a temporary one)")


def _weights_parser(groups: Any) -> None:
    title = "Published weights: list, pull, verify, path; import and export of checkpoints."
    group = groups.add_parser("weights", help=title, description=title, allow_abbrev=False)
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
    sub.add_argument("--batch", type=_positive, default=1, help="of the program's images")
    sub.add_argument("--channels", type=_positive, default=3, help="of the program's images")
    sub.add_argument("--platforms", default="cpu", help="that the program shall run on: cpu,cuda,tpu")


if __name__ == "__main__":
    sys.exit(main())
