"""DeQA-Score (arXiv 2501.11561) and Q-Align (arXiv 2312.17090) in JAX: no PyTorch, no tokenizer, no pinned libraries.

Both are mPLUG-Owl2 asked the same question in the same words, so that the prompt is a constant of 92 tokens, 65 of them
the image's, and a score is one forward pass.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh
from jaxtyping import Array, Float, Float32, UInt8
from PIL import Image

from r1jax.errors import R1JaxError, UsageError
from r1jax.images.resize import resize_bicubic
from r1jax.nets.mplug_owl2 import IMAGE_TOKEN, AbstractorConfig, LLMConfig, MPLUGOwl2, VisionConfig
from r1jax.reward.scorer import GraphScorer, one_line, register_scorer
from r1jax.weights.streamed import load_checkpoint, over_devices

# "USER: How would you rate the quality of this image?\n<|image|>\nASSISTANT: The quality of the image is", in LLaMA's tokens
BEFORE = (1, 3148, 1001, 29901, 1128, 723, 366, 6554, 278, 11029, 310, 445, 1967, 29973, 13)
AFTER = (29871, 13, 22933, 9047, 13566, 29901, 450, 11029, 310, 278, 1967, 338)
PROMPT = np.array([(*BEFORE, IMAGE_TOKEN, *AFTER)])
LEVELS = np.array([15129, 1781, 6534, 6460, 4319])  # excellent, good, fair, poor, bad
WEIGHTS = np.array([5.0, 4.0, 3.0, 2.0, 1.0], np.float32)

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)  # CLIP's
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_BORDER = (122, 116, 104)  # CLIP's mean in 8 bits, around images that are not square
_SPLIT_ALONG_INPUTS = re.compile(r"\.(o_proj|down_proj|fc2|dense|out_proj|w2)\.weight$")


class DeQAScorer:
    """Rates images with a published mPLUG-Owl2 checkpoint on JAX's devices.

    Args:
      checkpoint: a Hugging Face repository, downloaded once, or a folder: config.json and shards, .safetensors or .bin.
      dtype: of weights and activations; float32 or bfloat16. The full-size network needs 16.4 GB in bfloat16.
      devices: how many of JAX's devices share the network; 0 is all.
      batch_size: most images in one forward pass.
      revision: branch, tag or commit of the repository.

    Raises:
      R1JaxError: the checkpoint is not there, damaged, or of another network.
      UsageError: an argument has no meaning.
    """

    def __init__(
        self,
        checkpoint: str = "zhiyuanyou/DeQA-Score-Mix3",
        dtype: str = "bfloat16",
        devices: int = 0,
        batch_size: int = 32,
        revision: str = "main",
    ):
        if dtype not in ("float32", "bfloat16") or batch_size < 1:
            raise UsageError(f"dtype={dtype!r}, batch_size={batch_size}: want float32 or bfloat16, and 1 or more")
        folder = _folder(checkpoint, revision)
        settings = network_config(folder)
        self._side = VisionConfig(**settings["visual_model"]).image_size
        self._batch_size = batch_size
        available = jax.devices()
        if not 0 <= devices <= len(available):
            raise UsageError(f"devices={devices}: JAX has {len(available)}")
        mesh = Mesh(np.array(available[: devices or None]), ("model",), axis_types=(AxisType.Auto,))
        abstract = nnx.eval_shape(lambda: MPLUGOwl2(**settings, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))
        module = load_checkpoint(abstract, folder, over_devices(mesh, _SPLIT_ALONG_INPUTS))
        graph, self._params = nnx.split(module)

        def rate(params: Any, pixels: Float[Array, "b s s 3"]) -> Float[Array, " b"]:
            merged: Any = nnx.merge(graph, params)
            return level_scores(merged, pixels)

        def apply(params: Any, x: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
            return rate(params, normalise(square_in_graph(x, self._side)))

        self._rate = jax.jit(rate)
        self.graph = GraphScorer(apply, self._params)
        self.name = checkpoint
        self.version = f"{_fingerprint(checkpoint, folder)}-{dtype}"

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Returns one score an image on 1..5; the batch is padded to a power of two, so that few programs are compiled."""
        scores = np.zeros(len(images), np.float32)
        for start in range(0, len(images), self._batch_size):
            part = np.stack([square(image, self._side) for image in images[start : start + self._batch_size]])
            size = min(self._batch_size, 1 << (len(part) - 1).bit_length())
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            pixels = normalise(padded.astype(np.float32) / 255)
            scores[start : start + len(part)] = np.asarray(self._rate(self._params, pixels))[: len(part)]
        return scores


def level_scores(module: MPLUGOwl2, pixels: Float[Array, "b s s 3"]) -> Float[Array, " b"]:
    """Returns the expected level 1..5 of normalised square images."""
    prompts = np.repeat(PROMPT, len(pixels), 0)
    logits = module.next_token_logits(pixels, prompts, LEVELS)
    return jax.nn.softmax(logits) @ jnp.asarray(WEIGHTS)


def square(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "s s 3"]:
    """Pads an image to a square with CLIP's mean colour and resizes it with Pillow's bicubic filter, as the authors do."""
    height, width, _ = image.shape
    size = max(height, width)
    canvas = np.full((size, size, 3), _BORDER, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = image
    return np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BICUBIC))


def square_in_graph(x: Float[Array, "b h w 3"], side: int) -> Float[Array, "b s s 3"]:
    """`square` of images in [0, 1] inside a program; at the image's border it differs by some levels of 255."""
    height, width = x.shape[1:3]
    size = max(height, width)
    top, left = (size - height) // 2, (size - width) // 2
    canvas = jnp.full((len(x), size, size, 3), np.array(_BORDER, np.float32) / 255)
    canvas = canvas.at[:, top : top + height, left : left + width].set(x)
    return jnp.round(jnp.clip(resize_bicubic(canvas, side, side), 0, 1) * 255) / 255


def normalise(x: Any) -> Any:
    """Returns images in [0, 1] as CLIP wants them."""
    return (x - _MEAN) / _STD


def network_config(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the arguments of `MPLUGOwl2` that a checkpoint's config.json states.

    Raises:
      R1JaxError: it is missing, or of another network.
    """
    path = folder / "config.json"
    try:
        told = json.loads(path.read_text())
        visual = told["visual_config"]
        parts = {"llm": told, "visual_model": visual["visual_model"], "visual_abstractor": visual["visual_abstractor"]}
    except OSError:
        raise R1JaxError(f"{path}: no such file; want the folder of an mPLUG-Owl2 checkpoint") from None
    except (ValueError, KeyError, TypeError):
        raise R1JaxError(f"{path}: describes no mPLUG-Owl2 (no visual_config)") from None
    if told.get("num_key_value_heads", told["num_attention_heads"]) != told["num_attention_heads"]:
        raise R1JaxError(f"{path}: num_key_value_heads differs from num_attention_heads, which no published one has")
    kinds = {"llm": LLMConfig, "visual_model": VisionConfig, "visual_abstractor": AbstractorConfig}
    known = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in kinds.items()}
    return {name: {k: v for k, v in part.items() if k in known[name]} for name, part in parts.items()}


def _folder(checkpoint: str, revision: str) -> pathlib.Path:
    if pathlib.Path(checkpoint).is_dir():
        return pathlib.Path(checkpoint)
    from huggingface_hub import HfApi, snapshot_download

    try:
        names = HfApi().list_repo_files(checkpoint, revision=revision)
        shards = "*.safetensors*" if any(name.endswith(".safetensors") for name in names) else "pytorch_model*"
        return pathlib.Path(snapshot_download(checkpoint, revision=revision, allow_patterns=["config.json", shards]))
    except Exception as online:
        try:  # without a connection, what was downloaded before
            return pathlib.Path(snapshot_download(checkpoint, revision=revision, local_files_only=True))
        except Exception:
            raise R1JaxError(f"checkpoint {checkpoint!r}: no such folder, and no download ({one_line(online)})") from None


def _fingerprint(checkpoint: str, folder: pathlib.Path) -> str:
    """Changes with the weights: the commit of a download, or of the names, sizes and times of a folder's files."""
    if not pathlib.Path(checkpoint).is_dir():
        return folder.name[:12]
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    told = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


register_scorer("deqa")(DeQAScorer)
register_scorer("q-align")(functools.partial(DeQAScorer, checkpoint="q-future/one-align"))
