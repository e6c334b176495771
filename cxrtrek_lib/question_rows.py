"""From evidence to question rows: the mechanics that all stages share, column-wise.

`Evidence` is one chunk of studies with what is known about them; ROW are the columns of a question before
turns are counted; `choice_options` lays out options so that every position is equally often right.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from cxrtrek_lib import draws, wording
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.wording import Template

Templates = dict[str, Template]
FINDING = pl.Enum(list(FINDINGS))  # sorts findings in the order of the vocabulary

# Columns of a question row before turns are counted; i is the study's row in Evidence.studies.
ROW = {
    "i": pl.UInt32, "stage": pl.Int8, "rank": pl.Int32, "bits": pl.UInt64, "task_type": pl.String,
    "qtype": pl.String, "question": pl.String, "answer": pl.String, "option_list": pl.List(pl.String),
    "answer_list": pl.List(pl.String), "bbox_list": pl.List(pl.List(pl.Float64)), "image_id": pl.Int16,
    "num_of_images": pl.Int16, "target": pl.String, "fact": pl.String, "evidence": pl.String,
}  # fmt: skip


class Evidence(NamedTuple):
    """One chunk of studies and what is known about them.

    studies  i u32, key u64, n_images i16, views list, exposure, quality, prior u32|null, next u32|null (rows i of this
             chunk), findings_text, impression_text, source
    known    one row per study and finding: i, key, finding (Enum), name, kind, status (present, uncertain, or
             absent at tier 1 or 2), tier, side, severity, place, certainty, evidence, balanced (bool: a yes/no
             question about it may be asked of this study)
    boxes    i, key, n_images, image_id, target, x1, y1, x2, y2, reader
    """

    studies: pl.DataFrame
    known: pl.DataFrame
    boxes: pl.DataFrame


def question_rows(template: Template, frame: pl.DataFrame, rank: int | pl.Expr) -> pl.DataFrame:
    """Question rows of a frame that has i, bits, answer, fact, evidence and the template's slots."""
    frame = wording.asked(template, frame)
    if "options" in frame.columns:
        frame = frame.with_columns(pl.concat_str("question", pl.lit(" Options: "), "options", pl.lit(".")))
    fixed = {"stage": template.stage, "task_type": template.task_type, "qtype": template.qtype, "rank": rank}
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


def choice_options(frame: pl.DataFrame, long: pl.DataFrame) -> pl.DataFrame:
    """Add option_list, answer_list, answer and options (their text) to rows (i, about, bits).

    long  (i, about, option, right): the options of each row. Their order and label style are drawn, so that
          every position is equally often right. Styles are the authors': "A. x", "1. x", "1). x", "x".
    """
    long = long.join(frame.select("i", "about", "bits"), on=["i", "about"])
    drawn = draws.mix(long["bits"].to_numpy(), wording.word_keys(long["option"], "option"))
    style = draws.picks(long["bits"].to_numpy(), "option style", 4)
    long = (
        long.with_columns(pl.Series("drawn", drawn), pl.Series("style", style))
        .sort("i", "about", "drawn")
        .with_columns(n=pl.int_range(1, pl.len() + 1).over("i", "about"))
    )
    letter = pl.Series(list("ABCDEFGH")).gather(long["n"] - 1)
    number = pl.col("n").cast(pl.String)
    long = long.with_columns(letter.alias("letter")).with_columns(
        text=pl.when(pl.col("style") == 0).then(pl.concat_str("letter", pl.lit(". "), "option"))
        .when(pl.col("style") == 1).then(pl.concat_str(number, pl.lit(". "), "option"))
        .when(pl.col("style") == 2).then(pl.concat_str(number, pl.lit("). "), "option"))
        .otherwise("option")
    )  # fmt: skip
    lists = long.group_by("i", "about", maintain_order=True).agg(
        option_list=pl.col("text"), answer_list=pl.col("text").filter("right")
    )
    return frame.join(lists, on=["i", "about"]).with_columns(
        answer=pl.col("answer_list").list.join(", "), options=pl.col("option_list").list.join("; ")
    )


def closed_choice(template: Template, frame: pl.DataFrame, value: str, keys: tuple[str, ...]) -> pl.DataFrame:
    """Choice rows whose options are the template's words for `keys`; the key in column `value` is right."""
    words = pl.DataFrame({"option_key": keys, "option": [template.answers[key] for key in keys]})
    long = frame.select("i", "about", pl.col(value).alias("value")).join(words, how="cross")
    return choice_options(
        frame, long.with_columns(right=pl.col("value").cast(pl.String) == pl.col("option_key"))
    )


def image_words(number: str, total: str) -> pl.Expr:
    """Words for an image: "this radiograph", or "image 2" where a study has several."""
    several = pl.concat_str(pl.lit("image "), number)
    return pl.when(pl.col(total) > 1).then(several).otherwise(pl.lit("this radiograph"))


def sentence(expression: pl.Expr) -> pl.Expr:
    """First letter upper case, full stop at the end."""
    return pl.concat_str(expression.str.head(1).str.to_uppercase(), expression.str.slice(1), pl.lit("."))
