"""Options are laid out fairly, labelled as the authors label them, and alike whatever stands around them."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from stage_rows import bare

from cxrtrek_lib import draws
from cxrtrek_lib.stages import question_rows
from cxrtrek_lib.stages.wording import Template

WORDS = [f"option {letter}" for letter in "pqrstuvwxyz"]
GRADE = Template(
    3, "severity", "Attributes_Description", "single-choice", "severity_[{finding}]",
    ("How severe is the {finding}?",), ("",), {"mild": "mild", "moderate": "moderate", "severe": "severe"},
)  # fmt: skip


def keyed(n, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame({
        "i": pl.int_range(n, dtype=pl.UInt32, eager=True),
        "bits": draws.mix(rng.integers(0, 2**63, n, dtype=np.uint64), "x"),
    })  # fmt: skip


option_rows = st.lists(
    st.lists(st.tuples(st.sampled_from(range(len(WORDS))), st.booleans()), min_size=1, max_size=6,
             unique_by=lambda pair: pair[0]),
    min_size=1, max_size=12,
)  # fmt: skip


def tables(rows):
    codes, right = np.full((len(rows), 6), -1), np.zeros((len(rows), 6), dtype=bool)
    for n, row in enumerate(rows):
        for place, (code, is_right) in enumerate(row):
            codes[n, place], right[n, place] = code, is_right
    return codes, right


@given(option_rows, st.integers(0, 9))
def test_every_option_stands_there_once_in_one_of_the_authors_styles(rows, seed):
    laid = question_rows.lay_out(keyed(len(rows), seed), WORDS, *tables(rows))
    for given_row, row in zip(rows, laid.iter_rows(named=True), strict=True):
        options, answers = row["option_list"], row["answer_list"]
        assert sorted(map(bare, options)) == sorted(WORDS[code] for code, _ in given_row)
        assert sorted(map(bare, answers)) == sorted(WORDS[code] for code, is_right in given_row if is_right)
        assert answers == [option for option in options if option in answers]  # in the order of the options
        assert row["answer"] == ", ".join(answers) and row["options"] == "; ".join(options)
        labels = [option.removesuffix(bare(option)) for option in options]
        n = len(options)
        letters = [f"{letter}. " for letter in "ABCDEF"[:n]]
        dots, brackets = ([f"{k}{end} " for k in range(1, n + 1)] for end in (".", ")."))
        assert labels in (letters, dots, brackets, [""] * n)


@given(option_rows, st.randoms())
def test_a_row_is_laid_out_alike_whatever_stands_around_it(rows, random):
    frame, (codes, right) = keyed(len(rows)), tables(rows)
    whole = question_rows.lay_out(frame, WORDS, codes, right)
    order = list(range(len(rows)))
    random.shuffle(order)
    kept = order[: 1 + len(order) // 2]
    # Other words may come first in the list, too: only the places change.
    part = question_rows.lay_out(
        frame[kept], ["new", *WORDS], np.where(codes < 0, -1, codes + 1)[kept], right[kept]
    )
    assert part.equals(whole[kept])


@pytest.mark.parametrize("n", [2, 3, 5])
def test_positions_are_uniform_and_styles_tell_nothing(n):
    frame = keyed(6000)
    codes = np.broadcast_to(np.arange(n), (6000, n))
    laid = question_rows.lay_out(frame, WORDS, codes, codes == 0)
    places = [
        options.index(right[0]) for options, right in laid.select("option_list", "answer_list").iter_rows()
    ]
    style = [re.sub(r"\d", "1", option[0][: -len(WORDS[0])] or "none")[:3] for option in laid["option_list"]]
    assert chisquare(np.bincount(places, minlength=n)).pvalue > 0.001
    _, style = np.unique(style, return_inverse=True)
    table = np.zeros((style.max() + 1, n))
    np.add.at(table, (style, places), 1)
    assert table.shape[0] == 4 and chi2_contingency(table).pvalue > 0.001
    assert chisquare(table.sum(axis=1)).pvalue > 0.001


def test_options_from_a_long_table_in_any_order():
    frame = keyed(40).with_columns(about=pl.lit("x"), i=pl.col("i") // 2)
    frame = frame.with_columns(about=pl.format("about {}", pl.int_range(pl.len()) % 2))
    long = frame.select("i", "about").join(pl.DataFrame({"option": WORDS[:3]}), how="cross")
    long = long.with_columns(right=pl.col("option") == WORDS[1])
    mixed = long.sample(fraction=1, shuffle=True, seed=1)
    laid = question_rows.choice_options(frame, long)
    assert laid.height == 40 and laid.equals(question_rows.choice_options(frame, mixed))
    assert all([bare(right)] == [WORDS[1]] for (right,) in laid["answer_list"])
    fewer = question_rows.choice_options(frame, long.filter(pl.col("i") > 3))
    assert fewer.equals(laid.filter(pl.col("i") > 3))


def test_a_closed_choice():
    frame = keyed(300).with_columns(
        severity=pl.Series(["mild", "severe", "moderate"]).gather(np.arange(300) % 3)
    )
    laid = question_rows.closed_choice(GRADE, frame, "severity", ("mild", "moderate", "severe"))
    assert [bare(answer) for answer in laid["answer"]] == frame["severity"].to_list()
    assert all(
        sorted(map(bare, options)) == ["mild", "moderate", "severe"] for options in laid["option_list"]
    )
    with pytest.raises(pl.exceptions.InvalidOperationError):
        question_rows.closed_choice(GRADE, frame, "severity", ("mild", "moderate"))
    assert question_rows.closed_choice(GRADE, frame[:0], "severity", ("mild", "severe")).height == 0


def test_question_rows_have_all_columns():
    frame = keyed(2).with_columns(
        finding=pl.lit("edema"), answer=pl.lit("x"), fact=pl.lit("f"), evidence=pl.lit("e")
    )
    row = question_rows.question_rows(GRADE, frame, 3).row(0, named=True)
    assert list(row) == list(question_rows.ROW) and row["rank"] == 3 and row["stage"] == 3
    assert row["question"] == "How severe is the edema?" and row["target"] == "severity_[edema]"
    assert row["qtype"] == "single-choice" and row["option_list"] is None
    other = frame.with_columns(qtype=pl.lit("multi-choice-4"), options=pl.lit("A. x; B. y"))
    row = question_rows.question_rows(GRADE, other, pl.col("i") + 1).row(1, named=True)
    assert row["qtype"] == "multi-choice-4" and row["rank"] == 2
    assert row["question"] == "How severe is the edema? Options: A. x; B. y."


fact = st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", "c"]), st.sampled_from(["one", "two"]))


@given(st.lists(fact, min_size=1, max_size=20))
def test_listed(rows):
    rows = sorted(rows, key=lambda row: row[0])
    frame = pl.DataFrame(
        [(i, 100 + i, name, evidence) for i, name, evidence in rows],
        schema={"i": pl.UInt32, "key": pl.UInt64, "name": pl.String, "evidence": pl.String}, orient="row",
    )  # fmt: skip
    for i, key, names, evidence in question_rows.listed(frame).iter_rows():
        mine = [row for row in rows if row[0] == i]
        assert key == 100 + i and names == ", ".join(name for _, name, _ in mine)
        assert evidence == "; ".join(dict.fromkeys(source for *_, source in mine))
