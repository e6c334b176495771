"""Stage 3: boxes as answers: of a finding asked for by name or by a phrase, and of anatomical regions."""

import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import REGIONS
from cxrtrek_lib.stages import naming, places, wording
from cxrtrek_lib.stages.question_rows import Evidence, Templates, draw, image_words, question_rows, with_bits
from cxrtrek_lib.stages.wording import Template
from cxrtrek_lib.tables import CORNERS

REGIONS_ASKED = 8  # anatomical regions to locate per image
# How the boxes of a finding on an image are asked about: the share that shows a box and asks for the finding,
# the share that gives a phrase with side, severity or place; the rest is asked for by name.
BOX_SHARE, PHRASE_SHARE = 0.15, 0.25


def grounding(evidence: Evidence, present: pl.DataFrame, templates: Templates) -> list[pl.DataFrame]:
    """Boxes asked for by name, by phrase and by region; findings asked for by box and by region.

    present  the present findings that are no diagnoses: columns of Evidence.known, and rank, phrase

    The boxes of a finding on an image are asked about in one way only, since a box that was just given
    answers every other question about it; of a finding on both sides, one side is asked for beside the whole.
    """
    boxes = rounded(evidence.boxes)
    known = evidence.known.join(boxes.select("i").unique(), on="i", how="semi")
    columns = ("i", "name", "rank", "kind", "side", "severity", "place", "phrase")
    found = boxes.join(present.select(columns), left_on=["i", "target"], right_on=["i", "name"])
    coin = draws.uniforms(found["key"].to_numpy(), wording.word_keys(found["about"], "boxes/format"))
    found = found.with_columns(pl.Series("coin", coin), finding="target").sort(
        "i", "image_id", "rank", *CORNERS
    )

    whole = naming.whole_images(boxes, known)
    by_box = naming.in_boxes(found.filter(pl.col("coin") < BOX_SHARE), boxes, known, whole, templates)
    shown = pl.concat([rows.select("i", "about") for rows in by_box])
    asked = found.join(shown, on=["i", "about"], how="anti", maintain_order="left")
    phrases = _phrases(asked)
    by_name = asked.join(phrases.filter("instead"), on=["i", "about"], how="anti", maintain_order="left")
    by_name = with_bits(templates["locate"], answered(by_name, "finding", "kind", "rank"), "about")
    by_phrase = asked.drop("phrase").join(phrases, on=["i", "about"], maintain_order="left")
    by_phrase = by_phrase.filter(pl.col("of_side").is_null() | (pl.col("of_side") == pl.col("laterality")))
    by_phrase = answered(by_phrase, "finding", "kind", "rank", "phrase")
    by_phrase = with_bits(templates["phrase"], by_phrase, "about")
    return [
        question_rows(templates["locate"], by_name, pl.col("rank") + 5),
        question_rows(templates["phrase"], by_phrase, pl.col("rank") + 6),
        *(
            question_rows(templates[name], rows, pl.col("rank") + 5)
            for name, rows in zip(naming.BY_BOX, by_box, strict=True)
        ),
        _regions(boxes, templates["region"]),
        naming.in_regions(boxes, found, known, whole, templates["in_region"]),
    ]


def rounded(boxes: pl.DataFrame) -> pl.DataFrame:
    """Boxes with corners to two decimals, sorted; adds `box` (their text in answers), `image` and `about`."""
    boxes = boxes.with_columns(pl.col(CORNERS).round(2))
    texts = [pl.col(corner).cast(pl.Decimal(5, 2)).cast(pl.String) for corner in CORNERS]
    return boxes.with_columns(
        box=pl.format("<|box|>({}, {}), ({}, {})<|/box|>", *texts),
        image=image_words("image_id", "n_images"),
        about=pl.concat_str("image_id", pl.lit("/"), "target"),
    ).sort("i", "image_id", "target", *CORNERS, "reader")


def answered(boxes: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """One row per image and target: all its boxes as one answer (format_boxes), in the order given.

    boxes  rows of `rounded`; columns  further ones to keep, the same for all boxes of an image and target
    """
    keys = ("i", "key", "image_id", "about", "image", "target", "n_images", *columns)
    grouped = boxes.group_by(keys, maintain_order=True).agg(
        bbox_list=pl.concat_list(CORNERS),
        texts=pl.col("box").str.join(" "),
        evidence=pl.col("reader").unique(maintain_order=True).str.join("; "),
    )
    return grouped.with_columns(
        answer=pl.format("<|ref|> {} <|/ref|> {}", "target", "texts"),
        num_of_images="n_images",
        fact=pl.concat_str("target", pl.lit("|box "), "image_id"),
    )


def _phrases(found: pl.DataFrame) -> pl.DataFrame:
    """(i, about, phrase, of_side, instead): what is asked for by a phrase.

    of_side  the boxes on this side are asked for; null = all of them
    instead  the phrase stands for the name; otherwise it asks for one side of a finding on both

    A phrase that names a side needs to know the side of every box of the finding on that image.
    """
    each = found.group_by("i", "key", "about", maintain_order=True).agg(
        pl.first("target", "side", "phrase", "coin"),
        specific=pl.first("severity").is_not_null() | pl.first("place").is_not_null(),
        left=(pl.col("laterality") == "left").sum(),
        right=(pl.col("laterality") == "right").sum(),
        n=pl.len(),
    )
    sided = pl.col("left") + pl.col("right") == pl.col("n")
    of_side = pl.when(pl.col("side") == "left").then("left").when(pl.col("side") == "right").then("right")
    instead = each.filter(
        pl.col("coin") >= 1 - PHRASE_SHARE,
        (sided & (of_side > 0)).fill_null(False) | (pl.col("side").is_null() & pl.col("specific")),
    ).with_columns(of_side="side", instead=pl.lit(True))
    both = each.filter(sided, pl.col("side") == "bilateral", pl.col("left") > 0, pl.col("right") > 0)
    drawn = draws.uniforms(both["key"].to_numpy(), wording.word_keys(both["about"], "boxes/side"))
    half = pl.when(pl.Series(drawn) < 0.5).then(pl.lit("left")).otherwise(pl.lit("right"))
    both = both.with_columns(of_side=half, instead=pl.lit(False))
    both = both.with_columns(
        phrase=pl.concat_str(places.side_word("of_side", "target"), pl.lit(" "), "target")
    )
    return pl.concat([rows.select("i", "about", "phrase", "of_side", "instead") for rows in (instead, both)])


def _regions(boxes: pl.DataFrame, template: Template) -> pl.DataFrame:
    """Where REGIONS_ASKED drawn regions of each image are."""
    regions = boxes.filter(pl.col("target").is_in(list(REGIONS))).with_columns(region="target")
    regions = regions.with_columns(pl.Series("drawn", draw(regions, "about", "regions")))
    rank = pl.col("drawn").rank("dense").over("i", "image_id").cast(pl.Int32)
    regions = answered(
        regions.with_columns(rank=rank).filter(pl.col("rank") <= REGIONS_ASKED), "region", "rank"
    )
    return question_rows(template, with_bits(template, regions, "about"), 10_000 + pl.col("rank"))
