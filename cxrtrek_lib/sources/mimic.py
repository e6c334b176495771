"""MIMIC-CXR-JPG 2.1.0 (Boston): 14 labels per study by two labellers, published split, report texts.

377,110 images, 227,835 studies, 65,379 patients (train 64,586, validate 500, test 293), as images 368,960,
2,991 and 5,159. Views: AP 147,173, PA 96,161, LATERAL 82,853, LL 35,133, none 15,769, others 21.
Files, in one folder: `mimic-cxr-2.0.0-metadata.csv.gz`, `-split.csv.gz`, `-chexpert.csv.gz`, `-negbio.csv.gz`
(the name keeps 2.0.0), gzipped or unpacked; images under `files/p10/p10000032/s50414267/<dicom_id>.jpg`.
Reports (of MIMIC-CXR) are texts `files/p10/p10000032/s50414267.txt`, in a folder or `mimic-cxr-reports.zip`.
Labels are those of the report: 1 present, 0 absent, -1 uncertain, blank not mentioned, which gives no row.
CheXpert's labels are kept; where NegBio says the opposite (1 against 0) the finding is uncertain. What only
NegBio states is not taken. "No Finding" makes the pathologies absent at tier 2 (see credentialed.stated).
A RECOMMENDATION section is told as the end of the impression, or of the findings where these are one.
Traps: StudyTime is a number that lost its leading zeros (0.187 is just after midnight). Study numbers are
not in the order of time. Eight studies have no labels. Words removed from a text are "___" there and XXXX
here. Half-written drafts (WET READ) precede final reports. No age and no sex without MIMIC-IV.
Source: Johnson et al. 2019, Scientific Data 6, 317; MIMIC-CXR-JPG 2.1.0, doi 10.13026/jsn5-t979.
Licence: PhysioNet Credentialed Health Data License 1.5.0. Nothing derived from it may be shared or is kept.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib.sources import common, credentialed, reports
from cxrtrek_lib.sources.chexpert import CHEXPERT

STEM = "mimic-cxr-2.0.0"
REPORTS_ZIP = "mimic-cxr-reports.zip"
# ViewPosition -> view; oblique, decubitus and other positions, and blanks, are UNKNOWN.
VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL"}
_ID = r"^\d{8}$"


def read(folder: Path, max_patients: int | None = None, texts: Path | None = None) -> common.Annotations:
    """The tables as studies (with text and published split), findings and (no) boxes.

    folder        of MIMIC-CXR-JPG (dataset.folders.mimic)
    max_patients  only the first N patients in hash order
    texts         of the report texts (dataset.folders.mimic_reports): a folder that holds `files/` or
                  mimic-cxr-reports.zip, or that zip itself; None looks for them in `folder` and in
                  `folder`/reports, and studies whose text is not found have none
    Boxes and places come from Chest ImaGenome (imagenome.add). Raises FileNotFoundError or ValueError, one
    line, when a file is missing, damaged or unexpected.
    """
    folder = credentialed.folder_of("mimic", folder)
    images = _images(folder)
    labels = {name: _labels(folder, name) for name in ("chexpert", "negbio")}
    strays = labels["chexpert"].join(images, on="sample_id", how="anti").height
    images = common.first_patients(images, max_patients)
    studies = (
        images.sort(
            "sample_id",
            pl.col("view").replace_strict({"PA": 0, "AP": 1, "UNKNOWN": 2, "LATERAL": 3}),
            "dicom_id",
        )
        .group_by("sample_id", maintain_order=True)
        .agg(
            pl.first("patient_id", "split", "subject_id"),
            pl.col("study_id").first().alias("number"),
            pl.col("when").min(),
            pl.col("view").alias("views"),
            pl.concat_str(_folder_of_study(), pl.lit("/"), "dicom_id", pl.lit(".jpg")).alias("images"),
        )
        .with_columns(study_id=pl.concat_str(pl.lit("s"), "number"), source=pl.lit("mimic"))
    )
    ids = studies.select("sample_id")
    chexpert, negbio = (labels[name].join(ids, on="sample_id", how="semi") for name in labels)
    findings, corrected = credentialed.stated("mimic", ("CheXpert", chexpert), ("NegBio", negbio), False)
    studies, unwritten = _with_texts(studies, folder, texts)
    corrected |= unwritten | {"mimic: study without labels": ids.height - chexpert.height}
    return common.Annotations(
        common.complete("studies", common.link_history(studies).drop("when", "tied", "subject_id", "number")),
        common.complete("findings", findings),
        common.complete("boxes", pl.DataFrame({"sample_id": []})),
        excluded={"mimic: labels without an image": strays} if strays else {},
        unmapped={},
        corrected={reason: n for reason, n in corrected.items() if n},
    )


def image_sizes(folder: Path) -> pl.DataFrame:
    """(dicom_id, width, height) in pixels, Float64, of every image. Raises ValueError as `read`."""
    path = _table(credentialed.folder_of("mimic", folder), "metadata")
    raw = credentialed.read_csv("mimic", path, ["dicom_id", "Columns", "Rows"])
    for side in ("Columns", "Rows"):
        pixels = pl.col(side).cast(pl.Int64, strict=False)
        common.reject(raw, ~(pixels > 0), path, side, "a number of pixels")
    return raw.select(
        "dicom_id", width=pl.col("Columns").cast(pl.Float64), height=pl.col("Rows").cast(pl.Float64)
    )


def _table(folder: Path, name: str) -> Path:
    return credentialed.file_of("mimic", folder, f"{STEM}-{name}.csv.gz", f"{STEM}-{name}.csv")


def _images(folder: Path) -> pl.DataFrame:
    """One row per image: dicom_id, subject_id, study_id, patient_id, sample_id, view, when, split."""
    path = _table(folder, "metadata")
    columns = ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"]
    raw = credentialed.read_csv("mimic", path, columns)
    for column in ("subject_id", "study_id", "StudyDate"):
        common.reject(raw, ~pl.col(column).str.contains(_ID), path, column, "eight digits")
    time = pl.col("StudyTime").cast(pl.Float64, strict=False)
    common.reject(raw, ~time.is_between(0, 240_000, closed="left"), path, "StudyTime", "a time as HHMMSS.fff")
    common.reject_repeated(raw, ["dicom_id"], path, "each image")
    two = pl.col("subject_id").n_unique().over("study_id") > 1
    common.reject(raw, two, path, "study_id", "the images of one patient in a study")
    split_path = _table(folder, "split")
    split = credentialed.read_csv("mimic", split_path, ["dicom_id", "subject_id", "split"])
    parts = ("train", "validate", "test")
    common.reject(split, ~pl.col("split").is_in(parts), split_path, "split", ", ".join(parts))
    common.reject_repeated(split, ["dicom_id"], split_path, "each image")
    crossing = pl.col("split").n_unique().over("subject_id") > 1
    common.reject(split, crossing, split_path, "split", "one split for all images of a patient")
    raw = raw.join(split.select("dicom_id", "split"), on="dicom_id", how="left", maintain_order="left")
    common.reject(raw, pl.col("split").is_null(), path, "dicom_id", f"an image that {split_path.name} lists")
    return raw.select(
        "dicom_id", "subject_id", "study_id", "split",
        *_ids(),
        view=pl.col("ViewPosition").replace_strict(VIEWS, default="UNKNOWN"),
        when=pl.col("StudyDate").cast(pl.Float64) * 1e6 + time,
    )  # fmt: skip


def _ids() -> list[pl.Expr]:
    """patient_id and sample_id from the columns subject_id and study_id."""
    patient = pl.concat_str(pl.lit("mimic/p"), "subject_id")
    return [
        patient.alias("patient_id"),
        pl.concat_str(patient, pl.lit("/s"), pl.col("study_id")).alias("sample_id"),
    ]


def _folder_of_study() -> pl.Expr:
    """files/p10/p10000032/s50414267, from the columns subject_id and study_id."""
    subject = pl.col("subject_id")
    return pl.format("files/p{}/p{}/s{}", subject.str.head(2), subject, "study_id")


def _labels(folder: Path, name: str) -> pl.DataFrame:
    """(sample_id, the 14 labels as Float32) of one labeller."""
    path = _table(folder, name)
    unknown = set(credentialed.header_of("mimic", path)) - {"subject_id", "study_id", *CHEXPERT}
    if unknown:
        raise ValueError(f"{path}: unknown label {min(unknown)!r}; known: {', '.join(CHEXPERT)}")
    raw = credentialed.read_csv("mimic", path, ["subject_id", "study_id", *CHEXPERT])
    return credentialed.checked_labels(raw, path, "study_id").select(_ids()[1], *CHEXPERT)


def _with_texts(
    studies: pl.DataFrame, folder: Path, texts: Path | None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The studies with findings_text and impression_text, and reason -> number of studies without text.

    The files are read one by one, and of each only the two sections are kept.
    """
    found: dict[str, list[str | None]] = {"findings_text": [], "impression_text": []}
    lost = 0
    with _texts(folder, texts) as text_of:
        rows = studies.select("subject_id", "number").iter_rows()
        for subject, study in tqdm(rows, total=studies.height, desc="MIMIC reports", unit="report"):
            text = text_of(f"p{subject[:2]}/p{subject}/s{study}.txt")
            lost += text is None
            parts = reports.concluded(reports.sections(text or ""))
            found["findings_text"].append(parts.get("findings"))
            found["impression_text"].append(parts.get("impression"))
    columns = [pl.Series(name, values, dtype=pl.String) for name, values in found.items()]
    studies = studies.with_columns(columns).with_columns(reports.cleaned(name).alias(name) for name in found)
    silent = studies.select(pl.all_horizontal(pl.col(list(found)).is_null()).sum()).item() - lost
    return studies, {
        "mimic: study without a report file": lost,
        "mimic: report without findings and impression": silent,
    }


@contextmanager
def _texts(folder: Path, texts: Path | None) -> Iterator[Callable[[str], str | None]]:
    """A function from p10/p10000032/s50414267.txt to that report's text, None where there is no such file."""
    places = [folder / "reports", folder] if texts is None else [Path(texts)]
    archives = [place if place.suffix == ".zip" else place / REPORTS_ZIP for place in places]
    archive = next((path for path in archives if path.is_file()), None)
    if archive is not None:
        try:
            with zipfile.ZipFile(archive) as opened:
                members = set(opened.namelist())

                def member_of(name: str) -> str | None:
                    name = f"files/{name}"
                    return _decoded(archive, opened.read(name), name) if name in members else None

                yield member_of
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            raise credentialed.damaged("mimic_reports", archive, error) from None
        return
    place = next((place for place in places if (place / "files").is_dir()), None)
    if place is None and texts is not None:
        raise credentialed.missing("mimic_reports", Path(texts) / "files")

    def text_of(name: str) -> str | None:
        path = (place or folder) / "files" / name
        return _decoded(path, path.read_bytes(), name) if path.is_file() else None

    yield text_of


def _decoded(path: Path, content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise credentialed.damaged("mimic_reports", f"{path}, {name}", error) from None
