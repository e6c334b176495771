"""Counts of a dataset, against hand-counted tables and against plain Python counting."""

import re
from collections import Counter

import polars as pl
import pytest
from fake_answers import fake_cohort
from questions_by_hand import questions, studies, turn

from cxrtrek_lib import conversations
from cxrtrek_lib.dataset_statistics import dataset_counts

STUDIES, QUESTIONS = fake_cohort(40)
HAND = studies(("a", "p1", "one", "train"), ("b", "p1", "one", "train"), ("c", "p2", "two", "test"))
BOX = conversations.format_boxes("heart", [[1, 2, 3, 4]])
TURNS = questions(
    turn("a", 1, "single-choice", "<image><image>\nWhich view? Options: A. PA; B. AP.", "A. PA", "view"),
    turn("a", 2, "yes_no", "Is there edema?", "Yes.", "edema|presence"),
    turn("a", 2, "multi-choice", "Which are seen? Options: 1). edema.", "1). edema", "edema|presence"),
    turn("a", 8, "captioning", "Write the report.", "Edema, mild. No mass.", "composite|summary"),
    turn("b", 2, "yes_no", "Is there mass?", "No.", "mass|presence"),
    turn("c", 3, "detection", "Where is the heart?", BOX, "heart|box"),
    turn("c", 2, "yes_no", "Is there edema?", "Yes.", "edema|presence; mass|presence"),
)  # fmt: skip


def test_cells_and_samples_by_hand():
    counts = dataset_counts.count(HAND, TURNS)
    assert (counts.n_qa, counts.n_samples) == (7, 3)
    cells = counts.cells.group_by("source", "split", "stage", "format").agg(pl.col("n").sum())
    assert dict(((source, stage, kind), n) for source, _, stage, kind, n in cells.rows()) == {
        ("one", 1, "choice"): 1, ("one", 2, "close-ended"): 2, ("one", 2, "choice"): 1,
        ("one", 8, "open-ended"): 1, ("two", 3, "detection"): 1, ("two", 2, "close-ended"): 1,
    }  # fmt: skip
    assert counts.samples.rows() == [("one", "train", 1, 1), ("one", "train", 4, 1), ("two", "test", 2, 1)]


def test_words_leave_placeholders_out_and_count_options():
    words = dataset_counts.count(HAND, TURNS).words
    view = words.filter(side="question", qtype="single-choice")
    assert view["words"].to_list() == [7]  # Which view? Options: A. PA; B. AP.
    assert words.filter(side="answer", qtype="yes_no").select("words", "n").rows() == [(1, 3)]
    assert words.filter(side="answer", qtype="detection")["words"].to_list() == [7]


def test_openings_by_hand():
    openings = dataset_counts.count(HAND, TURNS).openings
    asked = {(first, second): n for _, first, second, n in openings.filter(side="question").rows()}
    assert asked == {
        ("is", "there"): 3, ("which", "view"): 1, ("which", "are"): 1, ("write", "the"): 1,
        ("where", "is"): 1,
    }  # fmt: skip
    said = {(first, second): n for _, first, second, n in openings.filter(side="answer").rows()}
    # Option labels, box marks and what follows a comma or a stop are no word of the pair.
    assert said == {("yes", ""): 2, ("no", ""): 1, ("pa", ""): 1, ("edema", ""): 2, ("heart", ""): 1}


def pair(text: str, choice: bool) -> tuple[str, str]:
    """First and second word, written again with Python's re."""
    text = re.sub(r"<\|box\|>.*?<\|/box\|>|<\|/?ref\|>", " ", text.replace("<image>", ""))
    if choice:
        text = re.sub(r"^\s*\(?(?:[A-Za-z]|\d{1,2})\s*[.):]+\s+", "", text)
    phrase = next((part for part in re.split(r"[.,;:?!]", text) if re.search(r"\w", part)), "")
    words = re.findall(r"[^\W_]+(?:['/-][^\W_]+)*", phrase.lower())
    return tuple([*words, "", ""][:2])


def test_counts_agree_with_plain_python():
    counts = dataset_counts.count(STUDIES, QUESTIONS.lazy())
    rows = QUESTIONS.to_dicts()
    source = dict(STUDIES.select("sample_id", "source").rows())
    cells = Counter((source[row["sample_id"]], row["stage"], row["qtype"]) for row in rows)
    found = counts.cells.group_by("source", "stage", "qtype").agg(pl.col("n").sum())
    assert {row[:3]: row[3] for row in found.rows()} == cells
    sizes = Counter(Counter(row["sample_id"] for row in rows).values())
    found = counts.samples.group_by("qa").agg(pl.col("samples").sum())
    assert dict(found.rows()) == sizes
    for side in ("question", "answer"):
        texts = [(row[side], row["qtype"]) for row in rows]
        words = Counter((kind, len(text.replace("<image>", "").split())) for text, kind in texts)
        found = counts.words.filter(side=side).select("qtype", "words", "n")
        assert {row[:2]: row[2] for row in found.rows()} == words
        pairs = Counter(pair(text, conversations.FORMATS[kind] == "choice") for text, kind in texts)
        found = counts.openings.filter(side=side).select("first", "second", "n")
        assert {row[:2]: row[2] for row in found.rows()} == pairs


def test_a_scan_counts_like_a_frame_in_any_order(tmp_path):
    QUESTIONS.write_parquet(tmp_path / "qa.parquet", row_group_size=37)
    scanned = dataset_counts.count(STUDIES, pl.scan_parquet(tmp_path / "qa.parquet"))
    for one, other in zip(scanned, dataset_counts.count(STUDIES.reverse(), QUESTIONS.reverse()), strict=True):
        assert one.equals(other)


def test_facts_count_once_per_study_whatever_the_parts(monkeypatch):
    by_hand = {("one", "train"): 3, ("two", "test"): 3}  # a: view, edema; b: mass; c: box, edema, mass
    for part in (1, 2, 100):
        monkeypatch.setattr(dataset_counts, "PART", part)
        found = dataset_counts.facts(HAND, TURNS)
        assert {row[:2]: row[2] for row in found.rows()} == by_hand


def test_what_a_fact_is_about_and_a_question_demands():
    facts = pl.DataFrame({"fact": ["edema|presence", "composite|any device", "view", "view|1; view|2"]})
    named = facts.select(dataset_counts.about()).to_series().to_list()
    assert named == ["edema", "any device", "view", "view"]
    kinds = pl.DataFrame({"qtype": list(conversations.FORMATS)}).with_columns(
        kind=dataset_counts.question_kind()
    )
    for qtype, kind in kinds.rows():
        assert kind == (
            "multi-choice"
            if "multi" in qtype
            else "single-choice"
            if "single" in qtype
            else conversations.FORMATS[qtype]
        )


def test_what_cannot_be_counted_is_named():
    with pytest.raises(ValueError, match="0 rows"):
        dataset_counts.count(HAND, TURNS[:0])
    with pytest.raises(ValueError, match="2 of 7 Q&A are about no sample"):
        dataset_counts.count(HAND[:2], TURNS)
    odd = TURNS.with_columns(qtype=pl.lit("essay"))
    with pytest.raises(ValueError, match="essay"):
        dataset_counts.count(HAND, odd)
