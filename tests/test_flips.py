"""The flipped answer: one per case, of the right kind, drawn by hash, the opposite of what was said."""

import polars as pl
from fake_answers import fake_cohort, fake_predictions
from questions_by_hand import questions, turn

from cxrtrek_lib.flips import flips

_, QUESTIONS = fake_cohort(40)
ANSWERS = fake_predictions(QUESTIONS, 0.7)


def test_each_case_has_one_flip_of_an_answer_on_presence():
    found = flips(QUESTIONS, ANSWERS, 0)
    assert [sample for sample, _ in found] == sorted(QUESTIONS["sample_id"].unique())
    said = dict(zip(ANSWERS.select("sample_id", "turn").rows(), ANSWERS["answer"], strict=True))
    about = dict(zip(QUESTIONS.select("sample_id", "turn").rows(), QUESTIONS["fact"], strict=True))
    for key, text in found.items():
        assert about[key].endswith("|presence")
        assert {said[key], text} == {"Yes.", "No."}


def test_the_draw_depends_on_seed_and_sample_alone():
    found = flips(QUESTIONS, ANSWERS, 0)
    assert flips(QUESTIONS.sample(fraction=1, shuffle=True, seed=1), ANSWERS.reverse(), 0) == found
    some = QUESTIONS.filter(pl.col("sample_id").is_in(sorted(QUESTIONS["sample_id"].unique())[:7]))
    assert flips(some, ANSWERS, 0) == {key: found[key] for key in flips(some, ANSWERS, 0)}
    assert flips(QUESTIONS, ANSWERS, 1) != found
    assert len({number for _, number in found}) == 3  # each of a case's three questions is drawn somewhere


def test_what_cannot_be_flipped_is_left_alone():
    qa = questions(
        turn("a", 2, "yes_no", "?", "Yes.", fact="edema|presence"),
        turn("b", 2, "yes_no", "?", "Yes.", fact="edema|presence"),
        turn("c", 2, "yes_no", "?", "Yes.", fact="composite|any device"),
        turn("d", 7, "yes_no", "?", "Yes.", fact="pneumonia|presence"),
        turn("e", 2, "multi-choice", "?", "edema", fact="edema|presence"),
        turn("f", 2, "yes_no", "?", "Yes.", fact="edema|presence; mass|presence"),
    )
    said = ["(no, not really)", "Perhaps.", "Yes.", "Yes.", "edema", "No."]
    answers = qa.select("sample_id", "turn", answer=pl.Series(said))
    assert flips(qa, answers, 0) == {("a", 0): "Yes."}
    assert flips(qa, answers.clear(), 0) == {}
