"""Image files: reading, writing, and finding them. Pixels here are uint8 [H, W, 3] sRGB."""

import contextlib
import errno
import glob
import io
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from r1jax.errors import ImageError
from r1jax.files import write_whole
from r1jax.images.decode import Photo, Undecodable, decode

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# WebP subsamples chroma in every lossy mode, so it is written lossless; `exact` keeps colours under alpha 0;
# `quality` is effort then: 80, the default, takes three times as long for the same size.
_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".webp": ("WEBP", {"lossless": True, "exact": True, "quality": 20}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

PathLike = str | os.PathLike[str]


def read_image(path: PathLike) -> Photo:
    """Reads a PNG, JPEG, WebP, TIFF, BMP or GIF file, known by its content and not by its name.

    Returns:
      The photo upright (EXIF orientation applied), in sRGB (ICC profile applied), in 8 bits; grey is repeated
      over the three channels; alpha is kept beside the colours; of an animation, the first frame.

    Raises:
      ImageError: there is no such file, it cannot be opened, it is no image, is damaged, or has more than 175
        megapixels (checked before any pixel is decoded).
    """
    path = pathlib.Path(path)
    with _one_line_errors(path, "cannot be read"):
        if not path.exists():
            raise ImageError(f"{path}: no such file")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise ImageError(f"{path}: is {kind}; want an image file")
        with path.open("rb") as file:
            if not file.read(1):
                raise ImageError(f"{path}: the file is empty")
            file.seek(0)
            return decode(file)


def write_image(
    path: PathLike,
    pixels: UInt8[np.ndarray, "h w 3"],
    alpha: UInt8[np.ndarray, "h w"] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes an image in the format that the extension names: .png, .jpg, .jpeg, .webp, .tif or .tiff.

    Lossless but for JPEG (quality 95, 4:4:4). JPEG has no alpha channel: `alpha` is dropped, and the colours
    stay as they are. The file appears whole or not at all: it is written beside its place, then moved there.

    Raises:
      ImageError: the extension is another, the file exists and `overwrite` is False, its folder is missing or
        not writable, the disk is full, or the format cannot hold an image of this size.
      ValueError: the arrays are not uint8 [H, W, 3] and [H, W].
    """
    path = pathlib.Path(path)
    _check_arrays(pixels, alpha)
    if path.suffix.lower() not in WRITABLE:
        unknown = path.suffix or "a name without extension"
        raise ImageError(f"{path}: cannot write {unknown}; use {', '.join(WRITABLE)}")
    with _one_line_errors(path, "cannot be written"):
        if path.is_dir() or (path.exists() and not path.is_file()):
            raise ImageError(f"{path}: exists and is not a regular file")
        if path.exists() and not overwrite:
            raise ImageError(f"{path}: exists; allow overwriting or choose another name")
        if not path.parent.is_dir():
            raise ImageError(f"{path}: there is no folder {path.parent}")
        write_whole(path, _encode(path, pixels, alpha))


def list_images(paths: PathLike | Iterable[PathLike]) -> list[pathlib.Path]:
    """Returns the image files that files, folders and glob patterns name, in the order given and each once.

    A folder stands for the images directly in it, a pattern for the images that match ("**" descends); both
    are sorted by name, and both go by extension and pass over hidden files. A file is taken whatever its
    name.

    Raises:
      ImageError: one of the paths leads to no image.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found: dict[pathlib.Path, None] = {}
    for path in map(pathlib.Path, paths):
        with _one_line_errors(path, "cannot be listed"):
            found.update(dict.fromkeys(_expand(path)))
    return list(found)


def _expand(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_file():
        return [path]
    kinds = ", ".join(READABLE)
    if path.is_dir():
        images = _only_images(path.iterdir())
        if not images:
            raise ImageError(f"{path}: no images in this folder ({kinds})")
        return images
    if not glob.has_magic(str(path)):
        raise ImageError(f"{path}: no such file or folder")
    images = _only_images(map(pathlib.Path, glob.iglob(str(path), recursive=True)))
    if not images:
        raise ImageError(f"{path}: no images match this pattern ({kinds})")
    return images


def _only_images(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    visible = (path for path in paths if not path.name.startswith("."))
    return sorted(path for path in visible if path.suffix.lower() in READABLE and path.is_file())


def _check_arrays(pixels: np.ndarray, alpha: np.ndarray | None) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"pixels: want uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
    if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != pixels.shape[:2]):
        raise ValueError(f"alpha: want uint8 {list(pixels.shape[:2])}, got {alpha.dtype} {list(alpha.shape)}")


def _encode(path: pathlib.Path, pixels: np.ndarray, alpha: np.ndarray | None) -> bytes:
    kind, options = _ENCODERS[path.suffix.lower()]
    if alpha is not None and kind != "JPEG":
        pixels = np.dstack([pixels, alpha])
    buffer = io.BytesIO()  # in memory: an encoder that writes to a full disk reports a number, not the reason
    try:
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, **options)
    except (OSError, ValueError) as error:
        size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        raise ImageError(f"{path}: {kind} cannot hold this image of {size} ({error})") from error
    return buffer.getvalue()


@contextlib.contextmanager
def _one_line_errors(path: pathlib.Path, what: str) -> Iterator[None]:
    try:
        yield
    except Undecodable as error:
        raise ImageError(f"{path}: {error}") from error
    except OSError as error:
        reason = "no space left on the disk" if error.errno in _NO_SPACE else error.strerror or error
        raise ImageError(f"{path}: {what}: {str(reason).lower()}") from error
    except ValueError as error:  # a name that no file system can hold
        raise ImageError(f"{path}: {what}: {error}") from error
