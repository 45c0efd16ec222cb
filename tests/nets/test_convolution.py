import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from r1jax.nets.convolution import convolve
from r1jax.nets.layers import conv, conv3x3, image_by_image


@pytest.mark.parametrize(("size", "stride"), [((8, 6), 1), ((8, 6), 2), ((7, 9), 1), ((7, 9), 2)])
def test_values_and_gradients_are_those_of_lax(size, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (3, *size, 4)), jax.random.normal(keys[1], (3, 3, 4, 5))

    def loss(function, x, kernel):
        y = function(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (y * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum(), y

    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, k, f=f: loss(f, x, k), (0, 1), has_aux=True))(x, kernel)
        for f in (convolve, lax.conv_general_dilated)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_layer_takes_the_fast_gradient():
    graph, state = nnx.split(conv3x3(4, 5, nnx.Rngs(0), stride=2))

    def loss(state):
        return nnx.merge(graph, state)(jnp.ones((2, 8, 8, 4))).sum()

    assert "scan" in str(jax.make_jaxpr(jax.grad(loss))(state))


@pytest.mark.parametrize(
    ("size", "groups", "padding"), [(5, 1, "VALID"), (5, 1, "SAME"), (5, 4, "SAME"), (1, 1, "SAME"), (3, 1, "VALID")]
)
def test_other_kernels_give_what_lax_gives(size, groups, padding):
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], (2, 9, 12, 32)), jax.random.normal(keys[1], (size, size, 32 // groups, 48))
    fixed = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    expected = lax.conv_general_dilated(x, kernel, (1, 1), padding, **fixed)
    ours = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), padding, **fixed))(x, kernel)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("features", [(3, 24), (16, 32), (64, 64)])
@pytest.mark.parametrize("size", [(8, 16), (7, 9)])
def test_both_libraries_give_the_same(features, size):
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], (2, *size, features[0])), jax.random.normal(keys[1], (3, 3, *features))
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    ours = jax.jit(lambda x, kernel: convolve(x, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=numbers))
    np.testing.assert_allclose(ours(x, kernel), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(ours, (0, None))(x[:, None], kernel)[:, 0], expected, rtol=1e-5, atol=1e-4)


def test_a_batch_goes_image_by_image():
    graph, state = nnx.split(conv(3, 4, 3, nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (3, 8, 6, 3))
    whole = nnx.merge(graph, state)(x)
    np.testing.assert_allclose(jax.jit(lambda s, x: image_by_image(nnx.merge(graph, s), x))(state, x), whole, atol=1e-5)
