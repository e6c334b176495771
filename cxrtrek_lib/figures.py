"""The study's figures: one style, one `save`, and the figures of data set and training.

Scores are drawn in score_figures.py, films in film_figures.py.

Every function returns (figure, data, caption): the drawing, exactly the numbers in it, and a sentence or
two with n, unit, interval and image origin. `save` writes all of it, the same bytes for the same numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
import seaborn as sns
from IPython.display import Image
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxrtrek_lib import paths
from cxrtrek_lib.schema import FORMATS, STAGES

COLUMN, PAGE = 89 / 25.4, 183 / 25.4  # widths of one and two journal columns, inches
# Okabe & Ito 2008: eight colours that stay apart for colour-blind readers.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, GREY, BLACK = "#CC79A7", "#56B4E9", "#8A8A8A", "#1A1A1A"
KINDS = ("open-ended", "close-ended", "choice", "detection")
STAGE_LABELS = {stage: f"{stage} {title}" for stage, (title, _) in STAGES.items()}
# The 100 samples (2,606 Q&A) that the dataset's authors published; 26.29 is the paper's figure for all.
PUBLISHED_STAGES = {1: 112, 2: 769, 3: 1372, 4: 50, 5: 89, 6: 27, 7: 70, 8: 117}
PUBLISHED_FORMATS = {"open-ended": 0.486, "close-ended": 0.209, "detection": 0.180, "choice": 0.125}
PUBLISHED_QA_PER_SAMPLE = 26.29
PUBLISHED_LABEL = "(c, f) the 100 samples that the dataset's authors published"
STYLE = {
    "font.family": "DejaVu Sans",  # ships with Matplotlib: the same letters on every machine
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType, embedded: text stays text
    "pdf.compression": 9,
    "svg.hashsalt": "cxrtrek",
}
Drawing = tuple[Figure, pl.DataFrame, str]


@contextmanager
def style() -> Iterator[None]:
    """Draw in the study's style; afterwards rcParams are as before and no figure stays open."""
    opened = set(plt.get_fignums())
    with mpl.rc_context(STYLE):
        try:
            yield
        finally:
            for number in set(plt.get_fignums()) - opened:
                plt.close(number)


def styled(draw):
    """Run a drawing function in the study's style."""

    @wraps(draw)
    def wrapper(*args: Any, **kwargs: Any) -> Drawing:
        with style():
            return draw(*args, **kwargs)

    return wrapper


def save_table(name: str, data: pl.DataFrame, caption: str) -> pl.DataFrame:
    """Write reports/tables/<name>.csv (6 decimals) and its caption, <name>.txt. Returns `data`."""
    paths.TABLES.mkdir(parents=True, exist_ok=True)
    flat = data.with_columns(pl.col(pl.List).cast(pl.List(pl.String)).list.join("; "))
    flat.write_csv(paths.TABLES / f"{name}.csv", float_precision=6)
    (paths.TABLES / f"{name}.txt").write_text(caption.strip() + "\n", encoding="utf-8")
    return data


def save(figure: Figure, name: str, data: pl.DataFrame, caption: str) -> Image:
    """Write reports/figures/<name>.pdf and .png (300 dpi), the data as CSV and the caption as text.

    Without time stamps and tool versions, so that the same numbers give the same bytes.
    Returns the PNG for display in a notebook.
    """
    paths.FIGURES.mkdir(parents=True, exist_ok=True)
    png = paths.FIGURES / f"{name}.png"
    with style():
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(
            png.with_suffix(".pdf"), metadata={"CreationDate": None, "Producer": None, "Creator": None}
        )
        plt.close(figure)
    save_table(name, data, caption)
    return Image(filename=png, width=round(figure.get_figwidth() * 110))


def letter(ax: Axes, name: str, title: str) -> None:
    """Title of a panel with its letter, as journals want it."""
    ax.set_title(f"{name}  {title}")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 or share == 0 else "<0.1 %"


def _bars(ax: Axes, labels: Sequence[str], shares: Sequence[float], published: Sequence[float]) -> None:
    """Horizontal bars of shares with the published reference as open diamonds."""
    rows = np.arange(len(labels))
    ax.barh(rows, shares, height=0.62, color=BLUE)
    ax.plot(published, rows, "D", mfc="white", mec=BLACK, mew=0.8, ms=4, clip_on=False)
    for row, share in enumerate(shares):
        text = _percent(share) if share else "none"
        ax.text(1, row, text, va="center", ha="right", transform=ax.get_yaxis_transform())
    ax.set_yticks(rows, labels)
    ax.invert_yaxis()
    ax.set_xlim(0, max(*shares, *published) * 1.32)  # room for the column of numbers
    ax.set_xlabel("share of all Q&A")
    ax.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0, symbol=" %"))


@styled
def dataset_overview(qa: pl.DataFrame, *, origin: str) -> Drawing:
    """Figure 2 (c)-(f) of the paper: Q&A per stage, Q&A per sample, lengths in words, share of formats.

    qa      columns sample_id, stage, qtype, question, answer; one row per Q&A
    origin  what the rows come from, for the caption
    Normalised frequency = count / total count, as in the paper. Raises ValueError without a row.
    """
    if qa.is_empty():
        raise ValueError("figure 2: the Q&A table has 0 rows; run `dvc repro build_dataset`")
    total = qa.height
    stages = dict(qa["stage"].value_counts().iter_rows())
    kinds = dict(qa["qtype"].replace_strict(FORMATS).value_counts().iter_rows())
    sizes = qa.group_by("sample_id").len()["len"]
    per_sample = sizes.value_counts().sort("len")
    published = {s: n / sum(PUBLISHED_STAGES.values()) for s, n in PUBLISHED_STAGES.items()}

    figure, axes = plt.subplots(2, 2, figsize=(PAGE, 4.7), gridspec_kw={"width_ratios": [1.15, 1]})
    c, d, e, f = axes.flat
    shares = [stages.get(stage, 0) / total for stage in STAGES]
    _bars(c, list(STAGE_LABELS.values()), shares, list(published.values()))
    letter(c, "c", "Q&A per stage")
    kind_shares = [kinds.get(kind, 0) / total for kind in KINDS]
    _bars(f, KINDS, kind_shares, [PUBLISHED_FORMATS[kind] for kind in KINDS])
    letter(f, "f", "Response formats")
    mark = Line2D([], [], marker="D", ls="", mfc="white", mec=BLACK, mew=0.8, label=PUBLISHED_LABEL)
    figure.legend(handles=[mark], loc="outside lower center", handletextpad=0.2)

    d.bar(per_sample["len"], per_sample["count"] / sizes.len(), width=0.9, color=BLUE)
    d.axvline(sizes.mean(), color=BLUE, lw=1)
    d.axvline(PUBLISHED_QA_PER_SAMPLE, color=BLACK, lw=1, ls=(0, (4, 2)))
    top = (per_sample["count"] / sizes.len()).max()
    d.set_ylim(0, top * 1.32)
    d.set_xlim(0, max(PUBLISHED_QA_PER_SAMPLE * 1.1, sizes.max() + 1))
    labels = (
        (sizes.mean(), f"mean {sizes.mean():.2f}", BLUE),
        (PUBLISHED_QA_PER_SAMPLE, "paper 26.29", BLACK),
    )
    for row, (at, text, colour) in enumerate(labels):
        right = at > d.get_xlim()[1] / 2
        at_text = {"ha": "right" if right else "left", "xytext": (-3 if right else 3, 0)}
        height = top * (1.27 if row else 1.17)
        d.annotate(text, (at, height), textcoords="offset points", color=colour, va="center", **at_text)
    d.set_xlabel("Q&A per sample")
    d.set_ylabel("share of samples")
    letter(d, "d", "Q&A per sample")

    words = {
        side: qa[side].str.count_matches(r"\S+").value_counts(name="n").sort(side)
        for side in ("question", "answer")
    }
    last = max(
        10,
        *(
            int(table.filter(pl.col("n").cum_sum() <= 0.99 * total)[side].max() or 0)
            for side, table in words.items()
        ),
    )
    for side, colour, fill in (("question", GREY, True), ("answer", RED, False)):
        table = words[side].with_columns(share=pl.col("n") / total).to_pandas()
        label = f"{side} (mean {(table[side] * table['share']).sum():.1f})"
        look = {"element": "step", "fill": fill, "color": colour, "alpha": 0.45 if fill else 1}
        sns.histplot(table, x=side, weights="share", discrete=True, ax=e, label=label, **look)
    e.set_xlim(0, last + 1)
    e.set_xlabel("words")
    e.set_ylabel("share of Q&A")
    e.legend()
    letter(e, "e", "Length")

    data = pl.concat(
        [
            _long("c stage", [str(stage) for stage in STAGES], shares, list(published.values())),
            _long("d Q&A per sample", per_sample["len"], per_sample["count"] / sizes.len()),
            *(_long(f"e {side} words", t[side], t["n"] / total) for side, t in words.items()),
            _long("f format", KINDS, kind_shares, [PUBLISHED_FORMATS[kind] for kind in KINDS]),
        ]
    )
    caption = (
        f"Figure 2 (c)-(f) rebuilt from {total:,} Q&A of {sizes.len():,} samples ({origin}). Normalised "
        "frequency: count / total count. Open diamonds: the 100 samples (2,606 Q&A) that the "
        "dataset's authors "
        f"published; dashed line: the paper's {PUBLISHED_QA_PER_SAMPLE} Q&A per sample. "
        f"Lengths beyond {last} words (the longest 1 %) are in the data file and not drawn."
    )
    return figure, data, caption


def _long(
    panel: str, x: Sequence, share: Sequence[float], published: Sequence[float] | None = None
) -> pl.DataFrame:
    columns = {"panel": [panel] * len(x), "x": [str(value) for value in x], "share": list(share)}
    return pl.DataFrame(columns).with_columns(
        published=pl.Series(published or [None] * len(x), dtype=pl.Float64)
    )


@styled
def training_curves(history: dict[str, Any], *, origin: str) -> Drawing:
    """Losses of the two training phases, from models/<checkpoint>/history.json (see train.py).

    Left the image encoder's loss per epoch, right the decoder's training and validation loss per step
    (nats per answer token). The best validation loss is ringed.
    """
    encoder, decoder = (
        pl.DataFrame(history["encoder"]),
        pl.DataFrame(history["decoder"], infer_schema_length=None),
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.1))
    left.plot(encoder["epoch"], encoder["loss"], "o-", color=GREEN, ms=3)
    left.set_xlabel("epoch")
    left.set_ylabel("loss on scene truth")
    left.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    letter(left, "a", "Image encoder")
    parts = [encoder.select(phase=pl.lit("encoder"), step="epoch", loss="loss")]
    for column, label, colour, line in (
        ("train_loss", "training", SKY, "-"),
        ("validation_loss", "validation", BLUE, "o-"),
    ):
        if column not in decoder.columns:
            continue
        part = decoder.select(phase=pl.lit(label), step="step", loss=column).drop_nulls()
        parts.append(part)
        right.plot(part["step"], part["loss"], line, color=colour, label=label, ms=3)
    checked = pl.concat(parts, how="vertical_relaxed").filter(phase="validation").sort("loss")
    if checked.height:
        step, loss = checked["step"][0], checked["loss"][0]
        right.plot(step, loss, "o", mfc="none", mec=BLACK, ms=8, mew=0.8)
        place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "right"}
        right.annotate(f"best {loss:.3f}", (step, loss), **place)
    right.set_xlabel("optimiser step")
    right.set_ylabel("loss (nats per token)")
    right.set_ylim(bottom=0)
    right.legend(loc="upper right")
    letter(right, "b", "Projector and language model")
    cases = history["cases"]
    caption = (
        "Training losses. (a) Encoder, pretrained on scene truth and then frozen. "
        f"(b) Decoder, {cases['train']:,} training and {cases['validate']:,} validation cases "
        f"({origin} films); ring: best validation loss."
    )
    return figure, pl.concat(parts, how="vertical_relaxed"), caption
