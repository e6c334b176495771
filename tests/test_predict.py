"""Cached, batched decoding gives, token for token, what `generate` gives on the full history."""

import pytest
import torch

from cxrtrek_lib import chat, decode, predict, tables
from cxrtrek_lib.chat import Turn
from tests import by_hugging_face, tiny
from tests.by_hugging_face import LIMIT


@pytest.mark.parametrize("context", predict.CONTEXTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_answers_equal_generate_on_the_full_history(context, seed):
    model, _, renderer, tokens = tiny.checkpoint(seed)
    cases = tiny.cases()
    by_hugging_face.assert_answers_are_those_of_generate(
        model, renderer, cases, tokens, context=context, batch_cases=4
    )


@pytest.mark.parametrize("context", ["predicted", "gold"])
def test_a_history_beyond_the_window_loses_its_earliest_turns_and_is_counted(context, capsys):
    model, processor, whole, tokens = tiny.checkpoint()
    case = tiny.cases()[0]
    films = [tokens[path] for path in case.images]
    window = len(whole.conversation(case, case.turns, tokens).ids) - 20
    renderer = chat.Renderer(processor, window=window)
    found = predict.answer(
        model, renderer, tiny.cases(), tokens, context=context, batch_cases=3, max_new_tokens=LIMIT
    )
    given = dict(found.filter(sample_id="a").select("turn", "answer").iter_rows())
    answers: list[list[int]] = []
    n_cut = 0
    for k, turn in enumerate(case.turns):
        # By hand: the fewest turns left out for which the longest answer still fits; films always shown.
        for first in range(k + 1):
            pieces = whole.pieces(case.turns[first : k + 1], films)
            history = list(pieces[0])
            for piece, answer in zip(pieces[1:-1], answers[first:k], strict=True):
                history += answer + piece
            if len(history) + LIMIT <= window:
                break
        n_cut += first > 0
        assert history.count(processor.image_token_id) == 53 * turn.n_images
        written = by_hugging_face.written(model, whole, history, films[: turn.n_images])
        assert given[turn.turn] == processor.tokenizer.decode(written).strip()
        answers.append(whole.tokenise(turn.answer) if context == "gold" else written)
    assert (
        n_cut and f"{n_cut} of 12 questions were asked without the earliest turns" in capsys.readouterr().out
    )


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
    assert again.drop("prob_yes").equals(kept.drop("prob_yes"))
    assert again["prob_yes"].to_list() == pytest.approx(kept["prob_yes"].to_list(), abs=1e-4, nan_ok=True)
    assert "because its state runs on" in capsys.readouterr().out


def test_batch_size_changes_nothing():
    model, _, renderer, tokens = tiny.checkpoint()
    one, many = (
        predict.answer(
            model, renderer, tiny.cases(), tokens, context="predicted", batch_cases=n, max_new_tokens=LIMIT
        )
        for n in (1, 3)
    )
    assert one.drop("prob_yes").equals(many.drop("prob_yes"))
    assert one["prob_yes"].to_list() == pytest.approx(many["prob_yes"].to_list(), abs=1e-4, nan_ok=True)


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


def test_yes_probability_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.1, 0.1]]))
    assert predict.yes_probability(logits, [1], [2, 3]) == pytest.approx([0.6])


def test_unknown_context_and_mode_are_named():
    with pytest.raises(ValueError, match="unknown context 'past'"):
        predict.answer(None, None, [], {}, context="past", batch_cases=1, max_new_tokens=1)
    with pytest.raises(ValueError, match="unknown prediction mode 'blind'"):
        predict.of_mode("blind")


def test_a_question_of_ones_own_is_answered():
    model, _, renderer, tokens = tiny.checkpoint()
    case = tiny.cases()[1]
    question = "Where is the pleural effusion?"
    alone = tiny.Case("x", "p", case.images, (Turn(0, 3, "detection", question, "", 1),))
    assert (
        predict.ask(model, renderer, case, tokens, question, limit=LIMIT)
        == by_hugging_face.answers(model, renderer, alone, tokens, context="none")[0]
    )


def test_what_cannot_be_cached_says_why(monkeypatch):
    model, *_ = tiny.checkpoint()
    assert decode.uncached(model) is None
    monkeypatch.setattr(model.config.get_text_config(), "layer_types", ["linear_attention"], raising=False)
    assert decode.uncached(model) == "its language model has layers of kind linear_attention"
    monkeypatch.setattr(model.config.get_text_config(), "layer_types", ["full_attention"], raising=False)
    monkeypatch.setattr(model.config.get_text_config(), "_attn_implementation_internal", "eager")
    assert decode.uncached(model) == "its attention is eager, not sdpa"
