"""Makes the folder of photos that the shipped weights were trained on, beside BSDS500's train part.

    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers opencv-doc
    for deb in *.deb; do dpkg-deb -x $deb unpacked; done
    python launch/make_training_photos.py unpacked photos

Large photos are shrunk by area averaging to about 1050 pixels on the long side, which also removes JPEG artefacts. Sources
of the shipped test crops are left out.
"""

import pathlib
import sys

import cv2
import numpy as np

from r1jax.images.io import read_image, write_image

LOMIRI_16 = [
    "Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Picture_0B_by_freespace", "aitzgorri_by_Aitzol_Berasategi",
    "free_by_Peter_Nerlich", "greentock_by_Peter_Nerlich", "sunset_by_Aitzol_Berasategi",
]  # fmt: skip
PLASMA = [
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "DarkestHour",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
    "summer_1am",
]
OPENCV = [
    "data/fruits.jpg",
    "data/leuvenA.jpg",
    "data/squirrel_cls.jpg",
    "data/home.jpg",
    "data/aloeL.jpg",
    "data/board.jpg",
    "data/chicky_512.png",
    "data/rubberwhale1.png",
    "data/graf1.png",
    "data/aero1.jpg",
    "data/butterfly.jpg",
    "data/building.jpg",
    "data/ela_original.jpg",
    "alphamat/input_images/plant.jpg",
    "text/scenetext01.jpg",
    "text/scenetext02.jpg",
    "text/scenetext03.jpg",
    "text/scenetext04.jpg",
    "text/scenetext05.jpg",
    "text/scenetext06.jpg",
]


def main() -> None:
    unpacked, out = (pathlib.Path(argument) for argument in sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    for name, path in sources(unpacked / "usr" / "share"):
        write_image(out / f"{name}.png", shrunk(read_image(path).pixels, path.suffix), overwrite=True)


def sources(share: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Returns (name, path) of every photo."""
    backgrounds = share / "backgrounds"
    found = [(name, backgrounds / f"{name}.jpg") for name in [*LOMIRI_16, "Kleiber_by_Lukas_Baubkus"]]
    found += [(f"mate_{path.stem}", path) for path in sorted((backgrounds / "mate" / "nature").glob("*.jpg"))]
    found += [
        (f"plasma_{name}", share / "wallpapers" / name / "contents" / "images" / "2560x1600.jpg") for name in PLASMA
    ]
    examples = share / "doc" / "opencv-doc" / "examples"
    return found + [(f"opencv_{pathlib.Path(name).stem}", examples / name) for name in OPENCV]


def shrunk(pixels: np.ndarray, suffix: str) -> np.ndarray:
    """Divides by a whole number where the photo is large; a small JPEG shrinks by up to 1.5 for its artefacts."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest > 1250 or (suffix == ".jpg" and longest >= 1000):
        factor = max(2, round(longest / 1050))
        height, width = height // factor, width // factor
        blocks = pixels[: height * factor, : width * factor].astype(np.float32)
        mean = blocks.reshape(height, factor, width, factor, 3).mean((1, 3))
        return np.round(mean).astype(np.uint8)
    factor = min(1.5, min(height, width) / 264)
    if suffix == ".jpg" and factor > 1:
        return cv2.resize(pixels, (int(width / factor), int(height / factor)), interpolation=cv2.INTER_AREA)
    return pixels


if __name__ == "__main__":
    main()
