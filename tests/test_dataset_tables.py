"""The tables of a dataset against hand-made studies, plain counting and chance."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from fake_answers import fake_cohort
from questions_by_hand import questions, studies, turn

from cxrtrek_lib import conversations
from cxrtrek_lib.dataset_statistics import dataset_counts, dataset_tables, published

STUDIES, QUESTIONS = fake_cohort(40)
COUNTS = dataset_counts.count(STUDIES, QUESTIONS)
HAND = studies(
    ("a", "p1", "one", "train"), ("b", "p1", "one", "train"), ("c", "p2", "one", "test"),
    ("d", "p3", "two", "external"),
)  # fmt: skip


def findings(*rows):
    """Tuples (sample_id, finding, status, evidence_tier)."""
    return pl.DataFrame(rows, schema=["sample_id", "finding", "status", "evidence_tier"], orient="row")


def test_sources_by_hand():
    qa = questions(
        turn("a", 2, "yes_no", "Edema?", "Yes.", "edema|presence"),
        turn("a", 2, "captioning", "List.", "edema.", "composite|list"),
        turn("c", 2, "captioning", "List.", "edema.", "edema|presence; mass|presence"),
    )
    hand = HAND.with_columns(
        views=pl.Series([["PA", "LATERAL"], ["PA"], ["AP"], ["PA"]]),
        prior_study_id=pl.Series([None, "a", None, None]),
    )
    table = dataset_tables.sources(hand, qa, dataset_counts.count(hand, qa))
    # source, split, patients, studies, images, with_prior, qa, facts, qa_per_study
    assert table.rows() == [
        ("one", "test", 1, 1, 1, 0, 1, 2, 1.0),
        ("one", "train", 1, 2, 3, 1, 2, 1, 1.0),
        ("two", "external", 1, 1, 1, 0, 0, 0, 0.0),
    ]


def test_stage_formats_hold_every_question_and_every_published_cell():
    table = dataset_tables.stage_formats(COUNTS)
    source = dict(STUDIES.select("sample_id", "source").rows())
    wanted = Counter(
        (row["stage"], conversations.FORMATS[row["qtype"]], source[row["sample_id"]])
        for row in QUESTIONS.iter_rows(named=True)
    )
    long = table.unpivot(sorted(set(source.values())), index=["stage", "format"]).filter(pl.col("value") > 0)
    assert {row[:3]: row[3] for row in long.rows()} == wanted
    assert table["total"].sum() == QUESTIONS.height and table["share"].sum() == pytest.approx(1)
    there = table.drop_nulls("published").select("stage", "format", "published").rows()
    assert {row[:2]: row[2] for row in there} == published.STAGE_FORMATS
    assert table["title"].null_count() == 0


def test_task_types_keep_those_that_only_one_side_has():
    table = dataset_tables.task_types(COUNTS)
    assert table["qa"].sum() == QUESTIONS.height and table["published"].sum() == 2606
    assert table["published_per_sample"].sum() == pytest.approx(26.06)
    # fake_cohort calls everything Findings_Identification: five stages of that name, one of them published
    ours = table.filter(pl.col("task_type") == "Findings_Identification")
    assert ours["published"].to_list() == [None, 769, None, None, None]
    assert table.filter(stage=7).rows() == [(7, "Diagnosis_Advice", 0, 0.0, 70, pytest.approx(0.7))]


def test_label_prevalence_by_hand():
    said = findings(
        ("a", "edema", "present", 1), ("a", "edema", "absent", 1),  # present goes before absent
        ("b", "edema", "absent", 2), ("c", "edema", "absent", 3),  # tier 3 states nothing
        ("a", "mass", "uncertain", 1), ("a", "mass", "absent", 1), ("d", "mass", "absent", 1),
        ("elsewhere", "mass", "present", 1),
    )  # fmt: skip
    table = dataset_tables.label_prevalence(HAND, said, rare=1)
    # source, finding, studies, present, absent, uncertain, not_stated, prevalence, rare
    assert table.rows() == [
        ("one", "edema", 3, 1, 1, 0, 1, 1 / 3, False),
        ("one", "mass", 3, 0, 0, 1, 2, 0.0, True),
        ("two", "mass", 1, 0, 1, 0, 0, 0.0, True),
    ]


def test_yes_no_balance_agrees_with_plain_python():
    table = dataset_tables.yes_no_balance(STUDIES, QUESTIONS.lazy())
    source = dict(STUDIES.select("sample_id", "source").rows())
    n, yes = Counter(), Counter()
    for row in QUESTIONS.filter(qtype="yes_no").iter_rows(named=True):
        key = source[row["sample_id"]], row["stage"], row["fact"].split("|")[0]
        n[key] += 1
        yes[key] += row["answer"] == "Yes."
    for row in table.iter_rows(named=True):
        key = row["source"], row["stage"], row["finding"]
        both = sorted([yes[key], n[key] - yes[key]])
        assert (row["n"], row["yes"]) == (n.pop(key), yes[key])
        assert row["ratio"] == (pytest.approx(both[1] / both[0]) if both[0] else None)
    assert not n


def test_split_balance_by_hand():
    said = findings(("a", "edema", "present", 1), ("c", "edema", "present", 1), ("d", "edema", "present", 1))
    table = dataset_tables.split_balance(HAND, said, least=1)
    # Source "two" is in one split. train: 1 of 2 studies, test: 1 of 1; over both p = 2/3. Patients:
    # y - p n = 1 - 4/3 and 1 - 2/3, mean square 1/9; errors^2 = 1/9 / 4 + 1/9.
    assert table.columns == ["source", "finding", "present", "test", "train", "difference", "errors"]
    row = table.row(0)
    assert table.height == 1 and row[:5] == ("one", "edema", 2, 1.0, 0.5)
    assert row[5] == pytest.approx(0.5) and row[6] == pytest.approx(0.5 / np.sqrt(5 / 36))
    assert dataset_tables.split_balance(HAND, said, least=3).is_empty()


def test_errors_of_a_chance_split_are_those_of_a_normal_deviate():
    """Two splits, findings clustered in patients: the difference in standard errors is about |N(0, 1)|."""
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(2000), 3)
    rows = pl.DataFrame({
        "sample_id": [f"s{i}" for i in range(6000)], "patient_id": [f"p{i}" for i in patients],
        "source": "one", "split": np.where(random.random(2000) < 0.3, "test", "train")[patients],
    })  # fmt: skip
    said = [
        findings(*((f"s{i}", f"finding {k}", "present", 1) for i in np.flatnonzero(sick[patients])))
        for k, sick in enumerate(random.random((300, 2000)) < 0.1)
    ]
    errors = dataset_tables.split_balance(rows, pl.concat(said), least=1)["errors"].to_numpy()
    assert len(errors) == 300
    assert np.sqrt((errors**2).mean()) == pytest.approx(1, abs=0.12)  # as studies were patients: 1.7
    assert (errors > 1.96).mean() < 0.1


def test_exclusions_name_source_and_reason():
    table = dataset_tables.exclusions({"two: no image": 3, "one: tagged: exclude": 1}, {"one: age 411": 2})
    assert table.rows() == [
        ("excluded", "one", "tagged: exclude", 1),
        ("excluded", "two", "no image", 3),
        ("corrected", "one", "age 411", 2),
    ]
    assert dataset_tables.exclusions({}, {}).is_empty()


def test_every_number_of_the_paper_is_compared_and_every_difference_explained():
    table = published.comparison(COUNTS)
    assert table["difference"].str.len_chars().min() > 5
    here = dict(table.select("quantity", "here").rows())
    assert here["samples"] == COUNTS.n_samples and here["Q&A"] == QUESTIONS.height
    for start, whole in (("Q&A per sample, stage", here["Q&A per sample"]), ("share of Q&A, stage", 1)):
        parts = [value for name, value in here.items() if name.startswith(start)]
        assert len(parts) == 8 and sum(parts) == pytest.approx(whole)
    assert sum(here[f"share of Q&A, {kind}"] for kind in conversations.KINDS) == pytest.approx(1)
    words = [len(text.split()) for text in QUESTIONS.filter(qtype="yes_no")["question"]]
    assert here["words per question, close-ended"] == pytest.approx(np.mean(words))
    assert set(table.drop_nulls("paper")["quantity"]) == {"samples", "Q&A", "Q&A per sample"}
    none = table.filter(quantity="Q&A per sample, stage 7 Diagnosis and advice")
    assert none["difference"].item().startswith("none: ")


def test_a_number_within_ten_percent_needs_no_reason_and_others_say_their_direction():
    table = published.comparison(COUNTS).filter(
        pl.col("quantity").str.starts_with("Q&A per sample, ") | pl.col("quantity").str.starts_with("words")
    )
    for row in table.iter_rows(named=True):
        gap = row["here"] / row["published"]
        start = "within" if 0.9 <= gap <= 1.1 else "none" if gap == 0 else "lower" if gap < 1 else "higher"
        assert row["difference"].startswith(start), row


def test_mean_words_of_the_published_samples_follow_from_their_formats():
    question = 0.486 * 20.4 + 0.209 * 13.8 + 0.18 * 27.5 + 0.125 * (40.9 + 39.6) / 2
    assert published.words_per_qa("question") == pytest.approx(question)
    assert 8.6 < published.words_per_qa("answer") < 30.9
