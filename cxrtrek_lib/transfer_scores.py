"""Scores of the external tasks as the field reports them, all from one bootstrap of patients.

task               metrics                                                            checked against
classification     AUROC, AP from P(yes); F1 at the threshold that is best on the     scikit-learn
                   training cohort's validation split
detection          mAP at an IoU, FROC (mean sensitivity at 1/8 to 8 false boxes a    pycocotools, hand cases
                   film); how sure a box is says the presence answer's P(yes)
VQA                accuracy, exact set of a choice, exact match and recall of words    hand cases
report generation  BLEU-4, ROUGE-L F1, finding-F1                                     see also_reported.py

Every score is (1 + B,): that of all patients, then of B resamplings. Two runs over the same patients share
their resamplings, so their difference is paired.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from sklearn.metrics import precision_recall_curve

from cxrtrek_lib import also_reported, metrics
from cxrtrek_lib.conversations import is_box, parse_boxes
from cxrtrek_lib.inference_stats import cluster_weights, interval

RANKING = ("AUROC", "AP", "F1")
# False boxes a film at which FROC reads the sensitivity (LUNA16; Setio et al. 2017).
FALSE_BOXES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
CELLS = 500_000  # weights of rows held at a time: few enough for a processor's cache


def resampled(
    score: Callable[[np.ndarray], np.ndarray], n_patients: int, *, n_boot: int, seed: int
) -> np.ndarray:
    """(1 + n_boot, ...): a score of weights (b, P) -> (b, ...) for all patients, then for each resampling."""
    chunks = [np.ones((1, n_patients)), *cluster_weights(n_patients, n_boot, seed)]
    return np.concatenate([score(weights) for weights in chunks])


def told(draws: np.ndarray) -> dict[str, float | None]:
    """{"score", "low", "high"} of (1 + B,): the first, and the 95 % percentile interval of the rest.

    All None where the score is not defined, as AUROC with one class only.
    """
    if np.isnan(draws[0]):
        return dict.fromkeys(("score", "low", "high"))
    return dict(zip(("score", "low", "high"), (float(draws[0]), *interval(draws[1:])), strict=True))


# --- classification -----------------------------------------------------------------------------------
def best_threshold(labels: Sequence[bool], chances: Sequence[float]) -> float | None:
    """The P(yes) from which on Yes gives the highest F1; None when all labels are alike."""
    labels = np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        return None
    precision, recall, thresholds = precision_recall_curve(labels, np.asarray(chances))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])])


def ranking(
    labels: np.ndarray, chances: np.ndarray, patients: np.ndarray, threshold: float | None
) -> Callable[[np.ndarray], np.ndarray]:
    """weights (b, P) -> (b, 3): RANKING of films with labels bool (N,), P(yes) (N,) and patient numbers (N,).

    AUROC counts ties one half, AP is the step-wise area (scikit-learn's). NaN where a draw lacks a class, or
    without a threshold.
    """
    if not len(labels):
        return lambda weights: np.full((len(weights), len(RANKING)), np.nan)
    order = np.argsort(-chances, kind="stable")
    chances, there, patients = chances[order], labels[order].astype(np.float64), patients[order]
    ends = np.flatnonzero(np.r_[chances[1:] != chances[:-1], True])  # last film of each group of equal P(yes)
    called = -1 if threshold is None else int(np.searchsorted(-chances[ends], -threshold, side="right")) - 1

    def some(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, patients]
        hits, shown = np.cumsum(drawn * there, axis=1), np.cumsum(drawn, axis=1)
        if len(ends) < len(there):
            hits, shown = hits[:, ends], shown[:, ends]
        steps = np.diff(hits, axis=1, prepend=0.0)
        false = shown - hits
        positive, negative = hits[:, -1], false[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = np.diff(false, axis=1, prepend=0.0) * (hits - steps / 2)
            area = pairs.sum(1) / (positive * negative)
            precision = np.where(shown > 0, steps * hits / shown, 0.0).sum(1) / positive
            if threshold is None:
                f1 = np.full(len(hits), np.nan)
            elif called < 0:
                f1 = np.where(positive > 0, 0.0, np.nan)
            else:
                f1 = np.where(positive > 0, 2 * hits[:, called] / (shown[:, called] + positive), np.nan)
        both = (positive > 0) & (negative > 0)
        return np.stack([np.where(both, area, np.nan), np.where(positive > 0, precision, np.nan), f1], axis=1)

    rows = max(1, CELLS // max(len(there), 1))
    return lambda weights: np.concatenate(
        [some(weights[start : start + rows]) for start in range(0, len(weights), rows)]
    )


def mean_over(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of scores (1 + B,) over findings; those that a draw leaves undefined are left out of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a draw that defines none
        return np.nanmean(np.stack(parts), axis=0)


# --- detection ----------------------------------------------------------------------------------------
def boxes_of(answers: Sequence[str | None]) -> list[list[list[float]]]:
    """The valid boxes of each answer, at most also_reported.MAX_BOXES."""
    said = [parse_boxes((answer or "")[: metrics.LONGEST]) for answer in answers]
    return [[box for box in boxes if is_box(box)][: also_reported.MAX_BOXES] for boxes in said]


def detection(
    gold: Sequence[list], boxes: Sequence[list], sure: Sequence[float], patients: np.ndarray, *, iou: float
) -> Callable[[np.ndarray], np.ndarray]:
    """weights (b, P) -> (b, 2): average precision at an IoU, and FROC, of one finding on N films.

    gold, boxes  N lists of boxes [x1, y1, x2, y2]; a film without the finding has no gold box
    sure         (N,) how sure the boxes of a film are
    FROC is the mean sensitivity over FALSE_BOXES a film, each the best that is reached with no more.
    """
    hits = [also_reported.box_hits(list(g), list(b), iou) for g, b in zip(gold, boxes, strict=True)]
    film = np.repeat(np.arange(len(hits)), [len(each) for each in hits])
    right = np.array([hit for each in hits for hit in each], dtype=np.float64)
    order = np.argsort(-np.asarray(sure, dtype=np.float64)[film], kind="stable")
    right, owner = right[order], patients[film[order]]
    n_gold = np.bincount(patients, [len(each) for each in gold], minlength=patients.max() + 1)
    n_films = np.bincount(patients, minlength=patients.max() + 1).astype(np.float64)

    def one(weights: np.ndarray) -> tuple[float, float]:
        drawn = weights[owner]
        total = weights[: len(n_gold)] @ n_gold
        area = also_reported.precision_area(right, drawn, total)
        if not total:
            return np.nan, np.nan
        false = np.r_[0.0, np.cumsum(drawn * (1 - right))] / (weights[: len(n_films)] @ n_films)
        found = np.r_[0.0, np.cumsum(drawn * right)] / total
        reached = np.searchsorted(false, FALSE_BOXES, side="right") - 1
        return area, float(found[reached].mean())

    return lambda weights: np.array([one(row) for row in weights])


def froc_curve(
    gold: Sequence[list], boxes: Sequence[list], sure: Sequence[float], *, iou: float
) -> pl.DataFrame:
    """false_boxes (a film) and sensitivity as the least sure boxes are let in one by one, from (0, 0) on."""
    hits = [also_reported.box_hits(list(g), list(b), iou) for g, b in zip(gold, boxes, strict=True)]
    pairs = [(s, hit) for s, each in zip(sure, hits, strict=True) for hit in each]
    right = np.array([hit for _, hit in sorted(pairs, key=lambda pair: -pair[0])], dtype=np.float64)
    n_gold = sum(len(each) for each in gold)
    return pl.DataFrame({
        "false_boxes": np.r_[0.0, np.cumsum(1 - right)] / max(len(hits), 1),
        "sensitivity": np.r_[0.0, np.cumsum(right)] / max(n_gold, 1),
    })  # fmt: skip


# --- texts --------------------------------------------------------------------------------------------
def exact_match(gold: str, answer: str) -> float:
    """1 when two texts have the same words (metrics.words), else 0.

    >>> exact_match("Right lung.", "right lung"), exact_match("right lung", "lung")
    (1.0, 0.0)
    """
    return float(metrics.words(gold) == metrics.words(answer))


def word_recall(gold: str, answer: str) -> float:
    """Share of the gold answer's different words that an answer has: open-ended VQA's usual score.

    Source: Li et al. 2023, LLaVA-Med. 0 when the gold answer has no word.

    >>> word_recall("right lower lobe", "It is in the lower right lung.")
    0.6666666666666666
    """
    wanted = set(metrics.words(gold))
    return len(wanted & set(metrics.words(answer))) / len(wanted) if wanted else 0.0
