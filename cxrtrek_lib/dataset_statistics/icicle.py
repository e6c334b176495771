"""Pairs of words as an icicle: a bar per first word, as high as its share, and its second words beside it.

What a sunburst shows, unrolled: all text is horizontal, fits a journal's column and survives grayscale.
"""

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from cxrtrek_lib.figures import BLACK, percent

LINE_INCHES, SPLIT = 0.105, 0.42  # height of a line of text; where, of the width, second words begin
RARER_FIRST, RARER = "#6B6B6B", "#E4E4E4"


def word_cells(openings: pl.DataFrame, least: float) -> pl.DataFrame:
    """Cells of an icicle: first, second, share, words; what is rarer than `least` is put together.

    openings  first, second, n of one side (Counts.openings)
    words     what the cell holds, the most frequent first: its second word, or in a cell of rarer pairs
              (`second` null) their second words; where the first words are rarer, too (`first` null), these
    First words by share, rarer ones last; within a first word its second words the same way.
    """
    total = openings["n"].sum()
    pairs = openings.with_columns(whole=pl.col("n").sum().over("first"))
    kept = pl.col("whole") >= least * total
    pairs = pairs.with_columns(
        first=pl.when(kept).then("first"),
        second=pl.when(kept & (pl.col("n") >= least * total)).then("second"),
        words=pl.when(kept).then("second").otherwise("first"),
    )
    words = pairs.group_by("first", "second", "words").agg(pl.col("n").sum())
    cells = (
        words.sort("n", "words", descending=[True, False])
        .group_by("first", "second", maintain_order=True)
        .agg("words", share=pl.col("n").sum() / total)
    )
    cells = cells.with_columns(whole=pl.col("share").sum().over("first"))
    by_first = [pl.col("first").is_null(), -pl.col("whole"), "first"]
    return cells.sort(*by_first, pl.col("second").is_null(), -pl.col("share"), "second").drop("whole")


def _fit(words: Sequence[str], lines: int, width: int) -> str:
    """As many words as fit into so many lines of `width` letters, then how many others there are."""
    best = f"{len(words)} words"
    for shown in range(1, len(words) + 1):
        rest = [f"{len(words) - shown} more"] if shown < len(words) else []
        text = textwrap.wrap(", ".join([*words[:shown], *rest]), width)
        if len(text) > lines:
            break
        best = "\n".join(text)
    return best


def icicle(ax: Axes, openings: pl.DataFrame, colour: str, height: float) -> pl.DataFrame:
    """Draw the word pairs into an axis of `height` inches; returns the cells."""
    least = LINE_INCHES / height
    cells = word_cells(openings, least)
    light = mpl.colors.to_hex(0.8 + 0.2 * np.array(mpl.colors.to_rgb(colour)))

    def cell(left: float, right: float, top: float, share: float, text: str, fill: str, ink: str) -> None:
        ax.add_patch(Rectangle((left, top), right - left, share, fc=fill, ec="white", lw=0.8))
        if share >= least * 0.999:
            for x, said, side in ((left + 0.015, text, "left"), (right - 0.015, percent(share), "right")):
                # One line stands on a common baseline, whatever its letters; several are centred.
                line = {"va": "center"} if "\n" in said else {"va": "baseline", "xytext": (0, -2.4)}
                look = {"color": ink, "fontsize": 6.5, "linespacing": 1.05, "textcoords": "offset points"}
                ax.annotate(said, (x, top + share / 2), ha=side, **({"xytext": (0, 0)} | look | line))

    top = 0.0
    for (first,), group in cells.group_by("first", maintain_order=True):
        dark, named = (RARER_FIRST, "rarer") if first is None else (colour, first)
        cell(0, SPLIT, top, group["share"].sum(), named, dark, "white")
        for second, share, words in group.select("second", "share", "words").rows():
            lines = max(1, int(share * height / LINE_INCHES))
            text = _fit([word or "(end)" for word in words], lines, 26)
            cell(SPLIT, 1, top, share, text, RARER if second is None else light, BLACK)
            top += share
    ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return cells
