"""Tiny random vision-language models of real `transformers` classes, with a tokenizer made here: nothing is downloaded."""

import pathlib

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from r1jax.reward.levels import ANSWER, LEVELS, Q_SIT_ANSWER, Q_SIT_LEVELS, Q_SIT_QUESTION, QUESTION

WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PLACEHOLDER = {"llava_onevision": "<image>", "qwen2_5_vl": QWEN_IMAGE, "qwen3_vl": QWEN_IMAGE, "smolvlm": "<image>"}


def chat_text(kind: str, question: str, answer: str) -> str:
    """The prompt that CHAT renders, written out."""
    return f"<|im_start|>user\n{PLACEHOLDER[kind]}{question}<|im_end|>\n<|im_start|>assistant\n{answer}"


def make(kind: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes model and processor of a kind, as a published checkpoint has them."""
    torch.manual_seed(3)
    model, processor = globals()[f"_{kind}"](folder)
    with torch.no_grad():  # the usual initialisation says almost the same about every image
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(*special: str, **named: str) -> hf.PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = " ".join([*LEVELS, *Q_SIT_LEVELS]) + " "
    made.train_from_iterator([QUESTION, Q_SIT_QUESTION, ANSWER, Q_SIT_ANSWER, words * 20], trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<|im_end|>", extra_special_tokens=named
    )


def _chat(kind: str) -> str:
    return CHAT.replace("IMAGE", PLACEHOLDER[kind])


def _llava_onevision(folder):
    tokens = _tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**WIDE, image_size=28, patch_size=14),
        text_config=hf.Qwen2Config(**WIDE, num_key_value_heads=1, vocab_size=len(tokens)),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    side = {"height": 28, "width": 28}
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=grid),
        tokens,
        hf.LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_chat("llava_onevision"),
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen(kind, config_class, model_class, processor_class, text, vision, patch):
    special = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    names = ["image_token", "video_token", "vision_start_token", "vision_end_token"]
    tokens = _tokenizer(*special, **dict(zip(names, special, strict=True)))
    ids = {f"{name}_id": tokens.convert_tokens_to_ids(word) for name, word in zip(names, special, strict=True)}
    config = config_class(
        text_config={**WIDE, "num_key_value_heads": 2, "vocab_size": len(tokens), "rope_parameters": MROPE, **text},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": patch, **vision,
        },
        **ids,
    )  # fmt: skip
    size = {"shortest_edge": 4 * patch**2, "longest_edge": 64 * patch**2}
    processor = processor_class(
        hf.Qwen2VLImageProcessor(size=size, patch_size=patch),
        tokens,
        hf.Qwen2VLVideoProcessor(patch_size=patch) if kind == "qwen2_5_vl" else hf.Qwen3VLVideoProcessor(),
        chat_template=_chat(kind),
    )
    return model_class(config), processor


def _qwen2_5_vl(folder):
    classes = hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLProcessor
    return _qwen("qwen2_5_vl", *classes, {}, {"window_size": 56, "fullatt_block_indexes": [1]}, patch=14)


def _qwen3_vl(folder):
    classes = hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration, hf.Qwen3VLProcessor
    vision = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    return _qwen("qwen3_vl", *classes, {"head_dim": 16}, vision, patch=16)


def _smolvlm(folder):
    places = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    special = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *places]
    tokens = _tokenizer(*special, image_token="<image>")
    config = hf.SmolVLMConfig(
        vision_config={**WIDE, "image_size": 56, "patch_size": 14},
        text_config=hf.LlamaConfig(**WIDE, num_key_value_heads=1, vocab_size=len(tokens), pad_token_id=0),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = hf.SmolVLMImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    processor = hf.SmolVLMProcessor(
        images, tokens, hf.SmolVLMVideoProcessor(), image_seq_len=4, chat_template=_chat("smolvlm")
    )
    return hf.SmolVLMForConditionalGeneration(config), processor
