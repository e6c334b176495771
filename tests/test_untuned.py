"""The untuned checkpoint is the one that training began with, weight by weight."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cxrtrek_lib import model as models
from cxrtrek_lib import untuned
from tests import tiny

SETTINGS = {
    "checkpoint": "small", "trust_remote_code": False, "tune_encoder": False, "vocabulary": 330,
    "hidden_size": 32, "layers": 2, "heads": 2, "lora_rank": 4,
}  # fmt: skip
TEXTS = untuned.words(tiny.cases()) * 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(start, trained): as notebook 04 assembles a checkpoint, and the same with another decoder."""
    start, trained = (tmp_path_factory.mktemp(name) for name in ("start", "trained"))
    encoder = models.vision_tower(tiny.checkpoint()[0])
    model, processor = models.assemble("small", encoder, TEXTS, SETTINGS, seed=5)
    models.save(model, processor, start)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.add_(1.0)
    models.save(model, processor, trained)
    return start, trained


def test_words_are_the_questions_and_answers_of_every_case_in_order():
    words = untuned.words(tiny.cases())
    assert words[:2] == [tiny.TURNS[0].question, tiny.TURNS[0].answer]
    assert len(words) == 2 * sum(len(case.turns) for case in tiny.cases())


def test_it_has_every_weight_and_word_of_the_start_of_training(folders, tmp_path):
    start, trained = folders
    found = untuned.rebuild(trained, tmp_path / "again", TEXTS, SETTINGS, seed=5)
    assert found == tmp_path / "again"
    one, two, tuned = (load_file(folder / "model.safetensors") for folder in (start, found, trained))
    assert one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)
    assert any(not tuned[name].equal(two[name]) for name in tuned)
    assert (found / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    other = untuned.rebuild(trained, tmp_path / "other", TEXTS, SETTINGS, seed=6)
    apart = load_file(other / "model.safetensors")
    assert any(not one[name].equal(apart[name]) for name in one)


def test_a_checkpoint_that_brings_its_own_encoder_is_itself(tmp_path):
    other = SETTINGS | {"checkpoint": "someone/model"}
    assert untuned.rebuild(Path("unused"), tmp_path, TEXTS, other, seed=0) == "someone/model"


def test_other_training_cases_and_a_tuned_encoder_are_told(folders, tmp_path, capsys):
    _, trained = folders
    with pytest.raises(ValueError, match="its vocabulary is not that of these training cases"):
        untuned.rebuild(trained, tmp_path / "a", ["quite other words"] * 9, SETTINGS, seed=5)
    untuned.rebuild(trained, tmp_path / "b", TEXTS, SETTINGS | {"tune_encoder": True}, seed=5)
    assert "the untuned checkpoint reads films with the encoder as tuned" in capsys.readouterr().out


def test_only_a_decoder_made_from_nothing_is_cut_short():
    assert untuned.longest("small", 160) == untuned.FROM_NOTHING
    assert untuned.longest("small", 8) == 8
    assert untuned.longest("smollm2", 160) == untuned.longest("someone/model", 160) == 160
