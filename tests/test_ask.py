"""Asking a checkpoint about films: the answers of `generate`, and one line for what cannot be asked."""

import numpy as np
import polars as pl
import pytest
from fake_answers import fake_film
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file

from cxrtrek_lib import ask, chat, decode, paths
from cxrtrek_lib import model as models
from tests import by_hugging_face, tiny

STEPS = (("Is there a pleural effusion?", 2), ("Where is it?", 3), ("What has changed?", 5), ("And now?", 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint on disk with four films: two PNG, a JPEG, a 16-bit PNG."""
    folder = tmp_path_factory.mktemp("ask")
    model, processor, *_ = tiny.checkpoint()
    models.save(model, processor, folder / "tiny")
    text = PngImagePlugin.PngInfo()
    text.add_text("image_origin", "simulated")
    Image.fromarray(fake_film(0)).save(folder / "now.png", pnginfo=text)
    Image.fromarray(fake_film(1)).save(folder / "before.png")
    Image.fromarray(fake_film(2)).save(folder / "film.jpg")
    Image.fromarray(fake_film(3).astype(np.uint16) * 16).save(folder / "deep.png")
    return folder


@pytest.fixture(autouse=True)
def forget():
    """No test takes the checkpoint that another one loaded."""
    yield
    ask.load.cache_clear()


def talk(folder, **more) -> ask.Conversation:
    return ask.Conversation(folder / "now.png", checkpoint=folder / "tiny", max_new_tokens=12, **more)


def by_generate(folder, images, steps) -> list[str]:
    """What Hugging Face's generate says, with all films and answers before each question in its context."""
    model, processor, renderer = ask.load(folder / "tiny")
    turns = tuple(
        chat.Turn(i, stage, "yes_no", question, "", len(images) if stage >= 5 else 1)
        for i, (question, stage) in enumerate(steps)
    )
    films = models.film_inputs(model, processor, images)
    return by_hugging_face.answers(
        model, renderer, chat.Case("x", "", tuple(images), turns), films, context="predicted"
    )


@pytest.mark.parametrize("cached", [True, False])
def test_a_conversation_goes_on_as_generate_would(folder, cached, monkeypatch):
    if not cached:
        monkeypatch.setattr(decode, "uncached", lambda model: "a reason")
    own = talk(folder, prior=folder / "before.png")
    replies = [own.ask(question, stage) for question, stage in STEPS]
    assert [reply.answer for reply in replies] == by_generate(
        folder, [folder / "now.png", folder / "before.png"], STEPS
    )
    assert len({reply.answer for reply in replies}) > 1
    # The prior film is seen from stage 5 on, and then for good.
    assert [len(reply.films) for reply in replies] == [1, 1, 2, 2]
    assert own.table()["question"].to_list() == [question for question, _ in STEPS]
    assert own.replies == replies and all(0 < reply.prob_answer <= 1 for reply in replies)


def test_the_answers_are_those_of_the_pipeline(folder):
    """The same questions of one film, in one batch, by the decoder of the prediction step."""
    found = ask.of_each(
        [folder / "now.png"], dict(STEPS[:2]), checkpoint=folder / "tiny", max_new_tokens=12, batch_cases=2
    )
    own = talk(folder)
    replies = [own.ask(*step) for step in STEPS[:2]]
    assert found["answer"].to_list() == [reply.answer for reply in replies]
    assert found["prob_answer"].to_list() == pytest.approx([reply.prob_answer for reply in replies], abs=1e-4)


def test_a_film_that_is_none_stops_no_other(folder, tmp_path):
    (tmp_path / "notes.png").write_text("not a film")
    films = [tmp_path / "notes.png", folder / "film.jpg", tmp_path / "gone.png", folder / "deep.png"]
    films.append(get_testdata_file("RG1_UNCR.dcm", download=False))  # a real chest film, DICOM
    found = ask.of_each(films, {"Is there edema?": 2}, checkpoint=folder / "tiny", max_new_tokens=4)
    assert found["film"].to_list() == [str(film) for film in films]
    bad, good = found.filter(pl.col("error").is_not_null()), found.filter(pl.col("error").is_null())
    assert bad["film"].to_list() == [str(films[0]), str(films[2])] and good["answer"].null_count() == 0
    assert "notes.png: not a PNG or JPEG image" in bad["error"][0]
    assert (
        bad["error"][1]
        == f"{tmp_path / 'gone.png'}: no such film; give the path of a PNG, JPEG or DICOM file"
    )
    assert ask.of_each([tmp_path / "gone.png"], {"?": 2}, checkpoint=folder / "tiny").height == 1


def test_what_cannot_be_asked_is_told_in_one_line(folder, monkeypatch, tmp_path):
    own = talk(folder)
    for question, stage in (("Is there edema?", 9), ("  ", 2)):
        with pytest.raises(ValueError, match="give a stage from 1 to 8 and a question"):
            own.ask(question, stage)
    with pytest.raises(FileNotFoundError, match="gone.png: no such film; give the path of a PNG"):
        talk(folder, prior=tmp_path / "gone.png")
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        ask.Conversation(folder / "now.png")
    assert str(caught.value) == f"{tmp_path / 'trained'}: no trained model yet; run `dvc repro finetune`"


def test_only_a_yes_or_no_has_a_probability_of_yes(folder):
    turn, film = chat.Turn(0, 2, "yes_no", "?", "", 1), (folder / "now.png",)
    found = ask.dialogue.Answer("x", 0, "", 0.75, 0.5, False)
    texts = ("Yes.", "no", "No, the heart is normal.", "No pleural effusion.", "Normal.", "")
    told = [ask._reply(turn, found._replace(answer=text), film).prob_yes for text in texts]
    assert told == [0.75, 0.75, 0.75, None, None, None]


def test_a_reply_is_drawn_with_its_boxes_and_the_films_origins(folder):
    turn, films = tiny.TURNS[2], (folder / "now.png", folder / "before.png")
    reply = ask._reply(turn, ask.dialogue.Answer("x", 0, tiny.BOX, 0.2, 1e-6, False), films)
    assert reply.boxes == [[12, 40, 45, 88]] and reply.prob_yes is None
    assert "pleural effusion at (12, 40) to (45, 88)  (P(answer) <0.01)" in repr(reply)
    first, second = reply.draw().axes
    assert [(patch.get_x(), patch.get_y(), patch.get_width()) for patch in first.patches] == [(12, 40, 33)]
    assert not second.patches and second.get_title(loc="left") == "prior film"
    labels = [ax.texts[0].get_text() for ax in (first, second)]
    assert labels == ["SIMULATED", "ORIGIN NOT STATED"]
    assert [ask.origin_of(folder / "film.jpg"), ask.origin_of(folder / "now.png")] == [
        ask.NOT_STATED,
        "simulated",
    ]
