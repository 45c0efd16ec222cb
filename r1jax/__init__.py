"""Photo-restoration agents in JAX.

`restore` repairs a photo with the shipped agent, `load_agent` loads one that you trained. Both are imported
on first use, so that `import r1jax` and `r1jax --help` stay fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1jax.agent.agent import load_agent
    from r1jax.evaluation.restoration import restore

__version__ = "0.1.0"
__all__ = ["__version__", "load_agent", "restore"]

_HOMES = {"load_agent": "r1jax.agent.agent", "restore": "r1jax.evaluation.restoration"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'r1jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
