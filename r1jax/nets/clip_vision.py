"""CLIP's vision transformer with its projection (Radford et al., arXiv 2103.00020), named as in `transformers`.

Attribute names are those of `CLIPVisionModelWithProjection`, "pre_layrnorm" included.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from r1jax.errors import UsageError
from r1jax.nets.registry import register_net

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "quick_gelu": lambda x: x * nnx.sigmoid(1.702 * x),
    "gelu": functools.partial(nnx.gelu, approximate=False),
}


def vision_tower(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a whole CLIP's state dict that `clip_vision` is."""
    return {name: value for name, value in state_dict.items() if name.startswith(("vision_model.", "visual_projection."))}


@register_net("clip_vision")
class ClipVision(nnx.Module):
    """Maps normalised pixels [b, h, w, 3] to (image_embeds [b, p], last_hidden_state [b, 1 + n, d]).

    `last_hidden_state` is that of the last layer, class token first, without the final norm. The defaults are those of
    ViT-L/14 with 224 pixels a side.

    Raises:
      UsageError: an unknown activation.
    """

    def __init__(
        self,
        hidden_size: int = 1024,
        intermediate_size: int = 4096,
        projection_dim: int = 768,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        image_size: int = 224,
        patch_size: int = 14,
        hidden_act: str = "quick_gelu",
        layer_norm_eps: float = 1e-5,
        *,
        rngs: nnx.Rngs,
    ):
        if hidden_act not in _ACTIVATIONS:
            raise UsageError(f"hidden_act {hidden_act!r} is unknown; there are {', '.join(_ACTIVATIONS)}")
        layer = functools.partial(
            _Layer, hidden_size, intermediate_size, num_attention_heads, _ACTIVATIONS[hidden_act], layer_norm_eps, rngs=rngs
        )
        sizes = (hidden_size, num_hidden_layers, image_size, patch_size)
        self.vision_model = _Transformer(*sizes, layer_norm_eps, layer, rngs=rngs)
        self.visual_projection = nnx.Linear(hidden_size, projection_dim, use_bias=False, rngs=rngs)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b p"], Float[Array, "b n d"]]:
        hidden = self.vision_model(pixels)
        pooled = self.vision_model.post_layernorm(hidden[:, 0])
        return self.visual_projection(pooled), hidden


class _Transformer(nnx.Module):
    def __init__(
        self, width: int, num_layers: int, image_size: int, patch_size: int, eps: float, layer: Any, *, rngs: nnx.Rngs
    ):
        self.embeddings = _Embeddings(width, image_size, patch_size, rngs=rngs)
        self.pre_layrnorm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.encoder = _Encoder(nnx.List(layer() for _ in range(num_layers)))
        self.post_layernorm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)))


class _Encoder(nnx.Module):
    def __init__(self, layers: nnx.List):
        self.layers = layers

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        for layer in self.layers:
            x = layer(x)
        return x


class _Embeddings(nnx.Module):
    """Patches and the class token, with learned positions for one image size."""

    def __init__(self, width: int, image_size: int, patch_size: int, *, rngs: nnx.Rngs):
        patch, num_patches = (patch_size, patch_size), (image_size // patch_size) ** 2
        self.class_embedding = nnx.Param(jax.random.normal(rngs.params(), (width,)))
        self.patch_embedding = nnx.Conv(3, width, patch, strides=patch, padding="VALID", use_bias=False, rngs=rngs)
        self.position_embedding = nnx.Embed(num_patches + 1, width, rngs=rngs)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        patches = rearrange(self.patch_embedding(pixels), "b h w d -> b (h w) d")
        first = repeat(self.class_embedding[...], "d -> b 1 d", b=pixels.shape[0])
        return jnp.concatenate([first, patches], axis=1) + self.position_embedding.embedding[...]


class _Layer(nnx.Module):
    def __init__(self, width: int, inner: int, num_heads: int, activation: Any, eps: float, *, rngs: nnx.Rngs):
        self.self_attn = _Attention(width, num_heads, rngs=rngs)
        self.layer_norm1 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.mlp = _MLP(width, inner, activation, rngs=rngs)
        self.layer_norm2 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Attention(nnx.Module):
    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        split = functools.partial(rearrange, pattern="b n (h d) -> b n h d", h=self.num_heads)
        query, key, value = (split(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        attended = jax.nn.dot_product_attention(query, key, value)  # scales by 1 / sqrt(d)
        return self.out_proj(rearrange(attended, "b n h d -> b n (h d)"))


class _MLP(nnx.Module):
    def __init__(self, width: int, inner: int, activation: Any, *, rngs: nnx.Rngs):
        self.activation = activation
        self.fc1, self.fc2 = nnx.Linear(width, inner, rngs=rngs), nnx.Linear(inner, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(self.activation(self.fc1(x)))
