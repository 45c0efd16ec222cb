"""`r1jax synth`: a folder of degraded photos by the MiO100 protocol, with a record of how each came about.

DIR/clean/PHOTO.png
DIR/MIX/PHOTO.png          low-resolution mixes too are stored at the photo's size
DIR/records.jsonl          one object an image: photo, mix, operations with their parameters, seed, sha256
"""

import json
import pathlib
from typing import Any

import numpy as np

from r1jax.degradations.dataset import NamedPhoto, benchmark_seed, load_photos
from r1jax.degradations.depth import read_depth
from r1jax.degradations.mixes import degrade, mix_name, parse_mixes
from r1jax.errors import UsageError
from r1jax.files import make_folder, write_whole
from r1jax.images.io import write_image


def synthesise(
    photos: str,
    output: str | pathlib.Path,
    mixes: str = "all",
    *,
    seed: int = 0,
    depth_folder: str | None = None,
    overwrite: bool = False,
) -> int:
    """Writes every photo under every mix and returns the number of degraded images.

    Args:
      photos: a folder, or "builtin:train" / "builtin:test".
      depth_folder: PHOTO.png of it is the depth of PHOTO; without it depth is synthetic.

    Raises:
      UsageError: the folder is missing or one that is written to, two photos have one name, or a file is there already
        and `overwrite` is False.
      ImageError: a file cannot be read or written.
    """
    parsed, output = tuple(dict.fromkeys(parse_mixes(mixes, "--mixes"))), pathlib.Path(output)
    folders = [output / name for name in ("clean", *(folder_name(mix_name(mix)) for mix in parsed))]
    if pathlib.Path(photos).resolve() in [folder.resolve() for folder in folders]:
        raise UsageError(f"{photos}: its photos would be written over; want a data set in another folder than {output}")
    loaded = load_photos(photos)
    names = [photo.name for photo in loaded]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{photos}: two photos are called {twice}; rename one")
    targets = [output / "records.jsonl", *(folder / f"{name}.png" for folder in folders for name in names)]
    if not overwrite and (there := next((path for path in targets if path.exists()), None)):
        raise UsageError(f"{there}: is there already; --overwrite replaces a data set's files")
    if depth_folder:  # all of them first: nothing half-written is to stay behind
        for photo in loaded:
            _depth(depth_folder, photo.name, photo.pixels.shape[:2])
    for folder in folders:
        make_folder(folder)
    records = []
    for photo in loaded:
        clean = _divisible(photo)
        write_image(output / "clean" / f"{photo.name}.png", clean, overwrite=True)
        depth = _depth(depth_folder, photo.name, clean.shape[:2])
        for mix in parsed:
            name = mix_name(mix)
            result = degrade(clean, mix, benchmark_seed(seed, photo.name, mix), depth)
            write_image(output / folder_name(name) / f"{photo.name}.png", result.image, overwrite=True)
            records.append({"photo": photo.name, **result.record})
    write_whole(output / "records.jsonl", "".join(json.dumps(row) + "\n" for row in records + _others(output, records)))
    return len(loaded) * len(parsed)


def _others(output: pathlib.Path, written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the records of an earlier run whose image is still there, beside the clean photo that it was made from."""
    path, new = output / "records.jsonl", {(row["photo"], row["mix"]) for row in written}
    clean = {row["photo"]: row["sha256_in"] for row in written}
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        row
        for row in rows
        if (row["photo"], row["mix"]) not in new
        and clean.get(row["photo"], row["sha256_in"]) == row["sha256_in"]
        and (output / folder_name(row["mix"]) / f"{row['photo']}.png").is_file()
    ]


def folder_name(mix: str) -> str:
    """Returns a mix's name as a folder: "motion_blur+jpeg"."""
    return mix.replace(" ", "_")


def _divisible(photo: NamedPhoto) -> np.ndarray:
    """Crops to multiples of 4, so that low resolution is exactly a quarter."""
    height, width = (max(side - side % 4, 1) for side in photo.pixels.shape[:2])
    return np.ascontiguousarray(photo.pixels[:height, :width])


def _depth(folder: str | None, name: str, shape: tuple[int, int]) -> np.ndarray | None:
    return read_depth(pathlib.Path(folder) / f"{name}.png", shape) if folder else None
