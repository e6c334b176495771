"""Tiny checkpoints of the families a user may name: real config classes, random weights, own processors."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cxrtrek_lib import model as models
from cxrtrek_lib.assembled import small_tokenizer
from tests import tiny

SIDE = 28
VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
TEXT = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=2048,
)
# As the hub's own templates write a turn; ChatML is Qwen2.5-VL's and InternVL's.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{IMAGE}{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}"
    "{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
IDEFICS = (
    "<|begin_of_text|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
    "{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{{ 'Assistant:' if add_generation_prompt else '' }}"
)
# LLaVA-1.5's: it closes no answer, and leaves the beginning-of-text token to the tokenizer.
VICUNA = (
    "{% for m in messages %}{{ m['role'].upper() }}: "
    "{% for c in m['content'] %}{{ '<image>\n' if c['type'] == 'image' else c['text'] }}{% endfor %} "
    "{% endfor %}"
    "{{ 'ASSISTANT:' if add_generation_prompt else '' }}"
)


def tokenizer(
    special: list[str], *, eos: str, bos: str | None = None, **named: str
) -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer with a family's own special tokens."""
    words = [text for turn in tiny.TURNS for text in (turn.question, turn.answer)] * 5
    base = small_tokenizer(words, vocabulary=330)
    made = PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer,
        pad_token="<|pad|>",
        eos_token=eos,
        bos_token=bos,
        extra_special_tokens=named,
    )
    made.add_special_tokens({"additional_special_tokens": [t for t in special if t not in named.values()]})
    return made


def llava() -> tuple:
    words = tokenizer(["<image>"], eos="</s>", bos="<s>")
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.bos_token_id)]
    )
    vision = CLIPVisionConfig(**VISION, image_size=SIDE, patch_size=14)
    text = LlamaConfig(vocab_size=len(words), **TEXT)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>")
    )
    processor = LlavaProcessor(
        LlavaImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        words,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=VICUNA,
    )
    return LlavaForConditionalGeneration(config), processor


def qwen() -> tuple:
    special = [
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ]
    words = tokenizer(special, eos="<|im_end|>")
    at = words.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(words),
            **TEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            bos_token_id=None,
            eos_token_id=at("<|im_end|>"),
            pad_token_id=words.pad_token_id,
        ),
        vision_config=dict(
            depth=2,
            hidden_size=32,
            intermediate_size=48,
            num_heads=2,
            out_hidden_size=32,
            fullatt_block_indexes=[1],
            window_size=56,
        ),
        image_token_id=at("<|image_pad|>"),
        video_token_id=at("<|video_pad|>"),
        vision_start_token_id=at("<|vision_start|>"),
        vision_end_token_id=at("<|vision_end|>"),
    )
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84}),
        words,
        chat_template=CHATML.replace("{IMAGE}", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def gemma() -> tuple:
    special = ["<bos>", "<start_of_turn>", "<end_of_turn>"]
    words = tokenizer(
        special,
        eos="<end_of_turn>",
        bos="<bos>",
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
    )
    at = words.convert_tokens_to_ids
    config = Gemma3Config(
        text_config=Gemma3TextConfig(
            vocab_size=len(words),
            **TEXT,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention"],
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        ),
        vision_config=SiglipVisionConfig(
            **VISION, image_size=56, patch_size=14, vision_use_head=False
        ).to_dict(),
        mm_tokens_per_image=4,
        boi_token_index=at("<start_of_image>"),
        eoi_token_index=at("<end_of_image>"),
        image_token_index=at("<image_soft_token>"),
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        words,
        chat_template=GEMMA,
        image_seq_length=4,
    )
    return Gemma3ForConditionalGeneration(config), processor


def internvl() -> tuple:
    words = tokenizer(
        ["<|im_start|>", "<|im_end|>"],
        eos="<|im_end|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    at = words.convert_tokens_to_ids
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**VISION, image_size=[56, 56], patch_size=[14, 14]),
        text_config=Qwen2Config(
            vocab_size=len(words),
            **TEXT,
            bos_token_id=None,
            eos_token_id=at("<|im_end|>"),
            tie_word_embeddings=True,
        ),
        image_token_id=at("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessorPil(
            size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        words,
        image_seq_length=4,
        chat_template=CHATML.replace("{IMAGE}", "<IMG_CONTEXT>\n"),
    )
    return InternVLForConditionalGeneration(config), processor


def idefics() -> tuple:
    special = [
        "<|begin_of_text|>",
        "<fake_token_around_image>",
        "<image>",
        "<end_of_utterance>",
        "<global-img>",
    ]
    special += [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    words = tokenizer(special, eos="<end_of_utterance>", bos="<|begin_of_text|>")
    config = Idefics3Config(
        vision_config=dict(**VISION, image_size=56, patch_size=14),
        text_config=LlamaConfig(vocab_size=len(words), **TEXT, pad_token_id=words.pad_token_id),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
    )
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56}),
        words,
        image_seq_len=4,
        chat_template=IDEFICS,
    )
    return Idefics3ForConditionalGeneration(config), processor


# Family -> what makes a tiny one. SmolVLM is Idefics3 with another name; its processor needs num2words.
FAMILIES = {
    "LLaVA": llava,
    "Qwen2.5-VL": qwen,
    "Gemma3": gemma,
    "InternVL": internvl,
    "Idefics3": idefics,
}


@cache
def checkpoint(name: str, std: float = 0.25) -> tuple:
    """(model, processor, renderer) of a family, in evaluation mode, varied enough to give varied answers."""
    torch.manual_seed(2)
    model, processor = FAMILIES[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=std)
    models.vision_tower(model).requires_grad_(False)
    return model.eval(), processor, models.renderer(model, processor)


def films(folder: Path) -> list[tiny.Case]:
    """tiny.cases() with five real films in `folder`, not all of one shape."""
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 255, (60, 60 if i < 3 else 90), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"film{i}.png")
    return [
        tiny.Case(c.sample_id, c.patient_id, tuple(folder / p.name for p in c.images), c.turns)
        for c in tiny.cases()
    ]
