"""A self-contained HTML fragment to walk through test cases: films, boxes, eight stages, gold beside answer.

Needs no server and no network: films are embedded, boxes are SVG over them, one script turns the pages.
"""

import base64
import re
from pathlib import Path
from typing import Any

import polars as pl

from cxrtrek_lib import documents, draws
from cxrtrek_lib.conversations import PLACEHOLDER, STAGES, format_of, is_box, parse_boxes

_BOX_TEXT = re.compile(r"<\|ref\|>\s*(.*?)\s*<\|/ref\|>((?:\s*<\|box\|>.*?<\|/box\|>)+)")


def data_uri(path: Path) -> str:
    """A PNG or JPEG file as a data: address. FileNotFoundError (one line) when it is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name}: no such picture in {path.parent.name}/; run `dvc repro`")
    kind = "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


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


def _turn(turn: dict[str, Any], given: str | None, row: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of one question; boxes as (image_id, x, y, width, height) in percent."""
    detection = format_of(turn["qtype"]) == "detection"

    def rectangles(boxes: list[list[float]]) -> list[tuple]:
        image = turn["image_id"] or 1
        return [(image, x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)) for x1, y1, x2, y2 in boxes]

    question = turn["question"].replace(PLACEHOLDER, "").strip()
    kind, said = mark(row)
    if detection and row["iou"] is not None and row["parsed"]:
        said = f"IoU {row['iou']:.2f}"
    return {
        "number": turn["turn"],
        "question": question,
        # Most questions already name their options.
        "options": [option for option in turn["option_list"] or [] if option not in question],
        "gold": readable(turn["answer"]),
        "answer": readable(given) if given else "(no answer)",
        "same": given == turn["answer"],
        "mark": kind,
        "said": said,
        "target": turn["target"] or "",
        "gold_boxes": rectangles(turn["bbox_list"] or []) if detection else [],
        "answer_boxes": rectangles([b for b in parse_boxes(given or "") if is_box(b)]) if detection else [],
    }


def _films(study: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """(label, picture) of a study's films in the order of image_id."""
    labels = study["views"] + ["prior film"] * (len(study["images"]) - len(study["views"]))
    return [(label, data_uri(folder / image)) for label, image in zip(labels, study["images"], strict=True)]


def case_viewer(
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    predictions: pl.DataFrame,
    rows: pl.DataFrame,
    folder: Path,
    *,
    seed: int,
    n_cases: int = 24,
) -> str:
    """HTML fragment with up to n_cases cases, drawn by hash from those that have films and questions.

    studies, qa, predictions  tables as in schema.py
    rows                      scored answers of these predictions (metrics.score_answers)
    folder                    where the studies' images are: those of `views`, then the prior's
    Raises ValueError when no case has both films and questions, FileNotFoundError when a film is missing.
    """
    known = {study["sample_id"]: study for study in studies.iter_rows(named=True)}
    candidates = [sample for sample in qa["sample_id"].unique() if known.get(sample, {}).get("images")]
    if not candidates:
        raise ValueError("viewer: no test case has both a film and questions; run `dvc repro cohort_images`")
    chosen = sorted(candidates, key=lambda sample: (draws.key(seed, "viewer", sample), sample))[:n_cases]
    keys = ["sample_id", "turn"]
    joined = (
        qa.filter(pl.col("sample_id").is_in(chosen))
        .join(predictions.select(*keys, given="answer"), on=keys, how="left")
        .sort(keys)
    )
    scored = {(row["sample_id"], row["turn"]): row for row in rows.iter_rows(named=True)}
    cases = []
    for sample in chosen:
        stages: dict[int, list[dict]] = {}
        for turn in joined.filter(pl.col("sample_id") == sample).iter_rows(named=True):
            shown = _turn(turn, turn["given"], scored[sample, turn["turn"]])
            stages.setdefault(turn["stage"], []).append(shown)
        turns = [turn for part in stages.values() for turn in part]
        study, marks = known[sample], [turn["mark"] for turn in turns]
        person = [study["source"], f"{study['age']:.0f} y" if study["age"] else None, study["sex"]]
        cases.append(
            {
                "name": sample,
                "person": ", ".join(filter(None, person)),
                "origin": study["image_origin"],
                "films": _films(study, folder),
                "stages": [(stage, STAGES[stage][0], stages[stage]) for stage in sorted(stages)],
                "boxes": [turn for turn in turns if turn["gold_boxes"] or turn["answer_boxes"]],
                "counts": {kind: marks.count(kind) for kind in ("right", "partly", "wrong")},
            }
        )
    return documents.template("viewer.html.j2").render(cases=cases)
