"""Frozen CLIP ViT-L/14 encoders, the paper's: the projected image embedding (768 features) of the whole image.

The weights are OpenAI's checkpoints on the Hugging Face hub, loaded once from its cache (HF_HOME; HF_HUB_OFFLINE=1 asks
nobody). Pixels are prepared as CLIP's own processor does: shorter side to the tower's size, bicubic, centre crop, its
mean and deviation.
"""

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from r1jax.agent.encoder import Encoder, register_encoder
from r1jax.errors import R1JaxError
from r1jax.images.resize import resize_bicubic
from r1jax.nets import skeleton
from r1jax.nets.clip_vision import vision_tower
from r1jax.weights import import_torch, read_checkpoint

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)


@register_encoder("clip_vit_l14")
def clip_vit_l14() -> Encoder:
    """CLIP ViT-L/14 at 224 pixels."""
    return clip_encoder("clip_vit_l14", _from_hub("openai/clip-vit-large-patch14"))


@register_encoder("clip_vit_l14_336")
def clip_vit_l14_336() -> Encoder:
    """CLIP ViT-L/14 at 336 pixels."""
    return clip_encoder("clip_vit_l14_336", _from_hub("openai/clip-vit-large-patch14-336"))


def clip_encoder(name: str, folder: str | pathlib.Path) -> Encoder:
    """Returns the vision tower of a CLIP model as `transformers` saves it: config.json and one weight file.

    Raises:
      R1JaxError: a file is missing or is not CLIP's.
      WeightMismatch: the weights do not fit the configuration.
    """
    folder = pathlib.Path(folder)
    kwargs = _vision_config(folder / "config.json")
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model.bin"))
    if not files:
        raise R1JaxError(f"{folder}: no weight file; want model.safetensors or pytorch_model.bin")
    vision = vision_tower(read_checkpoint(files[0]))
    graph, params = nnx.split(import_torch(skeleton("clip_vision", **kwargs), vision))
    size = kwargs["image_size"]

    def apply(params: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        net: Any = nnx.merge(graph, params)
        return net(prepare(image, size))[0]

    return Encoder(name, apply, params, kwargs["projection_dim"])


def prepare(image: Float[Array, "b h w 3"], size: int) -> Float[Array, "b s s 3"]:
    """Returns normalised pixels: the centre square, its side `size`."""
    height, width = image.shape[1:3]
    tall, wide = (size * side // min(height, width) for side in (height, width))  # the longer one rounded down, as CLIP's
    wider = jnp.clip(resize_bicubic(jnp.asarray(image), height, wide), 0, 1)  # clipped after each axis, as Pillow does
    resized = jnp.clip(resize_bicubic(wider, tall, wide), 0, 1)
    top, left = (tall - size) // 2, (wide - size) // 2
    return (resized[:, top : top + size, left : left + size] - _MEAN) / _DEVIATION


def _vision_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
        vision = config.get("vision_config", config)
        return {name: vision[name] for name in _FIELDS} | {"projection_dim": config["projection_dim"]}
    except (OSError, ValueError, KeyError) as error:
        raise R1JaxError(f"{path}: not the configuration of a CLIP model: {type(error).__name__} {error}") from None


def _from_hub(repository: str) -> pathlib.Path:
    from huggingface_hub import snapshot_download

    try:
        return pathlib.Path(snapshot_download(repository, allow_patterns=["config.json", "model.safetensors"]))
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = str(error).strip().partition("\n")[0]
        hint = "on a machine without network copy its cache folder and set HF_HOME"
        raise R1JaxError(f"agent.encoder: {repository} cannot be had from Hugging Face; {hint}: {reason}") from error
