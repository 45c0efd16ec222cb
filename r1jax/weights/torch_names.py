"""PyTorch state dicts into Flax modules whose attributes carry the official names, and back.

A module's path is the official name but for three rules, each by kind: an `nnx.Sequential` hides its `layers`; a layer's
parameters have other names (kernel, scale and embedding are `weight`) and another order of axes; what a checkpoint holds
although it follows from the configuration (index tables, attention masks, counters) is passed over.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from r1jax.errors import WeightMismatch
from r1jax.weights.files import saved_variables, update_module

DERIVED = re.compile(
    r"(^|\.)(attn_mask|relative_position_index\w*|relative_positions|relative_coords_table|[qk]_pos_embed|num_batches_tracked|position_ids)$"
)
_CONTAINERS = (
    *("params_ema", "params-ema", "params", "state_dict", "model_state_dict"),
    *("model", "net", "generator", "weights"),
)
_PREFIXES = ("module.", "netG.", "_orig_mod.")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a parameter is stored: `axes(ndim)` transposes the official array; then `flipped` turns its window around."""

    leaf: str
    axes: Callable[[int], tuple[int, ...]]
    flipped: bool = False

    def to_flax(self, value: np.ndarray) -> np.ndarray:
        value = value.transpose(self.axes(value.ndim))
        return np.flip(value, tuple(range(value.ndim - 2))) if self.flipped else value

    def to_torch(self, value: np.ndarray) -> np.ndarray:
        value = np.flip(value, tuple(range(value.ndim - 2))) if self.flipped else value
        return value.transpose(np.argsort(self.axes(value.ndim)))

    def official_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(ours[i] for i in np.argsort(self.axes(len(ours))))


def _unchanged(ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim))


def _window_last(ndim: int) -> tuple[int, ...]:
    """(out, in, *window) to (*window, in, out), for any number of window axes, a linear layer's none included."""
    return (*range(2, ndim), 1, 0)


def _transposed_window_last(ndim: int) -> tuple[int, ...]:
    return (*range(2, ndim), 0, 1)


def _channels_last(ndim: int) -> tuple[int, ...]:
    """(1, C, 1, 1) scales and maps to NHWC; everything else is no image."""
    return (0, 2, 3, 1) if ndim == 4 else _unchanged(ndim)


_NORMS = (nnx.LayerNorm, nnx.GroupNorm, nnx.RMSNorm, nnx.InstanceNorm, nnx.BatchNorm)
_KINDS: list[tuple[Any, dict[str, Layout]]] = [
    (nnx.ConvTranspose, {"kernel": Layout("weight", _transposed_window_last, flipped=True)}),
    ((nnx.Conv, nnx.Linear), {"kernel": Layout("weight", _window_last)}),
    (nnx.Embed, {"embedding": Layout("weight", _unchanged)}),
    (nnx.PReLU, {"negative_slope": Layout("weight", _unchanged)}),
    (
        _NORMS,
        {
            "scale": Layout("weight", _unchanged),
            "mean": Layout("running_mean", _unchanged),
            "var": Layout("running_var", _unchanged),
        },
    ),
]


def official_entries(module: nnx.Module) -> dict[str, tuple[str, Layout]]:
    """Returns, for every official name, the parameter's path in `module` (as `flat_state` writes it) and its layout."""
    owners = dict(nnx.iter_modules(module))
    paths = [path for path, _ in saved_variables(module)]
    return {_official(path, owners): ("/".join(map(str, path)), _layout(path, owners)) for path in paths}


def _layout(path: tuple[Any, ...], owners: Mapping[tuple[Any, ...], Any]) -> Layout:
    leaf = str(path[-1])
    for kind, layouts in _KINDS:
        if isinstance(owners.get(path[:-1]), kind):
            return layouts.get(leaf, Layout(leaf, _unchanged))
    return Layout(leaf, _channels_last)


def _official(path: tuple[Any, ...], owners: Mapping[tuple[Any, ...], Any]) -> str:
    def hidden(depth: int) -> bool:
        return path[depth] == "layers" and isinstance(owners.get(path[:depth]), nnx.Sequential)

    parts = [str(part) for depth, part in enumerate(path[:-1]) if not hidden(depth)]
    return ".".join([*parts, _layout(path, owners).leaf])


def unwrap(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tensors of a checkpoint: containers as `params_ema` are opened, prefixes as `module.` dropped."""
    containers = state_dict if len(state_dict) == 1 else _CONTAINERS
    nested = [key for key in containers if isinstance(state_dict.get(key), Mapping)]
    if nested:
        return unwrap(state_dict[nested[0]])
    tensors = dict(state_dict)
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return unwrap({name[len(prefix) :]: value for name, value in tensors.items()})
    return tensors


def import_torch(module: nnx.Module, state_dict: Mapping[str, Any]) -> nnx.Module:
    """Fills `module` in place from a PyTorch state dict with official names and returns it.

    Raises:
      WeightMismatch: names or shapes differ; it lists all of them with official names and shapes.
    """
    given = {name: np.asarray(value) for name, value in unwrap(state_dict).items()}
    if error := mismatch(module, {name: value.shape for name, value in given.items()}):
        raise error
    entries = official_entries(module)
    return update_module(module, {path: layout.to_flax(given[name]) for name, (path, layout) in entries.items()})


def mismatch(module: nnx.Module, given: Mapping[str, tuple[int, ...]]) -> WeightMismatch | None:
    """Returns how official names and shapes differ from the module's, None where they do not."""
    entries = official_entries(module)
    ours = {"/".join(map(str, path)): variable.shape for path, variable in saved_variables(module)}
    expected = {name: layout.official_shape(ours[path]) for name, (path, layout) in entries.items()}
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(name for name in given.keys() - expected.keys() if not DERIVED.search(name))
    shared = sorted(expected.keys() & given.keys())
    misshaped = [(name, expected[name], given[name]) for name in shared if expected[name] != given[name]]
    return WeightMismatch(missing, unexpected, misshaped) if missing or unexpected or misshaped else None


def export_torch(module: nnx.Module) -> dict[str, np.ndarray]:
    """Returns the state dict that `import_torch` reads: official names and layouts.

    With the buffers that follow from the configuration, where a network has them: PyTorch's own loaders ask for them.
    """
    values = {"/".join(map(str, path)): np.asarray(variable.get_value()) for path, variable in saved_variables(module)}
    learned = {name: layout.to_torch(values[path]) for name, (path, layout) in official_entries(module).items()}
    return learned | getattr(module, "derived_buffers", dict)()
