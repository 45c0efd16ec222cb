"""The classical tools against OpenCV's float HSV and 8-bit CLAHE."""

import cv2
import jax
import numpy as np
import pytest

from r1jax.tools import toolbox
from r1jax.tools.classical import clahe, equalise


def _photo(height=40, width=56, seed=0):
    """A smooth random image with black, grey and saturated pixels, exact in 8 bits."""
    key = np.random.default_rng(seed)
    coarse = key.random((5, 7, 3), dtype=np.float32) * key.random((5, 7, 1), dtype=np.float32)
    image = np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    image[:3, :3], image[-3:, -3:], image[:3, -3:] = 0.0, 0.5, (1.0, 0.0, 0.2)
    return np.round(image * 255).astype(np.float32) / 255


def _with_value(image, curve):
    """OpenCV's float HSV round trip with V replaced."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = curve(hsv[..., 2])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _equalised(levels):
    return cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(levels)


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("brighten_shift", lambda v: np.minimum(v + 40 / 255, 1)),
        ("brighten_gamma", lambda v: v ** (1 / 1.5)),
        ("clahe", lambda v: _equalised(np.round(v * 255).astype(np.uint8)).astype(np.float32) / 255),
    ],
)
def test_matches_opencv(name, curve):
    photos = np.stack([_photo(seed=0), _photo(seed=1)])
    restored = np.asarray(jax.jit(lambda x: toolbox(name).apply(0, x))(photos))
    expected = np.stack([_with_value(photo, curve) for photo in photos])
    # One V level of CLAHE may round the other way.
    tolerance = 1.01 / 255 if name == "clahe" else 1e-5
    np.testing.assert_allclose(restored, expected, atol=tolerance)
    assert np.mean(restored) > np.mean(photos) + 0.02


SIZES = [(8, 8), (9, 8), (11, 30), (64, 64), (65, 128), (100, 75), (3, 20), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_clahe_levels_match_opencv_at_any_size(size):
    value = np.stack([_photo(*size, seed=seed).max(-1) for seed in range(3)])
    levels = np.round(value * 255).astype(np.uint8)
    ours = np.asarray(jax.jit(equalise)(levels.astype(np.int32)))
    expected = np.stack([_equalised(image) for image in levels]).astype(int)
    assert np.abs(ours - expected).max() <= 1
    assert np.mean(ours != expected) < 0.01


def test_clahe_clips_a_flat_image():
    """Without the clip a flat image would turn white; with it every level moves little."""
    flat = np.full((1, 64, 64), 60, np.uint8)
    ours = np.asarray(jax.jit(equalise)(flat.astype(np.int32)))
    np.testing.assert_array_equal(ours[0], _equalised(flat[0]))


def test_clahe_treats_each_image_alone():
    photos = np.stack([_photo(seed=seed) for seed in range(3)])
    alone = np.concatenate([np.asarray(jax.jit(clahe)(photo[None])) for photo in photos])
    np.testing.assert_array_equal(np.asarray(jax.jit(clahe)(photos)), alone)


def test_toolbox_order():
    assert toolbox("classical").names == ("brighten_shift", "brighten_gamma", "clahe")
