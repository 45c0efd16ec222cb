"""Trains on a Cloud TPU VM: makes the VM if there is none, copies this checkout, installs it, trains, fetches the run.

    python launch/tpu_vm.py configs/lite_agent.py --name r1jax --zone us-central1-a --type v5litepod-8
    python launch/tpu_vm.py configs/lite_agent.py --name r1jax --zone us-central1-a --type v5litepod-8 --dry-run

Whatever it does not know goes to `r1jax train`. Training goes on when the connection breaks; the same command again
follows it, or resumes it from the last checkpoint. The VM costs money until it is deleted: see --delete. Several
workers must share the run's folder: mount it with --setup and give its absolute path as --run, which a spot VM needs
as well, for its disk goes with it. Needs gcloud, logged in and with a project.
"""

import argparse
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NoReturn

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEFT_HERE = (".git", ".venv", "runs", "work", "__pycache__", ".*_cache", ".hypothesis")
RUNTIMES = {"v6e": "v2-alpha-tpuv6e", "v5p": "v2-alpha-tpuv5", "v5litepod": "v2-alpha-tpuv5-lite"}
OLDER_RUNTIME = "tpu-ubuntu2204-base"
GONE = ("PREEMPTED", "TERMINATED")

INSTALL = """\
set -e
mkdir -p r1jax
tar -xzf r1jax.tar.gz -C r1jax
cd r1jax
test -x ~/.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv
~/.local/bin/uv pip install --quiet --python .venv/bin/python --editable '.[tpu]'
"""

TRAIN = """\
cd r1jax || exit
if ! kill -0 "$(cat train.pid 2>/dev/null)" 2>/dev/null; then
    rm -f train.code
    nohup sh -c {quoted} >train.log 2>&1 </dev/null &
    echo $! >train.pid
fi
tail -n +1 -f --pid="$(cat train.pid)" train.log
exit "$(cat train.code)"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Takes the steps, or prints them, and returns the exit code."""
    args, rest = parse(argv)
    config = pathlib.Path(args.config).resolve()
    if not config.is_file():
        fail(f"{args.config}: no such config file")
    if not config.is_relative_to(ROOT):
        fail(f"{args.config}: want a file inside {ROOT}, which is what is copied to the VM")
    if args.dry_run:
        show(args, steps(args, config, rest, "/tmp/r1jax.tar.gz"))
        return 0
    if not shutil.which("gcloud"):
        fail("no gcloud here; install the Google Cloud CLI, or --dry-run", code=1)
    make_vm(args)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for command in steps(args, config, rest, f"{folder}/r1jax.tar.gz"):
                run(command)
        except KeyboardInterrupt:
            fail("left; if it was training already, it goes on, and the same command follows it again", code=130)
    return 0


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Returns the launcher's own options, and the rest for `r1jax train`."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="a config file of this checkout")
    parser.add_argument("--run", help="the run's folder on the VM (default: runs/NAME of the config file)")
    parser.add_argument("--name", required=True, help="of the VM")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--type", required=True, help="accelerator type, such as v5litepod-8")
    parser.add_argument("--version", help="runtime version (default: by the type)")
    parser.add_argument("--project", help="(default: gcloud's)")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")
    parser.add_argument("--setup", default="", metavar="COMMAND", help="run on every worker first, such as a mount")
    parser.add_argument("--delete", action="store_true", help="delete the VM when training is complete")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    args, rest = parser.parse_known_args(argv)
    args.run = pathlib.PurePosixPath(args.run or f"runs/{pathlib.Path(args.config).stem}")
    args.version = args.version or RUNTIMES.get(args.type.partition("-")[0], OLDER_RUNTIME)
    return args, rest


# --- The commands ------------------------------------------------------------------------------------------------


def gcloud(args: argparse.Namespace, verb: str, *words: str) -> list[str]:
    project = [f"--project={args.project}"] if args.project else []
    return ["gcloud", "compute", "tpus", "tpu-vm", verb, *words, f"--zone={args.zone}", *project]


def create_command(args: argparse.Namespace) -> list[str]:
    spot = ["--spot"] if args.spot else []
    return gcloud(args, "create", args.name, f"--accelerator-type={args.type}", f"--version={args.version}", *spot)


def delete_command(args: argparse.Namespace) -> list[str]:
    return gcloud(args, "delete", args.name, "--quiet")


def start_command(args: argparse.Namespace) -> list[str]:
    return gcloud(args, "start", args.name)


def describe_command(args: argparse.Namespace) -> list[str]:
    return gcloud(args, "describe", args.name, "--format=json")


def steps(args: argparse.Namespace, config: pathlib.Path, rest: list[str], archive: str) -> list[list[str]]:
    """Returns the commands that follow once there is a VM."""

    def everywhere(script: str) -> list[str]:
        return gcloud(args, "ssh", args.name, "--worker=all", f"--command={script}")

    excludes = [f"--exclude={name}" for name in LEFT_HERE]
    words = [str(config.relative_to(ROOT)), "--run", str(args.run), *rest]
    train = f"R1JAX_DISTRIBUTED=1 JAX_PLATFORMS=tpu,cpu .venv/bin/python -m r1jax train {shlex.join(words)}"
    commands = [
        ["tar", "-czf", archive, *excludes, "-C", str(ROOT), "."],
        gcloud(args, "scp", archive, f"{args.name}:r1jax.tar.gz", "--worker=all"),
        *([everywhere(args.setup)] if args.setup else []),
        everywhere(INSTALL),
        everywhere(TRAIN.format(quoted=shlex.quote(f"{train}; echo $? >train.code"))),
    ]
    if not args.run.is_absolute():
        local = str(args.run.parent)
        commands.append(["mkdir", "-p", local])
        commands.append(gcloud(args, "scp", "--recurse", "--worker=0", f"{args.name}:r1jax/{args.run}", local))
    return commands + ([delete_command(args)] if args.delete else [])


# --- Running them ------------------------------------------------------------------------------------------------


def make_vm(args: argparse.Namespace) -> None:
    """Creates the VM where there is none, or none any more, and starts one that is stopped."""
    vm = describe(args)
    state = vm.get("state") if vm else None
    if state == "STOPPED":
        run(start_command(args))
    if state in GONE:
        run(delete_command(args))
        vm = None
    if vm is None:
        run(create_command(args))
        vm = describe(args) or {}
    workers = len(vm.get("networkEndpoints", ()))
    if workers > 1 and not args.run.is_absolute():
        fail(f"--run {args.run}: {args.name} has {workers} workers; want an absolute path on storage that they share")


def describe(args: argparse.Namespace) -> dict[str, Any] | None:
    done = subprocess.run(describe_command(args), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    if "NOT_FOUND" in done.stderr:
        return None
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    fail(f"gcloud cannot describe {args.name}: {last}", code=1)


def run(command: list[str]) -> None:
    print("+", shlex.join(command).partition("\n")[0], file=sys.stderr, flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        fail(f"{' '.join(command[:6])} ... ended with exit code {code}; the same command goes on from there", code=1)


def show(args: argparse.Namespace, commands: list[list[str]]) -> None:
    print(shlex.join(describe_command(args)))
    print(f"# if it is stopped:\n{shlex.join(start_command(args))}")
    print(f"# if it was taken away:\n{shlex.join(delete_command(args))}")
    print(f"# if there is none:\n{shlex.join(create_command(args))}")
    print("# then:", *map(shlex.join, commands), sep="\n")


def fail(message: str, code: int = 2) -> NoReturn:
    print(f"launch/tpu_vm.py: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(main())
