"""The rollout: every image of a batch is restored, tool by tool, by what the policy samples.

This file holds the one `lax.scan` over the horizon. A step encodes the image, samples an action, applies the tool
and hands the new image to the scorer; how the scores come back is the mode:

  ticket    an image leaves for the reward service and a ticket stays; scores are collected after the scan
  blocking  the step waits for its scores
  graph     a scorer that is a Flax net runs inside the program
  none      nothing is scored
  outside   the horizon is a program call a step: the host submits a step's images while the next step runs

The last three have no callback: their programs can be exported and cached on disk.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from r1jax.agent.policy import Evaluate, Params, Policy
from r1jax.env.environment import Environment, State
from r1jax.errors import UsageError
from r1jax.images import to_uint8_in_graph
from r1jax.reward.host_call import score_in_graph, submit_in_graph
from r1jax.reward.scorer import GraphScorer
from r1jax.reward.service import RewardService

Mode = Literal["ticket", "blocking", "graph", "none"]
Rollout = Callable[..., "Trajectory"]


class Trajectory(NamedTuple):
    """What a rollout leaves behind; T is the horizon, b the number of episodes.

    PPO trains on what was seen, so that no epoch runs the encoder again.
    """

    seen: Array  # [T, b, ...] of the image before the action, by `Policy.see`: its features
    record: Int[Array, "T b T"]  # tools called before the action, -1 for none
    step: Int[Array, "T b"]
    action: Int[Array, "T b"]
    log_prob: Float[Array, "T b"]
    value: Float[Array, "T b"]
    logits: Float[Array, "T b a"]
    live: Bool[Array, "T b"]  # the episode had not ended: the action is a decision, STOP included
    valid: Bool[Array, "T b"]  # the action called a tool
    discount: Float[Array, "T b"]  # 0 where the action ended the episode
    kept: Float[Array, "T b"]  # of the first image's structure, by the image after the action
    scores: Array  # [T+1, b] tickets or scores; first the initial image
    image: Float[Array, "b h w 3"]  # restored


def make_rollout(
    env: Environment,
    policy: Policy,
    service: RewardService | GraphScorer | None,
    mode: Mode,
    *,
    mesh: Mesh | None = None,
    greedy: bool = False,
) -> Rollout:
    """Returns a pure function, not yet jitted, that restores a batch of images.

    `rollout(policy_params, tool_params, encoder_params, scorer_params, images [b, h, w, 3], ids [b], key)`, where
    `ids` tell images apart: the same id and key give the same random numbers on any number of devices.
    `scorer_params` is () but in the mode "graph".

    Args:
      service: the reward service of the modes "ticket" and "blocking", the scorer of "graph", None for the rest.
      mesh: devices along an axis "data" that share the batch; each scores its own images.
      greedy: take the likeliest action instead of sampling.

    Raises:
      UsageError: no such mode.
    """
    score, step = _scoring(service, mode), _make_step(env, policy, greedy)

    def rollout(
        policy_params: Params,
        tool_params: Any,
        encoder_params: Any,
        scorer_params: Any,
        images: Float[Array, "b h w 3"],
        ids: Int[Array, " b"],
        key: PRNGKeyArray,
    ) -> Trajectory:
        evaluate = policy.bind(policy_params, encoder_params, images.shape[0] * env.horizon)

        def scored_step(state: State, t: Array) -> tuple[State, tuple[Any, ...]]:
            new_state, made = step(evaluate, tool_params, encoder_params, ids, key, state, t)
            return new_state, (*made, score(scorer_params, new_state.image))

        state = env.reset(images)
        first = score(scorer_params, state.image)
        state, (*steps, scores) = jax.lax.scan(scored_step, state, jnp.arange(env.horizon))
        return Trajectory._make([*steps, jnp.concatenate([first[None], scores]), state.image])

    return rollout if mesh is None else _shard(rollout, mesh)


def _make_step(env: Environment, policy: Policy, greedy: bool) -> Callable[..., tuple[State, tuple[Any, ...]]]:
    """Returns the pure step: (state, t) -> (new state, the fields of a Trajectory up to `kept`)."""

    def step(
        evaluate: Evaluate,
        tool_params: Any,
        encoder_params: Any,
        ids: Int[Array, " b"],
        key: PRNGKeyArray,
        state: State,
        t: Array,
    ) -> tuple[State, tuple[Any, ...]]:
        seen = policy.see(encoder_params, state)
        logits, value = evaluate(seen, state.record, state.step)
        action = jnp.argmax(logits, -1) if greedy else _sample(jax.random.fold_in(key, t), ids, logits)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], axis=1)[:, 0]
        new_state, timestep = env.step(tool_params, state, action)
        decision = (seen, state.record, state.step, action, log_prob, value, logits, ~state.done)
        return new_state, (*decision, timestep.valid, timestep.discount, env.kept(tool_params, new_state))

    return step


class OutsideRollout:
    """The mode "outside": a rollout that is not to be jitted, of two programs that are.

    Called as what `make_rollout` returns is. While the devices work on a step, this process submits the images
    of the step before it, so that a scorer starts as early as in the mode "ticket".

    Attributes:
      begin: images -> (state, images uint8 [1, b, h, w, 3]), jitted.
      step: (policy_params, tool_params, encoder_params, ids, key, state, t) -> (new state, fields of a Trajectory
        up to `kept` [1, b, ...], images uint8 [1, b, h, w, 3]), jitted.
    """

    def __init__(
        self, env: Environment, policy: Policy, service: RewardService, *, mesh: Mesh | None = None, greedy: bool = False
    ):
        one_step = _make_step(env, policy, greedy)

        def begin(images: Float[Array, "b h w 3"]) -> tuple[State, Array]:
            state = env.reset(images)
            return state, to_uint8_in_graph(state.image)[None]

        def step(*args: Any) -> tuple[State, tuple[Any, ...], Array]:
            # A scan, of one step: XLA then compiles the very step of the other modes, to the same bits.
            policy_params, tool_params, encoder_params, *others, state, t = args
            evaluate = policy.bind(policy_params, encoder_params, state.step.shape[0])
            fixed = (evaluate, tool_params, encoder_params, *others)
            new_state, made = jax.lax.scan(lambda state, t: one_step(*fixed, state, t), state, t[None])
            return new_state, made, to_uint8_in_graph(new_state.image)[None]

        programs = (begin, step) if mesh is None else _shard_steps(begin, step, mesh)
        self.begin, self.step = map(jax.jit, programs)
        self._join = jax.jit(lambda steps: jax.tree.map(lambda *x: jnp.concatenate(x), *steps))
        self._horizon, self._submit = env.horizon, service.submit

    def __call__(
        self,
        policy_params: Params,
        tool_params: Any,
        encoder_params: Any,
        scorer_params: Any,
        images: Float[Array, "b h w 3"],
        ids: Int[Array, " b"],
        key: PRNGKeyArray,
    ) -> Trajectory:
        state, waiting = self.begin(images)
        steps, tickets = [], []
        for t in range(self._horizon):
            state, made, new = self.step(policy_params, tool_params, encoder_params, ids, key, state, jnp.int32(t))
            tickets.append(_on_host(lambda x: self._submit(x[0])[None], waiting))
            steps.append(made)
            waiting = new
        tickets.append(_on_host(lambda x: self._submit(x[0])[None], waiting))
        return Trajectory._make([*self._join(steps), self._join(tickets), state.image])


def _shard_steps(begin: Callable[..., Any], step: Callable[..., Any], mesh: Mesh) -> tuple[Any, Any]:
    episodes, in_time = P("data"), P(None, "data")
    inputs = (P(), P(), P(), episodes, P(), episodes, P())
    return (
        jax.shard_map(begin, mesh=mesh, in_specs=episodes, out_specs=(episodes, in_time), check_vma=False),
        jax.shard_map(step, mesh=mesh, in_specs=inputs, out_specs=(episodes, in_time, in_time), check_vma=False),
    )


def _sample(key: PRNGKeyArray, ids: Int[Array, " b"], logits: Float[Array, "b a"]) -> Int[Array, " b"]:
    """Samples each image's action with a key of its own, so that no device count changes it."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)
    return jax.vmap(jax.random.categorical)(keys, logits)


def _scoring(service: Any, mode: Mode) -> Callable[[Any, Float[Array, "b h w 3"]], Array]:
    """Returns what a step does with its new images."""
    if mode == "ticket":
        return lambda _, image: submit_in_graph(service, image)
    if mode == "blocking":
        return lambda _, image: score_in_graph(service, image)
    if mode == "graph":
        return service.apply
    if mode == "none":
        return lambda _, image: jnp.zeros(image.shape[0], jnp.float32)
    raise UsageError(f"reward.mode: {mode!r} is not one of {', '.join(get_args(Mode))}")


def _shard(rollout: Rollout, mesh: Mesh) -> Rollout:
    """Splits the batch over the devices; they share nothing but the key and the parameters."""
    per_episode = P("data")
    outputs = (P(None, "data"),) * (len(Trajectory._fields) - 1) + (per_episode,)
    inputs = (P(), P(), P(), P(), per_episode, per_episode, P())
    as_tuple = jax.shard_map(
        lambda *args: tuple(rollout(*args)), mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False
    )
    return lambda *args: Trajectory._make(as_tuple(*args))


def collect_scores(
    trajectory: Trajectory, service: RewardService | None, mode: Mode | Literal["outside"]
) -> Float[Array, "T1 b"]:
    """Returns the scores of a trajectory, [T+1, b], first those of the initial images; NaN where one is missing.

    Waits for the rollout and, in the modes "ticket" and "outside", at most the service's timeout after it.
    """
    if mode not in ("ticket", "outside"):
        return trajectory.scores
    assert service is not None
    return _on_host(service.collect, trajectory.scores)


def _on_host(function: Callable[[np.ndarray], np.ndarray], x: Array) -> Array:
    """Applies a host function to [T+1, b, ...]; of a sharded array each process handles its own episodes."""
    sharding = x.sharding
    if not isinstance(sharding, NamedSharding):
        return jnp.asarray(function(np.asarray(x)))
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[1].start or 0)
    local = function(np.concatenate([np.asarray(shard.data) for shard in shards], axis=1))
    return jax.make_array_from_process_local_data(sharding, local, x.shape[:2])
