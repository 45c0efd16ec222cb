"""The shipped photo crops: complete records, free licences, splits apart, pixels that can be made again."""

import argparse
import hashlib
import json
import pathlib

import numpy as np
import pytest
import skimage
from launch_scripts import load
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "r1jax" / "assets" / "photos"
SOURCES = json.loads((PHOTOS / "SOURCES.json").read_text(encoding="utf-8"))
RECORDS = SOURCES["photos"]
SITE_PACKAGES = pathlib.Path(skimage.__file__).parent.parent
FREE = {"public domain", "CC0-1.0", "CC-BY-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}


@pytest.fixture(scope="module")
def maker():
    return load("make_photo_crops")


def arguments(output, folders=(SITE_PACKAGES,)):
    return argparse.Namespace(folders=list(folders), output=output, update=False)


def test_every_file_is_listed_and_every_listed_file_is_there():
    files = {str(path.relative_to(PHOTOS)) for path in PHOTOS.rglob("*.webp")}
    assert files == {record["file"] for record in RECORDS}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["file"])
def test_record_is_complete_and_true(record):
    assert all(record[field] for field in ("package", "path", "author", "credit", "changes", "source_sha256"))
    assert record["licence"] in FREE
    assert record["licence_url"].startswith("https://creativecommons.org/")
    content = (PHOTOS / record["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    pixels = np.asarray(Image.open(PHOTOS / record["file"]))
    assert pixels.shape == (SOURCES["side"], SOURCES["side"], 3)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == record["pixels_sha256"]


def test_splits_share_no_photo():
    split = {name: {r["path"] for r in RECORDS if r["split"] == name} for name in ("train", "test")}
    assert not split["train"] & split["test"]
    assert [sum(r["split"] == name for r in RECORDS) for name in ("train", "test")] == [12, 12]
    assert all(record["file"].startswith(record["split"] + "/") for record in RECORDS)


def test_crops_take_little_space():
    assert sum(path.stat().st_size for path in PHOTOS.rglob("*.webp")) < 3e6


def test_maker_makes_the_shipped_pixels_again(maker, tmp_path):
    mine = [record for record in RECORDS if record["package"].startswith("scikit-image")]
    assert len(mine) == 5
    for record in mine:
        maker.make_crop(dict(record), SOURCES["side"], arguments(tmp_path))
        made, shipped = (np.asarray(Image.open(folder / record["file"])) for folder in (tmp_path, PHOTOS))
        np.testing.assert_array_equal(made, shipped)


def test_maker_refuses_another_source_file(maker, tmp_path):
    record = RECORDS[0]
    path = tmp_path / record["path"]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another photo")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        maker.make_crop(dict(record), SOURCES["side"], arguments(tmp_path, [tmp_path]))


def test_maker_refuses_other_pixels(maker, tmp_path):
    record = next(r for r in RECORDS if r["source"] == "coffee")
    left, top, right, bottom = record["box"]
    moved = {**record, "box": [left + 1, top, right + 1, bottom]}
    with pytest.raises(ValueError, match="other pixels"):
        maker.make_crop(moved, SOURCES["side"], arguments(tmp_path))
    assert not (tmp_path / record["file"]).exists()


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_shrink_averages_whole_blocks(maker, factor):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    blocks = pixels.reshape(12 // factor, factor, 18 // factor, factor, 3).astype(np.float64).mean((1, 3))
    np.testing.assert_array_equal(maker.shrink(pixels, factor), np.rint(blocks))


def test_shrink_by_a_fraction_splits_pixels(maker):
    row = np.repeat(np.array([[0], [90], [240]], np.uint8)[None], 3, axis=2)  # [1, 3, 3]: 0 90 240
    pixels = np.repeat(row, 3, axis=0)
    # Areas of 1.5: all of the first pixel and half of the second, then the other half and all of the third.
    np.testing.assert_array_equal(maker.shrink(pixels, 1.5)[0, :, 0], [30, 190])
