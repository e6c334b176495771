"""Uncertainty of scores: patient-cluster bootstrap, paired patient-level tests, Holm correction, AUROC.

Answers about one patient are not independent, so every interval here resamples whole patients and
every paired test exchanges whole patients between two systems.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

CHUNK_BYTES = 64_000_000  # weights of this many bytes are drawn at a time, whatever n_boot is


def _check_draws(n_boot: int) -> None:
    if n_boot < 1:
        raise ValueError(
            f"n_boot is {n_boot}: intervals need at least 1 draw, set evaluate.n_boot in params.yaml"
        )


def cluster_weights(n_patients: int, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """How often each patient stands in each bootstrap draw, in chunks of draws.

    Yields float64 (draws, n_patients); every row sums to n_patients. The draws depend on
    (n_patients, n_boot, seed) alone, not on the chunk size: two systems scored with the same
    patients and seed share their draws, which is what makes their difference paired.
    """
    _check_draws(n_boot)
    if n_patients < 1:
        raise ValueError("0 patients to resample: the table of scores is empty")
    random = np.random.default_rng(seed)
    share = np.full(n_patients, 1.0 / n_patients)
    rows = max(1, CHUNK_BYTES // (8 * n_patients))
    for start in range(0, n_boot, rows):
        yield random.multinomial(n_patients, share, size=min(rows, n_boot - start)).astype(np.float64)


def with_interval(found: Mapping[str, Any]) -> str:
    """A score as it is printed everywhere, "0.683 (0.665 to 0.700)".

    found  score, low, high
    """
    if found["score"] is None:
        return "no questions"
    return f"{found['score']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws: float (B,) -> (low, high). NaN draws are left out.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    kept = draws[~np.isnan(draws)]
    if kept.size == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(kept, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def patient_sums(values: np.ndarray, patients: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Sum the rows of one patient: values (N,) or (N, K) -> (sums (P, K), counts (P,)), patients sorted."""
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    values = np.asarray(values, dtype=np.float64).reshape(len(index), -1)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    return sums, np.bincount(index, minlength=len(names)).astype(np.float64)


def bootstrap_mean(
    scores: Sequence[float], patients: Sequence, *, n_boot: int = 2000, seed: int
) -> tuple[float, float, float]:
    """Mean score with a 95 % percentile interval, resampling whole patients.

    scores    float (N,), each in [0, 1]
    patients  (N,) patient ids; answers about one patient are not independent
    Returns (mean, low, high), fractions. Raises ValueError when N is 0.
    Source: Field & Welsh 2007, cluster bootstrap.

    >>> bootstrap_mean([1.0, 1.0], ["a", "b"], n_boot=10, seed=0)
    (1.0, 1.0, 1.0)
    """
    if len(scores) == 0 or len(scores) != len(patients):
        raise ValueError(
            f"{len(scores)} scores for {len(patients)} patient ids: give one id per score, at least 1"
        )
    return bootstrap_means(np.asarray(scores), patients, n_boot=n_boot, seed=seed)[0]


def bootstrap_means(
    scores: np.ndarray, patients: Sequence, *, n_boot: int = 2000, seed: int
) -> list[tuple[float, float, float]]:
    """`bootstrap_mean` of every column of float (N, K), same draws for all: (mean, low, high) of each.

    Raises ValueError when N is 0.
    """
    sums, counts = patient_sums(scores, patients)
    draws = [w @ sums / (w @ counts)[:, None] for w in cluster_weights(len(counts), n_boot, seed)]
    columns = np.concatenate(draws).T
    means = sums.sum(0) / counts.sum()
    return [(float(mean), *interval(column)) for mean, column in zip(means, columns, strict=True)]


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    n_boot: int = 2000,
    seed: int,
) -> dict[str, float]:
    """Difference between two systems on the same patients: interval and two-sided p.

    first, second  float (P, K): sums per patient, row i is the same patient in both
    statistic      (B, K) totals -> (B,) scores; NaN where undefined. Any statistic of totals works:
                   a mean (sum, count), a balanced accuracy (hits and counts per class), a stage score.
    Returns {"difference": statistic(first) - statistic(second), "low", "high", "p"}.
    The interval is the patient-cluster bootstrap's with the same draws for both. p is that of the
    randomisation test which swaps the two systems' answers patient by patient, with the +1 correction
    (so p is at least 1 / (n_boot + 1)).
    Source: Noreen 1989, approximate randomisation; Phipson & Smyth 2010 for the correction.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"paired systems have sums of shape {first.shape} and {second.shape}: score the same turns"
        )
    observed = float(statistic(first.sum(0)[None])[0] - statistic(second.sum(0)[None])[0])
    boot = [statistic(w @ first) - statistic(w @ second) for w in cluster_weights(len(first), n_boot, seed)]
    random = np.random.default_rng(seed)
    total, gap = first.sum(0), first - second
    extreme = 0
    rows = max(1, CHUNK_BYTES // (8 * len(first)))
    for start in range(0, n_boot, rows):
        swapped = random.integers(0, 2, size=(min(rows, n_boot - start), len(first))) @ gap
        null = statistic(total - swapped) - statistic(second.sum(0) + swapped)
        extreme += int(np.sum(np.abs(null) >= abs(observed) - 1e-12))
    low, high = interval(np.concatenate(boot))
    return {"difference": observed, "low": low, "high": high, "p": (extreme + 1) / (n_boot + 1)}


def paired_effect(
    first: np.ndarray, second: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> float | None:
    """Effect size of a paired difference: its size in standard deviations of patients.

    Arguments as in `paired_difference`. A patient's part in the difference is its jackknife pseudo-value.
    Where the score is the mean of one answer a patient, this is Cohen's d of paired differences (d_z); it
    also fits scores that are no mean over patients, and always has the sign of the difference.
    None with one patient, or where all patients have the same part.
    Source: Cohen 1988; Tukey 1958 for pseudo-values.
    """
    if len(first) < 2:
        return None
    totals = first.sum(0)[None], second.sum(0)[None]
    observed = float(statistic(totals[0])[0] - statistic(totals[1])[0])
    without_one = statistic(totals[0] - first) - statistic(totals[1] - second)
    # A patient who alone has some class has no pseudo-value.
    spread = (len(first) - 1) * np.nanstd(without_one, ddof=1)
    return observed / spread if spread > 1e-9 else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p-values, in the order given. Each in [0, 1].

    Source: Holm 1979.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size and not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"p-values {p_values} leave [0, 1]: one of the compared systems has no defined score"
        )
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected.tolist()


def _weighted_auroc(weights: np.ndarray, labels: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """AUROC per draw, weights (B, N) in order of score; `starts` opens each group of equal scores."""
    positive = np.add.reduceat(weights * labels, starts, axis=1)
    negative = np.add.reduceat(weights * ~labels, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, (positive * (below + negative / 2)).sum(1) / pairs, np.nan)


def auroc(
    labels: Sequence[bool], scores: Sequence[float], patients: Sequence, *, n_boot: int = 2000, seed: int
) -> tuple[float, float, float]:
    """Area under the ROC curve with a 95 % interval, resampling whole patients.

    labels    bool (N,), True = finding present; both classes must occur
    scores    float (N,), higher = more likely present; ties count one half
    patients  (N,) patient ids
    Returns (auroc, low, high), each in [0, 1]. Draws that miss a class are left out.
    Raises ValueError on lengths that differ, NaN scores or a single class.
    Source: Mann-Whitney form of the area, Hanley & McNeil 1982.
    """
    value, draws = _drawn_aurocs(labels, scores, patients, n_boot, seed)
    return (value, *interval(draws))


def auroc_difference(
    labels: Sequence[bool],
    first: Sequence[float],
    second: Sequence[float],
    patients: Sequence,
    *,
    n_boot: int = 2000,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """AUROC of the first scores less that of the second on the same films, with an interval.

    Arguments and errors as in `auroc`; level: of the interval, as a share. Both are drawn with the same
    patients, so what makes a film hard for both cancels out.
    """
    value, draws = _drawn_aurocs(labels, first, patients, n_boot, seed)
    other, others = _drawn_aurocs(labels, second, patients, n_boot, seed)
    return (value - other, *interval(draws - others, level))


def _drawn_aurocs(
    labels: Sequence[bool], scores: Sequence[float], patients: Sequence, n_boot: int, seed: int
) -> tuple[float, np.ndarray]:
    """(AUROC, that of each bootstrap draw); see `auroc`."""
    labels, scores = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if not len(labels) == len(scores) == len(patients):
        raise ValueError(
            f"{len(labels)} labels, {len(scores)} scores, {len(patients)} patients: give one each per film"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN: give every film a number"
        )
    if labels.all() or not labels.any():
        raise ValueError(
            f"all {len(labels)} labels are of one class: AUROC needs films with and without the finding"
        )
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    order = np.argsort(scores, kind="stable")
    labels, scores, index = labels[order], scores[order], index[order]
    starts = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    value = _weighted_auroc(np.ones((1, len(labels))), labels, starts)[0]
    # One draw at a time keeps memory at N even for 100,000 films.
    draws = [
        _weighted_auroc(row[None, index], labels, starts)[0]
        for weights in cluster_weights(len(names), n_boot, seed)
        for row in weights
    ]
    return float(value), np.asarray(draws)
