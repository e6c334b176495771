"""The audits of a dataset on cases with known answers, and against plain Python."""

import re
from collections import Counter, defaultdict

import polars as pl
import pytest
from fake_answers import fake_cohort
from questions_by_hand import questions, studies, turn

from cxrtrek_lib import conversations
from cxrtrek_lib.dataset_statistics import audits, dataset_counts, published

STUDIES, QUESTIONS = fake_cohort(40)
HAND = studies(("a", "p1", "one", "train"), ("b", "p2", "one", "test"))
SIDES = {"options": ["A. left", "B. right"], "right": ["A. left"]}


def leaks(*turns, **more) -> dict:
    """(stage, format) -> its row of the leak table as a dict."""
    table = audits.context_leak(HAND, questions(*turns), **more)
    return {(row["stage"], row["format"]): row for row in table.iter_rows(named=True)}


def test_a_word_leaks_only_when_it_stood_in_an_earlier_answer_of_the_same_study():
    found = leaks(
        turn("a", 2, "yes_no", "Edema?", "Yes.", "edema|presence"),  # nothing stood before
        turn("a", 2, "captioning", "Is there edema or mass?", "Mild Edema; pneumothoraces."),
        turn("a", 2, "yes_no", "Edema?", "Yes.", "edema|presence"),  # stood, in another case of letters
        turn("a", 2, "yes_no", "Mass?", "Yes.", "mass|presence"),  # stood in a question only
        turn("a", 2, "yes_no", "Pneumothorax?", "No.", "pneumothorax|presence"),  # not as a whole word
        turn("a", 2, "yes_no", "Edema?", "No.", "edema|presence"),
        turn("b", 2, "yes_no", "Edema?", "Yes.", "edema|presence"),  # stood in another study
    )
    row = found[2, "close-ended"]
    assert (row["true"], row["true_earlier"]) == (4, 0.25)
    assert (row["false"], row["false_earlier"]) == (2, 0.5)
    assert (row["from_stage"], row["from_format"]) == (2, "open-ended")


def test_options_leak_without_their_labels_and_the_first_mention_is_named():
    found = leaks(
        turn("a", 1, "captioning", "Where?", "On the left."),
        turn("a", 2, "single-choice", "Which side?", "A. left", **SIDES),
        turn("a", 3, "single-choice", "Which side?", "A. left", **SIDES),
        turn("b", 3, "single-choice", "Which side?", "A. left", **SIDES),
        turn("b", 4, "captioning", "Where?", "right"),
    )
    assert found[2, "choice"]["true_earlier"] == 1 and found[2, "choice"]["false_earlier"] == 0
    assert found[3, "choice"]["true_earlier"] == 0.5  # in a: stage 1, not the later stage 2
    assert found[3, "choice"]["from_stage"] == 1 and found[3, "choice"]["from_format"] == "open-ended"
    whole = found[None, "choice"]
    assert (whole["true"], whole["false"], whole["true_earlier"]) == (3, 3, pytest.approx(2 / 3))
    assert whole["published"] is None


def test_the_published_share_stands_beside_the_yes_no_questions_of_all_stages():
    found = leaks(turn("a", 2, "yes_no", "Edema?", "Yes.", "edema|presence"))
    assert (
        found[None, "close-ended"]["published"]
        == pytest.approx(56 / 85)
        == published.LEAKED / published.LEAK_OF
    )
    assert found[2, "close-ended"]["published"] is None
    assert found[2, "close-ended"]["false_earlier"] is None  # no negative question: no share


def test_only_questions_about_findings_are_claims():
    found = leaks(
        turn("a", 1, "captioning", "View?", "AP view, composite."),
        turn("a", 1, "yes_no", "Is it AP?", "Yes.", "view|1", target="view"),
        turn("a", 2, "yes_no", "Anything?", "Yes.", "composite|any abnormality"),
        turn("a", 2, "yes_no", "Edema?", "Yes.", "edema|presence"),
    )
    assert set(found) == {(2, "close-ended"), (None, "close-ended")}
    assert (found[2, "close-ended"]["true"], found[2, "close-ended"]["true_earlier"]) == (1, 0)


def words(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.lower())) + " "


def test_leaks_agree_with_plain_python(monkeypatch):
    wanted = defaultdict(Counter)
    for _, case in QUESTIONS.sort("turn").group_by("sample_id"):
        told = ""
        for row in case.iter_rows(named=True):
            kind = conversations.FORMATS[row["qtype"]]
            if kind == "close-ended":
                said = [(row["fact"].split("|")[0], row["answer"] == "Yes.")]
            else:
                said = [(o.split(". ", 1)[1], o in row["answer_list"]) for o in row["option_list"] or []]
            for text, true in said:
                wanted[row["stage"], kind][true, words(text) in told] += 1
            if kind != "close-ended":
                told += "|" + words(row["answer"])
    for part in (3, 1000):
        monkeypatch.setattr(dataset_counts, "PART", part)
        table = audits.context_leak(STUDIES, QUESTIONS.sample(fraction=1, shuffle=True, seed=1).lazy())
        table = table.filter(pl.col("stage").is_not_null())
        assert set(table.select("stage", "format").rows()) == set(wanted)
        for row in table.iter_rows(named=True):
            counted = wanted[row["stage"], row["format"]]
            for name, true in (("true", True), ("false", False)):
                earlier, n = counted[true, True], counted[true, True] + counted[true, False]
                assert row[name] == n
                assert row[f"{name}_earlier"] == (pytest.approx(earlier / n) if n else None)


def test_repeated_texts_by_hand():
    rows = studies(
        ("a", "p1", "one", "train"), ("b", "p1", "one", "train"), ("c", "p2", "one", "train"),
        ("d", "p3", "one", "test"), ("e", "p4", "one", "test"), ("f", "p5", "one", "test"),
    )  # fmt: skip
    texts = {"a": "same", "b": "own", "c": "same", "d": "same", "e": "two", "f": "two"}
    texts["b2"] = "own"  # patient p1 repeats itself: that is no other patient
    turns = [turn(sample[0], 8, "captioning", "Report?", text) for sample, text in texts.items()]
    turns.append(turn("f", 2, "captioning", "List?", "same"))  # another stage
    table = audits.repeated_texts(rows, questions(*turns))
    # source, split, task_type, n, different, repeated, same_split, in_training
    name = "Findings_Identification"
    third = pytest.approx(1 / 3)
    assert table.rows() == [
        ("one", "test", name, 3, 2, 1.0, pytest.approx(2 / 3), third),
        ("one", "train", name, 4, 2, 0.5, 0.5, 0.5),
    ]


def test_crossing_patients_are_found():
    assert audits.crossing_patients(HAND).is_empty()
    crossed = pl.concat([HAND, studies(("c", "p1", "one", "test"))])
    assert audits.crossing_patients(crossed).rows() == [("p1", ["test", "train"])]


def test_repeated_questions_by_hand(monkeypatch):
    turns = questions(
        turn("a", 2, "yes_no", "Edema?", "Yes.", "edema|presence"),
        turn("a", 2, "yes_no", "Do you see edema?", "Yes.", "edema|presence"),  # again
        turn("a", 2, "single-choice", "Which?", "A. left", "edema|presence", **SIDES),  # another format
        turn("a", 7, "yes_no", "Edema, finally?", "Yes.", "edema|presence"),  # again, in a later stage
        turn("b", 2, "yes_no", "Edema?", "Yes.", "edema|presence"),  # another study
        turn("b", 5, "captioning", "Changes?", "None.", "composite|changes"),
        turn("b", 6, "captioning", "Trend?", "None.", "composite|changes"),  # composed anew in its stage
        turn("b", 6, "captioning", "Expected?", "None.", "composite|changes"),  # again
        turn("b", 6, "captioning", "Of edema?", "None.", "composite|changes", target="abnormality_[edema]"),
        turn("b", 6, "multi-choice-2", "Which?", "A. left", "edema|presence", **SIDES),
        turn("b", 6, "single-choice", "Which?", "A. left", "edema|presence", **SIDES),  # one, not several
        turn("b", 6, "multi-choice", "Which?", "A. left", "edema|presence", **SIDES),  # several again
    )
    for part in (1, 100):
        monkeypatch.setattr(dataset_counts, "PART", part)
        table = audits.repeated_questions(HAND, turns.lazy())
        assert table.drop("task_type").rows() == [
            (2, "close-ended", 1, 3), (6, "multi-choice", 1, 2), (6, "open-ended", 1, 3),
            (7, "close-ended", 1, 1),
        ]  # fmt: skip


def test_plain_words():
    texts = pl.DataFrame({"t": ["1). Edema,  mild.", "T-tube", "", "Ödem"]})
    assert texts.select(audits.plain(pl.col("t"))).to_series().to_list() == [
        " 1 edema mild ",
        " t tube ",
        "  ",
        " ödem ",
    ]
