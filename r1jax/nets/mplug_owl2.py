"""mPLUG-Owl2 (arXiv 2311.04257), the network of DeQA-Score (arXiv 2501.11561) and Q-Align (arXiv 2312.17090).

CLIP's vision transformer reads the image, an abstractor condenses it to a few tokens, and a LLaMA reads those among the
words. Keys, values and both norms of its layers exist twice: `multiway.0` for words, `multiway.1` for the image. Attributes
carry the official names. Images are NHWC, normalised by CLIP's mean and standard deviation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from r1jax.nets.registry import register_net

IMAGE_TOKEN = -200  # where the image stands in `input_ids`


@dataclasses.dataclass(frozen=True)
class LLMConfig:
    """LLaMA-2-7B by default."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """CLIP ViT-L/14 at 448 pixels by default."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    layer_norm_eps: float = 1e-6


@dataclasses.dataclass(frozen=True)
class AbstractorConfig:
    """Six layers of cross-attention to 64 queries by default."""

    num_learnable_queries: int = 64
    hidden_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    intermediate_size: int = 2816
    encoder_hidden_size: int = 1024
    grid_size: int = 32
    layer_norm_eps: float = 1e-6


@dataclasses.dataclass(frozen=True)
class _Make:
    """Builds layers of one precision."""

    dtype: Any
    rngs: nnx.Rngs

    def linear(self, size_in: int, size_out: int, bias: bool = True) -> nnx.Linear:
        return nnx.Linear(size_in, size_out, use_bias=bias, dtype=self.dtype, param_dtype=self.dtype, rngs=self.rngs)

    def norm(self, size: int, eps: float = 1e-5) -> nnx.LayerNorm:
        return nnx.LayerNorm(
            size, epsilon=eps, dtype=self.dtype, param_dtype=self.dtype, use_fast_variance=False, rngs=self.rngs
        )

    def rms_norm(self, size: int, eps: float) -> nnx.RMSNorm:
        return nnx.RMSNorm(size, epsilon=eps, dtype=self.dtype, param_dtype=self.dtype, rngs=self.rngs)

    def table(self, *shape: int) -> nnx.Param:
        return nnx.Param(0.02 * jax.random.normal(self.rngs.params(), shape, self.dtype))


def _attention(q: Array, k: Array, v: Array, causal: bool = False) -> Array:
    """[b, t, heads, size] each; scaled by size**-0.5."""
    return rearrange(jax.nn.dot_product_attention(q, k, v, is_causal=causal), "b t h d -> b t (h d)")


# --- The eye ---------------------------------------------------------------------------------------------------------


class VisionEmbeddings(nnx.Module):
    """Patches and a class token, with positions."""

    def __init__(self, config: VisionConfig, make: _Make):
        size, patch = config.hidden_size, config.patch_size
        self.cls_token = make.table(1, 1, size)
        self.position_embedding = make.table(1, (config.image_size // patch) ** 2 + 1, size)
        self.patch_embed = nnx.Conv(
            3, size, (patch, patch), (patch, patch), padding="VALID", use_bias=False, dtype=make.dtype,
            param_dtype=make.dtype, rngs=make.rngs,
        )  # fmt: skip
        self.pre_layernorm = make.norm(size, config.layer_norm_eps)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        patches = rearrange(self.patch_embed(x), "b h w d -> b (h w) d")
        first = jnp.broadcast_to(self.cls_token[...], (len(x), 1, patches.shape[-1]))
        return self.pre_layernorm(jnp.concatenate([first, patches], 1) + self.position_embedding[...])


class VisionAttention(nnx.Module):
    """Self-attention whose joint projection is laid out (head, q/k/v, size)."""

    def __init__(self, config: VisionConfig, make: _Make):
        self.heads = config.num_attention_heads
        self.query_key_value = make.linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = make.linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        q, k, v = rearrange(self.query_key_value(x), "b n (h three d) -> three b n h d", h=self.heads, three=3)
        return self.dense(_attention(q, k, v))


class VisionMLP(nnx.Module):
    """Two layers around x * sigmoid(1.702 x)."""

    def __init__(self, config: VisionConfig, make: _Make):
        self.fc1 = make.linear(config.hidden_size, config.intermediate_size)
        self.fc2 = make.linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = self.fc1(x)
        return self.fc2(x * jax.nn.sigmoid(1.702 * x))


class VisionLayer(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: VisionConfig, make: _Make):
        self.self_attn = VisionAttention(config, make)
        self.input_layernorm = make.norm(config.hidden_size, config.layer_norm_eps)
        self.mlp = VisionMLP(config, make)
        self.post_attention_layernorm = make.norm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Layers(nnx.Module):
    """What the official models call `encoder`: a list of layers."""

    def __init__(self, layers: list[Any]):
        self.layers = nnx.List(layers)

    def __call__(self, x: Array, *others: Array) -> Array:
        for layer in self.layers:
            x = layer(x, *others)
        return x


class VisionModel(nnx.Module):
    """The vision transformer; the last norm is of all tokens."""

    def __init__(self, config: VisionConfig, make: _Make):
        self.embeddings = VisionEmbeddings(config, make)
        self.encoder = Layers([VisionLayer(config, make) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = make.norm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        return self.post_layernorm(self.encoder(self.embeddings(x)))


# --- The abstractor --------------------------------------------------------------------------------------------------


class CrossAttention(nnx.Module):
    """Queries look at themselves and at the image; positions are added to queries and keys, not to values."""

    def __init__(self, config: AbstractorConfig, make: _Make):
        self.heads = config.num_attention_heads
        self.query = make.linear(config.hidden_size, config.hidden_size)
        self.key = make.linear(config.encoder_hidden_size, config.hidden_size)
        self.value = make.linear(config.encoder_hidden_size, config.hidden_size)
        self.q_pos_embed = make.table(config.num_learnable_queries, config.hidden_size)
        self.k_pos_embed = make.table(config.grid_size**2 + 1, config.hidden_size)

    def __call__(self, x: Float[Array, "b q d"], seen: Float[Array, "b n d"]) -> Float[Array, "b q d"]:
        where = jnp.concatenate([self.q_pos_embed[...], self.k_pos_embed[...]])
        projected = self.query(x + self.q_pos_embed[...]), self.key(seen + where), self.value(seen)
        q, k, v = (rearrange(p, "b n (h d) -> b n h d", h=self.heads) for p in projected)
        return _attention(q, k, v)


class AbstractorMLP(nnx.Module):
    """SwiGLU with a norm before its last layer."""

    def __init__(self, config: AbstractorConfig, make: _Make):
        self.w1 = make.linear(config.hidden_size, config.intermediate_size)
        self.w2 = make.linear(config.intermediate_size, config.hidden_size)
        self.w3 = make.linear(config.hidden_size, config.intermediate_size)
        self.ffn_ln = make.norm(config.intermediate_size, config.layer_norm_eps)

    def __call__(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        return self.w2(self.ffn_ln(nnx.silu(self.w1(x)) * self.w3(x)))


class AbstractorOutput(nnx.Module):
    """Projection and MLP, each added to what came before."""

    def __init__(self, config: AbstractorConfig, make: _Make):
        self.out_proj = make.linear(config.hidden_size, config.hidden_size)
        self.norm2 = make.norm(config.hidden_size)
        self.mlp = AbstractorMLP(config, make)

    def __call__(self, attended: Float[Array, "b q d"], x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        x = x + self.out_proj(attended)
        return x + self.mlp(self.norm2(x))


class AbstractorAttention(nnx.Module):
    """The residual starts from the normed queries, as in the authors' code."""

    def __init__(self, config: AbstractorConfig, make: _Make):
        self.attention = CrossAttention(config, make)
        self.output = AbstractorOutput(config, make)
        self.norm1 = make.norm(config.hidden_size)
        self.normk = make.norm(config.encoder_hidden_size)

    def __call__(self, x: Float[Array, "b q d"], image: Float[Array, "b n d"]) -> Float[Array, "b q d"]:
        x = self.norm1(x)
        seen = jnp.concatenate([x, self.normk(image)], 1)
        return self.output(self.attention(x, seen), x)


class AbstractorLayer(nnx.Module):
    """One layer; the name `crossattention` is official."""

    def __init__(self, config: AbstractorConfig, make: _Make):
        self.crossattention = AbstractorAttention(config, make)

    def __call__(self, x: Float[Array, "b q d"], image: Float[Array, "b n d"]) -> Float[Array, "b q d"]:
        return self.crossattention(x, image)


class Abstractor(nnx.Module):
    """Image features -> `num_learnable_queries` tokens for the language model, and one that ends them."""

    def __init__(self, config: AbstractorConfig, size_out: int, make: _Make):
        self.query_embeds = make.table(1, config.num_learnable_queries, config.hidden_size)
        self.encoder = Layers([AbstractorLayer(config, make) for _ in range(config.num_hidden_layers)])
        self.visual_fc = make.linear(config.hidden_size, size_out)
        self.vit_eos = make.table(1, 1, size_out)

    def __call__(self, image: Float[Array, "b n d"]) -> Float[Array, "b q1 D"]:
        queries = jnp.broadcast_to(self.query_embeds[...], (len(image), *self.query_embeds.shape[1:]))
        tokens = self.visual_fc(self.encoder(queries, image))
        return jnp.concatenate([tokens, jnp.broadcast_to(self.vit_eos[...], (len(image), 1, tokens.shape[-1]))], 1)


# --- The language model ----------------------------------------------------------------------------------------------


class Multiway(nnx.Module):
    """Two layers of one kind: the first for words, the second for the tokens of the image."""

    def __init__(self, words: Any, image: Any):
        self.multiway = nnx.List([words, image])

    def __call__(self, x: Float[Array, "b t d"], image: slice) -> Float[Array, "b t e"]:
        words, seen = self.multiway[0], self.multiway[1]
        parts = [words(x[:, : image.start]), seen(x[:, image]), words(x[:, image.stop :])]
        return jnp.concatenate([part for part in parts if part.shape[1]], 1)


class LLMAttention(nnx.Module):
    """Causal attention with rotary positions; keys and values are multiway."""

    def __init__(self, config: LLMConfig, make: _Make):
        size, self.heads, self.theta = config.hidden_size, config.num_attention_heads, config.rope_theta
        self.q_proj, self.o_proj = make.linear(size, size, bias=False), make.linear(size, size, bias=False)
        self.k_proj = Multiway(*(make.linear(size, size, bias=False) for _ in range(2)))
        self.v_proj = Multiway(*(make.linear(size, size, bias=False) for _ in range(2)))

    def __call__(self, x: Float[Array, "b t d"], image: slice) -> Float[Array, "b t d"]:
        projected = self.q_proj(x), self.k_proj(x, image), self.v_proj(x, image)
        q, k, v = (rearrange(p, "b t (h d) -> b t h d", h=self.heads) for p in projected)
        return self.o_proj(_attention(_rotated(q, self.theta), _rotated(k, self.theta), v, causal=True))


def _rotated(x: Float[Array, "b t h d"], theta: float) -> Float[Array, "b t h d"]:
    """Rotary position embedding (arXiv 2104.09864), the halves of a head forming the pairs."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


class LLMMLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: LLMConfig, make: _Make):
        size, wide = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj = make.linear(size, wide, bias=False), make.linear(size, wide, bias=False)
        self.down_proj = make.linear(wide, size, bias=False)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


class LLMLayer(nnx.Module):
    """A pre-norm block."""

    def __init__(self, config: LLMConfig, make: _Make):
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn, self.mlp = LLMAttention(config, make), LLMMLP(config, make)
        self.input_layernorm = Multiway(*(make.rms_norm(size, eps) for _ in range(2)))
        self.post_attention_layernorm = Multiway(*(make.rms_norm(size, eps) for _ in range(2)))

    def __call__(self, x: Float[Array, "b t d"], image: slice) -> Float[Array, "b t d"]:
        x = x + self.self_attn(self.input_layernorm(x, image), image)
        return x + self.mlp(self.post_attention_layernorm(x, image))


class Owl2Model(nnx.Module):
    """Embeds words and image, and runs the language model over both."""

    def __init__(self, llm: LLMConfig, vision: VisionConfig, abstractor: AbstractorConfig, make: _Make):
        self.embed_tokens = nnx.Embed(
            llm.vocab_size, llm.hidden_size, dtype=make.dtype, param_dtype=make.dtype, rngs=make.rngs
        )
        self.layers = nnx.List([LLMLayer(llm, make) for _ in range(llm.num_hidden_layers)])
        self.norm = make.rms_norm(llm.hidden_size, llm.rms_norm_eps)
        self.vision_model = VisionModel(vision, make)
        self.visual_abstractor = Abstractor(abstractor, llm.hidden_size, make)

    def see(self, pixel_values: Float[Array, "b h w 3"]) -> Float[Array, "b q d"]:
        """Returns the tokens of images."""
        return self.visual_abstractor(self.vision_model(pixel_values))

    def __call__(
        self, pixel_values: Float[Array, "b h w 3"] | None, input_ids: Int[np.ndarray, "b t"]
    ) -> Float[Array, "b T d"]:
        at = _image_position(input_ids)
        if at is None or pixel_values is None:
            x, image = self.embed_tokens(jnp.asarray(input_ids)), slice(input_ids.shape[1], input_ids.shape[1])
        else:
            seen = self.see(pixel_values)
            before, after = (self.embed_tokens(jnp.asarray(ids)) for ids in (input_ids[:, :at], input_ids[:, at + 1 :]))
            x, image = jnp.concatenate([before, seen, after], 1), slice(at, at + seen.shape[1])
        for layer in self.layers:
            x = layer(x, image)
        return self.norm(x)


def _image_position(input_ids: Int[np.ndarray, "b t"]) -> int | None:
    """Returns where every row has its image, None where none has one."""
    rows, columns = np.nonzero(input_ids == IMAGE_TOKEN)
    if not len(rows):
        return None
    if list(rows) != list(range(len(input_ids))) or len(set(columns)) != 1:
        raise ValueError(f"input_ids: want one image token {IMAGE_TOKEN} a row, in one column")
    return int(columns[0])


@register_net("mplug_owl2")
class MPLUGOwl2(nnx.Module):
    """MPLUGOwl2LlamaForCausalLM: (normalised image, token ids) -> logits of the next token.

    Args:
      llm, visual_model, visual_abstractor: fields of LLMConfig, VisionConfig and AbstractorConfig, which are the official
        ones; by default those of DeQA-Score.
      dtype: of weights and activations; norms and softmax are computed in float32.
    """

    def __init__(
        self,
        llm: Mapping[str, Any] | None = None,
        visual_model: Mapping[str, Any] | None = None,
        visual_abstractor: Mapping[str, Any] | None = None,
        *,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        make, config = _Make(dtype, rngs), LLMConfig(**(llm or {}))
        vision, abstractor = VisionConfig(**(visual_model or {})), AbstractorConfig(**(visual_abstractor or {}))
        self.model = Owl2Model(config, vision, abstractor, make)
        self.lm_head = make.linear(config.hidden_size, config.vocab_size, bias=False)

    def __call__(
        self, pixel_values: Float[Array, "b h w 3"] | None, input_ids: Int[np.ndarray, "b t"]
    ) -> Float[Array, "b T vocab"]:
        """Returns logits at every position; T counts the tokens of the image in the place of one.

        Args:
          pixel_values: None for text alone.
          input_ids: a NumPy array (never traced: the place of the image shapes the program), with -200 for the image, in
            the same column of every row.
        """
        return self.lm_head(self.model(pixel_values, np.asarray(input_ids)))

    def next_token_logits(
        self, pixel_values: Float[Array, "b h w 3"], input_ids: Int[np.ndarray, "b t"], tokens: Int[np.ndarray, " n"]
    ) -> Float[Array, "b n"]:
        """Returns float32 logits of the given tokens after the last position."""
        last = self.model(pixel_values, np.asarray(input_ids))[:, -1]
        return jnp.einsum("bd,dn->bn", last, self.lm_head.kernel[:, tokens], preferred_element_type=jnp.float32)
