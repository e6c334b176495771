"""Answer every question of a case, stage by stage, each answer appended to the context of the next.

Cases are decoded together, greedily, each in a row of its own (decode.py): films and history are read once,
whatever the number of questions. The answers are those of `generate` on the full history; a model whose
history cannot be kept is asked that way, question by question, and that is printed.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cxrtrek_lib import model as models
from cxrtrek_lib import tables
from cxrtrek_lib.batches import joined
from cxrtrek_lib.chat import Case, Film, Renderer
from cxrtrek_lib.decode import Decoder, uncached
from cxrtrek_lib.dialogue import Answer, Conversation

# predicted: the model's own earlier answers (the headline); gold: the annotated ones; none: no history.
CONTEXTS = ("predicted", "gold", "none")
# Rows that have answered wait until this share of all do: their next questions are read together.
WAIT = 0.15
NOTHING: Mapping[tuple[str, int], str] = {}


def answer(
    model,
    renderer: Renderer,
    cases: Sequence[Case],
    film_inputs: Mapping[Path, Film],
    *,
    context: str,
    batch_cases: int,
    max_new_tokens: int,
    replaced: Mapping[tuple[str, int], str] = NOTHING,
) -> pl.DataFrame:
    """One row per turn (tables.PREDICTIONS), sorted by sample and turn.

    film_inputs  of every film path, as model.film_inputs gives them
    context      predicted | gold | none
    batch_cases  cases decoded together; the answers do not depend on it (the last bits of probabilities may)
    replaced     (sample_id, turn) -> text that takes the place of the model's own answer in the context of
                 later questions; with context gold, all others are replaced by the annotated answers
    prob_yes     P(yes) / (P(yes) + P(no)) at the first answer token, yes/no questions only, in [0, 1]
    prob_answer  probability of the answer as written: the product over its tokens, the end of the turn
                 included when it was written, in [0, 1]
    A history longer than the model's window loses its earliest turns (the rule: dialogue.Conversation); how
    many questions met that is printed. prediction_run.run does the same from a folder, and can be resumed.
    Raises ValueError, one line, for an unknown context, a question asked twice or beyond the window, a film
    that was not read, a replaced answer that no question has, logits that are not finite.
    """
    said = in_context(cases, context, replaced)
    if missing := sorted(
        {str(path) for case in cases for path in case.images} - {str(p) for p in film_inputs}
    ):
        raise ValueError(
            f"{missing[0]}: this film was not read ({len(missing)} in all); see model.film_inputs"
        )
    tell_uncached(uncached(model))
    found = []
    with progress(cases, context) as bar:
        for batch in in_batches(cases, batch_cases):
            for one in answers_of(
                model, renderer, batch, film_inputs, context=context, said=said, limit=max_new_tokens
            ):
                found.append(one)
                bar.update()
    return table(found)


def in_context(
    cases: Sequence[Case], context: str, replaced: Mapping[tuple[str, int], str]
) -> Mapping[tuple[str, int], str]:
    """(sample_id, turn) -> what stands in the context for the model's own answer; ValueError as there."""
    if context not in CONTEXTS:
        raise ValueError(f"unknown context {context!r}; known: {', '.join(CONTEXTS)}")
    if not cases:
        raise ValueError("no case to answer; give the split at least one (cohort in params.yaml)")
    gold = {(case.sample_id, turn.turn): turn.answer for case in cases for turn in case.turns}
    if len(gold) < sum(len(case.turns) for case in cases):
        asked = Counter((case.sample_id, turn.turn) for case in cases for turn in case.turns)
        (sample, turn), _ = asked.most_common(1)[0]
        raise ValueError(f"case {sample}, turn {turn}: asked twice; a case and a turn are given once")
    if unknown := sorted(replaced.keys() - gold.keys()):
        sample, turn = unknown[0]
        raise ValueError(f"case {sample}, turn {turn}: its answer is to be replaced, but it is not asked")
    if replaced and context == "none":
        raise ValueError("context none has no earlier answers to replace; use predicted or gold")
    return {**gold, **replaced} if context == "gold" else replaced


def in_batches(cases: Sequence[Case], batch_cases: int) -> list[list[Case]]:
    """Cases that are decoded together: of like length, the longest first (what does not fit fails early)."""
    ordered = sorted(cases, key=lambda case: (-len(case.turns), case.sample_id))
    return [ordered[start : start + batch_cases] for start in range(0, len(ordered), batch_cases)]


def answers_of(
    model,
    renderer: Renderer,
    batch: Sequence[Case],
    film_inputs: Mapping[Path, Film],
    *,
    context: str,
    said: Mapping[tuple[str, int], str],
    limit: int,
) -> Iterator[Answer]:
    """The answers to one batch, as they come; on one machine always the same bits.

    said  what stands in the context in place of own answers, as `in_context` gives it
    """
    asked = [
        Conversation(case, turns, renderer, film_inputs, limit, said)
        for case in batch
        for turns in ([(turn,) for turn in case.turns] if context == "none" else [case.turns])
    ]
    if uncached(model):
        return one_by_one(model, asked)
    # A question alone reads one film and some words: four of them are about one case.
    return together(model, asked, rows=min(len(asked), len(batch) * (4 if context == "none" else 1)))


def table(answers: Iterable[Answer]) -> pl.DataFrame:
    """The answers as tables.PREDICTIONS; prints how many were asked with a history cut to the window."""
    answers = list(answers)
    if cut := sum(one.cut for one in answers):
        of = f"{cut} of {len(answers)} questions"
        print(f"{of} were asked without the earliest turns: history beyond the window")
    rows = [one[: len(tables.PREDICTIONS)] for one in answers]
    return tables.conform("predictions", pl.DataFrame(rows, schema=tables.PREDICTIONS, orient="row")).sort(
        "sample_id", "turn"
    )


def tell_uncached(reason: str | None) -> None:
    if reason:
        print(f"decoding reads the whole history again for each question, because {reason}")


def progress(cases: Sequence[Case], context: str, *, done: int = 0) -> tqdm:
    """A bar over all questions: answers/s and the time that is left; `done` of them were answered before."""
    total = sum(len(case.turns) for case in cases)
    return tqdm(total=total, initial=done, desc=f"answers ({context})", unit="answer")


def together(model, asked: Sequence[Conversation], *, rows: int) -> Iterator[Answer]:
    """The answers, as they come, from conversations decoded side by side."""
    renderer = asked[0].renderer
    yes, no = yes_no_ids(renderer.processor.tokenizer)
    decoder = Decoder(model, renderer, rows)
    queue = deque(asked)
    free = list(range(rows))
    waiting: dict[int, Conversation] = {}
    writing: dict[int, Conversation] = {}
    prob_yes: dict[int, float | None] = {}
    while queue or waiting or writing:
        while queue and free:
            waiting[free.pop()] = queue.popleft()
        move_up(decoder, free, waiting, writing, prob_yes)
        if waiting and len(waiting) >= WAIT * (len(waiting) + len(writing)):
            logits, order = read_questions(decoder, waiting)
            chances = yes_probability(logits, yes, no)
            for row, chance in zip(order, chances, strict=True):
                prob_yes[row] = chance if waiting[row].turn.qtype == "yes_no" else None
                writing[row] = waiting[row]
            waiting = {}
        else:
            order = sorted(writing)
            logits = decoder.feed(order, [writing[row].written[-1:] for row in order])
        for row, token, log_p in zip(order, *greedy(logits), strict=True):
            conversation = writing[row]
            if not conversation.write(token, log_p):
                continue
            if conversation.replacement is not None:
                # What was written makes room for what is said; its last token is not read yet, or its end.
                fed = len(conversation.written) - (len(conversation.written) == conversation.limit)
                decoder.forget(row, fed)
            yield conversation.finish(prob_yes.pop(row))
            del writing[row]
            if conversation.asked < len(conversation.turns):
                waiting[row] = conversation
            else:
                decoder.forget(row)
                free.append(row)


def move_up(decoder: Decoder, free: list[int], *held: dict[int, object]) -> None:
    """Let the last rows in use take the place of free ones before them: those in use stand side by side.

    A feed can then read what its rows hold where it is. `held` are keyed by row.
    """
    while free and (last := max((row for part in held for row in part), default=-1)) > min(free):
        row = min(free)
        decoder.copy(last, [row])
        decoder.forget(last)
        for part in held:
            if last in part:
                part[row] = part.pop(last)
        free[free.index(row)] = last


def read_questions(decoder: Decoder, waiting: dict[int, Conversation]) -> tuple[Tensor, list[int]]:
    """Feed each waiting row its next question: (logits [n, V], the rows in their order)."""
    length = decoder.length.tolist()
    parts = {}
    for row, conversation in waiting.items():
        anew, tokens, films = conversation.question(length[row])
        if anew:
            decoder.forget(row)
        parts[row] = anew, tokens, films
    share_films(decoder, waiting, parts)
    found, order = [], []
    # Questions with films are many times longer than those without: they are not padded to one length.
    for shows in (False, True):
        rows = [row for row in sorted(parts) if bool(parts[row][2]) == shows]
        if rows:
            films = [film for row in rows for film in parts[row][2]]
            found.append(decoder.feed(rows, [parts[row][1] for row in rows], films))
            order += rows
    return torch.cat(found), order


def share_films(decoder: Decoder, waiting: dict[int, Conversation], parts: dict) -> None:
    """Rows that begin with the same films read them once; `parts` is left with what they do not share."""
    groups: dict[tuple, list[int]] = {}
    for row, (anew, tokens, films) in parts.items():
        if anew and films:
            start = decoder.renderer.after_films(tokens)
            paths = waiting[row].case.images[: len(films)]
            groups.setdefault((paths, tuple(tokens[:start])), []).append(row)
    groups = {key: rows for key, rows in groups.items() if len(rows) > 1}
    if not groups:
        return
    firsts = [rows[0] for rows in groups.values()]
    films = [film for row in firsts for film in parts[row][2]]
    decoder.feed(firsts, [start for _, start in groups], films)
    for (_, start), rows in groups.items():
        decoder.copy(rows[0], rows[1:])
        for row in rows:
            parts[row] = False, parts[row][1][len(start) :], []


@torch.inference_mode()
def one_by_one(model, asked: Sequence[Conversation]) -> Iterator[Answer]:
    """The answers by Hugging Face's `generate` on the whole history of each question."""
    network = models.core(model)
    renderer = asked[0].renderer
    yes, no = yes_no_ids(renderer.processor.tokenizer)
    for conversation in asked:
        for turn in conversation.turns[conversation.asked :]:
            conversation.question(0)
            ids = torch.tensor([conversation.history()], device=network.device)
            found = network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **models.typed(network, joined(conversation.films())),
                **renderer.types(ids),
                do_sample=False,
                max_new_tokens=conversation.limit,
                eos_token_id=renderer.end_of_turn,
                pad_token_id=renderer.processor.tokenizer.pad_token_id or 0,
                suppress_tokens=[network.config.image_token_id],
                return_dict_in_generate=True,
                output_scores=True,
            )
            for scores in found.scores:
                ((token,), (log_p,)) = greedy(scores.float())
                if conversation.write(token, log_p):
                    break
            chance = yes_probability(found.scores[0], yes, no)[0] if turn.qtype == "yes_no" else None
            yield conversation.finish(chance)


def greedy(logits: Tensor) -> tuple[list[int], list[float]]:
    """The likeliest token of each row of logits [n, V], and its log probability (NaN: not finite)."""
    best, token = logits.max(-1)
    return token.tolist(), (best - logits.logsumexp(-1)).tolist()


def yes_no_ids(tokenizer) -> tuple[list[int], list[int]]:
    """Ids of the first token of every way to begin a yes and a no."""

    def first(words: Sequence[str]) -> list[int]:
        return sorted({tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words})

    yes, no = first(["Yes", "Yes.", "yes", " Yes"]), first(["No", "No.", "no", " No"])
    # A tokenizer that begins both words alike (with a bare space, or byte by byte) tells nothing there.
    shared = set(yes) & set(no)
    return [i for i in yes if i not in shared], [i for i in no if i not in shared]


def yes_probability(logits: Tensor, yes: list[int], no: list[int]) -> list[float]:
    """P(yes) / (P(yes) + P(no)) of each row, float in [0, 1]."""
    probability = logits.float().softmax(-1)
    p_yes, p_no = probability[:, yes].sum(-1), probability[:, no].sum(-1)
    return (p_yes / (p_yes + p_no).clamp_min(1e-12)).tolist()
