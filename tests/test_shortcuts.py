"""Film-blind predictors on datasets whose shortcuts are known, and against scikit-learn."""

import numpy as np
import polars as pl
import pytest
from fake_answers import fake_cohort
from polars.testing import assert_frame_equal
from questions_by_hand import questions, studies, turn
from sklearn.metrics import balanced_accuracy_score

from cxrtrek_lib.dataset_statistics import shortcuts

N = 40  # studies, every other one in the test split
ROWS = studies(
    *((f"s{i}", f"p{i}", "one" if i < N // 2 else "two", ("train", "test")[i % 2]) for i in range(N))
)


def scores(*turns, **more) -> dict:
    """(format, subset, predictor) -> row."""
    table = shortcuts.shortcuts(ROWS, questions(*turns), n_boot=more.pop("n_boot", 20), seed=0)
    return {(row["format"], row["subset"], row["predictor"]): row for row in table.iter_rows(named=True)}


def yes_no(i: int, finding: str, yes: bool, question: str = "Is there {}?", stage: int = 2) -> dict:
    return turn(
        f"s{i}", stage, "yes_no", question.format(finding), "Yes." if yes else "No.", f"{finding}|presence"
    )


def choice(
    i: int, options: list[str], right: list[str], qtype: str = "single-choice", ask: str = "Which?"
) -> dict:
    labelled = [f"{letter}. {text}" for letter, text in zip("ABCDE", options, strict=False)]
    answers = [label for label, text in zip(labelled, options, strict=True) if text in right]
    question = f"{ask} Options: {'; '.join(labelled)}."
    return turn(f"s{i}", 2, qtype, question, ", ".join(answers), options=labelled, right=answers)


def test_a_finding_that_decides_is_found_out():
    found = scores(*(yes_no(i, name, name == "edema") for i in range(N) for name in ("edema", "mass")))
    for predictor in ("majority per finding", "majority per finding and source", shortcuts.WORDS):
        row = found["close-ended", "all", predictor]
        assert (row["score"], row["low"], row["high"], row["accuracy"], row["n"]) == (1, 1, 1, 1, N)
        assert row["patients"] == N // 2
    assert found["close-ended", "all", "majority answer"]["score"] == 0.5
    assert found["close-ended", "all", "any other Yes in the study"]["score"] == 1  # one of two is always Yes


def test_a_source_that_decides_is_found_out_only_by_who_knows_it():
    found = scores(*(yes_no(i, "edema", i < N // 2) for i in range(N)))
    assert found["close-ended", "all", "majority per finding and source"]["score"] == 1
    assert found["close-ended", "all", "majority per finding"]["score"] == 0.5
    assert found["close-ended", "one", "majority per finding"]["score"] is None  # only Yes there


def test_a_coin_is_not_predicted():
    coin = np.random.default_rng(0).random(20 * N) < 0.5
    turns = [yes_no(k % N, f"finding {k // N}", bool(coin[k])) for k in range(20 * N)]
    row = scores(*turns, n_boot=300)["close-ended", "all", "majority per finding"]
    assert row["low"] < 0.5 < row["high"] and 0.05 < row["high"] - row["low"] < 0.25


def test_other_answers_of_the_study_betray_sick_patients():
    found = scores(*(yes_no(i, f"finding {k}", i % 4 < 2) for i in range(N) for k in range(3)))
    assert found["close-ended", "all", "any other Yes in the study"]["score"] == 1
    assert found["close-ended", "all", "majority per finding"]["score"] == 0.5


def test_balanced_accuracy_agrees_with_scikit_learn():
    rows, qa = fake_cohort(120)
    split = pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
    rows = rows.with_columns(split=split)
    table = shortcuts.shortcuts(rows, qa, n_boot=20, seed=0)
    asked = qa.filter(qtype="yes_no").join(rows.select("sample_id", "source", "split"), on="sample_id")
    asked = asked.with_columns(yes=pl.col("answer") == "Yes.")
    train, test = asked.filter(split="train").to_pandas(), asked.filter(split="test").to_pandas()
    base = train["yes"].mean()
    for predictor, keys in (
        ("majority per finding", ["fact"]),
        ("majority per finding and source", ["fact", "source"]),
    ):
        rates = train.groupby(keys)["yes"].mean()
        p = test[keys].apply(
            lambda row, rates=rates: rates[tuple(row) if len(row) > 1 else row.iloc[0]], axis=1
        )
        row = table.filter(format="close-ended", subset="all", predictor=predictor).row(0, named=True)
        assert row["score"] == pytest.approx(balanced_accuracy_score(test["yes"], p > base))
        assert row["accuracy"] == pytest.approx(((p > 0.5) == test["yes"]).mean())
        assert row["low"] <= row["score"] <= row["high"]


POSITION, LENGTH, OPTION, QUESTION = shortcuts.OPTION_KEYS


def test_each_choice_shortcut_is_found_by_its_predictor():
    texts = [f"{'x' * (1 + (i + k) % 3)}{i}{k}" for i in range(N) for k in range(3)]
    options = [texts[3 * i : 3 * i + 3] for i in range(N)]
    first = scores(*(choice(i, options[i], options[i][:1]) for i in range(N)))
    assert first["single-choice", "all", POSITION]["score"] == 1
    assert first["single-choice", "all", POSITION]["chance"] == pytest.approx(1 / 3)
    longest = scores(*(choice(i, options[i], [max(options[i], key=len)]) for i in range(N)))
    assert longest["single-choice", "all", LENGTH]["score"] == 1
    assert longest["single-choice", "all", POSITION]["score"] < 0.7

    named = [[*("abc")[i % 3 :], *("abc")[: i % 3]] for i in range(N)]
    prior = scores(*(choice(i, named[i], ["b"]) for i in range(N)))
    assert prior["single-choice", "all", OPTION]["score"] == 1
    both = scores(*(choice(i, named[i], ["ab"[i // 2 % 2]], ask=f"Question {i // 2 % 2}?") for i in range(N)))
    assert both["single-choice", "all", QUESTION]["score"] == 1
    assert both["single-choice", "all", OPTION]["score"] <= 0.5


def test_multi_choice_takes_as_many_options_as_are_usually_right():
    named = [[*("abcd")[i % 4 :], *("abcd")[: i % 4]] for i in range(N)]
    found = scores(*(choice(i, named[i], ["b", "d"], "multi-choice-4") for i in range(N)))
    row = found["multi-choice", "all", OPTION]
    assert row["score"] == 1 and row["chance"] == pytest.approx(1 / 15)
    assert found["multi-choice", "stage 2", OPTION]["n"] == N // 2


def test_options_unseen_in_training_are_guessed_not_lost():
    turns = [
        choice(i, ["a", "b"] if i % 2 == 0 else ["c", "d"], ["a"] if i % 2 == 0 else ["c"]) for i in range(N)
    ]
    row = scores(*turns)["single-choice", "all", OPTION]
    assert (row["score"], row["n"]) == (1.0, N // 2)  # of equals the first option, which is right here


def test_results_do_not_depend_on_row_order_and_need_both_splits():
    rows, qa = fake_cohort(60)
    rows = rows.with_columns(
        split=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
    )
    table = shortcuts.shortcuts(rows, qa, n_boot=20, seed=0)
    assert_frame_equal(table, shortcuts.shortcuts(rows.reverse(), qa.reverse().lazy(), n_boot=20, seed=0))
    assert set(table["format"]) == {"close-ended", "single-choice"}
    with pytest.raises(ValueError, match="both the training and the test split"):
        shortcuts.shortcuts(rows.with_columns(split=pl.lit("train")), qa, n_boot=20, seed=0)
