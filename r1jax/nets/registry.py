"""Networks by name: `create("ffdnet", nc=96, nb=12)`."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jax import Array

from r1jax.errors import UsageError

ModuleT = TypeVar("ModuleT", bound=type[nnx.Module])

_NETS: dict[str, Any] = {}


def register_net(name: str) -> Callable[[ModuleT], ModuleT]:
    """Registers a module class; its constructor takes the official argument names and `rngs`."""

    def register(cls: ModuleT) -> ModuleT:
        _NETS[name] = cls
        return cls

    return register


def create(name: str, *, seed: int = 0, **config: Any) -> nnx.Module:
    """Returns a freshly initialised network; `config` is its constructor's.

    Raises:
      UsageError: no network of that name.
    """
    return _registered(name)(**config, rngs=nnx.Rngs(seed))


def _registered(name: str) -> Any:
    if name not in _NETS:
        near = difflib.get_close_matches(name, _NETS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_NETS)}"
        raise UsageError(f"network {name!r} is unknown; {hint}")
    return _NETS[name]


def skeleton(name: str, **config: Any) -> nnx.Module:
    """Returns `create(name, **config)` with shapes in place of values: at once, for a checkpoint to fill.

    Raises:
      UsageError: no network of that name.
    """
    net = _registered(name)
    return nnx.eval_shape(lambda: net(**config, rngs=_OneKey()))


class _OneKey:
    """Stands for `nnx.Rngs` where no value is ever drawn: counting keys is most of what tracing a constructor costs."""

    def __getattr__(self, stream: str) -> Callable[[], Array]:
        key = jax.random.key(0)
        return lambda: key
