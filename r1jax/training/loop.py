"""Training: data -> rollout -> scores -> PPO update, one after the other, until the updates are done.

Update u, counted from 1, uses batch u - 1 of the data and the keys folded from u: a run that is resumed from any
checkpoint equals the run that was never stopped, bit for bit.
"""

import contextlib
import dataclasses
import itertools
import math
import pathlib
import time
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.agent.agent import Agent, make_environment, save_agent
from r1jax.agent.encoder import encoder
from r1jax.agent.policy import Policy
from r1jax.config import Config, DataConfig, PPOConfig, RewardConfig
from r1jax.degradations.dataset import TrainingData, load_photos, note_small
from r1jax.degradations.mixes import training_mixes
from r1jax.env.environment import Environment
from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation.command import open_scorer
from r1jax.reward.scorer import Scorer, scorer
from r1jax.reward.service import RewardService, open_service
from r1jax.training.checkpoints import Checkpoints
from r1jax.training.devices import constrain, mesh_of, replicate, split
from r1jax.training.logs import RunLog, ServiceMeter
from r1jax.training.rollout import OutsideRollout, Trajectory, collect_scores, make_rollout
from r1jax.training.run_folder import check_folder, claim_folder
from r1jax.training.tree import TrainingTree, identify
from r1jax.training.update import TrainState, acting_params, make_update, optimiser
from r1jax.weights.recorded import digest

Evaluate = Callable[[Agent], Mapping[str, float]]

_RATIO_TOLERANCE = 0.05  # devices may round a rollout and an update differently, but not by this much
_SAMPLE = 32  # images that features are measured on where the first batch is only one
_SILENT_UPDATES = 3  # updates in a row without any score, after which the scorer counts as dead


class Data(Protocol):
    """Where training images come from: a pure function of (seed, step)."""

    def batch(self, seed: int, step: int, batch_size: int) -> Any: ...  # with `degraded` and `ids`


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
      agent: as saved in run_dir/agent.
      history: the objects of metrics.jsonl, one an update.
      seconds, trained: time and updates of this call.
    """

    agent: Agent
    run_dir: pathlib.Path
    history: list[dict[str, Any]]
    seconds: float
    trained: int


def train(
    config: Config,
    run_dir: str | pathlib.Path,
    *,
    evaluate: Evaluate | None = None,
    make_evaluate: Callable[[Scorer | RewardService], Evaluate] | None = None,
    resume: bool = True,
    progress: bool = True,
    data: Data | None = None,
    tree: TrainingTree | None = None,
    init: Agent | None = None,
) -> TrainResult:
    """Trains an agent on all devices that JAX sees.

    Args:
      run_dir: gets config.json, metrics.jsonl, tensorboard/, checkpoints/ and at the end agent/.
      evaluate: called with the agent every `eval.every` updates and after the last; what it returns is logged as
        eval/NAME.
      make_evaluate: makes `evaluate` from the run's own scorer, which is then loaded only once.
      resume: go on from the newest checkpoint of `run_dir`; where there is none, start.
      progress: show a bar.
      data: training images, instead of those that `config.data` describes.
      tree: train by look-ups in it instead of on images.
      init: start from this agent's parameters.

    Raises:
      UsageError: a field of the config does not fit, `init` is of another shape, or `run_dir` holds another run.
      R1JaxError: a loss is not finite, or scores stay away.
    """
    # --- The run folder ------------------------------------------------------------------------------------------
    started = time.perf_counter()
    run_dir, ppo = pathlib.Path(run_dir), config.ppo
    first_process = jax.process_index() == 0
    env = make_environment(config)
    policy = Policy(encoder(config.agent.encoder), env, config.agent)
    if init is not None:
        _check_init(policy, env, init)
    if tree:
        tree.check(config)
    elif config.reward.metric:
        raise UsageError(f"reward.metric={config.reward.metric}: the states of a tree have metrics; give one by --tree")
    origins = {"tree": tree.summary if tree else None, "init": {"agent": digest(init.params)} if init else None}
    weights = None if tree else identify(config, policy.encoder)  # a tree's summary says as much
    check_folder(run_dir, config, resume, origins, weights)
    tree = tree.rewarding(config.reward.metric) if tree and config.reward.metric else tree

    # --- The task: devices, images, tools, policy, scorer --------------------------------------------------------
    mesh = mesh_of(ppo.episodes)
    data = data or tree or training_data(config.data)
    acting, actor, tools = tree.task(config, env) if tree else (env, policy, env.toolbox.params)
    update_policy = make_update(actor, config)
    with contextlib.ExitStack() as stack:
        mode = "graph" if tree else config.reward.mode
        service: Any = tree.scorer if tree else _open_scorer(config.reward, run_dir, stack)
        scorer_params = service.params if mode == "graph" else ()
        if make_evaluate and first_process:
            evaluate = make_evaluate(service if isinstance(service, RewardService) else open_scorer(config, stack))
        frozen = replicate(mesh, (tools, actor.encoder.params, scorer_params))
        act, learn = _programs(acting, actor, service, mode, mesh, update_policy)
        if not tree:
            _check_tools(env, config.data.crop)
        if first_process:  # now: a config that was refused up to here leaves no folder behind
            claim_folder(run_dir, config, origins, weights)

        # --- Parameters, fresh or from the checkpoint ------------------------------------------------------------
        pool = stack.enter_context(ThreadPoolExecutor(1))
        checkpoints = stack.enter_context(Checkpoints(run_dir / "checkpoints"))
        done = checkpoints.latest() or 0
        batches = _prefetched(pool, data, config, done)
        first = [] if done else [next(batches)]
        sample = _sample(data, config, first[0]) if first and init is None else None
        state = replicate(mesh, _fresh_state(actor, config, sample, init))
        state = checkpoints.restore(state) if done else state

        # --- Updates ---------------------------------------------------------------------------------------------
        log = RunLog(run_dir, start=done, total=ppo.updates, progress=progress, enabled=first_process)
        stack.enter_context(log)
        silent, meter = 0, ServiceMeter(service)
        seed = np.int32(config.seed)  # an argument: runs that differ by it share their programs
        batches = itertools.chain(first, batches)
        for update in range(done + 1, ppo.updates + 1):
            times = [time.perf_counter()]
            batch = next(batches)
            images, ids = split(mesh, (batch.degraded, batch.ids))
            times.append(time.perf_counter())

            trajectory = jax.block_until_ready(act(acting_params(state), frozen, images, ids, seed, np.int32(update)))
            times.append(time.perf_counter())
            scores = collect_scores(trajectory, service, mode)
            times.append(time.perf_counter())

            coef = np.float32(entropy_coef(ppo, update))
            new_state, metrics = learn(state, frozen[1], trajectory, scores, seed, np.int32(update), coef)
            row = _row(jax.device_get(metrics), env)
            times.append(time.perf_counter())

            silent = silent + 1 if row["missing_share"] == 1 else 0
            _check(row, update, silent, config.reward)
            state = new_state if silent == 0 else state  # without scores Adam's momentum alone would move it
            if ppo.lag and update % (ppo.lag + 1) == 0:
                state = state._replace(behaviour=state.params)
            row |= (seconds := _seconds(times)) | meter.row(seconds)
            row["steps_per_second"] = row["decisions"] / row["seconds"]
            last = update == ppo.updates
            if evaluate and first_process and (last or _due(update, config.eval.every)):
                values = evaluate(_agent(policy, state, env, config))
                row |= {f"eval/{name}": float(value) for name, value in values.items()}
            log.write(update, row)
            if last or _due(update, config.eval.checkpoint_every):
                checkpoints.save(update, state)

        # --- The agent -------------------------------------------------------------------------------------------
        agent = _agent(policy, state, env, config)
        if first_process:
            save_agent(run_dir / "agent", agent)
    return TrainResult(agent, run_dir, log.rows, time.perf_counter() - started, ppo.updates - done)


def training_data(config: DataConfig) -> TrainingData:
    """Returns the stream of degraded crops that a config describes.

    Raises:
      UsageError: no such photos or mixes.
    """
    mixes = training_mixes(config.mixes, config.extra_mixes)
    photos = load_photos(config.photos)
    note_small(photos, config.crop)
    return TrainingData(photos, mixes, config.crop, config.clean_share)


def _prefetched(pool: ThreadPoolExecutor, data: Data, config: Config, start: int) -> Iterator[Any]:
    """Yields batches `start`, start + 1, ...; the next one is prepared while the devices work on this one."""
    steps = range(start, config.ppo.updates)
    futures = [pool.submit(_batch, data, config, step) for step in steps[:1]]
    for step in steps:
        batch = futures.pop().result()
        if step + 1 in steps:
            futures.append(pool.submit(_batch, data, config, step + 1))
        yield batch


def _batch(data: Data, config: Config, step: int) -> Any:
    """Returns the images and ids of an update, each image as often as a group has episodes."""
    group = config.ppo.group_size
    batch = data.batch(config.seed, step, config.ppo.episodes // group)
    if group == 1:
        return batch
    ids = np.arange(config.ppo.episodes, dtype=np.int32) + np.int32(step * config.ppo.episodes)
    return types.SimpleNamespace(degraded=np.repeat(batch.degraded, group, axis=0), ids=ids)


def entropy_coef(config: PPOConfig, update: int) -> float:
    """Returns the entropy coefficient of update 1..updates, from entropy_start to entropy_end."""
    share = (update - 1) / max(config.updates - 1, 1)
    if config.entropy_schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return config.entropy_start + (config.entropy_end - config.entropy_start) * share


def _key(seed: Any, update: Any, stream: int) -> Any:
    """Returns the key of an update's rollout (stream 0) or of its minibatches (1); update 0 is the initialisation."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), update), stream)


def _open_scorer(config: RewardConfig, run_dir: pathlib.Path, stack: contextlib.ExitStack) -> Any:
    """Returns the reward service, or the net itself where it runs inside the program."""
    if config.mode != "graph":
        process = jax.process_index()
        log_path = run_dir / (f"scorer-{process}.log" if process else "scorer.log")
        return stack.enter_context(open_service(config, log_path))
    graph = getattr(scorer(config.scorer, config.options), "graph", None)
    if graph is None:
        raise UsageError(
            f"reward.mode=graph: the scorer {config.scorer!r} is no Flax net; use ticket, outside or blocking"
        )
    return graph


def _check_tools(env: Environment, side: int) -> None:
    """Raises R1JaxError where a tool does not keep an image's shape."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    for tool in env.toolbox.tools:
        jax.eval_shape(tool.checked_apply, tool.params, image)


def _programs(
    env: Environment, policy: Policy, service: Any, mode: Any, mesh: Mesh | None, update_policy: Callable[..., Any]
) -> tuple[Callable[..., Trajectory], Callable[..., Any]]:
    """Returns the two programs of an update.

    act(params, (tools, encoder, scorer params), images, ids, seed, update) -> trajectory
    learn(state, encoder params, trajectory, scores, seed, update, entropy_coef) -> (state, metrics)
    """
    outside = mode == "outside"
    rollout: Any = (
        OutsideRollout(env, policy, service, mesh=mesh) if outside else make_rollout(env, policy, service, mode, mesh=mesh)
    )

    def act(params: Any, frozen: Any, images: Any, ids: Any, seed: Any, update: Any) -> Any:
        return rollout(params, *frozen, images, ids, _key(seed, update, 0))

    def learn(
        state: TrainState, encoder_params: Any, trajectory: Any, scores: Any, seed: Any, update: Any, coef: Any
    ) -> Any:
        # Features are small: every device repeats the whole update, and no device count changes its sums.
        trajectory, scores = constrain(mesh, (trajectory, scores))
        return constrain(mesh, update_policy(state, encoder_params, trajectory, scores, _key(seed, update, 1), coef))

    return act if outside else jax.jit(act), jax.jit(learn)


def _sample(data: Data, config: Config, first: Any) -> Any:
    """Returns the images that features are measured on: the first batch's, or more where all of it is one image."""
    if config.ppo.episodes > config.ppo.group_size:
        return first.degraded
    return data.batch(config.seed, 0, _SAMPLE).degraded


def _fresh_state(policy: Policy, config: Config, images: Any, init: Agent | None) -> TrainState:
    """Returns the state before the first update; without images to measure features on, only its shapes matter."""
    if init is not None:
        return TrainState(init.params, optimiser(config.ppo).init(init.params), init.params if config.ppo.lag else None)
    sample = None
    if images is not None:
        sample = jax.jit(policy.encoder.apply)(policy.encoder.params, jnp.asarray(images))
    params = policy.init(_key(config.seed, 0, 0), sample)
    return TrainState(params, optimiser(config.ppo).init(params), params if config.ppo.lag else None)


def _check_init(policy: Policy, env: Environment, init: Agent) -> None:
    """Raises UsageError where an agent's parameters would mean something else in the policy of this config, or not fit."""
    wanted = {
        "env.toolbox": (env.toolbox.names, init.env.toolbox.names),
        "env.horizon": (env.horizon, init.env.horizon),
        "env.stop": (env.stop, init.env.stop),
        "agent.encoder": tuple(f"{of.encoder.name} {of.encoder.version}" for of in (policy, init.policy)),
        "agent.hidden": (policy.config.hidden, init.policy.config.hidden),
        "agent.record": (policy.config.record, init.policy.config.record),
    }
    for name, (here, there) in wanted.items():
        if here != there:
            raise UsageError(f"--init: the agent was trained with {name} {there}, this config has {here}")


def _agent(policy: Policy, state: TrainState, env: Environment, config: Config) -> Agent:
    params = {name: jnp.asarray(np.asarray(array)) for name, array in state.params.items()}
    return Agent(policy, params, env, config)


# --- A row of the log --------------------------------------------------------------------------------------------


def _row(metrics: dict[str, Any], env: Environment) -> dict[str, float]:
    shares = metrics.pop("actions")
    names = (*env.toolbox.names, "stop")[: len(shares)]
    actions = {f"action/{name}": float(share) for name, share in zip(names, shares, strict=True)}
    return {name: float(value) for name, value in metrics.items()} | actions


def _seconds(times: list[float]) -> dict[str, float]:
    """Returns how long each phase took: waiting for data, rollout, waiting for scores, update."""
    phases = dict(zip(("data", "rollout", "scores", "update"), np.diff(times), strict=True))
    return {"seconds": times[-1] - times[0]} | {f"seconds/{name}": float(value) for name, value in phases.items()}


def _check(row: Mapping[str, float], update: int, silent: int, config: RewardConfig) -> None:
    """Raises where going on would ruin the policy."""
    broken = [name for name in ("loss", "grad_norm", "ratio_error") if not np.isfinite(row[name])]
    if broken:
        raise R1JaxError(f"update {update}: {broken[0]} is {row[broken[0]]}; try a lower ppo.learning_rate")
    if row["ratio_error"] > _RATIO_TOLERANCE:
        raise R1JaxError(f"update {update}: the trained policy is not the one that acted: {row['ratio_error']:.3f} off")
    if row["missing_share"] and config.on_missing == "raise":
        share = f"{row['missing_share']:.0%} of the episodes lack a score"
        raise R1JaxError(f"update {update}: {share}; reward.on_missing=mask would leave them out")
    if silent >= _SILENT_UPDATES:
        raise R1JaxError(f"update {update}: no score has come for {silent} updates; does {config.scorer!r} run?")


def _due(update: int, every: int) -> bool:
    return every > 0 and update % every == 0
