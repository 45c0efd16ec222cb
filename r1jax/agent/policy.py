"""The policy: features of the image and the action record go into a small actor-critic."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from r1jax.agent.encoder import Encoder
from r1jax.config import AgentConfig
from r1jax.env.environment import State

Params = Mapping[str, Array]  # "actor.layers.0.kernel" -> array
Evaluate = Callable[..., tuple[Array, Array]]  # (seen, record, step) of b decisions -> logits [b, a], values [b]

_CLIP = 5.0  # standard deviations that a normalised feature may stray


class Decisions(Protocol):
    """What the policy must know of the environment."""

    @property
    def num_actions(self) -> int: ...

    @property
    def stop_action(self) -> int: ...

    @property
    def horizon(self) -> int: ...


def encode_record(
    record: Int[Array, "b t"], step: Int[Array, " b"], num_tools: int, *, hide: bool = False
) -> Float[Array, "b r"]:
    """Returns a one-hot of the tool called in each slot (zeros: none yet) and the share of steps that remain.

    Args:
      record: tools called so far, -1 for an empty slot.
      step: calls made, 0..t.
      hide: leave the slots at zero; the remaining share stays.
    """
    horizon = record.shape[1]
    slots = jax.nn.one_hot(record, num_tools).reshape(record.shape[0], horizon * num_tools)
    remaining = (horizon - step.astype(jnp.float32)) / horizon
    return jnp.concatenate([jnp.zeros_like(slots) if hide else slots, remaining[:, None]], axis=-1)


class FeatureNorm(nnx.Module):
    """Standardises each feature with constants measured on a sample of images, clipped to 5 deviations.

    A layer norm would divide out what the features have in common: of an image that is only too dark, the darkness.
    """

    def __init__(self, num_features: int):
        self.mean = nnx.Param(jnp.zeros(num_features))
        self.scale = nnx.Param(jnp.ones(num_features))

    def __call__(self, features: Float[Array, "b f"]) -> Float[Array, "b f"]:
        mean, scale = jax.lax.stop_gradient((self.mean[...], self.scale[...]))
        return jnp.clip((features - mean) * scale, -_CLIP, _CLIP)


class MLP(nnx.Module):
    """Tanh layers with orthogonal kernels; the last layer is linear and starts at `last_gain`."""

    def __init__(self, sizes: tuple[int, ...], last_gain: float, *, rngs: nnx.Rngs):
        gains = [2**0.5] * (len(sizes) - 2) + [last_gain]
        self.layers = nnx.List(
            nnx.Linear(num_in, num_out, kernel_init=nnx.initializers.orthogonal(gain), rngs=rngs)
            for num_in, num_out, gain in zip(sizes[:-1], sizes[1:], gains, strict=True)
        )

    def __call__(self, x: Float[Array, "b n"]) -> Float[Array, "b m"]:
        for layer in self.layers[:-1]:
            x = nnx.tanh(layer(x))
        return self.layers[-1](x)


class ActorCritic(nnx.Module):
    """Two MLPs of the same widths: logits of the actions, value of the state."""

    def __init__(self, num_features: int, num_record: int, num_actions: int, hidden: tuple[int, ...], *, rngs: nnx.Rngs):
        self.norm = FeatureNorm(num_features)
        # Small last layers: the first policy is uniform, so that every tool is tried, and the first values are near 0,
        # as the gains in score are that they predict.
        self.actor = MLP((num_features + num_record, *hidden, num_actions), 0.01, rngs=rngs)
        self.critic = MLP((num_features + num_record, *hidden, 1), 0.01, rngs=rngs)

    def __call__(
        self, features: Float[Array, "b f"], record: Float[Array, "b r"]
    ) -> tuple[Float[Array, "b a"], Float[Array, " b"]]:
        x = jnp.concatenate([self.norm(features), record], axis=-1)
        return self.actor(x), self.critic(x)[:, 0]


class Policy:
    """Pure functions around the actor-critic; holds no arrays but the frozen encoder's."""

    def __init__(self, encoder: Encoder, env: Decisions, config: AgentConfig):
        self.encoder = encoder
        self.config = config
        self._num_actions = env.num_actions
        self._num_tools = env.num_actions if env.stop_action < 0 else env.num_actions - 1
        self._num_record = env.horizon * self._num_tools + 1
        self._graph, shapes = nnx.split(nnx.eval_shape(lambda: self._module(jax.random.key(0))))
        self._paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(shapes)}

    def _module(self, key: PRNGKeyArray) -> ActorCritic:
        sizes = (self.encoder.num_features, self._num_record, self._num_actions)
        return ActorCritic(*sizes, self.config.hidden, rngs=nnx.Rngs(key))

    def _fresh(self, key: PRNGKeyArray) -> dict[str, Array]:
        flat = dict(nnx.to_flat_state(nnx.state(self._module(key))))
        return {name: flat[path][...] for name, path in self._paths.items()}

    def init(self, key: PRNGKeyArray, sample: Float[Array, "n f"] | None = None) -> Params:
        """Returns fresh parameters, named like "actor.layers.0.kernel".

        Args:
          sample: features of typical images, from which each feature's mean and deviation are taken; without it
            features enter as they are.
        """
        params = jax.jit(self._fresh)(key)  # one program: run by itself each of the many small steps would compile
        if sample is not None:
            # A feature that hardly varies in the sample must not be blown up by its later variation.
            deviation = jnp.std(sample, axis=0)
            params["norm.mean"] = jnp.mean(sample, axis=0)
            params["norm.scale"] = 1 / jnp.maximum(deviation, 1e-2 * jnp.max(deviation) + 1e-6)
        return params

    def apply(
        self, params: Params, features: Float[Array, "b f"], record: Int[Array, "b t"], step: Int[Array, " b"]
    ) -> tuple[Float[Array, "b a"], Float[Array, " b"]]:
        """Returns (logits of the actions, value of the state)."""
        state = nnx.from_flat_state([(path, nnx.Param(params[name])) for name, path in self._paths.items()])
        encoded = encode_record(record, step, self._num_tools, hide=not self.config.record)
        return nnx.merge(self._graph, state)(features, encoded)

    def see(self, encoder_params: Any, state: State) -> Array:
        """Returns what a decision is made by, besides record and step: features [b, f]."""
        return self.encoder.apply(encoder_params, state.image)

    def bind(self, params: Params, encoder_params: Any, num_decisions: int) -> Evaluate:
        """Returns `apply` with these parameters, as a function of what was seen.

        Args:
          num_decisions: how many it will be asked for in all. Where decisions share what they see, see
            `r1jax.training.tree`, that decides how they are computed; the results do not depend on it.
        """
        return functools.partial(self.apply, params)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every parameter by name."""
        params = jax.eval_shape(self.init, jax.random.key(0))
        return {name: leaf.shape for name, leaf in params.items()}
