"""What the arms of the ablations score: intervals, and paired tests against the reference arm.

The reference is the arm trained in stage order, used as it was trained: its own earlier answers as context.
"""

from pathlib import Path
from typing import Any

import polars as pl

from cxrtrek_lib import tables
from cxrtrek_lib.baselines import majority_predictions
from cxrtrek_lib.evaluation import difference, summary
from cxrtrek_lib.inference_stats import holm
from cxrtrek_lib.metrics import score_answers
from cxrtrek_lib.tables import KEYS

MEASURES = ("overall", "yes_no_balanced_accuracy", "detection_mean_iou")
REFERENCE = ("context", "predicted")
# A system that is no arm and has no context: the most common training answer.
MAJORITY = ("majority", "none")


def best(found: dict[str, Any]) -> float:
    """The highest overall score of any arm, asked with or without context; `found`: ablations.json."""
    arms = (contexts for name, contexts in found["arms"].items() if name != MAJORITY[0])
    return max(scores["overall"]["score"] for contexts in arms for scores in contexts.values())


def scored(folder: Path, studies: pl.DataFrame, qa: pl.DataFrame) -> dict[tuple[str, str], pl.DataFrame]:
    """Scored answers of every arm and context, and of the majority baseline, keyed (arm, context).

    folder       predictions/ablations: <arm>/<context>.parquet
    studies, qa  of the whole training cohort
    Raises FileNotFoundError when an arm is missing, ValueError when arms answered different questions.
    """
    files = sorted(folder.glob("*/*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no answers; run `dvc repro ablations`")
    answers = {(file.parent.name, file.stem): tables.read_table("predictions", file) for file in files}
    asked = qa.join(answers[REFERENCE], on=KEYS, how="semi")
    train = qa.join(studies.filter(split="train"), on="sample_id", how="semi")
    answers[MAJORITY] = majority_predictions(train, asked)
    return {key: score_answers(asked, given, studies, progress=True) for key, given in answers.items()}


def ablations_json(systems: dict[tuple[str, str], pl.DataFrame], *, n_boot: int, seed: int) -> dict[str, Any]:
    """The content of reports/metrics/ablations.json.

    systems  as `scored` gives them
    Keys: arms[arm][context][measure] = {score, low, high, n}; differences["arm, context"] = overall score
    less the reference's: {difference, low, high, p, p_holm, n}, one family for Holm's correction.
    """
    arms: dict[str, Any] = {}
    for (arm, context), rows in systems.items():
        found = summary(rows, n_boot=n_boot, seed=seed)
        arms.setdefault(arm, {})[context] = {key: found[key] for key in (*MEASURES, "parse_failure_rate")}
    tests = {
        key: difference(rows, systems[REFERENCE], n_boot=n_boot, seed=seed)
        for key, rows in systems.items()
        if key not in (REFERENCE, MAJORITY)
    }
    corrected = holm([test["p"] for test in tests.values()])
    return {
        "arms": arms,
        "reference": ", ".join(REFERENCE),
        "differences": {
            ", ".join(key): test | {"p_holm": p}
            for (key, test), p in zip(tests.items(), corrected, strict=True)
        },
    }
