"""Encoders: the registry, and the weightless pixel statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.agent.encoder import NUM_PIXEL_STATISTICS, Encoder, encoder, pixel_statistics, register_encoder
from r1jax.degradations.dataset import load_photos
from r1jax.degradations.mixes import degrade
from r1jax.errors import R1JaxError, UsageError
from r1jax.images.convert import to_float, to_uint8
from r1jax.reward.lite import lite_scorer
from r1jax.tools import toolbox
from r1jax.tools.lite import LITE_TOOLS
from r1jax.weights import load_module, weight_file
from r1jax.weights.cache import pull
from r1jax.weights.catalogue import entries

STATISTICS = jax.jit(pixel_statistics)


def photo(side=48):
    """A smooth picture with some edges."""
    y, x = np.mgrid[:side, :side] / side
    red = 0.5 + 0.3 * np.sin(6 * x) * np.cos(5 * y)
    return np.stack([red, 0.2 + 0.6 * (x > y), 0.4 + 0.2 * y], -1).astype(np.float32)[None]


def test_unknown_encoder_lists_the_known():
    with pytest.raises(UsageError, match=r"no encoder 'clip'; there are .*lite_scorer, .*pixels"):
        encoder("clip")


def test_a_factory_can_be_registered():
    @register_encoder("test_mean")
    def factory():
        return Encoder("test_mean", lambda params, image: params * jnp.mean(image, (1, 2)), jnp.float32(2), 3)

    built = encoder("test_mean")
    np.testing.assert_allclose(built.apply(built.params, photo())[0], 2 * photo().mean((0, 1, 2)), rtol=1e-4)


def test_lite_scorer_tells_a_photo_from_its_degraded_versions():
    built = encoder("lite_scorer")
    batch = np.concatenate([photo(), *map(degraded, ("dark", "noise", "blur"))])
    features = np.asarray(jax.jit(built.apply)(built.params, batch))
    assert features.shape == (4, built.num_features)
    assert np.isfinite(features).all()
    assert (np.abs(features[1:] - features[0]).max(axis=1) > 0.01).all()


def test_lite_statistics_are_the_scorers_features_and_more():
    small, large = encoder("lite_scorer"), encoder("lite_statistics")
    module, _ = load_module(weight_file("scorer"))
    features = jax.jit(large.apply)(large.params, photo())
    assert features.shape == (1, large.num_features) == (1, small.num_features + module.num_statistics)
    np.testing.assert_allclose(features[:, : small.num_features], jax.jit(small.apply)(small.params, photo()), atol=1e-4)
    assert large.version == small.version


def test_imagenet_features_want_their_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("R1JAX_CACHE", str(tmp_path))
    with pytest.raises(R1JaxError, match="r1jax weights pull efficientnet-lite0"):
        encoder("efficientnet_lite0")


@pytest.mark.slow
def test_imagenet_features():
    pull(*entries(["efficientnet-lite0"]))
    built = encoder("efficientnet_lite0")
    features = jax.jit(built.apply)(built.params, photo())
    assert features.shape == (1, built.num_features) == (1, 1280)


def test_lite_foresight_foresees_what_tools_gain():
    tools, photos = ("denoise", "brighten"), load_photos("builtin:test")[:6]
    mixes = [("noise",), ("dark",), ("dark", "noise")]
    images = np.stack([degrade(p.pixels[:96, :96], mix, 1).image for p in photos for mix in mixes])
    built, score, box = encoder("lite_foresight"), lite_scorer().score, toolbox(tools)
    features = np.asarray(jax.jit(built.apply)(built.params, to_float(images)))
    assert features.shape == (len(images), built.num_features)
    foreseen = features[:, [5 + list(LITE_TOOLS).index(name) for name in tools]]
    restored = [np.asarray(jax.jit(tool.apply)(tool.params, to_float(images))) for tool in box.tools]
    gains = np.stack([score(to_uint8(x)) - score(images) for x in restored], 1)
    assert np.corrcoef(foreseen.ravel(), gains.ravel())[0, 1] > 0.8
    assert np.mean(foreseen.argmax(1) == gains.argmax(1)) > 0.8


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (17, 9), (48, 48)])
def test_pixel_statistics_of_any_size(size):
    image = np.random.default_rng(0).random((2, *size, 3)).astype(np.float32)
    features = STATISTICS(image)
    assert features.shape == (2, NUM_PIXEL_STATISTICS) == (2, encoder("pixels").num_features)
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 2


def test_first_statistics_are_the_colours_of_a_grid():
    image = photo()
    cells = image.reshape(1, 3, 16, 3, 16, 3).mean((2, 4)).reshape(-1)
    np.testing.assert_allclose(STATISTICS(image)[0, :27], cells, atol=1e-5)


def test_histogram_sums_to_the_share_of_mid_tones():
    flat = np.full((1, 8, 8, 3), 0.5, np.float32)
    histogram = np.asarray(STATISTICS(flat))[0, 32:40]
    np.testing.assert_allclose(histogram, [0, 0, 0, 0.5, 0.5, 0, 0, 0], atol=1e-5)


def test_statistics_do_not_depend_on_the_size():
    small, large = photo(48), np.repeat(np.repeat(photo(48), 2, 1), 2, 2)
    np.testing.assert_allclose(STATISTICS(small)[0, :40], STATISTICS(large)[0, :40], atol=1e-4)


def degraded(name):
    rng = np.random.default_rng(1)
    clean = photo()
    if name == "dark":
        return clean * 0.3
    if name == "noise":
        return np.clip(clean + rng.normal(0, 0.1, clean.shape).astype(np.float32), 0, 1)
    if name == "haze":
        return clean * 0.4 + 0.55
    if name == "blur":
        return np.mean([np.roll(clean, shift, 2) for shift in range(9)], axis=0)
    blocks = clean.reshape(1, 6, 8, 6, 8, 3).mean((2, 4), keepdims=True)
    return np.broadcast_to(blocks, (1, 6, 8, 6, 8, 3)).reshape(clean.shape)


@pytest.mark.parametrize(
    "name, index, sign",
    [("dark", slice(0, 27), -1), ("noise", slice(40, 46), 1), ("haze", 30, 1), ("blur", 40, -1), ("blocks", 59, -1)],
)
def test_each_degradation_moves_its_statistic(name, index, sign):
    moved = np.asarray(STATISTICS(degraded(name)) - STATISTICS(photo()))[0, index]
    assert (sign * moved > 0.05).all()


def test_features_of_an_image_do_not_depend_on_its_batch():
    batch = np.concatenate([photo(), degraded("dark"), degraded("noise")])
    np.testing.assert_allclose(STATISTICS(batch)[1], STATISTICS(batch[1:2])[0], atol=1e-5)
