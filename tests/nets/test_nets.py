"""Every network: shape, odd sizes, jit equal to no jit, and a start that changes nothing where it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r1jax.errors import UsageError
from r1jax.nets import create
from r1jax.nets.layers import pad_to_multiple, pixel_shuffle, pixel_unshuffle
from r1jax.nets.quality_net import expected_score

RESTORERS = {
    "unet": {"widths": (8, 12), "depths": (1, 1)},
    "haze_net": {"width": 8},
    "curve_net": {"width": 8, "knots": 4},
    "blind_ffdnet": {"nc": 8, "nb": 3, "width": 8},
}


def image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


@pytest.mark.parametrize("name", RESTORERS)
@pytest.mark.parametrize("size", [(32, 48), (21, 35)])
def test_restorers_keep_any_size(name, size):
    net = create(name, **RESTORERS[name])
    graph, params = nnx.split(net)
    x = image(2, *size, 3)
    y = jax.jit(lambda p, x: nnx.merge(graph, p)(x))(params, x)
    assert y.shape == x.shape and np.isfinite(y).all()
    np.testing.assert_allclose(y, net(x), atol=1e-4)
    np.testing.assert_allclose(net(x[:1]), y[:1], atol=1e-4)


def test_a_new_unet_changes_nothing():
    x = image(1, 16, 16, 3)
    np.testing.assert_allclose(create("unet", widths=(8, 8), depths=(1, 1))(x), x, atol=1e-4)


def test_a_new_super_resolver_is_bicubic():
    from r1jax.images.resize import resize_bicubic

    x = image(1, 9, 10, 3)
    y = create("super_resolver", width=8, depth=1)(x)
    assert y.shape == (1, 36, 40, 3)
    np.testing.assert_allclose(y, resize_bicubic(x, 36, 40), atol=1e-4)


def test_haze_net_is_the_scattering_model_inverted():
    net = create("haze_net", width=8)
    net.transmission.kernel.set_value(jnp.zeros_like(net.transmission.kernel.get_value()))
    net.airlight.kernel.set_value(jnp.zeros_like(net.airlight.kernel.get_value()))
    t, airlight = 0.08 + 0.94 / (1 + np.exp(-3)), 0.85
    clean = image(1, 16, 16, 3)
    np.testing.assert_allclose(net(clean * t + airlight * (1 - t)), clean, atol=1e-4)


def test_curve_net_applies_one_rising_curve():
    net = create("curve_net", width=8, knots=8)
    x = image(1, 32, 32, 3)
    before, after = np.asarray(x.max(-1)).ravel(), np.asarray(net(x).max(-1)).ravel()
    order = np.argsort(before)
    assert (np.diff(after[order]) >= -1e-5).all()


def test_quality_net():
    net = create("quality_net", hidden=16, width=8, num_experts=3)
    x = image(3, 33, 40, 3)
    score = net(x)
    assert score.shape == (3,) and ((score >= 1) & (score <= 5)).all()
    np.testing.assert_allclose(score, expected_score(net.level_logits(x)), atol=1e-5)
    assert net.features(x).shape == (3, 8 + 5 + 8 + 3)
    np.testing.assert_allclose(net(x[1:2]), score[1:2], atol=1e-4)


def test_expected_score():
    logits = jnp.array([[100.0, 0, 0, 0, 0], [0, 0, 0, 0, 100.0], [0, 0, 0, 0, 0]])
    np.testing.assert_allclose(expected_score(logits), [5, 1, 3], atol=1e-5)


def test_pixel_shuffle_order_is_torchs():
    x = jnp.arange(2 * 2 * 3, dtype=jnp.float32).reshape(1, 2, 2, 3)
    packed = pixel_unshuffle(x, 2)
    # channel (c, ry, rx): first channel's four pixels come first
    np.testing.assert_array_equal(packed[0, 0, 0], [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11])
    np.testing.assert_array_equal(pixel_shuffle(packed, 2), x)


def test_padding_mirrors():
    x = image(1, 5, 6, 3)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(padded[:, 5], padded[:, 4])
    assert pad_to_multiple(x[:, :4, :4], 4).shape == (1, 4, 4, 3)


def test_an_unknown_network_is_named():
    with pytest.raises(UsageError, match="did you mean 'unet'"):
        create("unett")
