"""Stage 3: attributes of what is present, boxes of findings and of anatomical regions."""

import polars as pl

from cxrtrek_lib import wording
from cxrtrek_lib.findings import REGIONS
from cxrtrek_lib.question_rows import (
    Evidence,
    Templates,
    closed_choice,
    draw,
    image_words,
    question_rows,
    sentence,
    with_bits,
)
from cxrtrek_lib.schema import format_boxes
from cxrtrek_lib.tables import SEVERITIES, SIDES

REGIONS_ASKED = 4  # anatomical regions to locate per image


def attributes(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 3: side, severity, description and boxes of present findings, boxes of regions."""
    # Questions about one finding stay together, in the order of the vocabulary: rank 10 x finding + step.
    order = pl.col("finding").to_physical().cast(pl.Int32) * 10
    present = evidence.known.filter(pl.col("status") == "present").with_columns(rank=order, about="name")
    frames = []
    for name, column, keys, step in (("side", "side", SIDES, 0), ("severity", "severity", SEVERITIES, 1)):
        rows = present.filter(pl.col(column).is_not_null())
        rows = with_bits(templates[name], rows, "name").with_columns(
            fact=pl.concat_str("name", pl.lit(f"|{name}"))
        )
        rows = closed_choice(templates[name], rows, column, keys)
        frames.append(question_rows(templates[name], rows, pl.col("rank") + step))

    template = templates["describe"]
    described = present.filter(pl.any_horizontal(pl.col("side", "severity", "place").is_not_null()))
    place_fact = pl.concat_str("name", pl.lit("|place"))
    described = described.with_columns(
        answer=sentence(finding_phrase(template.answers["place"])),
        fact=pl.when(pl.col("place").is_not_null())
        .then(place_fact)
        .otherwise(pl.lit("composite|description")),
    )
    described = with_bits(template, described, "name")
    frames.append(question_rows(template, described, pl.col("rank") + 2))
    return [*frames, *_detection(evidence, present, templates)]


def _detection(evidence: Evidence, present: pl.DataFrame, templates: Templates) -> list[pl.DataFrame]:
    """Boxes of present findings, all of an image in one answer, and of a few drawn regions per image."""
    box = pl.concat_list("x1", "y1", "x2", "y2")
    boxes = (
        evidence.boxes.sort("i", "image_id", "target", "x1", "y1")
        .group_by("i", "key", "n_images", "image_id", "target", maintain_order=True)
        .agg(
            box.alias("bbox_list"),
            pl.col("reader").unique(maintain_order=True).str.join("; ").alias("evidence"),
        )
        .with_columns(
            image=image_words("image_id", "n_images"),
            num_of_images="n_images",
            about=pl.concat_str("image_id", pl.lit("/"), "target"),
            fact=pl.concat_str("target", pl.lit("|box "), "image_id"),
        )
    )  # fmt: skip
    answers = [format_boxes(*row) for row in boxes.select("target", "bbox_list").iter_rows()]
    boxes = boxes.with_columns(pl.Series("answer", answers, dtype=pl.String))
    found = boxes.join(
        present.select("i", "name", "rank", "kind"), left_on=["i", "target"], right_on=["i", "name"]
    )
    found = with_bits(templates["locate"], found.with_columns(finding="target"), "about")
    regions = boxes.filter(pl.col("target").is_in(list(REGIONS))).with_columns(region="target")
    drawn = pl.Series("drawn", draw(regions, "about", "regions"))
    regions = regions.with_columns(drawn).with_columns(
        place=pl.col("drawn").rank("ordinal").over("i", "image_id").cast(pl.Int32)
    )
    regions = with_bits(templates["region"], regions.filter(pl.col("place") <= REGIONS_ASKED), "about")
    return [
        question_rows(templates["locate"], found, pl.col("rank") + 3),
        question_rows(templates["region"], regions, 10_000 + pl.col("place")),
    ]


def finding_phrase(place_words: str) -> pl.Expr:
    """ "moderate right pleural effusion in the lower lobe", from the columns severity, side, name, place."""
    place = pl.when(pl.col("place").is_not_null()).then(wording.fill(place_words))
    return pl.concat_str("severity", "side", "name", place, separator=" ", ignore_nulls=True)
