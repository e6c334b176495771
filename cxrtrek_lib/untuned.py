"""The checkpoint as fine-tuning found it, made again: a baseline, and where ablations start but for small.

It is a function of params and of the tuned checkpoint's image encoder: no second copy of weights is kept.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from cxrtrek_lib import model as models
from cxrtrek_lib.chat import Case

# Tokens of an answer of `small`, whose decoder is made from nothing: it says one thing over and over and
# never ends (251 answers of 160 tokens took 64 CPU-seconds, of 32 tokens 10).
FROM_NOTHING = 16


def words(cases: Iterable[Case]) -> list[str]:
    """Questions and answers of the training cases: what `small` learns its vocabulary from."""
    return [text for case in cases for turn in case.turns for text in (turn.question, turn.answer)]


def rebuild(
    trained: Path, out: Path, texts: Sequence[str], settings: dict[str, Any], *, seed: int
) -> Path | str:
    """The checkpoint before fine-tuning: folder `out`, or the id of a checkpoint that brings its own encoder.

    trained   folder of the tuned checkpoint, whose image encoder the assembled ones take over: the pretrained
              one, unless model.tune_encoder tuned it, which a line then says
    texts     `words` of the cases that it was tuned on
    settings  the `model` group of params.yaml
    seed      that of the training: projector and decoder get the weights that they had then
    Raises ValueError, one line, when these texts give another vocabulary than the tuned checkpoint has.
    """
    checkpoint = settings["checkpoint"]
    if checkpoint not in models.ASSEMBLED:
        return checkpoint
    tuned, tuned_processor = models.load(trained, dtype=torch.float32)  # as it was assembled
    model, processor = models.assemble(checkpoint, models.vision_tower(tuned), texts, settings, seed=seed)
    if processor.tokenizer.get_vocab() != tuned_processor.tokenizer.get_vocab():
        raise ValueError(
            f"{trained}: its vocabulary is not that of these training cases and settings; run finetune again"
        )
    if settings["tune_encoder"]:
        print("model.tune_encoder is true: the untuned checkpoint reads films with the encoder as tuned")
    models.save(model, processor, out)
    return out


def longest(checkpoint: str, max_new_tokens: int) -> int:
    """Longest answer, in tokens, of the untuned checkpoint: that of the tuned one, less for `small`."""
    return min(max_new_tokens, FROM_NOTHING) if checkpoint == "small" else max_new_tokens
