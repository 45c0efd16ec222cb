"""The environment as a dm_env: one image at a time, NumPy at the border, rewards at once."""

from collections.abc import Callable
from typing import Any

import dm_env
import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jaxtyping import Float

from r1jax.env.environment import Environment, State
from r1jax.errors import R1JaxError, UsageError

Scorer = Callable[[np.ndarray], float]


class DMEnvironment(dm_env.Environment):
    """Restores one image an episode, the images taking turns.

    - observation: a dictionary of `image` float32 [h, w, 3] in [0, 1], `record` int32 [T] (-1: empty) and
      `step` int32 [].
    - action: int32 [], a tool or STOP.
    - reward: float32 [], the gain in the scorer's units less the step cost; 0 for STOP.
    """

    def __init__(
        self,
        environment: Environment,
        tool_params: tuple[Any, ...],
        images: Float[np.ndarray, "n h w 3"],
        scorer: Scorer,
    ):
        """Args:
          environment: the batched environment to adapt.
          tool_params: its tools' params.
          images: at least one, all of one size.
          scorer: maps a float32 image [h, w, 3] in [0, 1] to its quality.

        Raises:
          UsageError: there are no images, or they are not [n, h, w, 3].
        """
        images = np.asarray(images, np.float32)
        if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
            raise UsageError(f"images: shape {images.shape} is not [n, h, w, 3] with n > 0")
        self._environment, self._tool_params, self._scorer = environment, tool_params, scorer
        self._images, self._next_image = images, 0
        self._reset, self._step = jax.jit(environment.reset), jax.jit(environment.step)
        self._state: State | None = None
        self._score = 0.0

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode on the next image.

        Raises:
          R1JaxError: the scorer gave no finite score; `step` raises it too.
        """
        image = self._images[self._next_image]
        self._next_image = (self._next_image + 1) % len(self._images)
        self._state = None  # a step after a score that failed resets
        state = self._reset(image[None])
        self._score = self._quality(state)
        self._state = state
        return dm_env.restart(self._observation(state))

    def step(self, action: Any) -> dm_env.TimeStep:
        """Takes an action; the first call, and one after an episode's end, ignores it and resets."""
        if self._state is None or bool(self._state.done[0]):
            return self.reset()
        batch = jnp.asarray(action, jnp.int32)[None]
        state, timestep = self._step(self._tool_params, self._state, batch)
        reward = self._reward(bool(timestep.valid[0]), state)
        self._state = state  # only now: where a score failed, nothing was done
        if bool(state.done[0]):
            return dm_env.termination(reward, self._observation(state))
        return dm_env.transition(reward, self._observation(state))

    def observation_spec(self) -> dict[str, specs.Array]:
        """Describes the observation."""
        shape, horizon = self._images.shape[1:], self._environment.horizon
        last_tool = len(self._environment.toolbox) - 1
        return {
            "image": specs.BoundedArray(shape, np.float32, 0.0, 1.0, name="image"),
            "record": specs.BoundedArray((horizon,), np.int32, -1, last_tool, name="record"),
            "step": specs.BoundedArray((), np.int32, 0, horizon, name="step"),
        }

    def action_spec(self) -> specs.DiscreteArray:
        """Describes the action."""
        return specs.DiscreteArray(self._environment.num_actions, np.int32, name="action")

    def reward_spec(self) -> specs.Array:
        """Describes the reward."""
        return specs.Array((), np.float32, name="reward")

    def discount_spec(self) -> specs.BoundedArray:
        """Describes the discount: 1 within an episode, 0 at its end."""
        return specs.BoundedArray((), np.float64, 0.0, 1.0, name="discount")

    def _observation(self, state: State) -> dict[str, np.ndarray]:
        return {name: np.asarray(getattr(state, name)[0]) for name in ("image", "record", "step")}

    def _reward(self, called: bool, state: State) -> np.ndarray:
        if not called:
            return np.zeros((), np.float32)
        previous, self._score = self._score, self._quality(state)
        return np.asarray(self._score - previous - self._environment.step_cost, np.float32)

    def _quality(self, state: State) -> float:
        score = float(self._scorer(np.asarray(state.image[0])))
        if not np.isfinite(score):
            raise R1JaxError(f"the scorer gave {score} for an image; a score is a finite number")
        return score
