"""Does it read the film? Scores of the questions that only the film can answer, and where they fail.

Four measures, each beside systems that see no film: is a finding there, on which side is it, where is a
region of the anatomy, where is a finding. They are averages over all findings; `by_finding` takes the first
apart.
"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cxrtrek_lib.conversations import KINDS
from cxrtrek_lib.evaluation import difference, stage_scores
from cxrtrek_lib.findings import DIAGNOSES, FINDINGS, REGIONS
from cxrtrek_lib.inference_stats import cluster_weights, holm, interval, patient_sums

_ABOUT = pl.col("fact").str.split("|")  # "pleural effusion|presence": what, and what of it
_IS_FORMAT = {kind: pl.col("format") == kind for kind in KINDS}
_WHAT, _OF = _ABOUT.list.first(), _ABOUT.list.last()
# A diagnosis is concluded, not seen; and an answer that rests on several facts is about no single finding.
_FINDING = _WHAT.is_in(sorted(set(FINDINGS) - DIAGNOSES)) & ~pl.col("fact").str.contains(";", literal=True)


class Measure(NamedTuple):
    """Which scored answers count, and which of their columns is the score."""

    label: str
    metric: str
    rows: pl.Expr
    score: str = "score"


MEASURES = {
    "presence": Measure(
        "finding present?", "balanced accuracy", _FINDING & (_OF == "presence") & _IS_FORMAT["close-ended"]
    ),
    "side": Measure("on which side?", "accuracy", _FINDING & (_OF == "side") & _IS_FORMAT["choice"]),
    "region_box": Measure(
        "box of a region", "mean IoU", _WHAT.is_in(list(REGIONS)) & _IS_FORMAT["detection"], "iou"
    ),
    "finding_box": Measure("box of a finding", "mean IoU", _FINDING & _IS_FORMAT["detection"], "iou"),
}
# Systems that see no film, which every other one is compared with.
BLIND = ("majority", "blank_image")


def measured(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """The scored answers that a measure takes, as one cell whose stage score is the measure."""
    measure = MEASURES[name]
    chosen = rows.filter(measure.rows)
    return chosen.with_columns(score=pl.col(measure.score), stage=pl.lit(1, pl.Int8))


def scores(systems: dict[str, pl.DataFrame], *, n_boot: int, seed: int) -> pl.DataFrame:
    """One row per measure and system: measure, system, metric, n (answers), n_patients, score, low, high.

    systems  name -> scored answers (metrics.score_answers), the same questions each
    score    fraction; low and high: 95 % patient-cluster bootstrap. Null, with n 0, without such questions.
    """
    table = []
    for measure in MEASURES:
        for system, rows in systems.items():
            chosen = measured(rows, measure)
            found = dict.fromkeys(("n", "n_patients"), 0) | dict.fromkeys(("score", "low", "high"))
            if chosen.height:
                whole = stage_scores(chosen, n_boot=n_boot, seed=seed).row(-1, named=True)
                found = {key: whole[key] for key in found}
            table.append({"measure": measure, "system": system, "metric": MEASURES[measure].metric} | found)
    return pl.DataFrame(table, schema_overrides={key: pl.Float64 for key in ("score", "low", "high")})


def differences(
    systems: dict[str, pl.DataFrame], *, system: str = "predicted", n_boot: int, seed: int
) -> pl.DataFrame:
    """How far a system lies above those without a film: one row per measure and system of `BLIND`.

    Columns measure, against, difference, low, high (95 % patient-cluster bootstrap), p (paired patient-level
    randomisation test), p_holm (corrected over all rows), n (answers).
    """
    table = []
    for measure in MEASURES:
        own = measured(systems[system], measure)
        for other in BLIND:
            if own.height and other in systems:
                test = difference(own, measured(systems[other], measure), n_boot=n_boot, seed=seed)
                table.append({"measure": measure, "against": other} | test)
    return pl.DataFrame(table).with_columns(
        p_holm=pl.Series(holm([row["p"] for row in table]), dtype=pl.Float64)
    )


def grounding_json(table: pl.DataFrame, tests: pl.DataFrame) -> dict[str, Any]:
    """Under `grounding` in evaluation.json: measure -> `scores` by system, `differences` by blind system."""
    found: dict[str, Any] = {measure: {"scores": {}, "differences": {}} for measure in MEASURES}
    for row in table.iter_rows(named=True):
        found[row["measure"]]["scores"][row["system"]] = {
            key: row[key] for key in ("score", "low", "high", "n")
        }
    for row in tests.iter_rows(named=True):
        found[row.pop("measure")]["differences"][row.pop("against")] = row
    return found


def by_finding(rows: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """Yes/no questions on presence, finding by finding, the worst first.

    rows  scored answers of one system
    Columns finding, n, n_present, sensitivity, specificity, balanced_accuracy, low, high (fractions; 95 %
    patient-cluster bootstrap over the draws that hold both classes). What needs a class that no question
    has is null. An unreadable answer is wrong.
    """
    chosen = rows.filter(MEASURES["presence"].rows).with_columns(finding=_WHAT)
    table = []
    for (finding,), part in chosen.group_by("finding"):
        present = (part["gold_class"] == "yes").to_numpy()
        right = part["score"].to_numpy()
        columns = np.stack([right * present, right * ~present, present, ~present], 1)
        values, _ = patient_sums(columns, part["patient_id"])
        found, _ = _rates(values.sum(0, keepdims=True))
        draws = np.concatenate([_rates(w @ values)[1] for w in cluster_weights(len(values), n_boot, seed)])
        low, high = interval(draws)
        sensitivity, specificity = found[0]
        table.append(
            {
                "finding": finding,
                "n": part.height,
                "n_present": int(present.sum()),
                "sensitivity": sensitivity,
                "specificity": specificity,
                "balanced_accuracy": (sensitivity + specificity) / 2,
                "low": low,
                "high": high,
            }
        )
    frame = pl.DataFrame(table, schema=_BY_FINDING).fill_nan(None)
    undefined = pl.col("balanced_accuracy").is_null()
    frame = frame.with_columns(pl.when(~undefined).then(name).alias(name) for name in ("low", "high"))
    return frame.sort("balanced_accuracy", "finding", nulls_last=True)


_BY_FINDING = {"finding": pl.String, "n": pl.Int64, "n_present": pl.Int64} | dict.fromkeys(
    ("sensitivity", "specificity", "balanced_accuracy", "low", "high"), pl.Float64
)


def _rates(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Totals (B, 4) -> sensitivity and specificity (B, 2), their mean (B,); NaN without such a question."""
    with np.errstate(invalid="ignore"):
        rates = totals[:, :2] / totals[:, 2:]
    return rates, rates.mean(1)
