"""Trains on a SLURM cluster: writes a batch script into the run's folder and submits it.

    python launch/slurm.py configs/lite_agent.py --run runs/lite --partition gpu --gpus 4 --time 12:00:00
    python launch/slurm.py configs/lite_agent.py --run runs/lite --nodes 2 --gpus 8 --setup 'module load cuda' --dry-run
    python launch/slurm.py configs/ablate_step_cost.py --run runs/cost --gpus 1 --sweep

Whatever it does not know goes to `r1jax train`. Each node runs one process, which uses all its GPUs. The run's folder
must be on storage that all nodes share. Two minutes before its time is up a job goes back into the queue, as it does
when it is preempted, and then goes on from the last checkpoint. With --sweep every variant of the config's sweep() is a
job of its own; once all have ended, `r1jax sweep CONFIG --run DIR` with the same overrides and trees prints their table, and
trains here what has failed.
"""

import argparse
import contextlib
import io
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

SCRIPT = """\
#!/usr/bin/env bash
{options}
{setup}
set -uo pipefail  # not before: what --setup reads, such as ~/.bashrc, may count on unset variables
export JAX_PLATFORMS={platforms}
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"  # since SLURM 22.05 srun does not take it from the job
{distributed}
# Shortly before its time is up the job goes back into the queue.
requeue() {{
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "not requeued: {max_restarts} restarts" >&2
    fi
}}
trap requeue USR1

srun --kill-on-bad-exit=1 {command} &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do  # the signal ended `wait`, not the training
    wait "$step"
    code=$?
done
exit "$code"
"""

DISTRIBUTED = """\
export R1JAX_DISTRIBUTED=1
export JAX_COORDINATOR_ADDRESS="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):{port}"
export JAX_NUM_PROCESSES="$SLURM_JOB_NUM_NODES"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Submits one job, or one a variant, and returns the exit code."""
    args, rest = parse(argv)
    if not pathlib.Path(args.config).is_file():
        fail(f"{args.config}: no such config file")
    if not args.dry_run and not shutil.which("sbatch"):
        fail("no sbatch here; want the login node of a SLURM cluster, or --dry-run", code=1)
    run = pathlib.Path(args.run or f"runs/{pathlib.Path(args.config).stem}").absolute()
    jobs = variants(args.config, run, rest) if args.sweep else [(run, rest)]
    for folder, flags in jobs:
        code = submit(folder / "job.sbatch", batch_script(args, folder, flags), args.dry_run)
        if code:
            return code
    return 0


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Returns the launcher's own options, and the rest for `r1jax train`."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="a config file")
    parser.add_argument("--run", help="the run's folder (default: runs/NAME of the config file)")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs a node; 0 trains on CPU")
    parser.add_argument("--cpus", type=int, default=8, help="processor cores a node (default: %(default)s)")
    parser.add_argument("--time", default="04:00:00", help="limit of one start of the job (default: %(default)s)")
    parser.add_argument("--partition")
    parser.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="such as --sbatch=--account=me")
    parser.add_argument("--setup", action="append", default=[], metavar="LINE", help="shell line before training")
    parser.add_argument("--python", default=sys.executable, help="the nodes' interpreter (default: %(default)s)")
    parser.add_argument("--max-restarts", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="where processes meet (default: by the job's number)")
    parser.add_argument("--sweep", action="store_true", help="one job for each variant of the config's sweep()")
    parser.add_argument("--dry-run", action="store_true", help="print scripts and commands only")
    args, rest = parser.parse_known_args(argv)
    if args.nodes < 1 or args.gpus < 0:
        fail("--nodes, --gpus: want 1 or more nodes, 0 or more GPUs")
    return args, rest


def batch_script(args: argparse.Namespace, run: pathlib.Path, flags: list[str]) -> str:
    """Returns the text of the batch script."""
    options = [f"job-name=r1jax-{run.name}", f"nodes={args.nodes}", "ntasks-per-node=1", f"cpus-per-task={args.cpus}"]
    options += [f"gpus-per-node={args.gpus}"] if args.gpus else []
    options += [f"partition={args.partition}"] if args.partition else []
    options += [f"time={args.time}", f"output={run}/slurm-%j.log", "open-mode=append", "requeue", "signal=B:USR1@120"]
    lines = [f"--{option}" for option in options] + args.sbatch
    train = [args.python, "-m", "r1jax", "train", args.config, "--run", str(run), "--quiet", *flags]
    several = args.nodes > 1
    if several:
        train = ["bash", "-c", 'JAX_PROCESS_ID=$SLURM_PROCID exec "$@"', "train", *train]
    return SCRIPT.format(
        options="\n".join(f"#SBATCH {shlex.quote(line)}" for line in lines),
        setup="\n".join(args.setup),
        platforms="cuda,cpu" if args.gpus else "cpu",  # a GPU that cannot be used is an error; callbacks need the CPU
        distributed=DISTRIBUTED.format(port=args.port or "$((20000 + SLURM_JOB_ID % 20000))") if several else "",
        max_restarts=args.max_restarts,
        command=shlex.join(train),
    )


def variants(config: str, run: pathlib.Path, rest: list[str]) -> list[tuple[pathlib.Path, list[str]]]:
    """Returns (folder, flags) of every variant; folders are those that `r1jax sweep` uses."""
    from r1jax.config import load_sweep
    from r1jax.errors import R1JaxError

    if not all(word.startswith("--") and "=" in word for word in rest):
        fail("--sweep: want overrides as --FIELD=VALUE")
    common = [word for word in rest if word.startswith(("--tree=", "--eval-tree="))]
    if filled := [word for word in common if "{" in word]:
        fail(f"{filled[0]}: a tree for each variant is for `r1jax sweep --slurm`")
    overrides = dict(word[2:].split("=", 1) for word in rest if word not in common)
    try:
        fields = [variant | overrides for variant, _ in load_sweep(config)]
        from r1jax.training.sweep import run_sweep  # takes seconds to import

        with contextlib.redirect_stderr(io.StringIO()):
            rows = run_sweep(config, run, overrides, dry_run=True)
    except R1JaxError as error:
        fail(str(error))
    flags = [[f"--{name}={value}" for name, value in variant.items()] + common for variant in fields]
    return [(pathlib.Path(row["run"]), words) for row, words in zip(rows, flags, strict=True)]


def submit(path: pathlib.Path, text: str, dry_run: bool) -> int:
    """Writes the script and gives it to sbatch, or prints both."""
    command = ["sbatch", str(path)]
    if dry_run:
        print(f"# {path}\n{text}\n{shlex.join(command)}")
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return subprocess.run(command, check=False).returncode


def fail(message: str, code: int = 2) -> NoReturn:
    print(f"launch/slurm.py: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(main())
