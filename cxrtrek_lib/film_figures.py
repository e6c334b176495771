"""Figures of test films: cases of a cohort, and detection answers beside what is true.

As in figures.py, every function returns (figure, data, caption).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from cxrtrek_lib import draws, images
from cxrtrek_lib.contact_sheet import GOLD, Boxes, contact_sheet, draw_boxes, film_axes, grid
from cxrtrek_lib.conversations import is_box, parse_boxes
from cxrtrek_lib.figures import Drawing, style, styled
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.metrics import box_score
from cxrtrek_lib.tables import CORNERS, KEYS

ANSWER = "#56B4E9"  # sky blue: beside yellow, tellable on black, on white and by the colour-blind


@styled
def detection_examples(
    films: Sequence[np.ndarray],
    names: Sequence[str],
    gold: Sequence[Boxes],
    predicted: Sequence[Boxes],
    *,
    origin: str,
    columns: int = 5,
) -> Drawing:
    """Gold boxes (solid) and answered boxes (dashed) on their films, with the mean IoU of each answer.

    films, names     one per example; names say what was to be found
    gold, predicted  per example, boxes in percent of the image; an answer without box is an empty list
    """
    figure, axes = grid(len(films), columns, 2)
    rows = []
    for ax, film, name, right, said in zip(axes, films, names, gold, predicted, strict=False):
        iou = box_score(right, said)["iou"] if len(said) else 0.0
        film_axes(ax, film, f"{name}\n" + (f"IoU {iou:.2f}" if len(said) else "no box answered"), origin)
        draw_boxes(ax, right, GOLD, "-")
        draw_boxes(ax, said, ANSWER, (0, (3, 2)))
        rows.append({"target": name, "iou": iou, "gold_boxes": len(right), "answered_boxes": len(said)})
    mean = float(np.mean([row["iou"] for row in rows]))
    caption = (
        f"Detection answers on {len(rows)} {origin} test films: gold box (yellow, solid) and answered "
        "box (blue, "
        f"dashed). Examples were drawn by hash, not chosen; their mean IoU is {mean:.2f}."
    )
    return figure, pl.DataFrame(rows), caption


def case_films(
    films: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    gold: Sequence[Boxes] = (),
    answered: Sequence[Boxes] = (),
    origins: Sequence[str],
) -> Figure:
    """The films of one case side by side, gold boxes yellow and solid, answered ones blue and dashed.

    films           float (H, W) in [0, 1], drawn in their own proportions
    gold, answered  per film, boxes in percent of it; empty for none on any
    origins         per film, written into it
    """
    with style():
        figure, axes = plt.subplots(1, len(films), figsize=(3.4 * len(films), 3.9), squeeze=False)
        gold, answered = (boxes or [[]] * len(films) for boxes in (gold, answered))
        parts = zip(axes[0], films, titles, gold, answered, origins, strict=True)
        for ax, film, title, right, said, origin in parts:
            film_axes(ax, film, title, origin)
            ax.set_aspect(film.shape[0] / film.shape[1])
            draw_boxes(ax, right, GOLD, "-")
            draw_boxes(ax, said, ANSWER, (0, (3, 2)))
    return figure


def _first_by_hash(samples: Sequence[str], seed: int, purpose: str, n: int) -> list[str]:
    return sorted(samples, key=lambda sample: (draws.key(seed, purpose, sample), sample))[:n]


def cohort_sheet(
    studies: pl.DataFrame,
    findings: pl.DataFrame,
    boxes: pl.DataFrame,
    folder: Path,
    *,
    seed: int,
    n: int = 10,
) -> Drawing:
    """Contact sheet of n cases drawn by hash: view, what is present, and the boxes of the findings.

    studies, findings, boxes  tables of a cohort (schema.py); boxes of anatomical regions are not drawn
    folder                    of the cohort: the studies' images are relative to it
    """
    known = {study["sample_id"]: study for study in studies.iter_rows(named=True)}
    films, titles, marked = [], [], []
    for sample in _first_by_hash(list(known), seed, "cohort sheet", n):
        study = known[sample]
        here = findings.filter(pl.col("sample_id") == sample, pl.col("status") == "present")
        where = boxes.filter(pl.col("sample_id") == sample, pl.col("image_id") == 1)
        where = where.filter(pl.col("target").is_in(list(FINDINGS)))
        films.append(images.read(folder / study["images"][0]))
        shown = here["finding"].to_list() or ["no finding"]
        more = f", {len(shown) - 1} more" if len(shown) > 1 else ""
        titles.append(f"{shown[0]}\n{study['source']}, {study['views'][0]}{more}")
        marked.append(where.select(CORNERS).rows())
    figure, data, caption = contact_sheet(
        films, titles, marked, origin=studies["image_origin"].unique().item()
    )
    return figure, data, f"{caption} Drawn by hash from {len(known):,} cases, not chosen."


def answer_examples(
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    predictions: pl.DataFrame,
    folder: Path,
    *,
    seed: int,
    n: int = 10,
) -> Drawing:
    """Detection answers about findings (not regions), one per case, n cases drawn by hash.

    Raises ValueError when no detection question about a finding was asked.
    """
    asked = qa.filter(pl.col("qtype") == "detection", pl.col("target").is_in(list(FINDINGS)))
    answers = predictions.select("sample_id", "turn", given="answer")
    given = asked.join(answers, on=KEYS, how="left")
    known = {study["sample_id"]: study for study in studies.iter_rows(named=True)}
    films, names, gold, said = [], [], [], []
    for sample in _first_by_hash(given["sample_id"].unique().to_list(), seed, "detection examples", n):
        turns = given.filter(pl.col("sample_id") == sample).sort("turn").rows(named=True)
        turn = draws.pick(seed, sample, "detection examples", turns)
        films.append(images.read(folder / known[sample]["images"][(turn["image_id"] or 1) - 1]))
        names.append(turn["target"])
        gold.append(turn["bbox_list"])
        said.append([box for box in parse_boxes(turn["given"] or "") if is_box(box)])
    origin = studies["image_origin"].unique().item()
    return detection_examples(films, names, gold, said, origin=origin)
