"""What a study, a finding, a box and a turn are: table schemas, box text, validation, the authors' JSON.

Tables are Polars frames in Parquet. `write_table` is the only writer: it casts, checks and replaces the
file in one step. The Q&A columns carry the field names of the dataset's authors (section 5 of the design).
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl
from pyarrow import parquet

SPLITS = ("train", "validate", "test", "external")
VIEWS = ("PA", "AP", "LATERAL", "UNKNOWN")
STATUSES = ("present", "absent", "uncertain")
SIDES = ("left", "right", "bilateral")
SEVERITIES = ("mild", "moderate", "severe")
IMAGE_ORIGINS = ("real", "simulated", "none")
EXPOSURES = ("underexposed", "adequate", "overexposed")

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
PREDICTIONS = {"sample_id": pl.String, "turn": pl.Int16, "answer": pl.String, "prob_yes": pl.Float64}
TABLES = {"studies": STUDIES, "findings": FINDINGS, "boxes": BOXES, "qa": QA, "predictions": PREDICTIONS}

# Columns in which "nothing known" is a legal value; every other column is never null.
NULLABLE = {
    "studies": {
        "prior_study_id", "next_study_id", "exposure", "age", "sex", "findings_text", "impression_text",
    },
    "findings": {"laterality", "location", "severity"},
    "boxes": {"laterality"},
    "qa": {
        "option_list", "answer_list", "bbox_list", "image_id", "num_of_images", "target", "is_joint_sent",
    },
    "predictions": {"prob_yes"},
}  # fmt: skip
# Columns with a closed set of values.
CLOSED = {
    "studies": {"split": SPLITS, "image_origin": IMAGE_ORIGINS, "exposure": EXPOSURES, "sex": ("M", "F")},
    "findings": {"status": STATUSES, "laterality": SIDES, "severity": SEVERITIES},
    "boxes": {"laterality": SIDES},
    "qa": {},
    "predictions": {},
}

# Stage number -> (title, task types of that stage in the authors' data).
STAGES = {
    1: ("Image validation", ("Quality_Assessment", "View_Information")),
    2: ("Findings identification", ("Findings_Identification",)),
    3: (
        "Attributes and location",
        ("Attributes_Description", "Findings_Detection", "Phrase_Grounding"),
    ),
    4: ("Relationships", ("Relationships_Analysis",)),
    5: ("Comparison with prior", ("Differences_Comparison", "Differences_Comparison[Choice]")),
    6: ("Future trend", ("Future_Trend_Analysis",)),
    7: ("Diagnosis and advice", ("Diagnosis_Advice",)),
    8: ("Report", ("Report_Generation[Impression]", "Report_Generation[Findings]", "Report_Generation[ALL]")),
}
TASK_TYPES = {stage: tasks for stage, (_, tasks) in STAGES.items()}

# qtype -> response format. "multi-choice-N" names the number of options.
FORMATS = {
    "captioning": "open-ended",
    "yes_no": "close-ended",
    "single-choice": "choice",
    "multi-choice": "choice",
    **{f"multi-choice-{n}": "choice" for n in range(2, 11)},
    "detection": "detection",
}

PLACEHOLDER = "<image>"
UNFILLED = r"\{[A-Za-z_][^{}]*\}"
_PAIR = r"\(\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\)"
_BOX = re.compile(_PAIR + r"\s*,\s*" + _PAIR)


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
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        empty = pl.DataFrame(schema=TABLES[name]).to_arrow(compat_level=pl.CompatLevel.oldest())
        with parquet.ParquetWriter(temporary, empty.schema, compression="zstd") as writer:
            for frame in frames:
                arrow = conform(name, frame).to_arrow(compat_level=pl.CompatLevel.oldest())
                writer.write_table(arrow.cast(empty.schema))
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise ValueError(f"{path}: cannot write ({reason}); make the folder writable or free space") from None
    finally:
        with suppress(OSError):  # its folder may not even be one
            temporary.unlink(missing_ok=True)


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
        raise ValueError(f"table {name}: missing columns {missing}, unknown columns {unknown}; see schema.py")
    try:
        frame = frame.select(pl.col(c).cast(dtype) for c, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"table {name}: {str(error).splitlines()[0]}; see schema.py for the types") from None
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


def format_of(qtype: str) -> str:
    """Response format of a qtype: open-ended, close-ended, choice or detection. ValueError when unknown."""
    if qtype not in FORMATS:
        raise ValueError(f"unknown qtype {qtype!r}; known: {', '.join(FORMATS)}")
    return FORMATS[qtype]


def format_boxes(name: str, boxes: list[list[float]]) -> str:
    """Answer text of a detection: the authors' format, percent of the image, two decimals.

    Several boxes of one name follow each other inside one answer.

    >>> format_boxes("heart", [[12, 40.5, 45.1, 88]])
    '<|ref|> heart <|/ref|> <|box|>(12.00, 40.50), (45.10, 88.00)<|/box|>'
    """
    texts = [f"<|box|>({x1:.2f}, {y1:.2f}), ({x2:.2f}, {y2:.2f})<|/box|>" for x1, y1, x2, y2 in boxes]
    return f"<|ref|> {name} <|/ref|> " + " ".join(texts)


def parse_boxes(text: str) -> list[list[float]]:
    """All boxes [x1, y1, x2, y2] that stand in a text, in order; [] when there is none.

    Coordinates are returned as written: a caller that scores must reject inverted boxes itself
    (`is_box`). Two points in brackets make a box, with or without the markers around them.

    >>> parse_boxes("<|ref|> heart <|/ref|> <|box|>(12.00, 40.50), (45.10, 88.00)<|/box|>")
    [[12.0, 40.5, 45.1, 88.0]]
    """
    return [[float(number) for number in match.groups()] for match in _BOX.finditer(text)]


def is_box(box: list[float]) -> bool:
    """Whether four numbers are a box in percent: 0 <= x1 < x2 <= 100 and 0 <= y1 < y2 <= 100."""
    return len(box) == 4 and 0 <= box[0] < box[2] <= 100 and 0 <= box[1] < box[3] <= 100


def cases(studies: pl.DataFrame, qa: pl.DataFrame) -> list[dict]:
    """The conversations: one dict per study that has questions, in the order of `studies`.

    Each holds the columns of `studies` and `turns`, a list of Q&A dicts in turn order (without sample_id).
    """
    turns: dict[str, list[dict]] = {}
    for row in qa.sort("sample_id", "turn").iter_rows(named=True):
        turns.setdefault(row.pop("sample_id"), []).append(row)
    return [
        {**study, "turns": turns[study["sample_id"]]}
        for study in studies.iter_rows(named=True)
        if study["sample_id"] in turns
    ]


def validate(qa: pl.DataFrame, studies: pl.DataFrame) -> list[str]:
    """Violations of the Q&A schema's rules, one line each: the rule, how many rows, the first sample.

    qa, studies  frames in the schemas of this module; [] means that every rule holds
    Turns out of stage order are legal: 39 of the authors' 100 conversations are not ordered.
    """
    study = studies.select("sample_id", "order", "prior_study_id", n_views=pl.col("views").list.len())
    prior_order = studies.select(prior_study_id="sample_id", prior_order="order")
    study = study.join(prior_order, on="prior_study_id", how="left")
    rows = qa.sort("sample_id", "turn").join(study, on="sample_id", how="left", maintain_order="left")
    fmt = pl.col("qtype").replace_strict(FORMATS, default=None)
    rows = rows.with_columns(
        format=fmt, films=pl.col("question").str.count_matches(PLACEHOLDER, literal=True)
    )
    shown = pl.col("films").cum_sum().over("sample_id")
    compares = (pl.col("stage") == 5).any().over("sample_id")
    texts = pl.concat_str("question", "answer", pl.col("option_list").list.join(" "), ignore_nulls=True)
    corners = pl.element()
    inside = corners.list.len() == 4
    inside &= (corners.list.get(0, null_on_oob=True) < corners.list.get(2, null_on_oob=True)).fill_null(False)
    inside &= (corners.list.get(1, null_on_oob=True) < corners.list.get(3, null_on_oob=True)).fill_null(False)
    inside &= (corners.list.min() >= 0) & (corners.list.max() <= 100)
    choice, detection = pl.col("format") == "choice", pl.col("format") == "detection"
    joined = pl.col("answer_list").list.join(", ")
    rules = {
        "sample_id is not in studies": pl.col("n_views").is_null(),
        "(sample_id, turn) is not unique": pl.struct("sample_id", "turn").is_duplicated(),
        "turns do not count 0, 1, 2, ...": pl.col("turn") != pl.int_range(pl.len()).over("sample_id"),
        "stage is outside 1-8": ~pl.col("stage").is_between(1, 8),
        "task_type is unknown at its stage": ~pl.concat_str("stage", pl.lit(" "), "task_type").is_in(
            [f"{stage} {task}" for stage, tasks in TASK_TYPES.items() for task in tasks]
        ),
        "qtype is unknown": pl.col("format").is_null(),
        "question or answer is empty": (pl.col("question") == "") | (pl.col("answer") == ""),
        "a {template} word is not filled": texts.str.contains(UNFILLED),
        "image_input_count is not the number of placeholders so far": pl.col("image_input_count") != shown,
        "placeholders do not match the images": shown.last().over("sample_id")
        != pl.col("n_views") + compares,
        "stage 5 without a prior study": (pl.col("stage") == 5) & pl.col("prior_study_id").is_null(),
        "the prior study is not earlier": pl.col("prior_order") >= pl.col("order"),
        "yes_no answer does not begin with Yes or No": (pl.col("format") == "close-ended")
        & ~pl.col("answer").str.contains(r"^(Yes|No)\b"),
        "choice without two different options": choice
        & (pl.col("option_list").list.n_unique().fill_null(0) < 2),
        "option repeated": choice
        & (pl.col("option_list").list.n_unique() != pl.col("option_list").list.len()),
        "choice without a right option": choice & (pl.col("answer_list").list.len().fill_null(0) < 1),
        "answer_list is not among the options": choice
        & (pl.col("answer_list").list.set_difference("option_list").list.len() > 0),
        "choice answer does not begin with its options": choice & ~pl.col("answer").str.starts_with(joined),
        "detection without a box": detection & (pl.col("bbox_list").list.len().fill_null(0) < 1),
        "box outside 0-100 or inverted": ~pl.col("bbox_list").list.eval(inside).list.all(),
        "image_id is not among the images": detection
        & ~pl.col("image_id").is_between(1, pl.col("num_of_images")).fill_null(False),
        "detection without a target": detection & pl.col("target").is_null(),
    }
    found = []
    for rule, wrong in rules.items():
        marked = rows.filter(wrong.fill_null(False))
        if marked.height:
            found.append(
                f"{rule}: {marked.height} rows, first {marked['sample_id'][0]} turn {marked['turn'][0]}"
            )
    crossing = studies.filter(pl.col("split").n_unique().over("patient_id") > 1)
    if crossing.height:
        found.append(
            f"a patient is in two splits: {crossing.height} studies, first {crossing['sample_id'][0]}"
        )
    return found
