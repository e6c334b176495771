"""Answer every question of a case, stage by stage, each answer appended to the context of the next.

Cases are decoded together, greedily, each in a row of its own (decode.py): films and history are read once,
whatever the number of questions. The answers are those of `generate` on the full history; a model whose
history cannot be kept is asked that way, question by question, and that is printed.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cxrtrek_lib import model as models
from cxrtrek_lib import tables
from cxrtrek_lib.batches import joined
from cxrtrek_lib.chat import Case, Film, Renderer, Turn
from cxrtrek_lib.decode import Decoder, uncached

# predicted: the model's own earlier answers (the headline); gold: the annotated ones; none: no history.
CONTEXTS = ("predicted", "gold", "none")
MODES = (*CONTEXTS, "blank_image")
# Rows that have answered wait until a quarter of all do: their next questions are read together.
WAIT = 0.25


def answer(
    model,
    renderer: Renderer,
    cases: Sequence[Case],
    film_inputs: Mapping[Path, Film],
    *,
    context: str,
    batch_cases: int,
    max_new_tokens: int,
) -> pl.DataFrame:
    """One row per turn (tables.PREDICTIONS), sorted by sample and turn.

    film_inputs  of every film path, as model.film_inputs gives them
    context      predicted | gold | none; ValueError for any other
    batch_cases  conversations decoded together; the answers do not depend on it
    prob_yes     P(yes) / (P(yes) + P(no)) at the first answer token, yes/no questions only
    A history longer than the model's window loses its earliest turns (Conversation); how many questions met
    that is printed. Raises ValueError when a single question is longer.
    """
    if context not in CONTEXTS:
        raise ValueError(f"unknown context {context!r}; known: {', '.join(CONTEXTS)}")
    asked = [
        Conversation(case, turns, renderer, film_inputs, limit=max_new_tokens)
        # Longest first, so that the last rows to finish are short.
        for case in sorted(cases, key=lambda case: (-len(case.turns), case.sample_id))
        for turns in ([(turn,) for turn in case.turns] if context == "none" else [case.turns])
    ]
    if reason := uncached(model):
        print(f"decoding reads the whole history again for each question, because {reason}")
        found = one_by_one(model, asked, gold=context == "gold")
    else:
        # A question alone reads one film and some words: four of them are about one case.
        rows = min(len(asked), batch_cases * (4 if context == "none" else 1))
        found = together(model, asked, rows=rows, gold=context == "gold")
    total = sum(len(one.turns) for one in asked)
    rows = list(tqdm(found, total=total, desc=f"answers ({context})", unit="answer"))
    if cut := sum(one.n_cut for one in asked):
        print(f"{cut} of {total} questions were asked without the earliest turns: history beyond the window")
    return tables.conform("predictions", pl.DataFrame(rows, schema=tables.PREDICTIONS, orient="row")).sort(
        "sample_id", "turn"
    )


@dataclass
class Conversation:
    """One case being asked its turns: what has been answered, what the model must read next.

    Where history, question and longest answer exceed the window, the earliest turns are left out, question
    and answer, as many as must be; films are then shown in the first turn that is left.
    """

    case: Case
    turns: Sequence[Turn]
    renderer: Renderer
    film_inputs: Mapping[Path, Film]
    limit: int
    asked: int = 0  # index of the turn being asked
    first: int = 0  # index of the first turn in the context
    shown: int = 0  # films in the context
    pieces: list[list[int]] = field(default_factory=list)  # of the turns from `first` on
    answers: list[list[int]] = field(default_factory=list)  # of the turns before `asked`
    written: list[int] = field(default_factory=list)  # of the turn being asked
    n_cut: int = 0  # questions that were asked with a part of the history

    @property
    def turn(self) -> Turn:
        return self.turns[self.asked]

    def films(self) -> list[Film]:
        """Films in the context once the turn being asked is in it."""
        n_images = max(turn.n_images for turn in self.turns[self.first : self.asked + 1])
        return self._all_films()[:n_images]

    def history(self) -> list[int]:
        """All tokens from the first turn in the context to the question being asked."""
        known = zip(self.pieces, self.answers[self.first : self.asked], strict=False)
        return [i for pair in known for part in pair for i in part] + self.pieces[self.asked - self.first]

    def question(self, length: int) -> tuple[bool, list[int], list[Film]]:
        """(read anew?, tokens to read, films to show); `length`: tokens of this conversation read so far."""
        anew = self.asked == 0
        if anew:
            self.pieces = self.renderer.pieces(self.turns, self._all_films())
        window = self.renderer.window
        while window is not None and len(self.history()) + self.limit > window:
            anew, self.first = True, self.first + 1
            if self.first > self.asked:
                alone = self.renderer.pieces([self.turn], self._all_films())[0]
                raise self.renderer.too_long(self.case, self.turn, len(alone) + self.limit)
            self.pieces = self.renderer.pieces(self.turns[self.first :], self._all_films())
        self.n_cut += self.first > 0
        films, shown = self.films(), 0 if anew else self.shown
        self.shown = len(films)
        return anew, self.history()[0 if anew else length :], films[shown:]

    def _all_films(self) -> list[Film]:
        return [self.film_inputs[path] for path in self.case.images]

    def write(self, token: int) -> bool:
        """Take the next token of the answer; True when the answer is complete."""
        if token == self.renderer.end_of_turn:
            return True
        self.written.append(token)
        return len(self.written) == self.limit

    def finish(self, probability: float | None, *, gold: bool) -> tuple:
        """(sample_id, turn, answer, prob_yes); the conversation then stands at the next turn."""
        turn = self.turn
        text = self.renderer.processor.tokenizer.decode(self.written, skip_special_tokens=False).strip()
        self.answers.append(list(self.renderer.tokenise(turn.answer)) if gold else self.written)
        self.written = []
        self.asked += 1
        return self.case.sample_id, turn.turn, text, probability


def together(model, asked: Sequence[Conversation], *, rows: int, gold: bool) -> Iterator[tuple]:
    """Rows of `answer`, as they come, from conversations decoded side by side."""
    renderer = asked[0].renderer
    yes, no = yes_no_ids(renderer.processor.tokenizer)
    decoder = Decoder(model, renderer, rows)
    queue = deque(asked)
    free = list(range(rows))
    waiting: dict[int, Conversation] = {}
    writing: dict[int, Conversation] = {}
    probability: dict[int, float | None] = {}
    while queue or waiting or writing:
        while queue and free:
            waiting[free.pop()] = queue.popleft()
        if waiting and (len(waiting) >= WAIT * rows or not writing):
            logits, order = read_questions(decoder, waiting)
            chances = yes_probability(logits, yes, no)
            for row, chance in zip(order, chances, strict=True):
                probability[row] = chance if waiting[row].turn.qtype == "yes_no" else None
                writing[row] = waiting[row]
            waiting = {}
        else:
            order = sorted(writing)
            logits = decoder.feed(order, [writing[row].written[-1:] for row in order])
        for row, token in zip(order, logits.argmax(-1).tolist(), strict=True):
            conversation = writing[row]
            if not conversation.write(token):
                continue
            if gold:
                # What was written makes room for what is true; its last token is not read yet, or its end.
                fed = len(conversation.written) - (len(conversation.written) == conversation.limit)
                decoder.forget(row, fed)
            yield conversation.finish(probability[row], gold=gold)
            del writing[row]
            if conversation.asked < len(conversation.turns):
                waiting[row] = conversation
            else:
                decoder.forget(row)
                free.append(row)


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
def one_by_one(model, asked: Sequence[Conversation], *, gold: bool) -> Iterator[tuple]:
    """Rows of `answer` by Hugging Face's `generate` on the whole history of each question."""
    network = models.core(model)
    renderer = asked[0].renderer
    yes, no = yes_no_ids(renderer.processor.tokenizer)
    for conversation in asked:
        for turn in conversation.turns:
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
                output_logits=True,
            )
            for token in found.sequences[0, ids.shape[1] :].tolist():
                if conversation.write(token):
                    break
            chance = yes_probability(found.logits[0], yes, no)[0] if turn.qtype == "yes_no" else None
            yield conversation.finish(chance, gold=gold)


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


def of_mode(mode: str) -> tuple[str, bool]:
    """(context, are the films blanked) of a prediction mode. ValueError when unknown."""
    if mode not in MODES:
        raise ValueError(f"unknown prediction mode {mode!r}; known: {', '.join(MODES)}")
    return ("predicted", True) if mode == "blank_image" else (mode, False)


def ask(
    model, renderer: Renderer, case: Case, film_inputs: Mapping[Path, Film], question: str, *, limit: int = 96
) -> str:
    """The model's answer to one free question about a case's films, without history."""
    turn = Turn(0, 1, "captioning", question, "", len(case.images))
    found = answer(
        model,
        renderer,
        [replace(case, turns=(turn,))],
        film_inputs,
        context="none",
        batch_cases=1,
        max_new_tokens=limit,
    )
    return found["answer"][0]
