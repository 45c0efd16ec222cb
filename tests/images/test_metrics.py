"""PSNR and SSIM against scikit-image's and against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data, metrics

from r1jax.images.metrics import luma, psnr, psnr_y, ssim, ssim_y


@pytest.fixture(scope="module")
def pair():
    """A photo in two crops, and both with noise."""
    photo = data.astronaut().astype(np.float32) / 255
    clean = np.stack([photo[60:108, 200:260], photo[300:348, 100:160]])
    noise = np.random.default_rng(0).normal(0, 0.08, clean.shape)
    return clean, np.clip(clean + noise, 0, 1).astype(np.float32)


def skimage_ssim(a, b, channel_axis=-1):
    """scikit-image's SSIM by the original paper, averaged over the valid region as it does by default."""
    return metrics.structural_similarity(
        a.astype(np.float64), b.astype(np.float64), channel_axis=channel_axis, data_range=1,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip


def test_ssim_equals_scikit_image(pair):
    wanted = [skimage_ssim(a, b) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(ssim(*pair), wanted, atol=2e-6)
    assert wanted[0] != pytest.approx(wanted[1], abs=1e-2)  # or a swapped batch would pass


def test_psnr_equals_scikit_image(pair):
    wanted = [metrics.peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(*pair, strict=True)]
    np.testing.assert_allclose(psnr(*pair), wanted, atol=1e-3)


def test_luma_metrics_equal_scikit_image_on_rgb2ycbcr(pair):
    from skimage.color import rgb2ycbcr  # MATLAB's formula, in 16..235

    planes = [rgb2ycbcr(images.astype(np.float64))[..., 0] / 255 for images in pair]
    np.testing.assert_allclose(luma(pair[0])[..., 0], planes[0], atol=1e-6)
    wanted = [skimage_ssim(a, b, channel_axis=None) for a, b in zip(*planes, strict=True)]
    np.testing.assert_allclose(ssim_y(*pair), wanted, atol=2e-6)
    wanted = [metrics.peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(*planes, strict=True)]
    np.testing.assert_allclose(psnr_y(*pair), wanted, atol=1e-3)


def test_values_known_by_hand():
    black, grey = jnp.zeros((1, 12, 12, 3)), jnp.full((1, 12, 12, 3), 0.1)
    np.testing.assert_allclose(psnr(black, grey), [20.0], atol=1e-4)
    np.testing.assert_allclose(psnr(grey, grey), [80.0], atol=1e-4)
    np.testing.assert_allclose(ssim(grey, grey), [1.0], atol=1e-6)
    np.testing.assert_allclose(ssim(black, grey), [1e-4 / (0.01 + 1e-4)], atol=1e-6)  # luminance only
    np.testing.assert_allclose(luma(jnp.ones((1, 1, 1, 3))), [[[[235 / 255]]]], atol=1e-6)
    np.testing.assert_allclose(luma(jnp.zeros((1, 1, 1, 3))), [[[[16 / 255]]]], atol=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim, psnr_y, ssim_y])
def test_jitted_equals_not_jitted_with_one_trace(metric, pair):
    traces = []

    @jax.jit
    def traced(a, b):
        traces.append(1)
        return metric(a, b)

    for _ in range(2):
        np.testing.assert_allclose(traced(*pair), metric(*pair), atol=1e-5)
    assert len(traces) == 1


def test_wrong_arguments_are_refused(pair):
    clean, _ = pair
    with pytest.raises(ValueError, match="one shape"):
        psnr(clean, clean[:1])
    with pytest.raises(ValueError, match="batches"):
        psnr(clean[0], clean[0])
    with pytest.raises(ValueError, match="uint8"):
        psnr(clean, (255 * clean).astype(np.uint8))
    with pytest.raises(ValueError, match="at least 11 pixels, got 10 x 48"):
        ssim(clean[:, :10, :48], clean[:, :10, :48])
