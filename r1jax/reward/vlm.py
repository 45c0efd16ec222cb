"""Scorers that are vision-language models of the `transformers` library: any that AutoModelForImageTextToText can load.

Needs the extra `mllm` (torch). Images are uint8 NHWC, sRGB; they reach the model's own processor as they are.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from r1jax.errors import R1JaxError, UsageError
from r1jax.reward import levels as words
from r1jax.reward.levels import Rating, level_tokens
from r1jax.reward.scorer import one_line, register_scorer


class TransformersScorer:
    """Rates images by the level word that a vision-language model would say next; see `r1jax.reward.levels`.

    One forward pass an image, no generation. Images of one size run together, so nothing is padded and no image's score
    depends on those beside it, but for the last bits of the arithmetic.

    Args:
      model: a Hugging Face repository, or a folder with model and processor.
      prompt, prefix, levels, weights: see `Rating`.
      dtype: float32, bfloat16, float16; by default bfloat16 on a GPU and float32 elsewhere.
      device: "cpu", "cuda:1", ..., or "auto", which spreads the model over all GPUs; by default a GPU if there is one.
      crops: so many full-resolution crops of `crop_size` pixels are rated beside the whole image, and the score is the
        mean of the image's and of the crops' mean: models that shrink an image to 448 pixels do not see fine noise.
      crop_size: side of a crop. An image that is no larger is not cropped.
      batch_size: most images, crops included, in one forward pass.
      revision: branch, tag or commit of the repository.
      processor: keyword arguments of AutoProcessor.from_pretrained, such as {"max_pixels": 1003520}.

    Raises:
      R1JaxError: torch is missing, or the model cannot be loaded.
      UsageError: the tokenizer cannot tell the level words apart, or an argument has no meaning.
    """

    def __init__(
        self,
        model: str,
        prompt: str = words.QUESTION,
        prefix: str = words.ANSWER,
        levels: Sequence[str] = words.LEVELS,
        weights: Sequence[float] = words.WEIGHTS,
        dtype: str = "",
        device: str = "",
        crops: int = 0,
        crop_size: int = 448,
        batch_size: int = 16,
        revision: str = "main",
        processor: Mapping[str, Any] | None = None,
    ):
        self.rating = Rating(prompt, prefix, tuple(levels), tuple(weights))
        if crops < 0 or crop_size < 1 or batch_size < 1:
            raise UsageError(f"crops={crops}, crop_size={crop_size}, batch_size={batch_size}: too small")
        self._crops, self._crop_size, self._batch_size = crops, crop_size, batch_size
        torch, transformers = _libraries()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or ("bfloat16" if device != "cpu" and torch.cuda.is_available() else "float32")
        if not hasattr(torch, dtype):
            raise UsageError(f"dtype: torch has no {dtype!r}; want float32, bfloat16 or float16")
        try:
            self.processor = transformers.AutoProcessor.from_pretrained(model, revision=revision, **(processor or {}))
            self.model = transformers.AutoModelForImageTextToText.from_pretrained(
                model,
                revision=revision,
                dtype=getattr(torch, dtype),
                **({"device_map": "auto"} if device == "auto" else {}),
            ).eval()
            self.model = self.model if device == "auto" else self.model.to(device)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise R1JaxError(f"scorer model {model!r}: cannot be loaded ({one_line(error)})") from error
        self._torch, self._device, self._dtype = torch, self.model.device, dtype
        tokenizer = self.processor.tokenizer
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        self._level_ids = level_tokens(encode, tokenizer.decode, self.rating.levels)
        self._text, self._text_options = self._prompt(tokenizer)
        self.name = model
        how = [prompt, prefix, levels, weights, dtype, crops, crop_size, processor, transformers.__version__]
        self.version = _digest([_weights_of(model, self.model), how])

    def score(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        """Returns one score an image, on the scale of the weights."""
        whole = self._rate(images)
        _, height, width, _ = images.shape
        boxes = crop_boxes(height, width, self._crops, self._crop_size)
        if not boxes:
            return whole
        parts = [self._rate(images[:, top:bottom, left:right]) for top, bottom, left, right in boxes]
        return np.asarray((whole + np.mean(parts, axis=0)) / 2, np.float32)

    def level_logits(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, "b levels"]:
        """Returns the logits of the level words, one forward pass for all images."""
        from PIL import Image

        inputs = self.processor(
            images=[[Image.fromarray(image)] for image in images],
            text=[self._text] * len(images),
            return_tensors="pt",
            **self._text_options,
        )
        inputs = inputs.to(self._device, dtype=getattr(self._torch, self._dtype))
        with self._torch.inference_mode():
            # Images of one size make prompts of one length: the last position is each one's own.
            logits = self.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            return logits[:, self._level_ids].float().cpu().numpy()

    def _rate(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float32[np.ndarray, " b"]:
        starts = range(0, len(images), self._batch_size)
        logits = [self.level_logits(np.ascontiguousarray(images[s : s + self._batch_size])) for s in starts]
        return self.rating.score(np.concatenate(logits)) if logits else np.zeros(0, np.float32)

    def _prompt(self, tokenizer: Any) -> tuple[str, dict[str, Any]]:
        """Returns the text before the level word, and how to tokenise it."""
        content = [{"type": "image"}, {"type": "text", "text": self.rating.prompt}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return text + self.rating.prefix, {"add_special_tokens": False} if begun else {}


def crop_boxes(height: int, width: int, count: int, size: int) -> list[tuple[int, int, int, int]]:
    """Returns (top, bottom, left, right) of `count` square crops spread over an image, the same for every image of a size.

    They lie on the golden-ratio lattice, whose first points cover a rectangle evenly for any count. None for an image that
    is no larger than a crop.
    """
    if max(height, width) <= size or not count:
        return []
    tall, wide = min(size, height), min(size, width)
    steps = np.arange(count)
    tops = np.rint((height - tall) * ((0.5 + steps * 0.7548776662466927) % 1)).astype(int)
    lefts = np.rint((width - wide) * ((0.5 + steps * 0.5698402909980532) % 1)).astype(int)
    return [(int(t), int(t) + tall, int(left), int(left) + wide) for t, left in zip(tops, lefts)]


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import torchvision  # noqa: F401  (the image processors of transformers need it)
        import transformers
    except ImportError as error:
        raise R1JaxError(f"this scorer needs torch ({error}); install it with: pip install 'r1jax[mllm]'") from None
    return torch, transformers


def _weights_of(model: str, loaded: Any) -> Any:
    """Returns what changes when the weights do: the commit, or names, sizes and times of a folder's files."""
    if not os.path.isdir(model):
        return [model, getattr(loaded.config, "_commit_hash", None)]
    files = sorted(path for path in pathlib.Path(model).iterdir() if path.is_file())
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:12]


# --- Presets: any argument can still be given ------------------------------------------------------------------------

_Q_SIT: dict[str, Any] = {"prompt": words.Q_SIT_QUESTION, "prefix": words.Q_SIT_ANSWER, "levels": words.Q_SIT_LEVELS}

register_scorer("vlm")(TransformersScorer)
_PRESETS: dict[str, dict[str, Any]] = {
    "q-sit": {"model": "zhangzicheng/q-sit", **_Q_SIT},
    "q-sit-mini": {"model": "zhangzicheng/q-sit-mini", **_Q_SIT},
    "qwen2.5-vl": {"model": "Qwen/Qwen2.5-VL-7B-Instruct"},
    "qwen3-vl": {"model": "Qwen/Qwen3-VL-8B-Instruct"},
    "smolvlm": {"model": "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "prefix": f" {words.ANSWER}"},
}
for _name, _defaults in _PRESETS.items():
    register_scorer(_name)(functools.partial(TransformersScorer, **_defaults))
