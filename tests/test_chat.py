"""One renderer: exact tokens, exact answer spans, who sees whom."""

from pathlib import Path

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxrtrek_lib import chat
from tests import tiny

CASE = tiny.cases()[0]
N_TOKENS = 49 + 2 + 1 + 1  # of a film: grid, two findings, one region, the whole


def test_conversation_reads_back_as_the_template_writes_it():
    _, processor, renderer, films = tiny.checkpoint()
    turns = tiny.TURNS[:2]
    tokens = renderer.conversation(CASE, turns, films)
    image = "<image>" * N_TOKENS
    assert processor.tokenizer.decode(tokens.ids) == (
        f"<|begin|><|user|>{image}{turns[0].question}<|assistant|>A. PA<|end|>"
        f"<|user|>{turns[1].question}<|assistant|>Yes.<|end|>"
    )
    assert tokens.n_images == 1


def test_answer_spans_hold_the_answer_and_its_end_and_nothing_else():
    _, processor, renderer, films = tiny.checkpoint()
    for tokens in (
        renderer.conversation(CASE, tiny.TURNS, films),
        renderer.alone(CASE, tiny.TURNS, films)[0],
    ):
        read = [processor.tokenizer.decode(tokens.ids[start:end]) for start, end in tokens.answers]
        assert read == [f"{turn.answer}<|end|>" for turn in tiny.TURNS]


def test_prior_film_stands_in_the_first_stage_5_question():
    shown = [
        sum(part["type"] == "image" for part in message["content"])
        for message in chat.messages(tiny.TURNS)
        if message["role"] == "user"
    ]
    assert shown == [1, 0, 0, 1, 0]


def test_a_choice_is_answered_without_its_label():
    options = ["A. left", "2). both lungs", "right", "St. Jude"]
    asked = pl.DataFrame({
        "sample_id": ["a"], "stage": [2], "turn": [0], "qtype": ["multi-choice"], "question": ["?"],
        "answer": [", ".join(options)], "answer_list": [options], "image_input_count": [1], "fact": [""],
    })  # fmt: skip
    studies = pl.DataFrame({"sample_id": ["a"], "patient_id": ["p"], "images": [["film.png"]]})
    [case] = chat.cases(studies, asked, Path("films"))
    assert case.turns[0].answer == "left, both lungs, right, St. Jude"


def test_a_coordinate_is_one_token():
    _, processor, _, _ = tiny.checkpoint()
    words = processor.tokenizer.tokenize(tiny.BOX)
    assert [word for word in words if word.endswith(".00")] == ["12.00", "40.00", "45.00", "88.00"]


@given(st.text(alphabet=st.characters(exclude_characters="\x01", exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_the_tokenizer(text):
    _, processor, _, _ = tiny.checkpoint()
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert processor.tokenizer.decode(ids) == text


def test_whole_percent_touches_coordinates_only():
    assert chat.whole_percent("(12.49, 40.50), (0.00, 99.99)") == "(12.00, 41.00), (0.00, 100.00)"
    assert chat.whole_percent("1.5 cm, 3 of 8, 2.345, v1.20.3") == "1.5 cm, 3 of 8, 2.345, v1.20.3"


def test_alone_mask_against_a_hand_drawn_case():
    # films: current (position 0), prior (1); turn 1 may look at the current film only, turn 2 at both.
    group = torch.tensor([[0, 0, 1, 1, 2, -1]])
    positions = torch.tensor([[0, 1, 1, 2, 2, 0]])
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert chat.alone_mask(group, positions)[0, 0].int().tolist() == expected


def test_alone_puts_each_turn_right_behind_its_films():
    _, _, renderer, films = tiny.checkpoint()
    _, group, positions = renderer.alone(CASE, tiny.TURNS, films)
    one, two = N_TOKENS + 2, 2 * N_TOKENS + 2
    starts = [positions[group.index(k)] for k in range(1, len(tiny.TURNS) + 1)]
    assert starts == [one, one, one, two, two]


def test_a_processor_without_image_token_is_refused():
    class TextOnly:
        chat_template = "{{ messages }}"
        image_token = None

    with pytest.raises(ValueError, match="no image token"):
        chat.Renderer(TextOnly())


def cut(window: int):
    """The tokens of the first case when the model's window is `window`."""
    _, processor, _, films = tiny.checkpoint()
    return chat.Renderer(processor, window=window).conversation(CASE, tiny.TURNS, films)


def test_a_case_longer_than_the_window_loses_whole_early_turns_and_no_film():
    _, processor, renderer, films = tiny.checkpoint()
    whole = renderer.conversation(CASE, tiny.TURNS, films)
    assert cut(len(whole.ids)).turns == tiny.TURNS
    shorter = cut(len(whole.ids) - 1)
    assert shorter.turns == tiny.TURNS[1:]
    assert shorter == renderer.conversation(CASE, tiny.TURNS[1:], films)
    last = cut(2 * N_TOKENS + 60)
    assert last.ids.count(processor.image_token_id) == 2 * N_TOKENS, "both films are still shown"
    text = processor.tokenizer.decode(last.ids)
    assert text.startswith("<|begin|><|user|><image>") and text.endswith(f"{tiny.TURNS[-1].answer}<|end|>")


def test_a_turn_longer_than_the_window_is_named_in_one_line():
    with pytest.raises(ValueError, match="case a, turn 4: .* window is 60") as error:
        cut(60)
    assert "\n" not in str(error.value)


def test_a_template_that_hides_films_is_refused():
    _, processor, renderer, films = tiny.checkpoint()
    template = processor.chat_template
    try:
        processor.chat_template = template.replace("<image>", "")
        with pytest.raises(ValueError, match="writes 0 image tokens for 1 films"):
            renderer.pieces(tiny.TURNS[:1], list(films.values()))
    finally:
        processor.chat_template = template
