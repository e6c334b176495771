"""Stage 4: which findings occur together in a study, and how they lie to each other.

Co-occurrence is stated as such: that two findings are in one study says nothing about a cause. A general and
a special form of one finding (lung lesion, nodule), or two names that may stand for one thing on a film
(infiltrate, airspace opacity), are no two findings; diagnoses are left out.
"""

import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import DIAGNOSES, FINDINGS, ancestors
from cxrtrek_lib.stages import wording
from cxrtrek_lib.stages.choices import NAMES, OVERLAPS
from cxrtrek_lib.stages.question_rows import (
    Evidence,
    Templates,
    choice_options,
    closed_choice,
    draw,
    image_words,
    question_rows,
    sentence,
    with_bits,
)
from cxrtrek_lib.stages.wording import Template

PAIRS_ASKED = 3  # pairs per study that occur together, and as many that do not
MARGIN = 5.0  # percent of the film's height by which one finding lies higher
SIDES = ("same", "opposite", "one", "both")
# (name, other): every finding with itself and with what is no second finding beside it.
ONE_THING = pl.DataFrame(
    [(name, NAMES[j]) for i, name in enumerate(NAMES) for j in OVERLAPS[i].nonzero()[0]],
    ["name", "other"],
    orient="row",
)
GENERAL = pl.DataFrame(
    [(name, other) for name in FINDINGS for other in ancestors(name)], ["name", "other"], orient="row"
)


def relations(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 4: what else is present, pairs that are both present or not, their sides, the higher of two."""
    known = evidence.known.filter(~pl.col("name").is_in(DIAGNOSES)).select(
        "i", "key", "name", "kind", "status", "side", "evidence",
        order=pl.col("finding").to_physical().cast(pl.Int32),
    )  # fmt: skip
    present = known.filter(pl.col("status") == "present").drop("status")
    return [
        _together(templates["together"], present),
        _both(templates["both"], known, present),
        _sides(templates["sides"], present),
        _higher(templates["higher"], present, evidence.boxes),
    ]


def _pairs(first: pl.DataFrame, second: pl.DataFrame, on: str | list[str] = "i") -> pl.DataFrame:
    """Rows of `first` with those of `second` (columns _2) that tell of another finding of the same study."""
    pairs = first.join(second, on=on, suffix="_2")
    return pairs.join(ONE_THING, left_on=["name", "name_2"], right_on=["name", "other"], how="anti")


def _named(pairs: pl.DataFrame, question: str) -> pl.DataFrame:
    """Add to each pair: about, which of the two is named first (drawn): finding, other; kind, evidence."""
    about = pl.concat_str(
        pl.when(pl.col("order") < pl.col("order_2")).then("name").otherwise("name_2"), pl.lit("/"),
        pl.when(pl.col("order") < pl.col("order_2")).then("name_2").otherwise("name"),
    )  # fmt: skip
    pairs = pairs.with_columns(about=about)
    coin = draws.uniforms(pairs["key"].to_numpy(), wording.word_keys(pairs["about"], f"{question}/order"))
    in_order = (pl.Series(coin) < 0.5) == (pl.col("order") < pl.col("order_2"))
    devices = (pl.col("kind") == "foreign_body") & (pl.col("kind_2") == "foreign_body")
    return pairs.with_columns(
        finding=pl.when(in_order).then("name").otherwise("name_2"),
        other=pl.when(in_order).then("name_2").otherwise("name"),
        kind=pl.when(devices).then(pl.lit("foreign_body")).otherwise(pl.lit("abnormality")),
        evidence=pl.when(pl.col("evidence") == pl.col("evidence_2")).then("evidence")
        .otherwise(pl.concat_str("evidence", pl.lit("; "), "evidence_2")),
        drawn=pl.Series(draw(pairs, "about", question)),
    )  # fmt: skip


def _together(template: Template, present: pl.DataFrame) -> pl.DataFrame:
    """What else is present, asked of one drawn finding of each study that has something else."""
    drawn = present.with_columns(pl.Series("drawn", draw(present, "name", "together")))
    pairs = _pairs(drawn, present)
    rows = (
        pairs.filter(pl.col("drawn") == pl.col("drawn").min().over("i"))
        .sort("i", "order_2")
        .group_by("i", "key", "kind", finding="name", maintain_order=True)
        .agg(
            pl.col("name_2").str.join(", ").alias("findings"),
            evidence=pl.col("evidence")
            .append(pl.col("evidence_2"))
            .unique(maintain_order=True)
            .str.join("; "),
        )
        .with_columns(fact=pl.lit("composite|together"))
    )
    rows = rows.with_columns(answer=sentence(wording.fill(template.answers["some"])))
    return question_rows(template, with_bits(template, rows), 0)


def _both(template: Template, known: pl.DataFrame, present: pl.DataFrame) -> pl.DataFrame:
    """Pairs that are both present, and as many of a present and an absent finding: Yes and No are even.

    A finding that is absent while a special form of it is present contradicts itself and is left out.
    """
    denied = present.join(GENERAL, on="name").select("i", name="other")
    absent = known.filter(pl.col("status") == "absent").join(denied, on=["i", "name"], how="anti")
    pairs = pl.concat([
        _pairs(present, present).filter(pl.col("order") < pl.col("order_2")).with_columns(both=True),
        _pairs(present, absent.select(present.columns)).with_columns(both=False),
    ])  # fmt: skip
    pairs = _named(pairs, "both")
    n = [pl.col("both").sum().over("i"), (~pl.col("both")).sum().over("i")]
    place = pl.col("drawn").rank("ordinal").over("i", "both")
    pairs = pairs.filter(place <= pl.min_horizontal(*n, pl.lit(PAIRS_ASKED)))
    yes, no = template.answers["present"], template.answers["absent"]
    pairs = with_bits(template, pairs, "about").with_columns(
        answer=pl.when("both").then(pl.lit(yes)).otherwise(pl.lit(no)),
        fact=pl.concat_str(pl.lit("composite|"), "about"),
        rank=pl.col("drawn").rank("ordinal").over("i").cast(pl.Int32),
    )
    return question_rows(template, pairs, pl.col("rank"))


def _sides(template: Template, present: pl.DataFrame) -> pl.DataFrame:
    """Whether one drawn pair of findings with known sides is on the same side."""
    sided = present.filter(pl.col("side").is_not_null())
    pairs = _one_pair(_named(_pairs(sided, sided).filter(pl.col("order") < pl.col("order_2")), "sides"))
    both = [pl.col(side) == "bilateral" for side in ("side", "side_2")]
    relation = (
        pl.when(both[0] & both[1]).then(pl.lit("both"))
        .when(both[0] | both[1]).then(pl.lit("one"))
        .when(pl.col("side") == pl.col("side_2")).then(pl.lit("same"))
        .otherwise(pl.lit("opposite"))
    )  # fmt: skip
    pairs = with_bits(template, pairs, "about").with_columns(
        relation=relation, fact=pl.lit("composite|sides")
    )
    return question_rows(template, closed_choice(template, pairs, "relation", SIDES), 100)


def _higher(template: Template, present: pl.DataFrame, boxes: pl.DataFrame) -> pl.DataFrame:
    """Which of one drawn pair lies higher on an image: the upper and the lower edges of all its boxes do.

    Edges by at least MARGIN; where a pair is not so far apart, nothing is asked.
    """
    edges = (
        boxes.join(present.select("i", "name"), left_on=["i", "target"], right_on=["i", "name"])
        .group_by("i", "image_id", "n_images", name="target")
        .agg(
            top=pl.col("y1").min(), low_top=pl.col("y1").max(),
            bottom=pl.col("y2").max(), high_bottom=pl.col("y2").min(),
            readers=pl.col("reader").unique().sort().str.join("; "),
        )
        .join(present.drop("evidence"), on=["i", "name"])
        .rename({"readers": "evidence"})
    )  # fmt: skip
    pairs = _pairs(edges, edges, on=["i", "image_id"]).filter(
        pl.col("low_top") + MARGIN <= pl.col("top_2"), pl.col("bottom") + MARGIN <= pl.col("high_bottom_2")
    )
    pairs = _one_pair(_named(pairs.sort("i", "image_id"), "higher"))
    pairs = with_bits(template, pairs, "about").with_columns(
        image=image_words("image_id", "n_images"), fact=pl.lit("composite|height")
    )
    long = pl.concat([
        pairs.select("i", "about", option=column, right=pl.col(column) == pl.col("name"))
        for column in ("finding", "other")
    ])  # fmt: skip
    return question_rows(template, choice_options(pairs, long), 200)


def _one_pair(pairs: pl.DataFrame) -> pl.DataFrame:
    """The drawn pair of each study; of a pair that several images show, the first image's."""
    return pairs.filter(pl.col("drawn") == pl.col("drawn").min().over("i")).unique(
        "i", keep="first", maintain_order=True
    )
