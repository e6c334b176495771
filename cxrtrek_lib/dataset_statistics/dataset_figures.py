"""The figures of a dataset: Figure 2 (a)-(f) of the paper, whole or a panel alone, Figure A, the shortcuts.

As in figures.py, every function returns (figure, data, caption).
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cxrtrek_lib.conversations import KINDS
from cxrtrek_lib.dataset_statistics import published
from cxrtrek_lib.dataset_statistics.dataset_counts import Counts
from cxrtrek_lib.dataset_statistics.icicle import icicle
from cxrtrek_lib.figures import (
    BLACK,
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    RED,
    SKY,
    STAGE_LABELS,
    YELLOW,
    Drawing,
    letter,
    percent,
    styled,
)

TITLES = {
    "a": "Instruction word pairs", "b": "Response word pairs", "c": "Q&A per stage",
    "d": "Q&A per sample", "e": "Length", "f": "Response formats",
}  # fmt: skip
HEIGHTS = {"a": 3.9, "b": 3.9, "c": 2.3, "d": 2.1, "e": 2.1, "f": 1.6}  # of a panel alone, inches
SOURCE_NAMES = {
    "chexpert": "CheXpert", "padchest": "PadChest", "nih": "NIH ChestX-ray14", "vindr": "VinDr-CXR",
    "openi": "Open-i", "rsna": "RSNA", "siim": "SIIM", "mimic": "MIMIC-CXR", "chexpert_plus": "CheXpert Plus",
    "authors": "CXRTrek",
}  # fmt: skip
FORMAT_COLOURS = dict(zip(KINDS, (BLUE, SKY, YELLOW, BLACK), strict=True))  # four shades in grayscale, too
SAMPLES_LABEL = f"the {published.CASES} samples that the dataset's authors published"


def _long(
    panel: str, x: Sequence, share: Sequence[float], there: Sequence[float] | None = None
) -> pl.DataFrame:
    frame = pl.DataFrame({"panel": panel, "x": [str(value) for value in x], "share": list(share)})
    return frame.with_columns(published=pl.Series(there or [None] * len(x), dtype=pl.Float64))


def _panel_words(ax: Axes, counts: Counts, name: str, height: float) -> pl.DataFrame:
    side, colour = ("question", BLUE) if name == "a" else ("answer", "#A34700")
    cells = icicle(ax, counts.openings.filter(side=side), colour, height)
    rarer = pl.format("({} rarer)", pl.col("words").list.len())
    x = pl.concat_str("first", pl.col("second").fill_null(rarer), separator=" ", ignore_nulls=True)
    return _long(f"{name} {side} words", cells.select(x.str.strip_chars_end()).to_series(), cells["share"])


def _bars(ax: Axes, labels: Sequence[str], shares: Sequence[float], there: Sequence[float]) -> None:
    """Horizontal bars of shares with the published reference as open diamonds."""
    rows = np.arange(len(labels))
    ax.barh(rows, shares, height=0.62, color=BLUE)
    ax.plot(there, rows, "D", mfc="white", mec=BLACK, mew=0.8, ms=4, clip_on=False)
    for row, share in enumerate(shares):
        text = percent(share) if share else "none"
        ax.text(1, row, text, va="center", ha="right", transform=ax.get_yaxis_transform())
    ax.set_yticks(rows, labels)
    ax.invert_yaxis()
    ax.set_xlim(0, max(*shares, *there) * 1.36)  # room for the column of numbers
    ax.set_xlabel("share of all Q&A")
    ax.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0, symbol=" %"))


def _panel_shares(ax: Axes, counts: Counts, name: str, height: float) -> pl.DataFrame:
    column, of = ("stage", published.PER_STAGE) if name == "c" else ("format", published.FORMATS)
    found = dict(counts.cells.group_by(column).agg(pl.col("n").sum()).iter_rows())
    shares = [found.get(key, 0) / counts.n_qa for key in of]
    there = [value / sum(of.values()) for value in of.values()]
    _bars(ax, list(STAGE_LABELS.values()) if name == "c" else list(of), shares, there)
    return _long(f"{name} {column}", list(of), shares, there)


def _panel_samples(ax: Axes, counts: Counts, name: str, height: float) -> pl.DataFrame:
    sizes = counts.samples.group_by("qa").agg(pl.col("samples").sum()).sort("qa")
    shares = sizes["samples"] / counts.n_samples
    mean, paper, top = counts.n_qa / counts.n_samples, published.QA_PER_SAMPLE, shares.max()
    ax.bar(sizes["qa"], shares, width=0.9, color=BLUE)
    # Lines end below the legend, wherever the mean lies.
    for at, name, colour, line in ((mean, "mean", RED, "-"), (paper, "paper", BLACK, (0, (4, 2)))):
        ax.vlines(at, 0, top * 1.05, color=colour, lw=1.2, ls=line, label=f"{name} {at:.2f}")
    last = max(paper * 1.1, sizes.filter(shares.cum_sum() <= 0.999)["qa"].max() or 0, mean * 1.1) + 1
    ax.set(ylim=(0, top * 1.3), xlim=(0, last), xlabel="Q&A per sample", ylabel="share of samples")
    ax.legend(loc="upper right", ncols=2)
    return _long("d Q&A per sample", sizes["qa"], shares)


def _panel_lengths(ax: Axes, counts: Counts, name: str, height: float) -> pl.DataFrame:
    parts, ends = [], [10]
    for side, colour, fill in (("question", GREY, True), ("answer", RED, False)):
        table = counts.words.filter(side=side).group_by("words").agg(pl.col("n").sum()).sort("words")
        share = table["n"] / counts.n_qa
        ends.append(int(table.filter(share.cum_sum() <= 0.99)["words"].max() or 0))
        drawn = np.zeros(int(table["words"].max()) + 1)
        drawn[table["words"].to_numpy()] = share
        edges = np.arange(drawn.size + 1) - 0.5
        mean, there = float((table["words"] * share).sum()), published.words_per_qa(side)
        label = f"{side}: mean {mean:.1f}, published {there:.1f}"
        look = {"fill": True, "alpha": 0.45} if fill else {"lw": 1.2}
        ax.stairs(drawn, edges, color=colour, label=label, **look)
        ax.plot(there, 0, "D", mfc=colour, mec=BLACK, mew=0.8, ms=4, clip_on=False, zorder=4)
        parts.append(_long(f"e {side} words", table["words"], share))
    last = max(*ends, published.words_per_qa("question"))
    ax.set(xlim=(0, last + 1), xlabel="words", ylabel="share of Q&A")
    ax.set_ylim(0, max(part["share"].max() for part in parts) * 1.45)  # the legend stands above the bars
    ax.legend(loc="upper right")
    return pl.concat(parts)


_DRAW = {
    "a": _panel_words, "b": _panel_words, "c": _panel_shares, "d": _panel_samples, "e": _panel_lengths,
    "f": _panel_shares,
}  # fmt: skip


def _mark() -> Line2D:
    return Line2D([], [], marker="D", ls="", mfc="white", mec=BLACK, mew=0.8, ms=4, label=SAMPLES_LABEL)


def _caption(counts: Counts, panels: str, origin: str) -> str:
    said = {
        "ab": "First and second word of the first phrase of every question (a) and answer (b), without image "
        "placeholders, option labels and boxes, in lower case; (end): the phrase has one word; grey: words "
        "too rare for a line of their own, the most frequent first.",
        "cf": f"Open diamonds: {SAMPLES_LABEL} ({sum(published.PER_STAGE.values()):,} Q&A).",
        "d": f"Dashed line: the paper's {published.QA_PER_SAMPLE} Q&A per sample; the longest sample has "
        f"{counts.samples['qa'].max()}, samples beyond 99.9 % are not drawn.",
        "e": "Words are runs of non-blanks; options count where a question lists them. Diamonds: the "
        "published samples' means. The longest 1 % are in the data file and not drawn in full.",
    }
    parts = [text for letters, text in said.items() if set(letters) & set(panels)]
    names = ", ".join(f"({name})" for name in panels) if len(panels) < len(_DRAW) else "(a)-(f)"
    return (
        f"Figure 2 {names} rebuilt from {counts.n_qa:,} Q&A of {counts.n_samples:,} samples ({origin}). "
        f"Normalised frequency: item count / total count. {' '.join(parts)}"
    )


@styled
def dataset_overview(counts: Counts, *, origin: str) -> Drawing:
    """Figure 2 of the paper: (a) instruction and (b) response word pairs, (c) Q&A per stage, (d) Q&A per
    sample, (e) question and answer length in words, (f) share of the four formats. Two columns wide.

    origin  what the rows come from, for the caption
    Data: panel, x, share (item count / total count), published (share in the authors' samples, or null).
    """
    figure = plt.figure(figsize=(PAGE, 8.8))
    upper, lower = figure.subfigures(2, 1, height_ratios=[4.2, 4.6])
    axes = upper.subplot_mosaic([["a", "b"]])
    axes |= lower.subplot_mosaic([["c", "d"], ["e", "f"]], width_ratios=[1.1, 1], height_ratios=[1.15, 1])
    parts = []
    for name, ax in axes.items():
        parts.append(_DRAW[name](ax, counts, name, 3.9))
        letter(ax, name, TITLES[name])
    mark = _mark()
    mark.set_label(f"(c, e, f) {SAMPLES_LABEL}")
    lower.legend(handles=[mark], loc="outside lower center", handletextpad=0.2)
    return figure, pl.concat(parts), _caption(counts, "abcdef", origin)


@styled
def panel(name: str, counts: Counts, *, origin: str) -> Drawing:
    """One panel of Figure 2, "a" to "f", alone and one column wide; else as dataset_overview."""
    figure, ax = plt.subplots(figsize=(COLUMN, HEIGHTS[name]))
    data = _DRAW[name](ax, counts, name, HEIGHTS[name] - 0.3)
    letter(ax, name, TITLES[name])
    if name in "cf":
        figure.legend(handles=[_mark()], loc="outside lower center", handletextpad=0.2)
    return figure, data, _caption(counts, name, origin)


@styled
def training_mixture(counts: Counts, *, origin: str) -> Drawing:
    """Figure A of the paper: what each source contributes to the training split, in studies and in Q&A.

    Data: source, studies, studies_share, qa, qa_share (shares of the training split), qa per format. Studies
    without a question are not counted. Raises ValueError when the training split is empty.
    """
    train = counts.cells.filter(split="train")
    if train.is_empty():
        raise ValueError("figure A: no study is in the training split; see dataset in params.yaml")
    data = counts.samples.filter(split="train").group_by("source").agg(studies=pl.col("samples").sum())
    qa = train.group_by("source").agg(
        pl.col("n").sum().alias("qa"),
        *(pl.col("n").filter(pl.col("format") == kind).sum().alias(kind) for kind in KINDS),
    )
    data = data.join(qa, on="source").sort("qa", "source", descending=[True, False])
    shares = {f"{name}_share": pl.col(name) / pl.col(name).sum() for name in ("studies", "qa")}
    data = data.with_columns(**shares).select("source", "studies", "studies_share", "qa", "qa_share", *KINDS)

    rows = np.arange(data.height)
    size = (PAGE, 1.1 + 0.26 * data.height)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=[1, 1.25])
    left.barh(rows, data["studies"], height=0.6, color=GREY)
    start = np.zeros(data.height)
    for kind in KINDS:
        right.barh(rows, data[kind], left=start, height=0.6, color=FORMAT_COLOURS[kind], ec="white", lw=0.4)
        start += data[kind].to_numpy()
    right.tick_params(left=False)
    for ax, column, unit in ((left, "studies", "studies"), (right, "qa", "Q&A")):
        for row, (n, share) in enumerate(data.select(column, f"{column}_share").rows()):
            place = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(f"{n:,} ({percent(share)})", (n, row), **place)
        ax.set_xlim(0, data[column].max() * 1.5)  # room for the numbers
        ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
        ax.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
        ax.set_xlabel(f"{unit} of the training split")
    left.set_yticks(rows, [SOURCE_NAMES.get(source, source) for source in data["source"]])
    left.invert_yaxis()
    letter(left, "a", "Studies")
    letter(right, "b", "Q&A by format")
    keys = [Patch(fc=FORMAT_COLOURS[kind], label=kind) for kind in KINDS if data[kind].sum()]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    caption = (
        f"Figure A: training mixture per source, {data['studies'].sum():,} studies and {data['qa'].sum():,} "
        f"Q&A of the training split ({origin}). In brackets: share of the split. Validation, test and "
        "external studies are not counted."
    )
    return figure, data, caption


@styled
def shortcut_scores(scores: pl.DataFrame, *, origin: str) -> Drawing:
    """What film-blind predictors reach on the test split, one panel per format, one marker per source.

    scores  the table of shortcuts.shortcuts
    """
    formats = scores["format"].unique(maintain_order=True)
    scores = scores.filter(~pl.col("subset").str.starts_with("stage"))
    sources = scores["subset"].unique(maintain_order=True)
    looks = list(zip((BLACK, BLUE, ORANGE, GREEN, RED, SKY), "osD^vP", strict=True))
    names = {name: scores.filter(format=name)["predictor"].unique(maintain_order=True) for name in formats}
    heights = [len(names[name]) for name in formats]
    figure, axes = plt.subplots(
        len(formats), 1, figsize=(PAGE, 0.75 + 0.25 * sum(heights) + 0.45 * len(formats)), sharex=True,
        height_ratios=heights, squeeze=False,
    )  # fmt: skip
    for ax, name, mark in zip(axes[:, 0], formats, "abcdefgh", strict=False):
        for k, source in enumerate(sources):
            part = scores.filter(format=name, subset=source).drop_nulls("score")
            rows = [names[name].to_list().index(predictor) for predictor in part["predictor"]]
            shift = 0.2 * (k - (len(sources) - 1) / 2) / max(1, len(sources) - 1) * 2
            colour, shape = looks[k % len(looks)]
            errors = np.abs(part.select("low", "high").to_numpy().T - part["score"].to_numpy())
            label = SOURCE_NAMES.get(source, "all sources" if source == "all" else source)
            look = {"fmt": shape, "color": colour, "ms": 3.5, "elinewidth": 0.8, "label": label}
            ax.errorbar(part["score"], np.array(rows) + shift, xerr=errors, **look)
        chance = scores.filter(format=name, subset="all")["chance"][0]
        ax.axvline(chance, color=GREY, lw=1, ls=(0, (4, 2)), zorder=0)
        ax.set_yticks(range(len(names[name])), names[name])
        ax.set_ylim(len(names[name]) - 0.5, -0.5)
        n = scores.filter(format=name, subset="all")["n"][0]
        metric = "balanced accuracy" if name == "close-ended" else "exact set of options"
        letter(ax, mark, f"{name}: {metric}, n = {n:,}")
    ax.set_xlim(-0.015, 1.015)
    ax.set_xlabel("score on the test split, film unseen")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    chance = Line2D([], [], color=GREY, lw=1, ls=(0, (4, 2)), label="chance, all sources")
    figure.legend([*handles, chance], [*labels, chance.get_label()], loc="outside lower center", ncols=5)
    caption = (
        f"What trivial predictors answer without the film ({origin}), learned on the training split and "
        "scored on the test split; bars: 95 % intervals, patients resampled. Predictors that count other Yes "
        "answers read gold answers of the same study, as a model does whose context is gold."
    )
    return figure, scores, caption
