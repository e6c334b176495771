"""One early answer turned into its opposite: which later answers change, and does the report follow?

flips.py says which answer is flipped; both runs answer the same questions about the same films, so that a
later answer that differs differs because of the flip.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from cxrtrek_lib.consistency import findings_of, report_claims
from cxrtrek_lib.conversations import REPORT_STAGE
from cxrtrek_lib.inference_stats import bootstrap_means
from cxrtrek_lib.metrics import normal
from cxrtrek_lib.tables import KEYS
from cxrtrek_lib.traceability import IS_WRONG

ABOUT = ("same finding", "other findings", "whole study")
FLIPS = ("right answer flipped", "wrong answer flipped")
_NUMBERS = ("changed", "became_wrong", "became_right", "score_change")
_EFFECTS = {"flip": pl.String, "about": pl.String, "stage": pl.Int8} | dict.fromkeys(
    ("n", "n_cases", "n_patients"), pl.Int64
)
_FOLLOWS = ("as_flipped", "against", "silent")
_REPORTS = {"context": pl.String, "n": pl.Int64, "n_patients": pl.Int64}
_REPORTS |= {f"{name}{end}": pl.Float64 for name in _FOLLOWS for end in ("", "_low", "_high")}
_EFFECTS |= {f"{name}{end}": pl.Float64 for name in _NUMBERS for end in ("", "_low", "_high")}


def answers_apart(
    predicted: tuple[pl.DataFrame, pl.DataFrame],
    flipped: tuple[pl.DataFrame, pl.DataFrame],
    replaced: Mapping[tuple[str, int], str],
) -> pl.DataFrame:
    """One row per answer of the cases with a flip, other than the flipped one: what the flip made of it.

    predicted, flipped  (answers: sample_id, turn, answer; the same scored: metrics.score_answers) of both
    runs replaced            of flips.flips
    Columns sample_id, patient_id, turn, stage, finding (that the flipped answer is about), flip (was the
    flipped answer right?), about ("before the flip", else one of ABOUT, from qa.fact: a question that names
    the finding, one that names others, one about none or the whole study), changed (bool: the text differs),
    became_wrong, became_right (bool), score_change (flipped - predicted).
    """
    rows, after = predicted[1], flipped[1]
    schema = {"sample_id": pl.String, "flipped_turn": predicted[1].schema["turn"]}
    flip = pl.DataFrame(list(replaced), schema=schema, orient="row")
    flip = flip.join(
        rows.select("sample_id", flipped_turn="turn", fact_flipped="fact", right="score"),
        on=["sample_id", "flipped_turn"],
    )
    said = [frame.select(*KEYS, pl.col("answer").alias(name)) for name, (frame, _) in
            (("said", predicted), ("says", flipped))]  # fmt: skip
    joined = (
        rows.select(*KEYS, "patient_id", "stage", "fact", "score", wrong=IS_WRONG)
        .join(flip, on="sample_id")
        .filter(pl.col("turn") != pl.col("flipped_turn"))
        .join(after.select(*KEYS, new_score="score", now_wrong=IS_WRONG), on=KEYS)
        .join(said[0], on=KEYS, how="left")
        .join(said[1], on=KEYS, how="left")
        .sort(KEYS)
    )
    texts = [[normal(text or "") for text in joined[name]] for name in ("said", "says")]
    names = {fact: findings_of(fact) for fact in joined["fact"].unique()}
    about = []
    for turn, at, fact, of in joined.select("turn", "flipped_turn", "fact", "fact_flipped").iter_rows():
        finding = of.split("|")[0]
        kind = ABOUT[0] if finding in names[fact] else ABOUT[1] if names[fact] else ABOUT[2]
        about.append("before the flip" if turn < at else kind)
    right = pl.col("right") >= 1
    return joined.select(
        "sample_id",
        "patient_id",
        "turn",
        "stage",
        finding=pl.col("fact_flipped").str.split("|").list.first(),
        flip=pl.when(right).then(pl.lit(FLIPS[0])).otherwise(pl.lit(FLIPS[1])),
        about=pl.Series(about, dtype=pl.String),
        changed=pl.Series([a != b for a, b in zip(*texts, strict=True)], dtype=pl.Boolean),
        became_wrong=~pl.col("wrong") & pl.col("now_wrong"),
        became_right=pl.col("wrong") & ~pl.col("now_wrong"),
        score_change=pl.col("new_score") - pl.col("score"),
    )


def effects(apart: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """Shares of answers that a flip changes, by what they are about and by stage.

    apart  of `answers_apart`
    Columns flip (one of FLIPS, null: both), about (one of ABOUT, "before the flip": the control, which must
    be 0; null: all later answers), stage (null: all), n, n_cases, n_patients, and changed, became_wrong,
    became_right (shares of n), score_change (mean), each with _low and _high (95 % patient-cluster
    bootstrap).
    """
    later = apart.filter(pl.col("about") != "before the flip")
    chosen = [(None, "before the flip", None, apart.filter(about="before the flip"))]
    chosen += [(None, None, None, later)]
    chosen += [(None, None, stage, later.filter(stage=stage)) for stage in sorted(later["stage"].unique())]
    for about in ABOUT:
        here = later.filter(about=about)
        chosen += [(None, about, None, here)]
        chosen += [(flip, about, None, here.filter(flip=flip)) for flip in FLIPS]
        chosen += [(None, about, stage, here.filter(stage=stage)) for stage in sorted(here["stage"].unique())]
    table = []
    for flip, about, stage, part in chosen:
        if part.is_empty():
            continue
        values = part.select(pl.col(_NUMBERS).cast(pl.Float64)).to_numpy()
        found = bootstrap_means(values, part["patient_id"], n_boot=n_boot, seed=seed)
        counts = {"n": part.height, "n_cases": part["sample_id"].n_unique()}
        row = {"flip": flip, "about": about, "stage": stage} | counts
        row["n_patients"] = part["patient_id"].n_unique()
        for name, (mean, low, high) in zip(_NUMBERS, found, strict=True):
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        table.append(row)
    return pl.DataFrame(table, schema=_EFFECTS)


def report_follows(
    qa: pl.DataFrame,
    predicted: pl.DataFrame,
    flipped: pl.DataFrame,
    replaced: Mapping[tuple[str, int], str],
    studies: pl.DataFrame,
    *,
    n_boot: int,
    seed: int,
) -> pl.DataFrame:
    """Does the report say of the finding what the flipped answer says?

    predicted, flipped  answers of both runs: sample_id, turn, answer
    replaced            of flips.flips
    studies             sample_id, patient_id
    One row for the reports without the flip, one with it, and one for the difference: context ("own answer",
    "flipped answer", "difference"), n (reports), n_patients, as_flipped (share of reports that state the
    flipped polarity), against (state the opposite), silent (do not say), each with _low and _high (95 %
    patient-cluster bootstrap). A doubt counts as silence. No row when no case with a report has a flip.
    """
    facts = dict(zip(qa.select(KEYS).rows(), qa["fact"], strict=True))
    wanted = {
        key[0]: (facts[key].split("|")[0], "present" if text.startswith("Yes") else "absent")
        for key, text in replaced.items()
    }
    reports = qa.filter(pl.col("stage") == REPORT_STAGE, pl.col("sample_id").is_in(list(wanted)))
    if reports.is_empty():
        return pl.DataFrame(schema=_REPORTS)
    found = []
    for answers in (predicted, flipped):
        said = report_claims(reports, answers)
        values = np.zeros((len(said), len(_FOLLOWS)))
        for row, (sample, _, claims) in zip(values, said, strict=True):
            finding, polarity = wanted[sample]
            status = claims.get(finding)
            row[0 if status == polarity else 1 if status in ("present", "absent") else 2] = 1
        found.append(values)
    patient = dict(studies.select("sample_id", "patient_id").iter_rows())
    patients = pl.Series([patient[sample] for sample in reports["sample_id"]])
    table = []
    contexts = ("own answer", found[0]), ("flipped answer", found[1]), ("difference", found[1] - found[0])
    for context, values in contexts:
        row = {"context": context, "n": len(values), "n_patients": patients.n_unique()}
        for name, part in zip(
            _FOLLOWS, bootstrap_means(values, patients, n_boot=n_boot, seed=seed), strict=True
        ):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), part, strict=True))
        table.append(row)
    return pl.DataFrame(table, schema=_REPORTS)


def said(table: pl.DataFrame, follows: pl.DataFrame) -> list[str]:
    """What `effects` and `report_follows` show, in sentences."""
    lines = []
    for row in table.filter(pl.col("stage").is_null(), pl.col("flip").is_null()).iter_rows(named=True):
        interval = f"{100 * row['changed_low']:.1f} to {100 * row['changed_high']:.1f}"
        lines.append(
            f"{row['about'] or 'all later answers'}: {100 * row['changed']:.1f} % of {row['n']:,} answers "
            f"change ({interval}), {100 * row['became_wrong']:.1f} % become wrong, "
            f"{100 * row['became_right']:.1f} % right."
        )
    for row in follows.filter(context="difference").iter_rows(named=True):
        shown = "shown" if row["as_flipped_low"] > 0 else "not shown"
        interval = f"{100 * row['as_flipped_low']:+.1f} to {100 * row['as_flipped_high']:+.1f}"
        lines.append(
            f"Reports that say what the flipped answer says: {100 * row['as_flipped']:+.1f} % with the flip "
            f"({interval}): {shown}."
        )
    return lines
