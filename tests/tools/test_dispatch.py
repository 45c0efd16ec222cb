"""Grouped dispatch against running every tool on every image and gathering."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import r1jax
from r1jax.errors import R1JaxError
from r1jax.tools import Tool, Toolbox, dispatch


def _conv(params, x):
    """Two convolutions with a relu between them: what one pixel gets depends on its neighbours."""
    conv = functools.partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME")
    hidden = jax.nn.relu(conv(x, params["up"], dimension_numbers=("NHWC", "HWIO", "NHWC")))
    return x + conv(hidden, params["down"], dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _conv_params(seed, width=8):
    up, down = jax.random.split(jax.random.key(seed))
    return {
        "up": 0.3 * jax.random.normal(up, (3, 3, 3, width)),
        "down": 0.1 * jax.random.normal(down, (3, 3, width, 3)),
    }


INVERT = Tool("invert", "brighten", lambda params, x: 1.0 - x)
SCALE = Tool("scale", "brighten", lambda params, x: x * params, jnp.float32(0.7))
CONV_A = Tool("conv_a", "denoise", _conv, _conv_params(0))
CONV_B = Tool("conv_b", "derain", _conv, _conv_params(1))
MEAN = Tool("mean", "denoise", lambda params, x: jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape))
TOOLBOXES = [
    Toolbox("one", (CONV_A,)),
    Toolbox("pointwise", (INVERT, SCALE, MEAN)),
    Toolbox("nets", (CONV_A, INVERT, CONV_B, MEAN, SCALE)),
    Toolbox("local", (CONV_A, INVERT, CONV_B, SCALE)),
]
NETS, LOCAL = TOOLBOXES[2:]


def _images(batch, seed=0, size=8):
    return jax.random.uniform(jax.random.key(seed), (batch, size, size + 2, 3))


def _run_all_and_gather(box, x, action):
    every = jnp.stack([tool(x) for tool in box.tools] + [x])  # [K + 1, b, h, w, 3]
    called = (action >= 0) & (action < len(box))
    return every[np.where(called, action, len(box)), np.arange(x.shape[0])]


@functools.cache
def _jitted(toolbox_index, block_size):
    box = TOOLBOXES[toolbox_index]
    return jax.jit(lambda params, x, action: dispatch(box, params, x, action, block_size))


@settings(max_examples=40, deadline=None)
@given(
    toolbox_index=st.integers(0, 2),
    batch=st.sampled_from([1, 6]),
    block_size=st.sampled_from([1, 2, 4, 9]),
    data=st.data(),
)
def test_equals_run_all_and_gather(toolbox_index, batch, block_size, data):
    box = TOOLBOXES[toolbox_index]
    tools = st.integers(-2, len(box) + 1)
    action = np.array(data.draw(st.lists(tools, min_size=batch, max_size=batch)), np.int32)
    x = _images(batch, seed=int(np.abs(action).sum()))
    y = _jitted(toolbox_index, block_size)(box.params, x, action)
    np.testing.assert_allclose(y, _run_all_and_gather(box, x, action), atol=2e-6)
    untouched = (action < 0) | (action >= len(box))
    np.testing.assert_array_equal(np.asarray(y)[untouched], np.asarray(x)[untouched])


@pytest.mark.parametrize("seed", range(3))
def test_every_block_size_gives_the_same_bits(seed):
    """On CPU; MEAN is left out, since XLA may order the sum over an image otherwise in a larger batch."""
    x = _images(11, seed, size=24)
    action = np.random.default_rng(seed).integers(0, len(LOCAL) + 1, 11)
    reference = _jitted(3, 1)(LOCAL.params, x, action)
    assert not np.array_equal(reference, x)
    for block_size in (2, 3, 4, 8, 11, 40):
        np.testing.assert_array_equal(_jitted(3, block_size)(LOCAL.params, x, action), reference)


def test_jit_equals_no_jit():
    x, action = _images(5), np.array([2, 0, 5, 2, 1])
    np.testing.assert_array_equal(
        dispatch(NETS, NETS.params, x, jnp.asarray(action), 2), _jitted(2, 2)(NETS.params, x, action)
    )


def test_traced_once_for_all_actions():
    traces = []

    def counted(params, x):
        traces.append(x.shape)
        return x * 0.5

    box = Toolbox("counted", (Tool("counted", "", counted), INVERT))
    step = jax.jit(lambda params, x, action: dispatch(box, params, x, action, 2))
    for seed in range(4):
        step(box.params, _images(6, seed), np.random.default_rng(seed).integers(-1, 4, 6))
    assert traces == [(2, 8, 10, 3)]


def _counting_toolbox():
    """Two tools that tell the host each time that they run."""
    calls = []

    def tool(name):
        def apply(params, x):
            jax.debug.callback(lambda: calls.append(name))
            return x * 0.5

        return Tool(name, "", apply)

    return Toolbox("counting", (tool("a"), tool("b"))), calls


@pytest.mark.parametrize(
    ("action", "block_size", "expected"),
    [
        ([2, 2, 2, 2], 1, []),
        ([2, -1, 7, 2], 2, []),
        ([0, 2, 2, 1], 1, ["a", "b"]),
        ([0, 0, 0, 1], 1, ["a", "a", "a", "b"]),
        ([0, 0, 0, 1], 2, ["a", "a", "b"]),
        ([1, 1, 1, 1], 8, ["b"]),
    ],
)
def test_only_used_blocks_run(action, block_size, expected):
    box, calls = _counting_toolbox()
    run = jax.jit(lambda x, action: dispatch(box, box.params, x, action, block_size))
    y = run(_images(4), np.array(action))
    jax.block_until_ready(y)
    jax.effects_barrier()
    assert sorted(calls) == expected


def test_inside_scan():
    x, actions = _images(4), np.random.default_rng(0).integers(0, len(NETS) + 1, (3, 4))

    def step(x, action):
        return dispatch(NETS, NETS.params, x, action, 2), None

    final = jax.jit(lambda x: jax.lax.scan(step, x, actions)[0])(x)
    expected = x
    for action in actions:
        expected = _run_all_and_gather(NETS, expected, action)
    np.testing.assert_allclose(final, expected, atol=5e-6)


def test_no_gradient_flows_and_grad_can_be_jitted():
    x, action = _images(4), np.array([0, 1, 2, 5])

    def loss(scale, params):
        return jnp.sum(scale * dispatch(NETS, params, scale * x, action, 2))

    value, grad = jax.jit(jax.value_and_grad(loss))(1.0, NETS.params)
    np.testing.assert_allclose(grad, value, rtol=1e-6)  # as if the images were a constant


def test_other_dtypes_and_an_empty_batch():
    box = TOOLBOXES[1]  # SCALE's float32 parameter promotes; the dispatch casts back
    half = dispatch(box, box.params, _images(2).astype(jnp.bfloat16), jnp.array([0, 1]))
    assert half.dtype == jnp.bfloat16
    assert dispatch(NETS, NETS.params, _images(0), jnp.zeros(0, int)).shape == (0, 8, 10, 3)


def test_a_tool_that_changes_the_shape_is_named():
    box = Toolbox("bad", (INVERT, Tool("crop", "", lambda params, x: x[:, 1:])))
    with pytest.raises(R1JaxError, match="'crop' turned shape"):
        dispatch(box, box.params, _images(2), jnp.array([0, 0]))


_SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
from test_dispatch import NETS, _images, dispatch
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
x, action = _images(12), np.array([5, 5, 5, 0, 0, 0, 2, 1, 4, 3, 5, -1])
run = lambda params, x, action: dispatch(NETS, params, x, action, 2)
for check_vma in (True, False):
    sharded = jax.shard_map(run, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P("data"),
                            check_vma=check_vma)
    y = jax.jit(sharded)(NETS.params, x, action)
    np.testing.assert_array_equal(y, jax.jit(run)(NETS.params, x, action))
print("equal on", jax.device_count())
"""


def test_shards_run_their_own_number_of_blocks():
    """Four shards of 3 images that need 0, 2, 3 and 1 blocks."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    paths = os.pathsep.join([str(pathlib.Path(r1jax.__file__).parents[1]), os.path.dirname(__file__)])
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    command = [sys.executable, "-c", _SHARDED]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "equal on 4", run.stderr
