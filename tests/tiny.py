"""A tiny checkpoint and a few hand-written cases, for the tests of chat, train and predict."""

from functools import cache
from pathlib import Path

import torch

from cxrtrek_lib import model as models
from cxrtrek_lib.assembled import assemble_small
from cxrtrek_lib.chat import Case, Film, Turn
from cxrtrek_lib.encoder import CxrEncoder, CxrEncoderConfig

BOX = "<|ref|> pleural effusion <|/ref|> <|box|>(12.00, 40.00), (45.00, 88.00)<|/box|>"
TURNS = (
    Turn(0, 1, "single-choice", "Which view is this? A. PA B. AP Answer with the option only.", "A. PA", 1),
    Turn(1, 2, "yes_no", "Is there a pleural effusion?", "Yes.", 1),
    Turn(2, 3, "detection", "Where is the pleural effusion?", BOX, 1),
    Turn(3, 5, "captioning", "What has changed since the prior film?", "The pleural effusion is new.", 2),
    Turn(4, 8, "captioning", "Write the impression.", "Left pleural effusion, mild. No pneumothorax.", 2),
)


def cases() -> list[Case]:
    """Three cases of different length; the second has no prior film."""
    films = [Path(f"film{i}.png") for i in range(5)]
    return [
        Case("a", "p1", (films[0], films[1]), TURNS),
        Case("b", "p2", (films[2],), TURNS[:3]),
        Case("c", "p3", (films[3], films[4]), TURNS[1:]),
    ]


@cache
def checkpoint(seed: int = 0, hidden_size: int = 32, std: float = 0.3):
    """(model, processor, renderer, film tokens) with random weights, large enough to give varied answers."""
    config = CxrEncoderConfig(findings=["pleural effusion|left", "cardiomegaly"], regions=["heart"])
    torch.manual_seed(seed)
    encoder = CxrEncoder(config).eval()
    texts = [text for turn in TURNS for text in (turn.question, turn.answer)] * 5
    model, processor = assemble_small(
        encoder, texts, vocabulary=330, hidden_size=hidden_size, layers=2, heads=2, seed=seed
    )
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=std)
    generator = torch.Generator().manual_seed(seed)
    text = processor.image_token * config.n_tokens
    tokens = {
        path: Film(
            text, {"pixel_values": torch.randn(1, config.n_tokens, config.hidden_size, generator=generator)}
        )
        for case in cases()
        for path in case.images
    }
    return model.eval(), processor, models.renderer(model, processor), tokens
