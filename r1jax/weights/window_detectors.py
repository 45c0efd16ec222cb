"""Detectors of the window transformers and of the dehazing networks; see detectors.py."""

import math
from typing import Any

from r1jax.weights.recognise import Shapes, detector

_BLOCK = "layers.0.residual_group.blocks.0"


def _swin(s: Shapes) -> dict[str, Any]:
    """What SwinIR and HAT have in common."""
    embed_dim, in_chans = s["conv_first.weight"][:2]
    groups = [f"layers.{i}.residual_group" for i in range(s.count("layers"))]
    table = f"{_BLOCK}.attn.relative_position_bias_table"
    return {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": [s.count(f"{group}.blocks") for group in groups],
        "num_heads": [s[f"{group}.blocks.0.attn.relative_position_bias_table"][1] for group in groups],
        "window_size": (math.isqrt(s[table][0]) + 1) // 2,
        "mlp_ratio": s[f"{_BLOCK}.mlp.fc1.weight"][0] / embed_dim,
        "qkv_bias": f"{_BLOCK}.attn.qkv.bias" in s,
    }


def _shuffled_scale(s: Shapes) -> int:
    """The scale of one or more convolutions that each a pixel shuffle follows."""
    shapes = [s[name] for name in s if name.startswith("upsample.") and name.endswith(".weight")]
    return math.prod(math.isqrt(shape[0] // shape[1]) for shape in shapes)


@detector("hat", "conv_first.weight", "layers.0.residual_group.overlap_attn.qkv.weight", f"{_BLOCK}.conv_block.cab.0.weight")
def hat(s: Shapes) -> dict[str, Any]:
    config = _swin(s)
    window, dim = config["window_size"], config["embed_dim"]
    rows = s["layers.0.residual_group.overlap_attn.relative_position_bias_table"][0]
    return config | {
        "compress_ratio": dim // s[f"{_BLOCK}.conv_block.cab.0.weight"][0],
        "squeeze_factor": dim // s[f"{_BLOCK}.conv_block.cab.3.attention.1.weight"][0],
        "overlap_ratio": (math.isqrt(rows) + 1 - 2 * window) / window,
        "upscale": _shuffled_scale(s),
        "upsampler": "pixelshuffle",
        "resi_connection": "1conv" if "conv_after_body.weight" in s else "identity",
    }


@detector("swinir", "conv_first.weight", "patch_embed.norm.weight", f"{_BLOCK}.attn.relative_position_bias_table")
def swinir(s: Shapes) -> dict[str, Any]:
    config = _swin(s)
    if "conv_up1.weight" in s:
        upsampler, upscale = "nearest+conv", 4 if "conv_up2.weight" in s else 2
    elif "conv_before_upsample.0.weight" in s:
        upsampler, upscale = "pixelshuffle", _shuffled_scale(s)
    elif "upsample.0.weight" in s:
        upsampler = "pixelshuffledirect"
        upscale = math.isqrt(s["upsample.0.weight"][0] // config["in_chans"])
    else:
        upsampler, upscale = "", 1
    masks = [s[name][0] for name in s if name.endswith("attn_mask")]
    # The published models of windows of 7 restore JPEG images and work with pixels in 0..255.
    from_255 = config["window_size"] == 7 and not upsampler
    return config | {
        "img_size": math.isqrt(masks[0]) * config["window_size"] if masks else 64,
        "img_range": 255.0 if from_255 else 1.0,
        "upscale": upscale,
        "upsampler": upsampler,
        "resi_connection": "1conv" if "conv_after_body.weight" in s else "3conv",
    }


def _dehazing(s: Shapes) -> dict[str, Any]:
    """What DehazeFormer and MixDehazeNet have in common: the U-Net around their stages."""
    e1, in_chans = s["patch_embed.proj.weight"][:2]
    e2, e3 = s["patch_merge1.proj.weight"][0], s["patch_merge2.proj.weight"][0]
    return {
        "in_chans": in_chans,
        "out_chans": s["patch_unembed.proj.0.weight"][0],
        "embed_dims": [e1, e2, e3, s["skip2.weight"][0], s["skip1.weight"][0]],
        "depths": [s.count(f"layer{level}.blocks") for level in range(1, 6)],
    }


@detector("mixdehazenet", "patch_embed.proj.weight", "layer1.blocks.0.conv3_19.weight", "fusion1.mlp.0.weight")
def mixdehazenet(s: Shapes) -> dict[str, Any]:
    return _dehazing(s)


@detector("dehazeformer", "patch_embed.proj.weight", "layer1.blocks.0.mlp.mlp.0.weight", "fusion1.mlp.0.weight")
def dehazeformer(s: Shapes) -> dict[str, Any]:
    config = _dehazing(s)
    stages = [_dehazeformer_stage(s, f"layer{i + 1}.blocks", depth) for i, depth in enumerate(config["depths"])]
    windows = [s[name][0] for name in s if name.endswith("relative_positions")]
    columns = {key: [stage[key] for stage in stages] for key in stages[0]}
    return config | columns | {"window_size": math.isqrt(windows[0]) if windows else 8}


def _dehazeformer_stage(s: Shapes, blocks: str, depth: int) -> dict[str, Any]:
    hidden, dim = s[f"{blocks}.0.mlp.mlp.0.weight"][:2]
    attending = [i for i in range(depth) if f"{blocks}.{i}.attn.QK.weight" in s]
    return {
        "mlp_ratios": hidden / dim,
        "num_heads": s[f"{blocks}.{attending[0]}.attn.attn.meta.2.weight"][0] if attending else 1,
        "attn_ratio": len(attending) / depth,
        "conv_type": "DWConv" if f"{blocks}.0.attn.conv.weight" in s else "Conv",
    }
