"""Photos, and the degraded images that training and evaluation see.

Everything is a function of (seed, step) or (seed, photo, mix): a resumed run sees the same images.
"""

import dataclasses
import hashlib
import importlib.resources
import pathlib
import sys
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from r1jax.degradations.mixes import Mix, degrade, mix_name
from r1jax.errors import UsageError
from r1jax.images.convert import to_float
from r1jax.images.io import list_images, read_image


@dataclasses.dataclass(frozen=True)
class NamedPhoto:
    """A clean photo; `pixels` is sRGB uint8."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """A training batch, images in [0, 1]; the reward needs no clean ones."""

    degraded: Float[np.ndarray, "b h w 3"]
    ids: Int[np.ndarray, " b"]  # unique in a run: the random numbers of an image's episode are folded from it


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Degraded images with their ground truth, images in [0, 1]."""

    clean: Float[np.ndarray, "n h w 3"]
    degraded: Float[np.ndarray, "n h w 3"]
    mix: list[str]
    photo: list[str]

    def __len__(self) -> int:
        return len(self.clean)


def load_photos(spec: str) -> list[NamedPhoto]:
    """Returns the photos of a folder, or the shipped crops for "builtin:train" and "builtin:test", sorted by name.

    Raises:
      UsageError: the folder is missing or holds no image.
    """
    if spec.startswith("builtin:"):
        split = spec.removeprefix("builtin:")
        if split not in ("train", "test"):
            raise UsageError(f"photos {spec!r}: the shipped sets are builtin:train and builtin:test")
        folder = pathlib.Path(str(importlib.resources.files("r1jax"))) / "assets" / "photos" / split
    else:
        folder = pathlib.Path(spec)
    if not folder.is_dir():
        raise UsageError(f"photos {spec!r}: {'a file; want a folder' if folder.is_file() else 'no such folder'}")
    photos = [NamedPhoto(path.stem, read_image(path).pixels) for path in list_images([folder])]
    if not photos:
        raise UsageError(f"photos {spec!r}: the folder holds no image")
    return photos


def photo_hashes(photos: list[NamedPhoto]) -> dict[str, str]:
    """Returns 16 hex digits of the sha256 of each photo's pixels, by name; all of them where photos share a name."""
    hashes: dict[str, str] = {}
    for photo in photos:
        found = hashlib.sha256(photo.pixels.tobytes()).hexdigest()[:16]
        held = hashes.setdefault(photo.name, found)
        if found not in held:
            hashes[photo.name] = f"{held} {found}"
    return hashes


def note_small(photos: list[NamedPhoto], side: int) -> None:
    """Says on stderr how many photos `random_crop` must enlarge."""
    if small := [photo for photo in photos if min(photo.pixels.shape[:2]) < side]:
        them = f"{len(small)} of {len(photos)} photos are smaller than data.crop={side}"
        print(f"r1jax: {them}, and mirrored to it: {small[0].name}, ...", file=sys.stderr)


def random_crop(photo: UInt8[np.ndarray, "h w 3"], side: int, rng: np.random.Generator) -> UInt8[np.ndarray, "s s 3"]:
    """Returns a random square crop; a photo smaller than `side` is mirrored to it first."""
    height, width = photo.shape[:2]
    if min(height, width) < side:
        pad = ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0))
        photo = np.pad(photo, pad, mode="symmetric")
        height, width = photo.shape[:2]
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return np.ascontiguousarray(photo[top : top + side, left : left + side])


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """An endless stream of degraded crops, a function of (seed, step)."""

    photos: list[NamedPhoto]
    mixes: tuple[Mix, ...]
    crop: int
    clean_share: float = 0.0

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        """Returns batch `step`: random photo, crop, flip and mix an image."""
        ids = step * batch_size + np.arange(batch_size, dtype=np.int32)
        degraded = [self._degraded(np.random.default_rng([seed, int(i)])) for i in ids]
        return Batch(to_float(np.stack(degraded)), ids)

    def _degraded(self, rng: np.random.Generator) -> UInt8[np.ndarray, "s s 3"]:
        photo = self.photos[rng.integers(len(self.photos))].pixels
        return degraded_pair(photo, self.mixes, self.crop, self.clean_share, rng)[0]


def degraded_pair(
    photo: UInt8[np.ndarray, "h w 3"], mixes: tuple[Mix, ...], side: int, clean_share: float, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s 3"]]:
    """Returns a random crop, mirrored or not, degraded by one of `mixes`, and clean.

    With a chance of `clean_share` both are the clean crop.
    """
    clean = random_crop(photo, side, rng)
    clean = np.ascontiguousarray(clean[:, ::-1]) if rng.random() < 0.5 else clean
    mix = mixes[rng.integers(len(mixes))]
    if rng.random() < clean_share:
        return clean, clean
    return degrade(clean, mix, int(rng.integers(2**31))).image, clean


def build_benchmark(
    photos: list[NamedPhoto], mixes: tuple[Mix, ...], crop: int, seed: int, per_mix: int | None = None
) -> Benchmark:
    """Degrades every photo by every mix; a photo has one seeded crop for all mixes.

    Args:
      per_mix: use only so many photos a mix, drawn by the seed, the same for every mix.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(photos)) if per_mix else np.arange(len(photos))
    chosen = [photos[i] for i in sorted(order[:per_mix])]
    rows = [_benchmark_row(photo, mix, crop, seed) for mix in mixes for photo in chosen]
    clean, degraded, mix_names, names = (list(column) for column in zip(*rows, strict=True))
    return Benchmark(to_float(np.stack(clean)), to_float(np.stack(degraded)), mix_names, names)


def _benchmark_row(photo: NamedPhoto, mix: Mix, crop: int, seed: int) -> tuple[Any, ...]:
    clean = random_crop(photo.pixels, crop, np.random.default_rng([seed, _number(photo.name)]))
    return clean, degrade(clean, mix, benchmark_seed(seed, photo.name, mix)).image, mix_name(mix), photo.name


def benchmark_seed(seed: int, photo: str, mix: Mix) -> int:
    """Returns the seed of one benchmark image: it depends on nothing but the three."""
    return (seed * 1_000_003 + _number(photo + mix_name(mix))) % 2**31


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
