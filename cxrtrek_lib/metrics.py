"""One score in [0, 1] for every answer: open-ended, close-ended, choice and detection.

format       parsed as                     primary score                              also kept
open-ended   any text                      mean of ROUGE-L F1 and finding-F1          both parts
close-ended  first yes / no / uncertain    right or wrong; the cell's aggregate is    class said
                                           balanced accuracy (evaluation.py)
choice       option labels or option text  the set said equals the right set          Jaccard
detection    every valid box               F1 at IoU 0.5, one-to-one                  mean IoU

Higher is better throughout. An answer that cannot be parsed, and one that is missing, scores 0 and is
counted apart. Of an answer of more than `LONGEST` characters the first so many are read. A box that is
reversed, empty or leaves 0-100 is no box. Scores of different `VERSION`s are not comparable.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.optimize import linear_sum_assignment
from tqdm.auto import tqdm

from cxrtrek_lib.boxes import iou_matrix
from cxrtrek_lib.conversations import FORMATS, format_of, is_box, parse_boxes, split_label
from cxrtrek_lib.tables import KEYS
from cxrtrek_lib.text_findings import findings_in

VERSION = 2  # 2: invisible characters are not read, nor what stands after the LONGEST-th
PRIMARY = {
    "open-ended": "mean of ROUGE-L F1 and finding-F1",
    "close-ended": "balanced accuracy",
    "choice": "exact set match",
    "detection": "F1 at IoU 0.5",
}
IOU_HIT = 0.5
LONGEST = 20_000  # characters; a report has some 500, and a longer text is a decoder that does not stop
_YES_NO = re.compile(r"\b(yes|no|uncertain)\b")
_SCORES = {
    "answered": pl.Boolean,
    "parsed": pl.Boolean,
    "score": pl.Float64,
    "rouge_l": pl.Float64,
    "finding_f1": pl.Float64,
    "gold_class": pl.String,
    "pred_class": pl.String,
    "jaccard": pl.Float64,
    "iou": pl.Float64,
}


def normal(text: str) -> str:
    """One spelling of a text: lower case, single spaces, Unicode NFKC (full-width letters, ligatures).

    Characters that cannot be seen (zero-width space, byte order mark; Unicode category Cf) are left out.
    """
    if not text.isascii():
        kept = (letter for letter in text if unicodedata.category(letter) != "Cf")
        text = unicodedata.normalize("NFKC", "".join(kept))
    return " ".join(text.casefold().split())


# --- open-ended ---------------------------------------------------------------------------------------
def words(text: str) -> list[str]:
    """Lower-case runs of ASCII letters and digits: the tokens of Google's ROUGE, without stemming."""
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge_l(gold: str, answer: str) -> float:
    """ROUGE-L F1 of two texts, in [0, 1]; 0 when either has no word.

    Length of the longest common subsequence by bit-parallel dynamic programming, so that an answer of
    20,000 words costs milliseconds. Source: Lin 2004 (score); Hyyro 2004 (algorithm).

    >>> round(rouge_l("small left pleural effusion", "left effusion"), 4)
    0.6667
    """
    a, b = words(gold), words(answer)
    if not a or not b:
        return 0.0
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        hit = row & places.get(word, 0)
        row = ((row + hit) | (row - hit)) & full
    common = len(a) - row.bit_count()
    return 2 * common / (len(a) + len(b))


def finding_f1(gold: str, answer: str) -> float | None:
    """F1 of the (finding, polarity) pairs two texts state, in [0, 1]; None when neither states any.

    Polarity is part of the pair: "no effusion" against "effusion" shares nothing.
    """
    a, b = set(findings_in(gold).items()), set(findings_in(answer).items())
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else None


def text_score(gold: str, answer: str) -> dict[str, float | None]:
    """Open-ended score {"score", "rouge_l", "finding_f1"}: the mean of the parts that are defined."""
    rouge, findings = rouge_l(gold, answer), finding_f1(gold, answer)
    score = rouge if findings is None else (rouge + findings) / 2
    return {"score": score, "rouge_l": rouge, "finding_f1": findings}


# --- close-ended --------------------------------------------------------------------------------------
def yes_no(text: str) -> str | None:
    """The first "yes", "no" or "uncertain" that stands as a word in a text, None without one.

    >>> yes_no("No. The heart is not enlarged, yes?"), yes_no("Nothing to see")
    ('no', None)
    """
    found = _YES_NO.search(normal(text))
    return found.group(1) if found else None


# --- choice -------------------------------------------------------------------------------------------
def split_option(option: str) -> tuple[str | None, str]:
    """Label and text of one option: "A. Left" -> ("A", "left"); "Left" -> (None, "left")."""
    label, text = split_label(option)
    return label and label.upper(), normal(text)


def chosen(text: str, options: Sequence[str]) -> set[str]:
    """The options an answer names, as normalised option texts without labels; empty when it names none.

    Labels count where they stand as labels ("B", "B.", "(B)", "B and C"), never the article "A" in front
    of a word. Option texts count as whole words, the longest first, so that "left" is not found inside
    "left lower". Where label and text disagree, the labels decide: they are what the question asks for.
    """
    parts = [split_option(option) for option in options]
    rest = normal(text)
    named = set()
    for _, option in sorted(parts, key=lambda part: -len(part[1])):
        rest, hits = re.subn(rf"(?<!\w){re.escape(option)}(?!\w)", " \N{BULLET} ", rest)
        if hits and option:
            named.add(option)
    labels = {label.casefold(): option for label, option in parts if label}
    if len(labels) == len(parts):
        label = "|".join(map(re.escape, labels))
        ends = rf"(?=\s*(?:[.):,;/&]|$|(?:and|or)\b|(?:{label})\s*[.):]))"
        by_label = re.findall(rf"(?<![\w']){'(' + label + ')'}(?!\w){ends}", rest)
        if by_label:
            return {labels[found] for found in by_label}
    return named


# --- detection ----------------------------------------------------------------------------------------
def box_score(gold: Sequence[Sequence[float]], answer: Sequence[Sequence[float]]) -> dict[str, float]:
    """{"score": F1 at IoU 0.5, "iou": mean IoU} of two sets of boxes, matched one-to-one.

    F1 takes the matching with the most pairs at IoU >= 0.5. Mean IoU takes the matching with the largest
    sum, divided by the larger number of boxes: a missed and an invented box both count 0. Averaging over
    all pairs would punish a perfect answer with two boxes. No box against no box scores 1.
    """
    if not len(gold) or not len(answer):
        return dict.fromkeys(("score", "iou"), float(len(gold) == len(answer)))
    iou = iou_matrix(np.asarray(gold, dtype=float), np.asarray(answer, dtype=float))
    hit = iou >= IOU_HIT
    pairs = hit[linear_sum_assignment(hit, maximize=True)].sum()
    best = iou[linear_sum_assignment(iou, maximize=True)].sum()
    return {"score": float(2 * pairs / sum(iou.shape)), "iou": float(best / max(iou.shape))}


# --- one row per question -----------------------------------------------------------------------------
def score_answer(turn: dict, answer: str | None) -> dict:
    """Scores of one answer, keys as `_SCORES`. `turn` is one row of the Q&A table, None = not answered.

    The answer may be any text: nothing a system writes raises an error.

    Raises ValueError when the gold answer of a yes/no question is neither yes, no nor uncertain.
    """
    kind = format_of(turn["qtype"])
    row = dict.fromkeys(_SCORES) | {"answered": answer is not None, "parsed": False, "score": 0.0}
    answer = (answer or "")[:LONGEST]
    if kind == "close-ended":
        row["gold_class"] = yes_no(turn["answer"])
        if row["gold_class"] is None:
            raise ValueError(
                f"{turn['sample_id']} turn {turn['turn']}: gold answer {turn['answer']!r} of a yes_no "
                "question is neither yes, no nor uncertain; correct the Q&A table"
            )
        row["pred_class"] = yes_no(answer)
        row["parsed"] = row["pred_class"] is not None
        row["score"] = float(row["pred_class"] == row["gold_class"])
    elif kind == "choice":
        gold, named = (
            {split_option(a)[1] for a in turn["answer_list"]},
            chosen(answer, turn["option_list"]),
        )
        row["parsed"] = bool(named)
        row["score"], row["jaccard"] = float(named == gold), len(named & gold) / len(named | gold)
    elif kind == "detection":
        gold, boxes = turn["bbox_list"] or [], [box for box in parse_boxes(answer) if is_box(box)]
        # A question whose truth is "nothing to box" is answered by any text without a box.
        row["parsed"] = bool(boxes) or (not gold and bool(answer.strip()))
        row["iou"] = 0.0
        if row["parsed"]:
            row |= box_score(gold, boxes)
    else:
        row |= text_score(turn["answer"], answer)
        row["parsed"] = bool(words(answer))
    return row


def check_predictions(qa: pl.DataFrame, predictions: pl.DataFrame) -> None:
    """Raise ValueError (one line) on duplicate predictions and on predictions of unknown turns."""
    repeated = predictions.filter(predictions.select(KEYS).is_duplicated()).select(KEYS).unique().sort(KEYS)
    extra = predictions.select(KEYS).join(qa.select(KEYS), on=KEYS, how="anti").sort(KEYS)
    for rows, what, fix in (
        (repeated, "answered twice or more", "keep one row per sample_id and turn"),
        (extra, "not among the questions", "score with the Q&A table the predictions were made from"),
    ):
        if rows.height:
            sample, turn = rows.row(0)
            raise ValueError(
                f"predictions: {rows.height} turns are {what} (first: {sample} turn {turn}); {fix}"
            )


def score_answers(
    qa: pl.DataFrame, predictions: pl.DataFrame, studies: pl.DataFrame, *, progress: bool = False
) -> pl.DataFrame:
    """One row per question: who, where, and how well it was answered.

    qa           rows of the Q&A table; every one is scored, answered or not
    predictions  columns sample_id, turn, answer (others are ignored); null answer = not answered
    studies      columns sample_id, patient_id of every sample (a sample id need not contain the patient)
    Returns, in the order of qa: sample_id, patient_id, turn, stage, format, qtype, target, fact, and
    answered, parsed (bool), score (float in [0, 1]), rouge_l, finding_f1, gold_class, pred_class,
    jaccard, iou (null where the format has none).
    Raises ValueError on duplicate or unknown turns and on samples that are not in `studies`.
    """
    check_predictions(qa, predictions)
    strangers = qa.join(studies, on="sample_id", how="anti")
    if strangers.height:
        sample = strangers["sample_id"][0]
        raise ValueError(f"{sample} has questions but no row in studies; give the studies of the same cohort")
    joined = qa.join(
        predictions.select("sample_id", "turn", given="answer"),
        on=KEYS,
        how="left",
        maintain_order="left",
    )
    turns = tqdm(
        joined.iter_rows(named=True), total=joined.height, desc="scoring", unit="answer", disable=not progress
    )
    scores = pl.DataFrame([score_answer(turn, turn["given"]) for turn in turns], schema=_SCORES)
    about = qa.select(
        "sample_id",
        "turn",
        "stage",
        pl.col("qtype").replace_strict(FORMATS).alias("format"),
        "qtype",
        "target",
        "fact",
    )
    patients = studies.select("sample_id", "patient_id").unique()
    rows = about.hstack(scores).join(patients, on="sample_id", how="left", maintain_order="left")
    return rows.select("sample_id", "patient_id", pl.exclude("sample_id", "patient_id"))
