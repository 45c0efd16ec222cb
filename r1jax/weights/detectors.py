"""One detector an architecture: the names that mark it, and its constructor's arguments out of the shapes."""

import math
from collections.abc import Sequence
from typing import Any

from r1jax.weights.recognise import Shapes, detector

_RESTORMER_LEVELS = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")


def _restormer(s: Shapes, feed_forward: str) -> dict[str, Any]:
    """What Restormer and X-Restormer have in common; `feed_forward` is the name of a block's last layer."""
    dim, inp_channels = s["patch_embed.proj.weight"][:2]
    last_layers = [s[f"{level}.0.{feed_forward}.project_out.weight"] for level in _RESTORMER_LEVELS]
    return {
        "inp_channels": inp_channels,
        "out_channels": s["output.weight"][0],
        "dim": dim,
        "num_blocks": [s.count(level) for level in _RESTORMER_LEVELS],
        "num_refinement_blocks": s.count("refinement"),
        "ffn_expansion_factor": _expansion([shape[:2] for shape in last_layers]),
        "bias": "output.bias" in s,
        "LayerNorm_type": "WithBias" if "latent.0.norm1.body.bias" in s else "BiasFree",
        "dual_pixel_task": "skip_conv.weight" in s,
    }


def _expansion(layers: Sequence[tuple[int, ...]]) -> float:
    """The factor of which int(dim * factor) is the hidden width, for all (dim, hidden): the published one if it fits."""
    dim, hidden = layers[-1]
    candidates = (2.66, hidden / dim, (hidden + 0.5) / dim)
    return next((c for c in candidates if all(int(d * c) == h for d, h in layers)), candidates[-1])


@detector("xrestormer", "patch_embed.proj.weight", "latent.0.spatial_attn.rel_pos_emb.rel_height", "output.weight")
def xrestormer(s: Shapes) -> dict[str, Any]:
    table, head_dim = s["latent.0.spatial_attn.rel_pos_emb.rel_height"]
    window, reach = 8, (table + 1) // 2  # a window of 8, as all published; keys reach further
    inner = [s[f"{level}.0.spatial_attn.project_out.weight"][1] for level in _RESTORMER_LEVELS]
    return {
        **_restormer(s, "channel_ffn"),
        "channel_heads": [s[f"{level}.0.channel_attn.temperature"][0] for level in _RESTORMER_LEVELS],
        "spatial_heads": [width // head_dim for width in inner],
        "overlap_ratio": [reach / window - 1] * 4,
        "window_size": window,
        "spatial_dim_head": head_dim,
    }


@detector("restormer", "patch_embed.proj.weight", "latent.0.attn.temperature", "latent.0.ffn.dwconv.weight", "output.weight")
def restormer(s: Shapes) -> dict[str, Any]:
    heads = [s[f"{level}.0.attn.temperature"][0] for level in _RESTORMER_LEVELS]
    return {**_restormer(s, "ffn"), "heads": heads}


@detector("nafnet", "intro.weight", "middle_blks.0.sca.1.weight", "middle_blks.0.beta", "ending.weight")
def nafnet(s: Shapes) -> dict[str, Any]:
    width, img_channel = s["intro.weight"][:2]
    levels = range(s.count("downs"))
    return {
        "img_channel": img_channel,
        "width": width,
        "middle_blk_num": s.count("middle_blks"),
        "enc_blk_nums": [s.count(f"encoders.{level}") for level in levels],
        "dec_blk_nums": [s.count(f"decoders.{level}") for level in levels],
    }


@detector("mprnet", "shallow_feat1.0.weight", "stage1_encoder.down12.down.1.weight", "concat23.weight", "tail.weight")
def mprnet(s: Shapes) -> dict[str, Any]:
    n_feat, in_c, kernel_size = s["shallow_feat1.0.weight"][:3]
    return {
        "in_c": in_c,
        "out_c": s["tail.weight"][0],
        "n_feat": n_feat,
        "scale_unetfeats": s["stage1_encoder.down12.down.1.weight"][0] - n_feat,
        "scale_orsnetfeats": s["concat23.weight"][0] - n_feat,
        "num_cab": s.count("stage3_orsnet.orb1.body") - 1,
        "kernel_size": kernel_size,
        "reduction": n_feat // s["shallow_feat1.1.CA.conv_du.0.weight"][0],
        "bias": "tail.bias" in s,
    }


def _kair(s: Shapes, nb: int) -> dict[str, Any]:
    features, in_nc = s["m_head.weight"][:2]
    deeper = [s[f"m_down{level}.{nb}.weight"][0] for level in (1, 2, 3)]
    return {"in_nc": in_nc, "out_nc": s["m_tail.weight"][0], "nc": [features, *deeper], "nb": nb}


@detector("fbcnn", "m_head.weight", "m_body_encoder.0.res.0.weight", "qf_embed.0.weight", "m_tail.weight")
def fbcnn(s: Shapes) -> dict[str, Any]:
    return _kair(s, s.count("m_body_encoder"))


@detector("drunet", "m_head.weight", "m_body.0.res.0.weight", "m_up1.0.weight", "m_tail.weight")
def drunet(s: Shapes) -> dict[str, Any]:
    return _kair(s, s.count("m_body"))


@detector("scunet", "m_head.0.weight", "m_body.0.trans_block.msa.relative_position_params", "m_tail.0.weight")
def scunet(s: Shapes) -> dict[str, Any]:
    dim, in_nc = s["m_head.0.weight"][:2]
    # Every stage but the deepest has a convolution beside its blocks.
    counts = [s.count(stage) - 1 for stage in ("m_down1", "m_down2", "m_down3")]
    counts += [s.count("m_body"), *(s.count(stage) - 1 for stage in ("m_up3", "m_up2", "m_up1"))]
    heads = s["m_body.0.trans_block.msa.relative_position_params"][0]
    return {"in_nc": in_nc, "config": counts, "dim": dim, "head_dim": 4 * dim // heads}


def _plain_stack(s: Shapes) -> dict[str, int]:
    """Channels, features and convolutions of a stack named `model.0`, `model.2`, ..., its last layer's bias at hand."""
    features, channels = s["model.0.weight"][:2]
    last = s.count("model") - 1
    normalised = any(name.endswith("running_mean") for name in s)
    nb = (last - 2) // 3 + 2 if normalised else last // 2 + 1
    return {"in_nc": channels, "out_nc": s[f"model.{last}.bias"][0], "nc": features, "nb": nb}


@detector("ffdnet", "model.0.weight", "model.2.weight")
def ffdnet(s: Shapes) -> dict[str, Any] | None:
    if len(s["model.0.weight"]) != 4:
        return None
    stack = _plain_stack(s)
    channels, out = stack["in_nc"], stack["out_nc"]
    # It works on folded pixels: a quarter of the channels are the image's, and one more is the noise level.
    return stack | {"in_nc": out // 4, "out_nc": out // 4} if channels == out + 1 and out % 4 == 0 else None


@detector("dncnn", "model.0.weight", "model.2.weight")
def dncnn(s: Shapes) -> dict[str, Any]:
    stack = _plain_stack(s)
    normalised = any(name.endswith("running_mean") for name in s)
    mode = "DnCNN" if stack["in_nc"] == stack["out_nc"] else "FDnCNN"
    return stack | {"act_mode": "BR" if normalised else "R", "mode": mode}


@detector("retinexformer", "body.0.estimator.conv1.weight", "body.0.denoiser.embedding.weight")
def retinexformer(s: Shapes) -> dict[str, Any]:
    n_feat, in_channels = s["body.0.denoiser.embedding.weight"][:2]
    stages = ("encoder_layers.0.0", "encoder_layers.1.0", "bottleneck")
    return {
        "in_channels": in_channels,
        "out_channels": s["body.0.denoiser.mapping.weight"][0],
        "n_feat": n_feat,
        "stage": s.count("body"),
        "num_blocks": [s.count(f"body.0.denoiser.{stage}.blocks") for stage in stages],
    }


@detector("rrdbnet", "conv_first.weight", "body.0.rdb1.conv1.weight", "conv_body.weight", "conv_last.weight")
def rrdbnet(s: Shapes) -> dict[str, Any]:
    features, folded = s["conv_first.weight"][:2]
    channels = s["conv_last.weight"][0]
    return {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "scale": 4 // math.isqrt(folded // channels),
        "num_feat": features,
        "num_block": s.count("body"),
        "num_grow_ch": s["body.0.rdb1.conv1.weight"][0],
    }


@detector("srvgg_compact", "body.0.weight", "body.2.weight")
def srvgg_compact(s: Shapes) -> dict[str, Any]:
    features, channels = s["body.0.weight"][:2]
    last = s.count("body") - 1
    return {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": features,
        "num_conv": last // 2 - 1,
        "upscale": math.isqrt(s[f"body.{last}.weight"][0] // channels),
        "act_type": "prelu" if "body.1.weight" in s else "relu",
    }


@detector("clip_vision", "vision_model.embeddings.patch_embedding.weight", "vision_model.pre_layrnorm.weight")
def clip_vision(s: Shapes) -> dict[str, Any]:
    hidden, _, patch = s["vision_model.embeddings.patch_embedding.weight"][:3]
    positions = s["vision_model.embeddings.position_embedding.weight"][0]
    return {
        "hidden_size": hidden,
        "intermediate_size": s["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
        "projection_dim": s["visual_projection.weight"][0],
        "num_hidden_layers": s.count("vision_model.encoder.layers"),
        "num_attention_heads": max(1, hidden // 64),  # of 64 features, as all published
        "image_size": patch * math.isqrt(positions - 1),
        "patch_size": patch,
    }


@detector("efficientnet_lite", "_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_conv_head.weight", "_fc.weight")
def efficientnet_lite(s: Shapes) -> dict[str, Any]:
    return {}
