"""Does a case's report agree with what was answered before it, and where did a wrong statement begin?

Statements come from yes/no questions ("is there an effusion?", "do effusion and edema occur together?") and
from the texts of reports (text_findings.py). The annotated answers go the same way: what they contradict each
other in is the noise of reading texts, not an error of a model.
"""

import re

import numpy as np
import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.conversations import REPORT_STAGE
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.inference_stats import bootstrap_means
from cxrtrek_lib.metrics import yes_no
from cxrtrek_lib.tables import KEYS
from cxrtrek_lib.text_findings import findings_in
from cxrtrek_lib.traceability import IS_WRONG

_IDENTIFY = 2  # the stage that asks whether a finding is there
_SINGLE = r"^[^;|]+\|presence$"  # a fact about the presence of one finding
_TOGETHER = r"^composite\|[^;|]+/[^;|]+$"  # ... of two
_CLAIMS = {
    "sample_id": pl.String,
    "turn": pl.Int64,
    "stage": pl.Int64,
    "finding": pl.String,
    "says": pl.String,
}
_CONTRADICTIONS = ("contradicts", "denied_later", "affirmed_later")
_BY_STAGE = {"system": pl.String} | dict.fromkeys(("stage", "n", "n_patients"), pl.Int64)
_BY_STAGE |= {f"{name}{end}": pl.Float64 for name in _CONTRADICTIONS for end in ("", "_low", "_high")}
_ORIGINS = {"origin": pl.String} | dict.fromkeys(("n", "n_wrong", "n_invented", "n_missed"), pl.Int64)
_ORIGINS |= {f"{name}{end}": pl.Float64 for name in ("of_wrong", "risk") for end in ("", "_low", "_high")}
NOT_BEFORE, NONE_WRONG = "not asked before", "no wrong answer before"


def findings_of(fact: str) -> frozenset[str]:
    """Findings that a question's fact names.

    >>> sorted(findings_of("edema|presence; pleural effusion|presence"))
    ['edema', 'pleural effusion']
    >>> sorted(findings_of("composite|cardiomegaly/edema")), sorted(findings_of("composite|the lungs"))
    (['cardiomegaly', 'edema'], [])
    """
    return frozenset(re.split(r"\s*[;|/]\s*", fact)) & set(FINDINGS)


def report_claims(qa: pl.DataFrame, answers: pl.DataFrame) -> list[tuple[str, int, dict[str, str]]]:
    """(sample_id, turn, finding -> present | absent | uncertain) of every report, in the order of `qa`.

    qa       tables.QA; only questions of stage 8 count
    answers  sample_id, turn, answer; a report that is missing says nothing
    """
    asked = qa.filter(stage=REPORT_STAGE).select(KEYS)
    given = asked.join(answers.select(*KEYS, "answer"), on=KEYS, how="left", maintain_order="left")
    return [(sample, turn, findings_in(text or "")) for sample, turn, text in given.iter_rows()]


def claims(qa: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """What the answers of each case state about findings, one row per statement.

    qa, answers  as for `report_claims`
    Columns sample_id, turn, stage, finding, says (present | absent). Read are yes/no questions on the
    presence of one finding, those on two findings together (a yes states both, a no nothing), and reports;
    "uncertain" and unreadable answers state nothing.
    """
    closed = qa.filter(
        pl.col("qtype") == "yes_no",
        pl.col("fact").str.contains(_SINGLE) | pl.col("fact").str.contains(_TOGETHER),
    )
    given = closed.select(*KEYS, "stage", "fact").join(answers.select(*KEYS, "answer"), on=KEYS)
    table = []
    for sample, turn, stage, fact, text in given.iter_rows():
        said = yes_no(text or "")
        together = fact.startswith("composite|")
        if said == "yes" or (said == "no" and not together):
            says = "present" if said == "yes" else "absent"
            table += [(sample, turn, stage, finding, says) for finding in sorted(findings_of(fact))]
    for sample, turn, said in report_claims(qa, answers):
        stated = [(name, says) for name, says in said.items() if says != "uncertain"]
        table += [(sample, turn, REPORT_STAGE, name, says) for name, says in stated]
    return pl.DataFrame(table, schema=_CLAIMS, orient="row")


def statement_pairs(qa: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """Every answer of stage 2 on one finding beside each later statement about it in the same case.

    Columns sample_id, finding, turn, says (stage 2), later_turn, stage, later_says.
    """
    stated = claims(qa, answers)
    early = stated.filter(stage=_IDENTIFY).drop("stage")
    late = stated.filter(pl.col("stage") > _IDENTIFY)
    late = late.rename({"turn": "later_turn", "says": "later_says"})
    pairs = early.join(late, on=["sample_id", "finding"]).filter(pl.col("later_turn") > pl.col("turn"))
    return pairs.sort("sample_id", "turn", "later_turn", "finding")


def contradictions(
    qa: pl.DataFrame, systems: dict[str, pl.DataFrame], studies: pl.DataFrame, *, n_boot: int, seed: int
) -> pl.DataFrame:
    """How often a later stage contradicts what stage 2 said about the same finding.

    systems  name -> answers (sample_id, turn, answer); `annotated` beside them shows the noise of the reading
    studies  sample_id, patient_id
    Columns system, stage (of the later statement), n (pairs of statements), n_patients, contradicts,
    denied_later (yes, then absent), affirmed_later (no, then present): shares of n, each with _low and _high
    (95 % patient- cluster bootstrap). A pair of stages without such statements has no row.
    """
    patients = studies.select("sample_id", "patient_id").unique()
    table = []
    for system, answers in systems.items():
        pairs = statement_pairs(qa, answers).join(patients, on="sample_id", maintain_order="left")
        for (stage,), part in pairs.sort("stage").group_by("stage", maintain_order=True):
            differs = (part["says"] != part["later_says"]).to_numpy()
            yes = (part["says"] == "present").to_numpy()
            values = np.stack([differs, differs & yes, differs & ~yes], 1).astype(float)
            row = {"system": system, "stage": stage, "n": part.height}
            row["n_patients"] = part["patient_id"].n_unique()
            for name, found in zip(
                _CONTRADICTIONS,
                bootstrap_means(values, part["patient_id"], n_boot=n_boot, seed=seed),
                strict=True,
            ):
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
            table.append(row)
    return pl.DataFrame(table, schema=_BY_STAGE)


# --- where a wrong statement of a report began ----------------------------------------------------------
def report_statements(qa: pl.DataFrame, answers: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Findings that a report or its annotated text states (present or possible), and what came before.

    rows  the same answers, scored (metrics.score_answers)
    Columns sample_id, patient_id, turn, finding, statement ("right": in both texts; "invented": only in the
    answer; "missed": only in the annotated text), first_wrong (stage of the first earlier wrong answer to a
    question that names the finding; null: none), asked (was there such a question?).
    """
    gold = {row[:2]: row[2] for row in report_claims(qa, qa)}
    table = []
    for sample, turn, said in report_claims(qa, answers):
        stated = {name for name, says in said.items() if says != "absent"}
        true = {name for name, says in gold[sample, turn].items() if says != "absent"}
        for name in sorted(stated | true):
            kind = "right" if name in stated & true else "invented" if name in stated else "missed"
            table.append((sample, turn, name, kind))
    schema = {"sample_id": pl.String, "turn": qa.schema["turn"], "finding": pl.String, "statement": pl.String}
    statements = pl.DataFrame(table, schema=schema, orient="row")
    facts = rows["fact"].unique()
    named = pl.DataFrame(
        [(fact, name) for fact in facts for name in sorted(findings_of(fact))],
        schema={"fact": pl.String, "finding": pl.String},
        orient="row",
    )
    earlier = rows.filter(pl.col("stage") < REPORT_STAGE).join(named, on="fact")
    first = earlier.group_by("sample_id", "finding").agg(
        first_wrong=pl.col("stage").filter(IS_WRONG).min(), asked=pl.lit(True)
    )
    patients = rows.select("sample_id", "patient_id").unique()
    found = statements.join(patients, on="sample_id", how="left", maintain_order="left")
    found = found.join(first, on=["sample_id", "finding"], how="left", maintain_order="left")
    return found.with_columns(pl.col("asked").fill_null(False))


def report_errors(statements: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """Where the wrong statements of reports begin, and how much likelier an earlier error makes one.

    statements  of `report_statements`
    Columns origin ("stage 2" ...: stage of the first wrong answer about the finding; NONE_WRONG; NOT_BEFORE),
    n (statements), n_wrong, n_invented, n_missed, of_wrong (share of all wrong statements), risk (share of
    these statements that is wrong), each share with _low and _high (95 % patient-cluster bootstrap).
    """
    origin = (
        pl.when(pl.col("first_wrong").is_not_null())
        .then(pl.format("stage {}", "first_wrong"))
        .otherwise(pl.when("asked").then(pl.lit(NONE_WRONG)).otherwise(pl.lit(NOT_BEFORE)))
    )
    statements = statements.with_columns(origin=origin, wrong=pl.col("statement") != "right")
    wrong = statements.filter("wrong")
    stages = sorted(statements["first_wrong"].drop_nulls().unique())
    table = []
    for name in (*(f"stage {stage}" for stage in stages), NONE_WRONG, NOT_BEFORE):
        part = statements.filter(origin=name)
        if part.is_empty():
            continue
        row = {"origin": name, "n": part.height, "n_wrong": int(part["wrong"].sum())}
        row |= {f"n_{kind}": part.filter(statement=kind).height for kind in ("invented", "missed")}
        risk = (part["wrong"].to_numpy(), part["patient_id"])
        share = ((wrong["origin"] == name).to_numpy(), wrong["patient_id"])
        for key, (values, patients) in (("of_wrong", share), ("risk", risk)):
            found = (None, None, None)
            if len(values):
                found = bootstrap_means(values[:, None], patients, n_boot=n_boot, seed=seed)[0]
            row |= dict(zip((key, f"{key}_low", f"{key}_high"), found, strict=True))
        table.append(row)
    return pl.DataFrame(table, schema=_ORIGINS)


# --- one case to follow ----------------------------------------------------------------------------------
def returning_errors(statements: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Findings that stage 2 got wrong and the report repeats: a "yes" that it invents, a "no" that it misses.

    statements  of `report_statements`
    Columns sample_id, finding, sorted and unique.
    """
    early = rows.filter(
        IS_WRONG,
        pl.col("stage") == _IDENTIFY,
        pl.col("qtype") == "yes_no",
        pl.col("fact").str.contains(_SINGLE),
    )
    early = early.select("sample_id", "pred_class", finding=pl.col("fact").str.split("|").list.first())
    wrong = statements.filter(pl.col("statement") != "right")
    both = early.join(wrong.select("sample_id", "finding", "statement"), on=["sample_id", "finding"])
    same = pl.col("statement") == pl.col("pred_class").replace({"yes": "invented", "no": "missed"})
    return both.filter(same).select("sample_id", "finding").unique().sort("sample_id", "finding")


def worked_case(
    returning: pl.DataFrame, qa: pl.DataFrame, answers: pl.DataFrame, rows: pl.DataFrame, *, seed: int
) -> pl.DataFrame:
    """All answers about one finding in one case, drawn by hash from `returning_errors`, up to the reports.

    Columns sample_id, finding, turn, stage, question, gold, said (texts), score, right (bool). Of a report,
    `right` says whether it states or leaves out the finding as its annotated text does. Empty when
    `returning` is empty.
    """
    pool = sorted(returning.rows(), key=lambda row: (draws.key(seed, "worked case", *row), row))
    sample, finding = pool[0] if pool else ("", "")
    about = [fact for fact in rows["fact"].unique() if finding in findings_of(fact)]
    asked = rows.filter(sample_id=sample).filter(
        (pl.col("stage") == REPORT_STAGE) | pl.col("fact").is_in(about)
    )
    texts = qa.select(*KEYS, "question", gold="answer")
    chain = (
        asked.join(texts, on=KEYS)
        .join(answers.select(*KEYS, said="answer"), on=KEYS, how="left")
        .sort("turn")
        .select(
            "sample_id",
            pl.lit(finding).alias("finding"),
            "turn",
            "stage",
            "question",
            "gold",
            "said",
            "score",
        )
    )

    def states(text: str | None) -> bool:
        return findings_in(text or "").get(finding, "absent") != "absent"

    agrees = [states(gold) == states(said) for gold, said in chain.select("gold", "said").iter_rows()]
    right = (
        pl.when(pl.col("stage") == REPORT_STAGE)
        .then(pl.Series(agrees, dtype=pl.Boolean))
        .otherwise(~IS_WRONG)
    )
    return chain.with_columns(right=right)


def said(table: pl.DataFrame, errors: pl.DataFrame) -> list[str]:
    """What `contradictions` and `report_errors` show, in sentences."""
    lines = [
        f"{row['system']} answers, stage {row['stage']} against stage 2: {100 * row['contradicts']:.1f} % of "
        f"{row['n']:,} pairs of statements contradict each other ({100 * row['denied_later']:.1f} % deny a "
        f"yes, {100 * row['affirmed_later']:.1f} % affirm a no)."
        for row in table.iter_rows(named=True)
    ]
    wrong = int(errors["n_wrong"].sum())
    if wrong:
        lines.append(
            f"Wrong statements of reports: {wrong:,}, of them {errors['n_missed'].sum():,} findings left out "
            f"and {errors['n_invented'].sum():,} invented."
        )
    for row in errors.filter(pl.col("n_wrong") > 0).iter_rows(named=True):
        lines.append(
            f"{row['origin']}: {100 * row['of_wrong']:.0f} % of the wrong statements; of {row['n']:,} "
            f"findings of this origin reports are wrong about {100 * row['risk']:.0f} % "
            f"({100 * row['risk_low']:.0f} to {100 * row['risk_high']:.0f})."
        )
    return lines
