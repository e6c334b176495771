"""Stage 3, boxes: asked for by name, phrase and region, and the way back, all true by geometry."""

import re
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build, conversations
from cxrtrek_lib.findings import REGIONS
from cxrtrek_lib.stages import grounding, naming, wording
from cxrtrek_lib.stages.attributes import attributes

TEMPLATES = wording.load()[3]
NAMES = [f"made/{n}" for n in range(60)]
E = "pleural effusion"
LEFT, RIGHT = (60, 50, 90, 80), (5, 50, 30, 75.5)


def evidence_of(facts, marks, samples=("made/a",), scene=False, **study):
    """Evidence of studies that all have the same facts and the same boxes.

    facts  tuples as in findings, marks (target, laterality, corners), both without sample_id; every box is
           on image 1. scene: the facts are those of a simulated film
    """
    rows = findings(*((sample, *fact) for sample in samples for fact in facts))
    if scene:
        rows = rows.with_columns(source_column=pl.lit("simulated"))
    drawn = boxes(*((sample, 1, target, *corners) for sample in samples for target, _, corners in marks))
    sides = pl.Series("laterality", [side for _ in samples for _, side, _ in marks], dtype=pl.String)
    if marks:
        drawn = drawn.with_columns(sides)
    rows_of_studies = ({"sample_id": sample, "patient_id": sample, **study} for sample in samples)
    return build.gather(studies(*rows_of_studies), rows, drawn, 0)


def ask(*arguments, **options):
    """The questions of stage 3 that are about boxes or regions."""
    qa = pl.concat(attributes(evidence_of(*arguments, **options), TEMPLATES))
    return qa.filter(pl.col("fact").str.contains(r"\|box|region"))


def test_boxes_are_asked_for_what_is_there():
    marks = [(region, None, (10, 20, 30, 40)) for region in ("heart", "trachea")]
    marks += [(E, None, LEFT), (E, None, RIGHT), ("pneumothorax", None, (1, 1, 2, 2))]
    marks += [("pneumonia", None, (5, 5, 9, 9)), ("edema", None, (5, 5, 9, 9))]
    facts = [(E, "present", 1), ("pneumothorax", "absent", 1), ("pneumonia", "present", 1)]
    qa = ask(facts, marks, NAMES, views=["PA", "LATERAL"])
    assert set(qa["fact"]) == {f"{E}|box 1", "heart|box 1", "trachea|box 1"}
    qa = qa.filter(qtype="detection")
    asked = qa.filter(target=E)
    assert asked["bbox_list"].to_list() == [[[5, 50, 30, 75.5], [60, 50, 90, 80]]] * asked.height
    assert set(asked["answer"]) == {
        "<|ref|> pleural effusion <|/ref|> <|box|>(5.00, 50.00), (30.00, 75.50)<|/box|> "
        "<|box|>(60.00, 50.00), (90.00, 80.00)<|/box|>"
    }
    assert set(qa["image_id"]) == {1} and set(qa["num_of_images"]) == {2}
    assert qa["question"].str.contains("image 1", literal=True).all()


def test_eight_of_29_regions_are_asked_for():
    regions = {region: (n, n, n + 10, n + 20) for n, region in enumerate(REGIONS)}
    assert len(regions) == 29
    qa = ask([], [(region, None, corners) for region, corners in regions.items()], NAMES)
    assert qa.group_by("i").len()["len"].to_list() == [8] * len(NAMES)
    assert set(qa["target"]) == set(regions)  # which ones is drawn
    assert all(row["bbox_list"] == [list(regions[row["target"]])] for row in qa.iter_rows(named=True))


CORNER = st.floats(0, 99, allow_nan=False)
BOX = st.tuples(CORNER, CORNER, st.floats(0.02, 100), st.floats(0.02, 100)).map(
    lambda b: (b[0], b[1], min(100.0, b[0] + b[2]), min(100.0, b[1] + b[3]))
)


@given(st.lists(BOX, min_size=1, max_size=4))
@settings(max_examples=60)
def test_the_text_of_boxes_is_that_of_the_format(corners):
    frame = evidence_of([], [("heart", None, corner) for corner in corners]).boxes
    row = grounding.answered(grounding.rounded(frame)).row(0, named=True)
    assert row["answer"] == conversations.format_boxes("heart", row["bbox_list"])
    assert conversations.parse_boxes(row["answer"]) == row["bbox_list"]
    given_, told = sorted(corners), sorted(map(tuple, row["bbox_list"]))
    for box in given_:
        assert any(all(abs(a - b) <= 0.00501 for a, b in zip(box, other, strict=True)) for other in told)
    assert len(told) == len(given_)


def phrases(qa):
    """phrase -> boxes, of the questions that ground a phrase."""
    rows = qa.filter(task_type="Phrase_Grounding")
    found = {}
    for row in rows.iter_rows(named=True):
        phrase = re.search(r'"([^"]+)"', row["question"])[1]
        assert found.setdefault(phrase, row["bbox_list"]) == row["bbox_list"]
        assert row["target"] == E and row["fact"] == f"{E}|box 1"
    return found


@pytest.mark.parametrize(
    ("fact", "marks", "told"),
    [
        # A side that all boxes have, and one that some have.
        (("right", "moderate"), [("right", RIGHT)], {"moderate right pleural effusion": [list(RIGHT)]}),
        (("right", None), [("left", LEFT), ("right", RIGHT)], {"right pleural effusion": [list(RIGHT)]}),
        # The side of a box is unknown, or no box is on the side.
        (("right", "moderate"), [(None, RIGHT)], {}),
        (("right", "moderate"), [("right", RIGHT), (None, LEFT)], {}),
        (("right", None), [("left", LEFT)], {}),
        # Both sides: each of them can be asked for, the severity of one of them is not known.
        (("bilateral", "severe"), [("left", LEFT), ("right", RIGHT)],
         {"left pleural effusion": [list(LEFT)], "right pleural effusion": [list(RIGHT)]}),
        (("bilateral", None), [("left", LEFT)], {}),
        # No side: all boxes; nothing but the name is no phrase.
        ((None, "mild"), [(None, LEFT), (None, RIGHT)], {"mild pleural effusion": [list(RIGHT), list(LEFT)]}),
        ((None, None), [(None, LEFT)], {}),
    ],
)  # fmt: skip
def test_a_phrase_says_more_than_the_name_and_its_boxes_are_on_its_side(fact, marks, told):
    qa = ask([(E, "present", 1, *fact)], [(E, *mark) for mark in marks], NAMES)
    assert phrases(qa) == told
    # The same boxes are never asked about twice; one side of two is asked for beside the whole.
    if fact[0] != "bilateral":
        assert not qa["i"].is_duplicated().any() and qa.height == len(NAMES)
    elif told:
        assert (
            qa.filter(task_type="Phrase_Grounding").height
            == qa.filter(task_type="Findings_Detection").height
            > 40
        )
    assert not qa.select("i", pl.col("bbox_list").cast(pl.List(pl.List(pl.Int64)))).is_duplicated().any()


ABSENT = [("edema", "absent", 1), ("fracture", "absent", 2), ("nodule", "absent", 1), ("mass", "absent", 1)]


def by_box(qa):
    return qa.filter(task_type="box->finding")


def test_the_finding_in_a_box_is_asked_for_with_false_options_or_openly():
    facts = [(E, "present", 1, "right"), *ABSENT, ("kyphosis", "uncertain", 1), ("copd", "absent", 1)]
    qa = by_box(ask(facts, [(E, "right", RIGHT)], NAMES))
    assert 2 < qa.height < 25 and set(qa["qtype"]) == {"single-choice"}  # kyphosis may lie there, too
    for row in qa.iter_rows(named=True):
        options = [option.split(". ")[-1].split("). ")[-1] for option in row["option_list"]]
        right = [answer.split(". ")[-1].split("). ")[-1] for answer in row["answer_list"]]
        assert right == [E] and len(options) == 4
        assert set(options) - {E} <= {"edema", "fracture", "nodule", "mass"}
        assert "<|box|>(5.00, 50.00), (30.00, 75.50)<|/box|>" in row["question"]
        assert row["bbox_list"] == [list(RIGHT)] and row["target"] == f"abnormality_[{E}]"
    facts = [(E, "present", 1, "right")]
    qa = by_box(ask(facts, [(E, "right", RIGHT)], NAMES))
    assert set(qa["qtype"]) == {"captioning"} and set(qa["answer"]) == {"Pleural effusion."}
    # Where something has no box, it may lie in that of another; with nothing denied, nothing can be asked.
    assert not by_box(ask([*facts, ("edema", "present", 1)], [(E, "right", RIGHT)], NAMES)).height
    # Its general form needs none: it is the same thing.
    general = [("consolidation", "present", 1), ("lung opacity", "present", 1)]
    assert set(by_box(ask(general, [("consolidation", None, RIGHT)], NAMES))["answer"]) == {"Consolidation."}


def test_a_box_with_two_findings_in_it_is_not_asked_about():
    facts = [(E, "present", 1), ("nodule", "present", 1), ("edema", "absent", 1)]
    inside = (10, 55, 15, 60)  # IoU 0.04, and yet it lies in the box of the effusion
    qa = by_box(ask(facts, [(E, None, RIGHT), ("nodule", None, inside), (E, None, LEFT)], NAMES))
    assert qa.height and all(row["bbox_list"] == [list(LEFT)] for row in qa.iter_rows(named=True))


def shared_by_hand(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


@given(BOX, BOX)
@settings(max_examples=60)
def test_the_shared_part_of_two_boxes(a, b):
    names = ("x1", "y1", "x2", "y2", "x1_2", "y1_2", "x2_2", "y2_2")
    frame = pl.DataFrame(dict(zip(names, ([value] for value in (*a, *b)), strict=True)))
    assert frame.select(naming.shared_part()).item() == pytest.approx(shared_by_hand(a, b))


# The patient's right lung is on the image's left.
LUNGS = [
    ("right lung", None, (10, 10, 45, 80)), ("left lung", None, (55, 10, 90, 80)),
    ("right upper lung zone", None, (10, 10, 45, 33)), ("right mid lung zone", None, (10, 33, 45, 56)),
    ("right lower lung zone", None, (10, 56, 45, 80)), ("left upper lung zone", None, (55, 10, 90, 33)),
    ("heart", None, (40, 40, 75, 80)),
]  # fmt: skip


def told_of_regions(facts, marks, **options):
    qa = ask(facts, [*LUNGS, *marks], NAMES, **options)
    rows = qa.filter(pl.col("fact") == "composite|findings of a region")
    assert set(rows["evidence"]) <= {"simulated"}
    return {region: rows.filter(target=f"location_[{region}]")["answer"].unique().to_list()
            for region in re.findall(r"\[(.+?)\]", " ".join(rows["target"].unique()))}  # fmt: skip


def test_what_lies_in_a_region_follows_from_the_boxes():
    none, effusion = ["None."], ["Pleural effusion."]
    scene = {"scene": True}
    assert told_of_regions([(E, "absent", 1)], [], **scene) == dict.fromkeys(
        (name for name, _, _ in LUNGS if name != "heart"), none
    )
    facts = [(E, "present", 1, "right")]
    low = [(E, "right", (12, 60, 40, 80))]
    assert told_of_regions(facts, low, **scene) == {
        "right lung": effusion, "right lower lung zone": effusion,
        "left lung": none, "left upper lung zone": none,
        "right upper lung zone": none, "right mid lung zone": none,
    }  # fmt: skip
    # Half of it lies in the mid zone, its middle in the lower one: nothing is said of the mid zone.
    wide = [(E, "right", (12, 36, 40, 80))]
    assert set(told_of_regions(facts, wide, **scene)) == {
        "right lung", "right lower lung zone", "left lung", "left upper lung zone", "right upper lung zone",
    }  # fmt: skip
    # An enlarged heart is no finding of the lung, and keeps its neighbours from being called clear.
    heart = [("cardiomegaly", None, (40, 40, 75, 80))]
    assert set(told_of_regions([("cardiomegaly", "present", 1)], heart, **scene)) == {
        "right upper lung zone", "left upper lung zone",
    }  # fmt: skip
    # A real film may hold what nobody wrote down; what is uncertain may lie anywhere.
    assert told_of_regions(facts, low) == {}
    assert told_of_regions([*facts, ("nodule", "uncertain", 1)], low, **scene) == {}
    assert told_of_regions([*facts, ("nodule", "present", 1, "left")], low, **scene) == {}


FINDING = st.sampled_from([E, "nodule", "cardiomegaly", "consolidation", "pneumonia"])
MARK = st.tuples(FINDING, st.sampled_from([None, "left", "right"]), BOX)


@given(
    st.dictionaries(FINDING, st.sampled_from([None, "left", "right", "bilateral"]), max_size=4),
    st.lists(MARK, max_size=6),
    st.randoms(use_true_random=False),
)
@settings(max_examples=20)
def test_every_box_told_is_a_box_given(present, marks, random):
    facts = [(name, "present", 1, side, "mild") for name, side in present.items()]
    facts.append(("edema", "absent", 1))
    all_marks = [*marks, *LUNGS]
    samples = [f"made/{n}" for n in range(6)]
    qa = ask(facts, all_marks, samples)
    given_ = {}
    for target, side, corners in all_marks:
        given_.setdefault(target, []).append((side, list(corners)))  # told to two decimals
    for row in qa.filter(pl.col("bbox_list").is_not_null()).iter_rows(named=True):
        target = row["fact"].removesuffix("|box 1")
        assert target in present and target != "pneumonia" or target in REGIONS
        for box in row["bbox_list"]:
            assert any(box == pytest.approx(other, abs=0.0051) for _, other in given_[target])
        if row["task_type"] == "Phrase_Grounding":
            side = re.search(r'"(?:mild )?(left|right) ', row["question"])
            of_side = [box for own, box in given_[target] if side is None or own == side[1]]
            assert len(row["bbox_list"]) == len(of_side)
            assert (side is not None) == (present[target] is not None)
        if row["task_type"] == "box->finding":
            (box,) = row["bbox_list"]
            others = [
                other for name, rows in given_.items() if name not in (target, *REGIONS) for _, other in rows
            ]
            assert all(shared_by_hand(box, other) <= 0.31 for other in others)
    counts = Counter(qa.filter(task_type="Findings_Detection").select("i", "fact").iter_rows())
    assert set(counts.values()) <= {1}
    random.shuffle(facts)
    random.shuffle(all_marks)
    again = ask(facts, all_marks, samples[::-1])
    assert again.sort("i", "rank", "bits").equals(qa.sort("i", "rank", "bits"))
