"""Leaders: a system is set apart by the paired test, never by the mean alone."""

import polars as pl
import pytest
from fake_answers import fake_cohort, fake_scores

from cxrtrek_lib.evaluation import difference, stage_scores
from cxrtrek_lib.leaders import leaders

_, QUESTIONS = fake_cohort(40)
ROWS = {name: fake_scores(QUESTIONS, skill) for name, skill in (("good", 0.9), ("bad", 0.1))}
DRAWS = {"n_boot": 200, "seed": 0}


def test_a_clear_difference_leaves_one_leader_and_agrees_with_the_test_of_evaluation():
    table = leaders(ROWS, **DRAWS)
    overall = table.filter(pl.col("stage").is_null())
    assert overall.filter(pl.col("leads"))["system"].to_list() == ["good"]
    bad = overall.row(by_predicate=pl.col("system") == "bad", named=True)
    expected = difference(ROWS["bad"], ROWS["good"], **DRAWS)
    for key in ("difference", "low", "high", "p", "n"):
        assert bad[key] == pytest.approx(expected[key])
    assert bad["p_holm"] == bad["p"]  # a family of one


def test_scores_are_those_of_the_table_of_stages():
    scored = stage_scores(ROWS["good"], n_boot=50, seed=0).filter(pl.col("level") != "format")
    ours = leaders(ROWS, **DRAWS).filter(system="good")
    assert ours.sort("stage", nulls_last=True)["score"].to_list() == pytest.approx(
        scored.sort("stage", nulls_last=True)["score"].to_list()
    )


def test_equal_systems_lead_together_whichever_comes_first():
    table = leaders({"one": ROWS["good"], "same": ROWS["good"]}, **DRAWS)
    assert table["leads"].all() and set(table["leader"]) == {"one"}
    assert (table["difference"] == 0).all()


def test_more_systems_make_a_test_harder_never_easier():
    alone = leaders(ROWS, **DRAWS).filter(system="bad")["p_holm"].to_list()
    beside = leaders(ROWS | {"same": ROWS["good"]}, **DRAWS).filter(system="bad")["p_holm"].to_list()
    assert all(more >= one for one, more in zip(alone, beside, strict=True))
