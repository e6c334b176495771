"""The tables of a dataset: what each source brings, how often findings occur, how splits and answers balance.

Every function returns the frame that `figures.save_table` writes. Counts only: no text of the data.
"""

from collections.abc import Mapping

import polars as pl

from cxrtrek_lib.conversations import KINDS, STAGES
from cxrtrek_lib.dataset_statistics import published
from cxrtrek_lib.dataset_statistics.dataset_counts import Counts, about, facts, labelled, spread
from cxrtrek_lib.tables import STATUSES


def sources(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame, counts: Counts) -> pl.DataFrame:
    """Patients, studies, images, studies with a prior, Q&A and facts, per source and split.

    images counts the films of the study itself (`views`), not those of its prior; facts as in
    dataset_counts.facts; qa_per_study is over all studies, those without a question included.
    """
    keys = ["source", "split"]
    n = pl.len().cast(pl.Int64)
    table = studies.group_by(keys).agg(
        pl.col("patient_id").n_unique().alias("patients"), n.alias("studies"),
        pl.col("views").list.len().sum().alias("images"),
        pl.col("prior_study_id").is_not_null().sum().alias("with_prior"),
    )  # fmt: skip
    asked = counts.cells.group_by(keys).agg(qa=pl.col("n").sum())
    table = table.join(asked, on=keys, how="left").join(facts(studies, qa), on=keys, how="left")
    table = table.with_columns(pl.col("qa", "facts").fill_null(0))
    return table.with_columns(qa_per_study=pl.col("qa") / pl.col("studies")).sort(keys)


def stage_formats(counts: Counts) -> pl.DataFrame:
    """Q&A per stage, format and source beside the published samples.

    stage, title, format, one column per source, total, share (of all Q&A), published, published_share; where
    the samples' count of a stage and format is not published the last two are null. Cells that are empty on
    both sides are left out.
    """
    cells = counts.cells.group_by("stage", "format", "source").agg(pl.col("n").sum())
    wide = cells.sort("source").pivot("source", index=["stage", "format"], values="n")
    there = pl.DataFrame(
        [(*cell, n) for cell, n in published.STAGE_FORMATS.items()],
        schema={"stage": pl.Int8, "format": pl.String, "published": pl.Int64}, orient="row",
    )  # fmt: skip
    table = wide.join(there, on=["stage", "format"], how="full", coalesce=True)
    names = [name for name in wide.columns if name not in ("stage", "format")]
    titles = pl.col("stage").replace_strict({stage: title for stage, (title, _) in STAGES.items()})
    return (
        table.with_columns(pl.col(names).fill_null(0))
        .with_columns(total=pl.sum_horizontal(names))
        .select(
            "stage", titles.alias("title"), "format", *names, "total", share=pl.col("total") / counts.n_qa,
            published="published", published_share=pl.col("published") / sum(published.PER_STAGE.values()),
        )
        .sort("stage", pl.col("format").cast(pl.Enum(KINDS)))
    )  # fmt: skip


def task_types(counts: Counts) -> pl.DataFrame:
    """Q&A per sample of every task type of the authors' table, here and in the published samples.

    stage, task_type, qa, per_sample, published (Q&A of the samples; null for a task type that is ours alone),
    published_per_sample.
    """
    here = counts.cells.group_by("stage", "task_type").agg(qa=pl.col("n").sum())
    there = pl.DataFrame(
        [(stage, task, n) for stage, tasks in published.TASKS.items() for task, n in tasks.items()],
        schema={"stage": pl.Int8, "task_type": pl.String, "published": pl.Int64}, orient="row",
    )  # fmt: skip
    table = here.join(there, on=["stage", "task_type"], how="full", coalesce=True)
    return table.with_columns(pl.col("qa").fill_null(0)).select(
        "stage", "task_type", "qa", per_sample=pl.col("qa") / counts.n_samples, published="published",
        published_per_sample=pl.col("published") / published.CASES,
    ).sort("stage", "task_type")  # fmt: skip


def statements(studies: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """What is known of each finding in each study: sample_id, finding, status; one row each.

    Several rows about a finding: present goes before uncertain, uncertain before absent. Absences at
    evidence tier 3 (not reported, weak) are no statement and are left out.
    """
    order = pl.Enum(["present", "uncertain", "absent"])
    said = findings.filter((pl.col("status") != "absent") | (pl.col("evidence_tier") <= 2))
    said = said.join(studies.select("sample_id"), on="sample_id", how="semi")
    return said.group_by("sample_id", "finding").agg(pl.col("status").cast(order).min().cast(pl.String))


def label_prevalence(studies: pl.DataFrame, findings: pl.DataFrame, rare: int) -> pl.DataFrame:
    """Studies in which each finding is present, absent, uncertain and not stated, per source.

    rare  a finding with fewer present studies of that source is marked as rare
    Columns source, finding, studies, present, absent, uncertain, not_stated, prevalence (present / studies),
    rare. Findings of which a source states nothing have no row.
    """
    said = statements(studies, findings).join(studies.select("sample_id", "source"), on="sample_id")
    table = said.group_by("source", "finding").agg(
        (pl.col("status") == status).sum().cast(pl.Int64).alias(status) for status in STATUSES
    )
    sizes = studies.group_by("source").agg(studies=pl.len().cast(pl.Int64))
    table = table.join(sizes, on="source")
    return table.select(
        "source", "finding", "studies", *STATUSES, not_stated=pl.col("studies") - pl.sum_horizontal(STATUSES),
        prevalence=pl.col("present") / pl.col("studies"), rare=pl.col("present") < rare,
    ).sort("source", "present", "finding", descending=[False, True, False])  # fmt: skip


def yes_no_balance(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Answers of the yes/no questions per source, stage and finding (or what else the fact is about).

    Columns source, stage, finding, n, yes, share_yes, ratio (commoner answer / rarer one; null when one is
    never given).
    """
    rows = labelled(studies, qa, ["stage", "qtype", "answer", "fact"], ["source"]).filter(qtype="yes_no")
    yes = pl.col("answer").str.to_lowercase().str.starts_with("yes")
    table = spread(
        rows.group_by("source", "stage", about().alias("finding")).agg(
            n=pl.len().cast(pl.Int64), yes=yes.sum().cast(pl.Int64)
        )
    )
    rarer = pl.min_horizontal("yes", pl.col("n") - pl.col("yes"))
    ratio = pl.when(rarer > 0).then((pl.col("n") - rarer) / rarer)
    table = table.with_columns(share_yes=pl.col("yes") / pl.col("n"), ratio=ratio)
    return table.sort("source", "stage", "n", "finding", descending=[False, False, True, False])


def split_balance(studies: pl.DataFrame, findings: pl.DataFrame, least: int) -> pl.DataFrame:
    """Share of studies with each finding, split by split, for sources whose patients are split.

    least  findings with fewer present studies of a source are left out
    Columns source, finding, present, one column per split, difference (largest minus smallest share), and
    errors: that difference in standard errors, with patients as clusters. Splits by a hash of the patient
    differ by chance alone, so errors beyond about 3 should be rare.
    """
    several = studies.filter(pl.col("split").n_unique().over("source") > 1)
    present = statements(several, findings).filter(status="present").select("sample_id", "finding")
    present = present.join(several.select("sample_id", "source", "split", "patient_id"), on="sample_id")
    patients = several.group_by("source", "split", "patient_id").agg(n=pl.len().cast(pl.Float64))
    sizes = patients.group_by("source", "split").agg(studies=pl.col("n").sum(), patients=pl.len())
    squares = patients.group_by("source").agg(nn=(pl.col("n") ** 2).sum())
    y = present.group_by("source", "split", "patient_id", "finding").agg(y=pl.len().cast(pl.Float64))
    sums = (
        y.join(patients, on=["source", "split", "patient_id"]).group_by("source", "split", "finding")
        .agg(y=pl.col("y").sum(), yy=(pl.col("y") ** 2).sum(), yn=(pl.col("y") * pl.col("n")).sum())
    )  # fmt: skip
    grid = sums.select("source", "finding").unique().join(sizes, on="source").join(squares, on="source")
    grid = grid.join(sums, on=["source", "split", "finding"], how="left")
    grid = grid.with_columns(pl.col("y", "yy", "yn").fill_null(0))

    def whole(column: str) -> pl.Expr:
        return pl.col(column).sum().over("source", "finding")

    # If the splits had one share p, a patient's y - p n has mean 0 and one variance, that over all patients.
    p = whole("y") / whole("studies")
    variance = (whole("yy") - 2 * p * whole("yn") + p**2 * pl.col("nn")) / whole("patients")
    grid = grid.with_columns(
        share=pl.col("y") / pl.col("studies"), error=variance * pl.col("patients") / pl.col("studies") ** 2
    ).sort("source", "finding", "share", "split")
    ends = grid.group_by("source", "finding", maintain_order=True).agg(
        present=pl.col("y").sum().cast(pl.Int64),
        difference=pl.col("share").last() - pl.col("share").first(),
        error=(pl.col("error").last() + pl.col("error").first()).sqrt(),
    )
    shares = grid.pivot("split", index=["source", "finding"], values="share", sort_columns=True)
    table = shares.join(ends, on=["source", "finding"]).filter(pl.col("present") >= least)
    table = table.with_columns(
        errors=pl.when(pl.col("error") > 0).then(pl.col("difference") / pl.col("error"))
    )
    names = ["source", "finding", "present"]
    table = table.select(*names, pl.exclude(*names, "error"))
    return table.sort("source", "present", "finding", descending=[False, True, False])


def exclusions(excluded: Mapping[str, int], corrected: Mapping[str, int]) -> pl.DataFrame:
    """What was left out and what was put right, with reasons: kind, source, reason, n.

    excluded, corrected  "source: reason" -> number, as in reports/metrics/dataset.json
    """
    rows = [
        (kind, *reason.split(": ", 1), n)
        for kind, reasons in (("excluded", excluded), ("corrected", corrected))
        for reason, n in sorted(reasons.items())
    ]
    types = {"kind": pl.String, "source": pl.String, "reason": pl.String, "n": pl.Int64}
    return pl.DataFrame(rows, schema=types, orient="row")
