"""The eight operations against what the protocol says of them."""

import cv2
import numpy as np
import pytest

from r1jax.degradations import GROUPS, MIXES, OPERATIONS, degrade, parse_mixes, training_mixes
from r1jax.degradations.depth import read_depth, synthetic_depth
from r1jax.degradations.operations import compress_jpeg, disk_kernel, motion_kernel
from r1jax.errors import ImageError, UsageError
from r1jax.images.resize import resize_bicubic


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(0)
    smooth = resize_bicubic(rng.random((8, 10, 3)).astype(np.float32), 64, 80)
    return np.rint(np.clip(smooth, 0, 1) * 255).astype(np.uint8)


def drawn(photo, key, seeds=60):
    return [degrade(photo, (key,), seed).record["steps"][0] for seed in range(seeds)]


def test_groups_are_the_benchmarks():
    assert [len(GROUPS[group]) for group in "ABC"] == [8, 4, 4]
    assert len(set(MIXES)) == 16
    assert {key for mix in MIXES for key in mix} == set(OPERATIONS)


def test_every_mix_keeps_size_and_repeats_for_a_seed(photo):
    for mix in MIXES:
        first, again, other = (degrade(photo, mix, seed) for seed in (1, 1, 2))
        assert first.image.shape == photo.shape and first.image.dtype == np.uint8
        np.testing.assert_array_equal(first.image, again.image)
        assert first.record == again.record
        assert (first.image != other.image).any()
        assert [step["operation"] for step in first.record["steps"]] == list(mix)


def test_an_operation_draws_the_same_whatever_stands_before_it(photo):
    alone = degrade(photo, ("jpeg",), 5).record["steps"][0]
    assert degrade(photo, ("noise", "jpeg"), 5).record["steps"][1] == alone


def test_noise_is_gaussian_or_poisson_of_the_protocols_strength():
    grey = np.full((64, 64, 3), 128, np.uint8)
    for seed in range(30):
        result = degrade(grey, ("noise",), seed)
        step, spread = result.record["steps"][0], result.image.astype(float).std()
        if step["kind"] == "gaussian":
            assert 20 <= step["sigma"] <= 50
            assert spread == pytest.approx(step["sigma"], rel=0.05)
        else:  # one grey level: v = 1, so a pixel is 0 or 255 before scaling
            assert 1 <= step["scale"] <= 3 and step["levels"] == 1
    kinds = [step["kind"] for step in drawn(grey, "noise")]
    assert 15 < kinds.count("gaussian") < 45


def test_poisson_variance(photo):
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    seed = next(s for s in range(50) if degrade(ramp, ("noise",), s).record["steps"][0]["kind"] == "poisson")
    result = degrade(ramp, ("noise",), seed)
    scale = result.record["steps"][0]["scale"]
    column = result.image[:, 100].astype(float)
    assert column.std() == pytest.approx(255 * scale * np.sqrt(100 / 255 / 256), rel=0.1)


def test_jpeg_qualities(photo):
    qualities = {step["quality"] for step in drawn(photo, "jpeg", 100)}
    assert qualities <= set(range(10, 30)) and {min(qualities), max(qualities)} <= {10, 11, 28, 29}
    errors = [np.abs(compress_jpeg(photo, q).astype(int) - photo).mean() for q in (10, 90)]
    assert errors[0] > errors[1]


def test_dark_changes_v_alone(photo):
    for seed in range(12):
        result = degrade(photo, ("dark",), seed)
        step = result.record["steps"][0]
        before, after = (cv2.cvtColor(x, cv2.COLOR_RGB2HSV)[..., 2].astype(float) for x in (photo, result.image))
        expected = {
            "shift": np.clip(before - step["value"], 0, 255),
            "gamma": 255 * (before / 255) ** (1 / step["value"]),
            "range": (before - before.min()) / np.ptp(before) * step["value"],
        }[step["kind"]]
        np.testing.assert_allclose(after, expected, atol=0.51)
    assert {step["kind"] for step in drawn(photo, "dark")} == {"shift", "gamma", "range"}


def test_haze_is_the_scattering_model(photo):
    depth = np.linspace(0.2, 1, photo.shape[0])[:, None] * np.ones(photo.shape[:2])
    result = degrade(photo, ("haze",), 3, depth)
    step = result.record["steps"][0]
    t = np.exp(-step["density"] * depth)[..., None]
    np.testing.assert_allclose(result.image, photo * t + 255 * step["airlight"] * (1 - t), atol=0.51)
    assert 0.7 <= step["airlight"] <= 1 and 0.6 <= step["density"] <= 1.8


def test_motion_blur_smears_one_way():
    kernel = motion_kernel(10, 3, 0.0)
    centre = kernel.shape[0] // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    row = kernel[centre]
    expected = np.exp(-(np.arange(21) ** 2) / 18)
    np.testing.assert_allclose(row[centre : centre + 21], expected / expected.sum(), rtol=1e-5)
    assert row[:centre].sum() == 0
    down = motion_kernel(10, 3, 89.9)
    np.testing.assert_allclose(down[centre:, centre], row[centre:], rtol=1e-5)


def test_disk_kernels():
    for radius, alias in ((3, 0.1), (4, 0.5), (6, 0.5)):
        kernel = disk_kernel(radius, alias)
        assert kernel.shape == (17, 17) and kernel.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(kernel, kernel[::-1].T, atol=1e-7)
        assert kernel[8, 8 - radius] > 0 and kernel[8, 8 - radius - 2] == 0


def test_rain_only_adds(photo):
    result = degrade(photo, ("rain",), 4)
    assert (result.image >= photo).all() and (result.image > photo).any()
    step = result.record["steps"][0]
    assert 20 <= step["length"] < 40 and -30 <= step["angle"] < 30 and 50 <= step["value"] < 100


def test_low_resolution_is_bicubic_by_four(photo):
    image = photo.astype(np.float32)
    small = np.rint(np.clip(resize_bicubic(image, 16, 20), 0, 255))
    back = np.rint(np.clip(resize_bicubic(small.astype(np.float32), 64, 80), 0, 255))
    np.testing.assert_allclose(degrade(photo, ("low resolution",), 0).image, back, atol=1)
    odd = degrade(photo[:61, :78], ("low resolution",), 0).image
    assert odd.shape == (61, 78, 3)


def test_depth(photo, tmp_path):
    depth = synthetic_depth(photo)
    assert depth.shape == photo.shape[:2] and depth.max() == pytest.approx(1) and depth.min() > 0
    np.testing.assert_array_equal(depth, synthetic_depth(photo.copy()))
    assert depth[:8].mean() > depth[-8:].mean()
    path = tmp_path / "depth.png"
    cv2.imwrite(str(path), np.rint(depth * 65535).astype(np.uint16))
    np.testing.assert_allclose(read_depth(path, photo.shape[:2]), depth, atol=1e-3)
    (tmp_path / "none.png").write_text("no image")
    with pytest.raises(ImageError, match=r"none\.png"):
        read_depth(tmp_path / "none.png", (8, 8))


def test_parsing_of_mixes():
    assert parse_mixes("A") == GROUPS["A"]
    assert parse_mixes("rain+haze, motion_blur") == (("rain", "haze"), ("motion blur",))
    assert len(parse_mixes("all")) == 16
    with pytest.raises(UsageError, match="did you mean 'noise'"):
        parse_mixes("noisy")
    with pytest.raises(UsageError, match="empty"):
        parse_mixes(" ,")


def test_wide_mixes_hold_no_mix_that_is_kept_for_evaluation():
    wide = [frozenset(mix) for mix in GROUPS["wide"]]
    assert len(wide) == len(set(wide)) == 8 + 16 + 28
    held_out = [frozenset(mix) for mix in GROUPS["B"] + GROUPS["C"]]
    assert not any(held <= mix for held in held_out for mix in wide)
    assert not {frozenset(mix) for mix in GROUPS["A"]} & set(wide)


def test_extra_mixes_are_half_of_the_training():
    assert training_mixes("A", "") == GROUPS["A"]
    mixes = training_mixes("A", "wide")
    assert sum(mix in GROUPS["A"] for mix in mixes) == 48 and len(mixes) == 100
    assert training_mixes("A", "noise") == GROUPS["A"] + (("noise",),) * 8
