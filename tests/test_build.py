"""The dataset: nobody in two splits, the same rows whatever the order or the pieces, numbers that add up."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tables import sample, table
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build, schema, tables
from cxrtrek_lib.findings import FINDINGS

SPLIT = {"validate": 0.05, "test": 0.05}


def everything(seed=0, size=10**9):
    return pl.concat(list(build.chunks(*sample()[:3], seed, size)))


def test_splits_by_patient():
    patients = table("chexpert").studies["patient_id"]
    split = build.split_of(patients, False, SPLIT)
    one = pl.DataFrame({"patient": patients, "split": split}).unique()
    assert one["patient"].is_unique().all()  # nobody in two splits
    share = {name: n / one.height for name, n in Counter(one["split"]).items()}
    # 64,540 patients: three standard errors of a 5 % share are 0.26 %.
    assert share["test"] == pytest.approx(0.05, abs=0.0026) and share["validate"] == pytest.approx(
        0.05, abs=0.0026
    )
    assert set(build.split_of(patients[:9], True, SPLIT)) == {"external"}


def test_a_test_patient_stays_a_test_patient():
    patients = table("chexpert").studies["patient_id"].unique().sort()
    small = build.split_of(patients, False, SPLIT)
    large = build.split_of(patients, False, {"validate": 0.1, "test": 0.2})
    assert set(large.filter(small == "test")) == {"test"}
    assert (build.split_of(patients.reverse(), False, SPLIT).reverse() == small).all()


@pytest.mark.parametrize("shares", [{"validate": 0.6, "test": 0.5}, {"validate": -0.1, "test": 0.1}])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="dataset.split"):
        build.split_of(pl.Series(["a"]), False, shares)


@pytest.mark.parametrize("names", [["chexpert", "mimic"], ["nih", "nih"]])
def test_unknown_or_repeated_sources_are_refused(names):
    with pytest.raises(ValueError, match="unknown or named twice; known: chexpert, padchest, nih, openi"):
        build.read_sources(names, [], SPLIT)


def test_rows_and_digest_do_not_depend_on_order_or_pieces():
    whole = everything()
    for size in (200, 900):
        assert everything(size=size).equals(whole)
    shuffled = [frame.sample(fraction=1, shuffle=True, seed=3) for frame in sample()[:3]]
    assert build.questions(*shuffled, 0).equals(whole)
    pieces = [whole[:10], whole[10:11], whole[11:]]
    digest = [build.dataset_metrics(sample().studies, qa, {}, {})["sha256"] for qa in ([whole], pieces)]
    assert digest[0] == digest[1]
    other = whole.with_columns(
        answer=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("x")).otherwise("answer")
    )
    assert build.dataset_metrics(sample().studies, [other], {}, {})["sha256"] != digest[0]


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
    yes_no = pl.col("qtype") == "yes_no", ~pl.col("evidence").str.contains("No Finding|normal")
    assert (
        zero.filter(yes_no)
        .select(*facts, "answer")
        .sort(facts)
        .equals(one.filter(yes_no).select(*facts, "answer").sort(facts))
    )
    assert not zero["question"].equals(one["question"])


def test_option_positions_are_balanced():
    side = everything().filter(pl.col("target").str.starts_with("location_"))
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


def test_metrics_add_up():
    qa = everything()
    studies = sample().studies
    found = build.dataset_metrics(studies, [qa[:500], qa[500:]], {"x: y": 3}, {"x: z": 2, "x: w": 1})
    assert found["n_studies"] == studies.height and found["n_patients"] == studies["patient_id"].n_unique()
    assert found["n_qa"] == qa.height == sum(found["stages"].values()) == sum(found["formats"].values())
    assert list(found["stages"]) == list("12345678") and found["stages"]["4"] == found["stages"]["7"] == 0
    assert all(n > 0 for n in found["formats"].values()) and len(found["formats"]) == 4
    assert sum(found["sources"].values()) == sum(found["splits"].values()) == studies.height
    assert found["qa_per_study"] == round(qa.height / studies.height, 4)
    assert found["excluded"] == {"x: y": 3} and found["unmapped_labels"] == {"different": 2, "mentions": 3}


def test_facts_are_counted_once():
    one = studies({"sample_id": "made/a"})
    facts = findings(*[("made/a", n, "present", 1, "left") for n in ("nodule", "pneumonia")],
                     *[("made/a", n, "absent", 1) for n in ("edema", "fracture")])  # fmt: skip
    qa = build.questions(one, facts, boxes(), 0)
    # view, four presences (asked by yes/no and again as choices), two sides; lists and summaries add none.
    expected = {"view", "view|1"} & set(qa["fact"])
    assert build.dataset_metrics(one, [qa], {}, {})["n_facts"] == len(expected) + 4 + 2


def test_written_tables_are_those_of_the_metrics(tmp_path):
    found = build.write(sample(), tmp_path, 0)
    qa = tables.read_table("qa", tmp_path / "qa.parquet")
    assert qa.equals(everything()) and found["n_qa"] == qa.height
    assert sorted(file.stem for file in tmp_path.iterdir()) == ["boxes", "findings", "qa", "studies"]
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert build.write(sample(), tmp_path, 0) == found
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


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


@settings(max_examples=40)
@given(st.lists(fact, max_size=14), st.integers(0, 5))
def test_every_answer_rests_on_a_row(rows, seed):
    """An independent reading of the rows: what may be asked, and what the only right answer is."""
    history = studies(
        {"sample_id": "made/1", "patient_id": "made/p", "next_study_id": "made/2"},
        {"sample_id": "made/2", "patient_id": "made/p", "order": 1, "prior_study_id": "made/1"},
        {"sample_id": "made/3", "patient_id": "made/q", "views": ["AP", "LATERAL"]},
    )
    qa = build.questions(history, findings(*rows), boxes(), seed)
    assert schema.validate(qa, history) == []
    known = {}
    for sample_id, name, status, tier, *_ in rows:
        if status != "absent" or tier <= 2:
            known.setdefault((sample_id, name), set()).add(status)
    for row in qa.iter_rows(named=True):

        def status(name, sample_id=row["sample_id"]):
            said = known.get((sample_id, name), set())
            return next((s for s in ("present", "uncertain", "absent") if s in said), None)

        if row["qtype"] == "yes_no":
            name = row["fact"].removesuffix("|presence")
            assert {"Yes.": "present", "No.": "absent"}[row["answer"]] == status(name)
        if row["stage"] == 2 and row["option_list"]:
            for option in row["option_list"]:
                name = option.split(". ")[-1]
                assert status(name) == ("present" if option in row["answer_list"] else "absent")
        if row["stage"] == 3:
            name = row["fact"].split("|")[0]
            assert status(name) == "present" if name in FINDINGS else row["qtype"] == "captioning"
        if row["stage"] == 5:
            assert row["sample_id"] == "made/2"
        if row["qtype"] == "single-choice" and row["stage"] == 5:
            name = row["fact"].removesuffix("|change")
            then, now = status(name, "made/1"), status(name)
            assert {then, now} <= {"present", "absent"} and "present" in (then, now)
            right = row["answer"].split(". ")[-1]
            assert (right == "new") == (then == "absent") and (right == "resolved") == (now == "absent")
