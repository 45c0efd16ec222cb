"""Photos, training batches and benchmarks are functions of their seeds."""

import json
import shutil

import numpy as np
import pytest

from r1jax.degradations import TrainingData, build_benchmark, load_photos, parse_mixes
from r1jax.degradations.dataset import NamedPhoto, random_crop
from r1jax.degradations.synth import synthesise
from r1jax.errors import ImageError, R1JaxError, UsageError
from r1jax.images.io import read_image


def test_shipped_photos():
    train, test = load_photos("builtin:train"), load_photos("builtin:test")
    assert len(train) == len(test) == 12
    assert not {photo.name for photo in train} & {photo.name for photo in test}
    with pytest.raises(UsageError, match="builtin:train"):
        load_photos("builtin:valid")
    with pytest.raises(UsageError, match="no such folder"):
        load_photos("/nowhere")


def test_batches_depend_on_seed_and_step_alone():
    data = TrainingData(load_photos("builtin:train"), parse_mixes("A"), 32)
    first, again, other = data.batch(0, 3, 4), data.batch(0, 3, 4), data.batch(0, 4, 4)
    np.testing.assert_array_equal(first.degraded, again.degraded)
    assert first.degraded.shape == (4, 32, 32, 3) and first.degraded.dtype == np.float32
    assert (first.degraded != other.degraded).any() and not set(first.ids) & set(other.ids)


def test_clean_share():
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for share, same in ((1.0, True), (0.0, False)):
        data = TrainingData([NamedPhoto("photo", photo)], parse_mixes("noise"), 16, clean_share=share)
        images = np.round(data.batch(0, 0, 4).degraded * 255)
        clean = [(image == photo).all() or (image == photo[:, ::-1]).all() for image in images]
        assert clean == [same] * 4


def test_small_photos_are_mirrored():
    small = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert random_crop(small, 9, np.random.default_rng(0)).shape == (9, 9, 3)


def test_benchmark_uses_one_crop_of_a_photo():
    photos = load_photos("builtin:test")
    benchmark = build_benchmark(photos, parse_mixes("rain+haze,noise+jpeg"), 32, 0, per_mix=3)
    assert len(benchmark) == 6 and benchmark.mix[0] == "rain+haze"
    np.testing.assert_array_equal(benchmark.clean[:3], benchmark.clean[3:])
    assert benchmark.photo[:3] == benchmark.photo[3:]


def test_synth_writes_images_and_records(tmp_path):
    out = tmp_path / "set"
    assert synthesise("builtin:test", out, "jpeg,motion_blur+noise", seed=1) == 24
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert len(records) == 24 and len(list((out / "motion_blur+noise").glob("*.png"))) == 12
    record = records[0]
    record_seed = next(row["seed"] for row in records if row["mix"] == "motion blur+noise")
    image = read_image(out / record["mix"].replace(" ", "_") / f"{record['photo']}.png").pixels
    clean = read_image(out / "clean" / f"{record['photo']}.png").pixels
    from r1jax.degradations.mixes import _sha

    assert (_sha(image), _sha(clean)) == (record["sha256_out"], record["sha256_in"])
    with pytest.raises(UsageError, match="--overwrite"):
        synthesise("builtin:test", out, "jpeg")
    synthesise("builtin:test", out, "jpeg,noise", seed=2, overwrite=True)
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [(row["mix"], row["seed"]) for row in records].count(("motion blur+noise", record_seed)) == 1
    assert {row["mix"] for row in records} == {"jpeg", "noise", "motion blur+noise"} and len(records) == 36
    with pytest.raises(R1JaxError, match="cannot be made"):
        synthesise("builtin:test", out / "records.jsonl" / "x", "jpeg")
    with pytest.raises(ImageError, match="depth map"):
        synthesise("builtin:test", tmp_path / "b", "haze", depth_folder=str(tmp_path))
    assert not (tmp_path / "b").exists()
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("one.png", "one.bmp"):
        shutil.copy(out / "clean" / sorted(path.name for path in (out / "clean").iterdir())[0], photos / name)
    with pytest.raises(UsageError, match="two photos are called one"):
        synthesise(str(photos), tmp_path / "c", "haze")
    (photos / "one.bmp").unlink()
    assert synthesise(str(photos), tmp_path / "c", "haze,haze") == 1
    (tmp_path / "c" / "records.jsonl").unlink()
    with pytest.raises(UsageError, match=r"one\.png: is there already; --overwrite"):
        synthesise(str(photos), tmp_path / "c", "haze")
    with pytest.raises(UsageError, match="clean: its photos would be written over"):
        synthesise(str(tmp_path / "c" / "clean"), tmp_path / "c", "jpeg", overwrite=True)
    assert not (tmp_path / "c" / "jpeg").exists()
