"""What the film alone can answer: against scikit-learn and hand counts; diagnoses left out."""

import itertools
import json

import numpy as np
import polars as pl
import pytest
from fake_answers import fake_cohort, fake_scores
from sklearn.metrics import balanced_accuracy_score, recall_score

from cxrtrek_lib import evaluation, grounding_scores

STUDIES, QUESTIONS = fake_cohort(40)
SYSTEMS = {
    "predicted": fake_scores(QUESTIONS, 0.8),
    "blank_image": fake_scores(QUESTIONS, 0.1, seed=1),
    "majority": fake_scores(QUESTIONS, 0.2, seed=2),
}
ROWS = SYSTEMS["predicted"]
PRESENCE = ROWS.filter(pl.col("fact").str.ends_with("|presence"))


def by_sklearn(rows: pl.DataFrame) -> float:
    return balanced_accuracy_score(rows["gold_class"].to_list(), rows["pred_class"].fill_null("?").to_list())


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_measures_are_those_of_the_answers_about_findings():
    table = grounding_scores.scores(SYSTEMS, n_boot=60, seed=0)
    own = {row["measure"]: row for row in table.filter(system="predicted").iter_rows(named=True)}
    assert own["presence"]["score"] == pytest.approx(by_sklearn(PRESENCE))
    assert own["presence"]["n"] == PRESENCE.height == 120  # 40 cases, three findings each
    sides = ROWS.filter(pl.col("fact").str.ends_with("|side"))
    boxes = ROWS.filter(pl.col("qtype") == "detection")
    assert own["side"]["score"] == pytest.approx(sides["score"].mean()) and own["side"]["n"] == sides.height
    assert own["finding_box"]["score"] == pytest.approx(boxes["iou"].mean())
    assert own["region_box"] == {
        "measure": "region_box", "system": "predicted", "metric": "mean IoU",
        "n": 0, "n_patients": 0, "score": None, "low": None, "high": None,
    }  # fmt: skip
    defined = table.filter(pl.col("n") > 0)
    assert (defined["low"] <= defined["score"]).all() and (defined["score"] <= defined["high"]).all()


def test_regions_are_told_from_findings_and_diagnoses_are_no_findings():
    boxes = ROWS.filter(pl.col("qtype") == "detection").with_columns(fact=pl.lit("left lung|box 1"))
    diagnoses = PRESENCE.with_columns(fact=pl.lit("pneumonia|presence"))
    several = PRESENCE.with_columns(fact=pl.lit("pleural effusion|presence; edema|presence"))
    rows = pl.concat([boxes, diagnoses, several])
    counts = {name: grounding_scores.measured(rows, name).height for name in grounding_scores.MEASURES}
    assert counts == {"presence": 0, "side": 0, "region_box": boxes.height, "finding_box": 0}


def test_differences_are_paired_and_corrected_together():
    table = grounding_scores.scores(SYSTEMS, n_boot=60, seed=0)
    score = {(row["measure"], row["system"]): row["score"] for row in table.iter_rows(named=True)}
    tests = grounding_scores.differences(SYSTEMS, n_boot=200, seed=0)
    pairs = itertools.product(("presence", "side", "finding_box"), grounding_scores.BLIND)
    assert tests.select("measure", "against").rows() == list(pairs)
    for row in tests.iter_rows(named=True):
        own, other = score[row["measure"], "predicted"], score[row["measure"], row["against"]]
        assert row["difference"] == pytest.approx(own - other)
        assert row["low"] <= row["difference"] <= row["high"] and row["p"] <= row["p_holm"] <= 1
    assert (tests["low"] > 0).all()  # right four times in five against one in five
    same = grounding_scores.differences(SYSTEMS | {"majority": ROWS}, n_boot=60, seed=0)
    assert set(same.filter(against="majority")["difference"]) == {0.0}


def test_the_metrics_file_holds_every_measure(tmp_path):
    table = grounding_scores.scores(SYSTEMS, n_boot=60, seed=0)
    tests = grounding_scores.differences(SYSTEMS, n_boot=60, seed=0)
    evaluation.write_metrics(tmp_path / "m.json", grounding_scores.grounding_json(table, tests))
    found = json.loads((tmp_path / "m.json").read_text())
    assert set(found) == set(grounding_scores.MEASURES)
    assert set(found["side"]["scores"]) == set(SYSTEMS) and found["region_box"]["differences"] == {}
    assert set(found["side"]["differences"]["majority"]) >= {"difference", "low", "high", "p_holm", "n"}


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_findings_one_by_one():
    table = grounding_scores.by_finding(ROWS, n_boot=100, seed=0)
    assert table["balanced_accuracy"].is_sorted() and table["n"].sum() == PRESENCE.height
    for row in table.iter_rows(named=True):
        part = PRESENCE.filter(pl.col("fact") == f"{row['finding']}|presence")
        gold, said = part["gold_class"].to_list(), part["pred_class"].fill_null("?").to_list()
        recall = recall_score(gold, said, labels=["yes", "no"], average=None)
        assert (row["sensitivity"], row["specificity"]) == pytest.approx(tuple(recall))
        assert row["balanced_accuracy"] == pytest.approx(by_sklearn(part))
        assert row["low"] <= row["balanced_accuracy"] <= row["high"] and row["n_present"] == gold.count("yes")


def test_a_finding_that_is_never_absent_has_no_balanced_accuracy():
    only_yes = PRESENCE.filter(pl.col("gold_class") == "yes")
    table = grounding_scores.by_finding(only_yes, n_boot=50, seed=0)
    for name in ("specificity", "balanced_accuracy", "low", "high"):
        assert table[name].null_count() == table.height, name
    right = only_yes.group_by(fact=pl.col("fact").str.strip_suffix("|presence")).agg(pl.mean("score"))
    assert dict(zip(table["finding"], table["sensitivity"], strict=True)) == pytest.approx(dict(right.rows()))


def test_no_question_about_presence_is_an_empty_table():
    table = grounding_scores.by_finding(ROWS.filter(pl.col("stage") == 8), n_boot=50, seed=0)
    assert table.is_empty() and np.isin(["finding", "low"], table.columns).all()
