"""Files: what is written comes back, nothing is half written, and errors are one line that names the file."""

import errno
import os
import pathlib
import resource
import stat

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from r1jax.errors import ImageError
from r1jax.images.io import list_images, read_image, write_image

PHOTO = np.ascontiguousarray(data.astronaut()[100:124, 180:210])  # 24 x 30
ALPHA = np.ascontiguousarray(PHOTO[..., 1])
sides = st.integers(1, 20)


def refused(call, *arguments, **options):
    """The message of the ImageError that a call raises, checked to be one line."""
    with pytest.raises(ImageError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sides, sides, st.booleans(), st.sampled_from([".png", ".webp", ".tif", ".TIFF"]))
def test_lossless_formats_give_pixels_and_alpha_back(tmp_path, height, width, has_alpha, extension):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    alpha = pixels[..., 3] if has_alpha else None
    path = tmp_path / f"out{extension}"
    write_image(path, pixels[..., :3], alpha, overwrite=True)
    photo = read_image(path)
    np.testing.assert_array_equal(photo.pixels, pixels[..., :3])
    if has_alpha:
        np.testing.assert_array_equal(photo.alpha, alpha)
    else:
        assert photo.alpha is None


def test_jpeg_has_full_chroma_and_drops_alpha(tmp_path):
    write_image(tmp_path / "out.jpg", PHOTO, ALPHA)
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.format == "JPEG" and [component[1:3] for component in image.layer] == [(1, 1)] * 3
        assert max(image.quantization[0]) == 12  # quality 95; 94 has 15
    photo = read_image(tmp_path / "out.jpg")
    assert photo.alpha is None and np.abs(photo.pixels.astype(int) - PHOTO).mean() < 3


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path):
    path = tmp_path / "out.png"
    write_image(path, PHOTO)
    assert "out.png: exists" in refused(write_image, path, 255 - PHOTO)
    np.testing.assert_array_equal(read_image(path).pixels, PHOTO)
    write_image(path, 255 - PHOTO, overwrite=True)
    np.testing.assert_array_equal(read_image(path).pixels, 255 - PHOTO)
    assert os.listdir(tmp_path) == ["out.png"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    write_image(tmp_path / "link.png", PHOTO, overwrite=True)
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "real.png").is_file()


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_image(tmp_path / "out.png", PHOTO)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.png").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["out.xyz", "out", "out.gif"])
def test_unknown_extension_lists_those_that_can_be_written(tmp_path, name):
    message = refused(write_image, tmp_path / name, PHOTO)
    assert name in message and ".png, .jpg, .jpeg, .webp, .tif, .tiff" in message


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.tif"
    write_image(path, PHOTO)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # Python ignores SIGXFSZ and sees EFBIG
    try:
        message = refused(write_image, path, noise, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "out.tif" in message and "no space left" in message
    assert os.listdir(tmp_path) == ["out.tif"]
    np.testing.assert_array_equal(read_image(path).pixels, PHOTO)


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "permission denied")]
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_at_the_end_leaves_nothing(tmp_path, monkeypatch, code, words, call):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    message = refused(write_image, tmp_path / "out.png", PHOTO)
    assert "out.png" in message and words in message
    assert os.listdir(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "out.png", PHOTO)
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.png").mkdir()
    message = refused(write_image, tmp_path / "folder.png", PHOTO, overwrite=True)
    assert "folder.png: exists and is not" in message
    os.mkfifo(tmp_path / "pipe.png")
    message = refused(write_image, tmp_path / "pipe.png", PHOTO, overwrite=True)
    assert "pipe.png: exists and is not" in message
    assert "there is no folder" in refused(write_image, tmp_path / "missing" / "out.png", PHOTO)
    assert "/proc/out.png: cannot be written" in refused(write_image, "/proc/out.png", PHOTO)


def test_a_size_that_the_format_cannot_hold(tmp_path):
    message = refused(write_image, tmp_path / "out.webp", np.zeros((1, 16_384, 3), np.uint8))
    assert "out.webp: WEBP cannot hold this image of 16384 x 1 pixels" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("pixels", "alpha"), [
    (PHOTO / 255, None), (ALPHA, None), (PHOTO[:0], None), (PHOTO, PHOTO), (PHOTO, ALPHA[1:]),
])  # fmt: skip
def test_arrays_of_another_kind_are_refused(tmp_path, pixels, alpha):
    with pytest.raises(ValueError, match="want uint8"):
        write_image(tmp_path / "out.png", pixels, alpha)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("<svg>no</svg>")
    os.mkfifo(tmp_path / "pipe.png")
    assert "missing.png: no such file" in refused(read_image, tmp_path / "missing.png")
    assert "empty.png: the file is empty" in refused(read_image, tmp_path / "empty.png")
    assert "text.png: not an image that can be read (PNG, JPEG" in refused(read_image, tmp_path / "text.png")
    assert "is a folder" in refused(read_image, tmp_path)
    assert "pipe.png: is not a regular file" in refused(read_image, tmp_path / "pipe.png")
    assert "no such file" in refused(read_image, "a\0b.png")
    assert "/proc/self/mem: cannot be read" in refused(read_image, "/proc/self/mem")

    def deny(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(pathlib.Path, "open", deny)
    assert "text.png: cannot be read: permission denied" in refused(read_image, tmp_path / "text.png")


@pytest.fixture
def folder(tmp_path):
    for name in ["b.jpg", "a.PNG", "notes.txt", ".hidden.png", "sub/c.webp", "sub/deep/d.tif", "x[1].png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    return tmp_path


@pytest.mark.parametrize(("paths", "wanted"), [
    (["."], ["a.PNG", "b.jpg", "x[1].png"]),
    (["*.jpg", "sub"], ["b.jpg", "sub/c.webp"]),
    (["*"], ["a.PNG", "b.jpg", "x[1].png"]),
    (["**/*"], ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tif", "x[1].png"]),
    (["x[1].png"], ["x[1].png"]),
    (["notes.txt"], ["notes.txt"]),
    (["b.jpg", "*.jpg", ".", "b.jpg"], ["b.jpg", "a.PNG", "x[1].png"]),
])  # fmt: skip
def test_listing(folder, paths, wanted):
    assert list_images([folder / p for p in paths]) == [folder / w for w in wanted]


def test_listing_takes_one_path_and_text(folder):
    assert list_images(str(folder / "b.jpg")) == [folder / "b.jpg"]


def test_listing_nothing_is_an_error(folder):
    (folder / "none").mkdir()
    message = refused(list_images, [folder / "b.jpg", folder / "none"])
    assert "none: no images in this folder (.png, .jpg" in message
    assert "*.tif: no images match" in refused(list_images, folder / "*.tif")
    assert "gone.png: no such file or folder" in refused(list_images, folder / "gone.png")
