"""What a training is told, and what the machine at hand can make of it: precision, memory."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate.utils.memory import should_reduce_batch_size

from cxrtrek_lib import model as models

SMALL_WIDTH = 256  # of a decoder whose matrices are too small to be shared between threads


@dataclass(frozen=True)
class Settings:
    """The `train` group of params.yaml, but for the two keys that the launcher reads."""

    short_epochs: int
    epochs: int
    patience: int | None
    batch_cases: int
    accumulation: int
    gradient_checkpointing: bool
    precision: str
    loss_per: str
    questions_per_case: int | None
    learning_rate: float
    muon_rate: float | None
    warmup_steps: int
    alone_share: float
    shuffled_share: float
    checkpoint_minutes: float


def precision(asked: str, device: str) -> str:
    """bf16, fp16 or fp32 for a type of device ("cpu", "cuda", "mps"). Raises ValueError for a bad choice.

    A processor does bf16 only when asked: one without instructions for it was 80 times slower than in fp32.
    """
    if device == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        best = "bf16" if bf16 else "fp16"
    else:
        bf16 = device == "cpu" and _processor_has_bf16()
        best = "fp32"
    if asked == "fp16" and device != "cuda" or asked == "bf16" and not bf16:
        raise ValueError(f"train.precision: this {device} has no {asked}; write auto or {best}")
    return best if asked == "auto" else asked


def processor_precision(asked: str) -> str:
    """bf16 when it is asked for and the processor has it, else fp32: for what runs there, GPU or not."""
    return "bf16" if asked == "bf16" and _processor_has_bf16() else "fp32"


def _processor_has_bf16() -> bool:
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def memory_advice(settings: Settings, processes: int) -> str:
    """Which parameter to change, from what to what, when memory does not suffice."""
    each = -(-settings.batch_cases // processes)
    if settings.accumulation < each:
        more, fewer = min(2 * settings.accumulation, each), max(1, settings.batch_cases // 2)
        return (
            f"raise train.accumulation {settings.accumulation} -> {more} (same result), or lower "
            f"train.batch_cases {settings.batch_cases} -> {fewer}"
        )
    if not settings.gradient_checkpointing:
        return "set train.gradient_checkpointing false -> true"
    if settings.questions_per_case != 1:
        now = settings.questions_per_case
        return f"lower train.questions_per_case {now or 'null'} -> {now // 2 if now else 12}"
    return "take a smaller model.checkpoint, or shard this one (train.accelerate_config)"


def few_threads(model) -> None:
    """Let PyTorch use one thread on a CPU when what is tuned is a small decoder behind a frozen encoder.

    Two threads need longer to meet than a matrix of such a decoder takes: on two cores one thread trained on
    6,400 tokens a second with another job beside it, two threads alone on 3,200.
    """
    frozen = not any(parameter.requires_grad for parameter in models.vision_tower(model).parameters())
    width = models.core(model).get_decoder().config.hidden_size
    if frozen and width <= SMALL_WIDTH and not torch.accelerator.is_available():
        torch.set_num_threads(1)


@contextmanager
def memory_told(settings: Settings, processes: int):
    """Turn the many forms of "out of memory" into a MemoryError of one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        raise MemoryError(f"out of memory while training; {memory_advice(settings, processes)}") from error
