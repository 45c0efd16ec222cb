"""Every kind of file becomes upright 8-bit sRGB, or a one-line error."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from r1jax.errors import ImageError
from r1jax.images.io import read_image

PHOTO = np.ascontiguousarray(data.astronaut()[100:124, 180:210])  # 24 x 30
DEEP = np.random.default_rng(0).integers(0, 65536, (5, 7, 4), dtype=np.uint16)
DEEP_IN_8_BITS = np.rint(DEEP / 257).astype(np.uint8)


def saved(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def bare_profile(space, tags):
    """An ICC profile with nothing but the given tags; `tags` maps four letters to bytes."""
    body, table = b"", struct.pack(">I", len(tags))
    for name, content in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    connection = b"Lab " if space == b"CMYK" else b"XYZ "
    white = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sIIIQI12s4s44s", 128 + len(table) + len(body), b"none", 0x02100000, b"scnr", space,
        connection, bytes(12), b"acsp", bytes(4), 0, 0, 0, 0, 1, white, bytes(4), bytes(44),
    )  # fmt: skip
    return header + table + body


def xyz(*values):
    return struct.pack(">4sIiii", b"XYZ ", 0, *(round(v * 65536) for v in values))


LINEAR = struct.pack(">4sII", b"curv", 0, 0)
WHITE = xyz(0.9642, 1.0, 0.8249)
LINEAR_SRGB = bare_profile(b"RGB ", {
    b"wtpt": WHITE, b"rXYZ": xyz(0.4361, 0.2225, 0.0139), b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
    b"bXYZ": xyz(0.1431, 0.0606, 0.7141), b"rTRC": LINEAR, b"gTRC": LINEAR, b"bTRC": LINEAR,
})  # fmt: skip
LINEAR_GREY = bare_profile(b"GRAY", {b"wtpt": WHITE, b"kTRC": LINEAR})


def cmyk_profile_of_black_alone():
    """A press without colours: lightness is 1 - K, whatever C, M and Y are."""
    ramp = bytes(range(256))
    grid = b"".join(bytes([0 if corner & 1 else 255, 128, 128]) for corner in range(16))  # K varies fastest
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = struct.pack(">4sIBBBB", b"mft1", 0, 4, 3, 2, 0) + matrix + ramp * 4 + grid + ramp * 3
    return bare_profile(b"CMYK", {b"wtpt": WHITE, b"A2B0": table, b"A2B1": table})


def srgb_encoded(linear):
    """The sRGB transfer curve, IEC 61966-2-1, on values in [0, 1]."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.bmp"])
def test_rgb_is_read_exactly_and_has_no_alpha(tmp_path, name):
    photo = read_image(saved(tmp_path / name, PHOTO, **({"lossless": True} if name == "a.webp" else {})))
    np.testing.assert_array_equal(photo.pixels, PHOTO)
    assert photo.pixels.dtype == np.uint8 and photo.alpha is None and photo.pixels.flags.writeable


def test_jpeg_is_read_closely(tmp_path):
    photo = read_image(saved(tmp_path / "a.jpg", PHOTO, quality=98, subsampling=0))
    assert np.abs(photo.pixels.astype(int) - PHOTO).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
def test_orientation_is_applied(tmp_path, name, orientation):
    stored = np.zeros((16, 32, 3), np.uint8)  # dark, with a red corner top left and a green one top right
    stored[:8, :8], stored[:8, -8:] = (255, 0, 0), (0, 255, 0)
    exif = Image.Exif()
    exif[274] = orientation
    photo = read_image(saved(tmp_path / name, stored, exif=exif)).pixels
    corners = {"top left": (3, 3), "top right": (3, -4), "bottom right": (-4, -4), "bottom left": (-4, 3)}
    found = {int(photo[at].argmax()): where for where, at in corners.items() if photo[at].max() > 128}
    wanted = {  # where EXIF says that row 0, column 0 and row 0, column -1 belong
        1: ("top left", "top right"), 2: ("top right", "top left"), 3: ("bottom right", "bottom left"),
        4: ("bottom left", "bottom right"), 5: ("top left", "bottom left"), 6: ("top right", "bottom right"),
        7: ("bottom right", "top right"), 8: ("bottom left", "top left"),
    }[orientation]  # fmt: skip
    assert (found[0], found[1]) == wanted
    assert photo.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))


def test_alpha_turns_with_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    rgba = np.dstack([PHOTO, PHOTO[..., 0]])
    photo = read_image(saved(tmp_path / "a.png", rgba, exif=exif))
    np.testing.assert_array_equal(photo.pixels, np.rot90(PHOTO, -1))
    np.testing.assert_array_equal(photo.alpha, np.rot90(PHOTO[..., 0], -1))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
def test_grey_and_palette_become_rgb(tmp_path, mode):
    image = Image.fromarray(PHOTO).convert(mode)
    photo = read_image(saved(tmp_path / "a.png", image))
    np.testing.assert_array_equal(photo.pixels, np.asarray(image.convert("RGB")))
    assert (photo.alpha is not None) == (mode == "LA")


def test_palette_transparency_becomes_alpha(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([9, 8, 7, 60, 50, 40, 255, 0, 0])
    photo = read_image(saved(tmp_path / "a.png", image, transparency=bytes([255, 0, 128])))
    np.testing.assert_array_equal(photo.pixels, [[[9, 8, 7], [60, 50, 40], [255, 0, 0]]])
    np.testing.assert_array_equal(photo.alpha, [[255, 0, 128]])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_rounded_to_8(tmp_path, name, channels):
    shown = slice(0, 1) if channels == 1 else slice(0, 3)
    stored = DEEP[..., 0] if channels == 1 else DEEP[..., [2, 1, 0, 3][:channels]]  # OpenCV writes BGR
    (tmp_path / name).write_bytes(cv2.imencode(name[1:], stored)[1].tobytes())
    photo = read_image(tmp_path / name)
    np.testing.assert_array_equal(photo.pixels, np.broadcast_to(DEEP_IN_8_BITS[..., shown], (5, 7, 3)))
    assert (photo.alpha is not None) == (channels == 4)
    if channels == 4:
        np.testing.assert_array_equal(photo.alpha, DEEP_IN_8_BITS[..., 3])


def png(colour_type, rows, *chunks):
    """A PNG file with 16-bit samples, from bytes; `chunks` go before the pixels."""
    height, width = rows.shape[:2]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bit_grey_with_alpha(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4, DEEP[..., :2]))
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, np.repeat(DEEP_IN_8_BITS[..., :1], 3, 2))
    np.testing.assert_array_equal(photo.alpha, DEEP_IN_8_BITS[..., 1])


def test_16_bit_rgb_with_orientation_is_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "a.png").write_bytes(png(2, DEEP[..., :3], (b"eXIf", exif.tobytes()[6:])))
    photo = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, np.rot90(DEEP_IN_8_BITS[..., :3], -1))


@pytest.mark.parametrize("orientation", [3, 6])
def test_16_bit_tiff_with_orientation_is_upright(tmp_path, orientation):
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., :3], photometric="rgb", extratags=[tag])
    wanted = np.rot90(DEEP_IN_8_BITS[..., :3], 2 if orientation == 3 else -1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, wanted)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_grey_tiff_where_white_is_zero(tmp_path, depth):
    stored = DEEP[..., 0] if depth is np.uint16 else DEEP_IN_8_BITS[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels[..., 0], 255 - DEEP_IN_8_BITS[..., 0])


def test_cmyk_with_and_without_profile(tmp_path):
    red = np.tile(np.array([0, 255, 255, 0], np.uint8), (8, 8, 1))
    image = Image.fromarray(red, "CMYK")
    plain = read_image(saved(tmp_path / "plain.jpg", image, quality=95)).pixels
    assert plain[..., 0].min() > 240 and plain[..., 1:].max() < 15
    profile = cmyk_profile_of_black_alone()
    assert read_image(saved(tmp_path / "icc.jpg", image, quality=95, icc_profile=profile)).pixels.min() > 240
    photo = read_image(saved(tmp_path / "a.tif", image))
    np.testing.assert_array_equal(photo.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "profile"),
    [("RGB", LINEAR_SRGB), ("RGBA", LINEAR_SRGB), ("L", LINEAR_GREY), ("LA", LINEAR_GREY)],
)
def test_profile_is_converted_to_srgb(tmp_path, mode, profile):
    image = Image.fromarray(PHOTO).convert(mode)
    photo = read_image(saved(tmp_path / "a.png", image, icc_profile=profile))
    linear = np.asarray(image.convert("RGB")) / 255
    wanted = 255 * srgb_encoded(linear)
    assert np.abs(photo.pixels - wanted).max() <= 2
    assert np.abs(wanted - 255 * linear).max() > 50
    assert (photo.alpha is not None) == (mode in ("RGBA", "LA"))


@pytest.mark.parametrize(
    "profile", [b"no profile", LINEAR_SRGB[:200], LINEAR_GREY, cmyk_profile_of_black_alone()]
)
def test_profile_that_is_broken_or_for_other_pixels_is_ignored(tmp_path, profile):
    photo = read_image(saved(tmp_path / "a.png", PHOTO, icc_profile=profile))
    np.testing.assert_array_equal(photo.pixels, PHOTO)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_first_frame_of_an_animation(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in [(200, 0, 0), (0, 200, 0)]]
    options = {"lossless": True} if name == "a.webp" else {}
    photo = read_image(saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options))
    np.testing.assert_array_equal(photo.pixels, np.asarray(frames[0]))


def test_content_counts_and_not_the_name(tmp_path):
    np.testing.assert_array_equal(read_image(saved(tmp_path / "a.jpg", PHOTO, format="PNG")).pixels, PHOTO)


def encoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, kind)
    return buffer.getvalue()


ENCODED = {kind: encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF")}
ENCODED["PNG16"] = png(2, DEEP[..., :3])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "PNG16"])
def test_truncated_files_are_named(tmp_path, kind):
    path = tmp_path / "cut.img"
    path.write_bytes(ENCODED[kind][: len(ENCODED[kind]) * 2 // 3])
    with pytest.raises(ImageError, match=r"cut\.img: truncated or damaged") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, kind, draw):
    content = bytearray(ENCODED[kind])
    for _ in range(draw.draw(st.integers(1, 8))):
        content[draw.draw(st.integers(0, len(content) - 1))] = draw.draw(st.integers(0, 255))
    path = tmp_path / "damaged.img"
    path.write_bytes(content)
    try:
        pixels = read_image(path).pixels
    except ImageError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize(("side", "loads"), [(60_000, 0), (13_300, 0), (5, 1)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, side, loads):
    calls = []
    load = Image.Image.load
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: calls.append(1) or load(self))
    content = bytearray(png(2, DEEP[..., :3]))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    if loads:
        read_image_or_error(tmp_path / "bomb.png")
    else:
        with pytest.raises(ImageError, match=r"bomb\.png: .*more than 175 megapixels"):
            read_image(tmp_path / "bomb.png")
    assert bool(calls) == bool(loads)


def read_image_or_error(path):
    try:
        return read_image(path)
    except ImageError as error:
        return error


def test_pixels_that_would_be_misread_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"a\.tif: pixels of kind F cannot be read; save it as grey or RGB"):
        read_image(saved(tmp_path / "a.tif", Image.new("F", (4, 4))))
    with pytest.raises(ImageError, match=r"b\.tif: pixels of kind I cannot be read"):
        read_image(saved(tmp_path / "b.tif", Image.new("I", (4, 4))))
    planes = np.moveaxis(DEEP[..., :3], -1, 0)
    tifffile.imwrite(tmp_path / "c.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(ImageError, match=r"c\.tif: 16-bit colour planes cannot be read"):
        read_image(tmp_path / "c.tif")
