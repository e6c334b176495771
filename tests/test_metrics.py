"""Scores of single answers against rouge-score, scikit-learn, hand-computed boxes and known scoring bugs."""

import itertools
import time

import numpy as np
import polars as pl
import pytest
from fake_answers import patients_of
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from cxrtrek_lib.boxes import iou_matrix
from cxrtrek_lib.conversations import format_boxes
from cxrtrek_lib.metrics import (
    LONGEST,
    box_score,
    chosen,
    finding_f1,
    rouge_l,
    score_answer,
    score_answers,
    split_option,
    text_score,
    yes_no,
)
from cxrtrek_lib.tables import QA

REFERENCE = RougeScorer(["rougeL"], use_stemmer=False)


def turn(qtype, answer, number=0, sample="chexpert/patient1/study1", **fields):
    row = dict.fromkeys(QA) | {
        "sample_id": sample,
        "turn": number,
        "stage": 2,
        "task_type": "Findings_Identification",
        "image_input_count": 1,
        "question": "?",
        "fact": "fact",
        "evidence": "hand",
    }
    return row | {"qtype": qtype, "answer": answer} | fields


# --- open-ended ---------------------------------------------------------------------------------------
WORDS = st.lists(st.sampled_from("no small left right pleural effusion nodule the".split()), max_size=25).map(
    " ".join
)


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_rouge_l_equals_rouge_score(gold, answer):
    assert rouge_l(gold, answer) == pytest.approx(REFERENCE.score(gold, answer)["rougeL"].fmeasure)


@pytest.mark.parametrize(
    "pair",
    [
        ("The heart is normal.", "Heart size: NORMAL!"),
        ("Größe 3.5 cm", "3.5 cm"),
        ("a", ""),
        ("", ""),
        ("-", "-"),
        ("x_y", "x y"),
    ],
)
def test_rouge_l_splits_words_as_rouge_score_does(pair):
    assert rouge_l(*pair) == pytest.approx(REFERENCE.score(*pair)["rougeL"].fmeasure)


def test_rouge_l_of_a_very_long_answer_is_quick():
    assert rouge_l("small left pleural effusion", "effusion " * 20_000) == pytest.approx(2 / 20_004)


def test_polarity_counts_where_word_overlap_does_not():
    """The trap named in the design: BERTScore gives 0.89 to a report that says the opposite."""
    assert finding_f1("No pleural effusion.", "Pleural effusion.") == 0.0
    assert finding_f1("No pleural effusion.", "There is no effusion.") == 1.0
    # Gold: effusion present, pneumothorax absent. Answer: effusion present, nodule present: 2*1/(2+2).
    assert finding_f1("Effusion. No pneumothorax.", "Effusion and a nodule.") == 0.5
    assert finding_f1("The film is rotated.", "PA view.") is None


def test_open_ended_score_is_the_mean_of_its_two_parts():
    score = text_score("No pleural effusion.", "Pleural effusion.")
    assert score == pytest.approx({"rouge_l": 0.8, "finding_f1": 0.0, "score": 0.4})
    assert text_score("PA view.", "PA view.")["score"] == 1.0  # no finding in either: words alone
    assert score_answer(turn("captioning", "PA view."), "")["score"] == 0.0
    assert not score_answer(turn("captioning", "PA view."), " ... ")["parsed"]


# --- close-ended --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes.", "yes"),
        ("no", "no"),
        ("No, there is none. Yes?", "no"),
        ("The answer is: YES", "yes"),
        ("\uff39\uff45\uff53", "yes"),  # full-width letters
        ("\U0001d40d\U0001d428", "no"),  # bold letters of mathematics
        ("\ufeffN\u200bo.", "no"),  # byte order mark, zero-width space
        ("y\u00ade\u00ads", "yes"),  # soft hyphens
        ("\u201cYes\u201d", "yes"),
        ("Uncertain.", "uncertain"),
        ("There is no effusion", "no"),
        ("Nothing", None),
        ("yesterday", None),
        ("nodule", None),
        ("", None),
    ],
)
def test_first_yes_or_no_word_decides(text, said):
    assert yes_no(text) == said


def test_close_ended_questions_are_scored_not_zeroed():
    """A known bug of public scoring code zeroes every closed question."""
    assert score_answer(turn("yes_no", "Yes."), "Yes, it is.")["score"] == 1.0
    assert score_answer(turn("yes_no", "No."), "Yes.")["score"] == 0.0
    row = score_answer(turn("yes_no", "No."), "Perhaps.")
    assert (row["score"], row["parsed"], row["gold_class"], row["pred_class"]) == (0.0, False, "no", None)
    with pytest.raises(ValueError, match="neither yes, no nor uncertain"):
        score_answer(turn("yes_no", "Maybe."), "Yes.")


# --- choice -------------------------------------------------------------------------------------------
LETTERS = ["A. Left", "B. Right", "C. Bilateral"]
NUMBERS = ["1).Mild", "2).Moderate", "3).Severe"]
BARE = ["left", "left lower", "right lower"]


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("A. Left", ("A", "left")),
        ("1).PA view", ("1", "pa view")),
        ("1. PA", ("1", "pa")),
        ("(b) AP", ("B", "ap")),
        ("Left", (None, "left")),
        ("B12 deficiency", (None, "b12 deficiency")),
    ],
)
def test_option_labels_of_the_authors_data(option, parts):
    assert split_option(option) == parts


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("B. Right", LETTERS, {"right"}),
        ("B", LETTERS, {"right"}),
        ("b.", LETTERS, {"right"}),
        ("(B)", LETTERS, {"right"}),
        ("The answer is B.", LETTERS, {"right"}),
        ("B and C", LETTERS, {"right", "bilateral"}),
        ("A, C", LETTERS, {"left", "bilateral"}),
        ("right", LETTERS, {"right"}),
        ("A left one", LETTERS, {"left"}),  # the article is no label
        ("A right one", LETTERS, {"right"}),
        ("A. Right", LETTERS, {"left"}),  # label and text disagree: the label decides
        ("2", NUMBERS, {"moderate"}),
        ("2).Moderate", NUMBERS, {"moderate"}),
        ("Moderate", NUMBERS, {"moderate"}),
        ("left lower", BARE, {"left lower"}),  # not "left"
        ("left and right lower", BARE, {"left", "right lower"}),
        ("LEFT  lower.", BARE, {"left lower"}),
        ("somewhere", BARE, set()),
        ("", LETTERS, set()),
        ("leftmost", LETTERS, set()),
    ],
)
def test_choice_is_read_from_labels_or_texts(text, options, said):
    assert chosen(text, options) == said


@given(
    st.lists(st.sampled_from("left right upper lower base apex hilum".split()), min_size=2, unique=True),
    st.data(),
)
def test_any_subset_of_options_is_read_back_with_or_without_labels(texts, data):
    options = [f"{label}. {text.capitalize()}" for label, text in zip("ABCDEFG", texts, strict=False)]
    picked = data.draw(st.lists(st.sampled_from(options), unique=True))
    expected = {option[3:].lower() for option in picked}
    assert chosen("; ".join(picked), options) == expected
    assert chosen(", ".join(option[3:] for option in picked), options) == expected
    assert chosen(" and ".join(option[0] for option in picked), options) == expected


@settings(deadline=None)
@given(st.text(max_size=300))
def test_garbage_never_breaks_a_parser(text):
    assert chosen(text, LETTERS) <= {"left", "right", "bilateral"}
    assert yes_no(text) in (None, "yes", "no", "uncertain")
    for row in (
        score_answer(turn("detection", "", bbox_list=[[0.0, 0.0, 10.0, 10.0]]), text),
        score_answer(turn("captioning", "No effusion."), text),
    ):
        assert 0 <= row["score"] <= 1


def test_choice_needs_the_exact_set_and_keeps_jaccard():
    question = turn(
        "multi-choice", "A. Left, B. Right", option_list=LETTERS, answer_list=["A. Left", "B. Right"]
    )
    assert score_answer(question, "B. Right; A. Left")["score"] == 1.0
    partial = score_answer(question, "A. Left")
    assert (partial["score"], partial["jaccard"], partial["parsed"]) == (0.0, 0.5, True)
    assert not score_answer(question, "Neither side")["parsed"]


# --- detection ----------------------------------------------------------------------------------------
def test_iou_by_hand():
    # [0,0,10,10] and [5,0,15,10]: overlap 50, union 150. Touching boxes share nothing.
    boxes = np.array([[5.0, 0, 15, 10], [10, 0, 20, 10], [0, 0, 10, 10]])
    assert iou_matrix(np.array([[0.0, 0, 10, 10]]), boxes).tolist() == [pytest.approx([1 / 3, 0, 1])]


def test_two_right_boxes_score_one():
    """A known bug averages IoU over all prediction x truth pairs: that would give 0.5 here."""
    pair = [[0, 0, 10, 10], [50, 50, 60, 60]]
    assert box_score(pair, pair[::-1]) == {"score": 1.0, "iou": 1.0}


def test_one_box_cannot_match_twice():
    gold = [[0, 0, 10, 10]]
    assert box_score(gold, gold * 3) == {"score": pytest.approx(2 / 4), "iou": pytest.approx(1 / 3)}


def test_matching_maximises_the_number_of_hits():
    """F1 needs the pairing with the most hits, which the largest sum of IoU need not give."""
    random = np.random.default_rng(0)
    for _ in range(100):
        corners = random.random((2, 3, 2)) * 40
        gold = np.concatenate([corners[0], corners[0] + 20], axis=1)
        answer = np.concatenate([corners[1], corners[1] + 20], axis=1)
        iou = iou_matrix(gold, answer)
        best = max(
            sum(iou[i, j] >= 0.5 for i, j in enumerate(order)) for order in itertools.permutations(range(3))
        )
        assert box_score(gold, answer)["score"] == pytest.approx(best / 3)


def test_no_box_means_wrong_never_the_box_before():
    """A known bug reuses the previous sample's box when none parses."""
    right = [[10.0, 10.0, 50.0, 50.0]]
    questions = [turn("detection", format_boxes("heart", right), n, bbox_list=right) for n in range(3)]
    answers = [format_boxes("heart", right), "I cannot see it.", "(50.00, 50.00), (10.00, 10.00)"]
    qa = pl.DataFrame(questions, schema=QA)
    given = qa.select("sample_id", "turn", answer=pl.Series(answers))
    rows = score_answers(qa, given, patients_of(qa))
    assert rows["score"].to_list() == [1.0, 0.0, 0.0]
    assert rows["iou"].to_list() == [1.0, 0.0, 0.0]
    assert rows["parsed"].to_list() == [True, False, False]  # an inverted box is no box


def test_nothing_to_detect():
    question = turn("detection", "None seen.", bbox_list=[])
    assert score_answer(question, "There is none.")["score"] == 1.0
    assert score_answer(question, format_boxes("nodule", [[1, 1, 2, 2]]))["score"] == 0.0
    assert score_answer(question, "")["score"] == 0.0


# --- any text -----------------------------------------------------------------------------------------
OPTIONS = {"option_list": LETTERS, "answer_list": ["A. Left", "C. Bilateral"]}
ASKED = {
    "yes_no": turn("yes_no", "No."),
    "multi-choice": turn("multi-choice", "A. Left, C. Bilateral", **OPTIONS),
    "detection": turn("detection", "", bbox_list=[[10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]]),
    "captioning": turn("captioning", "No pneumothorax. Small left effusion."),
}
PIECES = [
    "A", "B.", "(c)", "and", "Left", "bilateral", "yes", "No", "uncertain", "effusion", "(10.0, 10)",
    "(50, 50.00)", "(-1, 2)", "(1e9, 3)", "(nan, inf)", "<|box|>", ",", ";", "\n", "\x00", "\u200b",
    "\U0001d40d",
]  # fmt: skip
ANY_TEXT = st.text(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ASKED)), ANY_TEXT)
def test_no_text_breaks_a_score_or_leaves_its_range(qtype, text):
    row = score_answer(ASKED[qtype], text)
    for key in ("score", "rouge_l", "finding_f1", "jaccard", "iou"):
        assert row[key] is None or 0 <= row[key] <= 1, key
    assert row["parsed"] or row["score"] == 0


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_what_is_read_from_a_text_is_one_of_what_there_is(text):
    assert yes_no(text) in {"yes", "no", "uncertain", None}
    assert yes_no(text) == yes_no(text.upper().replace("\u0130", "")) or not text.isascii()
    assert chosen(text, LETTERS) <= {"left", "right", "bilateral"}
    assert split_option(text)[1] == split_option(f"  {text}")[1]


boxes_written = st.lists(
    st.tuples(*[st.floats(0, 49, width=32), st.floats(50, 100, width=32)] * 2), min_size=1, max_size=5
)


@settings(max_examples=100, deadline=None)
@given(boxes_written, st.sampled_from(["{}", "Here: {}.", "{} I think", "(see) {} (12)"]))
def test_written_boxes_are_read_back_whatever_stands_around(corners, around):
    boxes = [[round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2)] for x1, x2, y1, y2 in corners]
    asked = turn("detection", "", bbox_list=boxes)
    row = score_answer(asked, around.format(format_boxes("nodule", boxes)))
    assert (row["score"], row["iou"]) == (1.0, pytest.approx(1.0))


@pytest.mark.parametrize("qtype", sorted(ASKED))
@pytest.mark.parametrize(
    "piece", ["effusion ", "(", "(1, 1), ", "((((1.1", "A", "no effusion, ", "\u200b", "9" * 50]
)
def test_answers_of_100_kilobytes_take_no_time(qtype, piece):
    start = time.perf_counter()
    row = score_answer(ASKED[qtype], piece * (100_000 // len(piece)))
    assert 0 <= row["score"] <= 1 and time.perf_counter() - start < 10


def test_only_the_beginning_of_an_endless_answer_is_read():
    assert score_answer(ASKED["yes_no"], " " * LONGEST + "No.")["parsed"] is False
    assert score_answer(ASKED["yes_no"], " " * (LONGEST - 3) + "No. Yes.")["score"] == 1.0


# --- the table ----------------------------------------------------------------------------------------
def table(n=4):
    rows = [turn("yes_no", "Yes.", k, f"padchest/p{k}/s1", target="yes_no_abnormality") for k in range(n)]
    return pl.DataFrame(rows, schema=QA)


def answers(qa, text="Yes."):
    return qa.select("sample_id", "turn", answer=pl.lit(text))


def test_missing_answers_are_wrong_and_counted():
    qa = table()
    rows = score_answers(qa, answers(qa)[:2], patients_of(qa))
    assert rows["score"].to_list() == [1, 1, 0, 0]
    assert rows["answered"].to_list() == [True, True, False, False]
    assert rows["patient_id"].to_list() == [f"padchest/p{k}" for k in range(4)]
    assert score_answers(qa, answers(qa)[:0], patients_of(qa))["answered"].sum() == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [("twice", "1 turns are answered twice"), ("extra", "not among"), ("stranger", "no row")],
)
def test_tables_that_do_not_fit_are_refused_in_one_line(change, said):
    qa = table()
    given, studies = answers(qa), patients_of(qa)
    if change == "twice":
        given = pl.concat([given, given[:1]])
    elif change == "extra":
        qa = qa[:3]
    else:
        studies = studies[:3]
    with pytest.raises(ValueError, match=said) as caught:
        score_answers(qa, given, studies)
    assert "\n" not in str(caught.value) and "padchest/p" in str(caught.value)


def test_patients_come_from_the_studies_not_from_the_sample_id():
    """Ids of PadChest, NIH and Open-i do not hold the patient as CheXpert's do."""
    qa = table(2)
    studies = pl.DataFrame({"sample_id": qa["sample_id"], "patient_id": ["nih/1", "nih/1"]})
    assert score_answers(qa, answers(qa), studies)["patient_id"].to_list() == ["nih/1", "nih/1"]


def test_every_format_of_the_table_has_a_score_in_the_order_of_the_questions():
    box = [[1.0, 2.0, 30.0, 40.0]]
    qa = pl.DataFrame(
        [
            turn("detection", format_boxes("heart", box), 3, bbox_list=box),
            turn("yes_no", "No.", 0),
            turn("single-choice", "A. Left", 1, option_list=LETTERS, answer_list=["A. Left"]),
            turn("captioning", "No pneumothorax.", 2),
        ],
        schema=QA,
    )
    gold = qa.select("sample_id", "turn", "answer")
    rows = score_answers(qa, gold, patients_of(qa))
    assert rows["turn"].to_list() == [3, 0, 1, 2]
    assert rows["format"].to_list() == ["detection", "close-ended", "choice", "open-ended"]
    assert rows["score"].to_list() == [1, 1, 1, 1]
