"""The lite networks: shape, odd sizes, and a start that changes nothing where it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r1jax.errors import UsageError
from r1jax.nets import create
from r1jax.nets.layers import pad_to_multiple, pixel_shuffle, pixel_unshuffle
from r1jax.nets.quality_net import expected_score
from r1jax.nets.scene_statistics import NUM_STATISTICS

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
    apply = jax.jit(lambda p, x: nnx.merge(graph, p)(x))
    y = apply(params, x)
    assert y.shape == x.shape and np.isfinite(y).all()
    np.testing.assert_allclose(apply(params, x[:1]), y[:1], atol=1e-4)


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
    score, logits, features = jax.jit(lambda x: (net(x), net.level_logits(x), net.features(x)))(x)
    assert score.shape == (3,) and ((score >= 1) & (score <= 5)).all()
    np.testing.assert_allclose(score, expected_score(logits), atol=1e-5)
    assert features.shape == (3, 8 + 5 + 8 + 3)
    np.testing.assert_allclose(jax.jit(net)(x[1:2]), score[1:2], atol=1e-4)


def test_quality_net_looks_at_stages_of_an_imagenet_network():
    net = create("quality_net", hidden=16, width=8, num_experts=3, num_stages=2)
    x = image(2, 72, 64, 3)
    statistics, last, score = jax.jit(lambda x: (net.statistics(x), net.trunk.stages(x)[-1], net(x)))(x)
    assert statistics.shape == (2, net.num_statistics) == (2, NUM_STATISTICS + 2 * (32 + 16 + 24))
    np.testing.assert_allclose(statistics[:, -48:], np.concatenate([last.mean((1, 2)), last.std((1, 2))], -1), atol=1e-4)
    assert score.shape == (2,)


def test_heads_after_are_the_heads_of_changed_statistics():
    net = create("quality_net", hidden=16, width=8, num_experts=3)
    rng = np.random.default_rng(0)
    x, basis = rng.normal(size=(2, NUM_STATISTICS)), rng.normal(size=(4, NUM_STATISTICS))
    change = rng.normal(size=(2, 5, 4)) / 10
    found, wanted = net.heads_after(x, change, basis), net.heads(x[:, None] + change @ basis)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape[:2] == (2, 5)
        np.testing.assert_allclose(a, b, atol=2e-3)


def test_foresight_net_of_members_that_foresee_nothing():
    quality = create("quality_net", hidden=16, width=8, num_experts=3)
    seen = 8 + 5 + 8 + 3 + NUM_STATISTICS
    sizes = {"num_inputs": seen, "num_statistics": NUM_STATISTICS}
    net = create("foresight_net", num_tools=2, **sizes, rank=4, hidden=8, width=8, num_members=2)
    statistics = np.random.default_rng(0).normal(size=(3, NUM_STATISTICS)).astype(np.float32)
    features = net(quality, statistics)
    assert features.shape == (3, 5 + 2 + 2 + 4)
    np.testing.assert_allclose(features[:, :5], quality.heads(statistics).levels, atol=1e-5)
    assert np.ptp(net.by_member(quality, statistics)[:, 0, 5:], axis=0).min() > 0  # the members differ
    for name in ("kernel_gain", "kernel_change"):
        getattr(net, name).set_value(0 * getattr(net, name)[...])
    np.testing.assert_allclose(net(quality, statistics)[:, 5:], 0, atol=1e-5)


def test_foresight_net_imagines_the_second_call_after_the_first():
    quality = create("quality_net", hidden=16, width=8, num_experts=3)
    seen = 8 + 5 + 8 + 3 + NUM_STATISTICS
    sizes = {"num_inputs": seen, "num_statistics": NUM_STATISTICS}
    net = create("foresight_net", num_tools=2, **sizes, rank=4, hidden=8, width=8, num_members=1)
    rng = np.random.default_rng(0)
    net.basis.set_value(jnp.asarray(rng.normal(size=(4, NUM_STATISTICS)), jnp.float32))
    statistics = jnp.asarray(rng.normal(size=(1, NUM_STATISTICS)), jnp.float32)
    (member,) = [{name: x[0] for name, x in net.members().items()}]
    change = net.imagine(member, quality, quality.heads(statistics), statistics).change
    after_second = statistics + change[:, 1] @ net.basis[...]
    second = net(quality, statistics)[0, 9:].reshape(2, 2)[1]
    np.testing.assert_allclose(second, net(quality, after_second)[0, 5:7], atol=1e-3)


def test_foresight_net_imagines_the_tools_that_are_asked_for():
    quality = create("quality_net", hidden=16, width=8, num_experts=3)
    sizes = {"num_inputs": 8 + 5 + 8 + 3 + NUM_STATISTICS, "num_statistics": NUM_STATISTICS}
    net = create("foresight_net", num_tools=3, **sizes, rank=4, hidden=8, width=8, num_members=1)
    net.basis.set_value(jnp.asarray(np.random.default_rng(0).normal(size=(4, NUM_STATISTICS)), jnp.float32))
    statistics = jnp.asarray(np.random.default_rng(1).normal(size=(2, NUM_STATISTICS)), jnp.float32)
    (member,) = [{name: x[0] for name, x in net.members().items()}]
    every = net.imagine(member, quality, quality.heads(statistics), statistics)
    asked = net.imagine(member, quality, quality.heads(statistics), statistics, jnp.array([[2, 0], [1, 1]]))
    for found, whole in zip((asked.change, asked.gain), (every.change, every.gain), strict=True):
        np.testing.assert_allclose(found, jnp.stack([whole[0, jnp.array([2, 0])], whole[1, jnp.array([1, 1])]]), atol=1e-5)


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
