"""PadChest (San Juan, Spain): findings and locations per study, labelled from reports.

File `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz` of torchxrayvision 1.5.7: 160,861 images,
109,931 studies, 67,625 patients. 39,053 images were labelled by physicians, the others by a network trained
on these (`MethodLabel`); a label is a positive statement (present, tier 1), a missing one says nothing.
A study labelled only "normal" (or "normal" and "unchanged") makes the common findings absent at tier 2. A
sentence labelled normal in an abnormal study denies nothing: 3 % of normal hearts are also cardiomegaly.
Traps: ids must be read as text (guessed types corrupt them: 110,499 studies). Some labels carry a leading
space: 964 studies say "exclude" and 19 more " exclude"; all 983 are left out, as are 79 without labels and
one whose images belong to two patients, which leaves 108,868. `LabelsLocalizationsBySentence` has two
formats: a list per sentence (physicians) and one flat list, in which a location is taken for a finding only
when nothing else can own it. The report text is stemmed Spanish: no answer is made of it. 11 images with
projection EXCLUDE are left out. Same-day studies of a patient have no known order.
Source: Bustos et al. 2020, PadChest, Medical Image Analysis 66, 101797.
Licence: the wheel states none for this table; the data set is BIMCV's, for research. Nothing derived from it
is kept in this repository.
"""

from pathlib import Path

import polars as pl

from cxrtrek_lib.findings import CORE, SIDED
from cxrtrek_lib.sources import common

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
COLUMNS = [
    "ImageID", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM", "Projection",
    "Labels", "LabelsLocalizationsBySentence",
]  # fmt: skip
PROJECTIONS = {
    "PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL", "COSTAL": "UNKNOWN", "UNK": "UNKNOWN",
    "EXCLUDE": None,
}  # fmt: skip

# PadChest's English labels (174 in its paper), after stripping the spaces that stray before some of them.
PADCHEST: dict[str, str | None] = common.inverted({
    # Statements about the study, the technique or the past, not findings of ours.
    None: ("normal", "unchanged", "exclude", "suboptimal study", "chronic changes", ""),
    "pleural effusion": (
        "pleural effusion", "loculated pleural effusion", "loculated fissural effusion",
        "pleural effusion both sides",
    ),
    "pneumothorax": ("pneumothorax",),
    "hydropneumothorax": ("hydropneumothorax",),
    "costophrenic angle blunting": ("costophrenic angle blunting",),
    "pleural thickening": (
        "pleural thickening", "apical pleural thickening", "fissure thickening", "minor fissure thickening",
        "major fissure thickening",
    ),
    "pleural plaque": ("pleural plaques", "calcified pleural plaques", "calcified pleural thickening"),
    "lung opacity": ("increased density",),
    "airspace opacity": ("alveolar pattern",),
    "consolidation": ("consolidation",),
    "infiltrate": ("infiltrates",),
    "pneumonia": ("pneumonia", "atypical pneumonia"),
    "atelectasis": (
        "atelectasis", "laminar atelectasis", "lobar atelectasis", "segmental atelectasis",
        "total atelectasis",
        "round atelectasis", "atelectasis basal",
    ),
    "volume loss": ("volume loss",),
    "edema": ("pulmonary edema",),
    "vascular congestion": (
        "hilar congestion", "vascular redistribution", "central vascular redistribution", "kerley lines",
        "pulmonary venous hypertension",
    ),
    "interstitial opacity": (
        "interstitial pattern", "reticular interstitial pattern", "reticulonodular interstitial pattern",
    ),
    "ground glass opacity": ("ground glass pattern",),
    "nodule": ("nodule", "multiple nodules"),
    "mass": ("pulmonary mass",),
    "granuloma": ("granuloma", "calcified granuloma"),
    "cavitation": ("cavitation",),
    "pulmonary fibrosis": ("pulmonary fibrosis",),
    "scarring": ("fibrotic band",),
    "bronchiectasis": ("bronchiectasis",),
    "prominent bronchovascular markings": ("bronchovascular markings",),
    "emphysema": ("emphysema",),
    "bulla": ("bullas",),
    "copd": ("COPD signs",),
    "hyperinflation": ("hyperinflated lung", "air trapping"),
    "low lung volumes": ("hypoexpansion", "hypoexpansion basal"),
    "flattened diaphragm": ("flattened diaphragm",),
    "hemidiaphragm elevation": ("hemidiaphragm elevation",),
    "diaphragmatic eventration": ("diaphragmatic eventration",),
    "cardiomegaly": ("cardiomegaly",),
    "enlarged cardiomediastinum": ("mediastinal enlargement", "superior mediastinal enlargement"),
    "mediastinal mass": ("mediastinal mass",),
    "mediastinal shift": ("mediastinal shift", "tracheal shift"),
    "hilar enlargement": ("hilar enlargement", "vascular hilar enlargement"),
    "lymphadenopathy": ("adenopathy", "calcified adenopathy", "calcified mediastinal adenopathy"),
    "heart failure": ("heart insufficiency",),
    "pericardial effusion": ("pericardial effusion",),
    "aortic elongation": (
        "aortic elongation", "supra aortic elongation", "descendent aortic elongation",
        "ascendent aortic elongation",
    ),
    "aortic atherosclerosis": ("aortic atheromatosis",),
    "aortic aneurysm": ("aortic aneurysm",),
    "pulmonary artery enlargement": ("pulmonary artery enlargement",),
    "pulmonary hypertension": ("pulmonary hypertension", "pulmonary artery hypertension"),
    "pneumomediastinum": ("pneumomediastinum",),
    "fracture": ("fracture", "humeral fracture"),
    "rib fracture": ("rib fracture", "callus rib fracture"),
    "clavicle fracture": ("clavicle fracture",),
    "vertebral compression": (
        "vertebral compression", "vertebral anterior compression", "vertebral fracture",
    ),
    "degenerative spine changes": ("vertebral degenerative changes", "axial hyperostosis"),
    "scoliosis": ("scoliosis",),
    "kyphosis": ("kyphosis",),
    "osteopenia": ("osteopenia", "osteoporosis"),
    "bone lesion": ("sclerotic bone lesion", "lytic bone lesion", "blastic bone lesion", "bone metastasis"),
    "hiatal hernia": ("hiatal hernia",),
    "subcutaneous emphysema": ("subcutaneous emphysema",),
    "pneumoperitoneum": ("pneumoperitoneo",),
    "goiter": ("goiter",),
    "pacemaker": ("pacemaker", "dual chamber device", "single chamber device", "dai"),
    "central venous catheter": (
        "central venous catheter", "central venous catheter via jugular vein",
        "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
        "reservoir central venous catheter",
    ),
    "endotracheal tube": ("endotracheal tube",),
    "tracheostomy tube": ("tracheostomy tube",),
    "enteric tube": ("NSG tube", "gastrostomy tube"),
    "chest tube": ("chest drain tube",),
    "sternal wires": ("sternotomy",),
    "heart valve prosthesis": (
        "artificial heart valve", "artificial mitral heart valve", "artificial aortic heart valve",
    ),
    "orthopedic hardware": ("osteosynthesis material", "humeral prosthesis"),
    "surgical material": ("suture material",),
    "foreign body": ("metal", "abnormal foreign body"),
    "breast implant": ("mammary prosthesis",),
})  # fmt: skip

# Location words that name a zone or lobe; sides are read apart, other words (vessels, bones) are ignored.
LOCATIONS = {
    "loc upper lobe": "upper lobe", "loc right upper lobe": "upper lobe", "loc left upper lobe": "upper lobe",
    "loc middle lobe": "middle lobe", "loc lingula": "lingula", "loc lower lobe": "lower lobe",
    "loc right lower lobe": "lower lobe", "loc left lower lobe": "lower lobe", "loc basal": "lung base",
    "loc basal bilateral": "lung base", "loc apical": "lung apex", "loc upper lung field": "upper lung zone",
    "loc middle lung field": "mid lung zone", "loc lower lung field": "lower lung zone",
    "loc perihilar": "perihilar region", "loc retrocardiac": "retrocardiac region",
}  # fmt: skip
_TOKEN = r"'([^']*)'"
_SIDE_SUFFIX = r" (both sides?|left side|right side|bilateral)$"


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The table as studies, findings and (no) boxes; about 3 s in full.

    folder        where the table lies; None reads the installed torchxrayvision
    max_patients  only the first N patients in hash order
    Raises FileNotFoundError or ValueError, one line, when the table is missing, damaged or unexpected.
    """
    path = common.table_path(folder, TABLE)
    raw = common.read_csv(path, COLUMNS)
    common.reject(raw, ~pl.col("StudyID").str.contains(r"^[-_\d]+$"), path, "StudyID", "digits, - and _")
    common.reject(raw, ~pl.col("PatientID").str.contains(r"^\d+$"), path, "PatientID", "digits")
    common.reject(
        raw, ~pl.col("StudyDate_DICOM").str.contains(r"^\d{8}$"), path, "StudyDate_DICOM", "YYYYMMDD"
    )
    common.reject(
        raw, ~pl.col("Projection").is_in(list(PROJECTIONS)), path, "Projection", "/".join(PROJECTIONS)
    )
    raw = raw.with_columns(
        pl.concat_str(pl.lit("padchest/"), "PatientID").alias("patient_id"),
        pl.concat_str(pl.lit("padchest/"), "StudyID").alias("sample_id"),
        view=pl.col("Projection").replace_strict(PROJECTIONS),
    )
    raw, excluded = _usable(common.first_patients(raw, max_patients))
    rank = pl.col("view").replace_strict({"PA": 0, "AP": 1, "UNKNOWN": 2, "LATERAL": 3})
    studies = (
        raw.sort("sample_id", rank, "ImageID")
        .group_by("sample_id", maintain_order=True)
        .agg(
            pl.first("patient_id"),
            pl.col("StudyID").first().alias("study_id"),
            pl.col("StudyDate_DICOM").first().alias("when"),
            pl.col("view").alias("views"),
            pl.col("ImageID").alias("images"),
            (pl.col("StudyDate_DICOM").first().str.head(4).cast(pl.Float32)
             - pl.col("PatientBirth").first().cast(pl.Float32, strict=False)).alias("age"),
            pl.col("PatientSex_DICOM").first().replace({"O": None, "nan": None}).alias("sex"),
            pl.first("Labels", "LabelsLocalizationsBySentence"),
        )
    )  # fmt: skip
    findings, unmapped = _findings(studies)
    studies = common.link_history(studies.with_columns(source=pl.lit("padchest")))
    return common.Annotations(
        common.complete("studies", studies.drop("when", "tied", "Labels", "LabelsLocalizationsBySentence")),
        common.complete("findings", findings),
        common.complete("boxes", pl.DataFrame({"sample_id": []})),
        excluded,
        unmapped,
    )


def _usable(raw: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows of usable studies, and reason -> number of studies left out (the first reason that applies)."""
    raw = raw.filter(pl.col("view").is_not_null())
    reasons = {
        "tagged exclude": pl.col("Labels").str.contains("'exclude'", literal=True),
        "tagged ' exclude' (leading space)": pl.col("Labels").str.contains("' exclude'", literal=True),
        "no labels": ~pl.col("Labels").fill_null("").str.starts_with("["),
        "images of two patients": pl.col("patient_id").n_unique().over("sample_id") > 1,
    }
    excluded = {}
    for reason, expression in reasons.items():
        left_out = raw.filter(expression)["sample_id"].unique()
        excluded[f"padchest: {reason}"] = left_out.len()
        raw = raw.filter(~pl.col("sample_id").is_in(left_out.implode()))
    return raw, excluded


def _findings(studies: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Findings rows of the studies, and the labels that the vocabulary does not hold."""
    labels = (
        studies.select("sample_id", pl.col("Labels").str.extract_all(_TOKEN).alias("label"))
        .explode("label", empty_as_null=False)
        .with_columns(pl.col("label").str.strip_chars("' "))
        .unique()
    )
    present, unmapped = common.labelled(labels, PADCHEST)
    attributes = _attributes(_sentences(studies))
    present = (
        present.select("sample_id", "finding")
        .unique()
        .join(attributes, on=["sample_id", "finding"], how="left")
        .with_columns(
            laterality=pl.when(pl.col("finding").is_in(SIDED)).then("laterality"),
            status=pl.lit("present"),
            evidence_tier=pl.lit(1, dtype=pl.Int8),
            source_column=pl.lit("padchest: Labels"),
        )
    )
    stated = present.select("sample_id", "finding")
    only_normal = (
        labels.group_by("sample_id")
        .agg(
            (pl.col("label") == "normal").any().alias("normal"),
            pl.col("label").is_in(["normal", "unchanged"]).all(),
        )
        .filter(pl.col("normal") & pl.col("label"))
    )
    absent = common.implied_absent(only_normal, stated, CORE, "padchest: Labels = normal")
    return pl.concat([present, absent], how="diagonal"), unmapped


def _sentences(studies: pl.DataFrame) -> pl.DataFrame:
    """(sample_id, nested, labels list, places list): one row per sentence of the two formats.

    Nested: a sentence is an inner list. Flat: a label opens a "sentence", the places after it belong to it.
    """
    column = "LabelsLocalizationsBySentence"
    marked = studies.select(
        "sample_id",
        pl.col(column).str.starts_with("[[").alias("nested"),
        pl.col(column).str.split("], [").alias("part"),
    )
    tokens = (
        marked.explode("part", empty_as_null=False)
        .with_columns(token=pl.col("part").str.extract_all(_TOKEN), part=pl.int_range(pl.len()))
        .explode("token", empty_as_null=False)
        .with_columns(pl.col("token").str.strip_chars("' "))
        .filter(pl.col("token") != "")
        .with_columns(place=pl.col("token").str.starts_with("loc "))
        .with_columns(opened=pl.when(pl.col("nested")).then(0).otherwise((~pl.col("place")).cum_sum()))
    )
    return tokens.group_by("sample_id", "nested", "part", "opened", maintain_order=True).agg(
        pl.col("token").filter(~pl.col("place")).unique(maintain_order=True).alias("labels"),
        pl.col("token").filter(pl.col("place")).unique(maintain_order=True).alias("places"),
    )


def _attributes(sentences: pl.DataFrame) -> pl.DataFrame:
    """(sample_id, finding, laterality, location) where one sentence with one label owns the places.

    In the flat format only studies with a single positive label are trusted. Sentences that disagree about
    the side give "bilateral"; sentences that disagree about the zone give none.
    """
    positive = pl.col("labels").list.set_difference(["normal", "unchanged", "exclude"])
    sentences = sentences.with_columns(positive=positive.list.len())
    sentences = sentences.filter(
        pl.col("nested") & (pl.col("positive") == 1) & (pl.col("labels").list.len() == 1)
        | ~pl.col("nested") & (pl.col("positive") == 1) & (pl.col("positive").sum().over("sample_id") == 1)
    ).with_columns(label=pl.col("labels").list.first())
    words = pl.concat_str(pl.col("label"), pl.lit(" "), pl.col("places").list.join(" "))
    both = words.str.contains("bilateral|both side")
    left = words.str.contains(r"\bleft\b|loc lingula")
    right = words.str.contains(r"\bright\b|loc middle lobe")
    zones = pl.col("places").list.eval(pl.element().replace_strict(LOCATIONS, default=None)).list.drop_nulls()
    rows = sentences.with_columns(
        label=pl.col("label").str.replace(_SIDE_SUFFIX, ""),
        side=pl.when(both | (left & right)).then(pl.lit("bilateral")).when(left).then(pl.lit("left"))
        .when(right).then(pl.lit("right")),
        zones=zones.list.unique(),
    )  # fmt: skip
    rows, _ = common.labelled(rows, PADCHEST)
    sides = pl.col("side").drop_nulls().unique()
    return (
        rows.group_by("sample_id", "finding")
        .agg(
            # A mention without a side beside one with a side leaves open whether it is the same lesion.
            pl.when(pl.col("side").is_null().any()).then(None).when(sides.len() == 1).then(sides.first())
            .otherwise(pl.lit("bilateral")).alias("laterality"),
            pl.col("zones").explode().drop_nulls().unique().alias("zones"),
        )
        .with_columns(location=pl.when(pl.col("zones").list.len() == 1).then(pl.col("zones").list.first()))
        .drop("zones")
    )  # fmt: skip
