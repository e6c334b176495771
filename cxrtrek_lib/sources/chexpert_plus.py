"""CheXpert Plus (Stanford): CheXpert's studies with their report texts, and labels of two report sections.

File `df_chexpert_plus_240401.csv`: 223,462 images (train 223,228, valid 234; there is no test), 187,711
studies, 64,725 patients; sections of the report in columns: impression for 99.9 % of images, findings for
26.6 %. Labels: `impression_fixed.json` and `findings_fixed.json` (in the folder or in `chexbert_labels/`),
one JSON object a line per image: path_to_image and CheXpert's 14 labels, 1, 0, -1 or null.
The labels of the impression are kept; those of the findings add what it does not state, and where the two
contradict (1 against 0) the finding is uncertain. "No Finding" of the impression makes the pathologies absent
at tier 2, unless a finding is stated (see credentialed.stated): it stands beside one in 39 % of its images.
Traps: "No Finding" of the findings section is 1 wherever that section is empty (75 % of images) and is not
read. `report_fixed.json` labels history and comparison too and is not read. Rows are images: the text and
labels of a study are those of its first view. `patient_report_date_order` is the order in time. 17 frontal
images have the views LL and RL. Ages are capped at 89; 0 stands for unknown. Studies are those of CheXpert
under the same numbers: never read both. Removed words are "___" there and XXXX here.
Source: Chambon et al. 2024, CheXpert Plus, arXiv 2405.19538; doi 10.57761/fzna-pm76.
Licence: Stanford's research use agreement. Nothing derived from it may be shared or is kept.
"""

import json
from pathlib import Path

import polars as pl

from cxrtrek_lib.sources import common, credentialed, reports
from cxrtrek_lib.sources.chexpert import CHEXPERT

TABLE = "df_chexpert_plus_240401.csv"
KEY = "chexpert_plus"


def read(folder: Path, max_patients: int | None = None) -> common.Annotations:
    """The table as studies (with text), findings and (no) boxes.

    folder        of CheXpert Plus (dataset.folders.chexpert_plus)
    max_patients  only the first N patients in hash order
    Raises FileNotFoundError or ValueError, one line, when a file is missing, damaged or unexpected.
    """
    folder = credentialed.folder_of(KEY, folder)
    raw = common.first_patients(_images(credentialed.file_of(KEY, folder, TABLE)), max_patients)
    studies = (
        raw.sort("sample_id", pl.col("view_name") == "LATERAL", "view")
        .group_by("sample_id", maintain_order=True)
        .agg(
            pl.first("patient_id", "study_id", "age", "sex", "findings_text", "impression_text"),
            pl.col("when").min(),
            pl.col("view_name").alias("views"),
            pl.col("path_to_image").alias("images"),
        )
        .with_columns(source=pl.lit(KEY))
    )
    nought = studies.filter(pl.col("age") == 0).height
    studies, ages = common.known_ages(studies.with_columns(pl.col("age").replace(0.0, None)), KEY)
    first_view = studies.select("sample_id", path_to_image=pl.col("images").list.first())
    labels = [_labels(folder, name, first_view) for name in ("impression", "findings")]
    findings, corrected = credentialed.stated(
        KEY, ("impression", labels[0]), ("findings section", labels[1]), True
    )
    unlabelled = studies.height - labels[0].height
    corrected |= ages | {
        f"{KEY}: age 0, which stands for unknown": nought,
        f"{KEY}: study without labels": unlabelled,
    }
    return common.Annotations(
        common.complete("studies", common.link_history(studies).drop("when", "tied")),
        common.complete("findings", findings),
        common.complete("boxes", pl.DataFrame({"sample_id": []})),
        excluded={},
        unmapped={},
        corrected={reason: n for reason, n in corrected.items() if n},
    )


def _images(path: Path) -> pl.DataFrame:
    """One row per image: ids, view (number in the study), view_name, when, age, sex and the two texts."""
    columns = [
        "path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order", "age",
        "sex", "section_findings", "section_impression",
    ]  # fmt: skip
    raw = credentialed.read_csv(KEY, path, columns)
    parts = pl.col("path_to_image").str.extract_groups(
        r"^(?:train|valid)/(patient\d+)/(study\d+)/view(\d+)_(?:frontal|lateral)\.(?:jpg|png)$"
    )
    raw = raw.with_columns(parts.struct.rename_fields(["patient", "study_id", "view"]).alias("parts"))
    raw = raw.unnest("parts")
    common.reject(
        raw, pl.col("view").is_null(), path, "path_to_image", "train/patientN/studyN/viewN_frontal.jpg"
    )
    common.reject_repeated(raw, ["path_to_image"], path, "each image")
    other = pl.col("deid_patient_id") != pl.col("patient")
    common.reject(raw, other, path, "deid_patient_id", "the patient of path_to_image")
    order = pl.col("patient_report_date_order").cast(pl.Float64, strict=False)
    common.reject(raw, ~(order > 0), path, "patient_report_date_order", "a number from 1 on")
    age = pl.col("age").cast(pl.Float32, strict=False)
    common.reject(raw, pl.col("age").is_not_null() & age.is_null(), path, "age", "years, or nothing")
    return raw.select(
        "path_to_image", "study_id",
        pl.concat_str(pl.lit(f"{KEY}/"), "patient").alias("patient_id"),
        pl.concat_str(pl.lit(f"{KEY}/"), "patient", pl.lit("/"), "study_id").alias("sample_id"),
        pl.col("view").cast(pl.Int32),
        age.alias("age"),
        pl.col("sex").replace_strict({"Male": "M", "Female": "F"}, default=None).alias("sex"),
        reports.cleaned("section_findings").alias("findings_text"),
        reports.cleaned("section_impression").alias("impression_text"),
        when=order,
        view_name=pl.when(pl.col("frontal_lateral") == "Lateral")
        .then(pl.lit("LATERAL"))
        .when(pl.col("ap_pa").is_in(["AP", "PA"]))
        .then("ap_pa")
        .otherwise(pl.lit("UNKNOWN")),
    )  # fmt: skip


def _labels(folder: Path, section: str, images: pl.DataFrame) -> pl.DataFrame:
    """(sample_id, the 14 labels as Float32) from one section, of images (path_to_image, sample_id)."""
    name = f"{section}_fixed.json"
    path = credentialed.file_of(KEY, folder, f"chexbert_labels/{name}", name)
    columns = {"path_to_image", *CHEXPERT}
    try:
        with path.open(encoding="utf-8") as file:
            found = set(json.loads(file.readline()))
        frame = pl.read_ndjson(path, schema=dict.fromkeys(sorted(columns), pl.String))
    except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise credentialed.damaged(KEY, path, error) from None
    if found != columns:
        odd = min(found ^ columns)
        raise ValueError(
            f"{path}, line 1: {'unknown' if odd in found else 'no'} label {odd!r}; "
            f"expected path_to_image and {', '.join(CHEXPERT)}"
        )
    frame = credentialed.checked_labels(frame, path, "path_to_image")
    return frame.join(images, on="path_to_image").select("sample_id", *CHEXPERT)
