"""Planners: each chooses a tool sequence for every photo, from what it asks a `World`.

A planner is an object with a `name` and `plan(world) -> nodes`, the state that it ends in for each photo. To
add one, write that; `world.images` shows states, `world.scores` asks the scorer, and both are counted.
"""

import copy
import dataclasses
import functools
import hashlib
import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from r1jax.agent.policy import Policy
from r1jax.errors import UsageError
from r1jax.evaluation.simulator import NO_CALL, in_blocks
from r1jax.evaluation.world import World, sequences


class Planner(Protocol):
    """Chooses the state to end in for every photo of a world."""

    @property
    def name(self) -> str: ...

    def plan(self, world: World) -> Int[np.ndarray, " n"]: ...


@dataclasses.dataclass(frozen=True)
class PlanResult:
    """What a planner did for each of n photos."""

    nodes: Int[np.ndarray, " n"]  # the state it ended in
    actions: Int[np.ndarray, "n T"]  # its tools, -1 where it had stopped
    images: UInt8[np.ndarray, "n h w 3"]  # restored
    calls: Int[np.ndarray, " n"]  # tools that the restored image went through
    tool_runs: Int[np.ndarray, " n"]  # tools run to find out, those included
    scorings: Int[np.ndarray, " n"]  # times the scorer was asked
    seconds: Float[np.ndarray, " n"]


def run_planner(planner: Planner, world: World) -> PlanResult:
    """Lets a planner plan, and returns the restored images with the price."""
    world.start()
    nodes = planner.plan(world)
    photos = np.arange(world.num_photos)
    images = world.images(photos, nodes)
    actions = sequences(nodes, world.num_tools, world.horizon)
    calls = np.sum(actions != NO_CALL, axis=1)
    return PlanResult(nodes, actions, images, calls, world.tool_runs().sum(1), world.scorings(), world.seconds())


@dataclasses.dataclass(frozen=True)
class NoTools:
    """Leaves every photo as it is: the row that every other must beat."""

    name: str = "input"

    def plan(self, world: World) -> Int[np.ndarray, " n"]:
        return np.zeros(world.num_photos, int)


@dataclasses.dataclass(frozen=True)
class RandomTools:
    """Calls tools drawn uniformly, STOP among them where the environment has one."""

    seed: int = 0
    name: str = "random"

    def plan(self, world: World) -> Int[np.ndarray, " n"]:
        nodes = np.zeros(world.num_photos, int)
        choices = world.simulator.env.num_actions
        for photo in range(world.num_photos):
            # Seeded by content: the draw does not depend on how photos are batched.
            pixels = world.images(np.array([photo]), np.zeros(1, int))
            content = hashlib.sha256(pixels.tobytes()).digest()[:8]
            rng = np.random.default_rng([self.seed, int.from_bytes(content, "little")])
            for action in rng.integers(choices, size=world.horizon):
                if action >= world.num_tools:
                    break
                nodes[photo] = nodes[photo] * world.num_tools + action + 1
        return nodes


@dataclasses.dataclass(frozen=True)
class FixedOrder:
    """Calls the same tools in the same order for every photo."""

    order: tuple[str, ...]
    name: str = "fixed order"

    def plan(self, world: World) -> Int[np.ndarray, " n"]:
        """Returns the same state for every photo.

        Raises:
          UsageError: the order names a tool that the toolbox lacks, or is longer than the horizon.
        """
        names = world.simulator.names
        unknown = [tool for tool in self.order if tool not in names]
        if unknown:
            raise UsageError(f"fixed order: no tool {unknown[0]!r} in the toolbox; there are {', '.join(names)}")
        if len(self.order) > world.horizon:
            raise UsageError(f"fixed order: {len(self.order)} tools, but env.horizon is {world.horizon}")
        node = 0
        for tool in self.order:
            node = node * world.num_tools + names.index(tool) + 1
        return np.full(world.num_photos, node)


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Tries every tool at each step and keeps the one that scores best; stops when none scores better."""

    name: str = "greedy"

    def plan(self, world: World) -> Int[np.ndarray, " n"]:
        nodes = np.zeros(world.num_photos, int)
        active = np.arange(world.num_photos)
        best = world.scores(active, nodes)
        for _ in range(world.horizon):
            children = nodes[active, None] * world.num_tools + 1 + np.arange(world.num_tools)
            scores = world.scores(np.repeat(active, world.num_tools), children.reshape(-1)).reshape(children.shape)
            improved = scores.max(1) > best[active]
            chosen = children[np.arange(len(active)), scores.argmax(1)]
            active, chosen, scores = active[improved], chosen[improved], scores[improved]
            if not len(active):
                break
            nodes[active], best[active] = chosen, scores.max(1)
        return nodes


@dataclasses.dataclass(frozen=True)
class Oracle:
    """Tries every sequence up to the horizon, the empty one too, and takes the best by its result's score."""

    name: str = "oracle"

    def plan(self, world: World) -> Int[np.ndarray, " n"]:
        return np.argmax(world.all_scores(), axis=1)  # the first of equals: the fewest calls


class AgentPlanner:
    """The learned policy: its most probable action at each step, one pass, no scorer."""

    def __init__(self, policy: Policy, params: Any, horizon: int | None = None, name: str = "agent"):
        """`horizon`: steps that the policy was made for, if the world's are fewer."""
        self.name, self._horizon = name, horizon
        self._policy, self._params = policy, params
        self._decide = jax.jit(self._most_probable)
        self._compiled: set[tuple[int, ...]] = set()

    def with_params(self, params: Any) -> "AgentPlanner":
        """Returns the same planner with other parameters; it shares what is compiled."""
        other = copy.copy(self)
        other._params = params
        return other

    def _most_probable(
        self,
        params: Any,
        encoder_params: Any,
        image: UInt8[Array, "b h w 3"],
        record: Int[Array, "b T"],
        step: Int[Array, " b"],
    ) -> Int[Array, " b"]:
        features = self._policy.encoder.apply(encoder_params, image.astype(jnp.float32) / jnp.float32(255))
        return jnp.argmax(self._policy.apply(params, features, record, step)[0], axis=-1)

    def plan(self, world: World) -> Int[np.ndarray, " n"]:
        nodes = np.zeros(world.num_photos, int)
        active = np.arange(world.num_photos)
        for step in range(world.horizon):
            horizon = self._horizon or world.horizon
            record = sequences(nodes[active], world.num_tools, horizon).astype(np.int32)
            action = self._act(world, world.images(active, nodes[active]), record, step)
            active, action = active[action < world.num_tools], action[action < world.num_tools]
            nodes[active] = nodes[active] * world.num_tools + action + 1
            if not len(active):
                break
        return nodes

    def _act(self, world: World, images: np.ndarray, record: np.ndarray, step: int) -> Int[np.ndarray, " n"]:
        block = min(world.simulator.block(*images.shape[1:3]), 16)
        decide = functools.partial(self._decide, self._params, self._policy.encoder.params)
        arrays = (images, record, np.full(len(images), step, np.int32))
        if images.shape[1:] not in self._compiled:  # so that the seconds below hold no compilation
            for rows in {1, block}:
                in_blocks(decide, block, *(np.repeat(array[:1], rows, 0) for array in arrays))
            self._compiled.add(images.shape[1:])
        start = time.perf_counter()
        action = in_blocks(decide, block, *arrays)
        world.charge(time.perf_counter() - start)
        return action


def find_best_fixed_order(worlds: Sequence[World]) -> tuple[str, ...]:
    """Returns an order that scores well on average over the photos of all worlds; give it training photos."""
    simulator = worlds[0].simulator
    actions = sequences(np.array([grow_fixed_order(worlds)]), simulator.num_tools, simulator.horizon)[0]
    return tuple(simulator.names[action] for action in actions if action != NO_CALL)


def grow_fixed_order(worlds: Sequence[World]) -> int:
    """Returns the state that the order ends in; it is grown tool by tool, as long as the mean score rises.

    An order behind a worse step is not found.
    """
    node, best = 0, _mean_score(worlds, 0)
    for _ in range(worlds[0].horizon):
        children = [node * worlds[0].num_tools + 1 + tool for tool in range(worlds[0].num_tools)]
        scores = [_mean_score(worlds, child) for child in children]
        if max(scores) <= best:
            break
        node, best = children[int(np.argmax(scores))], max(scores)
    return node


def _mean_score(worlds: Sequence[World], node: int) -> float:
    scores = [world.scores(np.arange(world.num_photos), np.full(world.num_photos, node)) for world in worlds]
    return float(np.concatenate(scores).mean())
