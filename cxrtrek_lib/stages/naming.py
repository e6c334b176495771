"""Stage 3: findings as answers: which one lies in a box, and which ones lie in a region of the lung."""

import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import DIAGNOSES, FINDINGS, related
from cxrtrek_lib.stages import wording
from cxrtrek_lib.stages.question_rows import (
    Templates,
    choice_options,
    draw,
    question_rows,
    sentence,
    with_bits,
)
from cxrtrek_lib.stages.wording import Template
from cxrtrek_lib.tables import CORNERS

BY_BOX = ("box", "box_open")  # templates: with options, without
MOST_WRONG = 3  # wrong options beside the finding that lies in a box
# Two boxes mark different places while they share at most this part of the smaller one. An IoU of 0.3 would
# let a small lesion lie unnoticed inside a large one.
SHARED = 0.3
REACH = 0.1  # a finding that is told of another region may share this part of a region, or of itself
# Regions that a finding of the lung or the pleura can be said to lie in. Boxes are rectangles: that of the
# heart, say, holds lung as well.
LUNG_REGIONS = tuple(
    f"{side} {part}"
    for side in ("left", "right")
    for part in (
        "lung", "lung apex", "upper lung zone", "mid lung zone", "lower lung zone", "costophrenic angle",
    )
)  # fmt: skip
# Findings that lie in the lung or the pleura of one side.
IN_LUNG = (
    "pleural effusion", "pneumothorax", "hydropneumothorax", "lung opacity", "airspace opacity",
    "consolidation", "infiltrate", "atelectasis", "ground glass opacity", "lung lesion", "nodule or mass",
    "nodule", "mass", "granuloma", "cavitation", "bulla",
)  # fmt: skip
# (name, other): every finding with itself, its general and its special forms.
RELATED = pl.DataFrame(
    [(name, other) for name in FINDINGS for other in sorted(related([name]))], ["name", "other"], orient="row"
)


def whole_images(boxes: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """(i, image_id) of images on which all that is present is boxed, if only as its general or special form.

    Not where a finding is uncertain, which may lie anywhere. Diagnoses are not seen, so they have no place.
    """
    seen = known.filter(pl.col("status") != "absent", ~pl.col("name").is_in(DIAGNOSES))
    images = boxes.select("i", "image_id").unique()
    boxed = boxes.select("i", "image_id", name="target").unique().join(RELATED, on="name")
    unboxed = images.join(seen.select("i", other="name"), on="i")
    unboxed = unboxed.join(boxed, on=["i", "image_id", "other"], how="anti")
    uncertain = seen.filter(pl.col("status") == "uncertain")
    return images.join(unboxed, on=["i", "image_id"], how="anti").join(uncertain, on="i", how="anti")


def in_boxes(
    found: pl.DataFrame, boxes: pl.DataFrame, known: pl.DataFrame, whole: pl.DataFrame, templates: Templates
) -> list[pl.DataFrame]:
    """Which finding lies in a drawn box of each image and target of `found`: rows for each of BY_BOX.

    Asked with options where findings are known to be absent, openly where the image is whole. A box that
    shares its place with the box of another finding has no one answer.
    """
    others = boxes.filter(pl.col("target").is_in(list(FINDINGS))).select("i", "image_id", "target", *CORNERS)
    pairs = found.join(others, on=["i", "image_id"], suffix="_2")
    crowded = pairs.filter(pl.col("target") != pl.col("target_2"), shared_part() > SHARED)
    clear = found.join(crowded, on=["i", "about", "box"], how="anti")
    wrong = clear.select("i", "key", "about").unique().join(_fair(known), on="i")
    wrong = wrong.with_columns(pl.Series("drawn", draw(wrong, "name", "box/options")))
    wrong = wrong.filter(pl.col("drawn").rank("ordinal").over("i", "about") <= MOST_WRONG)
    clear = (
        clear.join(whole.with_columns(whole=True), on=["i", "image_id"], how="left")
        .join(wrong.select("i", "about").unique().with_columns(fair=True), on=["i", "about"], how="left")
        .with_columns(pl.col("whole", "fair").fill_null(False))
        .filter(pl.col("whole") | pl.col("fair"))
        .sort("i", "about", *CORNERS)
        .with_columns(
            n=pl.len().over("i", "about"),
            place=pl.int_range(pl.len()).over("i", "about"),
            evidence="reader",
            bbox_list=pl.concat_list(CORNERS).reshape((-1, 1, 4)),
            num_of_images="n_images",
            fact=pl.concat_str("target", pl.lit("|box "), "image_id"),
        )
    )
    keys = clear["key"].to_numpy()
    picked = draws.picks(keys, wording.word_keys(clear["about"], "box/which"), clear["n"].to_numpy())
    coin = draws.uniforms(keys, wording.word_keys(clear["about"], "box/format")) < 0.5
    asked = clear.with_columns(pl.Series("coin", coin)).filter(pl.col("place") == pl.Series(picked))
    is_open = pl.col("whole") & (pl.col("coin") | ~pl.col("fair"))
    openly = asked.filter(is_open).with_columns(answer=sentence(pl.col("target")))
    chosen = with_bits(templates["box"], asked.filter(~is_open), "about")
    long = pl.concat([
        chosen.select("i", "about", option="target", right=pl.lit(True)),
        wrong.select("i", "about", option="name", right=pl.lit(False)),
    ])  # fmt: skip
    return [choice_options(chosen, long), with_bits(templates["box_open"], openly, "about")]


def in_regions(
    boxes: pl.DataFrame, found: pl.DataFrame, known: pl.DataFrame, whole: pl.DataFrame, template: Template
) -> pl.DataFrame:
    """Which findings lie in a region of the lung: of a simulated film one region with and one without any.

    A finding of the lung or the pleura lies in the regions of its side that hold the middle of its box. A
    region is asked about when every other box on the film keeps clear of it, and has "none" only when no box
    touches it at all.
    """
    scenes = known.group_by("i").agg(scene=(pl.col("evidence") == "simulated").all()).filter("scene")
    here = boxes.join(whole, on=["i", "image_id"], how="semi").join(scenes, on="i", how="semi")
    regions = here.filter(pl.col("target").is_in(LUNG_REGIONS))
    present = found.select("i", "about", "rank").unique()
    marks = here.filter(pl.col("target").is_in(list(FINDINGS))).join(present, on=["i", "about"], how="left")
    pairs = regions.join(
        marks.select("i", "image_id", "target", "laterality", "rank", *CORNERS),
        on=["i", "image_id"], how="left", suffix="_2",
    )  # fmt: skip
    of_lung = pl.col("target_2").is_in(IN_LUNG)
    same_side = pl.col("laterality_2") == pl.col("target").str.extract(r"^(\w+) ")
    middles = [(pl.col(f"{axis}1_2") + pl.col(f"{axis}2_2")) / 2 for axis in "xy"]
    inside = [m.is_between(f"{axis}1", f"{axis}2") for m, axis in zip(middles, "xy", strict=True)]
    lies = pl.all_horizontal(of_lung, same_side, *inside, pl.col("rank").is_not_null()).fill_null(False)
    asked = (
        pairs.with_columns(lies=lies, shared=shared_part().fill_null(0.0))
        .sort("i", "about", "rank")
        .group_by("i", "key", "about", "image_id", "image", region="target", maintain_order=True)
        .agg(
            pl.col("target_2").filter("lies").unique(maintain_order=True).str.join(", ").alias("findings"),
            apart=(pl.col("lies") | (pl.col("shared") <= REACH)).all(),
            some=pl.col("lies").any(),
            touched=(pl.col("shared") > 0).any(),
        )
        .filter(pl.col("apart"), pl.col("some") | ~pl.col("touched"))
    )
    asked = asked.with_columns(pl.Series("drawn", draw(asked, "about", "regions/findings")))
    asked = asked.filter(pl.col("drawn") == pl.col("drawn").min().over("i", "image_id", "some"))
    some = sentence(wording.fill(template.answers["some"]))
    answer = pl.when("some").then(some).otherwise(pl.lit(template.answers["none"]))
    asked = asked.with_columns(
        answer=answer, evidence=pl.lit("simulated"), fact=pl.lit("composite|findings of a region")
    )
    return question_rows(template, with_bits(template, asked, "about"), 11_000)


def shared_part() -> pl.Expr:
    """Which part of the smaller of two boxes (x1 ..., x1_2 ...) lies in the other; null without both."""
    low = [pl.max_horizontal(f"{axis}1", f"{axis}1_2") for axis in "xy"]
    high = [pl.min_horizontal(f"{axis}2", f"{axis}2_2") for axis in "xy"]
    width, height = ((b - a).clip(lower_bound=0) for a, b in zip(low, high, strict=True))
    areas = [
        (pl.col(f"x2{end}") - pl.col(f"x1{end}")) * (pl.col(f"y2{end}") - pl.col(f"y1{end}"))
        for end in ("", "_2")
    ]
    return pl.when(pl.col("x1_2").is_not_null()).then(width * height / pl.min_horizontal(areas))


def _fair(known: pl.DataFrame) -> pl.DataFrame:
    """(i, name) of findings known to be absent that are no general or special form of a present one."""
    present = known.filter(pl.col("status") == "present").join(RELATED, on="name")
    absent = known.filter(pl.col("status") == "absent", ~pl.col("name").is_in(DIAGNOSES))
    return absent.select("i", "name").join(present.select("i", name="other"), on=["i", "name"], how="anti")
