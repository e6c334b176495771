"""Contact sheets: films side by side with boxes; a simulated film says so in the picture itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib import patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from cxrtrek_lib import images, tables
from cxrtrek_lib.figures import PAGE, Drawing, styled
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.tables import CORNERS

GOLD = "#F0E442"  # yellow: reads on black, on white and for the colour-blind
Boxes = Sequence[Sequence[float]]
_HALO = [patheffects.withStroke(linewidth=1.8, foreground="black")]


def film_axes(ax: Axes, film: np.ndarray, title: str, origin: str) -> None:
    """One film in gray, its origin written into the lower left corner."""
    grays = {"vmin": 0, "vmax": 255 if film.dtype == np.uint8 else 1}
    # A small film is enlarged on paper: its own pixels take a third of the bytes that smoothed ones take.
    how = "nearest" if film.shape[0] <= 300 else "antialiased"
    ax.imshow(film, cmap="gray", extent=(0, 100, 100, 0), interpolation=how, **grays)
    ax.set_axis_off()
    ax.set_title(title, fontsize=6.5, fontweight="normal", pad=3)
    ax.text(2, 98, origin.upper(), color="white", fontsize=5, va="bottom", path_effects=_HALO)


def draw_boxes(ax: Axes, boxes: Boxes, colour: str, line: str | tuple) -> None:
    for x1, y1, x2, y2 in boxes:
        edge = {"fill": False, "ec": colour, "lw": 0.9, "ls": line, "path_effects": _HALO}
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **edge))


def grid(n: int, columns: int, title_lines: int) -> tuple:
    """A page-wide grid of square axes for n films; the unused ones are hidden."""
    if n == 0:
        raise ValueError("no film to draw: the selection is empty")
    columns = min(columns, n)
    rows = -(-n // columns)
    side = PAGE / columns
    size = (PAGE, rows * (side + 0.11 * title_lines) + 0.25)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[n:]:
        ax.set_axis_off()
    return figure, axes.flat


@styled
def contact_sheet(
    films: Sequence[np.ndarray],
    titles: Sequence[str],
    boxes: Sequence[Boxes] | None = None,
    *,
    origin: str,
    columns: int = 5,
) -> Drawing:
    """Films side by side with their boxes.

    films   uint8 or float in [0, 1], each (H, W), square
    titles  one per film, at most two short lines
    boxes   per film, x1 y1 x2 y2 in percent of the image; None = none drawn
    origin  "simulated" or "real", written into every film
    """
    boxes = boxes if boxes is not None else [[]] * len(films)
    figure, axes = grid(len(films), columns, max((title.count("\n") + 1 for title in titles), default=1))
    rows = []
    for ax, film, title, marked in zip(axes, films, titles, boxes, strict=False):
        film_axes(ax, film, title, origin)
        draw_boxes(ax, marked, GOLD, "-")
        where = "; ".join(" ".join(f"{v:.2f}" for v in box) for box in marked)
        rows.append({"title": title.replace("\n", ", "), "boxes_percent": where, "image_origin": origin})
    caption, boxed = f"{len(films)} {origin} films", sum(len(marked) > 0 for marked in boxes)
    if boxed:
        of_them = "" if boxed == len(films) else f", {boxed} of them"
        caption += f"{of_them} with the boxes of their findings (yellow)"
    caption += "."
    return figure, pl.DataFrame(rows), caption


def examples(folder: Path) -> tuple[list[np.ndarray], list[str], list[Boxes]]:
    """Films of a cohort for a contact sheet: one for each finding that it shows, then one without any.

    Of the cases that show a finding, the first by sample_id of those with fewest others; of real films, one
    on which a reader boxed it comes before. Returns images (H, W), titles (two lines: the finding, and its
    side and grade and how many others are on the film) and the boxes of that finding, percent.
    """
    cases = tables.read_table("studies", folder / "studies.parquet")
    findings = tables.read_table("findings", folder / "findings.parquet").filter(status="present")
    boxes = tables.read_table("boxes", folder / "boxes.parquet").filter(image_id=1)
    if (folder / "scenes.parquet").is_file():
        scenes = pl.read_parquet(folder / "scenes.parquet").join(cases, on="sample_id", how="semi")
        findings = findings.join(boxes.rename({"target": "finding"}), on=["sample_id", "finding"], how="semi")
    else:
        scenes = _annotated(cases, findings)
    scenes = scenes.sort(pl.col("rendered").list.len(), "sample_id")
    boxed = boxes.select("sample_id", finding="target", boxed=pl.lit(True)).unique()
    shown = scenes.join(findings, on="sample_id", maintain_order="left")
    shown = shown.join(boxed, on=["sample_id", "finding"], how="left", maintain_order="left")
    shown = shown.sort("boxed", nulls_last=True, maintain_order=True)
    shown = shown.unique("finding", keep="first", maintain_order=True)
    order = {name: place for place, name in enumerate(FINDINGS)}
    rows = sorted(shown.rows(named=True), key=lambda row: order[row["finding"]])
    nothing = pl.concat_list("rendered", "not_visible").list.len() == 0
    films, titles, marked = [], [], []
    for row in [*rows, *scenes.filter(nothing).head(1).rows(named=True)]:
        name = row.get("finding", "no finding")
        others = len(set(row["rendered"]) - {name})
        words = [row.get("laterality"), row.get("severity"), f"{others} more" if others else None]
        films.append(images.read(folder / row["film"]))
        titles.append(f"{name}\n{', '.join(filter(None, words))}")
        here = boxes.filter(sample_id=row["sample_id"], target=name)
        marked.append(here.select(CORNERS).rows())
    return films, titles, marked


def _annotated(cases: pl.DataFrame, present: pl.DataFrame) -> pl.DataFrame:
    """Of real films what scenes.parquet says of simulated ones: sample_id, film, rendered, not_visible."""
    stated = present.group_by("sample_id").agg(rendered=pl.col("finding").unique())
    films = cases.select("sample_id", film=pl.col("images").list.first()).join(
        stated, on="sample_id", how="left"
    )
    nothing = pl.lit([], dtype=pl.List(pl.String))
    return films.with_columns(pl.col("rendered").fill_null(nothing), not_visible=nothing)
