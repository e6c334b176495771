"""The metrics reported beside the primary ones, pooled over stages, and those that need what is not here.

format       metric             how                                                    checked against
open-ended   BLEU-4             corpus BLEU, lower case, tokenizer 13a, not smoothed   sacrebleu
             ROUGE-L F1         mean over answers                                      rouge-score
             finding-F1         mean over answers that have one                        hand cases
close-ended  accuracy           share of right answers                                 scikit-learn
             macro-F1           mean of the F1 of the true classes                     scikit-learn
choice       Jaccard            mean over answers                                      scikit-learn
detection    mean IoU           mean over answers, see metrics.box_score               hand cases
             AP at IoU 0.5      COCO's, one class, answers ranked by `prob_answer`     pycocotools

Higher is better, 0 to 1. Every metric is a function of sums per patient, or of rows with a weight per
patient, so that each has the same patient-cluster interval as the primary scores. RadGraph-F1, CheXbert-F1,
RaTEScore and GREEN are of the reports alone (clinical_metrics.py).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import polars as pl
from sacrebleu.metrics import BLEU

from cxrtrek_lib import clinical_metrics
from cxrtrek_lib.boxes import iou_matrix
from cxrtrek_lib.conversations import FORMATS, REPORT_STAGE, is_box, parse_boxes
from cxrtrek_lib.inference_stats import cluster_weights, interval, patient_sums
from cxrtrek_lib.metrics import IOU_HIT, LONGEST, VERSION
from cxrtrek_lib.tables import KEYS

BLEU_ORDER = 4
MAX_BOXES = 100  # of one answer, the first so many; COCO's limit
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the curve of precision over recall
# Only the counts are taken from it, which the effective order of a short sentence does not change.
_BLEU = BLEU(max_ngram_order=BLEU_ORDER, lowercase=True, smooth_method="none", effective_order=True)
# Metrics of texts that rest on data or weights which no package brings along: what a table says of them.
NOT_RUN = {
    "METEOR": "NLTK's data set wordnet",
    "BERTScore": "package bert-score and the weights of roberta-large",
    "RadGraph-F1": "evaluate.clinical: package radgraph and the weights of RadGraph-XL",
    "CheXbert-F1": "evaluate.clinical: package f1chexbert and the weights of CheXbert",
    "RaTEScore": "evaluate.clinical: package RaTEScore, weights of RaTE-NER-Deberta and BioLORD-2023-C",
    "GREEN": "evaluate.clinical: package green-score, the weights of GREEN-radllama2-7b and a GPU",
}
_ROW = {
    "system": pl.String, "format": pl.String, "metric": pl.String, "n": pl.Int64, "score": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "note": pl.String, "direction": pl.String, "range": pl.String,
    "version": pl.Int64,
}  # fmt: skip


class Answers(NamedTuple):
    """The answers of one system in one format, ready for a metric.

    rows      scored answers of the format (metrics.score_answers) with the columns answer (text or null),
              gold (text), gold_boxes and, in [0, 1] or null, prob_answer
    patients  int (N,): index of the patient of each row
    weights   how often each patient stands in each draw, float (B, P); row 0 is the sample itself
    """

    rows: pl.DataFrame
    patients: np.ndarray
    weights: np.ndarray


def _of_sums(given: Answers, values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A function of totals (B, K) -> (B,) over columns (N, K) that are summed per patient."""
    return statistic(given.weights @ patient_sums(values, given.patients)[0])


def _mean(column: str) -> Callable[[Answers], np.ndarray]:
    """The mean of a column over the answers that have it."""

    def score(given: Answers) -> np.ndarray:
        known = given.rows[column].is_not_null().to_numpy()
        values = np.stack([given.rows[column].fill_null(0.0).to_numpy(), known], 1)
        with np.errstate(invalid="ignore"):  # a draw may hold no answer that has it
            return _of_sums(given, values, lambda totals: totals[:, 0] / totals[:, 1])

    return score


@lru_cache(maxsize=100_000)
def bleu_counts(gold: str, answer: str) -> tuple[int, ...]:
    """What BLEU-4 sums of one pair: matching 1- to 4-grams, all of them, length of answer and of gold."""
    found = _BLEU.sentence_score(answer[:LONGEST], [gold])
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def bleu(totals: np.ndarray) -> np.ndarray:
    """Corpus BLEU-4 in [0, 1] from summed `bleu_counts`, (B, 10) -> (B,); 0 where a length has no match.

    Source: Papineni et al. 2002.
    """
    counts, all_of, length, gold_length = np.split(
        totals, [BLEU_ORDER, 2 * BLEU_ORDER, 2 * BLEU_ORDER + 1], 1
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(counts > 0, np.log(counts / all_of), -np.inf).mean(1)
        brevity = np.minimum(0.0, 1 - gold_length / length)[:, 0]
    return np.exp(mean + np.where(np.isnan(brevity), -np.inf, brevity))


def bleu_4(given: Answers) -> np.ndarray:
    """Corpus BLEU-4; a missing answer is an empty one."""
    pairs = given.rows.select("gold", pl.col("answer").fill_null("")).iter_rows()
    return _of_sums(given, np.array([bleu_counts(*pair) for pair in pairs], dtype=float), bleu)


def macro_f1(given: Answers) -> np.ndarray:
    """Mean over the true classes of the F1 of each; an unreadable answer is of no class."""
    gold, said = (given.rows[column].fill_null("").to_numpy() for column in ("gold_class", "pred_class"))
    classes = np.unique(gold)[:, None]
    values = np.concatenate([(gold == classes) & (said == classes), gold == classes, said == classes]).T

    def score(totals: np.ndarray) -> np.ndarray:
        right, true, told = np.split(totals, 3, axis=1)
        with np.errstate(invalid="ignore"):
            # A class that a draw has lost is left out of the mean.
            return np.nanmean(np.where(true > 0, 2 * right / (true + told), np.nan), axis=1)

    return _of_sums(given, values.astype(float), score)


def box_hits(gold: list[list[float]], boxes: list[list[float]], iou_hit: float = IOU_HIT) -> list[bool]:
    """Which boxes of an answer are right: each takes the free gold box that it overlaps most."""
    free, hits = set(range(len(gold))), []
    iou = (
        iou_matrix(np.asarray(gold, dtype=float), np.asarray(boxes, dtype=float)) if gold and boxes else None
    )
    for k in range(len(boxes)):
        fitting = [(iou[g, k], g) for g in sorted(free) if iou[g, k] >= iou_hit]
        hits.append(bool(fitting))
        if fitting:
            free.remove(max(fitting)[1])
    return hits


def average_precision(given: Answers) -> np.ndarray:
    """COCO's average precision at IoU 0.5: boxes of one class, the surest answers first; NaN without a box.

    Source: Lin et al. 2014; 101-point interpolation as in pycocotools.
    """
    hits, patients, sure = [], [], []
    gold_boxes = np.zeros(given.weights.shape[1])
    for row, patient in zip(given.rows.iter_rows(named=True), given.patients, strict=True):
        gold = row["gold_boxes"] or []
        said = parse_boxes((row["answer"] or "")[:LONGEST])
        found = box_hits(gold, [box for box in said if is_box(box)][:MAX_BOXES])
        gold_boxes[patient] += len(gold)
        hits += found
        patients += [patient] * len(found)
        sure += [row["prob_answer"] if row["prob_answer"] is not None else -1.0] * len(found)
    order = np.argsort(-np.asarray(sure), kind="stable")
    right, patients = np.asarray(hits, dtype=float)[order], np.asarray(patients, dtype=int)[order]
    return np.array([precision_area(right, row[patients], row @ gold_boxes) for row in given.weights])


def precision_area(right: np.ndarray, weights: np.ndarray, n_gold: float) -> float:
    """Area under the curve of one draw: right (K,) from the surest box on, weights (K,), gold boxes."""
    if not n_gold:
        return np.nan
    if not len(right):
        return 0.0
    hits, shown = np.cumsum(weights * right), np.cumsum(weights)
    precision = hits / np.maximum(shown, 1e-12)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / n_gold, RECALLS, side="left")
    return float(np.append(best_from_here, 0.0)[place].mean())


# Format -> metric -> (B,) scores from Answers.
METRICS: dict[str, dict[str, Callable[[Answers], np.ndarray]]] = {
    "open-ended": {"BLEU-4": bleu_4, "ROUGE-L F1": _mean("rouge_l"), "finding-F1": _mean("finding_f1")},
    "close-ended": {"accuracy": _mean("score"), "macro-F1": macro_f1},
    "choice": {"Jaccard": _mean("jaccard")},
    "detection": {"mean IoU": _mean("iou"), "AP at IoU 0.5": average_precision},
}


def scores(
    qa: pl.DataFrame,
    answers: dict[str, pl.DataFrame],
    rows: dict[str, pl.DataFrame],
    *,
    n_boot: int,
    seed: int,
    clinical: Mapping[str, Mapping[str, str]] | None = None,
) -> pl.DataFrame:
    """One row per system, format and metric, and one per metric of `NOT_RUN` that did not run (system "any").

    qa       questions (tables.QA)
    answers  system -> predictions: sample_id, turn, answer and prob_answer
    rows     system -> scored answers of the same questions (metrics.score_answers)
    clinical metric of reports that is to run -> its "python" and "weights" (clinical_metrics.of_pairs)
    Returns system, format, metric, n (answers), score, low, high (fractions; 95 % patient-cluster bootstrap;
    null when not run), note (empty, or "not run: needs ..."), direction, range, version.
    """
    truth = qa.select(*KEYS, gold="answer", gold_boxes="bbox_list")
    table = []
    for system, scored in rows.items():
        given = answers[system].select(*KEYS, "answer", "prob_answer")
        for part in (truth, given):
            scored = scored.join(part, on=KEYS, how="left", maintain_order="left")
        for kind, named in METRICS.items():
            part = scored.filter(pl.col("format") == kind)
            if part.is_empty():
                continue
            ready = _ready(part, n_boot, seed)
            for metric, score in named.items():
                missing = metric.startswith("AP") and part["prob_answer"].null_count() == part.height
                needs = "prob_answer, the probability of each answer" if missing else None
                draws = None if missing else score(ready)
                table.append(_row(system, kind, metric, part.height, draws, needs))
    texts = qa.filter(pl.col("qtype").replace_strict(FORMATS) == "open-ended")
    n_texts, n_reports = texts.height, texts.filter(stage=REPORT_STAGE).height
    if n_texts:
        for metric, needs in NOT_RUN.items():
            if clinical and metric in clinical:
                table += _clinical(metric, truth, answers, rows, clinical[metric], n_boot, seed)
            else:
                n = n_reports if metric in clinical_metrics.METRICS else n_texts
                table.append(_row("any", "open-ended", metric, n, None, needs))
    return pl.DataFrame(table, schema=_ROW)


def _clinical(
    metric: str, truth: pl.DataFrame, answers: dict, rows: dict, how: Mapping, n_boot: int, seed: int
) -> list[dict]:
    """A row per system of a metric of the reports, or one that says why it did not run."""
    reports = {}
    for system, scored in rows.items():
        part = scored.filter(pl.col("stage") == REPORT_STAGE, pl.col("format") == "open-ended")
        for other in (truth, answers[system].select(*KEYS, "answer")):
            part = part.join(other, on=KEYS, how="left", maintain_order="left")
        reports[system] = part.with_columns(pl.col("answer").fill_null("").str.slice(0, LONGEST))
    pairs = pl.concat([part.select("gold", "answer") for part in reports.values()]).rows()
    if not pairs:
        return []
    try:
        parts = clinical_metrics.of_pairs(metric, pairs, **how)
    except ValueError as error:
        n = len(pairs) // len(reports)
        return [_row("any", "open-ended", metric, n, None, f"a working package: {error}")]
    table = []
    for system, part in reports.items():
        values = np.array([parts[pair] for pair in part.select("gold", "answer").iter_rows()])
        with np.errstate(invalid="ignore"):
            draws = _of_sums(_ready(part, n_boot, seed), values, lambda totals: totals[:, 0] / totals[:, 1])
        table.append(_row(system, "open-ended", metric, part.height, draws, None))
    return table


def _ready(part: pl.DataFrame, n_boot: int, seed: int) -> Answers:
    names, patients = np.unique(part["patient_id"].to_numpy(), return_inverse=True)
    drawn = np.concatenate(list(cluster_weights(len(names), n_boot, seed)))
    return Answers(part, patients, np.concatenate([np.ones((1, len(names))), drawn]))


def _row(system: str, kind: str, metric: str, n: int, draws: np.ndarray | None, needs: str | None) -> dict:
    """One row of the table; draws (1 + B,), the first the score itself, or None and what the metric needs."""
    about = {"system": system, "format": kind, "metric": metric, "n": n}
    found = dict.fromkeys(("score", "low", "high"))
    if draws is not None and not np.isnan(draws[0]):
        found = dict(zip(found, (float(draws[0]), *interval(draws[1:])), strict=True))
    note = f"not run: needs {needs}" if needs else ""
    return about | found | {"note": note, "direction": "higher", "range": "0-1", "version": VERSION}
