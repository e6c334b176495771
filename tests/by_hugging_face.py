"""What Hugging Face itself gives, one question at a time: losses and greedy answers to compare with."""

import torch

from cxrtrek_lib import batches, predict

LIMIT = 12


def losses(model, renderer, cases, films, *, layout: str) -> list[float]:
    """The model's own loss of every answer, from one example per question."""
    found = []
    for case in cases:
        for k, turn in enumerate(case.turns):
            turns = case.turns[: k + 1] if layout == "ordered" else [turn]
            tokens = renderer.conversation(case, turns, films)
            ids = torch.tensor([tokens.ids])
            labels = torch.full_like(ids, -100)
            start, end = tokens.answers[-1]
            labels[0, start:end] = ids[0, start:end]
            with torch.no_grad():
                reference = model(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    labels=labels,
                    **batches.joined([films[path] for path in case.images[: tokens.n_images]]),
                    **renderer.types(ids),
                )
            found.append(reference.loss.item())
    return found


def written(model, renderer, history: list[int], films, limit: int = LIMIT) -> list[int]:
    """Tokens that `generate` writes after a history that shows these films, without the end of turn."""
    ids = torch.tensor([history])
    tokens = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **batches.joined(films),
        **renderer.types(ids),
        do_sample=False,
        max_new_tokens=limit,
        eos_token_id=renderer.end_of_turn,
        pad_token_id=0,
        suppress_tokens=[model.config.image_token_id],
    )[0, len(history) :].tolist()
    return tokens[: (*tokens, renderer.end_of_turn).index(renderer.end_of_turn)]


def probability(model, renderer, history: list[int], answer: list[int], films) -> float:
    """Of an answer after a history, from one forward; the end of the turn counts when it was written."""
    answer = answer if len(answer) == LIMIT else [*answer, renderer.end_of_turn]
    ids = torch.tensor([history + answer])
    with torch.no_grad():
        logits = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), **batches.joined(films), **renderer.types(ids)
        ).logits[0, len(history) - 1 : -1]
    logits[:, model.config.image_token_id] = -torch.inf
    return logits.softmax(-1).gather(1, torch.tensor(answer)[:, None]).prod().item()


def answers(
    model, renderer, case, films, *, context: str, replaced=predict.NOTHING, limit: int = LIMIT
) -> list[str]:
    """One `generate` call per question on the whole history: no cache kept, no batch."""
    found, n_images = [], 0
    shown = [films[path] for path in case.images]
    pieces = renderer.pieces(case.turns, shown)
    history: list[int] = []
    for k, turn in enumerate(case.turns):
        history = renderer.pieces([turn], shown)[0] if context == "none" else history + pieces[k]
        n_images = turn.n_images if context == "none" else max(turn.n_images, n_images)
        tokens = written(model, renderer, history, shown[:n_images], limit)
        found.append(renderer.processor.tokenizer.decode(tokens).strip())
        said = replaced.get((case.sample_id, turn.turn), turn.answer if context == "gold" else None)
        history = history + (tokens if said is None else list(renderer.tokenise(said)))
    return found


def assert_answers_are_those_of_generate(
    model, renderer, cases, films, *, context: str, batch_cases: int, replaced=predict.NOTHING
):
    """`predict.answer` gives these answers, and they are not all alike."""
    found = predict.answer(
        model,
        renderer,
        cases,
        films,
        context=context,
        batch_cases=batch_cases,
        max_new_tokens=LIMIT,
        replaced=replaced,
    )
    expected = {}
    for case in cases:
        texts = answers(model, renderer, case, films, context=context, replaced=replaced)
        expected |= {(case.sample_id, t.turn): text for t, text in zip(case.turns, texts, strict=True)}
    assert {(s, t): a for s, t, a in found.select("sample_id", "turn", "answer").iter_rows()} == expected
    assert len(set(expected.values())) > 3, "the tiny model should not answer everything alike"
