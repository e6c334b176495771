"""How errors travel between stages: exposure gap, cross-stage matrix, first wrong stage of wrong reports.

An answer is wrong when its primary score is below `WRONG_BELOW`: a yes/no or choice that misses, boxes whose
F1 is below one half, a text that shares less than half with the annotated one. What a flipped answer does is
in intervention.py, what reports say against earlier answers in consistency.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from cxrtrek_lib import evaluation
from cxrtrek_lib.conversations import REPORT_STAGE, STAGES
from cxrtrek_lib.inference_stats import cluster_weights, holm, interval, patient_sums

WRONG_BELOW = 0.5
IS_WRONG = pl.col("score") < WRONG_BELOW
_PAIRS = [(given, stage) for given in STAGES for stage in STAGES if given != stage]


def exposure_gap(systems: Mapping[str, pl.DataFrame], *, n_boot: int, seed: int) -> pl.DataFrame:
    """What the model loses by reading its own earlier answers instead of the annotated ones, stage by stage.

    systems  scored answers (metrics.score_answers), at least `gold` and `predicted`, on the same questions
    Columns stage (null: overall), n, gold, predicted (scores), gap (gold - predicted), low, high (95 %
    patient- cluster bootstrap), p (paired randomisation), p_holm (over the stages; null for the overall row).
    """
    both = {name: systems[name] for name in ("gold", "predicted")}
    tests = evaluation.stage_differences(both, n_boot=n_boot, seed=seed)
    tests = tests.filter(first="gold", second="predicted")
    whole = evaluation.difference(both["gold"], both["predicted"], n_boot=n_boot, seed=seed)
    kept = ["stage", "n", "difference", "low", "high", "p", "p_holm"]
    whole = pl.DataFrame([{"stage": None, "p_holm": None} | whole]).select(
        pl.col(name).cast(tests.schema[name]) for name in kept
    )
    table = pl.concat([tests.select(kept), whole]).rename({"difference": "gap"})
    for name, rows in both.items():
        layout = evaluation.sums(rows)
        _, stages, overall = evaluation.scores(layout.values.sum(0, keepdims=True), layout)
        found = [stages[0, stage - 1] if stage else overall[0] for stage in table["stage"]]
        table = table.with_columns(pl.Series(name, found, dtype=pl.Float64))
    return table.select("stage", "n", "gold", "predicted", "gap", "low", "high", "p", "p_holm")


# --- cross-stage matrix -------------------------------------------------------------------------------
def _shares(rows: pl.DataFrame) -> tuple[pl.Series, np.ndarray, np.ndarray]:
    """(patient of each case, answers (C, 8), wrong answers (C, 8)), cases sorted."""
    found = rows.group_by("sample_id", "patient_id", "stage").agg(n=pl.len(), wrong=IS_WRONG.sum())
    cases = found.select("sample_id", "patient_id").unique().sort("sample_id").with_row_index("case")
    found = found.join(cases, on=["sample_id", "patient_id"])
    n, wrong = np.zeros((2, cases.height, len(STAGES)))
    at = found["case"].to_numpy(), found["stage"].to_numpy().astype(int) - 1
    n[at], wrong[at] = found["n"].to_numpy(), found["wrong"].to_numpy()
    return cases["patient_id"], n, wrong


def _pair(n: np.ndarray, wrong: np.ndarray, given: int, stage: int) -> tuple[np.ndarray, ...]:
    """Of a pair of stages, per case (C,): counts? (bool), and P of: both wrong, given wrong, stage wrong."""
    share = np.divide(wrong, n, out=np.zeros_like(wrong), where=n > 0)[:, [given - 1, stage - 1]]
    counts = (n[:, [given - 1, stage - 1]] > 0).all(1)
    return counts, *(np.where(counts, part, 0.0) for part in (share.prod(1), *share.T))


def _null(
    patients: np.ndarray, parts: dict[tuple[int, int], tuple], n_boot: int, seed: int
) -> dict[tuple[int, int], np.ndarray]:
    """P(wrong at j | wrong at i) with stage j of another patient: {(i, j): (n_boot,)}, NaN where undefined.

    Only patients who were asked at both stages are permuted, among themselves.
    """
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for pair, (counts, *_) in parts.items():
        groups.setdefault(counts.tobytes(), []).append(pair)
    found = {}
    for pairs in groups.values():
        counts = parts[pairs[0]][0]
        if not counts.any():
            found |= {pair: np.full(n_boot, np.nan) for pair in pairs}
            continue
        of_case = np.stack([column for pair in pairs for column in parts[pair][2:]], 1)[counts]
        totals, cases = patient_sums(of_case, patients[counts])
        first, second = totals[:, 0::2], totals[:, 1::2] / cases[:, None]
        random = np.random.default_rng(seed)
        draws = np.empty((n_boot, len(pairs)))
        for row in draws:
            row[:] = np.einsum("pk,pk->k", first, second[random.permutation(len(second))])
        with np.errstate(invalid="ignore", divide="ignore"):
            draws /= first.sum(0)
        found |= {pair: draws[:, k] for k, pair in enumerate(pairs)}
    return found


def cross_stage(rows: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """P(wrong at stage j | wrong at stage i), beside what it would be if errors did not go together.

    rows  scored answers of one system
    Draw a case, an answer of stage i and one of stage j in it, each with the same chance: how often is the
    second wrong when the first is? Null: the second is taken from another patient (whole patients permuted,
    n_boot times), which keeps how hard each stage is and breaks what links the stages of a case. A difference
    from the null says that errors go together, because one leads to the other or because the film is hard:
    cases with annotated context, whose errors are not passed on, tell the two apart (`carried`).

    Columns given (i), stage (j), n_cases, n_patients, observed, low, high (95 % patient-cluster bootstrap),
    null, null_low, null_high (mean and central 95 % of the permutations), excess (observed - null), p
    (two-sided, permutations), p_holm (one test per pair of stages, Holm). Null where no case has both stages
    or no answer of stage i is wrong. 56 rows: within a stage the questions of a case differ in kind, and so
    in how hard they are.
    """
    patients, n, wrong = _shares(rows)
    parts = {pair: _pair(n, wrong, *pair) for pair in _PAIRS}
    totals, _ = patient_sums(np.stack([c for pair in _PAIRS for c in parts[pair][1:3]], 1), patients)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = totals[:, 0::2].sum(0) / totals[:, 1::2].sum(0)
        boot = np.concatenate(
            [
                (w @ totals[:, 0::2]) / (w @ totals[:, 1::2])
                for w in cluster_weights(len(totals), n_boot, seed)
            ]
        )
    null = _null(patients.to_numpy(), parts, n_boot, seed)
    table = []
    for k, pair in enumerate(_PAIRS):
        counts, draws = parts[pair][0], null[pair]
        low, high = interval(boot[:, k])
        null_low, null_high = interval(draws)
        extreme = np.sum(np.abs(draws - draws.mean()) >= abs(observed[k] - draws.mean()) - 1e-12)
        table.append(
            {
                "given": pair[0],
                "stage": pair[1],
                "n_cases": int(counts.sum()),
                "n_patients": patients.filter(counts).n_unique(),
                "observed": observed[k],
                "low": low,
                "high": high,
                "null": draws.mean(),
                "null_low": null_low,
                "null_high": null_high,
                "excess": observed[k] - draws.mean(),
                "p": (extreme + 1) / (n_boot + 1) if np.isfinite(observed[k]) else np.nan,
            }
        )
    return _corrected(pl.DataFrame(table).fill_nan(None))


def _corrected(table: pl.DataFrame) -> pl.DataFrame:
    """With p and p_holm of each pair of stages, whichever comes first: the two directions are one test."""
    forward = table.filter(pl.col("given") < pl.col("stage"), pl.col("p").is_not_null())
    forward = forward.select(
        "given", "stage", "p", p_holm=pl.Series(holm(forward["p"].to_list()), dtype=pl.Float64)
    )
    back = forward.rename({"given": "stage", "stage": "given"})
    tests = pl.concat([forward, back.select(forward.columns)])
    return table.drop("p").join(tests, on=["given", "stage"], how="left", maintain_order="left")


def carried(first: pl.DataFrame, second: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """How much more the errors of two stages go together in one system than in another, earlier stage first.

    first, second  scored answers on the same questions: own answers, and annotated answers, as context
    Going together: P(wrong at j | wrong at i) - P(wrong at j), over cases with both stages.
    Columns given, stage (given < stage), first, second, difference, low, high (95 % patient-cluster
    bootstrap, the same draws for both). Null where undefined.
    """
    pairs = [(i, j) for i, j in _PAIRS if i < j]
    totals = []
    for rows in (first, second):
        patients, n, wrong = _shares(rows)
        parts = [_pair(n, wrong, *pair) for pair in pairs]
        columns = [column.astype(float) for part in parts for column in (*part[1:], part[0])]
        totals.append(patient_sums(np.stack(columns, 1), patients)[0])

    def excess(sums: np.ndarray) -> np.ndarray:
        both, given, stage, cases = (sums[:, k::4] for k in range(4))
        with np.errstate(invalid="ignore", divide="ignore"):
            return both / given - stage / cases

    draws = cluster_weights(len(totals[0]), n_boot, seed)
    boot = np.concatenate([excess(w @ totals[0]) - excess(w @ totals[1]) for w in draws])
    found = [excess(part.sum(0, keepdims=True))[0] for part in totals]
    table = [
        {"given": i, "stage": j, "first": found[0][k], "second": found[1][k]}
        | {"difference": found[0][k] - found[1][k]}
        | dict(zip(("low", "high"), interval(boot[:, k]), strict=True))
        for k, (i, j) in enumerate(pairs)
    ]
    return pl.DataFrame(table).fill_nan(None)


# --- reports ------------------------------------------------------------------------------------------
def first_wrong_stage(rows: pl.DataFrame) -> pl.DataFrame:
    """Where the first wrong answer of a case stands, apart for cases with a wrong and with a right report.

    rows  scored answers of one system; a case's report is wrong when the mean score of its answers of stage 8
          is below `WRONG_BELOW`
    Columns report ("wrong", "right"), stage (null: every earlier answer is right), n_cases, share (of the
    cases with such a report). Cases that were not asked for a report are left out.
    """
    reports = rows.filter(stage=REPORT_STAGE).group_by("sample_id").agg(pl.mean("score"))
    earlier = rows.filter(pl.col("stage") < REPORT_STAGE, IS_WRONG).group_by("sample_id").agg(pl.min("stage"))
    label = pl.when(IS_WRONG).then(pl.lit("wrong")).otherwise(pl.lit("right"))
    cases = reports.select("sample_id", report=label).join(earlier, on="sample_id", how="left")
    counts = cases.group_by("report", "stage").agg(n_cases=pl.len())
    table = counts.with_columns(share=pl.col("n_cases") / pl.col("n_cases").sum().over("report"))
    return table.sort("report", "stage", descending=[True, False], nulls_last=True)


# --- in words and as JSON ---------------------------------------------------------------------------------
def said_of_gap(gap: pl.DataFrame) -> list[str]:
    """What `exposure_gap` shows, in sentences."""
    lines = []
    for row in gap.iter_rows(named=True):
        apart = row["low"] > 0 or row["high"] < 0
        if row["stage"] is None or apart:
            where = "overall" if row["stage"] is None else f"stage {row['stage']}"
            interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
            shown = "shown" if apart else "not shown"
            lines.append(f"Exposure gap, {where}: {row['gap']:+.3f} ({interval}): {shown}.")
    return lines


def said_of_matrices(matrix: pl.DataFrame, beyond: pl.DataFrame) -> list[str]:
    """What `cross_stage` (own answers as context) and `carried` show, in sentences."""
    forward = matrix.filter(pl.col("given") < pl.col("stage"), pl.col("p_holm") < 0.05)
    linked = [
        f"stage {row['given']} and {row['stage']} ({row['observed']:.2f} against {row['null']:.2f} by chance)"
        for row in forward.iter_rows(named=True)
    ]
    more = beyond.filter(pl.col("low") > 0).select("given", "stage").rows()
    tested = beyond["difference"].drop_nulls().len()
    return [
        f"Errors that go together more or less than by chance: {'; '.join(linked) or 'none is shown'}.",
        f"Pairs of stages whose errors go together more with own than with annotated context: {len(more)} of "
        f"{tested} (one in 40 is expected by chance){': ' if more else ''}"
        + ", ".join(f"{i} and {j}" for i, j in more)
        + ".",
    ]


def traceability_json(
    gap: pl.DataFrame,
    matrix: pl.DataFrame,
    beyond: pl.DataFrame,
    effects: pl.DataFrame,
    follows: pl.DataFrame,
    contradictions: pl.DataFrame,
    errors: pl.DataFrame,
) -> dict[str, Any]:
    """Under `traceability` in evaluation.json: each table, from what a row is about to its numbers.

    gap, matrix, beyond  of `exposure_gap`, `cross_stage` (own answers as context), `carried`
    effects, follows     of intervention.effects and intervention.report_follows
    contradictions       of consistency.contradictions
    errors               of consistency.report_errors
    """
    forward = matrix.filter(pl.col("given") < pl.col("stage"), pl.col("observed").is_not_null())
    pair = ("given", "stage")
    return {
        "wrong_below": WRONG_BELOW,
        "exposure_gap": _keyed(gap, "stage", missing="overall"),
        "cross_stage": _keyed(forward, *pair),
        "carried": _keyed(beyond.drop_nulls("difference"), *pair),
        "intervention": _keyed(effects, "flip", "about", "stage", missing="all", between=", "),
        "report_follows": _keyed(follows, "context"),
        "contradictions": _keyed(contradictions, "system", "stage", between=", stage "),
        "report_errors": _keyed(errors, "origin"),
    }


def _keyed(table: pl.DataFrame, *names: str, missing: str = "none", between: str = " to ") -> dict[str, dict]:
    """Rows under the text of their key columns: {"2 to 8": {...}}."""
    found = {}
    for row in table.iter_rows(named=True):
        key = [row.pop(name) for name in names]
        found[between.join(missing if part is None else str(part) for part in key)] = row
    return found
