"""The devices of a run: images are split over them along an axis "data", all else is the same on each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.errors import UsageError


def mesh_of(episodes: int) -> Mesh | None:
    """Returns all devices along "data", None where there is one.

    Raises:
      UsageError: so many episodes do not divide over them.
    """
    count = jax.device_count()
    if episodes % count:
        raise UsageError(f"ppo.episodes={episodes} does not divide over {count} devices")
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,)) if count > 1 else None


def replicate(mesh: Mesh | None, tree: Any) -> Any:
    """Puts arrays, the same on every process, on every device."""
    return jax.tree.map(lambda x: _put(mesh, P(), np.asarray(x)), tree)


def split(mesh: Mesh | None, tree: Any) -> Any:
    """Puts host arrays on the devices, each of which gets its own episodes."""
    return jax.tree.map(lambda x: _put(mesh, P("data"), x), tree)


def _put(mesh: Mesh | None, spec: P, x: np.ndarray) -> jax.Array:
    if mesh is None:
        return jnp.asarray(x)
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])


def constrain(mesh: Mesh | None, tree: Any) -> Any:
    """Inside a program: makes arrays the same on every device."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P())) if mesh else tree
