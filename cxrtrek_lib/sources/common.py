"""What the readers of annotation tables share: checked reading, history links, hash-ordered subsets."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cxrtrek_lib import draws, findings, packages, tables

REPAIR = "run: pip install --no-deps --force-reinstall -r requirements-data.txt"


class Annotations(NamedTuple):
    """One annotation table, normalised.

    studies, findings, boxes  frames in the schemas of schema.py, any row order
    excluded                  reason -> number of studies left out of `studies`
    unmapped                  label that the vocabulary does not hold -> number of kept studies with it
    """

    studies: pl.DataFrame
    findings: pl.DataFrame
    boxes: pl.DataFrame
    excluded: dict[str, int]
    unmapped: dict[str, int]


def table_path(folder: Path | None, name: str) -> Path:
    """The file `name` in `folder`, or in the installed torchxrayvision when folder is None."""
    path = (packages.data_dir("torchxrayvision") if folder is None else Path(folder)) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing annotation table; {REPAIR}")
    return path


def unzip(path: Path) -> bytes:
    """The whole content of a gzip file. Raises ValueError when it is truncated or damaged.

    The checksum at the end is verified before a single row is used, so half a table is never read as a
    smaller one.
    """
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged or cut off ({error}); {REPAIR}") from None


def read_csv(path: Path, columns: list[str]) -> pl.DataFrame:
    """The named columns of a gzipped CSV file, every one as text, empty cells null.

    Text on purpose: long numeric ids lose digits or change type when a reader guesses their type.
    """
    content = unzip(path)
    header = content[: content.find(b"\n")].decode("utf-8", "replace").strip().split(",")
    missing = [c for c in columns if c not in header]
    if missing:
        raise ValueError(
            f"{path}: no column {missing[0]!r}; the header has {', '.join(header[:8])}, ...; {REPAIR}"
        )
    try:
        return pl.read_csv(content, columns=columns, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{path}: not a readable CSV table ({str(error).splitlines()[0]}); {REPAIR}"
        ) from None


def reject(frame: pl.DataFrame, wrong: pl.Expr, path: Path, column: str, expected: str) -> None:
    """Raise ValueError naming the file's line when `wrong` is true in a row of a freshly read frame."""
    marked = frame.select(wrong.fill_null(True).alias("wrong"))["wrong"]
    if marked.any():
        row = int(marked.arg_max())
        value = frame[column][row]
        raise ValueError(
            f"{path}, line {row + 2}: {column} is {value!r}; expected {expected}; correct the row"
        )


def first_patients(frame: pl.DataFrame, max_patients: int | None) -> pl.DataFrame:
    """Rows of the first max_patients patients by hash of patient_id: a fair subset, not the file's head."""
    if max_patients is None:
        return frame
    patients = frame["patient_id"].unique().to_list()
    kept = sorted(patients, key=lambda patient: draws.key("max_patients", patient))[:max_patients]
    return frame.filter(pl.col("patient_id").is_in(kept))


def link_history(studies: pl.DataFrame) -> pl.DataFrame:
    """Add order, prior_study_id and next_study_id from the sortable column `when` within each patient.

    Two studies of one patient with equal `when` have no known order: neither is the other's prior, and the
    study that follows (or precedes) both is linked to none of them, since which one it was is unknown.
    """
    studies = studies.sort("patient_id", "when", "sample_id")
    tied = pl.len().over("patient_id", "when") > 1
    return studies.with_columns(
        order=pl.int_range(pl.len(), dtype=pl.Int32).over("patient_id"),
        tied=tied,
    ).with_columns(
        prior_study_id=pl.when(~pl.col("tied") & ~pl.col("tied").shift(1).over("patient_id")).then(
            pl.col("sample_id").shift(1).over("patient_id")
        ),
        next_study_id=pl.when(~pl.col("tied") & ~pl.col("tied").shift(-1).over("patient_id")).then(
            pl.col("sample_id").shift(-1).over("patient_id")
        ),
    )


def complete(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame in its schema, columns that the table does not know filled with null (or their default)."""
    defaults = {"image_origin": "none", "split": "external"}
    fill = [
        pl.lit(defaults.get(c), dtype=dtype).alias(c)
        for c, dtype in tables.TABLES[name].items()
        if c not in frame.columns
    ]
    return tables.conform(name, frame.with_columns(fill).select(list(tables.TABLES[name])))


def inverted(groups: dict[str | None, tuple[str, ...]]) -> dict[str, str | None]:
    """label -> canonical name, from canonical name -> labels; a label in two groups is an error of ours."""
    pairs = [(label, name) for name, labels in groups.items() for label in labels]
    assert len(dict(pairs)) == len(pairs), "a label stands in two groups"
    return dict(pairs)


def labelled(frame: pl.DataFrame, mapping: dict[str, str | None]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Add `finding` to rows (sample_id, label); returns the rows with a finding, and the unmapped labels.

    Labels that the mapping holds as None are dropped; labels that it does not hold are counted by study.
    """
    known = pl.DataFrame(
        {"label": list(mapping), "finding": list(mapping.values())},
        schema={"label": pl.String, "finding": pl.String},
    )
    unmapped = frame.join(known, on="label", how="anti").group_by("label").agg(pl.col("sample_id").n_unique())
    counts = dict(sorted(unmapped.rows(), key=lambda pair: (-pair[1], pair[0])))
    return frame.join(known.filter(pl.col("finding").is_not_null()), on="label"), counts


def implied_absent(normal: pl.DataFrame, stated: pl.DataFrame, names: tuple[str, ...], source_column: str):
    """Tier-2 rows: each of `names` absent in each study of `normal`, unless `stated` says something about it.

    normal  frame with sample_id: studies called normal as a whole
    stated  frame with sample_id, finding: explicit statements, which win
    """
    unknown = [name for name in names if name not in findings.FINDINGS]
    assert not unknown, unknown
    return (
        normal.select("sample_id")
        .unique()
        .join(pl.DataFrame({"finding": list(names)}), how="cross")
        .join(stated, on=["sample_id", "finding"], how="anti")
        .with_columns(
            status=pl.lit("absent"),
            evidence_tier=pl.lit(2, dtype=pl.Int8),
            source_column=pl.lit(source_column),
        )
    )
