"""Stage 7: which diagnosis a study supports, and what its report advises.

Diagnoses are the findings in DIAGNOSES: what a reader concludes rather than sees. A study without a known
diagnosis is asked for one only when it is normal. Advice is quoted from real reports, sentence by sentence,
and never composed. No table denies one diagnosis and states another, so that none asks which of several it
is.
"""

import polars as pl

from cxrtrek_lib.findings import DIAGNOSES
from cxrtrek_lib.stages.identification import normal_studies
from cxrtrek_lib.stages.question_rows import (
    Evidence,
    Templates,
    answer_words,
    closed_choice,
    draw,
    question_rows,
    with_bits,
)
from cxrtrek_lib.stages.report_text import advice
from cxrtrek_lib.stages.told import capital, tellable, written
from cxrtrek_lib.stages.wording import Template
from cxrtrek_lib.tables import STATUSES

# Of the possible diagnoses, asked about in a choice: CheXpert calls four times as many possible as present,
# and half of the present ones are asked as yes/no instead.
POSSIBLE_SHARE = 0.125


def diagnosis(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 7: each diagnosis of known status as yes/no or as a choice, the diagnosis, the advice."""
    rows = tellable(evidence.known).filter(pl.col("name").is_in(list(DIAGNOSES)))
    drawn = pl.Series(draw(rows, "name", "diagnosis/format") / 2.0**64)
    rows = rows.with_columns(
        drawn=drawn,
        certain=pl.col("status") != "uncertain",
        finding=written(pl.col("name")),
        about="name",
        order=pl.col("finding").to_physical().cast(pl.Int32),
        fact=pl.concat_str("name", pl.lit("|presence")),
    )
    certain, coin = pl.col("certain") & pl.col("balanced"), pl.col("drawn")
    abnormalities = evidence.known.filter(pl.col("kind") == "abnormality")
    presence, status = templates["presence"], templates["status"]
    yes_no = rows.filter(certain & (coin < 0.5)).with_columns(answer=answer_words(presence, "status"))
    choice = rows.filter(pl.when("certain").then(certain & (coin >= 0.5)).otherwise(coin < POSSIBLE_SHARE))
    choice = closed_choice(status, with_bits(status, choice, "name"), "status", STATUSES)
    return [
        question_rows(presence, with_bits(presence, yes_no, "name"), pl.col("order")),
        question_rows(status, choice, pl.col("order")),
        _supported(templates["diagnosis"], rows, normal_studies(abnormalities)),
        _advised(templates["advice"], evidence.studies),
    ]


def _supported(template: Template, rows: pl.DataFrame, normal: pl.DataFrame) -> pl.DataFrame:
    """The open question: present and possible diagnoses; "none" for a normal study."""
    stated = rows.filter(pl.col("status") != "absent").sort("i", "status", "order")
    words = answer_words(template, "status").str.replace("{finding}", pl.col("finding"), literal=True)
    answers = (
        stated.group_by("i", "key", maintain_order=True)
        .agg(
            capital(words).str.join(" ").alias("answer"),
            pl.col("fact").str.join("; "),
            "evidence",
        )
        .with_columns(pl.col("evidence").list.unique(maintain_order=True).list.join("; "))
    )
    none = normal.with_columns(answer=pl.lit(template.answers["none"]), fact=pl.lit("composite|diagnosis"))
    answers = pl.concat([answers, none.select(answers.columns)])
    return question_rows(template, with_bits(template, answers), 1000)


def _advised(template: Template, studies: pl.DataFrame) -> pl.DataFrame:
    """What the report's own sentences advise, word for word; no question where they advise nothing."""
    sections = ("findings_text", "impression_text")
    rows = studies.filter(pl.any_horizontal(pl.col(sections).is_not_null()))
    rows = rows.select("i", "key", "source", *(advice(pl.col(s)).fill_null([]) for s in sections))
    named = [
        pl.when(pl.col(s).list.len() > 0).then(pl.concat_str("source", pl.lit(f": {s}"))) for s in sections
    ]
    rows = rows.select(
        "i",
        "key",
        # Findings and impression often advise the same in the same words.
        answer=pl.concat_list(sections).list.unique(maintain_order=True).list.join(" "),
        evidence=pl.concat_str(named, separator="; ", ignore_nulls=True),
        fact=pl.lit("report|advice"),
    ).filter(pl.col("answer") != "")
    return question_rows(template, with_bits(template, rows), 1001)
