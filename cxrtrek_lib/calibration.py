"""Do the probabilities of answers mean what they say? Reliability, expected calibration error, Brier score.

kind    probability                                      event
yes_no  P(yes) of the first answer token (prob_yes)      the annotated answer is yes
choice  P(the whole written answer) (prob_answer)        the answer is the right set of options

A yes/no question whose annotated answer is "uncertain" has no event and is left out. An answer without a
probability, with NaN or with one outside [0, 1] is left out, too, and counted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from cxrtrek_lib.inference_stats import cluster_weights, interval, patient_sums
from cxrtrek_lib.tables import KEYS

BINS = 10  # of equal width, on [0, 1]
KINDS = {
    "yes_no": ("close-ended", "prob_yes", pl.col("gold_class") == "yes"),
    "choice": ("choice", "prob_answer", pl.col("score") >= 1),
}
_VALID = pl.col("probability").is_between(0, 1) & pl.col("probability").is_not_nan()
_RELIABILITY = {"kind": pl.String, "bin": pl.Int64, "n": pl.Int64, "n_patients": pl.Int64} | dict.fromkeys(
    ("from", "to", "mean_probability", "observed", "low", "high"), pl.Float64
)
_SUMMARY = {"system": pl.String, "kind": pl.String} | dict.fromkeys(
    ("n", "n_patients", "n_left_out"), pl.Int64
)
_SUMMARY |= dict.fromkeys(
    (
        *("mean_probability", "observed", "ece", "ece_low", "ece_high", "ece_if_calibrated"),
        *("brier", "brier_low", "brier_high", "brier_of_base_rate"),
    ),
    pl.Float64,
)


def events(rows: pl.DataFrame, answers: pl.DataFrame, kind: str) -> pl.DataFrame:
    """An answer a row: sample_id, patient_id, stage, probability (null: not usable), event (bool).

    rows     scored answers (metrics.score_answers)
    answers  sample_id, turn, prob_yes, prob_answer (tables.PREDICTIONS)
    kind     a key of KINDS
    """
    form, column, event = KINDS[kind]
    asked = rows.filter(pl.col("format") == form)
    if kind == "yes_no":
        asked = asked.filter(pl.col("gold_class").is_in(["yes", "no"]))
    given = asked.join(answers.select(*KEYS, probability=column), on=KEYS, how="left", maintain_order="left")
    probability = pl.when(_VALID).then("probability")
    return given.select("sample_id", "patient_id", "stage", probability, event=event)


def bin_of(probability: np.ndarray) -> np.ndarray:
    """Bin of each probability: float (N,) in [0, 1] -> int (N,) in [0, BINS); a bin holds its lower edge.

    >>> bin_of(np.array([0.0, 0.1, 0.95, 1.0])).tolist()
    [0, 1, 9, 9]
    """
    # The edges as decimal numbers: 0.3 is in the bin that starts at 0.3, though 0.1 + 0.1 + 0.1 is more.
    edges = np.arange(1, BINS) / BINS
    return np.searchsorted(edges, probability, side="right")


def calibration_error(totals: np.ndarray) -> np.ndarray:
    """Expected calibration error: (B, 3 BINS) sums of (n, probability, event) by bin -> (B,) in [0, 1].

    Mean over the answers of |observed share - mean probability| of their bin. Source: Naeini et al. 2015.
    """
    n, probability, event = np.split(totals, 3, axis=1)
    with np.errstate(invalid="ignore"):
        return np.abs(event - probability).sum(1) / n.sum(1)


def _sums(known: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Per patient (P, 3 BINS + 1): by bin n, sums of probability and event; squared errors. And the bins."""
    p, event = known["probability"].to_numpy(), known["event"].to_numpy().astype(float)
    bins = bin_of(p)
    one_hot = np.eye(BINS)[bins]
    columns = [one_hot, one_hot * p[:, None], one_hot * event[:, None], ((p - event) ** 2)[:, None]]
    return patient_sums(np.hstack(columns), known["patient_id"])[0], bins


def reliability(found: pl.DataFrame, kind: str, *, n_boot: int, seed: int) -> pl.DataFrame:
    """Observed share of the event in every bin of probability that has an answer.

    found  of `events`
    Columns kind, bin, n, n_patients, from, to (edges), mean_probability, observed, low, high (95 %
    patient-cluster bootstrap over the draws that hit the bin).
    """
    known = found.drop_nulls("probability")
    if known.is_empty():
        return pl.DataFrame(schema=_RELIABILITY)
    totals, bins = _sums(known)
    n, probability, event = np.split(totals[:, :-1].sum(0), 3)
    with np.errstate(invalid="ignore"):
        boot = np.concatenate(
            [
                (w @ totals[:, 2 * BINS : -1]) / (w @ totals[:, :BINS])
                for w in cluster_weights(len(totals), n_boot, seed)
            ]
        )
    table = []
    for k in np.flatnonzero(n):
        low, high = interval(boot[:, k])
        patients = known.filter(pl.Series(bins == k))["patient_id"].n_unique()
        row = {"kind": kind, "bin": k, "n": int(n[k]), "n_patients": patients}
        row |= {"from": k / BINS, "to": (k + 1) / BINS, "mean_probability": probability[k] / n[k]}
        table.append(row | {"observed": event[k] / n[k], "low": low, "high": high})
    return pl.DataFrame(table, schema=_RELIABILITY)


def summary(
    systems: Mapping[str, tuple[pl.DataFrame, pl.DataFrame]], *, n_boot: int, seed: int
) -> pl.DataFrame:
    """How well the probabilities of each system are calibrated, one row per system and kind.

    systems  name -> (scored answers, answers with prob_yes and prob_answer)
    Columns system, kind, n, n_patients, n_left_out (without a usable probability), mean_probability,
    observed, ece, brier (mean squared error), each of these two with _low and _high (95 % patient-cluster
    bootstrap), ece_if_calibrated (what chance alone gives perfect probabilities on as many independent
    answers: a sum of half- normal means), brier_of_base_rate (of one probability for all, the observed
    share). Null where n is 0.
    """
    table = []
    for name, (rows, answers) in systems.items():
        for kind in KINDS:
            found = events(rows, answers, kind)
            known = found.drop_nulls("probability")
            row = dict.fromkeys(_SUMMARY) | {"system": name, "kind": kind, "n": known.height}
            row |= {"n_patients": known["patient_id"].n_unique(), "n_left_out": found.height - known.height}
            table.append(row | (_measured(known, n_boot, seed) if known.height else {}))
    return pl.DataFrame(table, schema=_SUMMARY)


def _measured(known: pl.DataFrame, n_boot: int, seed: int) -> dict[str, float]:
    totals, bins = _sums(known)
    whole = totals.sum(0, keepdims=True)
    draws = [w @ totals for w in cluster_weights(len(totals), n_boot, seed)]
    ece = interval(np.concatenate([calibration_error(drawn[:, :-1]) for drawn in draws]))
    brier = interval(np.concatenate([drawn[:, -1] / drawn[:, :BINS].sum(1) for drawn in draws]))
    p = known["probability"].to_numpy()
    variance = np.bincount(bins, weights=p * (1 - p), minlength=BINS)
    base = known["event"].mean()
    return {
        "mean_probability": p.mean(),
        "observed": base,
        "ece": calibration_error(whole[:, :-1])[0],
        "ece_low": ece[0],
        "ece_high": ece[1],
        "ece_if_calibrated": np.sqrt(2 / np.pi * variance).sum() / known.height,
        "brier": whole[0, -1] / known.height,
        "brier_low": brier[0],
        "brier_high": brier[1],
        "brier_of_base_rate": base * (1 - base),
    }


def calibration_json(table: pl.DataFrame) -> dict[str, Any]:
    """Under `calibration` in evaluation.json: system -> kind -> its numbers."""
    found: dict[str, Any] = {}
    for row in table.iter_rows(named=True):
        found.setdefault(row.pop("system"), {})[row.pop("kind")] = row
    return found


def said(table: pl.DataFrame) -> list[str]:
    """What `summary` shows, in sentences."""
    lines = []
    for row in table.iter_rows(named=True):
        if not row["n"]:
            lines.append(f"{row['system']}, {row['kind']}: no probability is given.")
            continue
        bias = "too high" if row["mean_probability"] > row["observed"] else "too low"
        lines.append(
            f"{row['system']}, {row['kind']}: expected calibration error {row['ece']:.3f} "
            f"({row['ece_low']:.3f} to {row['ece_high']:.3f}; {row['ece_if_calibrated']:.3f} by chance "
            f"alone), on average {bias} ({row['mean_probability']:.3f} stated, {row['observed']:.3f} "
            f"observed); Brier score {row['brier']:.3f}, base rate {row['brier_of_base_rate']:.3f}."
        )
    return lines
