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
from cxrtrek_lib.conversations import REPORT_STAGE

# The label that the radiologists gave -> the finding that is asked about. Their "airspace opacity" is wider
# than consolidation; it is what the simulated films show for it, and the name the model was taught.
NIH_FINDINGS = {"pneumothorax": "pneumothorax", "airspace opacity": "consolidation"}


def classification(studies: pl.DataFrame, qa: pl.DataFrame, answers: dict, **draws: int) -> list[dict]:
    """AUROC of P(yes) for each adjudicated finding; arguments as in `score`.

    Raises ValueError when a finding is asked of films with it, or of films without it, only.
    """
    rows = []
    for label, finding in NIH_FINDINGS.items():
        asked = qa.filter(pl.col("fact") == f"{finding}|presence", pl.col("qtype") == "yes_no")
        truth = [metrics.yes_no(answer) == "yes" for answer in asked["answer"]]
        patients = asked.join(studies, on="sample_id", maintain_order="left")["patient_id"].to_list()
        area = {}
        for shown, given in answers.items():
            joined = asked.join(given, on=["sample_id", "turn"], how="left", maintain_order="left")
            area[shown] = inference_stats.auroc(truth, joined["prob_yes"].to_list(), patients, **draws)
        counts = {"n": len(asked), "n_positive": sum(truth)}
        rows.append(_row(f"AUROC, {label}", area["films"], baseline=area["blank"][0], **counts))
    return rows


def report_generation(studies: pl.DataFrame, qa: pl.DataFrame, answers: dict, **draws: int) -> list[dict]:
    """ROUGE-L F1 and finding-F1 of the reports against the reports as written; arguments as in `score`."""
    asked = qa.filter(pl.col("stage") == REPORT_STAGE)
    scored = {
        shown: metrics.score_answers(asked, given.join(asked, on=["sample_id", "turn"], how="semi"), studies)
        for shown, given in answers.items()
    }
    rows = []
    for column, name in (("rouge_l", "ROUGE-L F1"), ("finding_f1", "finding-F1")):
        # A text without any known finding on either side has no finding-F1.
        known = scored["films"][column].is_not_null() & scored["blank"][column].is_not_null()
        films, blank = scored["films"].filter(known), scored["blank"].filter(known)
        mean = inference_stats.bootstrap_mean(films[column], films["patient_id"], **draws)
        rows.append(_row(name, mean, baseline=blank[column].mean(), n=len(films), n_positive=None))
    return rows


def _row(metric: str, found: tuple[float, float, float], **rest: object) -> dict:
    return {"metric": metric, **dict(zip(("score", "low", "high"), found, strict=True)), **rest}


# Dataset -> (its task, what scores it).
TASKS = {
    "nih": ("classification", classification),
    "openi": ("report generation", report_generation),
}


def score(
    dataset: str,
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    answers: dict[str, pl.DataFrame],
    *,
    n_boot: int,
    seed: int,
) -> list[dict]:
    """Rows of the transfer table: dataset, task, metric, score, 95 % interval over patients, n, baseline...

    studies, qa  the external cohort
    answers      predictions (sample_id, turn, answer, prob_yes) under "films", and under "blank" the same
                 model's answers to blank films: the baseline
    Raises ValueError for an unknown dataset, a study that was trained on, or real and simulated films mixed.
    """
    if dataset not in TASKS:
        raise ValueError(f"unknown external dataset {dataset!r}; known: {', '.join(TASKS)}")
    trained = studies.filter(pl.col("split") != "external")
    if len(trained):
        sample_id, split = trained.select("sample_id", "split").row(0)
        raise ValueError(f"{dataset}: study {sample_id} is in split {split}, not external")
    origins = studies["image_origin"].unique().sort().to_list()
    if len(origins) != 1:
        raise ValueError(f"{dataset}: films are a mixture of {', '.join(origins)}; score each kind apart")
    task, scored = TASKS[dataset]
    common = {"dataset": dataset, "task": task, "baseline_name": "blank film", "image_origin": origins[0]}
    return [common | row for row in scored(studies, qa, answers, n_boot=n_boot, seed=seed)]
