"""Cases as batches: which questions of a case, in which order, which cases together, laid out as tensors.

Cases are laid out in five ways: `presence` (is a finding there?), `short` (that, and single choices) and
`alone` (questions of all kinds) ask every question by itself; `shuffled` (in random order, the report last)
and `ordered` (the stages as they are) are conversations. All give the same loss per answer.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cxrtrek_lib import draws
from cxrtrek_lib.chat import Case, Film, Renderer, Tokens, Turn, alone_mask
from cxrtrek_lib.conversations import KINDS, REPORT_STAGE, format_of

PACKED = ("presence", "short", "alone")  # every question by itself, behind one copy of the films
PRESENCE_SHARE = 0.25  # of the first passes asks about presence alone: choices build on it


@dataclass
class Batch:
    """Cases padded to B rows of L tokens: what a forward takes, and where the A answer tokens stand."""

    input_ids: Tensor  # int [B, L]
    attention_mask: Tensor  # bool [B, L], or [B, 1, L, L] when several questions share one copy of the films
    position_ids: Tensor | None  # int [B, L] with a mask of that kind; None: the model's own
    inputs: dict[str, Tensor]  # what the family takes beside: pixel_values, token_type_ids ...
    rows: Tensor  # int [A]: row of each answer token
    columns: Tensor  # int [A]: column of each answer token
    answer: Tensor  # int [A]: which answer of the batch it belongs to, 0 .. n_answers - 1
    stages: Tensor  # int [n_answers]
    formats: Tensor  # int [n_answers]: index into KINDS
    n_tokens: int  # without padding
    dropped_turns: int  # early questions left out because the case is longer than the model's window

    def to(self, device) -> "Batch":
        """The same batch on another device."""
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved, inputs={name: value.to(device) for name, value in self.inputs.items()})


def even_answers(cases: Sequence[Case]) -> dict[tuple[str, str], float]:
    """(fact, answer) -> how often a question on the presence of a finding is asked in a visit, in (0, 1].

    As often with the commoner answer as with the rarer one: most findings are absent from most films, and who
    is asked about all of them learns to say No. A fact that has only one answer is asked always.
    """
    counts: dict[str, Counter] = {}
    for turn in (turn for case in cases for turn in case.turns if asks_presence(turn)):
        counts.setdefault(turn.fact, Counter())[turn.answer] += 1
    return {
        (fact, answer): min(of.values()) / n if len(of) > 1 else 1.0
        for fact, of in counts.items()
        for answer, n in of.items()
    }


def asks_presence(turn: Turn) -> bool:
    """Is this a yes/no question on one finding?"""
    return turn.qtype == "yes_no" and turn.fact.endswith("|presence")


def chosen_turns(
    case: Case,
    *,
    layout: str,
    n_questions: int | None,
    seed: int,
    visit: int,
    even: Mapping[tuple[str, str], float],
) -> list[Turn]:
    """The questions of one visit to a case, in the layout's order.

    Of those on presence, as many with Yes as with No, on average (`even`, see even_answers). Beside them,
    `short` asks single choices, `alone` at most `n_questions` others. All are drawn anew for each visit. A
    conversation is trained whole, as it will be asked: after conversations of 12 turns, boxes were worse in
    one of 40 turns than without any (IoU 0.48, 0.67).
    """

    def kept(turn: Turn) -> bool:
        share = even.get((turn.fact, turn.answer), 1.0) if asks_presence(turn) else 1.0
        return share >= 1 or draws.uniform(seed, case.sample_id, f"even/{visit}/{turn.turn}") < share

    turns = [turn for turn in case.turns if kept(turn)]
    if layout in ("presence", "short"):
        also = "single-choice" if layout == "short" else None
        # A case without such a question in this visit has something else to learn from.
        turns = [turn for turn in turns if asks_presence(turn) or turn.qtype == also] or turns[:1]
    order = draws.shuffle(seed, case.sample_id, f"turns/{visit}", range(len(turns)))
    if layout == "alone" and n_questions is not None:
        others = [i for i in order if not asks_presence(turns[i])][:n_questions]
        order = [i for i in order if asks_presence(turns[i])] + others
    if layout != "shuffled":
        return [turns[i] for i in sorted(order)]
    shuffled = [turns[i] for i in order]
    return [t for t in shuffled if t.stage != REPORT_STAGE] + [t for t in shuffled if t.stage == REPORT_STAGE]


@dataclass(frozen=True)
class _Row:
    """One row of a batch: its tokens, group and position of each (chat.Renderer.alone), its films."""

    tokens: Tokens
    group: list[int]
    positions: list[int]
    films: list[Film]


def _rows(
    case: Case, asked: Sequence[Turn], layout: str, renderer: Renderer, film_inputs: Mapping[Path, Film]
) -> list[_Row]:
    films = {path: film_inputs[path] for path in case.images}

    def row(tokens: Tokens, group: list[int], positions: list[int]) -> _Row:
        return _Row(tokens, group, positions, [films[path] for path in case.images[: tokens.n_images]])

    if layout in PACKED and renderer.packs:
        return [row(*renderer.alone(case, asked, films))]
    # A model with positions or image masks of its own takes one question a row: see model.packs.
    parts = [[turn] for turn in asked] if layout in PACKED else [asked]
    conversations = [renderer.conversation(case, part, films) for part in parts]
    return [row(c, [0] * len(c.ids), list(range(len(c.ids)))) for c in conversations]


def collate(
    cases: Sequence[Case],
    turns: Sequence[Sequence[Turn]],
    layout: str,
    renderer: Renderer,
    film_inputs: Mapping[Path, Film],
) -> Batch:
    """Lay out some turns of each case as one batch; `film_inputs` as model.film_inputs gives them.

    Raises ValueError, one line naming the case, for a film that was not read or a question longer than the
    model's window.
    """
    for case in cases:
        for path in case.images:
            if path not in film_inputs:
                raise ValueError(f"case {case.sample_id}: film {path} was not read; pass it to film_inputs")
    found = [
        row
        for case, asked in zip(cases, turns, strict=True)
        for row in _rows(case, asked, layout, renderer, film_inputs)
    ]
    length = max(len(row.tokens.ids) for row in found)

    def padded(values: list[list[int]], pad: int) -> Tensor:
        return torch.tensor([row + [pad] * (length - len(row)) for row in values])

    group = padded([row.group for row in found], -1)
    packed = layout in PACKED and renderer.packs
    position_ids = padded([row.positions for row in found], 0) if packed else None
    ids = padded([row.tokens.ids for row in found], renderer.processor.tokenizer.pad_token_id or 0)
    rows, columns, answer, asked = [], [], [], []
    for i, row in enumerate(found):
        for (start, end), turn in zip(row.tokens.answers, row.tokens.turns, strict=True):
            rows += [i] * (end - start)
            columns += range(start, end)
            answer += [len(asked)] * (end - start)
            asked.append(turn)
    return Batch(
        input_ids=ids,
        attention_mask=alone_mask(group, position_ids) if packed else group >= 0,
        position_ids=position_ids,
        inputs=joined([film for row in found for film in row.films]) | renderer.types(ids),
        rows=torch.tensor(rows),
        columns=torch.tensor(columns),
        answer=torch.tensor(answer),
        stages=torch.tensor([turn.stage for turn in asked]),
        formats=torch.tensor([KINDS.index(format_of(turn.qtype)) for turn in asked]),
        n_tokens=int((group >= 0).sum()),
        dropped_turns=sum(map(len, turns)) - len(asked),
    )


def joined(films: Sequence[Film]) -> dict[str, Tensor]:
    """The inputs of several films as one: joined along the first dimension.

    A family that cuts a film into tiles counts them in the second dimension; films of fewer tiles are
    filled up with zeros, as their own processors do.
    """
    inputs = {}
    for name in films[0].inputs:
        values = [film.inputs[name] for film in films]
        if len({value.shape[1:] for value in values}) > 1:
            values = torch.nn.utils.rnn.pad_sequence([v[0] for v in values], batch_first=True).split(1)
        inputs[name] = torch.cat(list(values))
    return inputs


def plan(
    cases: Sequence[Case],
    *,
    short_epochs: int,
    epochs: int,
    batch_cases: int,
    alone_share: float,
    shuffled_share: float,
    seed: int,
) -> list[tuple[int, str, list[int]]]:
    """Every batch of a training run: (epoch, layout, case indices). A function of its arguments alone.

    The first `short_epochs` are `presence`, up to PRESENCE_SHARE of them, then `short`; `epochs` with the
    other layouts follow.
    """
    batches = []
    size = [
        sum(len(t.question) + len(t.answer) for t in case.turns) + 2000 * len(case.images) for case in cases
    ]
    for epoch in range(short_epochs + epochs):
        order = draws.shuffle(seed, "cases", f"epoch/{epoch}", range(len(cases)))
        pools = [order[i : i + 16 * batch_cases] for i in range(0, len(order), 16 * batch_cases)]
        # Cases of like length share a batch (less padding); batches of one pool are shuffled again.
        sorted_pools = [sorted(pool, key=lambda i: size[i]) for pool in pools]
        chunks = [
            pool[i : i + batch_cases] for pool in sorted_pools for i in range(0, len(pool), batch_cases)
        ]
        for n, chunk in enumerate(draws.shuffle(seed, "batches", f"epoch/{epoch}", chunks)):
            share = draws.uniform(seed, "layout", f"{epoch}/{n}")
            if epoch < short_epochs:
                behind = (epoch + n / len(chunks)) / short_epochs
                layout = "presence" if behind < PRESENCE_SHARE else "short"
            elif share < alone_share:
                layout = "alone"
            else:
                layout = "shuffled" if share < alone_share + shuffled_share else "ordered"
            batches.append((epoch, layout, chunk))
    return batches
