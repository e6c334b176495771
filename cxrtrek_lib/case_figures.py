"""Figure of one case: an error followed from the film through the answers to the report.

As in figures.py, the function returns (figure, data, caption).
"""

import textwrap
from pathlib import Path

import polars as pl
from matplotlib import pyplot as plt

from cxrtrek_lib import images
from cxrtrek_lib.contact_sheet import GOLD, draw_boxes, film_axes
from cxrtrek_lib.conversations import REPORT_STAGE, is_box, parse_boxes
from cxrtrek_lib.figures import BLUE, GREY, PAGE, RED, Drawing, styled
from cxrtrek_lib.film_figures import ANSWER
from cxrtrek_lib.text_findings import findings_in


def _states(text: str | None, finding: str) -> str:
    says = findings_in(text or "").get(finding)
    return {"present": "states it", "uncertain": "possible", "absent": "denies it", None: "silent"}[says]


def _short(entry: dict, name: str) -> str:
    """An answer in a few words: what a report says of the finding, "box", or the text itself."""
    text = entry[name] or ""
    if entry["stage"] == REPORT_STAGE:
        return _states(text, entry["finding"])
    if parse_boxes(text):
        return "box"
    return textwrap.shorten(text, 40, placeholder=" ...") or "no answer"


@styled
def worked_case(
    chain: pl.DataFrame, studies: pl.DataFrame, folder: Path, *, n_cases: int, origin: str
) -> Drawing:
    """One error from the film to the report: the film with boxes, and each answer about the finding.

    chain    of consistency.worked_case; empty: the figure says that there is no such case
    studies  of the cohort; images are relative to `folder`
    n_cases  findings that the case was drawn from
    """
    height = max(2.6, 0.55 + 0.3 * chain.height)
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, height), gridspec_kw={"width_ratios": (1, 1.9)})
    for ax in (left, right):
        ax.set_axis_off()
    if chain.is_empty():
        caption = f"No error of stage 2 comes back in a report ({origin} films)."
        right.text(0, 0.5, caption, transform=right.transAxes, va="center")
        return figure, chain, caption
    sample, finding = chain["sample_id"][0], chain["finding"][0]
    study = studies.filter(sample_id=sample).row(0, named=True)
    film_axes(left, images.read(folder / study["images"][0]), f"{study['views'][0]} film", origin)
    boxed = [entry for entry in chain.iter_rows(named=True) if entry["stage"] < REPORT_STAGE]
    for name, colour, line in (("gold", GOLD, "-"), ("said", ANSWER, (0, (3, 2)))):
        boxes = [box for entry in boxed for box in parse_boxes(entry[name] or "") if is_box(box)]
        draw_boxes(left, boxes, colour, line)
    right.set_xlim(0, 1)
    right.set_ylim(chain.height - 0.3, -0.9)
    columns = (0.0, 0.09, 0.60, 0.76, 0.93)
    for x, head in zip(columns, ("stage", "question", "annotated", "answered", ""), strict=True):
        right.text(x, -0.5, head, color=GREY, va="center", fontsize=6)
    for row, entry in enumerate(chain.iter_rows(named=True)):
        question = textwrap.shorten(entry["question"].replace("<image>", ""), 84, placeholder=" ...")
        cells = (
            str(entry["stage"]),
            textwrap.fill(question, 44),
            _short(entry, "gold"),
            _short(entry, "said"),
        )
        for x, text in zip(columns, cells, strict=False):
            fill = text if x < 0.5 else textwrap.fill(text, 15)
            right.text(x, row + 0.1, fill, va="center", fontsize=6, linespacing=1.1)
        mark, colour = ("right", BLUE) if entry["right"] else ("wrong", RED)
        right.text(columns[-1], row + 0.1, mark, va="center", fontsize=6, color=colour, fontweight="bold")
    right.set_title(f"{finding}: all answers about it")
    caption = (
        f"An early error that comes back: {finding} in case {sample} ({origin} film). Stage 2 is wrong about "
        f"its presence, and the report repeats it. Drawn by hash from {n_cases:,} such findings, not chosen. "
        "Boxes: annotated (yellow, solid), answered (blue, dashed); of a report, what it says of the "
        "finding. Full texts are in the table."
    )
    return figure, chain, caption
