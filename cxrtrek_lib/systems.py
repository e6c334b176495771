"""Predictions files: the answers of any system, read and put in order by one written rule.

A predictions file is JSON Lines (.jsonl, one object a line, UTF-8) or Parquet (.parquet), one row per answer:

    {"sample_id": "chexpert/patient00011/study1", "turn": 4, "answer": "No.", "prob_yes": 0.03}

sample_id    text, as in the Q&A table
turn         whole number, as in the Q&A table
answer       text; null or empty = not answered
prob_yes     optional, in [0, 1] or null: P(yes) of a yes/no question
prob_answer  optional, in [0, 1] or null: probability of the whole written answer; ranks boxes, see AP

Other columns are ignored. A file that is not of this form is an error of one line. What is in it may be
incomplete or odd; then the rules below hold, and `in_order` counts how often each did.

DVC does not watch these files: after a change of one, `dvc repro -f evaluate_stages` scores it anew. Which
content was scored stands in evaluation.json (`contents`).
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from cxrtrek_lib.conversations import FORMATS, is_box, parse_boxes
from cxrtrek_lib.metrics import LONGEST, normal
from cxrtrek_lib.tables import KEYS, PREDICTIONS

PROBABILITIES = ("prob_yes", "prob_answer")
_READ = {"sample_id": pl.String, "turn": pl.Int64, "answer": pl.String} | dict.fromkeys(
    PROBABILITIES, pl.Float64
)
_TYPES = "sample_id must be text, turn a whole number, answer text or null, probabilities numbers or null"
# What may be wrong with an answer -> what is then done.
RULES = {
    "cases without any answer": "every question of theirs is scored as wrong",
    "questions without an answer": "scored as wrong",
    "answers to no question of ours": "left out",
    "second answers to a question": "left out: the first in the file counts",
    "empty answers": "scored as wrong",
    f"answers of more than {LONGEST:,} characters": f"the first {LONGEST:,} are read",
    "answers in other Unicode forms": "read in the usual form: full-width letters, invisible characters",
    "probabilities that are NaN or not in 0-1": "taken as not given; the answer counts",
    "answers with a box reversed, empty or outside 0-100": "that box is no box; the others count",
}


def read(path: Path) -> pl.DataFrame:
    """The rows of a predictions file, in file order: sample_id, turn, answer, prob_yes, prob_answer.

    Raises FileNotFoundError or ValueError (one line: file, row and fix) when the file is not of the form that
    the head of this module describes, or holds no row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such predictions file; correct evaluate.systems in params.yaml")
    readers = {".jsonl": _read_lines, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{path}: a predictions file ends in .jsonl or .parquet; convert or rename it")
    frame = readers[path.suffix](path)
    if frame.is_empty():
        raise ValueError(f"{path}: no answer in the file; take it out of evaluate.systems or fill it")
    return frame


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
        missing = [column for column in _READ if column not in (*frame.columns, *PROBABILITIES)]
        if missing:
            raise ValueError(f"{path}: column {missing[0]} is missing; it needs sample_id, turn and answer")
        frame = frame.with_columns(
            pl.lit(None, pl.Float64).alias(c) for c in PROBABILITIES if c not in frame.columns
        )
        kinds = [
            *(frame.schema[column] in (pl.String, pl.Null) for column in ("sample_id", "answer")),
            frame.schema["turn"].is_integer(),
            *(
                frame.schema[column].is_numeric() or frame.schema[column] == pl.Null
                for column in PROBABILITIES
            ),
        ]
        if not all(kinds):
            wrong = ["sample_id", "answer", "turn", *PROBABILITIES][kinds.index(False)]
            raise ValueError(f"{path}: column {wrong} is of type {frame.schema[wrong]}; {_TYPES}")
        return frame.select(pl.col(column).cast(dtype) for column, dtype in _READ.items())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path}: not a predictions file: {str(error).splitlines()[0]}") from None


def _read_lines(path: Path) -> pl.DataFrame:
    try:
        # "-sig": some editors put a byte order mark in front.
        with path.open(encoding="utf-8-sig") as file:
            rows = list(_rows(path, file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    return pl.DataFrame(rows, schema=_READ, orient="row")


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple]:
    """One checked tuple per line; blank lines are none."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"{where}: not a JSON object; write one object a line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: not a JSON object; write one object a line")
        sample, turn, answer = (_given(row, key, where) for key in ("sample_id", "turn", "answer"))
        if not isinstance(sample, str) or not _is_whole(turn) or not isinstance(answer, str | None):
            raise ValueError(f"{where}: {_TYPES}")
        probabilities = [row.get(key) for key in PROBABILITIES]
        if not all(value is None or _is_number(value) for value in probabilities):
            raise ValueError(f"{where}: {_TYPES}")
        # JSON can spell half of a surrogate pair, which no table can hold.
        texts = (
            None if text is None else text.encode("utf-8", "replace").decode() for text in (sample, answer)
        )
        sample, answer = texts
        yield sample, turn, answer, *(None if value is None else _as_float(value) for value in probabilities)


def _given(row: dict[str, Any], key: str, where: str) -> Any:
    if key not in row:
        raise ValueError(f"{where}: {key} is missing; every line needs sample_id, turn and answer")
    return row[key]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _as_float(value: float) -> float:
    return float(value) if abs(value) < 2**63 else math.inf


def in_order(qa: pl.DataFrame, given: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Answers as metrics.score_answers takes them, and how often each of `RULES` held.

    qa     the questions that are scored (tables.QA)
    given  sample_id, turn, answer, and prob_yes and prob_answer or only one or none of them
    Returns a frame in the schema of tables.PREDICTIONS, at most one row per question, and {rule: count}.
    """
    given = given.with_columns(
        pl.lit(None, pl.Float64).alias(c) for c in PROBABILITIES if c not in given.columns
    )
    given = given.with_columns(pl.col("turn").cast(pl.Int64))
    asked = qa.select(
        "sample_id", pl.col("turn").cast(pl.Int64), kind=pl.col("qtype").replace_strict(FORMATS)
    )
    ours = given.join(asked, on=KEYS, how="inner", maintain_order="left")
    first = ours.unique(KEYS, keep="first", maintain_order=True)
    written = pl.col("answer").is_not_null() & (pl.col("answer").str.strip_chars() != "")
    answered = first.filter(written)
    silent = asked.join(first, on=KEYS, how="anti")
    texts = answered.filter(pl.col("kind") == "detection")["answer"]
    bad_boxes = sum(not all(is_box(box) for box in parse_boxes(text[:LONGEST])) for text in texts)
    odd = [pl.col(c).is_not_null() & ~pl.col(c).is_between(0, 1) for c in PROBABILITIES]  # NaN is not between
    counts = (
        asked["sample_id"].n_unique() - answered["sample_id"].n_unique(),
        silent.height,
        given.height - ours.height,
        ours.height - first.height,
        first.height - answered.height,
        answered.filter(pl.col("answer").str.len_chars() > LONGEST).height,
        sum(_other_form(text[:LONGEST]) for text in answered["answer"]),
        sum(first.select(rule.sum()).item() for rule in odd),
        bad_boxes,
    )
    kept = first.with_columns(
        pl.when(~rule).then(column).alias(column) for rule, column in zip(odd, PROBABILITIES, strict=True)
    )
    # An empty answer is one that was given: the questions that were never answered are counted apart.
    kept = kept.with_columns(pl.col("answer").fill_null(""))
    kept = kept.select(pl.col(column).cast(dtype) for column, dtype in PREDICTIONS.items())
    return kept, dict(zip(RULES, counts, strict=True))


def _other_form(text: str) -> bool:
    return not text.isascii() and normal(text) != " ".join(text.casefold().split())


def all_in_order(
    qa: pl.DataFrame, given: dict[str, pl.DataFrame]
) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """`in_order` for several systems: the answers of each, and one table of the counts.

    The table has the columns problem, rule, and one per system.
    """
    found = {name: in_order(qa, answers) for name, answers in given.items()}
    table = pl.DataFrame({"problem": list(RULES), "rule": list(RULES.values())})
    table = table.with_columns(pl.Series(name, list(counts.values())) for name, (_, counts) in found.items())
    return {name: answers for name, (answers, _) in found.items()}, table


def from_files(files: dict[str, str], root: Path, known: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The systems of `evaluate.systems`: name -> rows of its file; paths are taken from `root`.

    Raises what `read` raises, and ValueError when a name is that of one of the study's own systems.
    """
    for name in files:
        if name in known:
            raise ValueError(f"evaluate.systems: {name} is a system of the study; choose another name")
    return {name: read(root / path) for name, path in files.items()}


def contents(files: dict[str, str], root: Path) -> dict[str, dict[str, str]]:
    """Of each file of `evaluate.systems`: its path as given (file) and the SHA-256 of its bytes (sha256)."""
    found = {}
    for name, path in files.items():
        with (root / path).open("rb") as file:
            found[name] = {"file": path, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return found
