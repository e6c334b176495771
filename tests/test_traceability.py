"""Cross-stage errors against loops over all pairs of answers, all permutations, and independent errors."""

import itertools
import json
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from fake_answers import fake_cohort, fake_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib import consistency, evaluation, intervention, traceability

DRAWS = {"n_boot": 200, "seed": 0}


def scored(*answers: tuple) -> pl.DataFrame:
    """Tuples (sample, patient, stage, score)."""
    frame = pl.DataFrame(answers, schema=["sample_id", "patient_id", "stage", "score"], orient="row")
    return frame.cast({"stage": pl.Int8, "score": pl.Float64}).with_row_index("turn")


HAND = scored(
    ("a", "A", 1, 0), ("a", "A", 2, 0), ("a", "A", 2, 1),
    ("b", "B", 1, 1), ("b", "B", 2, 0), ("b", "B", 2, 0.49),
    ("c", "C", 1, 0.2), ("c", "C", 1, 0.5), ("c", "C", 2, 0.9), ("c", "C", 8, 0),
)  # fmt: skip


def by_pairs(rows: pl.DataFrame, given_stage: int, stage: int) -> Fraction | None:
    """P(wrong at stage | wrong at given) by going through all pairs of answers of all cases."""
    both = first = Fraction(0)
    for _, case in rows.group_by("sample_id"):
        a = [score < 0.5 for score in case.filter(stage=given_stage)["score"]]
        b = [score < 0.5 for score in case.filter(stage=stage)["score"]]
        for one, other in itertools.product(a, b):
            both += Fraction(one and other, len(a) * len(b))
            first += Fraction(one, len(a) * len(b))
    return both / first if first else None


def test_matrix_by_hand():
    table = traceability.cross_stage(HAND, **DRAWS)
    assert table.height == 56
    found = {(row["given"], row["stage"]): row for row in table.iter_rows(named=True)}
    # Shares of wrong answers: a 1 and 1/2, b 0 and 1, c 1/2 and 0.
    assert found[1, 2]["observed"] == pytest.approx(0.5 / 1.5) == float(by_pairs(HAND, 1, 2))
    assert found[2, 1]["observed"] == pytest.approx(0.5 / 1.5)
    assert found[1, 2]["n_cases"] == found[1, 2]["n_patients"] == 3
    assert found[1, 8]["observed"] == found[1, 8]["null"] == 1.0 and found[1, 8]["n_cases"] == 1
    assert found[2, 8]["observed"] is None  # the only case with a report has no wrong answer there
    assert found[3, 4]["n_cases"] == 0 and found[3, 4]["null"] is None and found[3, 4]["p"] is None
    all_null = [sum(np.array([1, 0, 0.5]) * order) / 1.5 for order in itertools.permutations([0.5, 1, 0])]
    assert min(all_null) - 1e-9 <= found[1, 2]["null_low"] <= found[1, 2]["null_high"] <= max(all_null) + 1e-9
    assert found[1, 2]["null"] == pytest.approx(np.mean(all_null), abs=0.05)
    assert found[1, 2]["p"] == found[2, 1]["p"]


def made_up(n: int, link: float, seed: int, stages=(1, 2, 3, 8)) -> pl.DataFrame:
    """Cases of n patients (every third with two) whose answers are wrong as often as hard films make them."""
    random = np.random.default_rng(seed)
    answers = []
    for patient in range(n):
        for case in range(1 + (patient % 3 == 0)):
            hard = random.random() < 0.5
            for stage in stages:
                chance = 0.4 + link * (0.35 if hard else -0.35)
                for _ in range(int(random.integers(1, 5))):
                    answers.append((f"{patient}/{case}", str(patient), stage, random.random() > chance))
    return scored(*answers)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_matrix_is_that_of_all_pairs(seed):
    rows = made_up(6, 1.0, seed)
    for row in traceability.cross_stage(rows, n_boot=3, seed=0).iter_rows(named=True):
        expected = by_pairs(rows, row["given"], row["stage"])
        assert row["observed"] == (None if expected is None else pytest.approx(float(expected)))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_independent_errors_give_the_null(seed):
    """The observed matrix then differs from the null by no more than permutations of patients do."""
    table = traceability.cross_stage(made_up(250, 0.0, seed), **DRAWS).drop_nulls("observed")
    assert table.height == 12
    spread = (table["null_high"] - table["null_low"]) / (2 * 1.96)
    assert (table["excess"].abs() < 4.5 * spread).all()
    assert (table["p_holm"] >= table["p"]).all() and table["p"].median() > 0.02


def test_errors_of_hard_films_go_together():
    table = traceability.cross_stage(made_up(250, 1.0, 0), **DRAWS).drop_nulls("observed")
    assert (table["excess"] > 0.1).all() and (table["observed"] > table["null_high"]).all()
    assert (table["low"] <= table["observed"]).all() and (table["observed"] <= table["high"]).all()
    assert (table["p_holm"] < 0.05).all()
    # What two halves of the patients have in common at P(wrong) 0.75 and 0.05: (0.75^2 + 0.05^2) / 0.8.
    assert table["observed"].mean() == pytest.approx(0.70625, abs=0.03)


def test_patients_without_a_stage_are_not_permuted_into_it():
    few = made_up(60, 0.0, 0).filter((pl.col("stage") != 8) | (pl.col("patient_id").cast(int) < 3))
    row = traceability.cross_stage(few, **DRAWS).filter(given=1, stage=8).row(0, named=True)
    mine = few.filter(stage=8)
    assert row["n_patients"] == 3 and row["n_cases"] == mine["sample_id"].n_unique()
    shares = mine.group_by("sample_id", "patient_id").agg((pl.col("score") < 0.5).mean())
    by_patient = shares.group_by("patient_id").agg(pl.mean("score"))["score"]
    assert by_patient.min() - 1e-9 <= row["null_low"] <= row["null_high"] <= by_patient.max() + 1e-9


def test_carried_errors_compare_two_systems():
    linked, free = made_up(150, 1.0, 0), made_up(150, 0.0, 0)
    same = traceability.carried(linked, linked, **DRAWS).drop_nulls("difference")
    assert set(same["difference"]) == {0.0} and same.select("given", "stage").rows() == [
        (1, 2), (1, 3), (1, 8), (2, 3), (2, 8), (3, 8),
    ]  # fmt: skip
    more = traceability.carried(linked, free, **DRAWS).drop_nulls("difference")
    assert (more["low"] > 0.1).all()
    base = (linked.filter(stage=8)["score"] < 0.5).mean()
    row = more.filter(given=1, stage=8).row(0, named=True)
    assert row["first"] == pytest.approx(float(by_pairs(linked, 1, 8)) - base, abs=0.03)


STUDIES, QUESTIONS = fake_cohort(40)
SYSTEMS = {name: fake_scores(QUESTIONS, skill) for name, skill in (("gold", 0.9), ("predicted", 0.6))}


def test_exposure_gap_is_the_difference_of_scores():
    table = traceability.exposure_gap(SYSTEMS, **DRAWS)
    assert table["stage"].to_list() == [1, 2, 3, 5, 8, None]
    for name, rows in SYSTEMS.items():
        scores = evaluation.stage_scores(rows, n_boot=10, seed=0).filter(pl.col("level") != "format")
        assert table[name].to_list() == pytest.approx(scores["score"].to_list())
    assert (table["gap"] - (table["gold"] - table["predicted"])).abs().max() < 1e-12
    assert (table["low"] <= table["gap"]).all() and (table["gap"] <= table["high"]).all()
    whole = evaluation.difference(SYSTEMS["gold"], SYSTEMS["predicted"], **DRAWS)
    assert table["gap"][-1] == whole["difference"] > 0 and table["n"][-1] == QUESTIONS.height


def test_first_wrong_stage_by_hand():
    rows = scored(
        ("a", "A", 2, 0), ("a", "A", 1, 1), ("a", "A", 3, 0), ("a", "A", 8, 0),
        ("b", "B", 1, 0), ("b", "B", 8, 0.2), ("b", "B", 8, 1.0),
        ("c", "C", 1, 1), ("c", "C", 8, 0.1),
        ("d", "D", 1, 0),
    )  # fmt: skip
    found = traceability.first_wrong_stage(rows)
    assert found.select("report", "stage", "n_cases", "share").rows() == [
        ("wrong", 2, 1, 0.5), ("wrong", None, 1, 0.5), ("right", 1, 1, 1.0),
    ]  # fmt: skip


def test_everything_fits_into_the_metrics_file_and_into_words(tmp_path):
    gap = traceability.exposure_gap(SYSTEMS, **DRAWS)
    matrix = traceability.cross_stage(SYSTEMS["predicted"], **DRAWS)
    beyond = traceability.carried(SYSTEMS["predicted"], SYSTEMS["gold"], **DRAWS)
    nothing = [
        pl.DataFrame(schema=schema)
        for schema in (
            intervention._EFFECTS, intervention._REPORTS, consistency._BY_STAGE, consistency._ORIGINS
        )
    ]  # fmt: skip
    content = traceability.traceability_json(gap, matrix, beyond, *nothing)
    evaluation.write_metrics(tmp_path / "m.json", content)
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["exposure_gap"]["overall"]["n"] == QUESTIONS.height
    assert set(found["cross_stage"]) == {f"{i} to {j}" for i, j in itertools.combinations((1, 2, 3, 5, 8), 2)}
    assert found["intervention"] == {}
    said = [*traceability.said_of_gap(gap), *traceability.said_of_matrices(matrix, beyond)]
    assert (
        said[0].startswith("Exposure gap, stage 1: +") and f"of {beyond['difference'].count()} (" in said[-1]
    )
