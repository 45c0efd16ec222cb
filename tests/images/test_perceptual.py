"""MS-SSIM, FSIMc and VSI against piq's numbers, kept in tests/goldens, and against what their papers promise."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.images import fsim, ms_ssim, vsi
from r1jax.images.perceptual import _fsim, _vsi
from r1jax.images.phase_congruency import spatial_median

METRICS = {"ms_ssim": jax.jit(ms_ssim), "fsim": jax.jit(fsim), "vsi": jax.jit(vsi)}
GOLDENS = np.load(pathlib.Path(__file__).parent.parent / "goldens" / "perceptual.npz")
CASES = [name.split("/") for name in GOLDENS.files if name.split("/")[-1] in METRICS]


def golden_pair(case):
    """The clean and the degraded images of a case, float; "96x100_times4" repeats each pixel 4 x 4."""
    times = int((re.search(r"_times(\d+)", case) or [1, 1])[1])
    clean, degraded = (GOLDENS[f"{case}/{name}"].astype(np.float32) / 255 for name in ("clean", "degraded"))
    return tuple(x.repeat(times, axis=1).repeat(times, axis=2) for x in (clean, degraded))


def test_goldens_name_their_source_and_cover_all_sizes():
    assert json.loads(str(GOLDENS["meta"]))["piq"] == "0.8.0"
    sizes = {"128x128", "96x160", "97x131", "256x256", "96x100_times4"}
    # 96 pixels are too few for MS-SSIM, there and in piq
    wanted = {(size, name) for size in sizes for name in METRICS} - {("96x160", "ms_ssim")}
    assert {tuple(case) for case in CASES} == wanted


@pytest.mark.parametrize(("case", "name"), CASES)
def test_equals_piq(case, name):
    found, wanted = METRICS[name](*golden_pair(case)), GOLDENS[f"{case}/{name}"]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("name", METRICS)
def test_one_for_equal_images_symmetric_and_falling_with_noise(name):
    clean, _ = golden_pair("128x128")
    noise = np.random.default_rng(0).normal(0, 1, clean.shape).astype(np.float32)
    scores = [METRICS[name](clean, np.clip(clean + s * noise, 0, 1)) for s in (0, 0.02, 0.1, 0.4)]
    np.testing.assert_allclose(scores[0], 1, atol=1e-5)
    assert np.all(np.diff(scores, axis=0) < -1e-4)
    noisy = np.clip(clean + 0.1 * noise, 0, 1)
    np.testing.assert_allclose(METRICS[name](noisy, clean), scores[2], atol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_flat_images_give_numbers(name):
    shade = np.ones((3, 128, 128, 3), np.float32)
    others = shade * np.array([0, 0.25, 1], np.float32)[:, None, None, None]
    scores = METRICS[name](shade * 0.25, others)
    assert np.all(np.isfinite(scores)) and scores[1] == pytest.approx(1, abs=1e-5)
    assert np.all((scores >= 0) & (scores <= 1 + 1e-5))


@pytest.mark.parametrize(("metric", "batched"), [(fsim, _fsim), (vsi, _vsi)])
def test_batch_at_once_equals_pair_after_pair(metric, batched):
    pair = np.random.default_rng(0).uniform(size=(2, 2, 40, 30, 3)).astype(np.float32)
    at_once = jax.jit(batched)(np.moveaxis(pair, -1, -3))  # as on accelerators
    np.testing.assert_allclose(jax.jit(metric)(*pair), at_once, atol=1e-6)
    assert abs(at_once[0] - at_once[1]) > 1e-4  # or a swapped batch would pass


def test_ms_ssim_of_opposite_images_is_zero():
    checks = np.indices((128, 128)).sum(axis=0)[None, :, :, None] // 8 % 2
    checks = np.broadcast_to(checks, (3, 128, 128, 3)).astype(np.float32)
    np.testing.assert_allclose(METRICS["ms_ssim"](checks, 1 - checks), 0, atol=1e-6)


def test_spatial_median_is_the_lower_median():
    values = np.random.default_rng(0).exponential(size=(2, 3, 5, 6)).astype(np.float32)
    values[0, 0] = 0
    values[1, 1] = np.round(values[1, 1])  # with ties
    wanted = np.sort(values.reshape(2, 3, 30), axis=-1)[..., 14]
    np.testing.assert_array_equal(spatial_median(jnp.asarray(values)), wanted)


@pytest.mark.parametrize(
    ("metric", "shape", "window", "message"),
    [
        (ms_ssim, (1, 96, 160, 3), 7, "at least 97 pixels for a window of 7, got 96 x 160"),
        (ms_ssim, (1, 128, 128, 3), 8, "odd window, got 8"),
        (fsim, (1, 32, 32, 1), None, "RGB images"),
        (vsi, (1, 32, 32, 4), None, "RGB images"),
        (vsi, (32, 32, 3), None, "batches"),
    ],
)
def test_wrong_arguments(metric, shape, window, message):
    images = jnp.zeros(shape)
    arguments = (images, images) if window is None else (images, images, window)
    with pytest.raises(ValueError, match=message):
        metric(*arguments)
