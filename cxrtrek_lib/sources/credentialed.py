"""What the readers of credentialed data share: where it lives, checked reading, two sets of labels as one.

The data are not packaged and nothing of them is kept here: a user who has the right to them names their
folders in params.yaml (dataset.folders).
"""

import csv
import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cxrtrek_lib.sources import common
from cxrtrek_lib.sources.chexpert import CHEXPERT, PATHOLOGIES


class Place(NamedTuple):
    """Where a data set is to be had, and what its owner asks for."""

    title: str
    url: str
    terms: str


PHYSIONET = "PhysioNet credentialed account, CITI training, signed Credentialed Health Data License 1.5.0"
# Key in dataset.folders -> the data set that its folder holds.
PLACES = {
    "mimic": Place("MIMIC-CXR-JPG 2.1.0", "https://physionet.org/content/mimic-cxr-jpg/2.1.0/", PHYSIONET),
    "mimic_reports": Place(
        "MIMIC-CXR 2.1.0 report texts", "https://physionet.org/content/mimic-cxr/2.1.0/", PHYSIONET
    ),
    "imagenome": Place(
        "Chest ImaGenome 1.0.0", "https://physionet.org/content/chest-imagenome/1.0.0/", PHYSIONET
    ),
    "chexpert_plus": Place(
        "CheXpert Plus",
        "https://aimi.stanford.edu/datasets/chexpert-plus",
        "Stanford AIMI account and signed research use agreement",
    ),
}


def missing(key: str, path: Path | str) -> FileNotFoundError:
    """The error of a file or folder that is not there: what, where to get it, on which terms, which param."""
    place = PLACES[key]
    return FileNotFoundError(
        f"{path}: not found; {place.title} is at {place.url} ({place.terms}); set dataset.folders.{key}"
    )


def damaged(key: str, path: Path | str, reason: object) -> ValueError:
    """The error of a file that cannot be read as what it should be."""
    told = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
    return ValueError(f"{path}: damaged or cut off ({told}); download it again from {PLACES[key].url}")


def folder_of(key: str, folder: Path | str | None) -> Path:
    """The folder of a data set. Raises FileNotFoundError, one line, when it is not named or not there."""
    if folder is None or not Path(folder).is_dir():
        raise missing(key, "no folder named" if folder is None else folder)
    return Path(folder)


def file_of(key: str, folder: Path, *names: str) -> Path:
    """The first of `names` that is a file in the folder. Raises FileNotFoundError naming the first name."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise missing(key, folder / names[0])


def header_of(key: str, path: Path) -> list[str]:
    """Column names of a CSV file, gzipped or not. Raises ValueError when it is damaged or empty."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
            return next(csv.reader(file))
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise damaged(key, path, error) from None
    except StopIteration:
        raise damaged(key, path, "empty") from None


def read_csv(key: str, path: Path, columns: list[str]) -> pl.DataFrame:
    """The named columns of a CSV file, gzipped or not, every one as text, empty cells null.

    Text on purpose: see common.read_csv. A gzipped file is verified to its end before a row is used. Raises
    ValueError, one line, when the file is damaged or has no such column.
    """
    header = header_of(key, path)
    absent = [column for column in columns if column not in header]
    if absent:
        raise ValueError(
            f"{path}: no column {absent[0]!r}; the header has {', '.join(header[:8])}, ...; "
            f"download it again from {PLACES[key].url}"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path
        return pl.read_csv(content, columns=columns, infer_schema=False)
    except (EOFError, gzip.BadGzipFile, zlib.error, pl.exceptions.PolarsError) as error:
        raise damaged(key, path, error) from None


def checked_labels(frame: pl.DataFrame, path: Path, key: str) -> pl.DataFrame:
    """A freshly read frame of text with its 14 label columns as Float32, each 1, 0, -1 or null.

    key  the column that names a row; no two rows may have the same
    Raises ValueError, one line, naming that row when it is repeated or a label has another value.
    """
    value = {label: pl.col(label).cast(pl.Float32, strict=False) for label in CHEXPERT}
    known = {label: value[label].is_in([-1.0, 0.0, 1.0]).fill_null(False) for label in CHEXPERT}
    wrong = {label: pl.col(label).is_not_null() & ~known[label] for label in CHEXPERT}
    rows = frame.select(key, *CHEXPERT, twice=~pl.col(key).is_first_distinct() | pl.col(key).is_null())
    if rows["twice"].any():
        name = rows.filter("twice")[key][0]
        raise ValueError(f"{path}: {key} {name} stands twice or is empty; correct the row")
    for label, expression in wrong.items():
        strange = rows.filter(expression)
        if strange.height:
            told = f"{key} {strange[key][0]}: {label} is {strange[label][0]!r}"
            raise ValueError(f"{path}, {told}; expected 1.0, 0.0, -1.0 or nothing; correct the row")
    return frame.with_columns(**value)


def stated(
    source: str, first: tuple[str, pl.DataFrame], second: tuple[str, pl.DataFrame], second_adds: bool
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Findings rows (tables.FINDINGS, in part) of two sets of labels, and reason -> number of corrections.

    first, second  name and frame (sample_id, one Float32 column per CheXpert label: 1, 0, -1 or null)
    second_adds    whether what only the second set states is taken; else it only checks the first one
    The first set is kept (1 present and definite, 0 absent, -1 uncertain and possible), but where one set
    says 1 and the other 0 the finding is uncertain, and of no known certainty. "No Finding" = 1 of the first
    set makes the pathologies that nothing is stated about absent at tier 2, unless one is stated present or
    uncertain: labellers do contradict themselves, and then "No Finding" is not taken.
    """
    (name, frame), (other, check) = first, second
    rows = (
        _long(frame)
        .join(
            _long(check).rename({"value": "other"}),
            on=["sample_id", "label"],
            how="full" if second_adds else "left",
            coalesce=True,
        )
        .with_columns(contradicted=(pl.col("value") + pl.col("other") == 1).fill_null(False))
    )
    normal = rows.filter((pl.col("label") == "No Finding") & (pl.col("value") == 1)).select("sample_id")
    rows = rows.filter(pl.col("label") != "No Finding")
    value = pl.coalesce("value", "other")
    rows = rows.with_columns(
        finding=pl.col("label").replace_strict(CHEXPERT, return_dtype=pl.String),
        status=pl.when("contradicted")
        .then(pl.lit("uncertain"))
        .otherwise(
            value.replace_strict({1: "present", 0: "absent", -1: "uncertain"}, return_dtype=pl.String)
        ),
        certainty=pl.when(~pl.col("contradicted")).then(
            value.replace_strict({1: "definite", 0: "definite", -1: "possible"}, return_dtype=pl.String)
        ),
        evidence_tier=pl.lit(1, dtype=pl.Int8),
        source_column=pl.when("contradicted")
        .then(pl.format(f"{source}: {name} against {other} {{}}", "label"))
        .when(pl.col("value").is_null())
        .then(pl.format(f"{source}: {other} {{}}", "label"))
        .otherwise(pl.format(f"{source}: {name} {{}}", "label")),
    )
    n_contradicted = rows["contradicted"].sum()
    abnormal = rows.filter(pl.col("finding").is_in(PATHOLOGIES) & (pl.col("status") != "absent"))
    quiet = normal.join(abnormal, on="sample_id", how="anti")
    implied = common.implied_absent(
        quiet, rows.select("sample_id", "finding"), PATHOLOGIES, f"{source}: {name} No Finding"
    )
    corrected = {
        f"{source}: finding made uncertain, {name} and {other} contradict": n_contradicted,
        f"{source}: No Finding beside a finding, not taken": normal.height - quiet.height,
    }
    kept = rows.drop("label", "value", "other", "contradicted")
    return pl.concat([kept, implied], how="diagonal"), corrected


def _long(frame: pl.DataFrame) -> pl.DataFrame:
    """(sample_id, label, value) of the labels that say something."""
    labels = list(CHEXPERT)
    return frame.unpivot(labels, index="sample_id", variable_name="label").drop_nulls("value")
