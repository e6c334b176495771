"""From answers in words to rows of the transfer table: questions of several formats, and reports."""

from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl

from cxrtrek_lib import also_reported, baselines, clinical_metrics, metrics, transfer_scores
from cxrtrek_lib.transfer_tasks import (
    ASKED,
    BLANK,
    FLOW,
    Answered,
    baseline,
    compared,
    counts,
    weighted_mean,
)


def visual_questions(about: Answered) -> list[dict]:
    """Accuracy of yes/no and choice, texts by exact match, recall of words and ROUGE-L, boxes by mean IoU."""
    asked = about.rows.filter(pl.col("part") == "vqa")
    if asked.is_empty():
        return []
    scored = _scored(about, asked)
    rows = []
    closed = pl.col("format").is_in(["close-ended", "choice"])
    for metric, which, column, headline in (
        ("accuracy, yes/no", pl.col("format") == "close-ended", "score", True),
        ("accuracy, choice", pl.col("format") == "choice", "score", True),
        ("accuracy, closed questions", closed, "score", False),
        ("exact match, open", pl.col("format") == "open-ended", "exact", False),
        ("word recall, open", pl.col("format") == "open-ended", "recall", True),
        ("ROUGE-L F1, open", pl.col("format") == "open-ended", "rouge_l", False),
        ("mean IoU, boxes", pl.col("format") == "detection", "iou", True),
    ):
        part = {run: table.filter(which) for run, table in scored.items()}
        rows += _means(about, metric, part, column, headline)
    return rows


def report_generation(about: Answered) -> list[dict]:
    """ROUGE-L F1, BLEU-4 and finding-F1 against the reports as written, by section; clinical metrics."""
    asked = about.rows.filter(pl.col("part") == "report")
    if asked.is_empty():
        return []
    scored = _scored(about, asked)
    both = pl.col("fact").str.contains(";", literal=True)
    sections = {
        "all reports": pl.lit(True),
        "findings": ~both & pl.col("fact").str.contains("findings"),
        "impression": ~both & pl.col("fact").str.contains("impression"),
    }
    rows = []
    for section, which in sections.items():
        part = {run: table.filter(which) for run, table in scored.items()}
        if part[FLOW].is_empty():
            continue
        for metric, column in (("ROUGE-L F1", "rouge_l"), ("finding-F1", "finding_f1")):
            rows += _means(about, f"{metric}, {section}", part, column, section == "all reports")
        rows += _means(about, f"BLEU-4, {section}", part, "bleu", False)
    return rows + [row for metric in about.clinical for row in _clinical(about, metric, scored)]


def _clinical(about: Answered, metric: str, scored: dict[str, pl.DataFrame]) -> list[dict]:
    """Rows of a metric that a package of its own computes; they say so where it cannot."""
    texts = {
        run: table.select("gold", pl.col("answer").str.slice(0, metrics.LONGEST))
        for run, table in scored.items()
    }
    rows = scored[FLOW]
    numbers, n_patients = about.numbered(rows)
    common = counts(rows, None, int((~rows["answered"]).sum()))
    try:
        parts = clinical_metrics.of_pairs(metric, pl.concat(texts.values()).rows(), **about.clinical[metric])
    except ValueError as error:
        nothing = np.full(1 + about.n_boot, np.nan)
        return compared(
            f"{metric}, all reports", dict.fromkeys(ASKED, nothing), **common, note=f"not run: {error}"
        )

    def score(run: str, weights: np.ndarray) -> np.ndarray:
        above, below = (weights[:, numbers] @ np.array([parts[pair] for pair in texts[run].rows()])).T
        with np.errstate(invalid="ignore"):
            return above / below

    blank, majority = (float(score(run, np.ones((1, n_patients)))[0]) for run in (BLANK, "majority"))
    drawn = {asked: about.resampled(partial(score, asked), n_patients) for asked in ASKED}
    return compared(
        f"{metric}, all reports", drawn, **common, **baseline(blank), majority=majority, headline=True
    )


def _scored(about: Answered, asked: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Run, or "majority" (the commonest training answer) -> the scored answers, in one order."""
    keys = asked.select("sample_id", "turn")
    given = {run: keys.with_columns(about.said(run, asked)) for run in (*ASKED, BLANK)}
    given["majority"] = baselines.majority_predictions(about.training, asked)
    return {
        run: _with_texts(metrics.score_answers(asked, rows, about.studies), asked, rows["answer"])
        for run, rows in given.items()
    }


def _with_texts(scored: pl.DataFrame, asked: pl.DataFrame, said: pl.Series) -> pl.DataFrame:
    """Scored answers with gold text, answer, `exact` and `recall` (null but for open-ended ones)."""
    scored = scored.with_columns(gold=asked["answer"], answer=said.fill_null(""))
    texts = [
        (transfer_scores.exact_match(gold, answer), transfer_scores.word_recall(gold, answer))
        for gold, answer in scored.select("gold", "answer").iter_rows()
    ]
    is_open = pl.col("format") == "open-ended"
    exact, recall = (pl.Series(values, dtype=pl.Float64) for values in zip(*texts, strict=True))
    return scored.with_columns(exact=pl.when(is_open).then(exact), recall=pl.when(is_open).then(recall))


def _means(
    about: Answered, metric: str, scored: dict[str, pl.DataFrame], column: str, headline: bool
) -> list[dict]:
    """Rows of a mean over answers (`column`), or of corpus BLEU-4 ("bleu")."""
    if column != "bleu":
        # A text without any known finding on either side has no finding-F1: the same answers count for all.
        known = pl.DataFrame({run: table[column] for run, table in scored.items()}).select(
            pl.all_horizontal(pl.all().is_not_null())
        ).to_series()  # fmt: skip
        scored = {run: table.filter(known) for run, table in scored.items()}
    rows = scored[FLOW]
    if rows.is_empty():
        return []
    numbers, n_patients = about.numbered(rows)

    def score(table: pl.DataFrame) -> Callable[[np.ndarray], np.ndarray]:
        if column == "bleu":
            return lambda weights: also_reported.bleu_4(also_reported.Answers(table, numbers, weights))
        return partial(weighted_mean, table[column].cast(pl.Float64).to_numpy(), numbers)

    everyone = np.ones((1, n_patients))
    blank, majority = (float(score(scored[run])(everyone)[0]) for run in (BLANK, "majority"))
    return compared(
        metric,
        {asked: about.resampled(score(scored[asked]), n_patients) for asked in ASKED},
        **counts(rows, None, int((~rows["answered"]).sum())),
        **baseline(blank),
        majority=majority,
        headline=headline,
    )
