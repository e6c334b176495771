"""simulate/plan.py and catalogue.py: what a study asks of a film, completed by hash or refused."""

import pytest
from films_by_hand import present, study
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib import findings
from cxrtrek_lib.simulate import catalogue, plan
from cxrtrek_lib.simulate.catalogue import NOT_SHOWN, SHOWN


def absent(finding: str) -> dict:
    return {"finding": finding, "status": "absent"}


def planned(*rows: dict, **more) -> dict[str, plan.Planned]:
    return {each.finding: each for each in plan.resolve(study(*rows, **more), 0)}


def test_every_finding_is_shown_or_listed_with_a_reason():
    assert set(SHOWN) | set(NOT_SHOWN) == set(findings.FINDINGS)
    assert not set(SHOWN) & set(NOT_SHOWN)
    assert sum(map(len, catalogue._REASONS.values())) == len(NOT_SHOWN)  # no finding has two reasons
    assert findings.DIAGNOSES <= set(NOT_SHOWN)  # a diagnosis is concluded, not seen
    assert "rib fracture" in NOT_SHOWN and "pneumothorax" in SHOWN


@pytest.mark.parametrize("name", SHOWN)
def test_sides_and_grades_are_the_vocabularys(name):
    shown = SHOWN[name]
    assert bool(shown.sides) == (name in findings.SIDED)
    assert shown.graded == (name in findings.GRADED)
    if shown.sides:
        assert set(shown.sides) <= {"left", "right", "bilateral"}
        assert sum(shown.sides.values()) == pytest.approx(1)


def test_the_tables_name_findings_that_are_shown_and_places_have_one_side():
    named = {name for cause, _, names in catalogue.CANNOT_DENY for name in (cause, *names)}
    named |= {name for child, parents in catalogue.IMPLIES.items() for name in (child, *parents)}
    named |= {name for names in catalogue.AT_AN_END.values() for name in names}
    assert named | {*catalogue.FOCAL, *catalogue.ORGANS, *catalogue.NOT_IN_LATERAL} <= set(SHOWN)
    for cause, least, _ in catalogue.CANNOT_DENY:
        assert least is None or SHOWN[cause].graded
    # `truth.told` follows implications one step: what is implied may imply nothing more.
    assert not any(catalogue.IMPLIES[parent] for parents in catalogue.IMPLIES.values() for parent in parents)
    assert catalogue.IMPLIES["nodule"] == ("lung opacity",) and not catalogue.IMPLIES["granuloma"]
    assert set(catalogue.FOCAL) <= findings.SIDED


def test_what_is_left_open_is_drawn_and_said_to_be():
    one = planned(present("pneumothorax"))["pneumothorax"]
    assert one.laterality in ("left", "right") and one.severity in ("mild", "moderate", "severe")
    assert one.drawn == ("laterality", "severity")
    known = planned(present("pneumothorax", laterality="left", severity="mild", location="lung apex"))
    assert known["pneumothorax"] == plan.Planned("pneumothorax", "left", "mild", "lung apex", ())


def test_side_and_place_are_the_patients_and_the_grade_is_the_studys():
    studies = [planned(present("edema"), present("nodule"), sample_id=f"t/p/{i}") for i in range(30)]
    assert len({each["nodule"].laterality for each in studies}) == 1
    assert {each["edema"].severity for each in studies} == {"mild", "moderate", "severe"}
    sides = [
        planned(present("nodule"), patient_id=f"t/{i}", sample_id=f"t/{i}/1")["nodule"].laterality
        for i in range(60)
    ]
    assert 15 < sides.count("left") < 45


@given(st.integers(0, 10**6), st.sampled_from(sorted(SHOWN)))
@settings(max_examples=30)
def test_a_lesions_draws_do_not_depend_on_the_study_or_on_other_findings(patient, name):
    who = {"patient_id": f"t/{patient}"}
    alone = planned(present(name), sample_id="t/a/1", **who)[name]
    other = planned(present(name), present("pacemaker"), present("scoliosis"), sample_id="t/a/2", **who)[name]
    before, after = (plan.lesions(each, who["patient_id"], 0) for each in (alone, other))
    assert [each.side for each in before] == [each.side for each in after]
    for one, again in zip(before, after, strict=True):
        assert one.draw("size") == again.draw("size") and 0 <= one.draw("size") < 1
    grown = [one._replace(severity=grade) for one in before for grade in ("mild", "severe")]
    limits = {"mild": (1.0, 2.0), "severe": (5.0, 6.0)}
    assert all(each.within(limits) % 1 == pytest.approx(each.draw("size"), abs=1e-9) for each in grown)


def test_uncertain_findings_are_drawn_half_of_the_time():
    row = {"finding": "pneumothorax", "status": "uncertain"}
    plans = [plan.resolve(study(row, sample_id=f"t/{i}/1"), 0) for i in range(400)]
    there = [one for each in plans for one in each]
    assert 150 < len(there) < 250 and {one.severity for one in there} == {"mild"}


def test_an_opacity_that_has_a_name_is_one_shadow():
    rows = [present("lung opacity"), present("consolidation", laterality="right")]
    assert set(planned(*rows)) == {"consolidation"}
    rows[0] = present("lung opacity", laterality="bilateral")
    assert planned(*rows)["lung opacity"].laterality == "left"
    rows[0] = present("lung opacity", laterality="right")
    assert "lung opacity" not in planned(*rows)
    assert set(planned(rows[0], present("edema"))) == {"edema"}  # edema is in both lungs
    assert set(planned(rows[0], present("granuloma"))) == {"lung opacity", "granuloma"}
    assert set(planned(present("hyperinflation"), present("emphysema"))) == {"emphysema"}


def test_an_uncertain_child_of_a_denied_parent_is_never_there():
    rows = [absent("lung opacity"), {"finding": "consolidation", "status": "uncertain"}]
    assert not any(planned(*rows, sample_id=f"t/{i}/1") for i in range(20))


@pytest.mark.parametrize(
    ("location", "side"),
    [
        ("left lower lobe", "left"),
        ("right lung base", "right"),
        ("middle lobe", "right"),
        ("lingula", "left"),
    ],
)
def test_a_place_with_a_side_gives_the_side(location, side):
    one = planned(present("consolidation", location=location))["consolidation"]
    assert one.laterality == side and "laterality" not in one.drawn
    assert one.location in SHOWN["consolidation"].places


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([present("flying carpet")], "unknown finding 'flying carpet'"),
        ([present("rib fracture")], "rib fracture cannot be rendered"),
        ([{"finding": "edema", "status": "maybe"}], "edema is 'maybe'"),
        ([present("pneumothorax"), absent("pneumothorax")], "present and absent"),
        ([present("nodule", laterality="left"), present("nodule", laterality="right")], "stated twice"),
        ([present("consolidation"), absent("lung opacity")], "lung opacity absent"),
        ([absent("costophrenic angle blunting"), present("pleural effusion")], "blunting absent"),
        ([present("pacemaker", laterality="bilateral")], "cannot be 'bilateral'; allowed: left, right"),
        ([present("cardiomegaly", laterality="left")], "no side"),
        ([present("consolidation", severity="huge")], "'huge'; allowed: mild"),
        ([present("nodule", severity="mild")], "no severity"),
        ([present("consolidation", location="left lower lobe", laterality="right")], "which is left"),
        ([present("consolidation", location="lingula", laterality="bilateral")], "which is left"),
        ([present("consolidation", location="left middle lobe")], "'left middle lobe'; allowed"),
        ([present("nodule", location="stomach")], "nodule cannot be in the 'stomach'"),
        ([present("nodule", location="lung bsae")], "lung bsae"),
        ([present("edema", location="left lung base")], "without a side"),
        ([present("sternal wires", location="mediastinum")], "no place"),
    ],
)
def test_what_no_film_can_show_is_one_line(rows, words):
    with pytest.raises(ValueError) as caught:
        plan.resolve(study(*rows, sample_id="t/bad/1"), 0)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("t/bad/1: ")


def test_absent_findings_ask_for_nothing():
    rows = [absent(name) for name in findings.FINDINGS]
    assert plan.resolve(study(*rows), 0) == []
    assert plan.resolve(study(absent("nodule"), absent("nodule")), 0) == []  # the same row twice is no matter
