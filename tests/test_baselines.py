"""The majority baseline against hand counts."""

import polars as pl
import pytest
from fake_answers import fake_cohort, patients_of

from cxrtrek_lib.baselines import constant_predictions, majority_predictions
from cxrtrek_lib.conversations import parse_boxes
from cxrtrek_lib.metrics import score_answers
from cxrtrek_lib.tables import PREDICTIONS, QA


def questions(*rows) -> pl.DataFrame:
    base = dict.fromkeys(QA) | {
        "stage": 3,
        "task_type": "t",
        "question": "?",
        "evidence": "hand",
        "fact": "f",
    }
    return pl.DataFrame(
        [base | {"sample_id": "a/b/c", "turn": n} | row for n, row in enumerate(rows)], schema=QA
    )


def closed(answer, about="f"):
    return {"qtype": "yes_no", "answer": answer, "question": f"Is there {about}? Answer with yes or no."}


def choice(options, answer):
    return {"qtype": "single-choice", "answer": answer, "option_list": options, "answer_list": [answer]}


def box(*corners, target="heart", fact="f"):
    return {
        "qtype": "detection",
        "answer": "",
        "target": target,
        "fact": fact,
        "bbox_list": [list(map(float, corners))],
    }


def said(train, test):
    return majority_predictions(questions(*train), questions(*test))["answer"].to_list()


def test_most_common_answer_per_subject_with_fallback():
    train = [
        closed("Yes.", "x"),
        closed("Yes.", "x"),
        closed("No.", "x"),
        closed("No.", "y"),
        closed("No.", "y"),
    ]
    assert said(train, [closed("?", "x"), closed("?", "y"), closed("?", "never seen")]) == [
        "Yes.",
        "No.",
        "No.",
    ]


def test_choice_takes_what_is_mostly_right_when_offered_and_else_the_position():
    train = [choice(["A. Left", "B. Right"], "B. Right"), choice(["A. Right", "B. Left"], "A. Right")]
    train += [choice(["A. Left", "B. Both"], "A. Left"), choice(["A. Left", "B. Right"], "B. Right")]
    # Left was right 1 of 4 times, Right 3 of 3, Both 0 of 1; the right one stood second 2 of 4 times, a tie.
    test = [
        choice(["A. Right", "B. Left"], "?"),
        choice(["A. Left", "B. Both"], "?"),
        choice(["A. up", "B. down"], "?"),
    ]
    assert said(train, test) == ["A. Right", "A. Left", "A. up"]
    assert said(train[:1], test[2:]) == ["B. down"]


def test_multi_choice_takes_all_that_are_mostly_right():
    options = ["x", "y", "z"]
    several = {"qtype": "multi-choice", "answer": "", "option_list": options}
    train = [several | {"answer_list": right} for right in (["x", "y"], ["x", "y"], ["y", "z"])]
    assert said(train, [several | {"answer_list": ["z"]}]) == ["x, y"]


def test_detection_is_the_median_box():
    train = [box(0, 0, 10, 10), box(2, 4, 30, 20), box(4, 8, 20, 90)]
    (answer,) = said(train, [box(1, 1, 2, 2)])
    assert parse_boxes(answer) == [[2, 4, 20, 20]]


def test_ties_do_not_depend_on_the_order_of_rows():
    train = [closed("Yes."), closed("No.")]
    assert said(train, [closed("?")]) == said(train[::-1], [closed("?")]) == ["No."]


def constant(train, test):
    return constant_predictions(questions(*train), questions(*test))["answer"].to_list()


def test_one_answer_per_format_whatever_is_asked():
    train = [
        closed("Yes.", "x"),
        closed("No.", "y"),
        closed("No.", "z"),
        box(0, 0, 10, 10),
        box(2, 4, 30, 20),
    ]
    train += [box(4, 8, 20, 90), choice(["A. Left", "B. Right"], "B. Right"), choice(["u", "v", "w"], "v")]
    train += [choice(["A. Left", "B. Right"], "A. Left")]
    test = [closed("?", "x"), box(0, 0, 1, 1), choice(["A. Right", "B. Left"], "?"), choice(["only"], "?")]
    found = constant(train, test)
    assert (found[0], found[2], found[3]) == ("No.", "B. Left", "only")
    assert parse_boxes(found[1]) == [[2, 4, 20, 20]]
    assert constant(train[::-1], test) == found
    with pytest.raises(ValueError, match="no detection question"):
        constant([closed("Yes.")], [box(0, 0, 1, 1)])


def test_the_test_answers_are_never_read():
    _, train = fake_cohort(30)
    _, test = fake_cohort(10, seed=5)
    blinded = test.with_columns(
        answer=pl.lit("hidden"),
        answer_list=pl.lit(None, QA["answer_list"]),
        bbox_list=pl.lit(None, QA["bbox_list"]),
        fact=pl.lit("hidden"),  # can name the right option, and so can target
        target=pl.lit("hidden"),
    )
    first = majority_predictions(train, test)
    assert first.equals(majority_predictions(train, blinded))
    assert first.schema == pl.Schema(PREDICTIONS) and first.height == test.height
    assert constant_predictions(train, test).equals(constant_predictions(train, blinded))
    rows = score_answers(test, first, patients_of(test))
    assert rows["parsed"].all() and 0.2 < rows["score"].mean() < 0.9


def test_a_format_without_training_questions_is_an_error():
    with pytest.raises(ValueError, match="no detection question"):
        said([closed("Yes.")], [box(0, 0, 1, 1)])
