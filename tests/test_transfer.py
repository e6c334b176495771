"""External scores: AUROC against scikit-learn, patients from the studies table, leakage refused."""

import polars as pl
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score

from cxrtrek_lib import tables, transfer

PROBABILITIES = [0.9, 0.2, 0.6, 0.7, 0.1, 0.3]
LABELS = [1, 0, 1, 0, 0, 1]
REPORTS = ["No pleural effusion.", "Cardiomegaly.", "No acute disease."] * 2
WRITTEN = ["No pleural effusion. No pneumothorax.", "Heart size is normal.", "No acute disease."] * 2


def external() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """(studies, questions, answers) of six films of three patients: two findings asked, one report each."""
    ids = [f"nih/0000000{i // 2}_00{i}" for i in range(6)]
    studies = pl.DataFrame(
        {
            "sample_id": ids,
            "patient_id": [i[:12] for i in ids],
            "split": ["external"] * 6,
            "image_origin": ["simulated"] * 6,
        }
    )
    rows, answers = [], []
    for k, sample_id in enumerate(ids):
        for turn, finding in enumerate(transfer.NIH_FINDINGS.values()):
            gold = "Yes." if LABELS[k] else "No."
            rows.append((sample_id, turn, 2, "yes_no", "?", gold, f"{finding}|presence"))
            answers.append((sample_id, turn, "No.", PROBABILITIES[k], None))
        rows.append((sample_id, 2, 8, "captioning", "?", REPORTS[k], "report|impression"))
        answers.append((sample_id, 2, WRITTEN[k], None, None))
    columns = ["sample_id", "turn", "stage", "qtype", "question", "answer", "fact"]
    qa = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        **{name: pl.lit(None, dtype=kind) for name, kind in tables.QA.items() if name not in columns}
    )
    return studies, qa, pl.DataFrame(answers, schema=list(tables.PREDICTIONS), orient="row")


def score(dataset: str, *, studies=None, blank_probability=0.5) -> list[dict]:
    own, qa, answers = external()
    blank = answers.with_columns(
        answer=pl.lit("No."), prob_yes=pl.col("prob_yes") * 0 + pl.lit(blank_probability)
    )
    studies = own if studies is None else studies(own)
    return transfer.score(dataset, studies, qa, {"films": answers, "blank": blank}, n_boot=50, seed=0)


def test_classification_is_scikit_learns_auroc_beside_the_blank_film():
    rows = score("nih")
    assert [row["metric"] for row in rows] == ["AUROC, pneumothorax", "AUROC, airspace opacity"]
    for row in rows:
        assert row["score"] == pytest.approx(roc_auc_score(LABELS, PROBABILITIES))
        assert row["baseline"] == 0.5 and row["baseline_name"] == "blank film"
        assert (row["n"], row["n_positive"], row["image_origin"]) == (6, 3, "simulated")
        assert row["low"] <= row["score"] <= row["high"]


def test_patients_come_from_the_studies_table():
    one_each = score("nih")[0]
    together = score("nih", studies=lambda s: s.with_columns(patient_id=pl.lit("one")))[0]
    assert one_each["low"] < one_each["score"]
    assert together["low"] == together["score"] == together["high"], "one patient leaves nothing to resample"


def test_reports_are_scored_as_rouge_score_scores_them():
    rows = {row["metric"]: row for row in score("openi")}
    scorer = RougeScorer(["rougeL"])
    oracle = [scorer.score(g, w)["rougeL"].fmeasure for g, w in zip(REPORTS, WRITTEN, strict=True)]
    assert rows["ROUGE-L F1"]["score"] == pytest.approx(sum(oracle) / 6)
    assert rows["ROUGE-L F1"]["n"] == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": pl.lit("train")}, "is in split train, not external"),
        (
            {
                "image_origin": pl.when(pl.int_range(pl.len()) == 0)
                .then(pl.lit("real"))
                .otherwise("image_origin")
            },
            "mixture of real, simulated",
        ),
    ],
)
def test_trained_on_or_mixed_films_are_refused_in_one_line(change, said):
    with pytest.raises(ValueError, match=said) as error:
        score("nih", studies=lambda s: s.with_columns(**change))
    assert "\n" not in str(error.value)


def test_an_unknown_dataset_is_named():
    with pytest.raises(ValueError, match="unknown external dataset 'mimic'; known: nih, openi"):
        score("mimic")
