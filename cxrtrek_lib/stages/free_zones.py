"""Stage 2, normal regions: which lung zones of a simulated film no finding touches.

Only a scene tells where every finding is and that there is no other. The question is about boxes, so that its
answer is exact: a zone is free when its box overlaps the box of no finding or device on the same image.
"""

import polars as pl

from cxrtrek_lib.findings import DIAGNOSES, FINDINGS, REGIONS, ancestors
from cxrtrek_lib.stages import wording
from cxrtrek_lib.stages.question_rows import Evidence, image_words, question_rows, with_bits
from cxrtrek_lib.stages.wording import Template
from cxrtrek_lib.tables import CORNERS

ZONES = [region for region in REGIONS if region.endswith("lung zone")]
IMAGE = ["i", "image_id"]


def free_zones(evidence: Evidence, template: Template, rank: int) -> pl.DataFrame:
    """One question row per simulated film with boxes of lung zones.

    Not asked when something present has no box (a diagnosis apart, and a general finding whose special form
    has one), or when the scene hides a finding, since nobody could say which zone that one leaves free.
    """
    boxes = evidence.boxes.filter(pl.col("reader") == "simulated")
    zones = boxes.filter(pl.col("target").is_in(ZONES))
    marks = boxes.filter(pl.col("target").is_in(list(FINDINGS)))
    zones = zones.join(_unplaced(evidence.known, zones, marks), on=IMAGE, how="anti").sort(*IMAGE, "target")
    corners = marks.select(*IMAGE, *(pl.col(c).alias(f"of_{c}") for c in CORNERS))
    overlap = [pl.col(f"{axis}1") < pl.col(f"of_{axis}2") for axis in "xy"]
    overlap += [pl.col(f"of_{axis}1") < pl.col(f"{axis}2") for axis in "xy"]
    touched = zones.join(corners, on=IMAGE).filter(*overlap).select(*IMAGE, "target", touched=True).unique()
    zones = zones.join(touched, on=[*IMAGE, "target"], how="left", maintain_order="left")
    free = pl.col("target").filter(pl.col("touched").is_null())
    rows = zones.group_by(*IMAGE, maintain_order=True).agg(
        pl.first("key", "n_images"), zones=free.str.join(", "), evidence=pl.first("reader")
    )
    some, none = wording.fill(template.answers["some"]), pl.lit(template.answers["none"])
    rows = rows.with_columns(
        image=image_words("image_id", "n_images"),
        answer=pl.when(pl.col("zones") == "").then(none).otherwise(some),
        fact=pl.lit("composite|free zones"),
    )
    return question_rows(template, with_bits(template, rows, "image_id"), rank)


def _unplaced(known: pl.DataFrame, zones: pl.DataFrame, marks: pl.DataFrame) -> pl.DataFrame:
    """(i, image_id) of images on which something present has no place, or something may be hidden."""
    known = zones.select(IMAGE).unique().join(known.select("i", "name", "status"), on="i")
    hidden = known.filter(pl.col("status") == "uncertain")
    present = known.filter((pl.col("status") == "present") & ~pl.col("name").is_in(list(DIAGNOSES)))
    lines = [(name, other) for name in FINDINGS for other in (name, *ancestors(name))]
    lines = pl.DataFrame(lines, schema=["target", "name"], orient="row")
    placed = marks.join(lines, on="target").select(*IMAGE, "name")
    unplaced = present.join(placed, on=[*IMAGE, "name"], how="anti")
    return pl.concat([hidden.select(IMAGE), unplaced.select(IMAGE)]).unique()
