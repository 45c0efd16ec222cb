"""Restoration as a sequential decision process: pure functions on a batch of episodes.

Images are float32 NHWC in [0, 1], on the grid of 8-bit levels: an image in the state is the very image that a
file, a cache key or a scorer would see. An action calls a tool, or is STOP. Scores may arrive later than the
step that they reward, so that the reward is a function of its own, `rewards_from_scores`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.errors import UsageError
from r1jax.images.convert import quantise
from r1jax.images.fidelity import structure_kept
from r1jax.tools.dispatch import dispatch
from r1jax.tools.toolbox import Toolbox


class State(NamedTuple):
    """A batch of b episodes of at most T steps."""

    image: Float[Array, "b h w 3"]  # k / 255
    record: Int[Array, "b T"]  # the tool that each step called; -1: no step yet, or no tool
    step: Int[Array, " b"]  # steps taken, STOP included
    done: Bool[Array, " b"]
    first: Float[Array, "b h w 3"]  # the image at the start, where the environment has a guard; else [b] zeros


class TimeStep(NamedTuple):
    """What a step brought, except for its reward. What an agent may look at are the state's image, record and step."""

    discount: Float[Array, " b"]  # 0 where the episode is over, else 1
    valid: Bool[Array, " b"]  # a live episode called a tool: the step has a reward


@dataclasses.dataclass(frozen=True, eq=False)
class Environment:
    """Applies tools to images for at most `horizon` steps.

    - action: int [b]. 0..K-1 call the tool of that position; K is STOP if `stop`. Any other action calls no
      tool, but uses up its step.
    - reward: of a tool call Q(x_{t+1}) - Q(x_t) - step_cost, Q being a scorer; of STOP and of anything after
      the end of an episode 0. See `rewards_from_scores`.
    - end: after STOP or `horizon` steps. An ended episode is frozen: actions are ignored and cost nothing.

    Attributes:
      toolbox: the K tools.
      horizon: most steps of an episode, T.
      stop: whether the agent may end an episode early.
      step_cost: subtracted from the reward of every tool call, in the scorer's units; for
        `rewards_from_scores`.
      block_size: images of one tool that run together, see `r1jax.tools.dispatch`.
      guard: whether `structure_kept` is measured, for `guarded_scores`.

    Raises:
      UsageError: a field has no meaning.
    """

    toolbox: Toolbox
    horizon: int = 4
    stop: bool = True
    step_cost: float = 0.0
    block_size: int = 1
    guard: bool = False

    def __post_init__(self) -> None:
        for field in ("horizon", "block_size"):
            if getattr(self, field) < 1:
                raise UsageError(f"env.{field}: {getattr(self, field)} is not a positive whole number")

    @property
    def num_actions(self) -> int:
        """K, and one more if there is STOP."""
        return len(self.toolbox) + self.stop

    @property
    def stop_action(self) -> int:
        """The action that ends an episode, or -1 if there is none."""
        return len(self.toolbox) if self.stop else -1

    def reset(self, images: Float[Array, "b h w 3"]) -> State:
        """Starts one episode an image."""
        batch, image = images.shape[0], quantise(images)
        return State(
            image=image,
            record=jnp.full((batch, self.horizon), -1, jnp.int32),
            step=jnp.zeros(batch, jnp.int32),
            done=jnp.zeros(batch, bool),
            first=image if self.guard else jnp.zeros(batch),
        )

    def step(
        self, tool_params: tuple[Any, ...], state: State, action: Int[Array, " b"]
    ) -> tuple[State, TimeStep]:
        """Takes one action in every episode.

        Args:
          tool_params: `toolbox.params`, an argument so that a caller's jit need not embed them.
          state: where the episodes are.
          action: see the class.
        """
        num_tools = len(self.toolbox)
        live = ~state.done
        valid = live & (action >= 0) & (action < num_tools)
        tool = jnp.where(valid, action, num_tools).astype(jnp.int32)
        step = state.step + live
        stopped = live & (action == num_tools) if self.stop else jnp.zeros_like(live)
        new_state = State(
            image=self.restore(tool_params, state.image, tool, valid),
            record=_write(state.record, state.step, jnp.where(valid, tool, -1), live),
            step=step,
            done=state.done | stopped | (step >= self.horizon),
            first=state.first,
        )
        return new_state, TimeStep((~new_state.done).astype(jnp.float32), valid)

    def kept(self, tool_params: Any, state: State) -> Float[Array, " b"]:
        """Returns how much of the first image's structure an image keeps, see `structure_kept`; 1 without a guard."""
        if not self.guard:
            return jnp.ones(state.image.shape[0])
        return structure_kept(state.image, state.first)

    def restore(
        self,
        tool_params: tuple[Any, ...],
        image: Float[Array, "b h w 3"],
        tool: Int[Array, " b"],
        valid: Bool[Array, " b"],
    ) -> Float[Array, "b h w 3"]:
        """Returns the images after their tools; one whose call is not valid stays as it is."""
        restored = quantise(dispatch(self.toolbox, tool_params, image, tool, self.block_size))
        # Chosen, not just quantised again: an image without a tool call keeps its very bits.
        return jnp.where(valid[:, None, None, None], restored, image)


def _write(record: Array, step: Array, tool: Array, live: Array) -> Int[Array, "b T"]:
    """Sets slot `step[b]` of each live episode's record."""
    slot = live[:, None] & (jnp.arange(record.shape[1]) == step[:, None])
    return jnp.where(slot, tool[:, None], record)


def rewards_from_scores(
    scores: Float[Array, "T1 b"], valid: Bool[Array, "T b"], step_cost: float = 0.0
) -> Float[Array, "T b"]:
    """Returns r_t = Q(x_{t+1}) - Q(x_t) - step_cost where a tool was called, else 0.

    Args:
      scores: Q of the initial image and after each of the T steps, [T + 1, b]; NaN where a score is missing.
      valid: `TimeStep.valid` of each step.
      step_cost: in score units.

    A reward that a missing score belongs to is 0: the score is replaced before any arithmetic, because NaN
    times zero is NaN. Whether such an episode counts is the caller's decision.
    """
    present = jnp.isfinite(scores)
    filled = jnp.where(present, scores, 0.0)
    known = valid & present[:-1] & present[1:]
    return jnp.where(known, filled[1:] - filled[:-1] - step_cost, 0.0)


def guarded_scores(
    scores: Float[Array, "T1 b"], kept: Float[Array, "T b"], weight: float, band: float
) -> Float[Array, "T1 b"]:
    """Returns scores less `weight` times what an image lacks to keep `band` of the first image's structure.

    A guard against the drift of perceptual rewards, which rise while fidelity falls. It needs no clean photo; the first
    image keeps all of itself, and a missing score stays missing.
    """
    if weight == 0:
        return scores
    lacking = jnp.maximum(band - kept, 0.0)
    return scores - weight * jnp.concatenate([jnp.zeros_like(lacking[:1]), lacking])
