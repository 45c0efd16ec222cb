"""The launchers: what --dry-run prints, what their scripts do under fake commands, and errors of one line."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from launch_scripts import load

from r1jax import commands
from r1jax.errors import R1JaxError, UsageError
from r1jax.training.sweep import run_sweep

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = str(ROOT / "configs" / "quickstart.py")
SWEEP = str(ROOT / "configs" / "ablate_step_cost.py")
TRAIN = f"{sys.executable} -m r1jax train {CONFIG}"
VM = ("--name", "vm", "--zone", "z", "--type", "v5litepod-8")


local, slurm, tpu_vm = (load(name) for name in ("local", "slurm", "tpu_vm"))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Returns `fake(name, body)`, which puts a shell script of that name before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(name, body):
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)

    return write


def printed(capsys, module, *words):
    assert module.main([*words, "--dry-run"]) == 0
    return capsys.readouterr().out


# --- All of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words", "code", "says"),
    [
        ("local", ["missing.py"], 2, "missing.py: no such config file"),
        ("local", [CONFIG, "--gpus", "0", "--device", "cpu"], 2, "--gpus: want --device gpu"),
        ("local", [CONFIG, "--processes", "2"], 2, "--processes: want --device"),
        ("local", [CONFIG, "--processes", "0"], 2, "want 1 or more"),
        ("local", [CONFIG, "--device", "gpu", "--gpus", "0,1,2", "--processes", "2"], 2, "3 GPUs do not divide"),
        ("local", [CONFIG, "--device", "gpu"], 1, "no nvidia-smi here"),
        ("slurm", ["missing.py"], 2, "missing.py: no such config file"),
        ("slurm", [CONFIG], 1, "no sbatch here"),
        ("slurm", [CONFIG, "--nodes", "0", "--dry-run"], 2, "want 1 or more nodes"),
        ("slurm", [CONFIG, "--sweep", "--dry-run"], 2, "defines no sweep()"),
        ("slurm", [SWEEP, "--sweep", "--dry-run", "--ppo.clip", "0.1"], 2, "want overrides as --FIELD=VALUE"),
        ("slurm", [SWEEP, "--sweep", "--dry-run", "--tree=trees/{seed}"], 2, "a tree for each variant is for `r1jax sweep"),
        ("tpu_vm", ["missing.py", *VM], 2, "missing.py: no such config file"),
        ("tpu_vm", ["/etc/hostname", *VM], 2, "want a file inside"),
        ("tpu_vm", [CONFIG, *VM], 1, "no gcloud here"),
    ],
)
def test_errors_are_one_line(name, words, code, says):
    environment = {**os.environ, "PATH": "/nowhere"}
    command = [sys.executable, str(ROOT / "launch" / f"{name}.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"launch/{name}.py: ") and done.stderr.count("\n") == 1
    assert says in done.stderr


# --- local.py ----------------------------------------------------------------------------------------------------


def test_local_passes_the_rest_on(capsys):
    assert printed(capsys, local, CONFIG, "--ppo.clip=0.1") == f"{TRAIN} --run runs/quickstart --ppo.clip=0.1\n"


def test_local_splits_the_cpu_and_keeps_xla_flags(capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    out = printed(capsys, local, CONFIG, "--run", "r", "--device", "cpu", "--cpu-devices", "4")
    flags = "'XLA_FLAGS=--xla_dump_to=x --xla_force_host_platform_device_count=4'"
    assert out == f"env JAX_PLATFORMS=cpu {flags} {TRAIN} --run r\n"


def test_local_gives_each_process_its_gpus(capsys):
    words = ("--device", "gpu", "--gpus", "2,3,4,5", "--processes", "2")
    lines = printed(capsys, local, CONFIG, *words).splitlines()
    assert len(lines) == 2
    for rank, (line, gpus) in enumerate(zip(lines, ("2,3", "4,5"), strict=True)):
        assert line.startswith(f"env JAX_PLATFORMS=cuda,cpu CUDA_VISIBLE_DEVICES={gpus} R1JAX_DISTRIBUTED=1 ")
        assert f" JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={rank} " in line
    addresses = {line.split("JAX_COORDINATOR_ADDRESS=")[1].split()[0] for line in lines}
    assert len(addresses) == 1 and addresses.pop().startswith("127.0.0.1:")


def test_local_ends_all_when_one_fails():
    body = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(100)"
    started = time.monotonic()
    assert local.run_all([sys.executable, "-c", body], [{"RANK": "0"}, {"RANK": "1"}]) == 7
    assert time.monotonic() - started < 50


# --- slurm.py ----------------------------------------------------------------------------------------------------


def test_slurm_dry_run_prints_script_and_command(capsys, tmp_path):
    run = tmp_path / "run"
    words = ("--run", str(run), "--nodes", "2", "--gpus", "4", "--partition", "p", "--time", "1:00:00")
    more = ("--setup", "module load cuda", "--sbatch=--account=me", "--ppo.clip=0.1")
    out = printed(capsys, slurm, CONFIG, *words, *more)
    options = [line.removeprefix("#SBATCH ") for line in out.splitlines() if line.startswith("#SBATCH ")]
    assert {"--nodes=2", "--gpus-per-node=4", "--partition=p", "--time=1:00:00", "--account=me"} <= set(options)
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@120", f"--output={run}/slurm-%j.log"} <= set(options)
    order = ("module load cuda", "set -uo pipefail", "export JAX_PLATFORMS=cuda,cpu", "export R1JAX_DISTRIBUTED=1")
    places = [out.index(f"\n{line}") for line in order]
    assert places == sorted(places)
    assert f"{TRAIN} --run {run} --quiet --ppo.clip=0.1 &\n" in out
    assert out.endswith(f"\nsbatch {run}/job.sbatch\n")
    assert not run.exists()


def test_slurm_submits_what_it_wrote(fake, tmp_path):
    fake("sbatch", f'cp "$1" {tmp_path}/submitted; exit 3')
    assert slurm.main([CONFIG, "--run", str(tmp_path / "run")]) == 3
    script = (tmp_path / "submitted").read_text()
    assert script == (tmp_path / "run" / "job.sbatch").read_text()
    assert "R1JAX_DISTRIBUTED" not in script and "export JAX_PLATFORMS=cpu\n" in script


def batch_job(fake, tmp_path, trainer, *options, **variables):
    """Starts the batch script as SLURM would, with `trainer` as the interpreter's body."""
    fake("srun", 'shift; SLURM_PROCID=1 exec "$@"')
    fake("scontrol", f'if [ "$1" = show ]; then printf "n7\\nn8\\n"; else echo "$*" >>{tmp_path}/scontrol; fi')
    fake("trainer", trainer)
    args, rest = slurm.parse([CONFIG, "--python", "trainer", *options])
    script = tmp_path / "job.sbatch"
    script.write_text(slurm.batch_script(args, tmp_path, rest))
    job = {"SLURM_JOB_ID": "20005", "SLURM_JOB_NODELIST": "n[7-8]", "SLURM_JOB_NUM_NODES": "2"}
    return subprocess.Popen(["bash", str(script)], env={**os.environ, **job, **variables}, cwd=tmp_path)


def test_slurm_job_tells_each_process_where_to_meet(fake, tmp_path):
    trainer = f'env >{tmp_path}/seen; echo "$@" >{tmp_path}/words; exit 5'
    setup = "--setup=: $NEVER_SET"  # as in many a ~/.bashrc
    job = batch_job(fake, tmp_path, trainer, "--nodes", "2", setup, SLURM_CPUS_PER_TASK="6")
    assert job.wait(60) == 5
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines() if "=" in line)
    assert seen["JAX_COORDINATOR_ADDRESS"] == "n7:20005"
    assert (seen["JAX_NUM_PROCESSES"], seen["JAX_PROCESS_ID"], seen["R1JAX_DISTRIBUTED"]) == ("2", "1", "1")
    assert seen["SRUN_CPUS_PER_TASK"] == "6"
    assert (tmp_path / "words").read_text() == f"-m r1jax train {CONFIG} --run {tmp_path} --quiet\n"


@pytest.mark.parametrize(("restarts", "requeued"), [("2", True), ("3", False)])
def test_slurm_job_requeues_itself_and_goes_on_until_it_is_ended(fake, tmp_path, restarts, requeued):
    ready, done = tmp_path / "ready", tmp_path / "done"
    trainer = f"touch {ready}; while ! [ -e {done} ]; do sleep 0.1; done; exit 4"
    job = batch_job(fake, tmp_path, trainer, "--max-restarts", "3", SLURM_RESTART_COUNT=restarts)
    wait_for(ready.exists)
    job.send_signal(signal.SIGUSR1)
    if requeued:
        wait_for((tmp_path / "scontrol").exists)
    time.sleep(0.5)
    assert job.poll() is None
    done.touch()
    assert job.wait(60) == 4
    assert (tmp_path / "scontrol").exists() == requeued
    assert not requeued or (tmp_path / "scontrol").read_text() == "requeue 20005\n"


def test_slurm_sweep_submits_every_variant(capsys, tmp_path):
    words = ("--gpus", "1", "--seed=3", "--tree=trees/one")
    out = printed(capsys, slurm, SWEEP, "--sweep", "--run", str(tmp_path), *words)
    rows = run_sweep(SWEEP, tmp_path, {"seed": "3"}, dry_run=True)
    assert out.count("\nsbatch ") == len(rows) > 1
    for row in rows:
        assert f"--run {row['run']} " in out and f"# {row['run']}/job.sbatch\n" in out
    assert " --env.step_cost=0.05 --seed=3 --tree=trees/one &\n" in out


def test_slurm_sweep_with_a_wrong_field_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        slurm.main([SWEEP, "--sweep", "--dry-run", "--ppo.clap=0.1"])
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("launch/slurm.py: --ppo.clap: no field 'clap'; ") and err.count("\n") == 1


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- tpu_vm.py ---------------------------------------------------------------------------------------------------


def test_tpu_dry_run_prints_every_command(capsys):
    out = printed(capsys, tpu_vm, CONFIG, *VM, "--project", "p", "--spot", "--delete", "--setup", "mount x")
    commands = [line for line in out.splitlines() if line.startswith("gcloud ")]
    prefix, suffix = "gcloud compute tpus tpu-vm ", " --zone=z --project=p"
    assert all(line.startswith(prefix) for line in commands)
    whole = [line.removeprefix(prefix).removesuffix(suffix) for line in commands if line.endswith(suffix)]
    assert whole == [
        "describe vm --format=json",
        "start vm",
        "delete vm --quiet",
        "create vm --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite --spot",
        "scp /tmp/r1jax.tar.gz vm:r1jax.tar.gz --worker=all",
        "ssh vm --worker=all '--command=mount x'",
        "scp --recurse --worker=0 vm:r1jax/runs/quickstart runs",
        "delete vm --quiet",
    ]
    assert "python -m r1jax train configs/quickstart.py --run runs/quickstart; echo" in out
    assert "R1JAX_DISTRIBUTED=1 JAX_PLATFORMS=tpu,cpu " in out


@pytest.mark.parametrize(("kind", "version"), [("v6e-8", "v2-alpha-tpuv6e"), ("v4-8", "tpu-ubuntu2204-base")])
def test_tpu_runtime_version_goes_by_the_type(kind, version):
    assert tpu_vm.parse([CONFIG, *VM[:4], "--type", kind])[0].version == version


def verbs(fake, tmp_path, state, *words, workers=1):
    """Runs the launcher with a gcloud whose VM is in `state` ("" for none); returns its code and gcloud's verbs."""
    vm = json.dumps({"state": state or "READY", "networkEndpoints": [{}] * workers})
    missing = f"! grep -q create {tmp_path}/calls" if not state else "false"
    describe = f"if {missing}; then echo 'NOT_FOUND: no vm' >&2; exit 1; fi; echo '{vm}'"
    fake("gcloud", f'echo "$4" >>{tmp_path}/calls; if [ "$4" = describe ]; then {describe}; fi')
    fake("tar", "")
    try:
        code = tpu_vm.main([CONFIG, *VM, "--run", "/shared/run", *words])
    except SystemExit as error:
        code = error.code
    return code, (tmp_path / "calls").read_text().split()


@pytest.mark.parametrize(
    ("state", "first"),
    [
        ("", ["describe", "create", "describe"]),
        ("READY", ["describe"]),
        ("STOPPED", ["describe", "start"]),
        ("PREEMPTED", ["describe", "delete", "create", "describe"]),
    ],
)
def test_tpu_makes_a_vm_where_there_is_none(fake, tmp_path, state, first):
    assert verbs(fake, tmp_path, state) == (0, [*first, "scp", "ssh", "ssh"])


def test_tpu_workers_want_shared_storage(fake, tmp_path, capsys):
    assert verbs(fake, tmp_path, "READY", "--run", "runs/x", workers=4) == (2, ["describe"])
    assert "vm has 4 workers; want an absolute path" in capsys.readouterr().err


def test_tpu_script_trains_once_follows_and_returns_the_exit_code(tmp_path):
    python = tmp_path / "r1jax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    wait = f"for i in $(seq 600); do [ -e {tmp_path}/release ] && break; sleep 0.1; done"
    python.write_text(f"#!/usr/bin/env bash\necho start >>{tmp_path}/starts; echo begun; {wait}; echo trained; exit 6\n")
    python.chmod(0o755)
    args, rest = tpu_vm.parse([CONFIG, *VM])
    script = next(c for c in tpu_vm.steps(args, pathlib.Path(CONFIG), rest, "x") if "train.pid" in str(c))[-2]
    script = script.removeprefix("--command=")
    command = ["bash", "-c", script]
    left = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # what started pytest may ignore it
    )
    wait_for((tmp_path / "starts").exists)
    os.killpg(left.pid, signal.SIGHUP)  # the connection breaks
    left.wait(30)
    follower = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert follower.stdout.readline() == "begun\n"
    (tmp_path / "release").touch()
    assert follower.communicate(timeout=60)[0] == "trained\n" and follower.returncode == 6
    assert (tmp_path / "starts").read_text() == "start\n"


# --- Several processes -------------------------------------------------------------------------------------------

TWO = """
from r1jax.config import AgentConfig, Config, DataConfig, EnvConfig, EvalConfig, PPOConfig, RewardConfig

def config():
    return Config(
        data=DataConfig(mixes="noise+jpeg", crop=32),
        env=EnvConfig(toolbox=("brighten_shift", "brighten_gamma"), horizon=2),
        agent=AgentConfig(encoder="pixels", hidden=(16,)),
        reward=RewardConfig(scorer="{scorer}:Target"),
        ppo=PPOConfig(updates=3, episodes=8, epochs=1, minibatches=1),
        eval=EvalConfig(every=0, checkpoint_every=2),
    )
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_as_one(tmp_path):
    config = tmp_path / "two.py"
    config.write_text(TWO.replace("{scorer}", str(ROOT / "tests" / "training" / "probe_scorers.py")))
    rows = {}
    for count in (1, 2):
        run = tmp_path / str(count)
        own = ["--run", str(run), "--device", "cpu", "--processes", str(count), "--quiet"]
        command = [sys.executable, str(ROOT / "launch" / "local.py"), str(config), *own]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("trained 3 updates") == 1
        assert (run / "agent" / "agent.safetensors").is_file() and (run / "checkpoints" / "3").is_dir()
        rows[count] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows[2]) == 3
    for alone, together in zip(rows[1], rows[2], strict=True):
        assert together["missing_share"] == 0
        for name in ("score_gain", "mean_calls", "loss", "entropy", "grad_norm"):
            assert together[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5), name


@pytest.fixture
def joined(monkeypatch):
    """The keywords that jax.distributed.initialize was called with."""
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **keywords: calls.append(keywords))
    monkeypatch.setenv("R1JAX_DISTRIBUTED", "1")
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_train_joins_nobody_unless_asked(joined, monkeypatch):
    monkeypatch.setenv("R1JAX_DISTRIBUTED", "0")
    assert commands.join_processes() == 0
    assert joined == []


def test_train_leaves_the_cluster_to_jax(joined):
    assert commands.join_processes() == 0
    assert joined == [{}]


def test_train_joins_at_the_given_address(joined, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "n7:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(UsageError, match=r"^JAX_PROCESS_ID: want a whole number"):
        commands.join_processes()
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    commands.join_processes()
    [keywords] = joined
    assert keywords.pop("cluster_detection_method") == "deactivate"  # which would leave a process one GPU only
    assert keywords == {"coordinator_address": "n7:1234", "num_processes": 2, "process_id": 1}


def test_failing_to_join_is_one_line(joined, monkeypatch):
    def fail(**_):
        raise RuntimeError("deadline\nand a long trace")

    monkeypatch.setattr("jax.distributed.initialize", fail)
    with pytest.raises(R1JaxError, match=r"did not join: deadline$"):
        commands.join_processes()
