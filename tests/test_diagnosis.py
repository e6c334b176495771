"""Diagnoses are asked as far as they are known; advice is what the report says, word for word."""

import re
from collections import Counter

import polars as pl
import pytest
from real_tables import table
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build
from cxrtrek_lib.findings import CORE, DIAGNOSES
from cxrtrek_lib.stages import diagnosis, wording
from cxrtrek_lib.stages.report_text import advice, legible

PRESENT, ABSENT, POSSIBLE = "present", "absent", "uncertain"
TEMPLATES = wording.load()[7]


def ask(finding_rows, n=1, balance=None, **study):
    """Stage 7 of n studies that have the same rows (finding, status, tier, ...)."""
    made = studies(*({"sample_id": f"made/{i}", **study} for i in range(n)))
    rows = findings(*((f"made/{i}", *row) for i in range(n) for row in finding_rows))
    evidence = build.gather(made, rows, boxes(), 0, balance)
    return pl.concat(diagnosis.diagnosis(evidence, TEMPLATES))


def bare(option):
    return re.sub(r"^(?:[A-J]\.|\d+\.|\d+\)\.) ", "", option)


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        ([("pneumonia", PRESENT, 1)], "Pneumonia."),
        ([("pneumonia", POSSIBLE, 1), ("copd", PRESENT, 1), ("edema", PRESENT, 1)],
         "COPD. Possible pneumonia."),
        ([("heart failure", POSSIBLE, 1)], "Possible heart failure."),
        ([(name, ABSENT, 2) for name in CORE], "No diagnosis: no abnormal finding."),
        ([*((name, ABSENT, 2) for name in CORE), ("pacemaker", PRESENT, 1)],
         "No diagnosis: no abnormal finding."),
        ([("pneumonia", ABSENT, 1)], None),  # one absence makes no normal study
        ([("edema", PRESENT, 1)], None),
        ([("pneumonia", ABSENT, 3)], None),
    ],
)  # fmt: skip
def test_the_diagnosis(rows, answer):
    told = ask(rows).filter(qtype="captioning")["answer"].to_list()
    assert told == ([answer] if answer else [])


@pytest.mark.parametrize(("status", "word"), [(PRESENT, "Yes."), (ABSENT, "No.")])
def test_a_known_status_is_asked_once_as_yes_no_or_choice(status, word):
    qa = ask([("pneumonia", status, 1)], 100).filter(pl.col("qtype") != "captioning")
    assert qa["i"].n_unique() == qa.height == 100
    yes_no, choice = qa.filter(qtype="yes_no"), qa.filter(qtype="single-choice")
    assert 30 < yes_no.height < 70 and set(yes_no["answer"]) == {word}
    assert {bare(answer) for answer in choice["answer"]} == {status}
    assert all(sorted(map(bare, row)) == ["absent", "possible", "present"] for row in choice["option_list"])
    assert set(qa["fact"]) == {"pneumonia|presence"} and set(qa["evidence"]) == {"made: pneumonia"}


def test_possible_diagnoses_are_asked_about_in_a_drawn_share():
    qa = ask([("pneumonia", POSSIBLE, 1)], 400).filter(pl.col("qtype") != "captioning")
    share = diagnosis.POSSIBLE_SHARE
    assert {bare(answer) for answer in qa["answer"]} == {"possible"}
    assert abs(qa.height - 400 * share) < 4 * (400 * share * (1 - share)) ** 0.5


def test_only_diagnoses_and_only_balanced_ones():
    rows = [("pneumonia", PRESENT, 1), ("edema", PRESENT, 1), ("copd", PRESENT, 1)]
    kept = pl.DataFrame({"source": ["made"], "finding": ["copd"], "status": [PRESENT], "share": [1.0]})
    kept = kept.with_columns(pl.col("finding").cast(build.FINDING))
    qa = ask(rows, 40).filter(pl.col("qtype") != "captioning")
    assert set(qa["fact"]) == {"pneumonia|presence", "copd|presence"} and qa.height == 80
    qa = ask(rows, 40, kept).filter(pl.col("qtype") != "captioning")
    assert set(qa["fact"]) == {"copd|presence"} and qa.height == 40
    assert {"pneumonia", "copd"} <= DIAGNOSES and "edema" not in DIAGNOSES


@pytest.mark.parametrize(
    "sentence",
    [
        "Chest CT is recommended for further evaluation.",
        "RECOMMEND RETRACTION OF THE TUBE.",
        "A CT is advised.",
        "Suggest clinical correlation.",
        "Short interval follow-up imaging is suggested.",
        "Followup radiographs in 6 weeks are indicated.",
        "Please correlate clinically.",
        "Correlate with the site of pain.",
        "Left base opacity, clinical correlation needed.",
        "If there is concern for a fracture, consider dedicated rib views.",
        "A decubitus view may be helpful.",
        "This could be further evaluated with CT.",
        "Further evaluation will require a CT.",
        "Oblique views would better evaluate the nodule.",
        "Malignancy should be excluded.",
        "The tube should be withdrawn by 3 cm.",
        "Follow up to resolution.",
        "Repeat PA radiograph after treatment.",
        "Further evaluation with ultrasound could be performed.",
        # Advice against a further step is advice.
        "No follow-up is needed.",
        "Further imaging is not indicated.",
    ],
)
def test_advice(sentence):
    text = f"1. The heart is large. 2. {sentence} 3. Lungs are clear."
    assert pl.select(advice(pl.lit(text))).item().to_list() == [sentence]


@pytest.mark.parametrize(
    "sentence",
    [
        "Opacity suggesting pneumonia.",
        "There is suggestion of edema.",
        "Further progression of edema is suggested.",
        "On this view a small effusion is suggested.",
        "Stable since the prior CT.",
        "Prior CT indicated a metastasis.",
        "No discrete correlate on the lateral view.",
        "This may correlate with the nodule on CT.",
        "Consider pneumonia.",
        "Pneumonia could be considered.",
        "Differential considerations include atelectasis.",
        "Interval follow-up shows resolution.",
        "Evaluation of the bases is limited.",
        "The chest was evaluated with two views.",
        "A small effusion cannot be excluded.",
        "The catheter can be followed to the cavoatrial junction.",
        "As recommended on the prior CT, a follow-up was performed.",
        "The ward was advised of these findings by telephone.",
        "Prosthesis of the left shoulder.",
        "XXXX CT is recommended.",
    ],
)
def test_no_advice(sentence):
    assert pl.select(advice(pl.lit(f"Clear lungs. {sentence}"))).item().to_list() == []


def test_advice_is_quoted_once_and_only_from_reports():
    text = {
        "findings_text": "Nodule. CT is recommended.",
        "impression_text": "1. CT is recommended. 2. XXXX. Consider biopsy.",
    }
    (row,) = ask([], **text).filter(target="advice").iter_rows(named=True)
    assert row["answer"] == "CT is recommended. Consider biopsy."
    assert row["evidence"] == "made: findings_text; made: impression_text" and row["fact"] == "report|advice"
    assert ask([], impression_text="Clear lungs.").height == 0
    assert ask([("pneumonia", PRESENT, 1)]).filter(target="advice").height == 0


def test_advice_of_real_reports_stands_in_them():
    reports = table("openi").studies
    evidence = build.gather(reports, table("openi").findings.clear(), boxes(), 0)
    qa = pl.concat(diagnosis.diagnosis(evidence, TEMPLATES)).filter(target="advice")
    said = qa.join(evidence.studies, on="i").select("answer", "findings_text", "impression_text")
    # 3 of 100 reports; every hit was read once, and advises something.
    assert 100 < qa.height < 200
    for answer, *texts in said.iter_rows():
        assert "XXXX" not in answer
        whole = " ".join(" ".join(text.split()) for text in texts if text)
        for part in re.split(r"(?<=[.])\s+(?=[A-Z])", answer):
            assert part in whole


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("1. XXXX nodule. 2. Clear lungs.", "2. Clear lungs."),
        ("No change from XXXX. Heart is normal.", "Heart is normal."),
        ("Normal chest x-XXXX.", ""),
        ("Normal chest x-XXXX. . The heart is normal.", "The heart is normal."),
        ("Heart size is 3.5 cm. Clear.", "Heart size is 3.5 cm. Clear."),
        ("Fracture of T12. XXXX seen.", "Fracture of T12."),
        ("1. XXXX nodule 2. Clear lungs", "2. Clear lungs"),
        ("Clear.  \n Normal!", "Clear. Normal!"),
    ],
)
def test_sentences_with_removed_words_are_left_out(text, kept):
    assert pl.select(legible(pl.lit(text))).item() == kept


def test_no_diagnosis_is_asked_in_one_format_only_by_its_status():
    """Which format asks does not tell the answer: yes/no and choice take the same share of both."""
    formats = {}
    for status in (PRESENT, ABSENT):
        qa = ask([("pneumonia", status, 1)], 300).filter(pl.col("qtype") != "captioning")
        formats[status] = Counter(qa["qtype"])
    assert formats[PRESENT] == formats[ABSENT]
