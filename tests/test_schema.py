"""Tables on disk, box text, and validation: each rule alone."""

import json

import polars as pl
import pytest
from conversations_by_hand import SAMPLES, own_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tables import sample
from tables_by_hand import studies as made_studies

from cxrtrek_lib import build, conversations, rules, schema, study_rules, tables

percent = st.integers(0, 10_000).map(lambda n: n / 100)
box = st.tuples(percent, percent, percent, percent).map(list)


@given(st.lists(box, min_size=1, max_size=4))
def test_boxes_survive_their_text(boxes):
    assert conversations.parse_boxes(conversations.format_boxes("left lung", boxes)) == boxes


def test_box_text_is_the_authors_format():
    text = conversations.format_boxes("pleural effusion", [[12, 40.5, 45.1, 88]])
    assert text == "<|ref|> pleural effusion <|/ref|> <|box|>(12.00, 40.50), (45.10, 88.00)<|/box|>"
    assert conversations.parse_boxes("no box, but (3, 4) and 5, 6") == []
    assert conversations.parse_boxes("(1,2),(3,4) then (5.5, 6), (7, 8)") == [[1, 2, 3, 4], [5.5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 100, 100], True), ([5, 5, 5, 6], False), ([6, 1, 5, 9], False), ([-1, 0, 5, 5], False),
        ([0, 0, 1], False),
    ],
)  # fmt: skip
def test_is_box(box, expected):
    assert conversations.is_box(box) is expected


def test_tables_survive_the_disk(tmp_path):
    studies, qa, _ = own_cases()
    qa = qa.with_columns(bbox_list=pl.lit(None, dtype=tables.QA["bbox_list"]))  # an all-null list column
    for name, frame in (("studies", studies), ("qa", qa)):
        tables.write_table(name, frame, tmp_path / "deep" / f"{name}.parquet")
        assert tables.read_table(name, tmp_path / "deep" / f"{name}.parquet").equals(frame)
    pieces = [qa[:1], qa[1:]]
    tables.write_chunks("qa", pieces, tmp_path / "pieces.parquet")
    assert [piece.height for piece in tables.read_chunks("qa", tmp_path / "pieces.parquet")] == [1, 3]
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
    formats = {conversations.format_of(q) for q in ("captioning", "yes_no", "multi-choice-5", "detection")}
    assert formats == {"open-ended", "close-ended", "choice", "detection"}
    with pytest.raises(ValueError, match="unknown qtype 'essay'"):
        conversations.format_of("essay")


# Validation

CASES = schema.read_authors_json(SAMPLES)
A, B, C = "invented/s50002", "invented/60001", "made up/p/3/study1"  # the samples of the hand-written file
BOX = "<|ref|> pleural effusion <|/ref|> <|box|>({}, {}), ({}, {})<|/box|>"


def test_valid_samples_and_the_oddities_they_have():
    report = schema.validate(CASES)
    assert report.ok and report.lines() == [] and report.violations.is_empty()
    assert report.oddities == {
        "conversation not in stage order": 1,
        "single-choice answer that matches no option": 1,
        "image list of the sample is not that of its cxrtrek_data": 1,
    }


def test_our_own_valid_tables_have_no_oddity():
    report = schema.validate(own_cases())
    assert report.ok and report.oddities == {}, report


def test_built_questions_hold_every_rule():
    annotations = sample()
    cases = schema.Cases(annotations.studies, build.questions(*annotations[:3], 0), "built")
    report = schema.validate(cases)
    assert report.ok, report.lines()[:5]
    assert set(report.oddities) <= {"target that is not in the grammar"}
    turned = schema.Cases(cases.studies.reverse(), cases.qa.reverse(), "built")
    assert schema.validate(turned).oddities == report.oddities and schema.validate(turned).ok


def set_to(frame: pl.DataFrame, where: pl.Expr, values: dict) -> pl.DataFrame:
    for column, value in values.items():
        new = pl.lit(pl.Series([value], dtype=frame.schema[column])).first()
        frame = frame.with_columns(pl.when(where).then(new).otherwise(pl.col(column)).alias(column))
    return frame


def at(case: str, turn: int, /, **values):
    """Change columns of one Q&A."""
    where = (pl.col("sample_id") == case) & (pl.col("turn") == turn)
    return lambda cases: cases._replace(qa=set_to(cases.qa, where, values))


def study(case: str, /, **values):
    """Change columns of one study."""
    where = pl.col("sample_id") == case
    return lambda cases: cases._replace(studies=set_to(cases.studies, where, values))


def both(*changes):
    def change(cases):
        for each in changes:
            cases = each(cases)
        return cases

    return change


def without(table: str, case: str):
    def change(cases):
        return cases._replace(**{table: getattr(cases, table).filter(pl.col("sample_id") != case)})

    return change


def twice(case: str):
    return lambda cases: cases._replace(
        studies=pl.concat([cases.studies, cases.studies.filter(pl.col("sample_id") == case)])
    )


def boxes(*corners: float, text: tuple = ()):
    """The detection of sample A with another box, in its list and (unless told otherwise) its text."""
    text = text or tuple(f"{corner:.2f}" for corner in corners)
    return at(A, 3, bbox_list=[list(corners)], answer=BOX.format(*text))


DETECTION = ("bbox_list", "image_id", "num_of_images", "target")
IMAGES = [f"files/p100/s5000{n}/{name}.jpg" for n, name in ((2, "frontal"), (2, "lateral"), (1, "frontal"))]
BROKEN = [
    ("study is not in studies", without("studies", C), [(C, 0), (C, 1)]),
    ("turns do not count 0, 1, 2, ...", at(C, 1, turn=5), [(C, 5)]),
    ("turns do not count 0, 1, 2, ...", at(C, 1, turn=0), [(C, 0)]),
    ("stage is not 1 to 8", at(C, 1, stage=9), [(C, 1)]),
    ("task_type is unknown at its stage", at(C, 1, task_type="Future_Trend_Analysis"), [(C, 1)]),
    ("task_type is unknown at its stage", at(C, 1, task_type="Poetry"), [(C, 1)]),
    ("qtype is unknown", at(C, 1, qtype="essay"), [(C, 1)]),
    ("question is empty", at(C, 1, question=""), [(C, 1)]),
    ("answer is empty", at(C, 1, answer=""), [(C, 1)]),
    ("a {template} word is not filled", at(C, 1, answer="A {finding} here."), [(C, 1)]),
    ("a {template} word is not filled", at(C, 1, question="Where is {side lung}?"), [(C, 1)]),
    ("a {template} word is not filled", at(A, 4, option_list=[
        "1. {name}", "2. pleural effusion", "3. atelectasis"]), [(A, 4)]),
    ("placeholder in an answer", at(C, 1, answer="See <image>."), [(C, 1)]),
    ("image_input_count is not the number of placeholders so far", at(A, 1, image_input_count=7), [(A, 1)]),
    ("placeholders do not match the images", study(A, images=[*IMAGES, "more.jpg"]), [(A, 8)]),
    ("placeholders do not match the images", both(
        at(C, 1, question="<image> And here?", image_input_count=2)), [(C, 1)]),
    ("stage 5 without a reference study", study(A, prior_study_id=None), [(A, 6)]),
    ("reference study without stage 5", study(B, prior_study_id="invented/59999"), [(B, 6)]),
    ("reference image is not shown by the first question of stage 5", both(
        at(A, 6, question="What has changed?", image_input_count=2), at(A, 7, question="<image> And how?")),
        [(A, 6)]),
    ("choice without option_list or answer_list", at(B, 1, option_list=None), [(B, 1)]),
    ("choice without option_list or answer_list", at(A, 0, answer_list=None), [(A, 0)]),
    ("choice without two different options", at(A, 4, option_list=["x", "x"], answer_list=["x"]), [(A, 4)]),
    ("option repeated", at(A, 5, option_list=["1). mild", "2). severe", "2). severe"]), [(A, 5)]),
    ("choice without a right option", at(A, 4, answer_list=[]), [(A, 4)]),
    ("answer_list is not among the options", at(A, 4, answer_list=["9. mass"]), [(A, 4)]),
    ("single-choice with several right options", at(A, 5, answer_list=["1). mild", "2). severe"]), [(A, 5)]),
    ("multi-choice-N has not N options", at(B, 1, qtype="multi-choice-5"), [(B, 1)]),
    ("yes_no without target", at(A, 2, target=None), [(A, 2)]),
    ("target is not in the grammar", at(A, 2, target="effusion"), [(A, 2)]),
    ("target is not in the grammar", at(A, 2, target="abnormality_"), [(A, 2)]),
    ("captioning without is_joint_sent", at(C, 0, is_joint_sent=None), [(C, 0)]),
    *(
        (f"detection without {', '.join(DETECTION[:3])} or target", at(A, 3, **{column: None}), [(A, 3)])
        for column in DETECTION
    ),
    ("detection without a box", at(A, 3, bbox_list=[], answer="It is not there."), [(A, 3)]),
    ("target of a detection is not a bare name", at(A, 3, target="location_left lung"), [(A, 3)]),
    ("image_id is not among the images shown", at(A, 3, image_id=0), [(A, 3)]),
    ("image_id is not among the images shown", at(A, 3, image_id=3), [(A, 3)]),
    ("image_id is not among the images shown", at(A, 3, image_id=3, num_of_images=3), [(A, 3)]),
    ("box outside 0-100 or inverted", boxes(12.0, 40.5, 100.01, 88.0), [(A, 3)]),
    ("box outside 0-100 or inverted", boxes(-0.5, 40.5, 45.1, 88.0), [(A, 3)]),
    ("box outside 0-100 or inverted", boxes(12.0, 88.0, 45.1, 40.5), [(A, 3)]),
    ("box outside 0-100 or inverted", boxes(12.0, 40.5, 12.0, 88.0), [(A, 3)]),
    ("box outside 0-100 or inverted", at(B, 2, bbox_list=None, question=BOX.format(
        "12.00", "40.50", "100.10", "88.00")), [(B, 2)]),
    ("box outside 0-100 or inverted", at(B, 2, bbox_list=None, question=BOX.format(
        "45.10", "40.50", "12.00", "88.00")), [(B, 2)]),
    ("box in the text has not two decimals", boxes(12.0, 40.5, 45.1, 88.0, text=(12, 40.5, "45.10", "88.00")),
        [(A, 3)]),
    ("box in the text has not two decimals", at(B, 2, question="See <|box|>(60, 20), (70.25, 30)<|/box|>"), [
        (B, 2)]),
    ("boxes in the text are not bbox_list", boxes(
        12.0, 40.5, 45.1, 88.0, text=("12.00", "40.50", "45.11", "88.00")), [(A, 3)]),
    ("boxes in the text are not bbox_list", at(A, 3, answer="It is on the left."), [(A, 3)]),
    ("boxes in the text are not bbox_list", at(B, 2, bbox_list=[[60.0, 20.0, 70.25, 31.0]]), [(B, 2)]),
    ("study is twice in studies", twice(C), [(C, None)]),
    ("sample without a question", without("qa", C), [(C, None)]),
    ("reference study is not earlier", study(A, prior_study_id=A), [(A, None)]),
    ("next study is not later", study(C, next_study_id=C), [(C, None)]),
    ("future study is shown", study(B, images=["files/p200/s60002/1.png"]), [(B, None)]),
    ("future study is shown", study(B, images=["files/p200/60002.png"]), [(B, None)]),
    ("reference image before the study's own", study(A, images=[IMAGES[2], *IMAGES[:2]]), [(A, None)]),
    ("patient is in two splits", study(C, patient_id="invented/200", split="train"), [(B, None)]),
]  # fmt: skip
P2, P3 = "made/p/2", "made/p/3"
BROKEN_OWN = [
    ("reference study is not earlier", both(study(P3, order=1), study(P2, next_study_id=None)), [
        (P3, None)]),
    ("next study is not later", study(P3, order=1, prior_study_id=None), [(P2, None)]),
    ("future study is shown", study(P2, images=["2.png", "3.png"]), [(P2, None)]),
    ("future study is shown", both(study(P3, images=["made/p/3/a.png"]), study(P2, images=[
        "2.png", "made/p/3/b.png"])), [(P2, None)]),
    ("images are not one per view and one of the reference study at most", study(P2, images=["2.png"]), [
        (P2, None)]),
    ("images are not one per view and one of the reference study at most", study(P3, images=[
        "3.png", "2.png", "1.png"]), [(P3, None)]),
    ("placeholders do not match the images", both(
        at(P3, 0, question="<image><image> View?", image_input_count=2), at(P3, 1, image_input_count=2)),
        [(P3, 1)]),
    ("stage 5 without a reference study", study(P2, prior_study_id=None), [(P2, 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change", "places"), BROKEN)
def test_a_broken_sample_breaks_one_rule(rule, change, places):
    check(change(CASES), rule, places)


@pytest.mark.parametrize(("rule", "change", "places"), BROKEN_OWN)
def test_a_broken_row_of_ours_breaks_one_rule(rule, change, places):
    check(change(own_cases()), rule, places)


def check(cases, rule, places):
    report = schema.validate(cases)
    assert report.violations.select("file", "case", "turn", "rule").rows() == [
        (cases.file, *place, rule) for place in places
    ], report.lines()
    assert not report.ok


def test_every_rule_is_broken_by_a_test():
    written = [rule for _, rule, *_ in rules._TURN_RULES] + [rule for rule, *_ in study_rules.STUDY_RULES]
    broken = {rule for rule, *_ in (*BROKEN, *BROKEN_OWN)}
    assert set(written) <= broken and len(written) == len(set(written))


ODD = [
    ("task type that the published samples do not name", at(C, 1, task_type="Report_Generation[Long]")),
    ("field that belongs to another qtype", at(C, 1, option_list=["a", "b"])),
    ("field that belongs to another qtype", at(A, 2, is_joint_sent=True)),
    ("target that is not in the grammar", at(C, 0, target="view")),
    ("target that is not in the grammar", at(A, 2, stage=1, task_type="View_Information", target="view")),
    ("yes_no answer that does not begin with Yes or No", at(A, 2, answer="There is one.")),
    ("choice answer that does not repeat its right options", at(B, 1, answer="The nodule.")),
    ("conversation not in stage order", at(B, 0, stage=3, task_type="Attributes_Description")),
    ("single-choice answer that matches no option", at(A, 0, answer="C. none", answer_list=["C. none"])),
]


@pytest.mark.parametrize(("oddity", "change"), ODD)
def test_an_oddity_is_counted_and_accepted(oddity, change):
    before, after = schema.validate(CASES), schema.validate(change(CASES))
    assert after.ok, after.lines()
    assert after.oddities == {**before.oddities, oddity: before.oddities.get(oddity, 0) + 1}


def test_a_study_listed_twice_is_odd(tmp_path):
    one = json.loads(SAMPLES.read_text(encoding="utf-8"))[2]
    (tmp_path / "a.json").write_text(json.dumps([one, one]))
    report = schema.validate(schema.read_authors_json(tmp_path / "a.json"))
    assert report.ok and report.oddities["study listed more than once"] == 1


def test_lines_name_file_case_turn_and_rule():
    cases = both(at(C, 1, stage=9), study(B, images=["files/p200/s60002/1.png"]))(CASES)
    assert schema.validate(cases._replace(file="here.json")).lines() == [
        "here.json, invented/60001: future study is shown (files/p200/s60002/1.png)",
        "here.json, made up/p/3/study1, turn 1: stage is not 1 to 8 (9)",
    ]


@pytest.mark.parametrize("change", [change for _, change, _ in BROKEN[::4]])
def test_parts_are_checked_as_the_whole(change):
    cases = change(CASES)
    parts = [
        schema.Cases(cases.studies.filter(pl.col("sample_id").is_in(ids)), qa, cases.file)
        for ids, qa in (
            ([A], cases.qa.filter(pl.col("sample_id") == A)),
            ([B, C], cases.qa.filter(pl.col("sample_id") != A)),
        )
    ]
    whole, together = schema.validate(cases), schema.validate(iter(parts))
    assert together.violations.equals(whole.violations) and together.oddities == whole.oddities


def test_studies_that_refer_to_each_other_in_a_circle():
    """Of three samples each refers to the next: none can be the earliest."""
    cases = both(study(A, prior_study_id=B), study(B, prior_study_id=C), study(C, prior_study_id=A))(CASES)
    late = schema.validate(cases).violations.filter(pl.col("rule") == "reference study is not earlier")
    assert set(late["case"]) == {A, B, C}
    open_ended = study(C, prior_study_id="made up/elsewhere")(cases)
    found = schema.validate(open_ended).violations["rule"]
    assert "reference study is not earlier" not in set(found)


@settings(max_examples=30)
@given(
    st.randoms(use_true_random=False), st.sampled_from([each for each in BROKEN if "turns" not in each[0]])
)
def test_row_order_changes_nothing(random, broken):
    cases = broken[1](CASES)
    order = list(range(cases.qa.height))
    random.shuffle(order)
    shuffled = cases._replace(qa=cases.qa[order], studies=cases.studies.reverse())
    one, other = schema.validate(cases), schema.validate(shuffled)
    assert one.oddities == other.oddities
    assert one.violations.sort(pl.all()).equals(other.violations.sort(pl.all()))
