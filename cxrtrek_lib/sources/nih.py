"""NIH ChestX-ray14: text-mined labels, 984 boxes, and 4,376 images adjudicated by radiologists.

Files of torchxrayvision 1.5.7: `Data_Entry_2017_v2020.csv.gz` (112,120 images, 30,805 patients; an image is a
study here), `BBox_List_2017.csv.gz` (984 boxes on 880 images), `google2019_nih-chest-xray-labels.csv.gz`
(4,376 images, four findings each YES or NO by panel).
A text-mined label is present at tier 1; a missing one is weak and gives no row (tier 3), "No Finding" too: it
only means that none of fourteen words was found. The adjudicated four are present or absent at tier 1, and
where they say absent, a text-mined label of the same or a more special kind (nodule under "nodule or mass")
is dropped.
Traps: boxes are in pixels of the released 1024 x 1024 PNGs, not of the original size in the table; the box
list writes Infiltrate, the labels Infiltration; follow-up numbers order a patient's films but are no dates.
RSNA and SIIM images come from this set: never train on one and test on another.
Source: Wang et al. 2017, ChestX-ray8, CVPR; Majkowska et al. 2020, Radiology 294(2), 421-431.
Licence: the wheel states none for these tables; the NIH data are free to use with acknowledgement. Nothing
derived from them is kept in this repository.
"""

from pathlib import Path

import polars as pl

from cxrtrek_lib.findings import FINDINGS, ancestors
from cxrtrek_lib.sources import common

ENTRIES = "Data_Entry_2017_v2020.csv.gz"
BOX_LIST = "BBox_List_2017.csv.gz"
ADJUDICATED = "google2019_nih-chest-xray-labels.csv.gz"
ENTRIES_SIZE, BOX_SIZE, ADJUDICATED_SIZE = (112_120, 11), (984, 9), (4_376, 16)  # rows, columns
# NIH ChestX-ray14: fourteen text-mined labels and the box list's spellings.
NIH: dict[str, str | None] = {
    "No Finding": None,
    "Infiltration": "infiltrate",
    "Infiltrate": "infiltrate",
    "Effusion": "pleural effusion",
    "Atelectasis": "atelectasis",
    "Nodule": "nodule",
    "Mass": "mass",
    "Pneumothorax": "pneumothorax",
    "Consolidation": "consolidation",
    "Pleural_Thickening": "pleural thickening",
    "Cardiomegaly": "cardiomegaly",
    "Emphysema": "emphysema",
    "Edema": "edema",
    "Fibrosis": "pulmonary fibrosis",
    "Pneumonia": "pneumonia",
    "Hernia": "hernia",
}
# The four findings that radiologists adjudicated (Majkowska et al. 2020).
NIH_ADJUDICATED = {
    "Fracture": "fracture",
    "Pneumothorax": "pneumothorax",
    "Airspace opacity": "airspace opacity",
    "Nodule or mass": "nodule or mass",
}

PNG_PX = 1024  # side of the released images, to which the boxes refer


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The three tables as studies, findings and boxes; about 1 s in full.

    folder        where the tables lie; None reads the installed torchxrayvision
    max_patients  only the first N patients in hash order
    Raises FileNotFoundError or ValueError, one line, when a table is missing, damaged or unexpected.
    """
    raw = _rows(folder)
    images = raw["Image Index"].implode()
    raw = raw.with_columns(
        _sample_id(),
        _patient_id(),
        study_id=pl.col("Image Index").str.strip_suffix(".png"),
        when=pl.col("Follow-up #").cast(pl.Int32),
    )
    raw = common.first_patients(raw, max_patients)
    studies = common.link_history(raw).select(
        "sample_id", "patient_id", "study_id", "order", "prior_study_id", "next_study_id",
        pl.lit("nih").alias("source"),
        pl.concat_list("View Position").alias("views"),
        pl.concat_list("Image Index").alias("images"),
        pl.col("Patient Age").cast(pl.Float32).alias("age"),
        pl.col("Patient Gender").replace_strict({"M": "M", "F": "F"}, default=None).alias("sex"),
    )  # fmt: skip
    studies, corrected = common.known_ages(studies, "nih")
    kept = studies.select("sample_id")
    mined, _ = common.labelled(
        raw.select("sample_id", pl.col("Finding Labels").str.split("|").alias("label")).explode("label"), NIH
    )
    mined = mined.select(
        "sample_id", "finding", status=pl.lit("present"),
        source_column=pl.format("nih: Finding Labels = {}", "label"),
    )  # fmt: skip
    adjudicated = _adjudicated(folder, images).join(kept, on="sample_id", how="semi")
    boxes = _boxes(folder, images).join(kept, on="sample_id", how="semi")
    drawn = boxes.select(
        "sample_id", finding="target", status=pl.lit("present"), source_column=pl.lit("nih: BBox_List_2017")
    ).unique()
    stated = _agreeing(pl.concat([mined, drawn]), adjudicated)
    if refuted := mined.height + drawn.height - stated.height:
        corrected["nih: label that the panel refutes left out"] = refuted
    findings = pl.concat([adjudicated, stated]).unique(
        ["sample_id", "finding"], keep="first", maintain_order=True
    )
    return common.Annotations(
        common.complete("studies", studies),
        common.complete("findings", findings.with_columns(evidence_tier=pl.lit(1, dtype=pl.Int8))),
        common.complete("boxes", boxes),
        excluded={},
        unmapped={},
        corrected=corrected,
    )


def _patient_id() -> pl.Expr:
    return pl.concat_str(pl.lit("nih/"), pl.col("Image Index").str.head(8)).alias("patient_id")


def _sample_id() -> pl.Expr:
    return pl.concat_str(pl.lit("nih/"), pl.col("Image Index").str.strip_suffix(".png")).alias("sample_id")


def _adjudicated(folder: Path | None, images: pl.Series) -> pl.DataFrame:
    """(sample_id, finding, status, source_column): four rows per adjudicated image."""
    path, raw = common.read_table(folder, ADJUDICATED, ["Image Index", *NIH_ADJUDICATED], ADJUDICATED_SIZE)
    common.reject(raw, ~pl.col("Image Index").is_in(images), path, "Image Index", f"an image of {ENTRIES}")
    common.reject_repeated(raw, ["Image Index"], path, "each image")
    for label in NIH_ADJUDICATED:
        common.reject(raw, ~pl.col(label).is_in(["YES", "NO"]), path, label, "YES or NO")
    rows = raw.with_columns(_sample_id()).unpivot(
        list(NIH_ADJUDICATED), index="sample_id", variable_name="label"
    )
    return rows.select(
        "sample_id",
        finding=pl.col("label").replace_strict(NIH_ADJUDICATED),
        status=pl.col("value").replace_strict({"YES": "present", "NO": "absent"}),
        source_column=pl.concat_str(pl.lit("nih: google2019 "), "label"),
    )


def films(folder: Path | None = None) -> pl.DataFrame:
    """Every film as the table has it: image, patient_id, view (PA or AP), labels (list, as mined).

    folder and errors as in `read`, which drops "No Finding" (it makes no finding absent); here it is kept.
    """
    return _rows(folder).select(
        _patient_id(),
        image="Image Index",
        view="View Position",
        labels=pl.col("Finding Labels").str.split("|"),
    )


def _rows(folder: Path | None) -> pl.DataFrame:
    """The checked rows of ENTRIES as text."""
    path, raw = common.read_table(
        folder,
        ENTRIES,
        ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
         "View Position"],
        ENTRIES_SIZE,
    )  # fmt: skip
    common.reject(
        raw,
        ~pl.col("Image Index").str.contains(r"^\d{8}_\d{3}\.png$"),
        path,
        "Image Index",
        "NNNNNNNN_NNN.png",
    )
    common.reject_repeated(raw, ["Image Index"], path, "each image")
    owner = pl.col("Image Index").str.head(8).cast(pl.Int64) == pl.col("Patient ID").cast(
        pl.Int64, strict=False
    )
    common.reject(raw, ~owner, path, "Patient ID", "the patient of the image's name")
    common.reject(raw, ~pl.col("Patient Age").str.contains(r"^-?\d+$"), path, "Patient Age", "a whole number")
    common.reject(raw, ~pl.col("Follow-up #").str.contains(r"^\d+$"), path, "Follow-up #", "a whole number")
    common.reject(raw, ~pl.col("View Position").is_in(["PA", "AP"]), path, "View Position", "PA or AP")
    labels = (
        pl.col("Finding Labels").str.split("|").list.eval(pl.element().is_in(list(NIH)).all()).list.first()
    )
    common.reject(raw, ~labels, path, "Finding Labels", "labels of ChestX-ray14 separated by |")
    return raw


def _agreeing(stated: pl.DataFrame, adjudicated: pl.DataFrame) -> pl.DataFrame:
    """Rows of `stated` that no adjudicated absence, of the finding or of a more general one, contradicts."""
    pairs = [(name, wider) for name in FINDINGS for wider in (name, *ancestors(name))]
    wider = pl.DataFrame(pairs, schema=["finding", "wider"], orient="row")
    absent = adjudicated.filter(pl.col("status") == "absent").select("sample_id", wider="finding")
    refuted = (
        stated.select("sample_id", "finding")
        .join(wider, on="finding")
        .join(absent, on=["sample_id", "wider"])
    )
    return stated.join(refuted, on=["sample_id", "finding"], how="anti")


def _boxes(folder: Path | None, images: pl.Series) -> pl.DataFrame:
    """Boxes in percent of the image; the reader is not named in the table."""
    columns = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]
    path, raw = common.read_table(folder, BOX_LIST, columns, BOX_SIZE)
    common.reject(raw, ~pl.col("Image Index").is_in(images), path, "Image Index", f"an image of {ENTRIES}")
    common.reject_repeated(raw, columns, path, "each box")
    common.reject(
        raw, ~pl.col("Finding Label").is_in(list(NIH)), path, "Finding Label", "a ChestX-ray14 label"
    )
    x, y, w, h = (pl.col(c).cast(pl.Float64, strict=False) * (100 / PNG_PX) for c in columns[2:])
    for start, length, column in ((x, w, "Bbox [x"), (y, h, "y")):
        inside = (start >= 0) & (length > 0) & (start + length <= 100)
        common.reject(raw, ~inside.fill_null(False), path, column, f"a box inside the {PNG_PX} px image")
    return raw.select(
        _sample_id(),
        pl.lit(1, dtype=pl.Int16).alias("image_id"),
        pl.col("Finding Label").replace_strict(NIH).alias("target"),
        x1=x.round(2),
        y1=y.round(2),
        x2=(x + w).round(2),
        y2=(y + h).round(2),
        reader=pl.lit("nih: radiologist"),
    )
