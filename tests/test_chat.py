"""One renderer: exact tokens, exact answer spans, who sees whom."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxrtrek_lib import chat
from tests import tiny


def test_conversation_reads_back_as_the_template_writes_it():
    _, processor, renderer, _ = tiny.checkpoint()
    turns = tiny.TURNS[:2]
    tokens = renderer.conversation(turns)
    image = "<image>" * renderer.tokens_per_image
    assert processor.tokenizer.decode(tokens.ids) == (
        f"<|user|>{image}{turns[0].question}<|assistant|>A. PA<|end|>"
        f"<|user|>{turns[1].question}<|assistant|>Yes.<|end|>"
    )
    assert tokens.n_images == 1


def test_answer_spans_hold_the_answer_and_its_end_and_nothing_else():
    _, processor, renderer, _ = tiny.checkpoint()
    for tokens in (renderer.conversation(tiny.TURNS), renderer.alone(tiny.TURNS)[0]):
        read = [processor.tokenizer.decode(tokens.ids[start:end]) for start, end in tokens.answers]
        assert read == [f"{turn.answer}<|end|>" for turn in tiny.TURNS]


def test_prior_film_stands_in_the_first_stage_5_question():
    shown = [
        sum(part["type"] == "image" for part in message["content"])
        for message in chat.messages(tiny.TURNS)
        if message["role"] == "user"
    ]
    assert shown == [1, 0, 0, 1, 0]


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
    _, _, renderer, _ = tiny.checkpoint()
    _, group, positions = renderer.alone(tiny.TURNS)
    one, two = renderer.tokens_per_image + 1, 2 * renderer.tokens_per_image + 1
    starts = [positions[group.index(k)] for k in range(1, len(tiny.TURNS) + 1)]
    assert starts == [one, one, one, two, two]


def test_a_processor_without_image_token_is_refused():
    class TextOnly:
        chat_template = "{{ messages }}"
        image_token = None

    with pytest.raises(ValueError, match="no image token"):
        chat.Renderer(TextOnly(), 4)
