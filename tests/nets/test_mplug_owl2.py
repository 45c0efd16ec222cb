"""mPLUG-Owl2: the authors' tensors, and what the full size costs."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r1jax.nets import skeleton
from r1jax.nets.mplug_owl2 import MPLUGOwl2
from r1jax.reward.deqa import LEVELS, PROMPT, level_scores
from r1jax.weights import import_torch

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "scorers" / "deqa_mplugowl2.npz"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def module(golden):
    state_dict = {name[3:]: value for name, value in golden.items() if name.startswith("sd/")}
    return import_torch(skeleton("mplug_owl2", **json.loads(str(golden["meta"]))["kwargs"]), state_dict)


def test_golden(golden, module):
    x = golden["pixel_values"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(module.model.vision_model(x), golden["vision_last_hidden_state"], atol=1e-4)
    np.testing.assert_allclose(module.model.see(x), golden["abstractor_out"], atol=1e-4)
    logits = module(x, golden["input_ids"])
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    levels = module.next_token_logits(x, golden["input_ids"], golden["pref_ids"])
    np.testing.assert_allclose(levels, golden["y"][:, golden["pref_ids"]], atol=1e-4)
    score = jax.nn.softmax(levels) @ jnp.arange(5.0, 0, -1)
    np.testing.assert_allclose(score, golden["score"], atol=1e-4)


def test_golden_of_text_alone(golden, module):
    ids = golden["input_ids"][golden["input_ids"] != -200][None]
    np.testing.assert_allclose(module(None, ids)[:, -1], golden["text_only_logits_last"], atol=1e-4)


def test_rows_must_have_their_image_in_one_column(module):
    with pytest.raises(ValueError, match="in one column"):
        module(jnp.zeros((2, 56, 56, 3)), np.array([[1, -200, 3], [-200, 2, 3]]))


@pytest.mark.slow
def test_full_size_by_shapes_alone():
    """The published network: 8.2 billion parameters, 92 tokens, about two TFLOP an image."""
    abstract = nnx.eval_shape(lambda: MPLUGOwl2(dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    graph, params = nnx.split(abstract)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    assert 8.1e9 < sum(sizes) < 8.3e9
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params))
    assert PROMPT.shape[1] - 1 + 65 == 92 and len(LEVELS) == 5
    program = jax.jit(lambda params, x: level_scores(nnx.merge(graph, params), x))
    lowered = program.lower(params, jax.ShapeDtypeStruct((1, 448, 448, 3), jnp.bfloat16))
    assert 1.5e12 < lowered.cost_analysis()["flops"] < 2.5e12
