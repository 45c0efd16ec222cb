"""Mixes of degradations, the benchmark's groups, and the function that applies one.

Group A's mixes are for training, B and C are never seen in it. Operations run left to right in the order written.
"""

import dataclasses
import difflib
import hashlib
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from r1jax.degradations.depth import synthetic_depth
from r1jax.degradations.operations import OPERATIONS
from r1jax.errors import UsageError
from r1jax.images.convert import to_float, to_uint8
from r1jax.images.resize import resize_bicubic

Mix = tuple[str, ...]

GROUPS: dict[str, tuple[Mix, ...]] = {
    "A": (
        ("rain", "haze"),
        ("motion blur", "low resolution"),
        ("dark", "noise"),
        ("defocus blur", "jpeg"),
        ("noise", "jpeg"),
        ("rain", "low resolution"),
        ("motion blur", "dark"),
        ("defocus blur", "haze"),
    ),
    "B": (
        ("motion blur", "jpeg"),
        ("haze", "noise"),
        ("defocus blur", "low resolution"),
        ("rain", "dark"),
    ),
    "C": (
        ("haze", "motion blur", "low resolution"),
        ("rain", "noise", "low resolution"),
        ("dark", "defocus blur", "jpeg"),
        ("motion blur", "defocus blur", "noise"),
    ),
    "single": tuple((key,) for key in OPERATIONS),
}
# In which a camera meets them: scene, optics, sensor, file.
CAMERA_ORDER = ("rain", "haze", "dark", "motion blur", "defocus blur", "noise", "low resolution", "jpeg")
MIXES: tuple[Mix, ...] = GROUPS["A"] + GROUPS["B"] + GROUPS["C"]


def _wide() -> tuple[Mix, ...]:
    """Every one to three degradations, in the order of a camera, that are not in A and hold no mix of B or C."""
    every = (mix for size in (1, 2, 3) for mix in itertools.combinations(CAMERA_ORDER, size))
    held_out = [set(mix) for mix in GROUPS["B"] + GROUPS["C"]]
    of_a = [set(mix) for mix in GROUPS["A"]]
    return tuple(mix for mix in every if set(mix) not in of_a and not any(held <= set(mix) for held in held_out))


GROUPS["wide"] = _wide()


@dataclasses.dataclass(frozen=True)
class Degraded:
    """A degraded image and how it came about.

    Attributes:
      image: the result at the photo's size; a low-resolution one is enlarged bicubically to it.
      record: operations in order with the drawn parameters, the seed, and the sha256 of the pixels in and out.
    """

    image: UInt8[np.ndarray, "h w 3"]
    record: dict[str, Any]


def mix_name(mix: Mix) -> str:
    """Returns a mix as text: "rain+haze"."""
    return "+".join(mix)


def parse_mixes(text: str, field: str = "mixes") -> tuple[Mix, ...]:
    """Returns the mixes of a group ("A", "B", "C", "single", "wide", "all") or of a list "noise+jpeg,rain+haze".

    Args:
      field: where the text stands, for the error.

    Raises:
      UsageError: a name is neither a group nor a degradation, or a mix has one twice.
    """
    if text == "all":
        return MIXES
    mixes: list[Mix] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        mixes += GROUPS[part] if part in GROUPS else [_parse_mix(part, field)]
    if not mixes:
        raise UsageError(f"{field} {text!r}: empty; give a group ({', '.join(GROUPS)}, all) or a list such as noise+jpeg")
    return tuple(mixes)


def _parse_mix(text: str, field: str) -> Mix:
    mix = tuple(key.strip().replace("_", " ") for key in text.split("+"))
    for key in mix:
        if key not in OPERATIONS:
            near = difflib.get_close_matches(key, [*OPERATIONS, *GROUPS], 1)
            known = f"there are {', '.join(OPERATIONS)}, and the groups {', '.join(GROUPS)}, all"
            hint = f"did you mean {near[0]!r}?" if near else known
            raise UsageError(f"{field}: degradation {key!r} is unknown; {hint}")
    if len(set(mix)) < len(mix):
        raise UsageError(f"{field}: the mix {text!r} has a degradation twice; each is applied once")
    return mix


def training_mixes(mixes: str, extra: str) -> tuple[Mix, ...]:
    """Returns the mixes of training, each as often as it is to be drawn: `mixes` and `extra` by half each.

    Raises:
      UsageError: as `parse_mixes`.
    """
    first = parse_mixes(mixes, "data.mixes")
    if not extra:
        return first
    second = parse_mixes(extra, "data.extra_mixes")
    return first * max(1, round(len(second) / len(first))) + second * max(1, round(len(first) / len(second)))


def degrade(
    photo: UInt8[np.ndarray, "h w 3"], mix: Mix, seed: int, depth: Float[np.ndarray, "h w"] | None = None
) -> Degraded:
    """Applies `mix` to a clean photo by the MiO100 protocol: every step rounds to uint8.

    Each operation draws from a generator of (seed, operation), so its parameters do not depend on what comes before it.
    """
    depth = synthetic_depth(photo) if depth is None and "haze" in mix else depth
    image, steps = photo, []
    for key in mix:
        rng = np.random.default_rng([seed, int.from_bytes(key.encode(), "little")])
        fitting = _fit_depth(depth, image)
        image, parameters = OPERATIONS[key](image, rng, fitting)
        steps.append({"operation": key, **parameters})
    if image.shape != photo.shape:
        image = to_uint8(resize_bicubic(to_float(image), *photo.shape[:2]))
    record = {"mix": mix_name(mix), "seed": seed, "steps": steps, "sha256_in": _sha(photo), "sha256_out": _sha(image)}
    return Degraded(image, record)


def _sha(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _fit_depth(depth: np.ndarray | None, image: np.ndarray) -> np.ndarray | None:
    """Shrinks the depth with an image that an operation has shrunk."""
    if depth is None or depth.shape == image.shape[:2]:
        return depth
    return resize_bicubic(depth[..., None], *image.shape[:2])[..., 0]
