"""The checkpoints made here: how their image tokens start out."""

import torch
from torch.nn import functional as F

from cxrtrek_lib.assembled import assemble_small, name_image_tokens
from cxrtrek_lib.encoder import GRID, CxrEncoder, CxrEncoderConfig

FINDINGS = ["pleural effusion|left", "pleural effusion|right", "cardiomegaly", "nodule|left", "pacemaker"]
REGIONS = ["heart", "left hilum", "right clavicle"]
WORDS = [
    "left pleural effusion",
    "right pleural effusion",
    "cardiomegaly",
    "left nodule",
    "pacemaker",
    *REGIONS,
]


def small():
    torch.manual_seed(0)
    encoder = CxrEncoder(CxrEncoderConfig(findings=FINDINGS, regions=REGIONS)).eval()
    texts = [f"Where is the {name}? The {name} is there." for name in WORDS for _ in range(20)]
    return assemble_small(encoder, texts, vocabulary=400, hidden_size=64, layers=1, heads=2, seed=0)


def likeness(model, processor) -> torch.Tensor:
    """Cosine of each finding's or region's projected token of a film with the words of each name."""
    embedding = model.get_input_embeddings().weight
    ids = [processor.tokenizer(" " + words, add_special_tokens=False)["input_ids"] for words in WORDS]
    names = torch.stack([embedding[some].sum(0) for some in ids])
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    films = torch.rand(6, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        tower.fit_standardisation([films])
        tokens = projector(tower(films).last_hidden_state)[:, GRID * GRID : GRID * GRID + len(WORDS)]
        return F.cosine_similarity(tokens.unsqueeze(2), names, dim=-1)


def test_an_image_token_starts_out_as_the_words_of_its_name():
    model, processor = small()
    found = likeness(model, processor)
    assert (found.argmax(-1) == torch.arange(len(WORDS))).float().mean() > 0.9


def test_without_that_start_it_does_not():
    model, processor = small()
    torch.manual_seed(1)
    model.model.multi_modal_projector.linear_2.reset_parameters()
    found = likeness(model, processor)
    assert (found.argmax(-1) == torch.arange(len(WORDS))).float().mean() < 0.5
    name_image_tokens(model, processor.tokenizer)
    assert (likeness(model, processor).argmax(-1) == torch.arange(len(WORDS))).float().mean() > 0.9
