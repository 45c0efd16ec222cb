import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from r1jax.nets import depthwise as module
from r1jax.nets.depthwise import depthwise


@pytest.mark.parametrize("lowering", ["_shifted", "_convolved"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"), [((9, 12), 3, 1, 2), ((9, 12), 3, 2, 1), ((8, 7), 5, 2, 1)]
)
def test_both_lowerings_are_the_convolution_padded_same(monkeypatch, lowering, size, kernel, stride, dilation):
    monkeypatch.setattr(lax, "platform_dependent", lambda *args, cpu, default: vars(module)[lowering](*args, **cpu.keywords))
    keys = jax.random.split(jax.random.key(0), 2)
    x, weights = jax.random.normal(keys[0], (2, *size, 4)), jax.random.normal(keys[1], (kernel, kernel, 1, 4))
    convolution = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    wanted = convolution(x, weights, (stride, stride), "SAME", rhs_dilation=(dilation, dilation), feature_group_count=4)
    np.testing.assert_allclose(depthwise(x, jnp.asarray(weights), dilation, stride=stride), wanted, atol=1e-4)
