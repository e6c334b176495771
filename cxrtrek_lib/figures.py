"""The study's figures: one style, one `save`, and the curves of training.

The dataset is drawn in dataset_figures.py, scores in score_figures.py, films in film_figures.py.

Every function returns (figure, data, caption): the drawing, exactly the numbers in it, and a sentence or
two with n, unit, interval and image origin. `save` writes all of it, the same bytes for the same numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from IPython.display import Image
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image as Picture

from cxrtrek_lib import paths
from cxrtrek_lib.conversations import STAGES

COLUMN, PAGE = 89 / 25.4, 183 / 25.4  # widths of one and two journal columns, inches
# Okabe & Ito 2008: colours that stay apart for colour-blind readers, and a grey so dark that it stays apart
# from green and purple for them (tests/test_figures.py simulates it).
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, GREY, BLACK = "#CC79A7", "#56B4E9", "#F0E442", "#5A5A5A", "#1A1A1A"
STAGE_LABELS = {stage: f"{stage} {title}" for stage, (title, _) in STAGES.items()}
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
        _save_png(figure, png)
        figure.savefig(
            png.with_suffix(".pdf"), metadata={"CreationDate": None, "Producer": None, "Creator": None}
        )
        plt.close(figure)
    save_table(name, data, caption)
    return Image(filename=png, width=round(figure.get_figwidth() * 110))


def _save_png(figure: Figure, path: Path) -> None:
    """300 dpi with a palette of 256 colours: a third to half of the bytes, no difference to the eye.

    A picture of more colours (films, colour scales) is first rounded to every fourth level.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    picture = Picture.open(buffer).convert("RGB")
    if picture.getcolors(256) is None:
        levels = (np.asarray(picture).astype(np.uint16) + 2) // 4 * 4
        picture = Picture.fromarray(levels.clip(0, 255).astype(np.uint8))
    picture = picture.quantize(256, method=Picture.Quantize.MEDIANCUT, dither=Picture.Dither.NONE)
    picture.save(path, optimize=True, dpi=(STYLE["savefig.dpi"],) * 2)


def letter(ax: Axes, name: str, title: str) -> None:
    """Title of a panel with its letter, as journals want it."""
    ax.set_title(f"{name}  {title}")


def percent(share: float) -> str:
    """A share as text: 0.125 -> "12.5 %"; what would read 0.0 % but is more says so."""
    return f"{100 * share:.1f} %" if share >= 0.0005 or share == 0 else "<0.1 %"


@styled
def training_curves(history: dict[str, Any], *, origin: str) -> Drawing:
    """Losses of the two training phases, from models/<checkpoint>/history.json (see train.py).

    Left the image encoder's loss per epoch, right the decoder's training and validation loss per step
    (nats per answer token; logarithmic, because the first pass asks only whether findings are there and
    leaves the rest far above). The best validation loss is ringed, passes are parted by dotted lines.
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
    ends = decoder.group_by("epoch").agg(pl.col("step").max()).sort("epoch")["step"].to_list()
    for step in ends[:-1]:
        right.axvline(step, color=GREY, lw=0.6, ls=(0, (1, 2)), zorder=0)
    right.set_xlabel("optimiser step")
    right.set_ylabel("loss (nats per token)")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    right.margins(y=0.15)
    right.legend(loc="upper right")
    letter(right, "b", "Projector and language model")
    cases = history["cases"]
    caption = (
        "Training losses. (a) Encoder, pretrained on scene truth and then frozen. "
        f"(b) Decoder, {cases['train']:,} training and {cases['validate']:,} validation cases "
        f"({origin} films); dotted: end of a pass; ring: best validation loss."
    )
    return figure, pl.concat(parts, how="vertical_relaxed"), caption
