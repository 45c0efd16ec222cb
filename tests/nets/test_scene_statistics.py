"""The statistics that the quality network sees."""

import jax
import numpy as np
import pytest

from r1jax.degradations.mixes import degrade
from r1jax.images.convert import to_float
from r1jax.nets.scene_statistics import NUM_STATISTICS, _means_over_offsets, _offsets, _phases, scene_statistics

STATISTICS = jax.jit(scene_statistics)


def photo(height: int = 96, width: int = 128) -> np.ndarray:
    """Edges and texture, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    plane = 120 + 60 * np.sign(np.sin(x / 9 + y / 17)) + 20 * np.sin(x / 2.3) * np.cos(y / 3.1)
    return np.clip(plane[..., None] + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def statistics(image: np.ndarray) -> np.ndarray:
    return np.asarray(STATISTICS(to_float(image)[None]))[0]


@pytest.mark.parametrize("size", [(1, 1), (7, 200), (64, 64), (65, 79), (128, 96)])
def test_any_size_gives_as_many(size):
    found = statistics(photo(*size))
    assert found.shape == (NUM_STATISTICS,)
    assert np.isfinite(found).all() and np.abs(found).max() < 30


def test_images_of_a_batch_do_not_see_each_other():
    images = to_float(np.stack([photo(), degrade(photo(), ("noise",), 0).image, degrade(photo(), ("dark",), 0).image]))
    together = np.asarray(STATISTICS(images))
    np.testing.assert_allclose(together, np.concatenate([STATISTICS(image[None]) for image in images]), atol=1e-4)


def test_a_grid_of_blocks_sticks_out():
    """The steps between neighbours at eight phases are nearly alike in a photo, and not after JPEG."""
    phases = jax.jit(lambda x: _phases(255 * x @ np.array([0.299, 0.587, 0.114])))
    smooth = np.asarray(jax.image.resize(photo(12, 16).astype(np.float32), (96, 128, 3), "cubic")).clip(0, 255)
    smooth = smooth.astype(np.uint8)
    clean, coded = (np.asarray(phases(to_float(x)[None]))[0, :8] for x in (smooth, degrade(smooth, ("jpeg",), 0).image))
    assert np.ptp(coded) > 2 * np.ptp(clean)
    assert coded.argmax() == 7


def test_means_over_offsets():
    plane = np.random.default_rng(0).integers(0, 256, (2, 40, 33)).astype(np.float32)
    found = np.asarray(jax.jit(lambda p: _means_over_offsets(lambda a, b: (a - b) ** 2, p))(plane))
    assert found.shape == (2, 8, 8)
    # Fifteen pixels along the first of eight directions of a half circle, and three along the sixth, which goes left.
    np.testing.assert_allclose(found[:, 7, 0], np.mean((plane[:, :, :-15] - plane[:, :, 15:]) ** 2, (1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[:, 2, 5], np.mean((plane[:, :-3, 1:] - plane[:, 3:, :-1]) ** 2, (1, 2)), rtol=1e-5)


def test_a_motion_blur_correlates_the_laplacian_along_its_direction():
    """Along the blur the largest correlation at a lag of three pixels is higher than without it."""

    def largest(image: np.ndarray) -> float:
        plane = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        found = np.asarray(_offsets(plane[None]))[0]
        grid = 8 * 8
        return float(found[grid + 3 * 8 :][:grid].reshape(8, 8)[2].max())

    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (96, 128, 3)).astype(np.uint8)
    assert largest(degrade(noise, ("motion blur",), 0).image) > 3 * largest(noise)


def test_it_sees_every_degradation():
    clean = statistics(photo())
    for key in ("low resolution", "noise", "jpeg", "dark", "haze", "motion blur", "defocus blur", "rain"):
        assert np.abs(statistics(degrade(photo(), (key,), 1).image) - clean).max() > 0.3, key
