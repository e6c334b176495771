"""Contradictions within a case, and where the wrong statements of reports begin, on cases written by hand."""

import polars as pl
import pytest
from fake_answers import fake_cohort, patients_of
from questions_by_hand import questions, turn

from cxrtrek_lib import consistency
from cxrtrek_lib.metrics import score_answers

DRAWS = {"n_boot": 100, "seed": 0}


def case(sample: str, edema: str, mass: str, both: str, report: str) -> list[dict]:
    return [
        turn(sample, 2, "yes_no", "Edema?", edema, fact="edema|presence"),
        turn(sample, 2, "yes_no", "Mass?", mass, fact="mass|presence"),
        turn(sample, 4, "yes_no", "Both?", both, fact="composite|edema/mass"),
        turn(sample, 8, "captioning", "Report?", report, fact="composite|impression"),
    ]


QA = questions(
    *case("a", "Yes.", "Yes.", "Yes.", "Edema. A mass."),
    *case("b", "No.", "Yes.", "No.", "A mass. No edema."),
    *case("c", "No.", "No.", "No.", "No edema or mass."),
)
STUDIES = pl.DataFrame({"sample_id": ["a", "b", "c"], "patient_id": ["A", "B", "C"]})
SAID = {
    ("a", 0): "No.",  # wrong, and the report says so, too
    ("a", 3): "A mass. No edema.",
    ("b", 2): "Yes.",  # stage 4 affirms the edema that stage 2 denied
    ("b", 3): "Mass and pneumothorax.",  # invented, never asked about
    ("c", 0): "Yes.",  # wrong; the report denies it
}
ANSWERS = QA.select(
    "sample_id",
    "turn",
    answer=pl.Series(
        [SAID.get(row[:2], row[2]) for row in QA.select("sample_id", "turn", "answer").iter_rows()]
    ),
)
ROWS = score_answers(QA, ANSWERS, STUDIES)
STATEMENTS = consistency.report_statements(QA, ANSWERS, ROWS)


def test_findings_that_a_fact_names():
    names = {
        "edema|presence": {"edema"},
        "edema|presence; pleural effusion|presence": {"edema", "pleural effusion"},
        "composite|edema/mass": {"edema", "mass"},
        "pleural effusion|box 2": {"pleural effusion"},
        "composite|the lungs": set(),
        "view|1": set(),
        "left lung|box 1": set(),
    }
    assert {fact: set(consistency.findings_of(fact)) for fact in names} == names


def test_claims_by_hand():
    stated = consistency.claims(QA, ANSWERS)
    of_b = stated.filter(sample_id="b").sort("turn", "finding")
    assert of_b.select("turn", "stage", "finding", "says").rows() == [
        (0, 2, "edema", "absent"), (1, 2, "mass", "present"),
        (2, 4, "edema", "present"), (2, 4, "mass", "present"),
        (3, 8, "mass", "present"), (3, 8, "pneumothorax", "present"),
    ]  # fmt: skip
    assert stated.filter(sample_id="c", stage=4).is_empty()  # "not both" denies neither


def test_contradictions_by_hand():
    systems = {"predicted": ANSWERS, "annotated": QA}
    table = consistency.contradictions(QA, systems, STUDIES, **DRAWS)
    names = ("contradicts", "denied_later", "affirmed_later")
    assert table.select("system", "stage", "n", *names).rows() == [
        # a: yes to both against (no, yes); b: against (no, yes).
        ("predicted", 4, 4, 0.5, 0.0, 0.5),
        # a 2 pairs, b 1 (nothing said of edema), c 2, of which edema: yes, then denied.
        ("predicted", 8, 5, pytest.approx(0.2), pytest.approx(0.2), 0.0),
        ("annotated", 4, 2, 0.0, 0.0, 0.0),
        ("annotated", 8, 6, 0.0, 0.0, 0.0),
    ]
    assert (table["contradicts_low"] <= table["contradicts"]).all()


def test_unreadable_and_missing_answers_state_nothing():
    odd = ANSWERS.with_columns(answer=pl.lit("?"))
    assert consistency.claims(QA, odd).is_empty()
    assert consistency.claims(QA, ANSWERS.clear()).is_empty()
    table = consistency.contradictions(QA, {"predicted": odd}, STUDIES, **DRAWS)
    assert table.is_empty() and "contradicts" in table.columns


def test_statements_and_origins_by_hand():
    found = STATEMENTS.select("sample_id", "finding", "statement", "first_wrong", "asked").rows()
    assert found == [
        ("a", "edema", "missed", 2, True),
        ("a", "mass", "right", None, True),
        ("b", "mass", "right", 4, True),
        ("b", "pneumothorax", "invented", None, False),
    ]
    table = consistency.report_errors(STATEMENTS, **DRAWS)
    columns = ("origin", "n", "n_wrong", "n_invented", "n_missed", "of_wrong", "risk")
    assert table.select(columns).rows() == [
        ("stage 2", 1, 1, 0, 1, 0.5, 1.0),
        ("stage 4", 1, 0, 0, 0, 0.0, 0.0),
        (consistency.NONE_WRONG, 1, 0, 0, 0, 0.0, 0.0),
        (consistency.NOT_BEFORE, 1, 1, 1, 0, 0.5, 1.0),
    ]
    lines = consistency.said(pl.DataFrame(schema=consistency._BY_STAGE), table)
    assert lines[0] == "Wrong statements of reports: 2, of them 1 findings left out and 1 invented."


def test_a_report_as_annotated_has_no_wrong_statement():
    _, qa = fake_cohort(20)
    rows = score_answers(qa, qa.select("sample_id", "turn", "answer"), patients_of(qa))
    statements = consistency.report_statements(qa, qa, rows)
    assert set(statements["statement"]) == {"right"} and statements["first_wrong"].null_count() == len(
        statements
    )
    table = consistency.report_errors(statements, **DRAWS)
    assert table["n_wrong"].sum() == 0 and table["of_wrong"].null_count() == table.height
    assert set(table["risk"]) == {0.0}


def test_the_worked_case_is_an_early_error_that_comes_back():
    returning = consistency.returning_errors(STATEMENTS, ROWS)
    assert returning.rows() == [("a", "edema")]  # c: the report corrects it
    chain = consistency.worked_case(returning, QA, ANSWERS, ROWS, seed=0)
    assert chain.select("turn", "stage", "gold", "said", "right").rows() == [
        (0, 2, "Yes.", "No.", False),
        (2, 4, "Yes.", "Yes.", True),
        (3, 8, "Edema. A mass.", "A mass. No edema.", False),
    ]
    nothing = consistency.worked_case(returning.clear(), QA, ANSWERS, ROWS, seed=0)
    assert nothing.is_empty() and nothing.columns == chain.columns


def test_the_worked_case_is_drawn_by_hash():
    pool = pl.DataFrame({"sample_id": ["a", "b", "c"], "finding": ["edema", "mass", "edema"]})
    drawn = {
        consistency.worked_case(order, QA, ANSWERS, ROWS, seed=1)["sample_id"][0]
        for order in (pool, pool.reverse())
    }
    assert len(drawn) == 1
    seeds = {consistency.worked_case(pool, QA, ANSWERS, ROWS, seed=k)["sample_id"][0] for k in range(20)}
    assert seeds == {"a", "b", "c"}
