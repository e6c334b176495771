"""The model card: what a checkpoint is, what it was trained on and how, what it scores, what it is not for.

`write` puts it beside the weights when training ends. Test scores are known later: `with_scores` gives the
same card with them, for whoever publishes the weights.
"""

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tqdm.auto import tqdm

from cxrtrek_lib import documents, tables
from cxrtrek_lib.conversations import KINDS, STAGES
from cxrtrek_lib.inference_stats import with_interval
from cxrtrek_lib.terms import CT, TERMS

NAME = "CXRTrekNet, rebuilt"
NO_SCORES = "Not yet scored on test cases; the report of the study writes this card again, scores included."
# Made by this study; their image encoder is pretrained here.
BASES = {"small": None, "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
PACKAGES = ("torch", "transformers", "accelerate", "peft", "tokenizers", "numpy", "polars")
SYSTEMS = {"predicted": "the model", "majority": "most common answer", "blank_image": "the model, blank film"}
# Keys of evaluation.json, and of `grounding` in it -> what a reader is told it is.
SCORES = {
    "overall": "overall: mean of the stage scores",
    "yes_no_balanced_accuracy": "yes/no questions: balanced accuracy",
    "detection_mean_iou": "boxes: mean IoU",
}
GROUNDING = {
    "presence": "is a finding there: balanced accuracy",
    "side": "on which side is it: accuracy",
    "region_box": "boxes of regions: mean IoU",
    "finding_box": "boxes of findings: mean IoU",
}


def cohort_sha256(folder: Path) -> str:
    """SHA-256 over names and contents of a cohort's tables and films, in order of name."""
    digest = hashlib.sha256()
    found = sorted(file for kind in ("*.parquet", "*.png") for file in Path(folder).rglob(kind))
    for file in tqdm(found, desc="hashing the cohort", unit="file", delay=5):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def write(folder: Path, *, history: dict[str, Any], settings: dict[str, Any], films: Path) -> None:
    """Write README.md, a Hugging Face model card, into the folder of a checkpoint.

    history   its history.json: `checkpoint`, `encoder` (a row per epoch), `decoder` (curve), `parameters`,
              `cases`
    settings  what it was trained with: the groups `model` and `train` of params.yaml, and `seed`
    films     folder of the training cohort
    Raises ValueError or FileNotFoundError, one line, when the cohort's studies cannot be read.
    """
    checkpoint = history["checkpoint"]
    base = Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint  # a path is nobody else's
    header = ModelCardData(
        language="en",
        license="other",
        license_name="terms-of-each-source",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=BASES.get(checkpoint, base),
        tags=["chest-x-ray", "radiology", "medical", "vision-language", "research-only"],
        model_name=NAME,
    )
    studies = tables.read_table("studies", Path(films) / "studies.parquet")
    studies = studies.filter(pl.col("split").is_in(["train", "validate"]))
    sources = studies["source"].value_counts().sort("source").rows()
    checked = [row for row in history["decoder"] if "validation_loss" in row]
    best = min(checked, key=lambda row: row["validation_loss"])
    parts = {f"stage_{stage}": f"stage {stage}: {title}" for stage, (title, _) in STAGES.items()}
    parts |= {kind: kind for kind in KINDS}
    card = documents.template("model_card.md.j2").render(
        header=header.to_yaml(),
        name=NAME,
        checkpoint=checkpoint if checkpoint in BASES else base,
        assembled=checkpoint in BASES,
        parameters=history["parameters"],
        cases=history["cases"],
        encoder_epochs=len(history["encoder"]),
        settings=settings,
        parameter_rows=_flat(settings),
        origins=sorted(studies["image_origin"].unique()),
        sources=[(source, f"{n:,}", TERMS.get(source, "ask the source")) for source, n in sources],
        ct=CT,
        data_sha256=cohort_sha256(films),
        steps=f"{max(row['step'] for row in history['decoder']):,}",
        best=best,
        losses=[(title, best[key]) for key, title in parts.items() if key in best],
        packages=[f"Python {platform.python_version()}", *(f"{p} {metadata.version(p)}" for p in PACKAGES)],
        evaluation=NO_SCORES,
        thousands=lambda n: f"{n:,}",
    )
    (Path(folder) / "README.md").write_text(card + "\n", encoding="utf-8")


def _flat(settings: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Rows (dotted name, value) of nested settings; null as params.yaml writes it."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{above}{name}.")
        else:
            rows.append((f"`{above}{name}`", "null" if value is None else value))
    return rows


def with_scores(card: Path, evaluation: dict[str, Any], *, origin: str) -> str:
    """A written card with its test scores, in words and as `model-index` in the header.

    evaluation  the content of evaluation.json
    origin      "simulated" or "real": where the test films come from
    Raises ValueError, one line, when the card has no place for them.
    """
    found = ModelCard.load(card, ignore_metadata_errors=False)
    if NO_SCORES not in found.text:
        raise ValueError(f"{card}: no place for test scores; run `dvc repro finetune` to write it again")
    own = {key: evaluation[key]["predicted"] for key in SCORES if evaluation[key]["predicted"]["n"]}
    found.data.eval_results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type="cxrtrek-rebuilt",
            dataset_name=f"test cases of the training cohort ({origin} films)",
            dataset_split="test",
            metric_type=key,
            metric_name=SCORES[key],
            metric_value=round(score["score"], 4),
        )
        for key, score in own.items()
    ]
    table = _scores_table(evaluation, origin)
    return f"---\n{found.data.to_yaml()}\n---\n{found.text.replace(NO_SCORES, table)}"


def _scores_table(evaluation: dict[str, Any], origin: str) -> str:
    """The test scores as Markdown: one row per measure, one column per system."""
    rows = [(label, evaluation[key]) for key, label in SCORES.items()]
    rows += [(label, evaluation["grounding"][key]["scores"]) for key, label in GROUNDING.items()]
    rows += [
        (f"stage {stage}: {title}", {name: evaluation["stages"][name][str(stage)] for name in SYSTEMS})
        for stage, (title, _) in STAGES.items()
    ]
    lines = [
        f"Test cases of the training cohort, {origin} films, own earlier answers as context. Scores from 0 "
        "to 1, higher is better; in brackets the 95 % interval (bootstrap over patients), n answers.",
        "",
        f"| score | n | {' | '.join(SYSTEMS.values())} |",
        f"|---|---|{'---|' * len(SYSTEMS)}",
    ]
    for label, by_system in rows:
        if by_system["predicted"]["n"]:
            cells = [with_interval(by_system[name]) for name in SYSTEMS]
            lines.append(f"| {label} | {by_system['predicted']['n']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)
