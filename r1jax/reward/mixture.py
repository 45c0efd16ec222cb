"""Several scorers as one: each mapped to the scale of 1..5, clipped if wanted, and averaged with weights."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from r1jax.errors import UsageError
from r1jax.reward.scorer import GraphScorer, Scorer, identity, register_scorer, scorer

_LOW, _HIGH = 1.0, 5.0


@dataclasses.dataclass(frozen=True)
class Part:
    """One scorer of a mixture.

    Attributes:
      scorer: a registered name or FILE.py:Class.
      weight: its share, relative to the others.
      options: its keyword arguments.
      low, high: its scores that become 1 and 5, such as the 5th and 95th percentile on your photos.
      clip: whether scores beyond them count as 1 and 5, so that no scorer outweighs the rest by an outlier.
    """

    scorer: str
    weight: float = 1.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    low: float = _LOW
    high: float = _HIGH
    clip: bool = False

    def scaled(self, scores: Any, xp: Any) -> Any:
        """Returns scores mapped from low..high to 1..5."""
        scaled = _LOW + (scores - self.low) * ((_HIGH - _LOW) / (self.high - self.low))
        return xp.clip(scaled, _LOW, _HIGH) if self.clip else scaled


@register_scorer("mixture")
class MixtureScorer:
    """The weighted mean of scorers; inside a program ("graph") if all of them can be.

    Args:
      parts: each the fields of a `Part` as a dictionary, or a text "0.7*q-sit-mini".

    Raises:
      UsageError: a part is malformed.
    """

    name = "mixture"

    def __init__(self, parts: Sequence[Mapping[str, Any] | str]):
        if isinstance(parts, str) or not parts:
            raise UsageError("parts: want a list of scorers, such as ['0.7*q-sit-mini', '0.3*lite']")
        self._parts = [_part(told) for told in parts]
        total = sum(part.weight for part in self._parts)
        self._weights = [part.weight / total for part in self._parts]
        self._scorers: list[Scorer] = [scorer(part.scorer, part.options) for part in self._parts]
        who = [
            dataclasses.astuple(identity(built, part.options))
            for built, part in zip(self._scorers, self._parts, strict=True)
        ]
        how = [(part.weight, part.low, part.high, part.clip) for part in self._parts]
        self.version = hashlib.sha256(json.dumps([who, how]).encode()).hexdigest()[:12]
        graphs: list[Any] = [getattr(built, "graph", None) for built in self._scorers]
        if all(graphs):
            self.graph = GraphScorer(
                lambda params, x: self._mix([g.apply(p, x) for g, p in zip(graphs, params, strict=True)]),
                tuple(g.params for g in graphs),
            )

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Returns the weighted means; NaN where one of the scorers has no score."""
        return np.asarray(self._mix([np.asarray(built.score(images)) for built in self._scorers]), np.float32)

    def _mix(self, scores: Sequence[Any]) -> Any:
        xp = _library(scores[0])
        scaled = [part.scaled(s, xp) for part, s in zip(self._parts, scores, strict=True)]
        return sum(weight * s for weight, s in zip(self._weights, scaled, strict=True))


def _library(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return np
    import jax.numpy as jnp

    return jnp


def _part(told: Mapping[str, Any] | str) -> Part:
    if isinstance(told, str):
        weight, star, name = told.partition("*")
        try:
            told = {"weight": float(weight), "scorer": name.strip()} if star else {"scorer": told}
        except ValueError:
            raise UsageError(f"parts: {told!r} is not WEIGHT*SCORER") from None
    try:
        part = Part(**told)
    except TypeError:
        fields = ", ".join(field.name for field in dataclasses.fields(Part))
        raise UsageError(f"parts: {dict(told)!r} is no part; its fields are {fields}") from None
    if not (math.isfinite(part.weight) and part.weight > 0 and part.low < part.high):
        raise UsageError(f"parts: {part.scorer}: want a weight above 0, and low below high")
    return part
