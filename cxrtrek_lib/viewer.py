"""A self-contained HTML viewer of test cases: films with boxes, eight stages of answers beside gold.

Needs no server and no network: films and answers are embedded, boxes are SVG over the films, one script shows
a case at a time and filters by stage, finding and right or wrong. `case_viewer` makes a fragment for a page,
`in_notebook` shows one in a notebook.
"""

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from IPython.display import HTML
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from cxrtrek_lib import documents, draws, images
from cxrtrek_lib.conversations import PLACEHOLDER, STAGES, format_of, is_box, parse_boxes, split_label
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.tables import KEYS
from cxrtrek_lib.text_findings import findings_in

FILM_PX = 384  # longest side of an embedded film; smaller ones stay as they are
# What stood in the context of a question (predict.CONTEXTS), in words.
CONTEXTS = {"predicted": "its own earlier answers", "gold": "the annotated earlier answers", "none": ""}
_FRAME = (
    ":root { color-scheme: light dark } body { margin: .6rem; font: 15px/1.5 system-ui, sans-serif; "
    "background: Canvas; color: CanvasText }"
)
_BOX_TEXT = re.compile(r"<\|ref\|>\s*(.*?)\s*<\|/ref\|>((?:\s*<\|box\|>.*?<\|/box\|>)+)")


def data_uri(path: Path) -> str:
    """A PNG or JPEG file as a data: address. FileNotFoundError (one line) when it is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name}: no such picture in {path.parent.name}/; run `dvc repro`")
    kind = "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def labelled_film(path: Path, origin: str) -> str:
    """A film as a data: address (WebP, some kB) with its origin written into the picture, lower left.

    The label is part of the pixels, so that it stays when the picture is saved or cut out of a page.
    Raises FileNotFoundError or ValueError (one line), as images.read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name}: no such film in {path.parent}; run `dvc repro cohort_images`")
    film = Image.fromarray(np.round(images.read(path) * 255).astype(np.uint8))
    film.thumbnail((FILM_PX, FILM_PX))
    draw, font = ImageDraw.Draw(film), ImageFont.load_default(max(9, film.width // 22))
    place = (film.width // 60, film.height - film.height // 60)
    draw.text(place, origin.upper(), fill=255, font=font, anchor="ld", stroke_width=1, stroke_fill=0)
    buffer = io.BytesIO()
    film.save(buffer, "webp", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def readable(answer: str) -> str:
    """An answer for people: the markers of box answers become "name at (x, y) to (x, y)"."""

    def say(found: re.Match) -> str:
        corners = (
            f"({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f})" for x1, y1, x2, y2 in parse_boxes(found[2])
        )
        return f"{found[1]} at {' and '.join(corners)}"

    return _BOX_TEXT.sub(say, answer)


def mark(row: dict[str, Any]) -> tuple[str, str]:
    """(class, text) of the mark beside an answer: right, wrong, or partly with its score."""
    if not row["answered"]:
        return "wrong", "not answered"
    if not row["parsed"]:
        return "wrong", "unreadable"
    if row["score"] >= 0.995:
        return "right", "right"
    return ("wrong", "wrong") if row["score"] < 0.005 else ("partly", f"{row['score']:.2f}")


def findings_of(turn: dict[str, Any], given: str | None) -> list[str]:
    """Findings that a question is about: by its fact, target or right options; of an open one that says none
    of these, those that gold or answer state.
    """
    options = [split_label(option)[1] for option in turn["answer_list"] or []]
    parts = [*(turn["fact"] or "").replace("; ", "|").split("|"), turn["target"], *options]
    named = {name for name in parts if name in FINDINGS}
    if named or format_of(turn["qtype"]) != "open-ended":
        return sorted(named)
    return sorted(findings_in(turn["answer"]).keys() | findings_in(given or "").keys())


def _turn(turn: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of one question; boxes as [film, x, y, width, height], film from 0, in percent.

    Keys without content are left out: there are thousands of turns.
    """
    detection, given = format_of(turn["qtype"]) == "detection", turn["given"]

    def rectangles(boxes: list[list[float]]) -> list[list[float]]:
        film = (turn["image_id"] or 1) - 1
        return [[film, x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)] for x1, y1, x2, y2 in boxes]

    question = turn["question"].replace(PLACEHOLDER, "").strip()
    kind, said = mark(row)
    if detection and row["iou"] is not None and row["parsed"]:
        said = f"IoU {row['iou']:.2f}"
    shown = {
        "stage": turn["stage"],
        "films": turn["image_input_count"],
        "question": question,
        # Most questions already name their options.
        "options": [option for option in turn["option_list"] or [] if option not in question],
        "gold": readable(turn["answer"]),
        "answer": readable(given or ""),
        "mark": kind,
        "said": said,
        "open": format_of(turn["qtype"]) == "open-ended",
        "yes": None if turn["prob_yes"] is None else round(turn["prob_yes"], 3),
        "sure": None if turn["prob_answer"] is None else round(turn["prob_answer"], 3),
        "findings": findings_of(turn, given),
        "target": turn["target"] if detection else "",
        "region": detection and turn["target"] not in FINDINGS,
        "gold_boxes": rectangles(turn["bbox_list"] or []) if detection else [],
        "answer_boxes": rectangles([b for b in parse_boxes(given or "") if is_box(b)]) if detection else [],
    }
    return {key: value for key, value in shown.items() if value or value == 0 and value is not False}


def case_viewer(
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    predictions: pl.DataFrame,
    rows: pl.DataFrame,
    folder: Path,
    *,
    seed: int,
    n_cases: int = 200,
    context: str = "predicted",
) -> str:
    """HTML fragment with up to n_cases cases, drawn by hash from those that have films and questions.

    studies, qa, predictions  tables as in tables.py
    rows                      scored answers of these predictions (metrics.score_answers)
    folder                    where the studies' images are: those of `views`, then the prior's
    context                   predicted | gold | none: what stood in the context of these predictions
    About 20 kB a case with films of 224 px. Raises ValueError when no case has both films and questions,
    FileNotFoundError when a film is missing.
    """
    known = {study["sample_id"]: study for study in studies.iter_rows(named=True)}
    candidates = [sample for sample in qa["sample_id"].unique() if known.get(sample, {}).get("images")]
    if not candidates:
        raise ValueError("viewer: no test case has both a film and questions; run `dvc repro cohort_images`")
    chosen = sorted(candidates, key=lambda sample: (draws.key(seed, "viewer", sample), sample))[:n_cases]
    given = predictions.select(*KEYS, "prob_yes", "prob_answer", given="answer")
    asked = qa.filter(pl.col("sample_id").is_in(chosen)).join(given, on=KEYS, how="left")
    scored = {(row["sample_id"], row["turn"]): row for row in rows.iter_rows(named=True)}
    turns = asked.sort("stage", "turn").partition_by("sample_id", as_dict=True)  # as the model is asked
    cases, films = [], {}
    for sample in tqdm(chosen, desc="cases for the viewer", unit="case", delay=1):
        study = known[sample]
        for image in study["images"]:
            if image not in films:
                films[image] = labelled_film(folder / image, study["image_origin"])
        labels = study["views"] + ["prior film"] * (len(study["images"]) - len(study["views"]))
        person = [study["source"], f"{study['age']:.0f} y" if study["age"] else None, study["sex"]]
        cases.append(
            {
                "name": sample,
                "person": ", ".join(filter(None, person)),
                "origin": study["image_origin"],
                "films": list(zip(labels, study["images"], strict=True)),
                "turns": [
                    _turn(turn, scored[sample, turn["turn"]]) for turn in turns[sample,].iter_rows(named=True)
                ],
            }
        )
    data = {
        "cases": cases,
        "films": films,
        "stages": {stage: title for stage, (title, _) in STAGES.items()},
        "context": CONTEXTS[context],
    }
    # Inside a script element only "<" could end it.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return documents.template("viewer.html.j2").render(data=text, stages=data["stages"])


def in_notebook(fragment: str, height: int = 820) -> HTML:
    """A fragment of `case_viewer` for the output of a notebook cell, in a frame of `height` CSS pixels.

    The frame keeps its keys and styles from the notebook's, and still needs no file and no server.
    """
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Cases</title><style>{_FRAME}</style>'
    return HTML(
        f'<div><iframe title="Case viewer" style="width: 100%; height: {height}px; border: 0" '
        f'srcdoc="{html.escape(page + fragment)}"></iframe></div>'
    )
