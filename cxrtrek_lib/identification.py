"""Stages 1 and 2: what kind of image this is, and which findings there are."""

import polars as pl

from cxrtrek_lib import draws, wording
from cxrtrek_lib.findings import DEVICES, FINDINGS, related
from cxrtrek_lib.question_rows import (
    Evidence,
    Templates,
    answer_words,
    choice_options,
    closed_choice,
    draw,
    image_words,
    question_rows,
    sentence,
    with_bits,
)
from cxrtrek_lib.tables import EXPOSURES
from cxrtrek_lib.wording import Template

IMPLIED_NO = 3  # questions per study whose "No" only follows from a study-level "normal"


def image_validation(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 1: the projection when the table knows it, the exposure when the scene knows it."""
    views = evidence.studies.select("i", "key", "views", "n_images", "source").with_columns(
        known=pl.col("views").list.eval(pl.element() != "UNKNOWN")
    )
    # One question per study: open or choice by the draw; open only when every view is known.
    coin = pl.Series("coin", draws.uniforms(views["key"].to_numpy(), "view/format"))
    views = views.with_columns(coin).filter(pl.col("known").list.any())
    is_open = pl.col("known").list.all() & (pl.col("coin") < 0.5)
    views = views.with_columns(is_open.alias("open"), evidence=pl.concat_str("source", pl.lit(": view")))

    template = templates["view"]
    several = wording.fill(template.answers["several"])
    answers = (
        views.filter("open").explode("views").with_columns(n=pl.int_range(1, pl.len() + 1).over("i"))
        .with_columns(view=answer_words(template, "views"))
        .with_columns(text=pl.when(pl.col("n_images") > 1).then(several).otherwise("view"))
        .group_by("i", "key", "evidence", maintain_order=True).agg(pl.col("text").str.join("; "))
        .with_columns(answer=sentence(pl.col("text")), fact=pl.lit("view"))
    )  # fmt: skip
    frames = [question_rows(template, with_bits(template, answers), 0)]

    template = templates["view_choice"]
    single = with_bits(template, views.filter(~pl.col("open")))
    single = single.with_columns(n_known=pl.col("known").list.sum())
    position = draws.picks(single["bits"].to_numpy(), "image", single["n_known"].to_numpy())
    single = (
        single.with_columns(pl.Series("position", position))
        .explode("views", "known").with_columns(n=pl.int_range(1, pl.len() + 1).over("i")).filter("known")
        .filter(pl.int_range(pl.len()).over("i") == pl.col("position"))
        .with_columns(
            about=pl.lit("view"), image=image_words("n", "n_images"),
            fact=pl.concat_str(pl.lit("view|"), "n"),
        )
    )  # fmt: skip
    frames.append(
        question_rows(template, closed_choice(template, single, "views", ("PA", "AP", "LATERAL")), 0)
    )

    exposed = evidence.studies.filter(pl.col("exposure").is_not_null()).with_columns(
        about=pl.lit("exposure"),
        fact=pl.lit("exposure"),
        evidence=pl.concat_str("source", pl.lit(": exposure")),
    )
    coin = draws.uniforms(exposed["key"].to_numpy(), "exposure/format") < 0.5
    template = templates["exposure"]
    rows = with_bits(template, exposed.filter(pl.Series(coin))).with_columns(
        answer=answer_words(template, "exposure")
    )
    frames.append(question_rows(template, rows, 1))
    template = templates["exposure_choice"]
    rows = closed_choice(
        template, with_bits(template, exposed.filter(pl.Series(~coin))), "exposure", EXPOSURES
    )
    return [*frames, question_rows(template, rows, 1)]


def identification(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 2: yes/no for findings of known status, choices, and the open list."""
    known = evidence.known
    certain = known.filter(pl.col("status") != "uncertain")
    implied = (pl.col("status") == "absent") & (pl.col("tier") == 2)
    certain = certain.with_columns(pl.Series("drawn", draw(certain, "name", "presence/order")))
    place = pl.col("drawn").rank("ordinal").over("i", implied.alias("implied"))
    asked = certain.with_columns(implied.alias("implied")).with_columns(place=place)
    asked = asked.filter(~pl.col("implied") | (pl.col("place") <= IMPLIED_NO))
    template = templates["presence"]
    asked = asked.with_columns(
        rank=pl.col("drawn").rank("ordinal").over("i"),
        finding="name",
        answer=answer_words(template, "status"),
        fact=pl.concat_str("name", pl.lit("|presence")),
    )
    frames = [question_rows(template, with_bits(template, asked, "name"), pl.col("rank"))]

    present = known.filter(pl.col("status") == "present")
    fair = _fair_distractors(known, present)
    for name, rank in (("one", 1000), ("several", 1001)):
        frames.append(_choice_of_findings(templates[name], present, fair, rank))
    return [*frames, *_list(templates["list"], known)]


def _fair_distractors(known: pl.DataFrame, present: pl.DataFrame) -> pl.DataFrame:
    """Absent findings (i, key, name, evidence) that are no general or special form of a present one."""
    pairs = [(name, other) for name in FINDINGS for other in related([name])]
    lines = pl.DataFrame(pairs, schema=["name", "other"], orient="row")
    unfair = present.select("i", "name").join(lines, on="name").select("i", name="other").unique()
    absent = known.filter(pl.col("status") == "absent").select("i", "key", "name", "evidence")
    return absent.join(unfair, on=["i", "name"], how="anti")


def _choice_of_findings(
    template: Template, present: pl.DataFrame, fair: pl.DataFrame, rank: int
) -> pl.DataFrame:
    """One choice per study: 1 right of 3-4 options ("one"), or 2-3 right of 3-5 ("several")."""
    several = template.name == "several"
    most_right, most_wrong, least_right, least_wrong = (3, 2, 2, 1) if several else (1, 3, 1, 2)
    sides = []
    for frame, right, most in ((present, True, most_right), (fair, False, most_wrong)):
        frame = frame.select("i", "key", "name", "evidence")
        drawn = pl.Series("drawn", draw(frame, "name", f"{template.name}/options"))
        place = pl.col("drawn").rank("ordinal").over("i")
        sides.append(frame.with_columns(drawn).filter(place <= most).with_columns(right=pl.lit(right)))
    long = pl.concat(sides)
    right = pl.col("right").sum().over("i")
    long = long.filter((right >= least_right) & (pl.len().over("i") - right >= least_wrong))
    long = long.with_columns(about=pl.lit(template.name))
    device = pl.when(pl.col("name").is_in(DEVICES)).then(pl.lit("foreign_body"))
    long = long.with_columns(kind=device.otherwise(pl.lit("abnormality")))
    frame = (
        long.sort("i", "name").group_by("i", "key", "about", maintain_order=True).agg(
            pl.col("name").filter("right").str.join("|presence; ").alias("facts"),
            pl.col("name").filter("right").first().alias("finding"),
            pl.col("kind").filter("right").first(),
            pl.col("evidence").unique(maintain_order=True).str.join("; "),
        ).with_columns(fact=pl.concat_str("facts", pl.lit("|presence")))
    )  # fmt: skip
    frame = with_bits(template, frame)
    return question_rows(
        template, choice_options(frame, long.select("i", "about", "right", option="name")), rank
    )


def _list(template: Template, known: pl.DataFrame) -> list[pl.DataFrame]:
    """The open list of what is present; "none" only when most of the common findings are known absent."""
    present = (
        known.filter(pl.col("status") == "present").sort("i", "finding")
        .group_by("i", "key", maintain_order=True)
        .agg(
            pl.col("name").str.join(", ").alias("findings"),
            pl.col("evidence").unique(maintain_order=True).str.join("; "),
        )
        .with_columns(answer=wording.fill(template.answers["some"]))
    )  # fmt: skip
    normal = normal_studies(known).with_columns(answer=pl.lit(template.answers["none"]))
    rows = pl.concat([frame.select("i", "key", "answer", "evidence") for frame in (present, normal)])
    rows = with_bits(template, rows.with_columns(fact=pl.lit("composite|list of findings")))
    return [question_rows(template, rows, 1002)]


def normal_studies(known: pl.DataFrame) -> pl.DataFrame:
    """(i, key, evidence) of studies without any finding: called normal as a whole, or a scene without one.

    Nothing is present or uncertain, and the absences rest on a study-level "normal" (tier 2) or on the truth
    of a simulated scene; a few explicit negatives alone do not make a normal study.
    """
    return (
        known.group_by("i", "key")
        .agg(
            (pl.col("status") == "absent").all().alias("clear"),
            ((pl.col("tier") == 2) | (pl.col("evidence") == "simulated")).any().alias("whole"),
            pl.col("evidence").unique().sort().str.join("; "),
        )
        .filter(pl.col("clear") & pl.col("whole"))
        .select("i", "key", "evidence")
    )
