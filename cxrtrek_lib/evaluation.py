"""From scores of answers to scores of stages and systems, with intervals, tests and the metrics files.

Stage score = mean of the primary scores of the formats a stage has; overall = mean of the stages.
Everything is a function of sums per patient, so that a bootstrap draw is one matrix product and
balanced accuracy is computed anew in every draw.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cxrtrek_lib import files
from cxrtrek_lib.conversations import STAGES
from cxrtrek_lib.inference_stats import (
    bootstrap_mean,
    cluster_weights,
    holm,
    interval,
    paired_difference,
    patient_sums,
)
from cxrtrek_lib.metrics import PRIMARY, VERSION

# Differences in evaluation.json, (system, what it is compared with): one family for Holm's correction.
COMPARISONS = (
    ("predicted", "blank_image"),
    ("predicted", "majority"),
    ("predicted", "none"),
    ("gold", "predicted"),
)


class Sums(NamedTuple):
    """Sums per patient of everything the scores need.

    values  float (P, 2G): G columns of summed scores, then G columns of counts; patients sorted
    cells   (stage, format) of each cell, sorted
    cell    int (G,): which cell a group belongs to. A group is one gold class of a close-ended cell, or
            the whole of any other cell.
    """

    values: np.ndarray
    cells: list[tuple[int, str]]
    cell: np.ndarray


def sums(rows: pl.DataFrame) -> Sums:
    """Sums per patient of scored answers (see metrics.score_answers). ValueError when there is no row."""
    if rows.is_empty():
        raise ValueError(
            "no answer to score: the Q&A table of the test split has 0 rows; check cohort.training.test"
        )
    keys = ["stage", "format", "gold_class"]
    groups = rows.select(keys).unique().sort(keys, nulls_last=False)
    index = rows.join(
        groups.with_row_index("group"), on=keys, how="left", nulls_equal=True, maintain_order="left"
    )
    one_hot = np.eye(groups.height)[index["group"].to_numpy()]
    values, _ = patient_sums(
        np.hstack([one_hot * rows["score"].to_numpy()[:, None], one_hot]), rows["patient_id"]
    )
    pairs = list(groups.select("stage", "format").iter_rows())
    cells = sorted(set(pairs))
    return Sums(values, cells, np.array([cells.index(pair) for pair in pairs]))


def _mean_by(values: np.ndarray, group: np.ndarray, n: int) -> np.ndarray:
    """Mean of the defined columns of each group: (B, K), int (K,) -> (B, n); NaN where a group has none."""
    member = np.eye(n)[group]
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return (np.where(defined, values, 0.0) @ member) / (defined @ member)


def scores(totals: np.ndarray, layout: Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Totals (B, 2G) -> scores of cells (B, C), stages 1-8 (B, 8) and overall (B,); NaN where undefined."""
    n_groups = len(layout.cell)
    with np.errstate(invalid="ignore"):
        means = totals[:, :n_groups] / totals[:, n_groups:]
    cells = _mean_by(means, layout.cell, len(layout.cells))
    stages = _mean_by(cells, np.array([stage - 1 for stage, _ in layout.cells]), len(STAGES))
    return cells, stages, _mean_by(stages, np.zeros(len(STAGES), dtype=int), 1)[:, 0]


def stage_scores(rows: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """Scores of every stage x format, every stage and the whole, each with a 95 % interval.

    rows  scored answers of one system (metrics.score_answers)
    Returns columns level ("format", "stage", "overall"), stage, format, metric, n (answers), n_patients,
    score, low, high (fractions; patient-cluster percentile bootstrap), parse_failure_rate (answers that
    are missing or cannot be parsed), version. Stages without a question have no row.
    """
    layout = sums(rows)
    drawn = [scores(w @ layout.values, layout) for w in cluster_weights(len(layout.values), n_boot, seed)]
    draws = [np.concatenate(part) for part in zip(*drawn, strict=True)]
    cells, stages, overall = (part[0] for part in scores(layout.values.sum(0, keepdims=True), layout))
    table = []

    def add(
        level: str, stage: int | None, kind: str | None, metric: str, score: float, boot: np.ndarray
    ) -> None:
        chosen = pl.lit(True) if stage is None else pl.col("stage") == stage
        part = rows.filter(chosen if kind is None else chosen & (pl.col("format") == kind))
        low, high = interval(boot)
        table.append(
            {
                "level": level,
                "stage": stage,
                "format": kind,
                "metric": metric,
                "n": part.height,
                "n_patients": part["patient_id"].n_unique(),
                "score": float(score),
                "low": low,
                "high": high,
                "parse_failure_rate": 1.0 - part["parsed"].mean(),
                "version": VERSION,
            }
        )

    for column, (stage, kind) in enumerate(layout.cells):
        add("format", stage, kind, PRIMARY[kind], cells[column], draws[0][:, column])
    for stage in sorted({stage for stage, _ in layout.cells}):
        add("stage", stage, None, "mean of formats", stages[stage - 1], draws[1][:, stage - 1])
    add("overall", None, None, "mean of stages", overall, draws[2])
    schema = {"level": pl.String, "stage": pl.Int8, "format": pl.String}
    return pl.DataFrame(table, schema_overrides=schema)


def side_by_side(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The stage_scores tables of several systems as one, with a first column `system`."""
    return pl.concat([table.select(pl.lit(name).alias("system"), pl.all()) for name, table in tables.items()])


def difference(first: pl.DataFrame, second: pl.DataFrame, *, n_boot: int, seed: int) -> dict[str, float]:
    """Overall score of one system minus another's on the same questions: difference, low, high, p, n.

    Raises ValueError when the two tables are not about the same questions.
    """
    keys = ["sample_id", "turn"]
    if first.height != second.height or not first.select(keys).sort(keys).equals(
        second.select(keys).sort(keys)
    ):
        raise ValueError(
            f"systems scored on different questions ({first.height}, {second.height}): use one qa table"
        )
    a, b = sums(first), sums(second)
    return paired_difference(
        a.values, b.values, lambda totals: scores(totals, a)[2], n_boot=n_boot, seed=seed
    ) | {"n": first.height}


def _summary(score: float, low: float, high: float, n: int) -> dict[str, float]:
    return {"score": score, "low": low, "high": high, "n": n}


def evaluation_json(systems: dict[str, pl.DataFrame], *, n_boot: int, seed: int) -> dict[str, Any]:
    """The content of reports/metrics/evaluation.json.

    systems  mode (predicted, gold, none, blank_image, majority, ...) -> scored answers, same questions each
    Keys: overall, stages, yes_no_balanced_accuracy, detection_mean_iou, parse_failure_rate, each keyed by
    mode; differences keyed "first - second", with p after Holm's correction as p_holm.
    A stage without questions, and a format that no question has, is null with n 0, never a score of 0.
    """
    nothing = _summary(math.nan, math.nan, math.nan, 0)
    result: dict[str, Any] = {
        key: {}
        for key in (
            "overall",
            "stages",
            "yes_no_balanced_accuracy",
            "detection_mean_iou",
            "parse_failure_rate",
        )
    }
    for mode, rows in systems.items():
        table = stage_scores(rows, n_boot=n_boot, seed=seed)
        found = {
            (row["level"], row["stage"]): _summary(row["score"], row["low"], row["high"], row["n"])
            for row in table.filter(pl.col("level") != "format").iter_rows(named=True)
        }
        result["overall"][mode] = found["overall", None]
        result["stages"][mode] = {str(stage): found.get(("stage", stage), nothing) for stage in STAGES}
        result["parse_failure_rate"][mode] = 1.0 - rows["parsed"].mean()
        closed = rows.filter(pl.col("format") == "close-ended").with_columns(stage=pl.lit(1, pl.Int8))
        pooled = (
            stage_scores(closed, n_boot=n_boot, seed=seed).row(-1, named=True) if closed.height else nothing
        )
        result["yes_no_balanced_accuracy"][mode] = {key: pooled[key] for key in nothing}
        boxes = rows.filter(pl.col("format") == "detection")
        iou = (
            bootstrap_mean(boxes["iou"], boxes["patient_id"], n_boot=n_boot, seed=seed)
            if boxes.height
            else None
        )
        result["detection_mean_iou"][mode] = _summary(*iou, boxes.height) if iou else nothing
    pairs = [(a, b) for a, b in COMPARISONS if a in systems and b in systems]
    tests = [difference(systems[a], systems[b], n_boot=n_boot, seed=seed) for a, b in pairs]
    corrected = holm([test["p"] for test in tests])
    result["differences"] = {
        f"{a} - {b}": test | {"p_holm": p} for (a, b), test, p in zip(pairs, tests, corrected, strict=True)
    }
    return result


def finetune_json(history: dict[str, Any]) -> dict[str, Any]:
    """The content of reports/metrics/finetune.json: sizes, last losses and best validation loss of a run.

    history  models/<checkpoint>/history.json as train.py writes it: lists `encoder` (one row per epoch) and
             `decoder` (rows with train_loss or validation_loss per step), `parameters`, `cases`
    """
    train = [row for row in history["decoder"] if row.get("train_loss") is not None]
    validation = [row for row in history["decoder"] if row.get("validation_loss") is not None]
    best = min(validation, key=lambda row: row["validation_loss"], default=None)
    return {
        "parameters": history["parameters"],
        "cases": history["cases"],
        "encoder_epochs": len(history["encoder"]),
        "encoder_loss": history["encoder"][-1]["loss"] if history["encoder"] else None,
        "decoder_steps": max((row["step"] for row in history["decoder"]), default=0),
        "train_loss": train[-1]["train_loss"] if train else None,
        "validation_loss": validation[-1]["validation_loss"] if validation else None,
        "best_validation_loss": best["validation_loss"] if best else None,
        "best_step": best["step"] if best else None,
    }


def _plain(value: Any) -> Any:
    """JSON without surprises: floats with 6 decimals, NaN as null, NumPy numbers as Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 6) + 0.0 if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def write_metrics(path: Path, content: dict[str, Any]) -> None:
    """Write a metrics file: sorted keys, floats rounded to 6 decimals, the same bytes for the same content.

    The old file stays whole when anything fails. Raises ValueError (one line) when it cannot be written.
    """
    text = json.dumps(_plain(content), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    with files.whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
