"""One case being asked its questions: what the model reads with the next one, and what it has answered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cxrtrek_lib.chat import Case, Film, Renderer, Turn


class Answer(NamedTuple):
    """One row of tables.PREDICTIONS, and whether it was asked without the earliest turns (`cut`)."""

    sample_id: str
    turn: int
    answer: str
    prob_yes: float | None
    prob_answer: float
    cut: bool


@dataclass
class Conversation:
    """One case being asked its turns: what has been answered, what the model must read next.

    replaced  (sample_id, turn) -> what stands in the context in place of the model's own answer

    Window: where history, question and longest answer exceed it, the earliest turns are left out, question
    and answer, until what is left of the history fills at most half of the room that films, question and
    longest answer leave; films are then shown in the first turn that is left. Leaving out less would do for
    this question, but the next ones would exceed the window again, each to be read anew with its history.
    """

    case: Case
    turns: Sequence[Turn]
    renderer: Renderer
    film_inputs: Mapping[Path, Film]
    limit: int  # tokens of the longest answer
    replaced: Mapping[tuple[str, int], str] = field(default_factory=dict)
    asked: int = 0  # index of the turn being asked
    first: int = 0  # index of the first turn in the context
    shown: int = 0  # films in the context
    pieces: list[list[int]] = field(default_factory=list)  # of the turns from `first` on
    answers: list[list[int]] = field(
        default_factory=list
    )  # of the turns before `asked`, as the context has them
    written: list[int] = field(default_factory=list)  # of the turn being asked
    log_p: float = 0.0  # of what is written

    @property
    def turn(self) -> Turn:
        return self.turns[self.asked]

    @property
    def replacement(self) -> str | None:
        return self.replaced.get((self.case.sample_id, self.turn.turn))

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
            self._begin_at(0)
        window = self.renderer.window
        if window is not None and len(self.history()) + self.limit > window:
            anew = True
            self._cut(window)
        films, shown = self.films(), 0 if anew else self.shown
        self.shown = len(films)
        return anew, self.history()[0 if anew else length :], films[shown:]

    def _cut(self, window: int) -> None:
        """Leave the earliest turns out. Raises ValueError when the question alone exceeds the window."""
        alone = len(self.renderer.pieces([self.turn], self._all_films())[0])
        room = window - self.limit - alone
        if room < 0:
            raise self.renderer.too_long(self.case, self.turn, alone + self.limit)
        while self.first < self.asked and len(self.history()) > alone + room // 2:
            self._begin_at(self.first + 1)

    def _begin_at(self, first: int) -> None:
        self.first = first
        self.pieces = self.renderer.pieces(self.turns[first:], self._all_films())

    def _all_films(self) -> list[Film]:
        return [self.film_inputs[path] for path in self.case.images]

    def write(self, token: int, log_p: float) -> bool:
        """Take the next token of the answer and its log probability; True when the answer is complete.

        Raises ValueError when the probability is no number.
        """
        if math.isnan(log_p):
            raise ValueError(
                f"case {self.case.sample_id}, turn {self.turn.turn}: the model's logits are not finite; "
                "its weights are damaged or too large for their precision: train again at a lower rate, or "
                "load it in fp32"
            )
        self.log_p += log_p
        if token == self.renderer.end_of_turn:
            return True
        self.written.append(token)
        return len(self.written) == self.limit

    def finish(self, prob_yes: float | None) -> Answer:
        """What was answered; the conversation then stands at the next turn."""
        turn, text = self.turn.turn, self.renderer.processor.tokenizer.decode(self.written).strip()
        found = Answer(self.case.sample_id, turn, text, prob_yes, math.exp(self.log_p), self.first > 0)
        replacement = self.replacement
        self.answers.append(
            self.written if replacement is None else list(self.renderer.tokenise(replacement))
        )
        self.written, self.log_p = [], 0.0
        self.asked += 1
        return found
