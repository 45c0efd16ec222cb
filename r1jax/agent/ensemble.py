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
    firsts = {agent.policy.encoder.name: agent for agent in reversed(agents)}  # the first that has each encoder
    names = list(dict.fromkeys(agent.policy.encoder.name for agent in agents))
    seen = encoder("+".join(names)) if len(names) > 1 else first.policy.encoder
    config = dataclasses.replace(
        first.config, agent=dataclasses.replace(first.config.agent, hidden=hidden, encoder=seen.name)
    )
    members = [_renormalised(agent.params, firsts[agent.policy.encoder.name].params) for agent in agents]
    sizes = [firsts[name].policy.encoder.num_features for name in names]
    members = [
        _widened(params, sizes, names.index(agent.policy.encoder.name))
        for agent, params in zip(agents, members, strict=True)
    ]
    params = {
        name: jnp.concatenate([firsts[of].params[name] for of in names])
        if name.startswith("norm.")
        else _joined(name, [member[name] for member in members], len(hidden))
        for name in first.params
    }
    return Agent(Policy(seen, first.env, config.agent), params, first.env, config)


def _kind(agent: Agent) -> tuple[object, ...]:
    config = agent.config.agent
    return config.record, agent.env.toolbox.names, agent.env.horizon, agent.env.stop, len(config.hidden)


def _widened(params: Params, sizes: Sequence[int], own: int) -> Params:
    """Returns the same function on the features of all encoders: kernel rows of zeros for those that it does not see."""
    around = (sum(sizes[:own]), sum(sizes[own + 1 :]))
    wide = dict(params)
    for half in ("actor", "critic"):
        features, record = jnp.split(params[f"{half}.layers.0.kernel"], [sizes[own]])
        wide[f"{half}.layers.0.kernel"] = jnp.concatenate([jnp.pad(features, (around, (0, 0))), record])
    return wide


def _renormalised(params: Params, reference: Params) -> Params:
    """Returns the same function on features that are normalised as `reference` does it, which it does not hold itself."""
    mean, scale = params["norm.mean"], params["norm.scale"]
    ratio, shift = scale / reference["norm.scale"], (reference["norm.mean"] - mean) * scale
    moved = {name: array for name, array in params.items() if not name.startswith("norm.")}
    for half in ("actor", "critic"):
        kernel, num_features = params[f"{half}.layers.0.kernel"], len(mean)
        moved[f"{half}.layers.0.bias"] = params[f"{half}.layers.0.bias"] + shift @ kernel[:num_features]
        moved[f"{half}.layers.0.kernel"] = kernel.at[:num_features].multiply(ratio[:, None])
    return moved


def _joined(name: str, arrays: list[Array], last: int) -> Array:
    """Returns one layer's kernel or bias of all agents side by side; the last layer takes the mean."""
    layer, kernel = int(name.split(".")[2]), name.endswith("kernel")
    if layer == last:
        return jnp.concatenate(arrays) / len(arrays) if kernel else jnp.mean(jnp.stack(arrays), axis=0)
    if layer and kernel:
        return jax.scipy.linalg.block_diag(*arrays)
    return jnp.concatenate(arrays, axis=-1)
