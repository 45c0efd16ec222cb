"""Which network a PyTorch checkpoint is of, and of what size, from the names and shapes of its tensors alone.

Each architecture has a detector (detectors.py): names that mark it, and a function that reads the configuration from the
shapes. What a detector says is believed only where the network that it describes has exactly the checkpoint's tensors.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from r1jax.errors import R1JaxError, WeightMismatch
from r1jax.nets import skeleton
from r1jax.weights.torch_names import mismatch, unwrap

_LISTED = 4  # names of each kind in a message


class Shapes(dict[str, tuple[int, ...]]):
    """The shape of every tensor by its official name."""

    def count(self, prefix: str) -> int:
        """Returns how many numbered parts `prefix` has: one more than the highest number that follows it."""
        numbers = {name[len(prefix) + 1 :].split(".")[0] for name in self if name.startswith(prefix + ".")}
        return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


@dataclasses.dataclass(frozen=True)
class Detector:
    """`marks` are names that the architecture has; `config` reads the constructor's arguments, None for another one's."""

    net: str
    marks: tuple[str, ...]
    config: Callable[[Shapes], dict[str, Any] | None]

    def present(self, shapes: Shapes) -> int:
        return sum(mark in shapes for mark in self.marks)


_DETECTORS: list[Detector] = []


def detector(net: str, *marks: str) -> Callable[[Callable[[Shapes], dict[str, Any] | None]], Any]:
    """Registers a function as the detector of `net`; earlier ones are asked first."""

    def register(config: Callable[[Shapes], dict[str, Any] | None]) -> Any:
        _DETECTORS.append(Detector(net, marks, config))
        return config

    return register


def recognise(state_dict: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns (network's name, configuration) of a PyTorch state dict with official names.

    What the weights do not tell is not in the configuration or has the published models' value: SwinIR's and HAT's
    `img_range`, HAT's `conv_scale`, SCUNet's `input_resolution`. A NAFNet for local means has NAFNet's weights.

    Raises:
      R1JaxError: it is no known network's, or not all of one; the message names the closest and what differs.
    """
    from r1jax.weights import detectors, window_detectors  # noqa: F401  (they register themselves)

    shapes = Shapes({name: tuple(np.shape(value)) for name, value in unwrap(state_dict).items()})
    refusals = []
    for known in _DETECTORS:
        if known.present(shapes) < len(known.marks):
            continue
        try:
            config = known.config(shapes)
            if config is None:
                continue
            difference = mismatch(skeleton(known.net, **config), shapes)
        except KeyError as error:
            refusals.append(f"closest is {known.net}, of which {error.args[0]} is missing")
            continue
        except Exception as error:  # Shapes that contradict each other can fail anywhere in a constructor.
            refusals.append(f"the names are {known.net}'s, but the shapes do not go together ({error})")
            continue
        if difference is None:
            return known.net, config
        refusals.append(_refusal(known.net, config, difference))
    # The first is the most particular: what has HAT's marks has SwinIR's too.
    raise R1JaxError(f"not recognised: {refusals[0] if refusals else _stranger(shapes)}")


def _refusal(net: str, config: dict[str, Any], difference: WeightMismatch) -> str:
    parts = [
        _listed("missing", difference.missing),
        _listed("unexpected", difference.unexpected),
        _listed("misshaped", [f"{name} {theirs} instead of {ours}" for name, ours, theirs in difference.misshaped]),
    ]
    described = ", ".join(f"{key}={value}" for key, value in config.items())
    return f"closest is {net} ({described}), which does not fit: {'; '.join(part for part in parts if part)}"


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {kind}: {', '.join(names[:_LISTED])}{rest}"


def _stranger(shapes: Shapes) -> str:
    """The message for a checkpoint that lacks marks of every architecture."""
    closest = max(_DETECTORS, key=lambda known: known.present(shapes) / len(known.marks))
    known = ", ".join(dict.fromkeys(known.net for known in _DETECTORS))
    if not closest.present(shapes):
        example = next(iter(sorted(shapes)), "none")
        return f"no known network has such tensors ({len(shapes)}, as {example}); known are {known}"
    missing = [mark for mark in closest.marks if mark not in shapes]
    return f"closest is {closest.net}, of which {', '.join(missing)} is missing; known are {known}"
