"""Draws docs/restored.webp, the picture of the README: shipped test crops, degraded above, restored below.

    python launch/make_readme_picture.py

The crops and mixes are fixed here, not chosen by result.
"""

import pathlib

import numpy as np
from PIL import Image, ImageDraw

from r1jax import restore
from r1jax.degradations import GROUPS, load_photos
from r1jax.degradations.mixes import degrade, mix_name

GAP, TEXT = 8, 32


def main() -> None:
    photos = load_photos("builtin:test")[:4]
    mixes = GROUPS["A"][::2]
    side = photos[0].pixels.shape[0]
    picture = Image.new("RGB", (4 * side + 3 * GAP, 2 * (side + TEXT) + GAP), "white")
    draw = ImageDraw.Draw(picture)
    for column, (photo, mix) in enumerate(zip(photos, mixes, strict=True)):
        degraded = degrade(photo.pixels, mix, 11).image
        result = restore(degraded)
        left = column * (side + GAP)
        paste(picture, degraded, left, TEXT)
        paste(picture, result.image, left, side + 2 * TEXT + GAP)
        draw.text((left, 17), f"{mix_name(mix)}: {result.scores[0]:.2f}", fill="black")
        half = (len(result.plan) + 1) // 2
        lines = [" > ".join(part) for part in (result.plan[:half], result.plan[half:]) if part]
        plan = "\n> ".join(lines) or "nothing to do"
        draw.text((left, side + TEXT + GAP + 3), f"{plan}: {result.scores[-1]:.2f}", fill="black")
    picture.save(pathlib.Path(__file__).parent.parent / "docs" / "restored.webp", quality=90)


def paste(picture: Image.Image, pixels: np.ndarray, left: int, top: int) -> None:
    picture.paste(Image.fromarray(pixels), (left, top))


if __name__ == "__main__":
    main()
