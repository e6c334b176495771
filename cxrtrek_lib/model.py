"""Any checkpoint: load it, add adapters, freeze what stays, read films for it, run it, save it.

Every checkpoint is an ordinary Hugging Face folder that `AutoModelForImageTextToText` and `AutoProcessor`
load, made here (assembled.py) or by anyone else. What differs between families (Qwen2.5-VL, Gemma3, InternVL,
SmolVLM, LLaVA ...) is asked of the model and its processor, never of its name.

SmolVLM's own processor needs the packages num2words and torchvision.

What is tuned: of the language model its adapters (or all of it), and the projector, where it is a module of
its own. The vision tower is frozen, and with it a projector that is part of it (Qwen2.5-VL's merger).
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin
from transformers.utils import is_torchvision_available

from cxrtrek_lib import files, images
from cxrtrek_lib.assembled import assemble_small, assemble_smollm2
from cxrtrek_lib.batches import Batch
from cxrtrek_lib.chat import Film, Renderer
from cxrtrek_lib.encoder import CxrEncoder

# Checkpoints made here from the pretrained encoder; every other name is a Hugging Face id or a local folder.
ASSEMBLED = ("small", "smollm2")
# What families call the layers between vision tower and language model.
PROJECTORS = ("multi_modal_projector", "connector")

if not is_torchvision_available():
    # Transformers makes no video processor without torchvision and then refuses the whole processor (of
    # Qwen2.5-VL, InternVL). No film is a video: processors are read and written without that part.
    _attributes = ProcessorMixin.get_attributes.__func__
    ProcessorMixin.get_attributes = classmethod(
        lambda cls: [name for name in _attributes(cls) if name != "video_processor"]
    )


def assemble(
    checkpoint: str,
    encoder: CxrEncoder | None,
    texts: Iterable[str],
    settings: dict,
    *,
    seed: int,
    trust_remote_code: bool = False,
):
    """(model, processor) to tune, its vision tower frozen.

    encoder   pretrained encoder of an assembled checkpoint; None for one that brings its own
    texts     questions and answers that `small` learns its vocabulary from
    settings  the `model` group of params.yaml
    """
    if checkpoint == "small":
        names = ("vocabulary", "hidden_size", "layers", "heads")
        return assemble_small(encoder, texts, **{name: settings[name] for name in names}, seed=seed)
    if checkpoint == "smollm2":
        return assemble_smollm2(encoder, seed=seed)
    return load(checkpoint, trust_remote_code=trust_remote_code)


def load(checkpoint: str | Path, *, trust_remote_code: bool = False, dtype: torch.dtype | None = None):
    """(model, processor) of a checkpoint, ready to predict, its vision tower frozen.

    trust_remote_code  run the Python code that a checkpoint brings; rarely needed
    dtype              precision of the weights, which then stay on the CPU; None: bf16 on the GPU, or fp32
    Only safetensors are read. Raises ValueError, one line, when the checkpoint cannot be used.
    """
    # bf16 on a CPU is many times slower than fp32; on a GPU it is the other way round.
    device = "cuda" if dtype is None and torch.cuda.is_available() else "cpu"
    dtype = dtype or (torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            checkpoint,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
        processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged folder fails in as many ways as it has files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{checkpoint}: not a loadable image-text-to-text checkpoint ({reason})") from None
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{checkpoint}: half-written or of another version: {len(missing)} weights are missing "
            f"({missing[0]} ...); run the step that writes it again"
        )
    if vision_tower(model) is model:
        raise ValueError(f"{checkpoint}: a {model.config.model_type} checkpoint has no vision tower")
    vision_tower(model).requires_grad_(False)
    return model.eval().to(device), processor


def save(model, processor, folder: Path) -> None:
    """Write an ordinary Hugging Face folder (safetensors); adapters are merged into the weights."""
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def core(model) -> nn.Module:
    """The model under its adapters, if it has any."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def head(model) -> nn.Module:
    """The layer that turns hidden states [..., D] into logits [..., V]."""
    return core(model).get_output_embeddings()


def vision_tower(model) -> nn.Module:
    """The image encoder of any family; the model itself when it has none."""
    return core(model).get_encoder(modality="image")


def hidden_states(model, batch: Batch) -> Tensor:
    """Last hidden states of a batch [B, L, D], before the language-model head."""
    network = core(model)
    positions = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    return network.base_model(
        input_ids=batch.input_ids,
        # Padding stands on the right, where no answer looks: without a mask for it the fast kernels run.
        attention_mask=batch.attention_mask if batch.attention_mask.ndim == 4 else None,
        use_cache=False,
        **typed(network, batch.inputs),
        **positions,
    ).last_hidden_state


def typed(model, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Film inputs in the model's precision and on its device."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def add_lora(model, *, rank: int) -> PeftModel:
    """LoRA on every linear layer inside the language model; projector trained whole; the rest is frozen.

    Raises ValueError when the language model has no linear layer or the vision tower would be tuned.
    """
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules() if isinstance(module, nn.Linear)}
    inside -= {id(module) for module in vision_tower(model).modules()} | {id(head(model))}
    targets = [name for name, module in model.named_modules() if id(module) in inside]
    if not targets:
        raise ValueError(
            f"LoRA matches nothing: the language model of this {model.config.model_type} checkpoint "
            f"({type(decoder).__name__}) has no linear layer; set model.lora_rank to null to tune it whole"
        )
    projectors = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in PROJECTORS]
    return get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=projectors or None),
    )


def window(model) -> int | None:
    """Longest sequence of the model in tokens, or None when its config states none."""
    return getattr(core(model).config.get_text_config(), "max_position_embeddings", None)


def _takes(model, name: str) -> bool:
    return name in inspect.signature(core(model).forward).parameters


def type_name(model) -> str | None:
    """Under which name the model wants to know which tokens are films', or None."""
    return next((name for name in ("token_type_ids", "mm_token_type_ids") if _takes(model, name)), None)


def own_masks(model) -> str | None:
    """Why the model's attention masks must be its own; None when it is plainly causal in every layer.

    One forward per case is exact either way: where tokens of one film see each other in both directions
    (Gemma3), none of them sees past its film, so no answer depends on what is asked after it.
    """
    text = core(model).config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if type_name(model) == "token_type_ids":
        return "its tokens of one film see each other in both directions"
    if kinds != {"full_attention"} or getattr(text, "sliding_window", None):
        return (
            f"its layers are of kind {', '.join(sorted(kinds - {'full_attention'})) or 'sliding_attention'}"
        )
    return None


def packs(model) -> bool:
    """May questions asked alone share one copy of the films, told apart by a 4-D mask and own positions?

    Not with masks of the model's own (own_masks), and not where positions are grids over the films
    (Qwen2.5-VL): there each question takes a row of its own, films included. The losses are the same.
    """
    return own_masks(model) is None and type_name(model) is None


def renderer(model, processor) -> Renderer:
    """The renderer of a checkpoint: its template, window and whatever its family wants."""
    return Renderer(processor, window=window(model), packs=packs(model), type_ids=type_name(model))


class Pixels(Mapping):
    """Films by path, read and processed when asked for: the pixels of a cohort do not fit into memory."""

    def __init__(self, processor, paths: Sequence[Path], *, blank: bool):
        self.processor = processor
        self.blank = blank
        self.paths = dict.fromkeys(paths)
        self._read = lru_cache(maxsize=256)(self._read_film)

    def __getitem__(self, path: Path) -> Film:
        if path not in self.paths:
            raise KeyError(path)
        return self._read(path)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def _read_film(self, path: Path) -> Film:
        return film(self.processor, grey() if self.blank else images.read(path))


def grey() -> np.ndarray:
    """A blank film: uniform mid-grey, float [224, 224] in [0, 1]."""
    return np.full((224, 224), 0.5, np.float32)


def film(processor, pixels: np.ndarray) -> Film:
    """One film, float [H, W] in [0, 1], through the checkpoint's own processor."""
    colour = np.repeat(np.round(pixels * 255).astype(np.uint8)[..., None], 3, -1)
    found = processor(
        text=[processor.image_token],
        images=[colour],
        return_tensors="pt",
        return_text_replacement_offsets=True,
        add_special_tokens=False,
    )
    ((replaced,),) = found.pop("text_replacement_offsets")
    of_text = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}
    return Film(replaced["replacement"], {k: v for k, v in found.items() if k not in of_text})


@torch.no_grad()
def film_inputs(
    model, processor, paths: Sequence[Path], *, blank: bool = False, cache: Path | None = None
) -> Mapping[Path, Film]:
    """What the model takes for each film, by path.

    The encoder of an assembled checkpoint, while it is frozen, reads every film once, here: its tokens
    [1, T, D] stand for the pixels. Any other checkpoint gets what its own processor makes, when asked for.
    blank  every film is replaced by one of uniform mid-grey: what is left is what the words give away
    cache  folder in which those tokens are kept for the next run that reads the same film with the same
           encoder and processor (about 100 kB a film); it may be deleted at any time
    Raises ValueError or FileNotFoundError (one line) for a film that cannot be read.
    """
    unique = list(dict.fromkeys(paths))
    for path in unique:
        if not blank and not path.is_file():
            raise FileNotFoundError(f"{path}: this film is missing; render the cohort again")
    tower = vision_tower(model)
    if not isinstance(tower, CxrEncoder) or any(p.requires_grad for p in tower.parameters()):
        return Pixels(processor, unique, blank=blank)

    def tokens(one: Film) -> Film:
        # By itself: read together with others, the last bits of its tokens would depend on which those are.
        pixels = one.inputs["pixel_values"].to(tower.device, tower.dtype)
        return Film(one.text, {"pixel_values": tower(pixels).last_hidden_state.cpu()})

    grey_film = film(processor, grey())
    if blank:
        return dict.fromkeys(unique, tokens(grey_film))
    stored = _stored(cache, tower, processor, unique) if cache else {}
    read: dict[Path, Film] = {}
    for path in tqdm(unique, desc="reading films", unit="film", delay=2):
        if cache and stored[path].is_file():
            read[path] = Film(grey_film.text, load_file(stored[path]))
            continue
        read[path] = tokens(film(processor, images.read(path)))
        if cache:
            with files.whole(stored[path]) as temporary:
                save_file({k: v.contiguous() for k, v in read[path].inputs.items()}, temporary)
    return read


def _stored(cache: Path, tower: CxrEncoder, processor, paths: Sequence[Path]) -> dict[Path, Path]:
    """Where the tokens of each film are kept: by hash of encoder and processor, and of the film's bytes."""
    reader = blake2b(processor.image_processor.to_json_string().encode(), digest_size=8)
    reader.update(tower.device.type.encode() + Path(inspect.getfile(type(tower))).read_bytes())
    for name, weights in sorted(tower.state_dict().items()):
        reader.update(name.encode())
        reader.update(weights.cpu().contiguous().flatten().view(torch.uint8).numpy())
    folder = cache / reader.hexdigest()
    return {
        path: folder / f"{blake2b(path.read_bytes(), digest_size=16).hexdigest()}.safetensors"
        for path in paths
    }


def count_parameters(model) -> dict[str, int]:
    """How many parameters the model has, how many are tuned, how many the frozen image encoder holds."""
    parameters = list(model.parameters())
    return {
        "total": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "encoder": sum(p.numel() for p in vision_tower(model).parameters()),
    }
