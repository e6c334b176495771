"""Tables on disk, box text, validation and the authors' JSON."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_tables import sample
from tables_by_hand import studies as made_studies

from cxrtrek_lib import authors, build, schema, tables

percent = st.integers(0, 10_000).map(lambda n: n / 100)
box = st.tuples(percent, percent, percent, percent).map(list)


@given(st.lists(box, min_size=1, max_size=4))
def test_boxes_survive_their_text(boxes):
    assert schema.parse_boxes(schema.format_boxes("left lung", boxes)) == boxes


def test_box_text_is_the_authors_format():
    text = schema.format_boxes("pleural effusion", [[12, 40.5, 45.1, 88]])
    assert text == "<|ref|> pleural effusion <|/ref|> <|box|>(12.00, 40.50), (45.10, 88.00)<|/box|>"
    assert schema.parse_boxes("no box, but (3, 4) and 5, 6") == []
    assert schema.parse_boxes("(1,2),(3,4) then (5.5, 6), (7, 8)") == [[1, 2, 3, 4], [5.5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 100, 100], True), ([5, 5, 5, 6], False), ([6, 1, 5, 9], False), ([-1, 0, 5, 5], False),
        ([0, 0, 1], False),
    ],
)  # fmt: skip
def test_is_box(box, expected):
    assert schema.is_box(box) is expected


def qa_table(n=40):
    annotations = sample()
    patients = annotations.studies.select("patient_id").unique().sort("patient_id")[:n]
    studies = annotations.studies.join(patients, on="patient_id", how="semi")
    ids = studies.select("sample_id")
    findings = annotations.findings.join(ids, on="sample_id", how="semi")
    return studies, build.questions(
        studies, findings, annotations.boxes.join(ids, on="sample_id", how="semi"), 0
    )


def test_tables_survive_the_disk(tmp_path):
    studies, qa = qa_table()
    qa = qa.with_columns(bbox_list=pl.lit(None, dtype=tables.QA["bbox_list"]))  # an all-null list column
    for name, frame in (("studies", studies), ("qa", qa)):
        tables.write_table(name, frame, tmp_path / "deep" / f"{name}.parquet")
        assert tables.read_table(name, tmp_path / "deep" / f"{name}.parquet").equals(frame)
    pieces = [qa[:100], qa[100:]]
    tables.write_chunks("qa", pieces, tmp_path / "pieces.parquet")
    assert [piece.height for piece in tables.read_chunks("qa", tmp_path / "pieces.parquet")] == [
        100,
        qa.height - 100,
    ]
    assert tables.read_table("qa", tmp_path / "pieces.parquet").equals(qa)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_failed_write_leaves_the_old_table(tmp_path):
    path = tmp_path / "studies.parquet"
    good = made_studies({"sample_id": "made/a"})
    tables.write_table("studies", good, path)
    with pytest.raises(ValueError) as error:
        tables.write_chunks("studies", iter([good, good.with_columns(split=pl.lit("holdout"))]), path)
    assert "split = 'holdout'" in one_line(error) and "allowed" in one_line(error)
    assert tables.read_table("studies", path).equals(good)
    assert [file.name for file in tmp_path.iterdir()] == ["studies.parquet"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop("views"), "missing columns ['views']"),
        (lambda s: s.with_columns(extra=pl.lit(1)), "unknown columns ['extra']"),
        (lambda s: s.with_columns(patient_id=pl.lit(None, dtype=pl.String)), "row 0: patient_id is empty"),
        (lambda s: s.with_columns(order=pl.lit("first")), "table studies"),
        (lambda s: s.with_columns(sex=pl.lit("X")), "sex = 'X'"),
    ],
)
def test_wrong_tables_are_refused(change, message):
    with pytest.raises(ValueError) as error:
        tables.conform("studies", change(made_studies({"sample_id": "made/a"})))
    assert message in one_line(error)


def test_unreadable_tables_are_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        tables.read_table("qa", tmp_path / "qa.parquet")
    assert "dvc repro" in one_line(error)
    (tmp_path / "qa.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError) as error:
        tables.read_table("qa", tmp_path / "qa.parquet")
    assert "not a readable qa table" in one_line(error)
    tables.write_table("studies", made_studies({"sample_id": "made/a"}), tmp_path / "qa.parquet")
    with pytest.raises(ValueError) as error:
        tables.read_table("qa", tmp_path / "qa.parquet")
    assert "'turn'" in one_line(error) or "missing" in one_line(error)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError) as error:
        tables.write_table("studies", made_studies({"sample_id": "made/a"}), blocked / "studies.parquet")
    assert "cannot write" in one_line(error)


def test_formats():
    formats = {schema.format_of(q) for q in ("captioning", "yes_no", "multi-choice-5", "detection")}
    assert formats == {"open-ended", "close-ended", "choice", "detection"}
    with pytest.raises(ValueError, match="unknown qtype 'essay'"):
        schema.format_of("essay")


def test_cases_are_in_study_and_turn_order():
    studies, qa = qa_table()
    cases = schema.cases(studies.reverse(), qa.sample(fraction=1, shuffle=True, seed=1))
    asked = set(qa["sample_id"])
    assert [case["sample_id"] for case in cases] == [s for s in studies["sample_id"].reverse() if s in asked]
    assert all([t["turn"] for t in case["turns"]] == list(range(len(case["turns"]))) for case in cases)


def test_built_questions_hold_every_rule():
    studies, qa = qa_table(400)
    assert schema.validate(qa, studies) == []
    assert schema.validate(qa.reverse(), studies.reverse()) == []


def breaks(rule, **columns):
    return pytest.param(columns, rule, id=rule)


first = pl.int_range(pl.len()) == 0
choice = pl.col("option_list").is_not_null()
yes_no = pl.col("qtype") == "yes_no"
detection = pl.col("qtype") == "detection"


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        breaks("is not in studies", sample_id=(first, "made/nobody")),
        breaks("not unique", turn=(pl.col("turn") == 1, 0)),
        breaks("do not count", turn=(pl.col("turn") == 1, 900)),
        breaks("stage is outside", stage=(first, 9)),
        breaks("task_type is unknown", task_type=(first, "Report_Generation[ALL]")),
        breaks("qtype is unknown", qtype=(first, "essay")),
        breaks("is empty", answer=(first, "")),
        breaks("not filled", answer=(first, "a {finding} here")),
        breaks("placeholders so far", image_input_count=(pl.col("turn") == 1, 7)),
        breaks("do not match the images", question=(pl.col("turn") == 1, "<image><image> more?")),
        breaks("begin with Yes or No", answer=(yes_no, "Perhaps.")),
        breaks("two different options", option_list=(choice, ["A. x"])),
        breaks("option repeated", option_list=(choice, ["A. x", "A. x", "B. y"])),
        breaks("without a right option", answer_list=(choice, [])),
        breaks("not among the options", answer_list=(choice, ["Z. other"])),
        breaks("begin with its options", answer=(choice, "none of them")),
        breaks("without a box", bbox_list=(detection, [])),
        breaks("outside 0-100", bbox_list=(detection, [[1.0, 2.0, 101.0, 4.0]])),
        breaks("outside 0-100", bbox_list=(detection, [[9.0, 2.0, 3.0, 4.0]])),
        breaks("image_id is not among", image_id=(detection, 5)),
        breaks("without a target", target=(detection, None)),
    ],
)
def test_each_broken_rule_is_found(columns, rule):
    annotations = sample()
    boxed = annotations.boxes.select("sample_id").unique().sort("sample_id")[:3]
    ids = pl.concat([boxed, annotations.studies.select("sample_id").sort("sample_id")[:60]])
    studies = annotations.studies.join(ids, on="sample_id", how="semi")
    parts = [frame.join(ids, on="sample_id", how="semi") for frame in annotations[1:3]]
    qa = build.questions(studies, *parts, 0)
    assert schema.validate(qa, studies) == []
    for column, (where, value) in columns.items():
        new = pl.Series([value], dtype=tables.QA[column])
        qa = qa.with_columns(pl.when(where).then(pl.lit(new).first()).otherwise(pl.col(column)).alias(column))
    assert any(rule in violation for violation in schema.validate(qa, studies))


def test_history_and_split_rules():
    studies, qa = qa_table()
    compared = qa.filter(pl.col("stage") == 5)["sample_id"][0]
    no_prior = studies.with_columns(
        prior_study_id=pl.when(pl.col("sample_id") != compared).then("prior_study_id")
    )
    assert any("without a prior" in violation for violation in schema.validate(qa, no_prior))
    late = studies.with_columns(order=-pl.col("order"))
    assert any("not earlier" in violation for violation in schema.validate(qa, late))
    torn = studies.with_columns(
        split=pl.when(pl.col("sample_id") == compared).then(pl.lit("external")).otherwise(pl.lit("train"))
    )
    assert any("two splits" in violation for violation in schema.validate(qa, torn))


def test_authors_json_round_trip(tmp_path):
    studies, qa = qa_table()
    authors.write_authors_json(studies, qa, tmp_path / "a.json")
    back_studies, back = authors.read_authors_json(tmp_path / "a.json")
    assert back.drop("extra").sort("sample_id", "turn").equals(qa.sort("sample_id", "turn"))
    authors.write_authors_json(back_studies, back, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    for sample_ in json.loads((tmp_path / "a.json").read_text()):
        shown = sum(message["content"].count("<image>") for message in sample_["messages"])
        assert (
            shown
            == len(sample_["image"])
            == sample_["data_dict"]["cxrtrek_data"]["content"][-1]["image_input_count"]
        )


def authors_sample():
    """The shape of the authors' published samples, with invented text."""
    content = [
        {"stage": 2, "task_type": "Findings_Identification", "qtype": "yes_no", "image_input_count": 1,
         "question": "<image> Any effusion?", "answer": "Yes, on the left.", "target": "yes_no_abnormality",
         "polish": True, "link_tag": {"a": [1]}},
        {"stage": 1, "task_type": "View_Information", "qtype": "single-choice", "image_input_count": 1,
         "question": "View?", "answer": "frontal", "option_list": ["A. PA", "B. AP"],
         "answer_list": ["C. frontal"]},
        {"stage": 5, "task_type": "Differences_Comparison", "qtype": "captioning", "image_input_count": 2,
         "question": "<image> Changed?", "answer": "No.", "is_joint_sent": False},
    ]  # fmt: skip
    said = [
        {"role": r, "content": c[k]}
        for c in content
        for r, k in (("user", "question"), ("assistant", "answer"))
    ]
    data = {"source": "mimic", "pat_id": "p1", "study_id": "s2", "ref_study_id": "s1", "pos_study_id": "",
            "image": ["a.png", "b.png"], "content": content}  # fmt: skip
    messages = [{"role": "system", "content": "sys"}, *said]
    return {"messages": messages, "image": ["a.png", "b.png"], "data_dict": {"cxrtrek_data": data}}


def test_authors_oddities_are_read_and_flags_kept(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([authors_sample()]))
    studies, qa = authors.read_authors_json(path)
    row = studies.row(0, named=True)
    assert (row["sample_id"], row["prior_study_id"], row["next_study_id"]) == ("mimic/s2", "mimic/s1", None)
    assert row["views"] == ["UNKNOWN"] and row["images"] == ["a.png", "b.png"]
    assert qa["stage"].to_list() == [2, 1, 5]  # not in stage order
    authors.write_authors_json(studies, qa, path)
    again = json.loads(path.read_text())[0]["data_dict"]["cxrtrek_data"]["content"]
    for entry, original in zip(again, authors_sample()["data_dict"]["cxrtrek_data"]["content"], strict=True):
        assert {k: v for k, v in entry.items() if k not in ("fact", "evidence")} == original
    assert [v.split(":")[0] for v in schema.validate(qa.drop("extra"), studies)] == [
        "answer_list is not among the options", "choice answer does not begin with its options",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda s: s["messages"][1].update(content="other"), ["sample 0", "`messages` differ"]),
        (lambda s: s["data_dict"]["cxrtrek_data"].pop("pat_id"), ["sample 0", "'pat_id'"]),
        (
            lambda s: s["data_dict"]["cxrtrek_data"]["content"][1].pop("qtype"),
            ["sample 0, content 1", "'qtype'"],
        ),
        (lambda s: s.pop("data_dict"), ["sample 0", "data_dict"]),
    ],
)
def test_a_bad_authors_file_is_named(tmp_path, spoil, parts):
    one = authors_sample()
    spoil(one)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([one]))
    with pytest.raises(ValueError) as error:
        authors.read_authors_json(path)
    assert all(part in one_line(error) for part in ["a.json", *parts])
    path.write_text("[{")
    with pytest.raises(ValueError) as error:
        authors.read_authors_json(path)
    assert "not valid JSON" in one_line(error)
