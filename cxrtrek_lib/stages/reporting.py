"""Stage 8: the report, in the words of the source where it has English text, else composed of what is known.

A composed impression names what is present, possible and denied. A composed findings section says all of it
region by region, with places, and only where that is more than the impression says; diagnoses are left to the
impression. A drawn share of the studies with both sections is asked for both in one answer, in place of one
by one.
"""

import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import BODY_REGIONS, CORE, DIAGNOSES, REGION_OF
from cxrtrek_lib.stages import wording
from cxrtrek_lib.stages.identification import normal_studies
from cxrtrek_lib.stages.question_rows import Evidence, Templates, question_rows, with_bits
from cxrtrek_lib.stages.report_text import legible
from cxrtrek_lib.stages.told import capital, tellable, written
from cxrtrek_lib.stages.wording import Template

MOST_PRESENT, MOST_LISTED = (
    6,
    3,
)  # present, and each of possible and denied, in an impression of at most 40 words
WHOLE_SHARE = 0.2  # of the studies with both sections, asked for the whole report
SECTIONS = ("findings", "impression")


def report(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 8: the real sections where there are any, else those composed of the known statuses."""
    real = _real(evidence.studies)
    known = evidence.known.join(real, on="i", how="anti")
    return [
        *_asked(real, templates, {section: templates[section] for section in SECTIONS}),
        *_asked(
            _composed(known, templates),
            templates,
            {"findings": templates["regions"], "impression": templates["summary"]},
        ),
    ]


def _asked(written_up: pl.DataFrame, templates: Templates, of: Templates) -> list[pl.DataFrame]:
    """One question per section, or one for both where that is drawn.

    written_up  i, key and per section its text (null: there is none), `<section>_fact`, `<section>_evidence`
    of          section -> the question that asks for it
    """
    drawn = pl.Series(draws.uniforms(written_up["key"].to_numpy(), "report/whole") < WHOLE_SHARE)
    written_up = written_up.with_columns(whole=pl.all_horizontal(pl.col(SECTIONS).is_not_null()) & drawn)
    frames = []
    for rank, (section, template) in enumerate(of.items()):
        rows = written_up.filter(~pl.col("whole") & pl.col(section).is_not_null()).select(
            "i", "key", answer=section, fact=f"{section}_fact", evidence=f"{section}_evidence"
        )
        frames.append(question_rows(template, with_bits(template, rows), rank))
    template = templates["whole"]
    rows = written_up.filter("whole").select(
        "i", "key", answer=wording.fill(template.answers["both"]),
        fact=pl.concat_str([f"{section}_fact" for section in SECTIONS], separator="; "),
        evidence=pl.concat_list([f"{section}_evidence" for section in SECTIONS])
        .list.unique(maintain_order=True).list.join("; "),
    )  # fmt: skip
    return [*frames, question_rows(template, with_bits(template, rows), 2)]


def _real(studies: pl.DataFrame) -> pl.DataFrame:
    """The legible text of the sections of each report that has any, as `_asked` takes it."""
    rows = studies.filter(pl.any_horizontal(pl.col(f"{s}_text").is_not_null() for s in SECTIONS))
    rows = rows.with_columns(legible(pl.col(f"{s}_text")).alias(s) for s in SECTIONS)
    left_out = pl.lit(", sentences with XXXX left out")
    rows = rows.select(
        "i",
        "key",
        *(pl.when(pl.col(s) != "").then(pl.col(s)).alias(s) for s in SECTIONS),
        *(pl.lit(f"report|{s}").alias(f"{s}_fact") for s in SECTIONS),
        *(
            pl.concat_str(
                "source",
                pl.lit(f": {s}_text"),
                pl.when(pl.col(f"{s}_text").str.contains("XXXX", literal=True)).then(left_out),
                ignore_nulls=True,
            ).alias(f"{s}_evidence")
            for s in SECTIONS
        ),
    )
    return rows.filter(pl.any_horizontal(pl.col(SECTIONS).is_not_null()))


def _composed(known: pl.DataFrame, templates: Templates) -> pl.DataFrame:
    """Both sections composed of the known statuses, as `_asked` takes it.

    The findings section is null where it would say no more than the impression.
    """
    core = {name: place for place, name in enumerate(CORE)}
    absent, diagnosis = pl.col("status") == "absent", pl.col("name").is_in(list(DIAGNOSES))
    denied = pl.col("name").replace_strict(core, default=None, return_dtype=pl.Int32)
    rows = tellable(known).with_columns(
        text=written(pl.col("name")),
        diagnosis=diagnosis,
        order=pl.when(absent).then(denied).otherwise(pl.col("finding").to_physical().cast(pl.Int32)),
    )
    # Diagnoses come first: only the impression tells of them. A name with "or" ends a list, see _joined.
    alternative = pl.col("text").str.contains(" or ")
    rows = rows.sort("i", "status", ~pl.col("diagnosis"), "order", alternative, "finding", nulls_last=True)
    most = pl.when(pl.col("status") == "present").then(MOST_PRESENT).otherwise(MOST_LISTED)
    nth = pl.int_range(pl.len()).over("i", "status")
    rows = rows.with_columns(stated=pl.col("order").is_not_null() & (nth < most))
    normal = normal_studies(known.filter(pl.col("kind") == "abnormality"))
    found = rows.group_by("i", maintain_order=True).agg(pl.first("key"), columns="evidence")
    columns = pl.col("columns").list.unique(maintain_order=True).list.join("; ")
    found = found.with_columns(columns=pl.concat_str(pl.lit("composed of "), columns))
    found = found.join(_impression(templates["summary"], rows, normal), on="i", how="left")
    found = found.join(
        _by_region(templates["regions"], rows.filter(~pl.col("diagnosis"))), on="i", how="left"
    )
    return found.with_columns(
        findings_evidence="columns",
        impression_evidence="columns",
        findings_fact=pl.lit("composite|findings"),
        impression_fact=pl.lit("composite|impression"),
    )


def _impression(template: Template, rows: pl.DataFrame, normal: pl.DataFrame) -> pl.DataFrame:
    """(i, impression): what is present, a sentence each, then what is possible and what is denied."""
    phrase = pl.concat_str("severity", "side", "text", separator=" ", ignore_nulls=True)
    parts = _joined(rows.filter("stated").with_columns(phrase=phrase), ["i"])
    parts = parts.with_columns(
        part=pl.when(pl.col("status") == "present").then(
            pl.col("each").list.eval(capital(pl.element()) + ".").list.join(" ")
        ).when(pl.col("status") == "absent").then(wording.fill(template.answers["absent"]))
        .otherwise(wording.fill(template.answers["uncertain"])),
    )  # fmt: skip
    none = normal.select("i", rank=pl.lit(-1, dtype=pl.Int8), part=pl.lit(template.answers["none"]))
    parts = pl.concat([parts.select("i", "rank", "part"), none]).sort("i", "rank")
    return parts.group_by("i", maintain_order=True).agg(impression=pl.col("part").str.join(" "))


def _by_region(template: Template, rows: pl.DataFrame) -> pl.DataFrame:
    """(i, findings) where that says more than the impression: everything known, region by region."""
    more = (~pl.col("stated") | pl.col("place").is_not_null()).any().over("i")
    place = pl.when(pl.col("place").is_not_null()).then(pl.concat_str(pl.lit("("), "place", pl.lit(")")))
    rows = rows.filter(more).with_columns(
        region=pl.col("name").replace_strict(REGION_OF, return_dtype=pl.Enum(list(BODY_REGIONS))),
        phrase=pl.concat_str("severity", "side", "text", place, separator=" ", ignore_nulls=True),
    )
    parts = _joined(rows, ["i", "region"]).sort("i", "region", "rank")
    parts = parts.with_columns(
        part=pl.coalesce(
            pl.when(pl.col("status") == status).then(wording.fill(template.answers[status]))
            for status in ("present", "uncertain", "absent")
        )
    )
    heading = pl.col("region").cast(pl.String).replace_strict(template.answers, return_dtype=pl.String)
    told = parts.group_by("i", "region", maintain_order=True).agg(pl.col("part").str.join("; "))
    told = told.with_columns(part=pl.concat_str(heading, pl.lit(": "), "part", pl.lit(".")))
    return told.group_by("i", maintain_order=True).agg(findings=pl.col("part").str.join(" "))


def _joined(rows: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """(*by, status, rank, each, findings): the phrases of a status as a list, and in words.

    The order of the rows is kept; `rank` orders statuses as they are told; what is absent is "a, b or c".
    """
    told = {"present": 0, "uncertain": 1, "absent": 2}
    rows = rows.group_by(*by, "status", maintain_order=True).agg(each="phrase")
    words = pl.col("each").list.join(", ")
    # A name may end the list with an "or" of its own: "no fracture, nodule or mass".
    either = words.str.replace("^(.*), ([^,]*)$", "${1} or ${2}")
    either = pl.when(words.str.contains(", [^,]* or [^,]*$")).then(words).otherwise(either)
    return rows.with_columns(
        rank=pl.col("status").replace_strict(told, return_dtype=pl.Int8),
        findings=pl.when(pl.col("status") == "absent").then(either).otherwise(words),
    )
