"""How an assembled checkpoint starts: what its image tokens resemble, and what a question finds in them."""

import pytest
import torch
from torch.nn import functional as F

from cxrtrek_lib.assembled import assemble_small
from cxrtrek_lib.encoder import CHANNELS, GEOMETRY, GRID, SCALARS, CxrEncoder, CxrEncoderConfig
from cxrtrek_lib.look_up import BEGIN, name_image_tokens, start_of

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


# The side of a finding is not asked for: a question finds the tokens of both.
ASKED = ["pleural effusion", "pleural effusion", "cardiomegaly", "nodule", "pacemaker"]
QUESTIONS = [f"Do you see {name}? Answer with yes or no only." for name in ASKED]


def small(layers: int = 2):
    torch.manual_seed(0)
    encoder = CxrEncoder(CxrEncoderConfig(findings=FINDINGS, regions=REGIONS)).eval()
    texts = [f"Where is the {name}? The {name} is there. Yes. No." for name in WORDS for _ in range(20)]
    texts += QUESTIONS * 20
    return assemble_small(encoder, texts, vocabulary=400, hidden_size=128, layers=layers, heads=2, seed=0)


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


def test_an_image_token_can_start_out_as_the_words_of_its_name():
    model, processor = small()
    own = torch.arange(len(WORDS))
    assert (likeness(model, processor).argmax(-1) == own).float().mean() < 0.5, "turned away from all words"
    name_image_tokens(model, processor.tokenizer)
    assert (likeness(model, processor).argmax(-1) == own).float().mean() > 0.9


def heard(model, processor) -> torch.Tensor:
    """How far Yes gains on No when a finding gets likelier: float [questions, findings]."""
    tokenizer, tower = processor.tokenizer, model.model.vision_tower
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    rows = []
    for question in QUESTIONS:
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
        text = text.replace("<image>", "<image>" * tower.config.n_tokens)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        film = F.pad(
            torch.zeros(tower.config.n_tokens, CHANNELS + GEOMETRY + SCALARS), (0, tower.config.n_extra + 1)
        )
        film[:, -tower.config.n_extra - 1 :] = tower.names()
        film = film.unsqueeze(0).requires_grad_()
        logits = model(input_ids=ids, pixel_values=film).logits[0, -1]
        (slope,) = torch.autograd.grad(logits[yes] - logits[no], film)
        rows.append(slope[0, GRID * GRID : GRID * GRID + len(FINDINGS), CHANNELS + GEOMETRY])
    return torch.stack(rows)


def test_an_untrained_decoder_hears_most_of_the_finding_that_is_asked_about():
    model, processor = small()
    found = heard(model, processor)
    assert (found.diagonal() > found.mean(0)).all(), "each finding counts for more in its own question"


@torch.no_grad()
def looked_at(model, processor, question: str) -> tuple[torch.Tensor, list[str]]:
    """Attention of each head of the first layer, float [heads, tokens, tokens], and what the tokens are."""
    model.set_attn_implementation("eager")
    encoder = model.model.vision_tower.config
    film = "<image>" * encoder.n_tokens
    text = f"{BEGIN}<|user|>{film}{question}"
    ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    pixels = torch.zeros(1, 3, 224, 224)
    (first, *_) = model(input_ids=ids, pixel_values=pixels, output_attentions=True).attentions
    tokens = processor.tokenizer.convert_ids_to_tokens(ids[0].tolist())
    start = tokens.index("<image>") + GRID * GRID
    tokens[start : start + len(WORDS)] = [*FINDINGS, *REGIONS]
    return first[0], tokens


def test_a_word_finds_the_left_token_in_one_head_and_the_right_one_in_the_other():
    heads, tokens = looked_at(*small(), " pleural effusion")
    words = [i for i, token in enumerate(tokens) if token in ("Ġpleural", "Ġeffusion")]
    left, right = tokens.index("pleural effusion|left"), tokens.index("pleural effusion|right")
    assert len(words) == 2
    for word in words:
        assert heads[0, word].argmax() == left and heads[1, word].argmax() == right


def test_words_that_name_nothing_look_at_the_first_token_most():
    heads, tokens = looked_at(*small(), " is there? Answer with yes or no only.")
    words = max(i for i, token in enumerate(tokens) if token == "<image>") + 1
    assert tokens[0] == BEGIN and heads[:, words:].mean((0, 1)).argmax() == 0


def test_without_that_start_it_does_not():
    model, processor = small()
    torch.manual_seed(1)
    for layer in model.model.language_model.layers:
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            torch.nn.init.normal_(getattr(layer.self_attn, part).weight, std=0.02)
    found = heard(model, processor)
    assert not (found.diagonal() > found.mean(0)).all()


@pytest.mark.parametrize("size, heads", [(16, 4), (16, 1), (48, 3), (128, 2)])
def test_any_shape_the_parameters_allow_can_start(size, heads):
    encoder = CxrEncoder(CxrEncoderConfig(findings=FINDINGS, regions=REGIONS)).eval()
    model, _ = assemble_small(
        encoder, QUESTIONS, vocabulary=300, hidden_size=size, layers=2, heads=heads, seed=0
    )
    assert all(weights.isfinite().all() for weights in model.parameters())


def test_a_decoder_of_one_layer_starts_with_the_first_step_only():
    model, processor = small(layers=1)
    assert heard(model, processor).isfinite().all()
    turn = start_of(model).turn
    assert torch.allclose(turn @ turn.T, torch.eye(128), atol=1e-5)
