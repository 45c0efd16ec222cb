"""From an image file to 8-bit sRGB pixels, whatever the file's depth, colour space and orientation."""

import contextlib
import dataclasses
import io
import warnings
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageCms

# Only formats that Pillow decodes itself: its EPS reader, for one, would start an external program.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MAX_MEGAPIXELS = 175  # Pillow's own hard limit is 178.9
_GREY = ("1", "L", "LA", "La")
_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")
_MODES = (*_GREY, *_COLOUR, "CMYK", "I;16", "I;16B", "I;16L")
_ORIENTATION, _PHOTOMETRIC, _PLANAR, _BITS = 274, 262, 284, 258  # EXIF and TIFF tags
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


class Undecodable(Exception):
    """Why a file cannot become a photo, in words that follow its name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """A still image at a host border. Metadata is gone: what matters of it has been applied.

    Attributes:
      pixels: sRGB.
      alpha: opacity, 255 is opaque; None if the file has none.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"] | None = None


def decode(file: BinaryIO) -> Photo:
    """Returns the (first) image of an open file, upright, in sRGB.

    Grey becomes RGB; 16 bits are rounded to 8; an embedded ICC profile is converted to sRGB (relative
    colorimetric, black point compensation). A profile that cannot be read, or is not for the file's kind of
    pixels, is ignored.

    Raises:
      Undecodable: in place of whatever the decoders raise, and before decoding if the image is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(file)
    except Undecodable:
        raise
    except Image.UnidentifiedImageError:
        raise Undecodable("not an image that can be read (PNG, JPEG, WebP, TIFF, BMP, GIF)") from None
    except Image.DecompressionBombError:
        raise Undecodable(_TOO_LARGE) from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise Undecodable(f"truncated or damaged ({_one_line(error)})") from error


_TOO_LARGE = f"the header announces more than {MAX_MEGAPIXELS} megapixels, the most that is read"


def _decode(file: BinaryIO) -> Photo:
    image: Image.Image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_MEGAPIXELS * 1_000_000:
        raise Undecodable(_TOO_LARGE)
    _refuse_unsupported(image)
    raw_mode = _raw_mode(image)
    image.load()
    flat = image
    if image.mode.startswith("I;16"):
        flat = Image.fromarray(_grey_16(image, raw_mode))
    elif ";16" in raw_mode and image.mode in ("RGB", "RGBA", "LA"):
        flat = _rounded_16(image, file)
    kind, alpha = flat.mode, None
    if flat.has_transparency_data:
        flat = flat.convert("RGBA")
        alpha = flat.getchannel("A")
    rgb = _to_srgb(flat, kind, image.info.get("icc_profile"))
    turn = _orientation(image)
    return Photo(_upright(rgb, turn), None if alpha is None else _upright(alpha, turn))


def _refuse_unsupported(image: Image.Image) -> None:
    if image.mode not in _MODES:
        raise Undecodable(f"pixels of kind {image.mode} cannot be read; save it as grey or RGB, 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANAR) == 2 and max(tags.get(_BITS, (8,))) > 8:
        raise Undecodable("16-bit colour planes cannot be read; save it with interleaved channels")


def _raw_mode(image: Image.Image) -> str:
    """Returns how pixels lie in the file, such as "RGB;16B"; known only before they are loaded."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _grey_16(image: Image.Image, raw_mode: str) -> UInt8[np.ndarray, "h w"]:
    grey = _round_to_8(np.asarray(image).astype(np.uint16), 4095 if raw_mode.startswith("I;12") else 65535)
    white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0  # Pillow inverts these in 8 bits only
    return 255 - grey if white_is_zero else grey


def _rounded_16(image: Image.Image, file: BinaryIO) -> Image.Image:
    """Returns the 16-bit colours rounded, where Pillow cuts off the low byte.

    OpenCV reads both bytes. Its answer is taken only if it shows what Pillow's shows: rare layouts differ.
    """
    file.seek(0)
    deep = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3:
        return image
    to_rgb = cv2.COLOR_BGRA2RGBA if deep.shape[2] == 4 else cv2.COLOR_BGR2RGB
    rounded = Image.fromarray(_round_to_8(cv2.cvtColor(deep, to_rgb), 65535))
    if image.mode == "LA" and rounded.mode == "RGBA":
        rounded = Image.merge("LA", (rounded.getchannel("R"), rounded.getchannel("A")))
    if rounded.mode != image.mode or rounded.size != image.size:
        return image
    return rounded if np.abs(np.asarray(rounded, np.int16) - np.asarray(image)).max() <= 1 else image


def _round_to_8(values: UInt16[np.ndarray, "..."], top: int) -> UInt8[np.ndarray, "..."]:
    """Returns round(255 v / top)."""
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _to_srgb(image: Image.Image, kind: str, icc_profile: bytes | None) -> Image.Image:
    """Returns the image as RGB in sRGB; `kind` is its mode before any transparency was expanded."""
    if icc_profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
            kinds, mode = {
                "GRAY": (_GREY, "L"),
                "RGB": (_GREY + _COLOUR, "RGB"),
                "CMYK": (("CMYK",), "CMYK"),
            }.get(profile.profile.xcolor_space.strip(), ((), ""))
            if kind in kinds:
                return _transform(image.convert(mode), profile)
    return image.convert("RGB")


def _transform(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    transform = ImageCms.buildTransform(
        profile, _SRGB, image.mode, "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    result = ImageCms.applyTransform(image, transform)
    assert result is not None  # None is for transforms in place
    return result


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # an image with damaged EXIF is still an image
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def _upright(image: Image.Image, orientation: int) -> np.ndarray:
    """Returns the pixels with an EXIF orientation (1..8) undone. For TIFF, Pillow has done it and says 1."""
    pixels = np.asarray(image)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.array(pixels, order="C")  # a copy: Pillow's arrays are read-only


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
