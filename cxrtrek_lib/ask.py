"""Ask a trained checkpoint about your own films: question by question, or the same questions of many.

    talk = ask.Conversation("film.png")  # PNG, JPEG or DICOM
    talk.ask("Is there evidence of pleural effusion?")
    talk.ask("Where is the pleural effusion?", stage=3).draw()
    talk.table()

Each answer stands in the context of the next question, as in prediction (dialogue.py). A model understands
the questions that it was trained on: those of the cohort's Q&A table are the ones to start from.
"""

import dataclasses
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import polars as pl
from matplotlib.figure import Figure
from PIL import Image

from cxrtrek_lib import chat, decode, dialogue, film_figures, images, paths, predict
from cxrtrek_lib import model as models
from cxrtrek_lib.conversations import STAGES, is_box, parse_boxes
from cxrtrek_lib.viewer import readable

COMPARING = 5  # the stage whose questions are the first to see a prior film
NOT_STATED = "origin not stated"
_COLUMNS = {
    "film": pl.String,
    "stage": pl.Int64,
    "question": pl.String,
    "answer": pl.String,
    "prob_yes": pl.Float64,
    "prob_answer": pl.Float64,
    "error": pl.String,
}
_YES_NO = re.compile(r"(yes|no)\b\W*$|(yes|no)[.,;]", re.IGNORECASE)


class Trained(NamedTuple):
    """A loaded checkpoint."""

    model: object
    processor: object
    renderer: chat.Renderer


@lru_cache(maxsize=1)
def load(checkpoint: str | Path | None = None) -> Trained:
    """A checkpoint, ready to answer: models/trained, or another local folder or Hugging Face id.

    The last one is kept in memory. Raises FileNotFoundError when nothing has been trained yet, ValueError as
    model.load; each one line.
    """
    folder = paths.MODELS / "trained"
    if checkpoint is None and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no trained model yet; run `dvc repro finetune`")
    model, processor = models.load(folder if checkpoint is None else checkpoint)
    return Trained(model, processor, models.renderer(model, processor))


def origin_of(film: Path) -> str:
    """Where a film says that it comes from: simulated or real, as the films of the study do."""
    try:
        with Image.open(film, formats=("PNG",)) as image:
            return image.info.get("image_origin", NOT_STATED)
    except OSError:  # a JPEG or DICOM file
        return NOT_STATED


def _two_digits(p: float) -> str:
    return "<0.01" if 0 < p < 0.005 else f"{p:.2f}"


@dataclass(frozen=True)
class Reply:
    """One answer.

    prob_yes     P(yes) / (P(yes) + P(no)) at its first token; None when it is neither a yes nor a no
    prob_answer  probability of the answer as written, word for word
    boxes        x1 y1 x2 y2 in percent of the film
    cut          whether the earliest turns had to be left out of the context (dialogue.Conversation)
    films        what the model had seen by then
    """

    stage: int
    question: str
    answer: str
    prob_yes: float | None
    prob_answer: float
    boxes: list[list[float]]
    cut: bool
    films: tuple[Path, ...]

    def __repr__(self) -> str:
        sure = "" if self.prob_yes is None else f"P(yes) {_two_digits(self.prob_yes)}, "
        said = readable(self.answer) or "(nothing)"
        sure += f"P(answer) {_two_digits(self.prob_answer)}"
        return f"stage {self.stage}  {self.question}\n         {said}  ({sure})"

    def draw(self) -> Figure:
        """The films, the answered boxes on the first (blue, dashed), question and answer above them."""
        told = [textwrap.fill(self.question, 60), textwrap.fill(readable(self.answer) or "(nothing)", 60)]
        if self.prob_yes is not None:
            told.append(f"P(yes) {_two_digits(self.prob_yes)}")
        titles = ["\n".join(told), *["prior film"] * (len(self.films) - 1)]
        figure = film_figures.case_films(
            [images.read(film) for film in self.films],
            titles,
            answered=[self.boxes, *[[]] * (len(self.films) - 1)],
            origins=[origin_of(film) for film in self.films],
        )
        figure.supxlabel("An answer of a research model, not for diagnosis.", fontsize=5.5)
        return figure


class Conversation:
    """A conversation about one patient's films.

    film   path of a PNG, JPEG or DICOM film, or of several views of one study
    prior  path of an earlier film, which questions from stage 5 on see
    checkpoint, max_new_tokens  see `load`; tokens of the longest answer
    Raises FileNotFoundError or ValueError, one line, for a film that cannot be read and as `load`.
    """

    def __init__(
        self,
        film: str | Path | Sequence[str | Path],
        *,
        prior: str | Path | None = None,
        checkpoint: str | Path | None = None,
        max_new_tokens: int = 160,
    ):
        own = [film] if isinstance(film, str | Path) else list(film)
        films = tuple(Path(path) for path in (*own, *([] if prior is None else [prior])))
        for path in films:
            _check(path)
        self._n_own = len(own)
        model, processor, renderer = load(checkpoint)
        inputs = models.film_inputs(model, processor, films)
        case = chat.Case("conversation", "", films, ())
        self._model = model
        self._talk = dialogue.Conversation(case, [], renderer, inputs, max_new_tokens)
        self.replies: list[Reply] = []

    def ask(self, question: str, stage: int = 2) -> Reply:
        """The answer to one question, with all questions and answers so far as its context.

        stage  1 to 8: from 5 on the prior film is seen, if there is one
        Raises ValueError for an unknown stage and an empty question.
        """
        if stage not in STAGES or not question.strip():
            raise ValueError(f"stage {stage}, question {question!r}: give a stage from 1 to 8 and a question")
        films = self._talk.case.images
        n_films = len(films) if stage >= COMPARING else self._n_own
        turn = _turn(len(self.replies), stage, question, n_films)
        turns = [*self._talk.turns, turn]
        pieces = self._talk.renderer.pieces(turns[self._talk.first :], self._films())
        # Read anew with its history: a decoder keeps nothing between two questions.
        talk = dataclasses.replace(self._talk, turns=turns, pieces=pieces, shown=0, written=[])
        if decode.uncached(self._model):
            (found,) = predict.one_by_one(self._model, [talk])
        else:
            (found,) = predict.together(self._model, [talk], rows=1)
        self._talk = talk
        reply = _reply(turn, found, films[: max(one.n_images for one in turns)])
        self.replies.append(reply)
        return reply

    def _films(self) -> list[chat.Film]:
        return [self._talk.film_inputs[path] for path in self._talk.case.images]

    def table(self) -> pl.DataFrame:
        """One row per question so far: stage, question, answer, prob_yes, prob_answer."""
        columns = {name: kind for name, kind in _COLUMNS.items() if name not in ("film", "error")}
        return pl.DataFrame([{name: getattr(one, name) for name in columns} for one in self.replies], columns)


def _check(film: Path) -> None:
    """Raises FileNotFoundError or ValueError, one line, for a file that is no film."""
    if not film.is_file():
        raise FileNotFoundError(f"{film}: no such film; give the path of a PNG, JPEG or DICOM file")
    images.read(film)


def _turn(number: int, stage: int, question: str, n_images: int) -> chat.Turn:
    """As if it were a yes/no question, so that P(yes) is told; what kind it really is, the answer shows."""
    return chat.Turn(number, stage, "yes_no", chat.whole_percent(question.strip()), "", n_images)


def _reply(turn: chat.Turn, found: dialogue.Answer, films: tuple[Path, ...]) -> Reply:
    sure = found.prob_yes if _YES_NO.match(found.answer) else None
    boxes = [box for box in parse_boxes(found.answer) if is_box(box)]
    return Reply(turn.stage, turn.question, found.answer, sure, found.prob_answer, boxes, found.cut, films)


def of_each(
    films: Sequence[str | Path],
    questions: Mapping[str, int],
    *,
    checkpoint: str | Path | None = None,
    max_new_tokens: int = 160,
    batch_cases: int = 32,
) -> pl.DataFrame:
    """The same questions, one after another, of many films: a row per film and question.

    questions  question -> its stage, in the order of asking; each sees the answers before it
    Returns film, stage, question, answer, prob_yes, prob_answer (as in Reply), error. A film that cannot be
    read stops no other: it has one row, with the reason in `error`. Raises as `load`.
    """
    model, processor, renderer = load(checkpoint)
    turns = tuple(_turn(i, stage, question, 1) for i, (question, stage) in enumerate(questions.items()))
    rows: dict[str, list[dict]] = {str(film): [] for film in films}
    cases = []
    for film in rows:
        try:
            _check(Path(film))
            cases.append(chat.Case(film, film, (Path(film),), turns))
        except (OSError, ValueError) as error:
            rows[film].append({"film": film, "error": str(error)})
    if cases:
        inputs = models.film_inputs(model, processor, [case.images[0] for case in cases])
        limits = {"batch_cases": batch_cases, "max_new_tokens": max_new_tokens}
        found = predict.answer(model, renderer, cases, inputs, context="predicted", **limits)
        for film, number, *answer in found.iter_rows():
            reply = _reply(turns[number], dialogue.Answer(film, number, *answer, False), (Path(film),))
            about = {name: getattr(reply, name) for name in _COLUMNS if name not in ("film", "error")}
            rows[film].append({"film": film} | about)
    return pl.DataFrame([row for of_film in rows.values() for row in of_film], schema=_COLUMNS)
