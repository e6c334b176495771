"""From scores of answers to scores of stages and systems, with intervals, tests and the metrics files.

Stage score = mean of the primary scores of the formats a stage has; overall = mean of the stages.
Everything is a function of sums per patient, so that a bootstrap draw is one matrix product and
balanced accuracy is computed anew in every draw.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib import files
from cxrtrek_lib.conversations import KINDS, STAGES
from cxrtrek_lib.inference_stats import (
    bootstrap_mean,
    cluster_weights,
    holm,
    interval,
    paired_difference,
    paired_effect,
)
from cxrtrek_lib.metrics import PRIMARY, VERSION
from cxrtrek_lib.tables import KEYS

# Differences in evaluation.json, (system, what it is compared with): one family for Holm's correction.
COMPARISONS = (
    ("predicted", "blank_image"),
    ("predicted", "swapped_image"),
    ("predicted", "untuned"),
    ("predicted", "majority"),
    ("predicted", "constant"),
    ("predicted", "none"),
    ("predicted", "shuffled"),
    ("gold", "predicted"),
)
# In the authors' data, these stages have open-ended questions only.
OPEN_STAGES = (4, 6, 7, 8)


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
    patients = rows.select("patient_id").unique().sort("patient_id")
    index = rows.join(groups.with_row_index("group"), on=keys, nulls_equal=True, maintain_order="left").join(
        patients.with_row_index("patient"), on="patient_id", maintain_order="left"
    )
    # One place a patient and group; adding up there takes no more memory than the answers themselves.
    place = index["patient"].to_numpy().astype(np.int64) * groups.height + index["group"].to_numpy()
    size = patients.height * groups.height
    parts = [np.bincount(place, weights, size) for weights in (index["score"].to_numpy(), None)]
    values = np.hstack([part.reshape(patients.height, groups.height).astype(np.float64) for part in parts])
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


def beside(tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The scores of several systems in one row per stage x format, stage and whole: baselines beside each.

    tables  system -> stage_scores; the first is the headline, which has its interval, too
    Columns level, stage, format, n, the headline's name, low, high, and one per other system.
    """
    keys = ["level", "stage", "format"]
    (headline, first), *others = tables.items()
    wide = first.select(*keys, "n", pl.col("score").alias(headline), "low", "high")
    for name, table in others:
        column = table.select(*keys, pl.col("score").alias(name))
        wide = wide.join(column, on=keys, how="left", nulls_equal=True, maintain_order="left")
    return wide


def views(rows: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """One system's overall score under other ways of averaging, and without formats that others may lack.

    rows  scored answers of one system (metrics.score_answers)
    Returns columns view, what, n (answers), score, low, high (95 % patient-cluster bootstrap). A view that no
    answer fits has no row.
    """
    as_open = ~pl.col("stage").is_in(OPEN_STAGES) | (pl.col("format") == "open-ended")
    formats = [kind for kind in KINDS if kind in rows["format"]]
    found = [
        ("macro: stages", "mean of stages (the overall score)", rows, 2),
        ("macro: stage x format", "mean of the cells of stage and format", rows, 0),
        ("macro: formats", "mean of the formats, each pooled over stages", _pooled(rows), 2),
        ("micro: questions", "mean over all questions; yes/no by accuracy", rows, None),
        (
            "authors' formats",
            "stages 4, 6, 7 and 8 by their open-ended questions alone",
            rows.filter(as_open),
            2,
        ),
    ]
    for kind in formats:
        found.append((f"without {kind}", "mean of stages", rows.filter(pl.col("format") != kind), 2))
    for kind in formats:
        found.append((f"only {kind}", "mean of stages", rows.filter(pl.col("format") == kind), 2))
    table = []
    for view, what, part, level in found:
        if part.height:
            score = _score_of(part, level, n_boot, seed)
            table.append({"view": view, "what": what, "n": part.height} | score)
    return pl.DataFrame(table)


def _pooled(rows: pl.DataFrame) -> pl.DataFrame:
    """All answers as if they were of one stage, whose score is then the mean of the formats."""
    return rows.with_columns(stage=pl.lit(1, pl.Int8))


def _score_of(rows: pl.DataFrame, level: int | None, n_boot: int, seed: int) -> dict[str, float]:
    """Mean of the cells (level 0), overall score (2) or mean over questions (None), with its interval."""
    layout = sums(rows)

    def score(totals: np.ndarray) -> np.ndarray:
        if level is None:
            hits, counts = np.split(totals, 2, axis=1)
            return hits.sum(1) / counts.sum(1)
        found = scores(totals, layout)[level]
        return found if found.ndim == 1 else np.nanmean(found, axis=1)

    draws = [score(w @ layout.values) for w in cluster_weights(len(layout.values), n_boot, seed)]
    low, high = interval(np.concatenate(draws))
    return {"score": float(score(layout.values.sum(0, keepdims=True))[0]), "low": low, "high": high}


def compared(systems: dict[str, pl.DataFrame]) -> list[tuple[str, str]]:
    """Pairs of `COMPARISONS` that are there, and the headline with every other system, one from outside."""
    ours = {name for pair in COMPARISONS for name in pair}
    pairs = [pair for pair in COMPARISONS if set(pair) <= set(systems)]
    return pairs + [("predicted", name) for name in systems if name not in ours and "predicted" in systems]


def difference(first: pl.DataFrame, second: pl.DataFrame, *, n_boot: int, seed: int) -> dict[str, Any]:
    """Overall score of one system minus another's on the same questions.

    Returns difference, low, high, p (inference_stats.paired_difference), effect_size (paired_effect) and n.
    Raises ValueError when the two tables are not about the same questions.
    """
    if first.height != second.height or not first.select(KEYS).sort(KEYS).equals(
        second.select(KEYS).sort(KEYS)
    ):
        raise ValueError(
            f"systems scored on different questions ({first.height}, {second.height}): use one qa table"
        )
    a, b = sums(first), sums(second)
    return _tested(a, b, lambda totals: scores(totals, a)[2], n_boot, seed) | {"n": first.height}


def _tested(a: Sums, b: Sums, statistic: Callable, n_boot: int, seed: int) -> dict[str, Any]:
    """Difference, low, high, p and effect_size of a score of two systems."""
    test = paired_difference(a.values, b.values, statistic, n_boot=n_boot, seed=seed)
    return test | {"effect_size": paired_effect(a.values, b.values, statistic)}


def stage_differences(systems: dict[str, pl.DataFrame], *, n_boot: int, seed: int) -> pl.DataFrame:
    """`compared` systems stage by stage: where one lies above another.

    systems  as for evaluation_json
    Columns stage, first, second, n (answers), difference (first minus second), low, high, p, effect_size,
    p_holm: interval and test as in `difference`, one family over all rows for Holm's correction.
    """
    layouts = {name: sums(rows) for name, rows in systems.items()}
    table = []
    for first, second in tqdm(compared(systems), desc="differences by stage", unit="pair", delay=1):
        a, b = layouts[first], layouts[second]
        for stage in sorted({stage for stage, _ in a.cells}):
            test = _tested(
                a, b, lambda totals, a=a, stage=stage: scores(totals, a)[1][:, stage - 1], n_boot, seed
            )
            n = systems[first].filter(pl.col("stage") == stage).height
            table.append({"stage": stage, "first": first, "second": second, "n": n} | test)
    corrected = holm([row["p"] for row in table])
    frame = pl.DataFrame(table, schema_overrides={"effect_size": pl.Float64})
    return frame.with_columns(p_holm=pl.Series(corrected, dtype=pl.Float64))


def _found(score: float, low: float, high: float, n: int) -> dict[str, float]:
    return {"score": score, "low": low, "high": high, "n": n}


# A stage without questions, and a format that no question has: null, never a score of 0.
NOTHING = _found(math.nan, math.nan, math.nan, 0)


def summary(rows: pl.DataFrame, *, n_boot: int, seed: int) -> dict[str, Any]:
    """One system in a few numbers: overall, stages, yes/no balanced accuracy, mean IoU, parse-failure rate.

    rows  scored answers (metrics.score_answers)
    Scores are {score, low, high, n} with a 95 % patient-cluster interval; `stages` is keyed "1" to "8".
    """
    table = stage_scores(rows, n_boot=n_boot, seed=seed)
    found = {
        (row["level"], row["stage"]): _found(row["score"], row["low"], row["high"], row["n"])
        for row in table.filter(pl.col("level") != "format").iter_rows(named=True)
    }
    closed = _pooled(rows.filter(pl.col("format") == "close-ended"))
    pooled = NOTHING
    if closed.height:
        pooled = stage_scores(closed, n_boot=n_boot, seed=seed).row(-1, named=True)
    boxes = rows.filter(pl.col("format") == "detection")
    iou = NOTHING
    if boxes.height:
        mean = bootstrap_mean(boxes["iou"], boxes["patient_id"], n_boot=n_boot, seed=seed)
        iou = _found(*mean, boxes.height)
    return {
        "overall": found["overall", None],
        "stages": {str(stage): found.get(("stage", stage), NOTHING) for stage in STAGES},
        "yes_no_balanced_accuracy": {key: pooled[key] for key in NOTHING},
        "detection_mean_iou": iou,
        "parse_failure_rate": 1.0 - rows["parsed"].mean(),
    }


def evaluation_json(systems: dict[str, pl.DataFrame], *, n_boot: int, seed: int) -> dict[str, Any]:
    """The content of reports/metrics/evaluation.json.

    systems  mode (predicted, gold, none, blank_image, majority, ...) -> scored answers, same questions each
    Keys: those of `summary`, each keyed by mode; differences keyed "first - second", with p after Holm's
    correction as p_holm.
    """
    named = tqdm(systems.items(), desc="scores", unit="system", delay=1)
    summaries = {mode: summary(rows, n_boot=n_boot, seed=seed) for mode, rows in named}
    result: dict[str, Any] = {}
    for mode, found in summaries.items():
        for key, value in found.items():
            result.setdefault(key, {})[mode] = value
    pairs = compared(systems)
    named = tqdm(pairs, desc="differences", unit="pair", delay=1)
    tests = [difference(systems[a], systems[b], n_boot=n_boot, seed=seed) for a, b in named]
    corrected = holm([test["p"] for test in tests])
    result["differences"] = {
        f"{a} - {b}": test | {"p_holm": p} for (a, b), test, p in zip(pairs, tests, corrected, strict=True)
    }
    return result


# What a run measures of itself, in history.json.
_MEASURED = ("processes", "precision", "tokens_per_second", "peak_memory_gb", "dropped_turns", "seconds")


def finetune_json(history: dict[str, Any]) -> dict[str, Any]:
    """The content of reports/metrics/finetune.json: sizes, last losses, losses of the kept epoch, throughput.

    history  models/<checkpoint>/history.json (see finetune.py): lists `encoder` (one row per epoch) and
             `decoder` (rows with train_loss, at an epoch's end also validation losses, per step),
             `parameters`, `cases`, and what the run measured of itself
    The kept epoch is that of the lowest validation loss; `best_validation`: its losses by stage and format.
    """
    train = [row for row in history["decoder"] if row.get("train_loss") is not None]
    validation = [row for row in history["decoder"] if row.get("validation_loss") is not None]
    best = min(validation, key=lambda row: row["validation_loss"], default={})
    sizes = history["parameters"]
    return {
        "parameters": sizes | {"trainable_percent": 100 * sizes["trainable"] / sizes["total"]},
        "cases": history["cases"],
        "encoder_epochs": len(history["encoder"]),
        "encoder_loss": history["encoder"][-1]["loss"] if history["encoder"] else None,
        "decoder_steps": max((row["step"] for row in history["decoder"]), default=0),
        "train_loss": train[-1]["train_loss"] if train else None,
        "validation_loss": validation[-1]["validation_loss"] if validation else None,
        "best_validation_loss": best.get("validation_loss"),
        "best_validation": {
            key: loss
            for key, loss in best.items()
            if key not in ("step", "epoch", "train_loss", "validation_loss")
        },
        "best_step": best.get("step"),
        **{key: history[key] for key in _MEASURED},
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
