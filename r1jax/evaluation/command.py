"""`r1jax evaluate`: from a config and names of planners to the table."""

import contextlib
import pathlib
from collections.abc import Collection, Sequence

from r1jax import user_files
from r1jax.agent.agent import Agent, load_agent, make_environment
from r1jax.config import Config
from r1jax.degradations.dataset import build_benchmark, load_photos, note_small
from r1jax.degradations.mixes import parse_mixes
from r1jax.env.environment import Environment
from r1jax.errors import UsageError
from r1jax.evaluation.benchmark import best_fixed_order, evaluate
from r1jax.evaluation.planners import AgentPlanner, FixedOrder, Greedy, NoTools, Oracle, Planner, RandomTools
from r1jax.evaluation.simulator import Simulator
from r1jax.evaluation.table import Table
from r1jax.reward.scorer import Scorer, scorer
from r1jax.reward.service import RewardService, open_service
from r1jax.weights.recorded import digest

PLANNERS = ("input", "random", "fixed", "greedy", "oracle", "agent")
_FIXED_ORDER_PHOTOS = 4  # photos a mix on which the fixed order is chosen


def run_evaluation(
    config: Config,
    *,
    overrides: Collection[str] = (),
    checkpoint: str | None = None,
    toolbox: str = "lite",
    planners: Sequence[str] = ("random", "fixed", "greedy", "agent"),
    photos: str | None = None,
    mixes: str | None = None,
    per_mix: int | None = None,
    judge: bool = False,
    no_reference: bool = False,
    out: str | None = None,
    trees: str | None = None,
    command: str = "",
    progress: bool = True,
) -> Table:
    """Evaluates planners on photos under mixes and returns the table.

    The environment is the agent's, with the config's horizon: an agent trained for four calls can be compared with an
    exhaustive search of three. Without an agent among the planners, and no checkpoint, it is the config's own. The
    best fixed order is chosen on the config's training photos and mixes.

    Args:
      overrides: names of fields that were set for this evaluation: an agent's own must be the same.
      planners: names, or "FILE.py:Class" for one of your own.
      checkpoint: a run folder or an agent; None is the shipped agent of `toolbox`, "lite" or "published".
      photos, mixes: by default `eval.photos` and `data.mixes` of the config.
      out: by default the run's folder evaluation/; nothing is written for the shipped agent.

    Raises:
      UsageError: a planner, folder or mix does not exist, or a user's planner raises.
    """
    own = {name: _own_planner(name) for name in planners if ".py:" in name}
    unknown = [name for name in planners if name not in PLANNERS and name not in own]
    if unknown:
        raise UsageError(f"--planners: no planner {unknown[0]!r}; there are {', '.join(PLANNERS)}; your own: FILE.py:Class")
    if toolbox != "lite" and "agent" not in planners:
        raise UsageError(f"--toolbox {toolbox}: names the agent to evaluate, and --planners has no agent")
    agent = load_agent(checkpoint, toolbox) if checkpoint or "agent" in planners else None
    env = _environment(agent, config, overrides) if agent else make_environment(config)
    photos, mixes = photos or config.eval.photos, mixes or config.data.mixes
    clean = load_photos(photos)
    note_small(clean, config.data.crop)
    benchmark = build_benchmark(clean, parse_mixes(mixes), config.data.crop, config.seed, per_mix)
    tree_folder = pathlib.Path(trees) if trees else None
    with contextlib.ExitStack() as stack:
        simulator = Simulator(env, env.toolbox.params, open_scorer(config, stack))
        chosen = [own.get(name) or _planner(name, agent, simulator, config) for name in planners]
        return evaluate(
            chosen,
            benchmark,
            simulator,
            folder=_output_folder(out, checkpoint),
            tree_folder=tree_folder,
            judge=judge,
            no_reference=no_reference,
            reference="agent" if "agent" in planners else None,
            about={"command": command, "photos": photos, "mixes": mixes, "agent": digest(agent.params) if agent else None},
            progress=progress,
        )


def open_scorer(config: Config, stack: contextlib.ExitStack) -> Scorer | RewardService:
    """Returns the config's scorer: the lite one in this process, any other in a process of its own."""
    reward = config.reward
    return scorer("lite", reward.options) if reward.scorer == "lite" else stack.enter_context(open_service(reward))


def _environment(agent: Agent, config: Config, overrides: Collection[str]) -> Environment:
    """The agent's tools under the config's horizon, which may be shorter than the agent's but not longer."""
    for name in ("toolbox", "stop", "step_cost"):
        given, own = getattr(config.env, name), getattr(agent.config.env, name)
        if f"env.{name}" in overrides and given != own:
            hint = "leave it out, or compare planners that need no agent: --planners random,fixed,greedy,oracle"
            raise UsageError(f"--env.{name}={given}: the agent has {own}; {hint}")
    if config.env.horizon > agent.env.horizon:
        raise UsageError(
            f"env.horizon={config.env.horizon}: the agent was trained for {agent.env.horizon}; it cannot plan further"
        )
    return Environment(
        agent.env.toolbox, config.env.horizon, agent.env.stop, agent.env.step_cost, config.env.block_size
    )


def _output_folder(out: str | None, checkpoint: str | None) -> pathlib.Path | None:
    if out:
        return pathlib.Path(out)
    run = pathlib.Path(checkpoint) if checkpoint else None
    return run / "evaluation" if run and run.is_dir() else None


def _own_planner(name: str) -> Planner:
    """Returns an object of a class in a user's file: FILE.py:Class."""
    place, _, attribute = name.rpartition(":")
    path = pathlib.Path(place)
    if not path.is_file():
        raise UsageError(f"--planners: {place}: no such file")
    made = getattr(user_files.import_file(path, f"r1jax_planner_{path.stem}"), attribute, None)
    if not callable(made):
        raise UsageError(f"--planners: {place} defines no {attribute!r}")
    return user_files.call(made, path)


def _planner(name: str, agent: Agent | None, simulator: Simulator, config: Config) -> Planner:
    if name == "fixed":
        mixes = parse_mixes(config.data.mixes)
        training = load_photos(config.data.photos)
        sample = build_benchmark(training, mixes, config.data.crop, config.seed + 1, _FIXED_ORDER_PHOTOS)
        return FixedOrder(best_fixed_order(sample, simulator))
    if name == "agent" and agent:
        return AgentPlanner(agent.policy, agent.params, agent.env.horizon)
    simple = {"input": NoTools, "random": RandomTools, "greedy": Greedy, "oracle": Oracle}
    return simple[name]()
