"""Cached, batched decoding gives, token for token, what `generate` gives on the full history."""

import re
from dataclasses import replace

import polars as pl
import pytest
import torch

from cxrtrek_lib import chat, decode, dialogue, predict, tables
from cxrtrek_lib import model as models
from tests import by_hugging_face, tiny
from tests.by_hugging_face import LIMIT


def assert_same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """The same answers, and the same probabilities but for rounding."""
    columns = ["prob_yes", "prob_answer"]
    assert one.drop(columns).equals(other.drop(columns))
    for column in columns:
        assert one[column].to_list() == pytest.approx(other[column].to_list(), abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("context", predict.CONTEXTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_answers_equal_generate_on_the_full_history(context, seed):
    model, _, renderer, tokens = tiny.checkpoint(seed)
    cases = tiny.cases()
    by_hugging_face.assert_answers_are_those_of_generate(
        model, renderer, cases, tokens, context=context, batch_cases=4
    )


def test_a_replaced_answer_stands_in_the_context_of_what_is_asked_later():
    model, _, renderer, tokens = tiny.checkpoint()
    cases = tiny.cases()
    # Shorter and longer than what the model writes itself, nothing at all, and the last answer.
    replaced = {("a", 0): "B. AP", ("a", 1): "No pneumothorax. " * 4, ("b", 1): "", ("c", 4): "Normal."}
    settings = dict(context="predicted", batch_cases=3)
    by_hugging_face.assert_answers_are_those_of_generate(
        model, renderer, cases, tokens, **settings, replaced=replaced
    )
    settings |= dict(max_new_tokens=LIMIT)
    own = predict.answer(model, renderer, cases, tokens, **settings)
    changed = predict.answer(model, renderer, cases, tokens, **settings, replaced=replaced)
    first = (pl.col("sample_id") == "a") & (pl.col("turn") == 0)
    assert own.filter(first)["answer"].item() == changed.filter(first)["answer"].item(), "asked before"
    assert (
        own.filter(sample_id="a", turn=2)["answer"].item()
        != changed.filter(sample_id="a", turn=2)["answer"].item()
    )
    gold = {(case.sample_id, turn.turn): turn.answer for case in cases for turn in case.turns}
    as_gold = predict.answer(model, renderer, cases, tokens, **settings, replaced=gold)
    assert as_gold.equals(predict.answer(model, renderer, cases, tokens, **settings | {"context": "gold"}))


def test_stages_in_another_order_are_answered_as_by_generate():
    model, _, renderer, tokens = tiny.checkpoint()
    cases = [replace(case, turns=case.turns[::-1]) for case in tiny.cases()]  # both films first, then one
    by_hugging_face.assert_answers_are_those_of_generate(
        model, renderer, cases, tokens, context="predicted", batch_cases=3
    )


def long_case(n: int = 14) -> chat.Case:
    turns = [replace(tiny.TURNS[k % 3], turn=k) for k in range(n)]
    return chat.Case("long", "p", tiny.cases()[0].images, (*turns, replace(tiny.TURNS[4], turn=n)))


@pytest.mark.parametrize("context", ["predicted", "gold"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read again"])
def test_a_history_beyond_the_window_is_cut_to_half_of_its_room(context, kept, monkeypatch, capsys):
    model, processor, whole, tokens = tiny.checkpoint()
    case = long_case()
    films = [tokens[path] for path in case.images]
    window = 260
    if not kept:
        monkeypatch.setattr(predict, "uncached", lambda model: "its state runs on")
    read_anew = []
    question = dialogue.Conversation.question
    monkeypatch.setattr(
        dialogue.Conversation,
        "question",
        lambda self, length: read_anew.append((asked := question(self, length))[0]) or asked,
    )
    found = predict.answer(
        model, chat.Renderer(processor, window=window), [case], tokens,
        context=context, batch_cases=3, max_new_tokens=LIMIT,
    )  # fmt: skip
    given = dict(found.select("turn", "answer").iter_rows())
    answers: list[list[int]] = []
    first, n_cut, n_cuts = 0, 0, 0
    for k, turn in enumerate(case.turns):

        def history(first, k=k):
            pieces = whole.pieces(case.turns[first : k + 1], films)[:-1]
            return [
                i for pair in zip(pieces, [*answers[first:k], []], strict=True) for part in pair for i in part
            ]

        # By hand: beyond the window, the fewest turns are left out that free half of the room for history.
        if len(history(first)) + LIMIT > window:
            alone = len(history(k))
            half = alone + (window - LIMIT - alone) // 2
            first = min(f for f in range(first, k + 1) if f == k or len(history(f)) <= half)
            n_cuts += 1
        n_cut += first > 0
        shown = max(t.n_images for t in case.turns[first : k + 1])
        assert history(first).count(processor.image_token_id) == 53 * shown
        written = by_hugging_face.written(model, whole, history(first), films[:shown])
        assert given[turn.turn] == processor.tokenizer.decode(written).strip()
        answers.append(whole.tokenise(turn.answer) if context == "gold" else written)
    assert n_cuts > 1 and sum(read_anew) == n_cuts + 1 < n_cut, "most questions go on from what was read"
    told = f"{n_cut} of {len(case.turns)} questions were asked without the earliest turns"
    assert told in capsys.readouterr().out


def test_a_question_beyond_the_window_is_named():
    model, processor, _, tokens = tiny.checkpoint()
    with pytest.raises(ValueError, match="case .*, turn .*: .* window is 64"):
        predict.answer(
            model,
            chat.Renderer(processor, window=64),
            tiny.cases(),
            tokens,
            context="predicted",
            batch_cases=3,
            max_new_tokens=LIMIT,
        )


@pytest.mark.parametrize("context", predict.CONTEXTS)
def test_a_model_that_cannot_keep_its_history_is_asked_by_generate_and_that_is_said(
    context, monkeypatch, capsys
):
    model, _, renderer, tokens = tiny.checkpoint()
    settings = dict(context=context, batch_cases=3, max_new_tokens=LIMIT)
    kept = predict.answer(model, renderer, tiny.cases(), tokens, **settings)
    monkeypatch.setattr(predict, "uncached", lambda model: "its state runs on")
    again = predict.answer(model, renderer, tiny.cases(), tokens, **settings)
    assert_same(again, kept)
    assert "because its state runs on" in capsys.readouterr().out


def test_batch_size_changes_nothing():
    model, _, renderer, tokens = tiny.checkpoint()
    one, many = (
        predict.answer(
            model, renderer, tiny.cases(), tokens, context="predicted", batch_cases=n, max_new_tokens=LIMIT
        )
        for n in (1, 3)
    )
    assert_same(one, many)


def test_prob_yes_is_given_for_yes_no_questions_only():
    model, _, renderer, tokens = tiny.checkpoint()
    found = predict.answer(
        model, renderer, tiny.cases(), tokens, context="gold", batch_cases=4, max_new_tokens=LIMIT
    )
    for case in tiny.cases():
        for turn in case.turns:
            row = found.filter(sample_id=case.sample_id, turn=turn.turn).row(0, named=True)
            assert (row["prob_yes"] is not None) == (turn.qtype == "yes_no")
    assert found.schema == tables.PREDICTIONS


def test_prob_answer_is_the_product_over_what_was_written():
    model, _, renderer, tokens = tiny.checkpoint(seed=12)
    found = predict.answer(
        model, renderer, tiny.cases(), tokens, context="none", batch_cases=3, max_new_tokens=LIMIT
    )
    ended = set()
    for case in tiny.cases():
        for turn in case.turns:
            films = [tokens[path] for path in case.images]
            history, shown = renderer.pieces([turn], films)[0], films[: turn.n_images]
            written = by_hugging_face.written(model, renderer, history, shown)
            expected = by_hugging_face.probability(model, renderer, history, written, shown)
            row = found.filter(sample_id=case.sample_id, turn=turn.turn).row(0, named=True)
            assert 0 < row["prob_answer"] <= 1
            assert row["prob_answer"] == pytest.approx(expected, rel=1e-3)
            ended.add(len(written) < LIMIT)
    assert ended == {True, False}, "some answers end, some are cut"


def test_yes_probability_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.1, 0.1]]))
    assert predict.yes_probability(logits, [1], [2, 3]) == pytest.approx([0.6])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (dict(context="past"), "unknown context 'past'; known: predicted, gold, none"),
        (dict(cases=[]), "no case to answer"),
        (dict(cases=[tiny.cases()[0]] * 2), "case a, turn 0: asked twice"),
        (dict(film_inputs={}), "film0.png: this film was not read"),
        (
            dict(replaced={("a", 9): "No."}),
            "case a, turn 9: its answer is to be replaced, but it is not asked",
        ),
        (dict(replaced={("a", 1): "No."}, context="none"), "context none has no earlier answers to replace"),
    ],
)
def test_bad_input_is_told_in_one_line(change, told):
    model, _, renderer, tokens = tiny.checkpoint()
    given = dict(cases=tiny.cases(), film_inputs=tokens, context="predicted") | change
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        predict.answer(model, renderer, **given, batch_cases=2, max_new_tokens=LIMIT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "read again"])
def test_weights_that_are_no_numbers_are_told(kept, monkeypatch):
    model, processor, _, tokens = tiny.checkpoint.__wrapped__(seed=2)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
    if not kept:
        monkeypatch.setattr(predict, "uncached", lambda model: "its state runs on")
    with pytest.raises(ValueError, match="case a, turn 0: the model's logits are not finite"):
        predict.answer(
            model, models.renderer(model, processor), tiny.cases()[:1], tokens,
            context="predicted", batch_cases=1, max_new_tokens=LIMIT,
        )  # fmt: skip


def test_what_cannot_be_cached_says_why(monkeypatch):
    model, *_ = tiny.checkpoint()
    assert decode.uncached(model) is None
    monkeypatch.setattr(model.config.get_text_config(), "layer_types", ["linear_attention"], raising=False)
    assert decode.uncached(model) == "its language model has layers of kind linear_attention"
    monkeypatch.setattr(model.config.get_text_config(), "layer_types", ["full_attention"], raising=False)
    monkeypatch.setattr(model.config.get_text_config(), "_attn_implementation_internal", "eager")
    assert decode.uncached(model) == "its attention is eager, not sdpa"
