"""Calibration against scikit-learn, hand values and probabilities that are right by construction."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from cxrtrek_lib import calibration, evaluation

DRAWS = {"n_boot": 200, "seed": 0}


def made_up(p, event, patients=None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(scored yes/no answers, answers with probabilities)."""
    n = len(p)
    names = [str(k) for k in range(n)] if patients is None else patients
    rows = pl.DataFrame(
        {
            "sample_id": [f"s{k}" for k in range(n)],
            "patient_id": names,
            "turn": [0] * n,
            "stage": [2] * n,
            "format": ["close-ended"] * n,
            "gold_class": ["yes" if e else "no" for e in event],
            "score": [1.0] * n,
        }
    )
    answers = rows.select("sample_id", "turn", prob_yes=pl.Series(p, dtype=pl.Float64), prob_answer=None)
    return rows, answers.with_columns(pl.col("prob_answer").cast(pl.Float64))


def of_yes_no(p, event, patients=None):
    rows, answers = made_up(p, event, patients)
    found = calibration.events(rows, answers, "yes_no")
    summary = calibration.summary({"m": (rows, answers)}, **DRAWS).row(0, named=True)
    return calibration.reliability(found, "yes_no", **DRAWS), summary


def test_by_hand():
    table, found = of_yes_no([0.12, 0.18, 0.92, 0.98], [False, True, True, True])
    assert table.select("bin", "n", "mean_probability", "observed").rows() == [
        (1, 2, pytest.approx(0.15), 0.5), (9, 2, pytest.approx(0.95), 1.0),
    ]  # fmt: skip
    assert found["ece"] == pytest.approx((2 * 0.35 + 2 * 0.05) / 4)
    assert found["brier"] == pytest.approx((0.12**2 + 0.82**2 + 0.08**2 + 0.02**2) / 4)
    assert found["observed"] == 0.75 and found["brier_of_base_rate"] == pytest.approx(0.1875)
    half_normal = np.sqrt(2 / np.pi)
    spread = np.sqrt(0.12 * 0.88 + 0.18 * 0.82) + np.sqrt(0.92 * 0.08 + 0.98 * 0.02)
    assert found["ece_if_calibrated"] == pytest.approx(half_normal * spread / 4)


@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn(seed):
    random = np.random.default_rng(seed)
    p = random.beta(2, 1.5, 700)
    event = random.random(700) < p**1.7
    table, found = of_yes_no(p, event, [str(k) for k in random.integers(0, 90, 700)])
    observed, mean = calibration_curve(event, p, n_bins=10, strategy="uniform")
    assert table["observed"].to_list() == pytest.approx(list(observed))
    assert table["mean_probability"].to_list() == pytest.approx(list(mean))
    n = np.histogram(p, bins=np.linspace(0, 1, 11))[0]
    assert table["n"].to_list() == list(n[n > 0])
    assert found["ece"] == pytest.approx(np.average(np.abs(observed - mean), weights=n[n > 0]))
    assert found["brier"] == pytest.approx(brier_score_loss(event, p))
    assert found["ece_low"] <= found["ece"] <= found["ece_high"]
    assert found["brier_low"] <= found["brier"] <= found["brier_high"]
    assert (table["low"] <= table["observed"]).all() and (table["observed"] <= table["high"]).all()


def test_interval_resamples_whole_patients():
    """One patient's answers repeated: as many answers, no more patients, so the same interval."""
    random = np.random.default_rng(3)
    p = random.random(60)
    event = random.random(60) < p
    names = [str(k) for k in range(60)]
    once = of_yes_no(p, event, names)[1]
    many = of_yes_no(np.tile(p, 9), np.tile(event, 9), names * 9)[1]
    for key in ("ece", "ece_low", "ece_high", "brier", "brier_low", "brier_high"):
        assert many[key] == pytest.approx(once[key])
    assert many["ece_if_calibrated"] == pytest.approx(once["ece_if_calibrated"] / 3)


def test_right_probabilities_are_off_by_chance_alone():
    random = np.random.default_rng(0)
    found = []
    for _ in range(40):
        p = random.random(300)
        found.append(of_yes_no(p, random.random(300) < p)[1])
    ece, expected = (np.mean([row[key] for row in found]) for key in ("ece", "ece_if_calibrated"))
    assert ece == pytest.approx(expected, rel=0.08)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_errors_are_shares_and_edges_belong_to_a_bin(pairs):
    p, event = (np.array(part) for part in zip(*pairs, strict=True))
    table, found = of_yes_no(p, event)
    assert table["n"].sum() == len(p) == found["n"]
    assert 0 <= found["ece"] <= 1 and 0 <= found["brier"] <= 1
    assert found["ece"] >= abs(p.mean() - event.mean()) - 1e-9  # merging bins can only hide errors
    inside = (table["mean_probability"] >= table["from"] - 1e-9) & (
        table["mean_probability"] <= table["to"] + 1e-9
    )
    assert inside.all()


def test_decimal_edges_open_their_bin():
    assert calibration.bin_of(np.array([0.3, 0.6, 0.7, 0.8999, 0.9])).tolist() == [3, 6, 7, 8, 9]


def test_answers_without_a_probability_are_counted_and_left_out():
    p = [0.1, None, float("nan"), 1.2, -0.1, 0.9]
    rows, answers = made_up(p, [False] * 5 + [True])
    unsure = rows.with_columns(
        gold_class=pl.when(pl.col("sample_id") == "s0").then(pl.lit("uncertain")).otherwise("gold_class")
    )
    first, second = (
        calibration.summary({"m": (part, answers)}, **DRAWS).filter(kind="yes_no").row(0, named=True)
        for part in (rows, unsure)
    )
    assert (first["n"], first["n_left_out"]) == (2, 4) and first["brier"] == pytest.approx(0.01)
    assert (second["n"], second["n_left_out"]) == (1, 4)


def test_a_system_without_probabilities_has_none_and_no_zero(tmp_path):
    rows, answers = made_up([None, None], [True, False])
    table = calibration.summary({"majority": (rows, answers)}, **DRAWS)
    assert table["n"].to_list() == [0, 0] and table["n_left_out"].to_list() == [2, 0]
    assert table["ece"].null_count() == 2
    assert calibration.reliability(calibration.events(rows, answers, "choice"), "choice", **DRAWS).is_empty()
    evaluation.write_metrics(tmp_path / "m.json", calibration.calibration_json(table))
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["majority"]["yes_no"]["ece"] is None
    assert calibration.said(table)[0] == "majority, yes_no: no probability is given."


def test_choices_are_right_or_wrong():
    rows, answers = made_up([0.5, 0.5], [True, True])
    rows = rows.with_columns(format=pl.lit("choice"), score=pl.Series([1.0, 0.0]))
    answers = answers.with_columns(prob_answer=pl.Series([0.75, 0.25]))
    found = calibration.events(rows, answers, "choice")
    assert found.select("probability", "event").rows() == [(0.75, True), (0.25, False)]
