"""EfficientNet-Lite0: its stages, the published network's answers, and the stages as a part of the scorer."""

import jax
import numpy as np
import pytest
from flax import nnx

from r1jax.nets import skeleton
from r1jax.nets.efficientnet_lite import NUM_STAGES, stage_channels
from r1jax.weights.cache import pull
from r1jax.weights.catalogue import entries
from r1jax.weights.files import saved_variables, update_module
from r1jax.weights.published import load_published


def image(height=48, width=40):
    return np.random.default_rng(0).random((2, height, width, 3), np.float32)


def test_shapes_and_size():
    net = skeleton("efficientnet_lite")
    graph, state = nnx.split(net)
    shapes = jax.eval_shape(
        lambda state, x: nnx.merge(graph, state).stages(x), state, jax.ShapeDtypeStruct((2, 72, 88, 3), np.float32)
    )
    assert tuple(y.shape[-1] for y in shapes) == stage_channels(NUM_STAGES)
    assert [y.shape[1:3] for y in shapes] == [(36, 44), (36, 44), (18, 22), (9, 11), (5, 6), (5, 6), (3, 3), (3, 3)]
    trainable = nnx.to_flat_state(nnx.state(net, nnx.Param))
    assert sum(variable.size for _, variable in trainable) / 1e6 == pytest.approx(4.652, abs=6e-4)  # as published


def test_the_first_stages_are_those_of_the_whole():
    whole, part = skeleton("efficientnet_lite"), skeleton("efficientnet_lite", num_stages=3)
    rng = np.random.default_rng(1)
    shapes, fewer = ({"/".join(map(str, path)): v.shape for path, v in saved_variables(net)} for net in (whole, part))
    values = {name: rng.uniform(0.1, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    update_module(whole, values)
    update_module(part, {name: values[name] for name in fewer})
    ours, theirs = jax.jit(part.stages)(image()), jax.jit(whole.stages)(image())
    assert len(ours) == 4 and np.ptp(ours[-1]) > 0
    for one, other in zip(ours, theirs[:4], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.slow
def test_published_weights_answer_as_in_torch():
    """Logits of random pixels, by the package efficientnet-lite-pytorch 0.1.0."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 64, 3)) / 255
    pull(*entries(["efficientnet-lite0"]))
    found = load_published("efficientnet-lite0")(pixels.astype(np.float32))
    wanted = [[-1.7366, -0.0176, 0.1732, -0.6650, -0.6446, 1.1220], [-0.7372, 0.0398, 0.0544, -0.0800, -0.6204, 1.0354]]
    np.testing.assert_allclose(found[:, [0, 1, 2, 100, 500, 999]], wanted, atol=2e-3)
