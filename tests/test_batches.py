"""Batches: every case once an epoch, layouts in the shares asked for, nothing lost on the way to tensors."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from cxrtrek_lib import batches, chat, conversations
from tests import tiny


def test_plan_visits_every_case_once_an_epoch_in_a_fixed_order():
    arguments = dict(short_epochs=1, epochs=2, batch_cases=2, alone_share=0.5, shuffled_share=0.25, seed=3)
    found = batches.plan(tiny.cases() * 5, **arguments)
    for epoch in (0, 1):
        assert sorted(i for e, _, chunk in found if e == epoch for i in chunk) == list(range(15))
    assert found == batches.plan(tiny.cases() * 5, **arguments)
    assert found != batches.plan(tiny.cases() * 5, **{**arguments, "seed": 4})


def test_layout_shares_are_those_asked_for():
    found = batches.plan(
        tiny.cases() * 40,
        short_epochs=0,
        epochs=20,
        batch_cases=2,
        alone_share=0.5,
        shuffled_share=0.25,
        seed=0,
    )
    share = {layout: n / len(found) for layout, n in Counter(b[1] for b in found).items()}
    assert share == pytest.approx({"alone": 0.5, "shuffled": 0.25, "ordered": 0.25}, abs=0.05)


def test_report_comes_last_when_shuffled():
    for visit in range(20):
        turns = batches.chosen_turns(
            tiny.cases()[0], layout="shuffled", n_questions=None, seed=0, visit=visit, even={}
        )
        assert turns[-1].stage == 8
        assert sorted(t.turn for t in turns) == [0, 1, 2, 3, 4]


def asked(fact: str, answer: str, turn: int) -> chat.Turn:
    return chat.Turn(turn, 2, "yes_no", f"Is there {fact}?", answer, 1, f"{fact}|presence")


def crowd() -> list[chat.Case]:
    """Ten cases: edema in two, mass in all, and one question of another kind each."""
    box = replace(tiny.TURNS[2], turn=2)
    return [
        chat.Case(
            str(i), str(i), (),
            (asked("edema", "Yes." if i < 2 else "No.", 0), asked("mass", "Yes.", 1), box),
        )
        for i in range(10)
    ]  # fmt: skip


def test_the_commoner_answer_is_asked_as_often_as_the_rarer_one():
    even = batches.even_answers(crowd())
    assert even == {
        ("edema|presence", "Yes."): 1,
        ("edema|presence", "No."): 2 / 8,
        ("mass|presence", "Yes."): 1,
    }
    counts = Counter()
    for visit in range(200):
        for case in crowd():
            chosen = batches.chosen_turns(case, layout="alone", n_questions=1, seed=0, visit=visit, even=even)
            counts.update((turn.fact, turn.answer) for turn in chosen)
    assert counts["edema|presence", "Yes."] == 400 and counts["mass|presence", "Yes."] == 2000
    assert counts["edema|presence", "No."] == pytest.approx(400, abs=60)
    assert counts["", tiny.TURNS[2].answer] == 2000, (
        "questions on presence stand beside the n_questions others"
    )


def test_the_first_passes_ask_what_is_answered_in_a_word():
    found = batches.plan(
        crowd(), short_epochs=2, epochs=1, batch_cases=4, alone_share=1.0, shuffled_share=0.0, seed=0
    )
    assert [(epoch, layout) for epoch, layout, _ in found] == (
        [(0, "presence")] * 2 + [(0, "short")] + [(1, "short")] * 3 + [(2, "alone")] * 3
    )
    options = dict(layout="short", n_questions=1, seed=0, visit=0, even={})
    view = replace(tiny.TURNS[0], turn=3)
    asked_too = replace(crowd()[0], turns=(*crowd()[0].turns, view))
    assert [t.turn for t in batches.chosen_turns(asked_too, **options)] == [0, 1, 3]
    assert [t.turn for t in batches.chosen_turns(asked_too, **options | {"layout": "presence"})] == [0, 1]
    nothing = replace(crowd()[0], turns=crowd()[0].turns[2:])
    assert batches.chosen_turns(nothing, **options) == list(nothing.turns), "a case always has a question"


def test_what_a_batch_holds_by_hand():
    _, processor, renderer, films = tiny.checkpoint()
    cases = tiny.cases()
    batch = batches.collate(cases, [case.turns for case in cases], "ordered", renderer, films)
    assert batch.stages.tolist() == [1, 2, 3, 5, 8, 1, 2, 3, 2, 3, 5, 8]
    assert [conversations.KINDS[i] for i in batch.formats[:4]] == [
        "choice", "close-ended", "detection", "open-ended",
    ]  # fmt: skip
    lengths = [len(renderer.conversation(case, case.turns, films).ids) for case in cases]
    assert batch.n_tokens == sum(lengths) and batch.input_ids.shape == (3, max(lengths))
    assert batch.inputs["pixel_values"].shape[0] == 5, "every film once"
    assert batch.position_ids is None and batch.dropped_turns == 0
    first = batch.input_ids[batch.rows[batch.answer == 0], batch.columns[batch.answer == 0]]
    assert processor.tokenizer.decode(first) == "A. PA<|end|>"


def test_turns_beyond_the_window_are_counted():
    _, processor, renderer, films = tiny.checkpoint()
    case = tiny.cases()[0]
    short = chat.Renderer(processor, window=len(renderer.conversation(case, case.turns[2:], films).ids))
    batch = batches.collate([case], [case.turns], "ordered", short, films)
    assert batch.dropped_turns == 2 and batch.stages.tolist() == [3, 5, 8]
    alone = batches.collate([case], [case.turns], "alone", short, films)
    assert alone.dropped_turns == 0, "no history, nothing to leave out"


def test_a_film_that_was_not_read_is_named():
    _, _, renderer, films = tiny.checkpoint()
    case = tiny.cases()[0]
    missing = {path: film for path, film in films.items() if path != case.images[1]}
    with pytest.raises(ValueError, match="case a: film film1.png was not read"):
        batches.collate([case], [case.turns], "alone", renderer, missing)


def test_films_of_fewer_tiles_are_filled_up_with_zeros():
    one, two = (chat.Film("", {"pixel_values": torch.ones(1, n, 3, 2, 2)}) for n in (2, 3))
    joined = batches.joined([one, two])["pixel_values"]
    assert joined.shape == (2, 3, 3, 2, 2)
    assert joined.flatten(2).sum(-1).tolist() == [[12, 12, 0], [12, 12, 12]]
