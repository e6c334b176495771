"""PadChest (San Juan, Spain): findings and locations per study, labelled from reports.

File `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz` of torchxrayvision 1.5.7: 160,861 images,
109,931 studies, 67,625 patients. 39,053 images were labelled by physicians, the others by a network trained
on these (`MethodLabel`); a label is a positive statement (present, tier 1), a missing one says nothing.
A study labelled only "normal" (or "normal" and "unchanged") makes the common findings absent at tier 2. A
sentence labelled normal in an abnormal study denies nothing: 3 % of normal hearts are also cardiomegaly.
"suboptimal study" is the study's quality. The words stand in `padchest_vocabulary.py`.
"COPD signs" states signs: the diagnosis is uncertain. "increased density" is a lung opacity unless all its
places lie outside the lungs (such labels are left out and counted).
Traps: ids must be read as text (guessed types corrupt them: 110,499 studies). 964 studies say "exclude" and
19 more " exclude"; all 983 are left out, as are 79 without labels and one whose images belong to two
patients, which leaves 108,868. `LabelsLocalizationsBySentence` has two formats: a list per sentence
(physicians) and one flat list, in which the space before a label tells its sentence: a label without one
opens a sentence, labels with one continue it, its places follow (in 83,520 lists no label with a space comes
first or after a place). A side or place is taken for a finding where its sentence has no other label: 37,000
of 63,000 studies with location words; the words of the others stand beside several labels, beside "normal",
or repeat the finding's own organ ("loc cardiac"). "loc right" beside a catheter may be the right atrium. The
report text is stemmed Spanish: no answer is made of it. 11 images with projection EXCLUDE are left out.
Same-day studies of a patient have no known order.
Source: Bustos et al. 2020, PadChest, Medical Image Analysis 66, 101797.
Licence: the wheel states none for this table; the data set is BIMCV's, for research. Nothing derived from it
is kept in this repository.
"""

from pathlib import Path

import polars as pl

from cxrtrek_lib.findings import CORE, SIDED
from cxrtrek_lib.sources import common
from cxrtrek_lib.sources.padchest_vocabulary import (
    DENSITY,
    EXCLUDE,
    INSIDE,
    LABEL_PLACES,
    NECK_VEINS,
    NORMAL,
    OUTSIDE,
    PADCHEST,
    RIGHT_HEART,
    SUBOPTIMAL,
    UNCHANGED,
    WIDER,
    place_table,
)

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
SIGNS = "COPD signs"
SIZE = (160_861, 36)  # rows, columns
STUDIES = 109_931  # before any is left out
COLUMNS = [
    "ImageID", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM", "Projection",
    "Labels", "LabelsLocalizationsBySentence",
]  # fmt: skip
PROJECTIONS = {
    "PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL", "COSTAL": "UNKNOWN", "UNK": "UNKNOWN",
    "EXCLUDE": None,
}  # fmt: skip

_TOKEN = r"'([^']*)'"
_SIDE_SUFFIX = r" (both sides?|left side|right side|bilateral)$"


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The table as studies, findings and (no) boxes; about 3 s in full.

    folder        where the table lies; None reads the installed torchxrayvision
    max_patients  only the first N patients in hash order
    Raises FileNotFoundError or ValueError, one line, when the table is missing, damaged or unexpected.
    """
    path, raw = common.read_table(folder, TABLE, COLUMNS, SIZE)
    common.reject(raw, ~pl.col("StudyID").str.contains(r"^[-_\d]+$"), path, "StudyID", "digits, - and _")
    common.reject(raw, ~pl.col("PatientID").str.contains(r"^\d+$"), path, "PatientID", "digits")
    common.reject(
        raw, ~pl.col("StudyDate_DICOM").str.contains(r"^\d{8}$"), path, "StudyDate_DICOM", "YYYYMMDD"
    )
    common.reject(
        raw, ~pl.col("Projection").is_in(list(PROJECTIONS)), path, "Projection", "/".join(PROJECTIONS)
    )
    year = pl.col("PatientBirth").fill_null("0").str.contains(r"^\d+(\.0)?$")
    common.reject(raw, ~year, path, "PatientBirth", "a year or nothing")
    common.reject_repeated(raw, ["ImageID"], path, "each image")
    common.reject_disagreeing(
        raw, "StudyID", ["StudyDate_DICOM", "Labels", "LabelsLocalizationsBySentence"], path
    )
    if folder is None:
        common.same_version(path, "studies", raw["StudyID"].n_unique(), STUDIES)
    raw = raw.with_columns(
        pl.concat_str(pl.lit("padchest/"), "PatientID").alias("patient_id"),
        pl.concat_str(pl.lit("padchest/"), "StudyID").alias("sample_id"),
        view=pl.col("Projection").replace_strict(PROJECTIONS),
        several=pl.col("PatientID").n_unique().over("StudyID") > 1,
    )
    raw, excluded = _usable(common.first_patients(raw, max_patients))
    used = raw.drop_nulls("view")
    unused, raw = raw.height - used.height, used
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
    findings, unmapped, left_out = _findings(studies)
    studies, corrected = common.known_ages(studies, "padchest")
    corrected |= left_out
    if unused:
        corrected["padchest: image with projection EXCLUDE left out"] = unused
    suboptimal = pl.col("Labels").str.contains(f"' ?{SUBOPTIMAL}'")
    studies = studies.with_columns(
        source=pl.lit("padchest"), quality=pl.when(suboptimal).then(pl.lit(["suboptimal"]))
    )
    studies = common.link_history(studies)
    return common.Annotations(
        common.complete("studies", studies.drop("when", "tied", "Labels", "LabelsLocalizationsBySentence")),
        common.complete("findings", findings),
        common.complete("boxes", pl.DataFrame({"sample_id": []})),
        excluded,
        unmapped,
        corrected,
    )


def _usable(raw: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows of usable studies, and reason -> number of studies left out (the first reason that applies)."""
    reasons = {
        "no image with a known use": pl.col("view").is_null().all().over("sample_id"),
        "tagged exclude": pl.col("Labels").str.contains("'exclude'", literal=True),
        "tagged ' exclude' (leading space)": pl.col("Labels").str.contains("' exclude'", literal=True),
        "no labels": ~pl.col("Labels").fill_null("").str.starts_with("["),
        "images of two patients": pl.col("several"),
    }
    excluded = {}
    for reason, expression in reasons.items():
        left_out = raw.filter(expression)["sample_id"].unique()
        excluded[f"padchest: {reason}"] = left_out.len()
        raw = raw.filter(~pl.col("sample_id").is_in(left_out.implode()))
    return raw, excluded


def _findings(studies: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int], dict[str, int]]:
    """Findings rows of the studies, the labels that the vocabulary does not hold, and labels left out."""
    labels = (
        studies.select("sample_id", pl.col("Labels").str.extract_all(_TOKEN).alias("label"))
        .explode("label", empty_as_null=False)
        .with_columns(pl.col("label").str.strip_chars("' "))
        .unique(maintain_order=True)
    )
    sentences = _sentences(studies)
    elsewhere = _outside_the_lungs(sentences)
    stated, unmapped = common.labelled(labels, PADCHEST)
    stated = stated.join(elsewhere, on=["sample_id", "label"], how="anti")
    attributes = _attributes(sentences)
    present = (
        stated.group_by("sample_id", "finding", maintain_order=True)
        .agg(pl.col("label").sort().str.join(", "))
        .join(attributes, on=["sample_id", "finding"], how="left")
        .with_columns(
            laterality=pl.when(pl.col("finding").is_in(SIDED)).then("laterality"),
            # "COPD signs" are signs of a diagnosis that the label does not make.
            status=pl.when(pl.col("label") == SIGNS).then(pl.lit("uncertain")).otherwise(pl.lit("present")),
            evidence_tier=pl.lit(1, dtype=pl.Int8),
            source_column=pl.format("padchest: Labels = {}", "label"),
        )
        .drop("label")
    )
    only_normal = (
        labels.group_by("sample_id")
        .agg(
            (pl.col("label") == NORMAL).any().alias("normal"),
            pl.col("label").is_in([NORMAL, UNCHANGED]).all(),
        )
        .filter(pl.col("normal") & pl.col("label"))
    )
    named = present.select("sample_id", "finding")
    absent = common.implied_absent(only_normal, named, CORE, "padchest: Labels = normal")
    reason = f"padchest: {DENSITY} of bone or soft tissue left out"
    left_out = {reason: elsewhere.height} if elsewhere.height else {}
    return pl.concat([present, absent], how="diagonal"), unmapped, left_out


def _outside_the_lungs(sentences: pl.DataFrame) -> pl.DataFrame:
    """(sample_id, label) of studies whose every increased density is placed, and never in or at a lung."""
    words = pl.col("words")
    away = (words.list.set_intersection(list(OUTSIDE)).list.len() > 0) & (
        words.list.set_intersection(list(INSIDE)).list.len() == 0
    )
    named = sentences.filter(pl.col("labels").list.contains(DENSITY))
    return (
        named.group_by("sample_id", maintain_order=True)
        .agg(away=away.all())
        .filter("away")
        .select("sample_id", label=pl.lit(DENSITY))
    )


def _sentences(studies: pl.DataFrame) -> pl.DataFrame:
    """(sample_id, labels list, words list): labels and location words of one sentence a row.

    In the format of the physicians a sentence is an inner list. In the flat format, a label without a leading
    space opens a sentence; further labels of that sentence, which have the space, and its places follow.
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
        .drop_nulls("token")
        .with_columns(
            place=pl.col("token").str.starts_with("'loc "),
            opens=~pl.col("nested") & ~pl.col("token").str.contains("^'(loc | )"),
        )
        .with_columns(pl.col("token").str.strip_chars("' "), opened=pl.col("opens").cum_sum())
    )
    return tokens.group_by("sample_id", "part", "opened", maintain_order=True).agg(
        pl.col("token").filter(~pl.col("place")).unique(maintain_order=True).alias("labels"),
        pl.col("token").filter(pl.col("place")).unique(maintain_order=True).alias("words"),
    )


def _attributes(sentences: pl.DataFrame) -> pl.DataFrame:
    """(sample_id, finding, laterality, location) where one sentence with one label owns the words.

    A label that names a side or a place itself gives it in any sentence. Sentences that disagree about the
    side give "bilateral"; one that names the finding without a side leaves open whether it speaks of the same
    lesion, and there is no side. Nor is there a place when sentences disagree about it, or when one names
    a place that its other labels may own.
    """
    others = pl.col("labels").list.set_difference([UNCHANGED])
    mentions = (
        sentences.with_columns(owned=others.list.len() == 1)
        .explode("labels", empty_as_null=False)
        .filter(~pl.col("labels").is_in([NORMAL, UNCHANGED, EXCLUDE, ""]))
        .with_columns(label=pl.col("labels").str.replace(_SIDE_SUFFIX, ""))
    )
    mentions, _ = common.labelled(mentions, PADCHEST)
    words = pl.when("owned").then(pl.col("words").list.join(" ")).otherwise(pl.lit(""))
    text = pl.concat_str("labels", pl.lit(" "), words)
    left, right = text.str.contains(r"\bleft\b|loc lingula"), text.str.contains(r"\bright\b|loc middle lobe")
    both = text.str.contains("bilateral|both side") | (left & right)
    side = (
        pl.when(both)
        .then(pl.lit("bilateral"))
        .when(left)
        .then(pl.lit("left"))
        .when(right)
        .then(pl.lit("right"))
    )
    chamber = pl.col("label").is_in(RIGHT_HEART) & (right | both) | pl.col("label").is_in(NECK_VEINS) & both
    sides = pl.col("side").drop_nulls().unique()
    keys = ["sample_id", "finding"]
    return (
        mentions.with_columns(side=pl.when(~chamber).then(side))
        .group_by(keys, maintain_order=True)
        .agg(
            laterality=pl.when(pl.col("side").is_null().any()).then(None).when(sides.len() == 1)
            .then(sides.first()).otherwise(pl.lit("bilateral"))
        )
        .join(_locations(mentions), on=keys, how="left")
    )  # fmt: skip


def _locations(mentions: pl.DataFrame) -> pl.DataFrame:
    """(sample_id, finding, location) from mentions (sample_id, finding, label, owned, words)."""
    keys = ["sample_id", "finding"]
    mentions = mentions.with_columns(named=pl.col("label").replace_strict(LABEL_PLACES, default=None))
    named = mentions.drop_nulls("named").select(*keys, place="named")
    placed = (
        mentions.select(*keys, "owned", "named", word="words")
        .explode("word", empty_as_null=False)
        .join(place_table(), on=["finding", "word"])
    )
    open_ = placed.filter(~pl.col("owned") & pl.col("named").is_null())
    places = pl.concat([named, placed.filter("owned").select(*keys, "place")]).unique()
    precise = [(wide, narrow) for wide, names in WIDER.items() for narrow in names]
    wider = places.join(pl.DataFrame(precise, schema=["place", "narrow"], orient="row"), on="place").join(
        places, left_on=[*keys, "narrow"], right_on=[*keys, "place"]
    )
    return (
        places.join(wider, on=[*keys, "place"], how="anti")
        .join(open_, on=keys, how="anti")
        .group_by(keys)
        .agg("place")
        .filter(pl.col("place").list.len() == 1)
        .select(*keys, location=pl.col("place").list.first())
    )
