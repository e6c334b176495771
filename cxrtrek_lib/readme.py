"""The numbers of README.md, written from reports/metrics so that they cannot go stale.

    python -m cxrtrek_lib.readme [--check]

Text between `<!-- NAME: generated -->` and `<!-- /NAME -->` is replaced; everything else is left alone. With
--check nothing is written, and a README that differs is an error (exit status 1).
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxrtrek_lib import files, paths
from cxrtrek_lib.grounding_scores import MEASURES
from cxrtrek_lib.inference_stats import with_interval
from cxrtrek_lib.report import QUESTIONS, ablations_in_words, beside_majority, findings_in_words
from cxrtrek_lib.score_figures import looks
from cxrtrek_lib.transfer_figures import TITLES

Metrics = dict[str, dict[str, Any]]
NAMES = ("dataset", "finetune", "evaluation", "ablations", "transfer")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def figure(metrics: Metrics) -> str:
    """What the first figure shows, in a sentence each."""
    answers = {item["question"]: item["answer"] for item in findings_in_words(metrics["evaluation"])}
    film, context = (answers[QUESTIONS[key][0]] for key in ("predicted - blank_image", "predicted - none"))
    return (
        f"*Figure 4 of the paper, rebuilt at this run's size. (a) Does the model look at the film? {film}. "
        f"(b) Does the context of earlier stages help? {context}. Films are **simulated**; n and intervals "
        "are in the [caption](reports/tables/stage_radar.txt).*"
    )


def scores(metrics: Metrics) -> str:
    """Every system beside the others, and what the paired tests say."""
    found = metrics["evaluation"]
    keys = ("overall", "yes_no_balanced_accuracy", "detection_mean_iou")
    rows = []
    for name, (label, _, _) in looks(found["overall"]).items():
        label = f"**{label} (headline)**" if name == "predicted" else label
        rows.append([label, *(with_interval(found[key][name]) for key in keys)])
    n = found["overall"]["predicted"]["n"]
    patients = found["calibration"]["predicted"]["yes_no"]["n_patients"] if "calibration" in found else None
    about = f"{n:,} test questions" + (f" of {patients:,} patients" if patients else "")
    shown = table(["system", "overall score", "yes/no, balanced accuracy", "boxes, mean IoU"], rows)
    said = "\n".join(
        f"- **{item['question']}** {item['answer']} ({item['numbers']})." for item in findings_in_words(found)
    )
    return f"{about}, 95 % intervals, patients resampled; one training run:\n\n{shown}\n\n{said}"


def grounding(metrics: Metrics) -> str:
    """Questions that only the film answers: the model, the same on a blank film, the most common answer."""
    found = metrics["evaluation"]["grounding"]
    systems = ("predicted", "none", "blank_image", "majority")
    present = [name for name in systems if all(name in found[key]["scores"] for key in MEASURES)]
    labels = looks(present)
    rows = []
    for key, measure in MEASURES.items():
        by_system = found[key]["scores"]
        cells = [with_interval(by_system[name]) for name in present]
        rows.append([f"{measure.label} ({measure.metric})", *cells, f"{by_system['predicted']['n']:,}"])
    return table(["", *(labels[name][0] for name in present), "n"], rows)


def ablations(metrics: Metrics) -> str:
    """What the ablations say, in words."""
    found = metrics["ablations"]
    lines = [
        f"- **{item['question']}** {item['answer']} ({item['numbers']})."
        for item in ablations_in_words(found)
    ]
    return "\n".join([*lines, "", beside_majority(found)])


def external(metrics: Metrics) -> str:
    """Headline scores on the data sets that were never trained on, in the stage flow and asked alone."""
    rows: dict[tuple, list[str]] = {}
    for entry in metrics["transfer"].values():
        for row in entry["metrics"].values():
            if not row["headline"] or row["asked"] == "two readers":  # no score of a model
                continue
            name = (TITLES.get(row["dataset"], row["dataset"]), f"{row['task']}: {row['metric']}")
            beside = ["-" if row[key] is None else f"{row[key]:.3f}" for key in ("baseline", "majority")]
            line = rows.setdefault(name, [*name, row["image_origin"], "-", "-", *beside, f"{row['n']:,}"])
            line[4 if row["asked"] == "alone" else 3] = (
                row["note"] if row["score"] is None else with_interval(row)
            )
    header = ["external set", "task", "films", "in the stage flow", "alone", "blank film", "no film", "n"]
    return table(header, list(rows.values()))


def dataset(metrics: Metrics) -> str:
    """How large the dataset is, beside the paper's."""
    found = metrics["dataset"]
    asked = sum(1 for n in found["stages"].values() if n)
    return (
        f"{found['n_studies']:,} studies of {found['n_patients']:,} patients, "
        f"**{found['n_qa']:,} Q&A** ({found['qa_per_study']:.2f} per study; the paper: 428,966 samples, over "
        f"11 million, 26.29), {found['n_facts']:,} different facts, {asked} of the 8 stages. Stage 3 has "
        f"{found['stages']['3'] / found['n_studies']:.1f} Q&A per study, the paper's published samples 13.7."
    )


BLOCKS: dict[str, Callable[[Metrics], str]] = {
    "figure": figure, "scores": scores, "grounding": grounding, "ablations": ablations,
    "external": external, "dataset": dataset,
}  # fmt: skip


def filled(text: str, metrics: Metrics) -> str:
    """A README with every generated block written anew.

    Raises ValueError, one line, when a block is missing, stands twice or is not closed.
    """
    for name, block in BLOCKS.items():
        pattern = rf"(<!-- {name}: generated -->\n).*?(<!-- /{name} -->)"
        if len(re.findall(pattern, text, flags=re.DOTALL)) != 1:
            raise ValueError(
                f"README.md: needs one block `<!-- {name}: generated -->` closed by `<!-- /{name} -->`"
            )
        content = block(metrics)
        text = re.sub(
            pattern, lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL
        )
    return text


def metrics(folder: Path = paths.METRICS) -> Metrics:
    """The metrics files that README.md shows. FileNotFoundError, one line, when one is not there."""
    for name in NAMES:
        if not (folder / f"{name}.json").is_file():
            raise FileNotFoundError(f"{folder.name}/{name}.json: not there; run `dvc repro`")
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cxrtrek_lib.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when README.md differs")
    asked = parser.parse_args(arguments)
    try:
        old = paths.README.read_text(encoding="utf-8")
        new = filled(old, metrics())
        if asked.check and new != old:
            raise ValueError("README.md: not what reports/metrics say; run `python -m cxrtrek_lib.readme`")
        if new != old:
            with files.whole(paths.README) as temporary:
                temporary.write_text(new, encoding="utf-8")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("README.md: as reports/metrics" if new == old else "README.md: numbers written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
