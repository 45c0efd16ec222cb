"""Several agents as one: the mean of their logits, in a single network."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array

from r1jax.agent.agent import Agent
from r1jax.agent.encoder import encoder
from r1jax.agent.policy import Params, Policy
from r1jax.errors import UsageError


def ensemble(agents: Sequence[Agent]) -> Agent:
    """Returns an agent whose logits and values are the means of the agents', of the first one's config.

    It is an ordinary agent: the hidden layers of all lie side by side, with zeros where one's would meet another's, so that
    it is saved, loaded, jitted and trained on as any other. Where encoders differ, it sees what all of them show. Only
    features more than five deviations from the mean, which each agent cuts off for itself, are cut off as the first one that
    sees them does.

    Raises:
      UsageError: the agents differ in their tools or horizon, in seeing the record, or in the number of hidden layers.
    """
    first = agents[0]
    for agent in agents[1:]:
        if _kind(agent) != _kind(first):
            raise UsageError(f"an ensemble of agents of different kinds: {_kind(first)} and {_kind(agent)}")
    widths = zip(*(agent.config.agent.hidden for agent in agents), strict=True)
    hidden = tuple(sum(width) for width in widths)
    names = list(dict.fromkeys(agent.policy.encoder.name for agent in agents))
    seen = encoder("+".join(names)) if len(names) > 1 else first.policy.encoder
    config = dataclasses.replace(
        first.config, agent=dataclasses.replace(first.config.agent, hidden=hidden, encoder=seen.name)
    )
    widened = [_widened(agent, names, agents, seen.num_features) for agent in agents]
    reference = _norm_of(names, agents)
    members = [_renormalised(params, reference) for params in widened]
    params = {name: _joined(name, [member[name] for member in members], len(hidden)) for name in first.params}
    return Agent(Policy(seen, first.env, config.agent), params, first.env, config)


def _kind(agent: Agent) -> tuple[object, ...]:
    config = agent.config.agent
    return config.record, agent.env.toolbox.names, agent.env.horizon, agent.env.stop, len(config.hidden)


def _norm_of(names: Sequence[str], agents: Sequence[Agent]) -> Params:
    """Returns by what all features are normalised: those of each encoder by what the first agent that has it uses."""
    firsts = [next(agent.params for agent in agents if agent.policy.encoder.name == name) for name in names]
    return {name: jnp.concatenate([params[name] for params in firsts]) for name in ("norm.mean", "norm.scale")}


def _widened(agent: Agent, names: Sequence[str], agents: Sequence[Agent], num_features: int) -> Params:
    """Returns the same function on the features of all encoders: kernel rows of zeros for those that it does not see."""
    sizes = {other.policy.encoder.name: other.policy.encoder.num_features for other in agents}
    own = agent.policy.encoder.name
    start = sum(sizes[name] for name in names[: names.index(own)])
    around = (start, num_features - start - sizes[own])
    wide = dict(agent.params)
    for name, filler in (("norm.mean", 0.0), ("norm.scale", 1.0)):
        wide[name] = jnp.pad(agent.params[name], around, constant_values=filler)
    for half in ("actor", "critic"):
        kernel = agent.params[f"{half}.layers.0.kernel"]
        features, record = kernel[: sizes[own]], kernel[sizes[own] :]
        wide[f"{half}.layers.0.kernel"] = jnp.concatenate([jnp.pad(features, (around, (0, 0))), record])
    return wide


def _renormalised(params: Params, reference: Params) -> Params:
    """Returns the same function on features that are normalised as `reference` does it."""
    mean, scale = params["norm.mean"], params["norm.scale"]
    ratio, shift = scale / reference["norm.scale"], (reference["norm.mean"] - mean) * scale
    moved = dict(params) | {name: reference[name] for name in ("norm.mean", "norm.scale")}
    for half in ("actor", "critic"):
        kernel, num_features = params[f"{half}.layers.0.kernel"], len(mean)
        moved[f"{half}.layers.0.bias"] = params[f"{half}.layers.0.bias"] + shift @ kernel[:num_features]
        moved[f"{half}.layers.0.kernel"] = kernel.at[:num_features].multiply(ratio[:, None])
    return moved


def _joined(name: str, arrays: list[Array], last: int) -> Array:
    """Returns one layer's kernel or bias of all agents side by side; the last layer takes the mean."""
    if name.startswith("norm."):
        return arrays[0]
    layer, kernel = int(name.split(".")[2]), name.endswith("kernel")
    if layer == last:
        return jnp.concatenate(arrays) / len(arrays) if kernel else jnp.mean(jnp.stack(arrays), axis=0)
    if layer and kernel:
        return jax.scipy.linalg.block_diag(*arrays)
    return jnp.concatenate(arrays, axis=-1)
