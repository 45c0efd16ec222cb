"""Every network that spandrel knows too, against spandrel: the same random state dict through its loader and ours.

Its loader finds the configuration in the state dict by itself; ours is told. `pip install spandrel spandrel-extra-arches`.
"""

import importlib

import jax
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from r1jax.nets import create, skeleton
from r1jax.weights import export_torch, import_torch

pytestmark = [pytest.mark.torch, pytest.mark.slow]
torch = pytest.importorskip("torch")
spandrel = pytest.importorskip("spandrel")

SWIN = {"embed_dim": 24, "depths": [2, 1], "num_heads": [2, 3], "window_size": 8, "mlp_ratio": 2.0, "upscale": 1}
# name: (configuration, spandrel's class or "" where its own names differ from the official ones, [h, w, c] of the input)
CASES = {
    "swinir": (SWIN, "spandrel.architectures.SwinIR.SwinIR", (21, 30, 3)),
    "swinir jpeg": (
        SWIN | {"img_size": 63, "window_size": 7, "img_range": 255.0},
        "spandrel.architectures.SwinIR.SwinIR",
        (20, 30, 3),
    ),
    "swinir classical": (
        SWIN | {"upscale": 3, "upsampler": "pixelshuffle"},
        "spandrel.architectures.SwinIR.SwinIR",
        (16, 24, 3),
    ),
    "swinir lightweight": (
        SWIN | {"upscale": 2, "upsampler": "pixelshuffledirect"},
        "spandrel.architectures.SwinIR.SwinIR",
        (16, 24, 3),
    ),
    "swinir real": (
        SWIN | {"upscale": 4, "upsampler": "nearest+conv", "resi_connection": "3conv"},
        "spandrel.architectures.SwinIR.SwinIR",
        (16, 24, 3),
    ),
    "hat": (
        SWIN | {"upscale": 2, "compress_ratio": 3, "squeeze_factor": 6},
        "spandrel.architectures.HAT.HAT",
        (19, 24, 3),
    ),
    "scunet": (
        {"config": [2, 1, 1, 1, 1, 1, 1], "dim": 64, "official_pad": False},
        "spandrel.architectures.SCUNet.SCUNet",
        (50, 60, 3),
    ),
    "mixdehazenet": (
        {"embed_dims": [8, 16, 24, 16, 8], "depths": [1, 2, 1, 1, 1]},
        "spandrel.architectures.MixDehazeNet.MixDehazeNet",
        (44, 50, 3),
    ),
    "dncnn": (
        {"in_nc": 3, "out_nc": 3, "nc": 16, "nb": 5, "act_mode": "BR"},
        "spandrel.architectures.DnCNN.DnCNN",
        (20, 30, 3),
    ),
    "drunet": (
        {"in_nc": 4, "out_nc": 3, "nc": [8, 12, 16, 24], "nb": 2, "act_mode": "R"},
        "spandrel.architectures.DRUNet.DRUNet",
        (16, 24, 4),
    ),
    "nafnet": (
        {"width": 8, "enc_blk_nums": [1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1]},
        "spandrel.architectures.NAFNet.NAFNet",
        (18, 25, 3),
    ),
    "fbcnn": ({"nb": 2}, "spandrel.architectures.FBCNN.FBCNN", (19, 26, 3)),
    "retinexformer": (
        {"n_feat": 16, "stage": 1, "num_blocks": [1, 1, 1]},
        "spandrel.architectures.RetinexFormer.RetinexFormer",
        (16, 24, 3),
    ),
    "rrdbnet": ({"num_feat": 16, "num_block": 2, "num_grow_ch": 32, "scale": 4}, "", (12, 17, 3)),
    "srvgg_compact": ({"num_feat": 16, "num_conv": 4, "upscale": 4}, "", (12, 17, 3)),
    "restormer": (
        {"dim": 8, "num_blocks": [1, 2, 1, 1], "num_refinement_blocks": 1, "LayerNorm_type": "WithBias"},
        "spandrel_extra_arches.architectures.Restormer.Restormer",
        (16, 24, 3),
    ),
    "mprnet": (
        {"n_feat": 16, "scale_unetfeats": 8, "scale_orsnetfeats": 8, "num_cab": 2},
        "spandrel_extra_arches.architectures.MPRNet.MPRNet",
        (16, 24, 3),
    ),
}


def official_state_dict(name, config, path):
    """From spandrel's own class where it has the official names (with buffers, then); no value is left at 0 or 1."""
    if not path:
        state_dict = export_torch(create(name, **config))
    else:
        module, _, cls = path.rpartition(".")
        accepted = {key: value for key, value in config.items() if key != "official_pad"}
        state_dict = getattr(importlib.import_module(module), cls)(**accepted).state_dict()
    rng = np.random.default_rng(0)
    return {key: _moved(key, np.array(value), rng) for key, value in state_dict.items()}


def _moved(key, value, rng):
    derived = ("attn_mask", "relative_position_index", "num_batches_tracked")
    if value.dtype != np.float32 or any(word in key for word in derived):
        return value
    if value.size == 1:  # MPRNet's one slope has many names: all must get the same value
        return value + np.float32(0.05)
    noise = 0.02 * rng.standard_normal(value.shape).astype(np.float32)
    return value + (np.abs(noise) if key.endswith("running_var") else noise)


@pytest.mark.parametrize("case", CASES)
def test_the_same_as_spandrel(case):
    config, path, size = CASES[case]
    name = case.split()[0]
    if path.startswith("spandrel_extra_arches"):
        pytest.importorskip("spandrel_extra_arches").install(ignore_duplicates=True)
    state_dict = official_state_dict(name, config, path)
    theirs = spandrel.ModelLoader().load_from_state_dict({k: torch.from_numpy(v.copy()) for k, v in state_dict.items()})
    x = np.random.default_rng(1).random((1, *size), np.float32)
    with torch.no_grad():
        wanted = theirs.model.eval()(torch.from_numpy(rearrange(x, "b h w c -> b c h w")))
    wanted = rearrange(_image(wanted), "b c h w -> b h w c")
    graph, params = nnx.split(import_torch(skeleton(name, **config), state_dict))
    y = np.asarray(jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, x))
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


def _image(output):
    """The image of networks that return several things, the best first."""
    return np.asarray(output[0] if isinstance(output, (list, tuple)) else output)
