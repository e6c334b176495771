"""Stages 1 and 2: each question rests on what is known, and nothing else is asked."""

import re
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tables import sample
from stage_rows import bare, stage_rows
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import tables
from cxrtrek_lib.findings import CORE, DEVICES, DIAGNOSES, FINDINGS, ancestors
from cxrtrek_lib.stages import identification

ONE = {"sample_id": "made/a"}
# Ranks of stage 2; 2 to 4 are the choices between findings.
ANY, PRESENCE, STATUS, DEVICE_LIST, LIST, ZONES, UNCERTAIN, RULED_OUT = 0, 1, 5, 6, 7, 8, 9, 10
BY_REGION = 11


def first(*study_rows, seed=0):
    return stage_rows(1, studies(*study_rows), findings(), boxes(), seed)


def second(*facts, box_rows=(), seed=0, study_rows=(ONE,), ratio=None):
    facts = [("made/a", *fact) if fact[0] in FINDINGS else fact for fact in facts]
    return stage_rows(2, studies(*study_rows), findings(*facts), boxes(*box_rows), seed, ratio)


def many(*facts, n=40):
    """The rows of n studies with the same facts, whatever the draws."""
    return second(
        *[(f"made/{i}", *fact) for i in range(n) for fact in facts],
        study_rows=[{"sample_id": f"made/{i}"} for i in range(n)],
    )


def answers(rows, **where):
    return set(rows.filter(**where)["answer"])


# Stage 1


def test_views():
    rows = first(*({"sample_id": f"made/{i}", "views": ["AP", "LATERAL"]} for i in range(60)))
    assert answers(rows, qtype="captioning") == {"Image 1: anteroposterior (AP) view; image 2: lateral view."}
    assert set(rows.filter(qtype="captioning")["fact"]) == {"view|1; view|2"}
    choice = rows.filter(qtype="single-choice")
    for row in choice.iter_rows(named=True):
        image = "2" if "image 2" in row["question"] else "1"
        assert bare(row["answer"]) == {"1": "AP", "2": "lateral"}[image] and row["fact"] == f"view|{image}"
        assert sorted(map(bare, row["option_list"])) == ["AP", "PA", "lateral"]
    assert 15 < choice.height < 45 and {"view|1", "view|2"} == set(choice["fact"])
    one = first({"sample_id": "made/a", "views": ["PA"]}, {"sample_id": "made/b", "views": ["PA"]}, seed=3)
    assert answers(one, qtype="captioning") <= {"Posteroanterior (PA) view."}


def test_unknown_views_are_not_asked_about():
    assert first({"sample_id": "made/a", "views": ["UNKNOWN"]}).height == 0
    rows = first(*({"sample_id": f"made/{i}", "views": ["UNKNOWN", "LATERAL"]} for i in range(20)))
    assert rows["question"].str.contains("image 2").all() and set(map(bare, rows["answer"])) == {"lateral"}
    assert rows.height == 20


def test_whether_a_view_is_included():
    sequences = [["PA"], ["AP"], ["LATERAL"], ["PA", "LATERAL"], ["AP", "AP"], ["PA", "AP", "LATERAL"]]
    rows = [{"sample_id": f"made/{i}", "views": sequences[i % 6]} for i in range(900)]
    asked = first(*rows).filter(qtype="yes_no")
    assert asked.height == 900 and set(asked["rank"]) == {1}
    views = {row["sample_id"]: row["views"] for row in rows}
    kinds = Counter()
    for row in asked.iter_rows(named=True):
        shown = views[row["sample_id"]]
        view = re.search(r"\((PA|AP)\)|lateral|frontal", row["question"])
        view = view[1] or view[0]
        there = {"PA": "PA" in shown, "AP": "AP" in shown, "lateral": "LATERAL" in shown,
                 "frontal": bool({"PA", "AP"} & set(shown))}[view]  # fmt: skip
        assert row["answer"] == ("Yes." if there else "No."), row
        assert row["fact"] == "; ".join(f"view|{n + 1}" for n in range(len(shown)))
        assert ("this radiograph" in row["question"].lower()) == (len(shown) == 1), row["question"]
        kinds[len(shown), row["answer"]] += 1
    # Yes and No are drawn: alike often, but where nothing is missing from the study.
    assert all(kinds[n, "Yes."] + kinds[n, "No."] in (450, 300, 150) for n in (1, 2, 3))
    assert 180 < kinds[1, "Yes."] < 270 and 110 < kinds[2, "Yes."] < 190 and kinds[3, "No."] == 0


def test_exposure_where_it_is_known():
    rows = [{"sample_id": f"made/{i}", "views": ["UNKNOWN"], "exposure": e}
            for i, e in enumerate(tables.EXPOSURES * 8)]  # fmt: skip
    asked = first(*rows).join(studies(*rows).select("sample_id", "exposure"), on="sample_id")
    assert asked.height == 24 and set(asked["qtype"]) == {"captioning", "single-choice"}
    assert all(row["exposure"] in row["answer"] for row in asked.iter_rows(named=True))
    assert set(asked["evidence"]) == {"made: exposure"}
    simulated = first(*({**row, "image_origin": "simulated"} for row in rows))
    assert set(simulated["evidence"]) == {"simulated: exposure"}


def test_quality():
    def asked(quality, origin):
        return first(*({"sample_id": f"made/{i}", "views": ["UNKNOWN"], "quality": quality,
                        "image_origin": origin} for i in range(30)))  # fmt: skip

    assert asked(None, "real").height == 0
    # A table that only knows bad studies would answer every yes/no question alike: it is asked openly.
    rows = asked(["suboptimal"], "none")
    assert rows.height == 30 and set(rows["qtype"]) == {"captioning"}
    assert answers(rows) == {"The study is suboptimal."} and set(rows["evidence"]) == {"made: quality"}
    rows = asked(["rotated", "underexposed"], "simulated")
    assert answers(rows, qtype="captioning") == {"The study is rotated, underexposed."}
    assert answers(rows, qtype="yes_no") == {"Yes."} and rows.height == 30
    rows = asked([], "simulated")
    assert answers(rows, qtype="captioning") == {"The technical quality is adequate."}
    assert answers(rows, qtype="yes_no") == {"No."} and set(rows["evidence"]) == {"simulated: quality"}


# Stage 2


def test_only_known_statuses_are_asked_and_no_needs_an_absence():
    rows = second(
        ("edema", "present", 1), ("pneumothorax", "absent", 1), ("mass", "absent", 2),
        ("fracture", "uncertain", 1), ("cardiomegaly", "absent", 3),
    ).filter(rank=PRESENCE)  # fmt: skip
    assert dict(rows.select("fact", "answer").iter_rows()) == {
        "edema|presence": "Yes.", "pneumothorax|presence": "No.", "mass|presence": "No.",
    }  # fmt: skip
    assert dict(rows.select("fact", "evidence").iter_rows())["edema|presence"] == "made: edema"
    assert set(rows["target"]) == {"yes_no_abnormality"}


def test_a_general_finding_is_not_absent_when_a_special_form_is_there():
    for status in ("present", "uncertain"):
        rows = second(("nodule", status, 1), ("lung opacity", "absent", 1), ("mass", "absent", 1))
        told = {row["fact"]: row["answer"] for row in rows.filter(rank=PRESENCE).iter_rows(named=True)}
        assert told.get("lung opacity|presence") is None and told["mass|presence"] == "No."
        assert answers(rows, rank=RULED_OUT) == {"No mass."}
    # The other way round nothing is contradicted.
    rows = second(("nodule", "absent", 1), ("lung opacity", "present", 1)).filter(rank=PRESENCE)
    assert sorted(rows["answer"]) == ["No.", "Yes."]


def test_diagnoses_are_left_to_stage_7():
    assert second(*[(name, status, 1) for name, status in zip(
        sorted(DIAGNOSES), ["present", "absent"] * len(DIAGNOSES), strict=False)]).height == 0  # fmt: skip
    rows = stage_rows(2, *sample()[:3])
    named = rows["fact"].str.split("; ").explode().str.split("|").list.first()
    assert not DIAGNOSES & set(named)
    words = "|".join(rf"\b{re.escape(name)}\b" for name in DIAGNOSES)
    assert not pl.concat([rows["question"], rows["answer"]]).str.contains(words).any()


def test_yes_no_is_asked_of_the_balanced_answers():
    rows = [(f"made/{i}", "edema", "present" if i else "absent", 1) for i in range(200)]
    rows += [(f"made/{i}", "scoliosis", "present", 1) for i in range(200)]  # nobody says that there is none
    asked = stage_rows(
        2, studies(*({"sample_id": f"made/{i}"} for i in range(200))), findings(*rows), boxes(), ratio=20.0
    ).filter(rank=PRESENCE)
    counts = Counter(asked.select("fact", "answer").iter_rows())
    assert counts["edema|presence", "No."] == 1 and 8 < counts["edema|presence", "Yes."] < 34
    assert {fact for fact, _ in counts} == {"edema|presence"}


def test_normal_studies():
    core = [(name, "absent", 2) for name in CORE]
    rows = second(*core)
    assert answers(rows, rank=ANY) == {"No."} and answers(rows, rank=LIST) == {"No abnormal finding."}
    assert rows.filter(rank=PRESENCE).height == len(set(CORE) - DIAGNOSES)
    assert answers(rows, rank=DEVICE_LIST) == set()  # nobody speaks of devices
    # A device is no abnormality; something possible leaves a study undecided.
    wired = second(*core, ("pacemaker", "present", 1))
    assert answers(wired, rank=LIST) == {"No abnormal finding."}
    assert answers(wired, rank=DEVICE_LIST) == {"Pacemaker."}
    assert answers(second(*core, ("fracture", "uncertain", 1)), rank=LIST) == set()
    assert answers(second(*core, ("pneumonia", "uncertain", 1)), rank=LIST) == set()
    # A few explicit negatives are no normal study.
    assert answers(second(("edema", "absent", 1), ("mass", "absent", 1)), rank=LIST) == set()


def test_any_abnormality():
    rows = many(("edema", "present", 1), ("mass", "absent", 1), n=200).filter(rank=ANY)
    assert set(rows["answer"]) == {"Yes."} and set(rows["target"]) == {"yes_no_abnormality"}
    assert rows.height == pytest.approx(200 * identification.ABNORMAL_SHARE, abs=22)
    assert set(rows["evidence"]) == {"made: edema"}
    assert many(("edema", "uncertain", 1), ("mass", "absent", 2)).filter(rank=ANY).height == 0
    assert many(("pneumonia", "present", 1), ("mass", "absent", 2)).filter(rank=ANY).height == 0


def test_any_device_takes_the_place_of_a_single_device():
    for status, word in (("present", "Yes."), ("absent", "No.")):
        rows = many(("support devices", status, 1), n=60).filter(pl.col("rank") <= PRESENCE)
        assert rows.height == 60 and rows["sample_id"].is_unique().all()
        assert set(rows["answer"]) == {word} and set(rows["target"]) == {"yes_no_foreign_body"}
        assert 15 < rows.filter(rank=ANY).height < 45
    # With several devices both are different questions.
    rows = many(("pacemaker", "present", 1), ("chest tube", "present", 1), n=20)
    assert rows.filter(rank=ANY).height == 20 and rows.filter(rank=PRESENCE).height == 40
    # That there is no pacemaker says nothing about other devices, and a possible one leaves it open.
    assert many(("pacemaker", "absent", 1)).filter(rank=ANY).height == 0
    unsure = many(("support devices", "absent", 1), ("pacemaker", "uncertain", 1))
    assert unsure.filter(pl.col("rank").is_in([ANY, DEVICE_LIST])).height == 0
    assert answers(many(("support devices", "absent", 1)), rank=DEVICE_LIST) == {"No foreign body or device."}


def test_lists_are_in_the_order_of_the_vocabulary():
    names = ("sternal wires", "cardiomegaly", "pacemaker", "pneumonia", "pleural effusion")
    rows = second(*((name, "present", 1) for name in names))
    assert answers(rows, rank=LIST) == {"Pleural effusion, cardiomegaly."}
    assert answers(rows, rank=DEVICE_LIST) == {"Pacemaker, sternal wires."}
    assert set(rows.filter(rank=LIST)["evidence"]) == {"made: pleural effusion; made: cardiomegaly"}


def test_lists_by_region_where_findings_lie_in_several():
    names = ("pleural effusion", "edema", "nodule", "scoliosis", "pacemaker", "calcification", "pneumonia")
    rows = second(*((name, "present", 1) for name in names)).filter(rank=BY_REGION)
    told = {row["fact"]: (row["question"], row["answer"]) for row in rows.iter_rows(named=True)}
    words = {"the lungs": "Edema, nodule.", "the pleura": "Pleural effusion.",
             "the bones and the soft tissue": "Scoliosis."}  # fmt: skip
    assert {fact: answer for fact, (_, answer) in told.items()} == {
        f"composite|{region}": answer for region, answer in words.items()
    }
    assert all(fact.removeprefix("composite|") in question for fact, (question, _) in told.items())
    assert second(("edema", "present", 1), ("nodule", "present", 1)).filter(rank=BY_REGION).height == 0


def test_possible_and_denied_findings():
    rows = second(("edema", "uncertain", 1), ("mass", "uncertain", 1), ("fracture", "absent", 1),
                  ("scoliosis", "absent", 2))  # fmt: skip
    assert answers(rows, rank=UNCERTAIN) == {"Possible edema, mass."}
    assert answers(rows, rank=RULED_OUT) == {"No fracture."}  # what "normal" implies is not said
    hidden = findings(("made/a", "mass", "uncertain", 1)).with_columns(source_column=pl.lit("simulated"))
    assert stage_rows(2, studies(ONE), hidden, boxes()).height == 0  # nobody can see what a film hides
    names = [name for name in FINDINGS if name not in DIAGNOSES and not ancestors(name)][:9]
    rows = second(*[(name, "absent", 1) for name in names]).filter(rank=RULED_OUT)
    assert answers(rows) == {f"No {', '.join(names[: identification.MOST_RULED_OUT])}."}
    assert str(identification.MOST_RULED_OUT) in rows["question"][0]


def test_the_status_of_possible_findings_and_of_twice_as_many_others():
    words = {"present": "present", "absent": "absent", "uncertain": "possible"}
    facts = [("edema", "uncertain"), ("mass", "uncertain"), ("fracture", "present"), ("scoliosis", "absent"),
             ("pneumothorax", "absent"), ("kyphosis", "absent"), ("goiter", "absent"),
             ("hernia", "absent"), ("pneumonia", "uncertain")]  # fmt: skip
    rows = many(*[(*fact, 1) for fact in facts]).filter(rank=STATUS)
    asked = Counter()
    for row in rows.iter_rows(named=True):
        name = row["fact"].removesuffix("|presence")
        assert name in row["question"] and row["target"] == f"abnormality_[{name}]"
        assert bare(row["answer"]) == words[dict(facts)[name]]
        assert sorted(map(bare, row["option_list"])) == ["absent", "possible", "present"]
        asked[row["sample_id"], bare(row["answer"])] += 1
    assert len(asked) == 3 * 40
    assert all(n == {"possible": 2, "present": 1, "absent": 4}[word] for (_, word), n in asked.items())
    assert set(rows["fact"]) == {f"{name}|presence" for name, _ in facts if name not in DIAGNOSES}
    assert many(("mass", "present", 1), ("fracture", "absent", 1)).filter(rank=STATUS).height == 0


def test_yes_no_stands_first_and_lists_last():
    rows = second(("edema", "present", 1), ("pneumothorax", "absent", 1), ("pacemaker", "present", 1),
                  ("fracture", "absent", 1), ("mass", "uncertain", 1))  # fmt: skip
    order = {"yes_no": 0, "single-choice": 1, "captioning": 2}
    places = [order.get(qtype, 1) for qtype in rows["qtype"]]
    assert places == sorted(places) and set(places) == {0, 1, 2}


# Free zones of simulated films

GRID = {
    f"{side} {zone} lung zone": (x, y, x + 20, y + 20)
    for side, x in (("right", 20), ("left", 60))
    for zone, y in (("upper", 10), ("mid", 30), ("lower", 50))
}


def zones(facts, marks, reader="simulated"):
    """Rows of the zone question of a film with GRID and boxes (finding, x1, y1, x2, y2)."""
    rows = [("made/a", 1, name, *box) for name, box in GRID.items()]
    rows += [("made/a", 1, *mark) for mark in marks]
    table = boxes(*rows).with_columns(reader=pl.lit(reader))
    facts = findings(*[("made/a", *fact) for fact in facts]).with_columns(source_column=pl.lit(reader))
    return stage_rows(2, studies(ONE), facts, table).filter(rank=ZONES)


corner = st.integers(0, 9).map(lambda n: 10 * n)
mark = st.tuples(corner, corner, st.sampled_from([5, 10, 30]), st.sampled_from([5, 10, 30]))


@settings(max_examples=40)
@given(st.lists(mark, max_size=3))
def test_free_zones_overlap_no_box(marks):
    marks = [("consolidation", x, y, min(x + w, 100), min(y + h, 100)) for x, y, w, h in marks]
    rows = zones([("consolidation", "present", 1)] if marks else [("mass", "absent", 1)], marks)
    free = []
    for name, (x1, y1, x2, y2) in GRID.items():
        inside = [(x, y) for x in range(x1, x2) for y in range(y1, y2)]  # unit cells of the zone
        if not any(a <= x < c and b <= y < d for x, y in inside for _, a, b, c, d in marks):
            free.append(name)
    assert rows.height == 1 and rows["target"][0] == "other_abnormalities"
    assert sorted(rows["answer"][0].rstrip(".").split(", ")) == (sorted(free) or ["None of them"])


def test_zones_are_only_asked_where_everything_has_its_place():
    box = ("consolidation", 20, 10, 30, 20)
    there = ("consolidation", "present", 1)
    assert zones([there], [box]).height == 1
    assert zones([there, ("lung opacity", "present", 1)], [box]).height == 1  # it is that consolidation
    assert zones([there, ("pneumonia", "present", 1)], [box]).height == 1  # a diagnosis has no box
    assert zones([there, ("pneumothorax", "present", 1)], [box]).height == 0
    assert zones([there, ("pneumothorax", "uncertain", 1)], [box]).height == 0  # the scene hides one
    assert zones([there], [box], reader="R1").height == 0


# Real studies


def test_real_rows_follow_from_the_tables():
    """Yes/no and lists against the findings of 1,500 patients, read row by row."""
    studies_, findings_, boxes_ = sample()[:3]
    rows = stage_rows(2, studies_, findings_, boxes_)
    said = {}
    for row in findings_.iter_rows(named=True):
        if row["status"] != "absent" or row["evidence_tier"] <= 2:
            said.setdefault(row["sample_id"], {}).setdefault(row["finding"], set()).add(row["status"])

    def having(sample_id, status):
        order = ("present", "uncertain", "absent")
        facts = said[sample_id].items()
        return {name for name, found in facts if next(s for s in order if s in found) == status}

    checked = Counter()
    for row in rows.iter_rows(named=True):
        sample_id, rank, answer = row["sample_id"], row["rank"], row["answer"]
        present = having(sample_id, "present") - DIAGNOSES
        if rank == PRESENCE:
            name = row["fact"].removesuffix("|presence")
            assert name in having(sample_id, {"Yes.": "present", "No.": "absent"}[answer])
            assert name in row["question"]
        elif rank == ANY:
            mine = present & DEVICES if row["target"] == "yes_no_foreign_body" else present - DEVICES
            assert (answer == "Yes.") == bool(mine)
        elif rank in (LIST, DEVICE_LIST):
            mine = present - DEVICES if rank == LIST else present & DEVICES
            assert set(answer.lower().rstrip(".").split(", ")) == (mine or {
                LIST: {"no abnormal finding"}, DEVICE_LIST: {"no foreign body or device"}}[rank])  # fmt: skip
        elif rank == UNCERTAIN:
            listed = answer.removeprefix("Possible ").rstrip(".").split(", ")
            assert set(listed) == having(sample_id, "uncertain") - DIAGNOSES
        elif rank == RULED_OUT:
            listed = answer.removeprefix("No ").rstrip(".").split(", ")
            assert set(listed) <= having(sample_id, "absent")
        elif rank == STATUS:
            status = {"possible": "uncertain"}.get(bare(answer), bare(answer))
            assert row["fact"].removesuffix("|presence") in having(sample_id, status)
        else:
            continue
        checked[rank] += 1
    assert set(checked) == {ANY, PRESENCE, STATUS, LIST, DEVICE_LIST, UNCERTAIN, RULED_OUT}
