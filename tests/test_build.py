"""From tables to Q&A: the same rows whatever the order or the pieces, and every answer rests on a row."""

import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tables import sample
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build, schema, tables
from cxrtrek_lib.findings import FINDINGS


def everything(seed=0, size=10**9):
    return pl.concat([build.questions(*piece, seed) for piece in build.parts(*sample()[:3], size)])


def test_rows_do_not_depend_on_order_or_pieces():
    whole = everything()
    for size in (200, 900):
        assert everything(size=size).equals(whole)
    shuffled = [frame.sample(fraction=1, shuffle=True, seed=3) for frame in sample()[:3]]
    assert build.questions(*shuffled, 0).equals(whole)


def test_a_study_keeps_its_questions_when_others_go():
    whole = everything()
    studies, findings, boxes, *_ = sample()
    patient = studies.filter(pl.col("prior_study_id").is_not_null())["patient_id"].sort()[0]
    mine = studies.filter(patient_id=patient)
    parts = [frame.join(mine, on="sample_id", how="semi") for frame in (findings, boxes)]
    alone = build.questions(mine, *parts, 0)
    assert alone.height and alone.equals(whole.join(alone, on="sample_id", how="semi", maintain_order="left"))


def test_the_seed_changes_wording_but_no_fact():
    zero, one = everything(0), everything(1)
    facts = ["sample_id", "stage", "fact"]
    yes_no = (
        (pl.col("qtype") == "yes_no") & pl.col("fact").str.ends_with("|presence") & (pl.col("stage") == 2)
    )
    first, second = (qa.filter(yes_no).select(*facts, "answer") for qa in (zero, one))
    both = first.join(second, on=facts)
    # A single device is asked by name or as "any device", by draw: nothing else may differ.
    assert both.height > 0.9 * max(first.height, second.height) > 5000
    assert (both["answer"] == both["answer_right"]).all()
    assert not zero["question"].equals(one["question"])


def test_option_positions_are_balanced():
    side = everything().filter(
        pl.col("target").str.starts_with("location_"),
        pl.col("option_list").list.join(" ").str.contains("bilateral"),
    )
    place = side.select(
        first=pl.col("option_list").list.first() == pl.col("answer_list").list.first(),
        last=pl.col("option_list").list.last() == pl.col("answer_list").list.first(),
    )
    n = place.height
    for column in ("first", "last"):
        assert abs(place[column].mean() - 1 / 3) < 4 * (2 / 9 / n) ** 0.5
    labels = side["answer"].str.extract(r"^([A-H]\.|\d\.|\d\)\.|)")
    styles = labels.str.replace(r"[A-H]", "A").str.replace(r"\d", "1").value_counts()
    assert styles.height == 4 and styles["count"].min() > n / 8


@pytest.mark.parametrize(
    ("finding_rows", "box_rows", "message"),
    [
        ([("made/a", "dragon", "present", 1)], [], "unknown finding 'dragon'"),
        ([], [("made/a", 1, "tail", 1, 1, 2, 2)], "unknown target 'tail'"),
    ],
)
def test_unknown_names_are_refused(finding_rows, box_rows, message):
    with pytest.raises(ValueError, match=message):
        build.questions(studies({"sample_id": "made/a"}), findings(*finding_rows), boxes(*box_rows), 0)


fact = st.tuples(
    st.sampled_from(["made/1", "made/2", "made/3"]),
    st.sampled_from(
        ["pleural effusion", "nodule", "lung lesion", "edema", "pacemaker", "cardiomegaly", "mass"]
    ),
    st.sampled_from(tables.STATUSES),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([*tables.SIDES, None]),
    st.sampled_from([*tables.SEVERITIES, None]),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(fact, max_size=14), st.integers(0, 5))
def test_every_answer_rests_on_a_row(rows, seed):
    """An independent reading of the rows: what may be asked, and what the only right answer is."""
    history = studies(
        {"sample_id": "made/1", "patient_id": "made/p", "next_study_id": "made/2"},
        {"sample_id": "made/2", "patient_id": "made/p", "order": 1, "prior_study_id": "made/1"},
        {"sample_id": "made/3", "patient_id": "made/q", "views": ["AP", "LATERAL"]},
    )
    qa = build.questions(history, findings(*rows), boxes(), seed)
    assert schema.validate(schema.Cases(history, qa, "made")).lines() == []
    known = {}
    for sample_id, name, status, tier, *_ in rows:
        if status != "absent" or tier <= 2:
            known.setdefault((sample_id, name), set()).add(status)
    for row in qa.iter_rows(named=True):

        def status(name, sample_id=row["sample_id"]):
            said = known.get((sample_id, name), set())
            return next((s for s in ("present", "uncertain", "absent") if s in said), None)

        name = row["fact"].split("|")[0]
        if row["qtype"] == "yes_no" and row["fact"] == f"{name}|presence":
            assert {"Yes.": "present", "No.": "absent"}[row["answer"]] == status(name)
        words = {"present": "present", "absent": "absent", "possible": "uncertain"}
        if row["stage"] == 2 and {bare(option) for option in row["option_list"] or ()} == set(words):
            assert words[bare(row["answer"])] == status(name)
        elif row["stage"] == 2 and row["option_list"]:
            right = {status(bare(option)) for option in row["answer_list"]}
            wrong = {status(bare(option)) for option in row["option_list"]} - right
            if right == {None}:  # none of these: all the others are absent
                assert row["answer"].endswith("none of these") and wrong == {"absent"}
            else:
                assert (right, wrong - {None}) in (
                    ({"present"}, {"absent"}), ({"absent"}, {"present"}), ({"present"}, {"absent", "present"})
                )  # fmt: skip
        if row["stage"] == 3 and name in FINDINGS:
            allowed = {"present", "uncertain"} if row["fact"].endswith("|certainty") else {"present"}
            assert status(name) in allowed
        if row["stage"] == 5:
            assert row["sample_id"] == "made/2"
        if row["stage"] == 6:
            assert row["sample_id"] == "made/1"


def bare(option: str) -> str:
    """An option without its label: "A. x", "1. x", "1). x" or "x"."""
    return re.sub(r"^([A-H]\.|\d+\.|\d+\)\.) ", "", option)
