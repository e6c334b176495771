"""External datasets: which task each one sets, and the field's score for it beside a blank-film baseline.

dataset  task               metric                   truth
nih      classification     AUROC per finding        NIH ChestX-ray14 labels adjudicated by radiologists
                                                     (Majkowska et al., Radiology 2020)
openi    report generation  ROUGE-L F1, finding-F1   Open-i reports as written (Demner-Fushman et al. 2016)

The five external sets of the paper are unknown to us; these are our own choice, and none is trained on. Each
question is asked inside the stage flow, after the model's own answers to the stages before it.
"""

import polars as pl

from cxrtrek_lib import inference_stats, metrics

# The label that the radiologists gave -> the finding that is asked about. Their "airspace opacity" is wider
# than consolidation; it is what the simulated films show for it, and the name the model was taught.
NIH_FINDINGS = {"pneumothorax": "pneumothorax", "airspace opacity": "consolidation"}
REPORT_STAGE = 8


def classification(
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    predictions: pl.DataFrame,
    blank: pl.DataFrame,
    *,
    n_boot: int,
    seed: int,
) -> list[dict]:
    """AUROC of P(yes) for each adjudicated finding, 95 % patient-cluster interval, blank films beside it.

    studies, qa         the external cohort
    predictions, blank  answers with films shown and with films blanked (columns sample_id, turn, prob_yes)
    Raises ValueError when a finding is asked of films with, or of films without it, only.
    """
    rows = []
    for label, finding in NIH_FINDINGS.items():
        asked = qa.filter(pl.col("fact") == f"{finding}|presence", pl.col("qtype") == "yes_no")
        truth = [metrics.yes_no(answer) == "yes" for answer in asked["answer"]]
        patients = asked.join(studies, on="sample_id", maintain_order="left")["patient_id"].to_list()

        def area(answers: pl.DataFrame, asked=asked, truth=truth, patients=patients) -> tuple:
            given = asked.join(answers, on=["sample_id", "turn"], how="left", maintain_order="left")
            return inference_stats.auroc(
                truth, given["prob_yes"].to_list(), patients, n_boot=n_boot, seed=seed
            )

        score, low, high = area(predictions)
        rows.append(
            {
                "task": "classification",
                "metric": f"AUROC, {label}",
                "score": score,
                "low": low,
                "high": high,
                "n": len(asked),
                "n_positive": sum(truth),
                "baseline": area(blank)[0],
            }
        )
    return rows


def report_generation(
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    predictions: pl.DataFrame,
    blank: pl.DataFrame,
    *,
    n_boot: int,
    seed: int,
) -> list[dict]:
    """ROUGE-L F1 and finding-F1 of the report questions against the written reports; arguments as above."""
    asked = qa.filter(pl.col("stage") == REPORT_STAGE)
    shown, blanked = (
        metrics.score_answers(asked, answers.join(asked, on=["sample_id", "turn"], how="semi"), studies)
        for answers in (predictions, blank)
    )
    rows = []
    for column, name in (("rouge_l", "ROUGE-L F1"), ("finding_f1", "finding-F1")):
        known = shown[column].is_not_null() & blanked[column].is_not_null()
        scores, patients = shown.filter(known)[column], shown.filter(known)["patient_id"]
        score, low, high = inference_stats.bootstrap_mean(scores, patients, n_boot=n_boot, seed=seed)
        rows.append(
            {
                "task": "report generation",
                "metric": name,
                "score": score,
                "low": low,
                "high": high,
                "n": len(scores),
                "n_positive": None,
                "baseline": blanked.filter(known)[column].mean(),
            }
        )
    return rows


TASKS = {"nih": classification, "openi": report_generation}


def score(
    dataset: str,
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    predictions: pl.DataFrame,
    blank: pl.DataFrame,
    *,
    n_boot: int,
    seed: int,
) -> list[dict]:
    """Rows of the transfer table: dataset, task, metric, score, low, high, n, baseline, image_origin ...

    Raises ValueError for an unknown dataset, a study that was trained on, or real and simulated films mixed.
    """
    if dataset not in TASKS:
        raise ValueError(f"unknown external dataset {dataset!r}; known: {', '.join(TASKS)}")
    trained = studies.filter(pl.col("split") != "external")
    if len(trained):
        raise ValueError(
            f"{dataset}: study {trained['sample_id'][0]} is in split {trained['split'][0]}, not external"
        )
    origins = studies["image_origin"].unique().sort().to_list()
    if len(origins) != 1:
        raise ValueError(f"{dataset}: films are a mixture of {', '.join(origins)}; score each kind apart")
    rows = TASKS[dataset](studies, qa, predictions, blank, n_boot=n_boot, seed=seed)
    return [
        {"dataset": dataset, **row, "baseline_name": "blank film", "image_origin": origins[0]} for row in rows
    ]
