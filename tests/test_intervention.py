"""What a flipped answer changes, counted by hand on three cases."""

import polars as pl
import pytest
from fake_answers import fake_cohort, fake_predictions, fake_scores, patients_of
from questions_by_hand import questions, turn

from cxrtrek_lib import intervention
from cxrtrek_lib.flips import flips
from cxrtrek_lib.metrics import score_answers

DRAWS = {"n_boot": 100, "seed": 0}
SIDES = {"options": ["left", "right"], "right": ["left"]}


def case(sample: str, edema: str) -> list[dict]:
    report = "Edema. No mass." if edema == "Yes." else "No edema. No mass."
    return [
        turn(sample, 1, "captioning", "View?", "frontal", fact="view|1"),
        turn(sample, 2, "yes_no", "Edema?", edema, fact="edema|presence"),
        turn(sample, 2, "yes_no", "Mass?", "No.", fact="mass|presence"),
        turn(sample, 3, "single-choice", "Side of the edema?", "left", fact="edema|side", **SIDES),
        turn(sample, 4, "yes_no", "Both?", "No.", fact="composite|edema/mass"),
        turn(sample, 8, "captioning", "Report?", report, fact="composite|impression"),
    ]


QA = questions(*case("a", "Yes."), *case("b", "No."), *case("c", "No."))
STUDIES = pl.DataFrame({"sample_id": ["a", "b", "c"], "patient_id": ["A", "B", "B"]})
# b says yes to edema, which is wrong; everything else is as annotated.
OWN = {("b", 1): "Yes."}
FLIP = {("a", 1): "No.", ("b", 1): "No.", ("c", 2): "Yes."}
AFTER = {
    ("b", 1): "Yes.",  # the flipped turn keeps the model's own answer
    ("a", 3): "right",  # same finding: becomes wrong
    ("a", 5): "No edema. No mass.",  # the report follows, and still shares most of its words
    ("b", 4): "NO.",  # the same text, other case
    ("c", 4): "Yes.",  # mass was flipped: this question names it
}


def answered(given: dict) -> tuple[pl.DataFrame, pl.DataFrame]:
    said = [given.get(row[:2], row[2]) for row in QA.select("sample_id", "turn", "answer").iter_rows()]
    answers = QA.select("sample_id", "turn", answer=pl.Series(said))
    return answers, score_answers(QA, answers, STUDIES)


APART = intervention.answers_apart(answered(OWN), answered(AFTER), FLIP)


def test_every_answer_but_the_flipped_one_is_compared():
    assert APART.height == QA.height - 3
    counts = dict(APART["about"].value_counts().iter_rows())
    # Before: one turn of a and b, two of c. Same: sides and both of a and b, both of c.
    assert counts == {"before the flip": 4, "same finding": 5, "other findings": 3, "whole study": 3}
    found = APART.filter("changed").select("sample_id", "turn", "became_wrong", "became_right").rows()
    assert found == [("a", 3, True, False), ("a", 5, False, False), ("c", 4, True, False)]
    assert set(APART.filter(sample_id="b")["flip"]) == {"wrong answer flipped"}
    assert APART.filter(sample_id="a", turn=3)["score_change"].item() == -1.0


def test_effects_by_hand():
    table = intervention.effects(APART, **DRAWS)
    found = {(row["flip"], row["about"], row["stage"]): row for row in table.iter_rows(named=True)}
    control = found[None, "before the flip", None]
    assert control["n"] == 4 and control["changed"] == control["changed_high"] == 0.0
    same = found[None, "same finding", None]
    assert (same["n"], same["n_cases"], same["n_patients"]) == (5, 3, 2)
    assert same["changed"] == same["became_wrong"] == pytest.approx(2 / 5)
    assert same["became_right"] == 0.0 and same["score_change"] == pytest.approx(-2 / 5)
    assert same["changed_low"] <= 2 / 5 <= same["changed_high"]
    assert found["wrong answer flipped", "same finding", None]["changed"] == 0.0
    assert found[None, "same finding", 3]["changed"] == 0.5
    whole = found[None, None, None]
    assert whole["n"] == 11 and whole["changed"] == pytest.approx(3 / 11)
    by_stage = [row["n"] for key, row in found.items() if key[:2] == (None, None) and key[2]]
    assert sum(by_stage) == whole["n"]


def test_reports_that_follow_by_hand():
    own, after = answered(OWN)[0], answered(AFTER)[0]
    table = intervention.report_follows(QA, own, after, FLIP, STUDIES, **DRAWS)
    # Wanted: a no edema, b no edema, c mass. Own reports: a edema, b no edema, c no mass.
    names = ("as_flipped", "against", "silent")
    assert table.select("context", "n", *names).rows() == [
        ("own answer", 3, pytest.approx(1 / 3), pytest.approx(2 / 3), 0.0),
        ("flipped answer", 3, pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0),
        ("difference", 3, pytest.approx(1 / 3), pytest.approx(-1 / 3), 0.0),
    ]
    lines = intervention.said(intervention.effects(APART, **DRAWS), table)
    assert lines[0].startswith("before the flip: 0.0 % of 4") and "+33.3 %" in lines[-1]


def test_a_missing_report_is_silent():
    own = answered(OWN)[0].filter(pl.col("turn") < 5)
    table = intervention.report_follows(QA, own, own, FLIP, STUDIES, **DRAWS)
    assert table["silent"].to_list() == [1.0, 1.0, 0.0]


def test_without_a_flip_there_is_nothing_to_show():
    nothing = intervention.answers_apart(answered(OWN), answered(AFTER), {})
    table = intervention.effects(nothing, **DRAWS)
    follows = intervention.report_follows(QA, QA, QA, {}, STUDIES, **DRAWS)
    assert nothing.is_empty() and table.is_empty() and follows.is_empty()
    assert intervention.said(table, follows) == []


def test_the_same_answers_change_nothing():
    _, qa = fake_cohort(20)
    answers = fake_predictions(qa, 0.6)
    run = answers, fake_scores(qa, 0.6)
    replaced = flips(qa, answers, 0)
    table = intervention.effects(intervention.answers_apart(run, run, replaced), **DRAWS)
    assert set(table["changed"]) == {0.0} and set(table["score_change"]) == {0.0}
    follows = intervention.report_follows(qa, answers, answers, replaced, patients_of(qa), **DRAWS)
    assert follows["as_flipped"][-1] == 0.0 and follows["as_flipped"][0] == follows["as_flipped"][1]
