"""CLIP's vision tower: the reference's output, and `transformers` itself on a small random model."""

import json
import pathlib

import jax
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from r1jax.agent.clip import clip_encoder, prepare
from r1jax.errors import R1JaxError, UsageError
from r1jax.nets import create, skeleton
from r1jax.weights import import_torch

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "clip_vision.npz"
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 14}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in file.files}


def test_the_official_output(golden):
    meta = json.loads(str(golden["meta"]))
    state_dict = {key[3:]: value for key, value in golden.items() if key.startswith("sd/")}
    graph, params = nnx.split(import_torch(skeleton("clip_vision", **meta["kwargs"]), state_dict))
    pixels = rearrange(golden["x"], "b c h w -> b h w c")
    embeds, hidden = jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, pixels)
    tolerance = {"rtol": 1e-4, "atol": 20 * meta["fp32_vs_fp64_maxabs"]}
    np.testing.assert_allclose(embeds, golden["image_embeds"], **tolerance)
    np.testing.assert_allclose(hidden, golden["last_hidden_state"], **tolerance)


def test_towers_have_the_sizes_of_the_paper():
    for image_size, tokens in [(224, 257), (336, 577)]:
        tower = skeleton("clip_vision", image_size=image_size)
        assert tower.vision_model.embeddings.position_embedding.embedding.shape == (tokens, 1024)
        assert tower.visual_projection.kernel.shape == (1024, 768)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(tower, nnx.Param)))
    assert 303e6 < count < 306e6


def test_an_unknown_activation_is_refused():
    with pytest.raises(UsageError, match="hidden_act 'silu' is unknown"):
        create("clip_vision", **SMALL, hidden_act="silu")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(R1JaxError, match="not the configuration of a CLIP model"):
        clip_encoder("small", tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize(("image_size", "hidden_act"), [(224, "quick_gelu"), (336, "quick_gelu"), (56, "gelu")])
def test_parity_with_transformers(tmp_path, image_size, hidden_act):
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(**SMALL, image_size=image_size, hidden_act=hidden_act, projection_dim=24)
    model = CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    tower = clip_encoder("small", tmp_path)
    ramp = np.linspace(0, 255, 80 * 112 * 3).reshape(80, 112, 3)
    image = np.random.default_rng(0).normal(ramp, 20).clip(0, 255).astype(np.uint8)
    sizes = {"size": {"shortest_edge": image_size}, "crop_size": {"height": image_size, "width": image_size}}
    pixels = CLIPImageProcessor(**sizes)(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    ours = prepare((image[None] / np.float32(255)), image_size)
    theirs = rearrange(pixels.numpy(), "b c h w -> b h w c")
    assert np.abs(np.asarray(ours) - theirs).max() < 0.05  # it rounds to 8 bits after resizing, and treats borders otherwise
    with torch.no_grad():
        wanted = model(torch.from_numpy(rearrange(np.asarray(ours), "b h w c -> b c h w").copy())).image_embeds.numpy()
    features = jax.jit(tower.apply)(tower.params, image[None] / np.float32(255))
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=2e-5)
    assert tower.num_features == 24
