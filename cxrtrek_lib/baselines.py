"""What systems score that never look at a film: the most common answers of the training cases.

`majority` reads the question: the most common answer to the same question. `constant` does not even do that:
one answer per format, for choices the place where the right option stands most often. Both are learned from
training cases alone, answered for the test questions and scored like any other system. `majority` reads what
the model reads, the question: `fact` and `target` can name the right option.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import polars as pl

from cxrtrek_lib.conversations import PLACEHOLDER, format_boxes, format_of
from cxrtrek_lib.metrics import split_option
from cxrtrek_lib.tables import PREDICTIONS


def asked(question: str) -> str:
    """What a question asks: its first sentence, without image placeholders, options and style.

    >>> asked("<image>\\nOn which side is the nodule? Choose one option. Options: A. left; B. right")
    'On which side is the nodule?'
    """
    return re.split(r"(?<=[.?!])\s", question.replace(PLACEHOLDER, "").strip(), maxsplit=1)[0]


def _levels(turn: dict) -> Iterator[tuple]:
    """What a question is about, the finest first; the first level seen in training answers it."""
    yield turn["stage"], turn["qtype"], asked(turn["question"])
    yield turn["stage"], turn["qtype"]
    yield (format_of(turn["qtype"]),)


def _most_common(answers: Counter) -> str:
    """The most frequent answer; ties go to the first in alphabetical order, so that row order has no say."""
    return min(answers, key=lambda answer: (-answers[answer], str(answer)))


def _choice(turn: dict, right: Counter, offered: Counter, places: Counter) -> str:
    """The option that is right most often when offered; in a multi-choice every one that mostly is.

    Where no offered option was offered in training: the most common place of the right option.
    """
    options = {split_option(option)[1]: option for option in turn["option_list"]}
    rates = Counter({text: right[text] / offered[text] for text in options if offered[text]})
    if rates:
        several = [text for text in options if rates[text] > 0.5] if turn["qtype"] != "single-choice" else []
        return ", ".join(options[text] for text in several or [_most_common(rates)])
    fitting = Counter({place: n for place, n in places.items() if place < len(turn["option_list"])})
    return turn["option_list"][_most_common(fitting) if fitting else 0]


def majority_predictions(train_qa: pl.DataFrame, test_qa: pl.DataFrame) -> pl.DataFrame:
    """Answers of the image-free baseline: rows of the predictions table, one per test question.

    open- and close-ended  the most common answer to the same question (see `asked`), stage and qtype
    choice                 the option that is right most often when offered, else the most common position
    detection              the median box of the training boxes
    A question unseen in training falls back to the same stage and qtype, then to the same format.
    Raises ValueError when training has no question of a format.
    """
    texts: dict[tuple, Counter] = defaultdict(Counter)
    offered: dict[tuple, Counter] = defaultdict(Counter)
    places: dict[tuple, Counter] = defaultdict(Counter)
    boxes: dict[tuple, list[list[float]]] = defaultdict(list)
    for turn in train_qa.iter_rows(named=True):
        for level in _levels(turn):
            if turn["option_list"]:
                options = [split_option(option)[1] for option in turn["option_list"]]
                right = [split_option(answer)[1] for answer in turn["answer_list"]]
                texts[level].update(right)
                offered[level].update(options)
                places[level].update(options.index(text) for text in right if text in options)
            else:
                texts[level][turn["answer"]] += 1
            boxes[level] += turn["bbox_list"] or []

    answers = []
    for turn in test_qa.iter_rows(named=True):
        kind = format_of(turn["qtype"])
        known = boxes if kind == "detection" else texts
        level = next((level for level in _levels(turn) if known.get(level)), None)
        if level is None:
            raise ValueError(_no_question(kind, train_qa))
        if kind == "detection":
            median = np.median(np.asarray(boxes[level], dtype=float), axis=0).tolist()
            answers.append(format_boxes("finding", [median]))
        elif kind == "choice":
            answers.append(_choice(turn, texts[level], offered[level], places[level]))
        else:
            answers.append(_most_common(texts[level]))
    return _predictions(test_qa, answers)


def constant_predictions(train_qa: pl.DataFrame, test_qa: pl.DataFrame) -> pl.DataFrame:
    """One answer per format, whatever is asked: rows of the predictions table, one per test question.

    open- and close-ended  the most common answer of the format
    choice                 the option at the place where the right one stands most often (the last where
                           fewer are offered); a constant answer to questions with other options each
    detection              the median box
    Raises ValueError when training has no question of a format.
    """
    texts: dict[str, Counter] = defaultdict(Counter)
    boxes: list[list[float]] = []
    for turn in train_qa.iter_rows(named=True):
        kind = format_of(turn["qtype"])
        if kind == "choice":
            options = [split_option(option)[1] for option in turn["option_list"]]
            right = [split_option(answer)[1] for answer in turn["answer_list"]]
            texts[kind].update(options.index(text) for text in right if text in options)
        elif kind == "detection":
            boxes += turn["bbox_list"] or []
        else:
            texts[kind][turn["answer"]] += 1
    said: dict[str, str | int] = {kind: _most_common(found) for kind, found in texts.items() if found}
    if boxes:
        said["detection"] = format_boxes("finding", [np.median(np.asarray(boxes), axis=0).tolist()])
    answers = []
    for qtype, options in test_qa.select("qtype", "option_list").iter_rows():
        kind = format_of(qtype)
        if kind not in said:
            raise ValueError(_no_question(kind, train_qa))
        answers.append(options[min(said[kind], len(options) - 1)] if kind == "choice" else said[kind])
    return _predictions(test_qa, answers)


def _no_question(kind: str, train_qa: pl.DataFrame) -> str:
    return f"no {kind} question in {train_qa.height} training questions: raise cohort.training.train"


def _predictions(qa: pl.DataFrame, answers: list[str]) -> pl.DataFrame:
    """The predictions table of a system that gives answers and no probabilities."""
    unknown = (pl.lit(None, PREDICTIONS[c]).alias(c) for c in PREDICTIONS if c.startswith("prob_"))
    frame = qa.select("sample_id", "turn", *unknown, answer=pl.Series(answers, dtype=pl.String))
    return frame.select(pl.col(column).cast(dtype) for column, dtype in PREDICTIONS.items())
