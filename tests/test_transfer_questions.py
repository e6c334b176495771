"""transfer_questions.py: questions from tags, evened presence, boxes of general names."""

import polars as pl
from tables_by_hand import boxes as boxes_of
from tables_by_hand import findings as findings_of
from tables_by_hand import studies as studies_of

from cxrtrek_lib import build, transfer_questions

STUDIES = studies_of({"sample_id": "a/1", "patient_id": "a"}, {"sample_id": "b/1", "patient_id": "b"})
FILM = findings_of(
    ("a/1", "pleural effusion", "present", 1, "left", "mild"), ("a/1", "nodule", "present", 1, "right"),
    ("a/1", "pneumothorax", "absent", 1), ("a/1", "mass", "absent", 1), ("a/1", "edema", "absent", 1),
    ("b/1", "pneumothorax", "absent", 1), ("b/1", "edema", "absent", 1),
)  # fmt: skip
BOXES = boxes_of(("a/1", 1, "pleural effusion", 50, 50, 90, 90), ("a/1", 1, "nodule", 10, 10, 20, 20))


def test_tags_are_asked_about_as_far_as_they_say():
    qa = build.questions(STUDIES, FILM, BOXES, 0)
    tags = findings_of(("a/1", "pleural effusion", "present", 1, "left"), ("b/1", "edema", "uncertain", 1))
    asked = transfer_questions.tagged(qa, tags, seed=0)
    about = set(asked.filter(pl.col("fact").str.starts_with("pleural effusion"))["fact"])
    # The tag states a side and no grade; of the nodule on the film it says nothing.
    assert "pleural effusion|side" in about and "pleural effusion|severity" not in about
    assert not asked["fact"].str.starts_with("nodule").any()
    presence = asked.filter(pl.col("qtype") == "yes_no")
    assert presence.filter(pl.col("answer") == "Yes.")["fact"].to_list() == ["pleural effusion|presence"]
    denied = presence.filter(pl.col("answer") == "No.").group_by("sample_id").len()
    assert dict(denied.iter_rows()) == {"a/1": 1, "b/1": 1}, "as many as are there, at least one a study"
    assert set(asked["stage"]) <= {2, 3}


def test_evened_presence_keeps_every_yes_and_does_not_depend_on_row_order():
    names = FILM["finding"].unique().to_list()
    asked = transfer_questions.presence(STUDIES, FILM, names, seed=0)
    kept = transfer_questions.evened(asked, seed=0)
    counts = kept.group_by("sample_id", "answer").len().sort("sample_id", "answer").rows()
    assert counts == [("a/1", "No.", 2), ("a/1", "Yes.", 2), ("b/1", "No.", 1)]
    again = transfer_questions.evened(asked.reverse(), seed=0)
    assert kept.sort("sample_id", "fact").equals(again.sort("sample_id", "fact"))


def test_a_general_name_has_the_boxes_of_its_special_cases_unless_it_has_its_own():
    general = pl.concat([FILM, findings_of(("a/1", "nodule or mass", "present", 1))])
    asked = transfer_questions.locations(STUDIES, general, BOXES, ["nodule or mass"], seed=0)
    assert asked["bbox_list"].to_list() == [[[10, 10, 20, 20]]]
    own = pl.concat([BOXES, boxes_of(("a/1", 1, "nodule or mass", 1, 1, 5, 5))])
    asked = transfer_questions.locations(STUDIES, general, own, ["nodule or mass"], seed=0)
    assert asked["bbox_list"].to_list() == [[[1, 1, 5, 5]]]


def test_a_finding_without_a_known_box_is_not_asked_for():
    asked = transfer_questions.locations(STUDIES, FILM, BOXES.clear(), ["nodule", "edema"], seed=0)
    assert sorted(asked.select("sample_id", "fact").rows()) == [
        ("a/1", "edema|box 1"),
        ("b/1", "edema|box 1"),
    ]
    assert asked["bbox_list"].to_list() == [[], []]
