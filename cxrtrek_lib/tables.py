"""The study's tables: their columns and closed values, read and written with checks.

Tables are Polars frames in Parquet. `write_table` is the only writer: it casts, checks and replaces the
file in one step. What the columns of `qa` mean as a conversation stands in schema.py.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
from pyarrow import parquet

from cxrtrek_lib import files

SPLITS = ("train", "validate", "test", "external")
VIEWS = ("PA", "AP", "LATERAL", "UNKNOWN")
STATUSES = ("present", "absent", "uncertain")
SIDES = ("left", "right", "bilateral")
SEVERITIES = ("mild", "moderate", "severe")
IMAGE_ORIGINS = ("real", "simulated", "none")
CERTAINTIES = ("definite", "possible")
EXPOSURES = ("underexposed", "adequate", "overexposed")
KEYS = ["sample_id", "turn"]  # columns that a question, and the answer to it, is known by
CORNERS = ("x1", "y1", "x2", "y2")  # columns of a box

STUDIES = {
    "sample_id": pl.String,
    "source": pl.String,
    "patient_id": pl.String,
    "study_id": pl.String,
    "order": pl.Int32,
    "prior_study_id": pl.String,
    "next_study_id": pl.String,
    "split": pl.String,
    "views": pl.List(pl.String),
    "images": pl.List(pl.String),
    "image_origin": pl.String,
    "exposure": pl.String,
    "quality": pl.List(pl.String),
    "age": pl.Float32,
    "sex": pl.String,
    "findings_text": pl.String,
    "impression_text": pl.String,
}
FINDINGS = {
    "sample_id": pl.String,
    "finding": pl.String,
    "status": pl.String,
    "evidence_tier": pl.Int8,
    "laterality": pl.String,
    "location": pl.String,
    "severity": pl.String,
    "certainty": pl.String,
    "source_column": pl.String,
}
BOXES = {
    "sample_id": pl.String,
    "image_id": pl.Int16,
    "target": pl.String,
    "laterality": pl.String,
    "x1": pl.Float64,
    "y1": pl.Float64,
    "x2": pl.Float64,
    "y2": pl.Float64,
    "reader": pl.String,
}
QA = {
    "sample_id": pl.String,
    "turn": pl.Int16,
    "stage": pl.Int8,
    "task_type": pl.String,
    "qtype": pl.String,
    "image_input_count": pl.Int16,
    "question": pl.String,
    "answer": pl.String,
    "option_list": pl.List(pl.String),
    "answer_list": pl.List(pl.String),
    "bbox_list": pl.List(pl.List(pl.Float64)),
    "image_id": pl.Int16,
    "num_of_images": pl.Int16,
    "target": pl.String,
    "is_joint_sent": pl.Boolean,
    "fact": pl.String,
    "evidence": pl.String,
}
PREDICTIONS = {
    "sample_id": pl.String,
    "turn": pl.Int16,
    "answer": pl.String,
    "prob_yes": pl.Float64,
    "prob_answer": pl.Float64,
}
TABLES = {"studies": STUDIES, "findings": FINDINGS, "boxes": BOXES, "qa": QA, "predictions": PREDICTIONS}

# Columns in which "nothing known" is a legal value; every other column is never null.
NULLABLE = {
    "studies": {
        "prior_study_id", "next_study_id", "exposure", "quality", "age", "sex", "findings_text",
        "impression_text",
    },
    "findings": {"laterality", "location", "severity", "certainty"},
    "boxes": {"laterality"},
    "qa": {
        "option_list", "answer_list", "bbox_list", "image_id", "num_of_images", "target", "is_joint_sent",
    },
    "predictions": {"prob_yes", "prob_answer"},
}  # fmt: skip
# Columns with a closed set of values.
CLOSED = {
    "studies": {"split": SPLITS, "image_origin": IMAGE_ORIGINS, "exposure": EXPOSURES, "sex": ("M", "F")},
    "findings": {
        "status": STATUSES,
        "laterality": SIDES,
        "severity": SEVERITIES,
        "certainty": CERTAINTIES,
    },
    "boxes": {"laterality": SIDES},
    "qa": {},
    "predictions": {},
}


def read_table(name: str, path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """One table as a frame. Raises FileNotFoundError or ValueError, one line, when it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table ({name}); run `dvc repro` to build it")
    try:
        frame = pl.read_parquet(path, columns=columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: not a readable {name} table ({reason}); delete it and run `dvc repro`"
        ) from None
    wanted = TABLES[name] if columns is None else {c: TABLES[name][c] for c in columns}
    wrong = [c for c, dtype in wanted.items() if frame.schema.get(c) != dtype]
    if wrong:
        raise ValueError(
            f"{path}: column {wrong[0]!r} of table {name} is missing or of another type; rebuild it"
        )
    return frame


def write_table(name: str, frame: pl.DataFrame, path: Path) -> None:
    """Cast to the schema, check nulls and closed values, then replace `path` in one step.

    Nothing is left behind, and an older file stays whole, when anything fails. Raises ValueError naming
    the table, the column and the first offending value, or the file that cannot be written.
    """
    write_chunks(name, [frame], path)


def write_chunks(name: str, frames: Iterable[pl.DataFrame], path: Path) -> None:
    """`write_table` for a table that comes in pieces and need not fit into memory; one row group each."""
    with files.whole(path) as temporary:
        empty = pl.DataFrame(schema=TABLES[name]).to_arrow(compat_level=pl.CompatLevel.oldest())
        with parquet.ParquetWriter(temporary, empty.schema, compression="zstd") as writer:
            for frame in frames:
                arrow = conform(name, frame).to_arrow(compat_level=pl.CompatLevel.oldest())
                writer.write_table(arrow.cast(empty.schema))


def read_chunks(name: str, path: Path) -> Iterator[pl.DataFrame]:
    """The row groups of a table, one after the other, in file order."""
    read_table(name, path, columns=[next(iter(TABLES[name]))])
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield conform(name, pl.from_arrow(file.read_row_group(group)))


def conform(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame in the column order and types of its schema. Raises ValueError, one line, where it cannot."""
    schema = TABLES[name]
    missing = [c for c in schema if c not in frame.columns]
    unknown = [c for c in frame.columns if c not in schema]
    if missing or unknown:
        raise ValueError(f"table {name}: missing columns {missing}, unknown columns {unknown}; see tables.py")
    try:
        frame = frame.select(pl.col(c).cast(dtype) for c, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"table {name}: {str(error).splitlines()[0]}; see tables.py for the types") from None
    for column in schema:
        if column not in NULLABLE[name] and frame[column].null_count():
            row = frame[column].is_null().arg_max()
            raise ValueError(
                f"table {name}, row {row}: {column} is empty; only {sorted(NULLABLE[name])} may be"
            )
    for column, values in CLOSED[name].items():
        outside = frame.filter(pl.col(column).is_not_null() & ~pl.col(column).is_in(values))
        if outside.height:
            value = outside[column][0]
            raise ValueError(
                f"table {name}: {column} = {value!r} ({outside.height} rows); allowed: {', '.join(values)}"
            )
    return frame
