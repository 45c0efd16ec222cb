"""Makes the photo crops of r1jax/assets/photos from the packages that they come from.

SOURCES.json there lists them: 24 crops of 256x256 pixels, sRGB, lossless WebP, 12 for training and 12 held
out; public domain, CC0 or CC BY. Large photos are shrunk first by area averaging: JPEG artefacts vanish.
No photo gives crops to both splits.

Command (every FOLDER is searched for the listed paths; FILE!MEMBER is a member of a Qt resource file):

    apt-get download lomiri-wallpapers-16.04 gcompris-qt-data
    for package in *.deb; do dpkg-deb -x $package debian; done
    pip download --no-deps scikit-image==0.26.0 scikit-learn==1.9.1 matplotlib==3.11.2 scipy==1.11.4
    for wheel in *.whl; do unzip -oq $wheel -d wheels; done
    python launch/make_photo_crops.py debian wheels

It writes the same pixels each time, and the same bytes with Pillow 13. After an edit of factors and boxes in
SOURCES.json, --update writes the new hashes.
"""

import argparse
import bz2
import hashlib
import io
import json
import pathlib
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

ASSETS = pathlib.Path(__file__).resolve().parent.parent / "r1jax" / "assets" / "photos"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the photo crops that r1jax ships.")
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="FOLDER", help="unpacked packages")
    parser.add_argument("--output", type=pathlib.Path, default=ASSETS, help="default: r1jax/assets/photos")
    parser.add_argument("--update", action="store_true", help="accept new pixels and write their hashes")
    arguments = parser.parse_args()
    sources = json.loads((ASSETS / "SOURCES.json").read_text(encoding="utf-8"))
    try:
        for record in sources["photos"]:
            make_crop(record, sources["side"], arguments)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.update:
        text = json.dumps(sources, indent=1, ensure_ascii=False)
        (arguments.output / "SOURCES.json").write_text(text + "\n", encoding="utf-8")
    return 0


def make_crop(record: dict[str, Any], side: int, arguments: argparse.Namespace) -> None:
    """Writes one crop and puts its hashes into `record`.

    Raises:
      ValueError: the box does not fit, or the pixels are not those that SOURCES.json knows.
    """
    small = shrink(decode(*read_source(record, arguments.folders)), record["factor"])
    left, top, right, bottom = record["box"]
    pixels = np.ascontiguousarray(small[top:bottom, left:right])
    if pixels.shape != (side, side, 3):
        raise ValueError(f"{record['file']}: box {record['box']} leaves the photo, {small.shape} when shrunk")
    pixels_sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    if pixels_sha256 != record["pixels_sha256"] and not arguments.update:
        raise ValueError(f"{record['file']}: other pixels than in SOURCES.json; --update accepts them")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, quality=100, method=6)
    path = arguments.output / record["file"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    record["pixels_sha256"] = pixels_sha256
    record["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()


def read_source(record: dict[str, Any], folders: list[pathlib.Path]) -> tuple[str, bytes]:
    """Returns the photo's file name and content.

    Raises:
      FileNotFoundError: no folder holds the file.
      ValueError: the file is not the one that the crops were made from.
    """
    path, _, member = record["path"].partition("!")
    found = [folder / path for folder in folders if (folder / path).is_file()]
    if not found:
        raise FileNotFoundError(f"{path}: in none of the folders; it is part of {record['package']}")
    content = found[0].read_bytes()
    if hashlib.sha256(content).hexdigest() != record["source_sha256"]:
        raise ValueError(f"{found[0]}: not the file of {record['package']} (SHA-256 differs)")
    return (member, dict(qt_resources(content))[member]) if member else (path, content)


def qt_resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields (path, bytes) of a Qt binary resource file; format: `rcc` of Qt 5, version 2."""
    _, tree, data, names = struct.unpack(">4I", content[4:20])

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        node = tree + 22 * index
        name_at, flags = struct.unpack(">IH", content[node : node + 6])
        name_at += names
        length = struct.unpack(">H", content[name_at : name_at + 2])[0]
        name = content[name_at + 6 : name_at + 6 + 2 * length].decode("utf-16-be")
        path = f"{prefix}/{name}" if index else ""
        if flags & 2:  # a folder: its children are consecutive nodes
            count, first = struct.unpack(">2I", content[node + 6 : node + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        start = data + struct.unpack(">I", content[node + 10 : node + 14])[0]
        size = struct.unpack(">I", content[start : start + 4])[0]
        raw = content[start + 4 : start + 4 + size]
        yield path.lstrip("/"), zlib.decompress(raw[4:]) if flags & 1 else raw

    return walk(0, "")


def decode(name: str, content: bytes) -> np.ndarray:
    """Returns sRGB pixels, uint8 [h, w, 3]."""
    if name.endswith("face.dat"):  # scipy's raccoon: bz2 of the raw array
        return np.frombuffer(bz2.decompress(content), np.uint8).reshape(768, 1024, 3)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def shrink(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Averages areas of factor x factor pixels: uint8 [h, w, 3] -> uint8 [h / factor, w / factor, 3]."""
    rows = area_weights(pixels.shape[0], factor)
    columns = area_weights(pixels.shape[1], factor)
    mean = np.einsum("ij,jkc->ikc", rows, pixels.astype(np.float64), optimize=True)
    mean = np.einsum("lk,ikc->ilc", columns, mean, optimize=True)
    return np.rint(mean.round(6)).astype(np.uint8)  # rounded twice: last bits of sums vary


def area_weights(size: int, factor: float) -> np.ndarray:
    """Returns float64 [int(size / factor), size]: the share of each input pixel in each output pixel."""
    start = np.arange(int(size / factor))[:, None] * factor
    pixel = np.arange(size)[None]
    overlap = np.minimum(start + factor, pixel + 1) - np.maximum(start, pixel)
    return np.clip(overlap, 0, None) / factor


if __name__ == "__main__":
    sys.exit(main())
