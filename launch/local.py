"""Trains on this machine, on CPU or GPUs, in one process or in several.

    python launch/local.py configs/quickstart.py --run runs/quickstart
    python launch/local.py configs/lite_agent.py --device gpu --gpus 0,1 --data.photos=PHOTOS
    python launch/local.py configs/quickstart.py --device cpu --processes 2 --dry-run

Whatever it does not know goes to `r1jax train`. One process uses all the devices it sees; --processes is for trying out
a run on several hosts, or for one process a GPU. The same command again goes on from the last checkpoint.
"""

import argparse
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the training and returns its exit code."""
    args, rest = parse(argv)
    if not pathlib.Path(args.config).is_file():
        fail(f"{args.config}: no such config file")
    command = [sys.executable, "-m", "r1jax", "train", args.config, "--run", run_folder(args), *rest]
    environments = [environment(args, process) for process in range(args.processes)]
    if args.dry_run:
        for variables in environments:
            words = [f"{name}={value}" for name, value in variables.items()]
            print(shlex.join(["env", *words, *command] if words else command))
        return 0
    if args.device == "gpu" and not shutil.which("nvidia-smi"):
        fail("--device gpu: no nvidia-smi here; want an NVIDIA driver, or --device cpu", code=1)
    return run_all(command, environments)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Returns the launcher's own options, and the rest for `r1jax train`."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="a config file")
    parser.add_argument("--run", help="the run's folder (default: runs/NAME of the config file)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="default: what JAX finds")
    parser.add_argument("--gpus", help="which GPUs, such as 0,1 (default: all)")
    parser.add_argument("--cpu-devices", type=int, default=1, help="split each process's CPU into so many devices")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the run's episodes")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    args, rest = parser.parse_known_args(argv)
    if args.gpus and args.device == "cpu":
        fail("--gpus: want --device gpu beside it")
    if args.processes > 1 and args.device == "auto":
        fail("--processes: want --device cpu or --device gpu beside it")
    if args.processes < 1 or args.cpu_devices < 1:
        fail("--processes, --cpu-devices: want 1 or more")
    if args.cpu_devices > 1 and args.device != "cpu":
        fail("--cpu-devices: want --device cpu beside it")
    args.gpus = args.gpus.split(",") if args.gpus else None
    if args.gpus and len(args.gpus) % args.processes:
        fail(f"--gpus: {len(args.gpus)} GPUs do not divide over {args.processes} processes")
    args.port = free_port() if args.processes > 1 else 0
    return args, rest


def environment(args: argparse.Namespace, process: int) -> dict[str, str]:
    """Returns the variables that one process gets on top of this one's."""
    variables = {}
    if args.device == "cpu":
        variables["JAX_PLATFORMS"] = "cpu"
    if args.device == "gpu":
        variables["JAX_PLATFORMS"] = "cuda,cpu"  # a GPU that cannot be used is an error; callbacks need the CPU
    if args.cpu_devices > 1:
        flag = f"--xla_force_host_platform_device_count={args.cpu_devices}"
        variables["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if args.gpus:
        each = len(args.gpus) // args.processes
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(args.gpus[process * each : (process + 1) * each])
    elif args.device == "gpu" and args.processes > 1:
        variables["CUDA_VISIBLE_DEVICES"] = str(process)
    if args.processes > 1:
        variables |= {"R1JAX_DISTRIBUTED": "1", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{args.port}"}
        variables |= {"JAX_NUM_PROCESSES": str(args.processes), "JAX_PROCESS_ID": str(process)}
    return variables


def run_all(command: list[str], environments: list[dict[str, str]]) -> int:
    """Runs one process for each environment; when one fails the others end, for they would wait for it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    children = [subprocess.Popen(command, env={**os.environ, **variables}) for variables in environments]
    codes: list[int | None] = [None]
    failed = 0
    try:
        while None in codes and not failed:
            time.sleep(0.1)
            codes = [child.poll() for child in children]
            failed = next((code for code in codes if code), 0)
    except KeyboardInterrupt:  # the terminal has interrupted the children as well
        failed = -signal.SIGINT
        wait(children)
    finally:
        for child in children:
            child.terminate()
        wait(children)
        for child in children:
            child.kill()  # JAX's preemption service catches SIGTERM
    return failed if failed >= 0 else 128 - failed


def wait(children: list[subprocess.Popen[bytes]], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)


def run_folder(args: argparse.Namespace) -> str:
    return args.run or f"runs/{pathlib.Path(args.config).stem}"


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def fail(message: str, code: int = 2) -> NoReturn:
    print(f"launch/local.py: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(main())
