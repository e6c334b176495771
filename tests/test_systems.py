"""Predictions files of other systems: what is refused in one line, and what is put in order and counted."""

import json

import polars as pl
import pytest
from fake_answers import fake_cohort, fake_predictions, patients_of
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib.conversations import format_boxes
from cxrtrek_lib.metrics import LONGEST, score_answers
from cxrtrek_lib.systems import RULES, all_in_order, contents, from_files, in_order, read
from cxrtrek_lib.tables import PREDICTIONS

_, QUESTIONS = fake_cohort(8)
GOOD = fake_predictions(QUESTIONS, 0.8)
(
    CASES, QUESTIONS_WITHOUT, EXTRA, REPEATED, EMPTY, LONG, UNICODE, PROBABILITY, BOXES,
) = RULES  # fmt: skip


def lines(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def nothing_but(counts, **expected):
    return {rule: n for rule, n in counts.items() if n} == expected


def changed(turn_of: str, **values) -> pl.DataFrame:
    """GOOD with the first answer to a question of that qtype changed."""
    keys = QUESTIONS.filter(qtype=turn_of).select("sample_id", "turn").row(0)
    here = (pl.col("sample_id") == keys[0]) & (pl.col("turn") == keys[1])
    return GOOD.with_columns(
        pl.when(here).then(pl.lit(v)).otherwise(pl.col(c)).alias(c) for c, v in values.items()
    )


def test_the_same_answers_by_either_kind_of_file_score_as_ours(tmp_path):
    GOOD.write_parquet(tmp_path / "theirs.parquet")
    rows = [{k: v for k, v in row.items() if v is not None} for row in GOOD.iter_rows(named=True)]
    lines(tmp_path / "theirs.jsonl", ["", *rows, ""])
    expected = score_answers(QUESTIONS, GOOD, patients_of(QUESTIONS))
    for name in ("theirs.parquet", "theirs.jsonl"):
        kept, counts = in_order(QUESTIONS, read(tmp_path / name))
        assert kept.schema == pl.Schema(PREDICTIONS) and not any(counts.values())
        assert score_answers(QUESTIONS, kept, patients_of(QUESTIONS)).equals(expected)


ROW = {"sample_id": "a/b/c", "turn": 1, "answer": "No."}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([ROW, "{"], "line 2: not a JSON object"),
        (["[1, 2]"], "line 1: not a JSON object"),
        (["[" * 100_000], "line 1: not a JSON object"),
        ([{"sample_id": "a", "turn": 1}], "line 1: answer is missing"),
        ([ROW | {"turn": "1"}], "line 1: sample_id must be text, turn a whole number"),
        ([ROW | {"turn": 1.5}], "line 1: sample_id must be text"),
        ([ROW | {"turn": True}], "line 1: sample_id must be text"),
        ([ROW | {"turn": 2**70}], "line 1: sample_id must be text"),
        ([ROW | {"answer": ["No."]}], "line 1: sample_id must be text"),
        ([ROW | {"prob_yes": "high"}], "line 1: sample_id must be text"),
        ([], "no answer in the file"),
    ],
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path, rows, told):
    with pytest.raises(ValueError, match="theirs.jsonl") as caught:
        read(lines(tmp_path / "theirs.jsonl", rows))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "x.csv").write_text("sample_id,turn,answer")
    pl.DataFrame({"sample_id": ["a"], "turn": [1]}).write_parquet(tmp_path / "short.parquet")
    GOOD.with_columns(pl.col("turn") + 0.5).write_parquet(tmp_path / "half.parquet")
    for name, told in (
        ("x.parquet", "not a predictions file"), ("x.jsonl", "not UTF-8"), ("x.csv", "ends in .jsonl"),
        ("short.parquet", "column answer is missing"), ("half.parquet", "column turn is of type Float64"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told) as caught:
            read(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="evaluate.systems"):
        read(tmp_path / "nowhere.jsonl")


def test_byte_order_mark_nan_and_half_surrogates_are_read(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '\ufeff{"sample_id": "a", "turn": 1, "answer": "N\\ud800", "prob_yes": NaN}'
    )
    assert read(tmp_path / "x.jsonl")["answer"].to_list() == ["N?"]


# --- the written rule, case by case ---------------------------------------------------------------------
def test_missing_extra_and_repeated_answers():
    first = QUESTIONS["sample_id"][0]
    n = QUESTIONS.filter(sample_id=first).height
    kept, counts = in_order(QUESTIONS, GOOD.filter(pl.col("sample_id") != first))
    assert nothing_but(counts, **{CASES: 1, QUESTIONS_WITHOUT: n}) and kept.height == GOOD.height - n
    rows = score_answers(QUESTIONS, kept, patients_of(QUESTIONS)).filter(sample_id=first)
    assert rows["score"].sum() == 0 and not rows["answered"].any()

    extra = GOOD.with_columns(sample_id=pl.lit("nobody")).head(3)
    kept, counts = in_order(QUESTIONS, pl.concat([extra, GOOD]))
    assert nothing_but(counts, **{EXTRA: 3}) and kept.equals(GOOD)
    kept, counts = in_order(QUESTIONS, GOOD.with_columns(turn=pl.col("turn").cast(pl.Int64) + 100_000))
    assert counts[EXTRA] == GOOD.height and kept.is_empty()

    again = GOOD.head(2).with_columns(answer=pl.lit("something else"))
    kept, counts = in_order(QUESTIONS, pl.concat([GOOD, again]))
    assert nothing_but(counts, **{REPEATED: 2}) and kept.equals(GOOD)


@pytest.mark.parametrize("answer", [None, "", " \n\t "])
def test_empty_answers_are_wrong_in_every_format(answer):
    silent = GOOD.with_columns(answer=pl.lit(answer, pl.String))
    kept, counts = in_order(QUESTIONS, silent)
    assert nothing_but(counts, **{EMPTY: GOOD.height, CASES: 8})
    rows = score_answers(QUESTIONS, kept, patients_of(QUESTIONS))
    assert rows["score"].sum() == 0 and not rows["parsed"].any()


def test_100_kilobytes_are_read_in_part():
    kept, counts = in_order(QUESTIONS, changed("captioning", answer="effusion " * 12_000))
    assert nothing_but(counts, **{LONG: 1})
    rows = score_answers(QUESTIONS, kept, patients_of(QUESTIONS))
    assert rows["score"].is_between(0, 1).all() and kept["answer"].str.len_chars().max() > LONGEST


@pytest.mark.parametrize("answer", ["\uff39\uff45\uff53", "N\u200bo", "\U0001d40d\U0001d428."])
def test_other_unicode_forms_are_read_and_counted(answer):
    kept, counts = in_order(QUESTIONS, changed("yes_no", answer=answer))
    assert nothing_but(counts, **{UNICODE: 1})
    assert score_answers(QUESTIONS, kept, patients_of(QUESTIONS)).filter(format="close-ended")["parsed"].all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.01])
@pytest.mark.parametrize("column", ["prob_yes", "prob_answer"])
def test_a_probability_that_is_none_is_not_given(column, value):
    kept, counts = in_order(QUESTIONS, changed("yes_no", **{column: value}))
    assert nothing_but(counts, **{PROBABILITY: 1})
    assert kept.drop(column).equals(GOOD.drop(column)) and kept[column].null_count() == GOOD.height
    assert in_order(QUESTIONS, changed("yes_no", **{column: 1.0}))[1][PROBABILITY] == 0


@pytest.mark.parametrize(
    "box", ["(30, 30), (10, 10)", "(10, 10), (130, 60)", "(10, 10), (10, 60)", "(-5, 1), (9, 9)"]
)
def test_a_box_that_is_none_does_not_count(box):
    asked = QUESTIONS.filter(qtype="detection").row(0, named=True)
    right = format_boxes("nodule", asked["bbox_list"])
    for answer, score in ((box, 0.0), (f"{right} {box}", 1.0)):
        kept, counts = in_order(QUESTIONS, changed("detection", answer=answer))
        assert nothing_but(counts, **{BOXES: 1})
        rows = score_answers(QUESTIONS, kept, patients_of(QUESTIONS))
        assert rows.filter(sample_id=asked["sample_id"], turn=asked["turn"])["score"].item() == score


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(QUESTIONS["sample_id"].unique().to_list()) | st.text(max_size=5),
            st.integers(-5, 40) | st.integers(-(2**40), 2**40),
            st.none() | st.text(max_size=40) | st.just("Yes. (1, 1), (5, 5)"),
            st.none() | st.floats(),
        ),
        max_size=40,
    )
)
def test_whatever_a_file_holds_there_is_one_answer_a_question_and_nothing_is_lost_uncounted(rows):
    schema = {"sample_id": pl.String, "turn": pl.Int64, "answer": pl.String, "prob_yes": pl.Float64}
    kept, counts = in_order(QUESTIONS, pl.DataFrame(rows, schema=schema, orient="row"))
    assert len(rows) == kept.height + counts[EXTRA] + counts[REPEATED]
    assert kept.height + counts[QUESTIONS_WITHOUT] == QUESTIONS.height
    assert kept["prob_yes"].drop_nulls().is_between(0, 1).all()
    scored = score_answers(QUESTIONS, kept, patients_of(QUESTIONS))
    assert scored["score"].is_between(0, 1).all() and scored["answered"].sum() == kept.height


def test_several_systems_in_one_table(tmp_path):
    GOOD.write_parquet(tmp_path / "theirs.parquet")
    found = from_files({"theirs": "theirs.parquet"}, tmp_path, {"ours": GOOD})
    answers, table = all_in_order(QUESTIONS, {"ours": GOOD.head(3)} | found)
    assert table.columns == ["problem", "rule", "ours", "theirs"] and table.height == len(RULES)
    assert table["theirs"].sum() == 0 and table["ours"].sum() > 0 and answers["theirs"].equals(GOOD)
    with pytest.raises(ValueError, match="ours is a system of the study"):
        from_files({"ours": "theirs.parquet"}, tmp_path, {"ours": GOOD})


def test_the_content_that_was_scored_is_told_by_its_hash(tmp_path):
    (tmp_path / "theirs.jsonl").write_bytes(b"abc")
    # The SHA-256 of "abc": FIPS 180-2, appendix B.1.
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    found = contents({"theirs": "theirs.jsonl"}, tmp_path)
    assert found == {"theirs": {"file": "theirs.jsonl", "sha256": known}}
