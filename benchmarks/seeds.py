"""How far scores vary with the training seed: encoder and decoder trained anew on the same films.

    PYTHONPATH=. python benchmarks/seeds.py [--seeds 0 1 2] [--out FOLDER]

Trains with the settings of params.yaml, asks the test cases with the model's own context and without any, and
prints for each measure the score of every seed, their mean and standard deviation, and what always giving the
most common training answer scores. Needs the films (`dvc repro cohort_images`). A finished training lies in
FOLDER and is not done again. Writes FOLDER/seeds.md; reports/seeds.md is that of the default parameters.
"""

import argparse
import statistics
from pathlib import Path

import polars as pl

from cxrtrek_lib import (
    chat,
    evaluation,
    finetune,
    grounding_scores,
    metrics,
    params,
    paths,
    prediction_run,
    pretrain,
    tables,
    untuned,
)
from cxrtrek_lib import model as models
from cxrtrek_lib.baselines import majority_predictions
from cxrtrek_lib.grounding_scores import MEASURES
from cxrtrek_lib.readme import table
from cxrtrek_lib.train_settings import processor_precision

CONTEXTS = ("predicted", "none")


def trained(seed: int, settings: params.Params, words: list[str], work: Path) -> Path:
    """Folder of the checkpoint trained with this seed."""
    out, films = work / "trained", paths.FILMS / "training"
    if (out / "history.json").is_file():
        return out
    model = settings.model.model_dump()
    table, findings, boxes = pretrain.films(films)
    tower, _ = pretrain.encoder_for(
        table.filter(split="train"), findings, boxes,
        epochs=model["encoder_epochs"], precision=processor_precision(settings.train.precision),
        seed=seed, work=work, key=f"seed {seed}",
    )  # fmt: skip
    models.save(*models.assemble(model["checkpoint"], tower, words, model, seed=seed), work / "start")
    job = {
        "start": str(work / "start"), "films": str(films), "train": settings.train.model_dump(),
        "lora_rank": None if model["checkpoint"] == "small" else model["lora_rank"],
        "tune_encoder": model["tune_encoder"], "seed": seed, "limit": {"train": None, "validate": None},
        "out": str(out), "work": str(work), "film_tokens": str(work / "film_tokens"),
    }  # fmt: skip
    finetune.launch(job, processes=settings.train.processes, config=settings.train.accelerate_config)
    return out


def rows_of(context: str, scored: pl.DataFrame) -> list[dict]:
    """One row per measure: overall score, and what only the film can tell."""
    overall = evaluation.stage_scores(scored, n_boot=1, seed=0).row(-1, named=True)
    found = [{"measure": "overall", "score": overall["score"], "n": overall["n"]}]
    grounding = grounding_scores.scores({context: scored}, n_boot=1, seed=0)
    found += grounding.select("measure", "score", "n").to_dicts()
    return [{"context": context} | row for row in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("seeds"))
    asked = parser.parse_args()
    settings, folder = params.load(), paths.FILMS / "training"
    if settings.model.checkpoint not in models.ASSEMBLED:
        raise SystemExit(
            f"model.checkpoint is {settings.model.checkpoint}; only {models.ASSEMBLED} start from a seed"
        )
    studies, qa = (tables.read_table(name, folder / f"{name}.parquet") for name in ("studies", "qa"))
    split = {
        name: qa.join(studies.filter(split=name), on="sample_id", how="semi") for name in ("train", "test")
    }
    cases = {name: chat.cases(studies.filter(split=name), qa, folder) for name in split}
    words = untuned.words(cases["train"])
    rows = []
    for seed in asked.seeds:
        work = asked.out / str(seed)
        work.mkdir(parents=True, exist_ok=True)
        checkpoint = trained(seed, settings, words, work)
        for context in CONTEXTS:
            answers = prediction_run.run(
                checkpoint, cases["test"], context=context, work=work / context,
                film_tokens=work / "film_tokens", **settings.predict.model_dump(),
            )  # fmt: skip
            rows += rows_of(context, metrics.score_answers(split["test"], answers, studies))
    usual = metrics.score_answers(split["test"], majority_predictions(split["train"], split["test"]), studies)
    usual = {row["measure"]: row["score"] for row in rows_of("majority", usual)}
    patients = studies.filter(split="test")["patient_id"].n_unique()
    told = "\n".join(
        [
            "# How far the scores vary with the training seed",
            "",
            f"{patients} test patients, simulated films; encoder and decoder trained with seeds "
            f"{', '.join(map(str, asked.seeds))}; mean ± standard deviation over seeds. Made by "
            "`benchmarks/seeds.py`.",
            "",
            table(
                ["measure", "context", "score", "each seed", "most common answer", "n"],
                cells(pl.DataFrame(rows), usual),
            ),
        ]
    )
    (asked.out / "seeds.md").write_text(told + "\n", encoding="utf-8")
    print(f"\n{told}")


def cells(scored: pl.DataFrame, usual: dict[str, float]) -> list[list[str]]:
    """The rows of the table, one for each measure and context."""
    found = []
    for (measure, context), part in scored.group_by("measure", "context", maintain_order=True):
        scores = part["score"].to_list()
        spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        row = [
            MEASURES[measure].label if measure in MEASURES else measure,
            "own answers" if context == "predicted" else context,
            f"{statistics.mean(scores):.3f}{spread}",
            ", ".join(f"{score:.3f}" for score in scores),
            f"{usual[measure]:.3f}",
            f"{part['n'][0]:,}",
        ]
        found.append(row)
    return found


if __name__ == "__main__":
    main()
