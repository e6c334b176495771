"""The Q&A of a dataset, counted: per source, stage and format, per sample, in words, by opening words.

Column-wise and in pieces: a Q&A table is read from its file as it is counted (`pl.scan_parquet`) and need
not fit into memory. A frame of a few cases will do as well.
"""

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib.conversations import FORMATS, PLACEHOLDER, format_of

COMPOSITE = "composite|"  # opens a fact that is put together from facts with questions of their own
LABEL = r"^\s*\(?(?:[A-Za-z]|\d{1,2})\s*[.):]+\s+"  # "A. ", "1). ": the label before an option's text
PART = 150_000  # studies
_BOXES = r"<\|box\|>.*?<\|/box\|>|<\|/?ref\|>"
_PHRASE = r"^[^\p{L}\p{N}]*([^.,;:?!]*)"
_WORD = r"[\p{L}\p{N}]+(?:['/-][\p{L}\p{N}]+)*"


class Counts(NamedTuple):
    """What the figures and tables of a dataset are drawn from; n is a number of Q&A.

    cells     source, split, stage i8, task_type, qtype, format, n
    samples   source, split, qa (questions of one sample), samples (how many have so many)
    words     side (question | answer), qtype, words, format, n; words are runs of non-blanks without image
              placeholders; options count as words of the question that lists them
    openings  side, first, second, n: the first two words of the first phrase (up to a comma or another
              mark) in lower case, without placeholders, option labels and boxes; "" where the phrase ends
    """

    cells: pl.DataFrame
    samples: pl.DataFrame
    words: pl.DataFrame
    openings: pl.DataFrame

    @property
    def n_qa(self) -> int:
        return int(self.cells["n"].sum())

    @property
    def n_samples(self) -> int:
        """Samples with at least one question."""
        return int(self.samples["samples"].sum())


def answer_format() -> pl.Expr:
    """The response format of column qtype."""
    return pl.col("qtype").replace_strict(FORMATS, return_dtype=pl.String)


def question_kind() -> pl.Expr:
    """What a question demands, from column qtype: its format, choices parted into single and multi."""
    multi = pl.col("qtype").str.starts_with("multi-choice")
    choice = pl.when(multi).then(pl.lit("multi-choice")).otherwise(pl.lit("single-choice"))
    return pl.when(answer_format() == "choice").then(choice).otherwise(answer_format())


def about() -> pl.Expr:
    """What column fact is about: the finding of "edema|presence", "any device" of "composite|any device"."""
    fact = pl.col("fact")
    named = fact.str.split("|").list.first()
    return pl.when(fact.str.starts_with(COMPOSITE)).then(fact.str.strip_prefix(COMPOSITE)).otherwise(named)


def spread(frame: pl.LazyFrame) -> pl.DataFrame:
    """Run a query piece by piece, so that memory does not grow with the table."""
    return frame.collect(engine="streaming")


def in_parts(studies: pl.DataFrame, what: str) -> Iterator[pl.DataFrame]:
    """The studies in parts of PART rows, for queries whose memory grows with the studies asked about.

    what  is done with them, for the progress bar
    """
    total = -(-studies.height // PART)
    return iter(tqdm(studies.iter_slices(PART), total=total, desc=what, unit="part", delay=1))


def labelled(
    studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame, columns: list[str], about: list[str]
) -> pl.LazyFrame:
    """Columns of the studies' Q&A with columns of the studies (`about`) in place of sample_id; `i` numbers
    the studies. Q&A about other samples are left out.
    """
    wanted = studies.select("sample_id", *about).with_row_index("i").lazy()
    return qa.lazy().select("sample_id", *columns).join(wanted, on="sample_id").drop("sample_id")


def count(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame) -> Counts:
    """Count the Q&A of the studies.

    studies  columns sample_id, source, split
    qa       columns sample_id, stage, task_type, qtype, question, answer (tables.QA)
    Raises ValueError when there is no row, for an unknown qtype, and for Q&A about samples that are not in
    `studies`.
    """
    keys = ["source", "split", "stage", "task_type", "qtype"]
    cells = spread(
        labelled(studies, qa, keys[2:], keys[:2]).group_by(keys).agg(n=pl.len().cast(pl.Int64))
    ).sort(keys)
    total = qa.lazy().select(pl.len()).collect().item()
    if total == 0:
        raise ValueError("the Q&A table has 0 rows; run `dvc repro build_dataset`")
    if cells["n"].sum() != total:
        raise ValueError(
            f"{total - cells['n'].sum()} of {total} Q&A are about no sample of the studies table"
        )
    for qtype in cells["qtype"].unique().sort():
        format_of(qtype)
    per_sample = labelled(studies, qa, [], ["source", "split"]).group_by("i", "source", "split").len("qa")
    samples = spread(per_sample.group_by("source", "split", "qa").agg(samples=pl.len().cast(pl.Int64)))
    texts = pl.concat([_texts(qa, side) for side in ("question", "answer")])
    words = pl.col("text").str.count_matches(r"\S+").alias("words")
    return Counts(
        cells.with_columns(format=answer_format()),
        samples.sort("source", "split", "qa"),
        texts.group_by("side", "qtype", words).agg(pl.col("n").sum())
        .with_columns(format=answer_format()).sort("side", "qtype", "words"),
        _openings(texts),
    )  # fmt: skip


def _texts(qa: pl.DataFrame | pl.LazyFrame, side: str) -> pl.DataFrame:
    """Every different text with how often it occurs: side, qtype, text, n."""
    text = pl.col(side).str.replace_all(PLACEHOLDER, "", literal=True).alias("text")
    counted = qa.lazy().select("qtype", text).group_by("qtype", "text").agg(n=pl.len().cast(pl.Int64))
    return spread(counted.select(pl.lit(side).alias("side"), "qtype", "text", "n"))


def _openings(texts: pl.DataFrame) -> pl.DataFrame:
    text = pl.col("text").str.replace_all(_BOXES, " ")
    text = pl.when(answer_format() == "choice").then(text.str.replace(LABEL, "")).otherwise(text)
    words = text.str.extract(_PHRASE).str.to_lowercase().str.extract_all(_WORD)
    first, second = (words.list.get(place, null_on_oob=True).fill_null("") for place in (0, 1))
    pairs = texts.select("side", "n", first=first, second=second)
    return (
        pairs.group_by("side", "first", "second").agg(pl.col("n").sum())
        .sort("side", "n", "first", "second", descending=[False, True, False, False])
    )  # fmt: skip


def facts(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Different facts asked about, per source and split: source, split, facts.

    A fact counts once per study, in however many questions it stands; answers put together from such facts
    (COMPOSITE) add none.
    """
    parts = []
    for part in in_parts(studies, "facts"):
        rows = labelled(part, qa, ["fact"], ["source", "split"])
        rows = rows.filter(~pl.col("fact").str.starts_with(COMPOSITE))
        rows = rows.with_columns(pl.col("fact").str.split("; ")).explode("fact")
        rows = rows.with_columns(pl.col("fact").hash()).unique(
            ["i", "fact"]
        )  # numbers take less room than texts
        parts.append(spread(rows.group_by("source", "split").agg(facts=pl.len().cast(pl.Int64))))
    return pl.concat(parts).group_by("source", "split").agg(pl.col("facts").sum()).sort("source", "split")
