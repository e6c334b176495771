"""Stages 7 and 8: diagnosis and advice, and the report."""

import re

import polars as pl

from cxrtrek_lib import wording
from cxrtrek_lib.findings import CORE
from cxrtrek_lib.identification import normal_studies
from cxrtrek_lib.question_rows import (
    Evidence,
    Templates,
    question_rows,
    sentence,
    with_bits,
)
from cxrtrek_lib.wording import Template

MOST_PRESENT, MOST_ABSENT = 6, 3  # items of a composed report: at most 40 words


def report(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 8: the real sections where there are any, else a summary composed of the known statuses."""
    frames, written = [], []
    for rank, name in enumerate(("findings", "impression")):
        texts = evidence.studies.filter(pl.col(f"{name}_text").is_not_null()).select(
            "i", "key", "source", pl.col(f"{name}_text").alias("text")
        )
        kept = pl.Series("answer", [legible(text) for text in texts["text"]], dtype=pl.String)
        texts = texts.with_columns(kept).filter(pl.col("answer") != "")
        cut = pl.when(pl.col("answer") != pl.col("text")).then(pl.lit(", sentences with XXXX left out"))
        texts = texts.with_columns(
            fact=pl.lit(f"report|{name}"),
            evidence=pl.concat_str("source", pl.lit(f": {name}_text"), cut.otherwise(pl.lit(""))),
        )
        frames.append(question_rows(templates[name], with_bits(templates[name], texts), rank))
        written.append(texts.select("i"))
    composed = evidence.known.join(pl.concat(written), on="i", how="anti")
    return [*frames, _summary(templates["summary"], composed)]


def legible(text: str) -> str:
    """A report text without the sentences that hold XXXX, the mark of removed words, or no word at all.

    >>> legible("Normal chest x-XXXX. . The heart is normal.")
    'The heart is normal.'
    """
    sentences = re.split(r"(?<=[.!?])(?<!\d\.)\s+", text)
    return " ".join(
        sentence for sentence in sentences if "XXXX" not in sentence and re.search(r"\w", sentence)
    )


def _summary(template: Template, known: pl.DataFrame) -> pl.DataFrame:
    """One composed impression per study: present findings with side and grade, possible ones, denied ones."""
    core = {name: place for place, name in enumerate(CORE)}
    denied = known.filter((pl.col("status") == "absent") & pl.col("name").is_in(CORE)).with_columns(
        order=pl.col("name").replace_strict(core, return_dtype=pl.Int32)
    )
    stated = known.filter(pl.col("status") != "absent").with_columns(
        order=pl.col("finding").to_physical().cast(pl.Int32)
    )
    normal = normal_studies(known).select("i", "key", normal=pl.lit(template.answers["none"]))
    denied_text = wording.fill(template.answers["absent"])
    possible_text = wording.fill(template.answers["uncertain"])
    parts = known.group_by("i", "key").agg(pl.col("evidence").unique().sort().str.join("; ").alias("columns"))
    for column, frame, most, text in (
        ("present", stated.filter(pl.col("status") == "present"), MOST_PRESENT, None),
        ("possible", stated.filter(pl.col("status") == "uncertain"), MOST_ABSENT, possible_text),
        ("denied", denied, MOST_ABSENT, denied_text),
    ):
        phrase = sentence(pl.concat_str("severity", "side", "name", separator=" ", ignore_nulls=True))
        words = phrase if text is None else pl.col("name")
        joined = (
            frame.sort("i", "order").group_by("i", maintain_order=True)
            .agg(words.head(most).str.join(" " if text is None else ", ").alias("findings"))
            .select("i", (pl.col("findings") if text is None else text).alias(column))
        )  # fmt: skip
        parts = parts.join(joined, on="i", how="left")
    parts = parts.join(normal.select("i", "normal"), on="i", how="left").with_columns(
        answer=pl.concat_str("normal", "present", "possible", "denied", separator=" ", ignore_nulls=True),
        fact=pl.lit("composite|summary"),
        evidence=pl.concat_str(pl.lit("composed of "), "columns"),
    )
    return question_rows(template, with_bits(template, parts.filter(pl.col("answer") != "")), 2)
