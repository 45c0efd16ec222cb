"""What counts as structure that is kept, and what does not."""

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.degradations import degrade, load_photos
from r1jax.images.convert import to_float
from r1jax.images.fidelity import structure_kept


@pytest.fixture(scope="module")
def photo():
    return to_float(load_photos("builtin:test")[4].pixels[None, :160, :160])


def kept(image, first):
    return float(structure_kept(image, first)[0])


def test_itself_brightness_and_contrast_are_free(photo):
    assert kept(photo, photo) == pytest.approx(1, abs=1e-5)
    assert kept(0.4 * photo + 0.3, photo) > 0.95


def test_more_change_keeps_less(photo):
    rng = np.random.default_rng(0)
    noisy = [np.clip(photo + rng.normal(0, sigma, photo.shape), 0, 1).astype(np.float32) for sigma in (0.02, 0.08, 0.3)]
    values = [kept(image, photo) for image in noisy]
    assert 1 > values[0] > values[1] > values[2] > -1
    other = to_float(load_photos("builtin:test")[5].pixels[None, :160, :160])
    assert kept(other, photo) < 0.5
    assert kept(1 - photo, photo) < 0.1


def test_numpy_and_jax_agree_and_odd_sizes_work(photo):
    blurred = to_float(degrade((photo[0] * 255).astype(np.uint8), ("motion blur",), 0).image[None])[:, :61, :45]
    ours = structure_kept(jnp.asarray(blurred), jnp.asarray(photo[:, :61, :45]))
    np.testing.assert_allclose(ours, structure_kept(blurred, photo[:, :61, :45]), atol=1e-5)
