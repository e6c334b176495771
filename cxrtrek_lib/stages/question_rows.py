"""From evidence to question rows: the mechanics that all stages share, column-wise.

`Evidence` is one chunk of studies with what is known about them; ROW are the columns of a question before
turns are counted; `lay_out` lays out options so that every position is equally often right.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from cxrtrek_lib import draws
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.stages import wording
from cxrtrek_lib.stages.wording import Template, coded

Templates = dict[str, Template]
FINDING = pl.Enum(list(FINDINGS))  # sorts findings in the order of the vocabulary

# Columns of a question row before turns are counted; i is the study's row in Evidence.studies.
ROW = {
    "i": pl.UInt32, "stage": pl.Int8, "rank": pl.Int32, "bits": pl.UInt64, "task_type": pl.String,
    "qtype": pl.String, "question": pl.String, "answer": pl.String, "option_list": pl.List(pl.String),
    "answer_list": pl.List(pl.String), "bbox_list": pl.List(pl.List(pl.Float64)), "image_id": pl.Int16,
    "num_of_images": pl.Int16, "target": pl.String, "fact": pl.String, "evidence": pl.String,
}  # fmt: skip
# What stands before the option in place 0, 1, ...: the authors' four styles.
LABELS = (
    [f"{letter}. " for letter in "ABCDEFGHIJ"],
    [f"{number}. " for number in range(1, 11)],
    [f"{number}). " for number in range(1, 11)],
    [""] * 10,
)


class Evidence(NamedTuple):
    """One chunk of studies and what is known about them.

    studies  i u32, key u64, n_images i16, views list, exposure, quality, prior u32|null, next u32|null (rows
             i of this chunk), findings_text, impression_text, source, image_origin
    known    one row per study and finding, sorted by both: i, key, finding (Enum), name, kind, status
             (present, uncertain, or absent at tier 1 or 2), tier, side, severity, place, certainty, evidence,
             balanced (bool: a yes/no question about it may be asked of this study)
    boxes    i, key, n_images, image_id, target, x1, y1, x2, y2, reader
    """

    studies: pl.DataFrame
    known: pl.DataFrame
    boxes: pl.DataFrame


def question_rows(template: Template, frame: pl.DataFrame, rank: int | pl.Expr) -> pl.DataFrame:
    """Question rows of a frame that has i, bits, answer, fact, evidence and the template's slots.

    A column `options` is told at the end of the question; a column `qtype` replaces the template's.
    """
    frame = wording.asked(template, frame)
    if "options" in frame.columns:
        frame = frame.with_columns(pl.concat_str("question", pl.lit(" Options: "), "options", pl.lit(".")))
    fixed = {"stage": template.stage, "task_type": template.task_type, "rank": rank}
    if "qtype" not in frame.columns:
        fixed["qtype"] = template.qtype
    frame = frame.with_columns(**{k: v if isinstance(v, pl.Expr) else pl.lit(v) for k, v in fixed.items()})
    return frame.select(
        (pl.col(c) if c in frame.columns else pl.lit(None)).cast(dtype).alias(c) for c, dtype in ROW.items()
    )


def with_bits(template: Template, frame: pl.DataFrame, about: str | None = None) -> pl.DataFrame:
    """Add the column `bits`; `about` names the column that tells questions of one template apart."""
    series = None if about is None else frame[about]
    bits = wording.question_bits(template, frame["key"].to_numpy(), series)
    return frame.with_columns(pl.Series("bits", bits, dtype=pl.UInt64))


def draw(frame: pl.DataFrame, about: str, purpose: str) -> np.ndarray:
    """uint64 (N,): a draw for each row from its key and the text in column `about`."""
    return draws.mix(frame["key"].to_numpy(), wording.word_keys(frame[about], purpose))


def answer_words(template: Template, column: str) -> pl.Expr:
    """The template's answer text for the key in a column."""
    return pl.col(column).cast(pl.String).replace_strict(template.answers, return_dtype=pl.String)


def listed(rows: pl.DataFrame) -> pl.DataFrame:
    """(i, key, names, evidence): the names of each study in row order, and the columns that they rest on.

    rows  sorted by i, with key, name and evidence. Quick: an implode and two joins of lists.
    """
    lists = rows.group_by("i", maintain_order=True).agg(pl.first("key"), names="name", evidence="evidence")
    return lists.with_columns(
        pl.col("names").list.join(", "), pl.col("evidence").list.unique(maintain_order=True).list.join("; ")
    )


def lay_out(frame: pl.DataFrame, words: list[str], codes: np.ndarray, right: np.ndarray) -> pl.DataFrame:
    """Add option_list, answer_list, answer and options (their text) to rows that have `bits`.

    words  texts of options
    codes  int (N, K): the options of each row as places in `words`, in any order that does not depend on
           other rows; -1 where it has fewer than K <= 10
    right  bool (N, K): which of them are right
    Order and label style are drawn, so that every position is equally often right.
    """
    bits = frame["bits"].to_numpy()
    drawn = np.stack([draws.mix(bits, f"option order/{place}") for place in range(codes.shape[1])], axis=1)
    drawn[codes < 0] = np.iinfo(np.uint64).max
    most = int((codes >= 0).sum(axis=1).max(initial=0))
    order = np.argsort(drawn, axis=1, kind="stable")[:, :most]
    codes, right = np.take_along_axis(codes, order, axis=1), np.take_along_axis(right, order, axis=1)
    style = draws.picks(bits, "option style", len(LABELS))
    labels = [label for style_labels in LABELS for label in style_labels[:most]]
    number = (style[:, None] * most + np.arange(most)) * len(words) + codes
    offered, chosen = codes >= 0, right & (codes >= 0)
    # Every different text is written once; the rows point to it.
    different, place = wording.numbered(number[offered], len(labels) * len(words))
    texts = pl.DataFrame({
        "label": pl.Series(labels, dtype=pl.String)[different // max(len(words), 1)],
        "word": pl.Series(words, dtype=pl.String)[different % max(len(words), 1)],
    }).select(pl.concat_str("label", "word")).to_series()  # fmt: skip
    lists = {
        "option_list": _lists(texts.gather(place), offered.sum(axis=1)),
        "answer_list": _lists(texts.gather(place[chosen[offered]]), chosen.sum(axis=1)),
    }
    return frame.with_columns(**lists).with_columns(
        answer=pl.col("answer_list").list.join(", "), options=pl.col("option_list").list.join("; ")
    )


def _lists(texts: pl.Series, lengths: np.ndarray) -> pl.Series:
    """The texts cut into one list per row."""
    ends = pa.array(np.append(0, np.cumsum(lengths)), type=pa.int64())
    return pl.from_arrow(
        pa.LargeListArray.from_arrays(ends, texts.to_arrow(compat_level=pl.CompatLevel.newest()))
    )


def choice_options(frame: pl.DataFrame, long: pl.DataFrame) -> pl.DataFrame:
    """`lay_out` for rows (i, about, bits) whose options stand in a long table, in any order.

    long  (i, about, option, right): the options of each row; a row without any is left out
    """
    words, codes = coded(long["option"])
    # By the place of an option's word in the alphabet: the same whatever other rows there are.
    alphabet = np.argsort(sorted(range(len(words)), key=words.__getitem__))
    long = long.select("i", "about", "right", code=pl.Series(alphabet[codes], dtype=pl.Int64))
    rows = frame.select("i", "about").with_row_index("row")
    long = rows.join(long, on=["i", "about"]).sort("row", "code")
    first = np.diff(long["row"].to_numpy().astype(np.int64), prepend=-1) != 0
    row = np.cumsum(first) - 1
    place = np.arange(long.height) - np.flatnonzero(first)[row]
    shape = (int(first.sum()), int(place.max(initial=0)) + 1)
    table, right = np.full(shape, -1), np.zeros(shape, dtype=bool)
    table[row, place], right[row, place] = long["code"].to_numpy(), long["right"].to_numpy()
    return lay_out(frame[long["row"].filter(pl.Series(first))], sorted(words), table, right)


def closed_choice(template: Template, frame: pl.DataFrame, value: str, keys: tuple[str, ...]) -> pl.DataFrame:
    """Choice rows whose options are the template's words for `keys`; the key in column `value` is right."""
    place = {key: number for number, key in enumerate(keys)}
    values = frame[value].cast(pl.String).replace_strict(place, return_dtype=pl.Int64).to_numpy()
    codes = np.broadcast_to(np.arange(len(keys)), (frame.height, len(keys)))
    return lay_out(frame, [template.answers[key] for key in keys], codes, codes == values[:, None])


def image_words(number: str, total: str) -> pl.Expr:
    """Words for an image: "this radiograph", or "image 2" where a study has several."""
    several = pl.concat_str(pl.lit("image "), number)
    return pl.when(pl.col(total) > 1).then(several).otherwise(pl.lit("this radiograph"))


def sentence(expression: pl.Expr) -> pl.Expr:
    """First letter upper case, full stop at the end."""
    return pl.concat_str(expression.str.head(1).str.to_uppercase(), expression.str.slice(1), pl.lit("."))
