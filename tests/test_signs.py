"""signs.py: what a film shows for what an annotation says in other words."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_by_hand import findings as findings_of
from tables_by_hand import studies as studies_of

from cxrtrek_lib import signs
from cxrtrek_lib.findings import DIAGNOSES, FINDINGS, ancestors
from cxrtrek_lib.simulate.catalogue import IMPLIES, NOT_SHOWN, RENDERABLE


def shown_in(n: int, *facts: tuple[str, str]) -> list[set[tuple[str, str | None, str]]]:
    """(finding, shown, its status) of studies of n patients that all state (finding, status)."""
    rows = findings_of(*((f"t/p{i}/1", *fact, 1) for i in range(n) for fact in facts))
    studies = studies_of(*({"sample_id": f"t/p{i}/1", "patient_id": f"t/p{i}"} for i in range(n)))
    told: list[set] = [set() for _ in range(n)]
    columns = ("sample_id", "finding", "shown", "as_status")
    for sample_id, *row in signs.shown_as(rows, studies, 0).select(columns).iter_rows():
        told[int(sample_id[3:-2])].add(tuple(row))
    return told


def shown(*facts: tuple[str, str]) -> set[tuple[str, str | None, str]]:
    return shown_in(1, *facts)[0]


def test_the_tables_name_what_films_show():
    for forms in signs.REALISED_AS.values():
        assert set(forms) <= set(RENDERABLE) and sum(forms.values()) == pytest.approx(1)
    assert set(signs.SEEN_AS) <= DIAGNOSES and set(signs.SIGNS_STATED) <= set(signs.SEEN_AS)
    assert {sign for each in signs.SEEN_AS.values() for sign in each} <= set(RENDERABLE)
    # What signs.py words otherwise is what films cannot show under its own name.
    assert {*signs.REALISED_AS, *signs.SEEN_AS} <= set(NOT_SHOWN)
    general = {parent for name in RENDERABLE for parent in ancestors(name)} - set(RENDERABLE)
    assert general <= set(signs.REALISED_AS)


def test_a_special_finding_of_the_study_is_the_general_one():
    """No second lesion: present before possible, and none is drawn."""
    assert shown(("support devices", "present"), ("sternal wires", "present")) == {
        ("support devices", "sternal wires", "present"), ("sternal wires", "sternal wires", "present"),
    }  # fmt: skip
    assert ("nodule or mass", "mass", "present") in shown(("nodule or mass", "present"), ("mass", "present"))
    told = shown(("lung lesion", "present"), ("nodule", "uncertain"), ("mass", "present"))
    assert ("lung lesion", "mass", "present") in told
    # A possible special one is what the certain general one is about.
    told = shown(("airspace opacity", "present"), ("consolidation", "uncertain"))
    assert ("airspace opacity", "consolidation", "present") in told


def test_two_general_names_are_one_lesion():
    for told in shown_in(20, ("lung lesion", "present"), ("nodule or mass", "present")):
        assert len({special for _, special, _ in told}) == 1
    for other in ("airspace opacity", "pneumonia"):
        for told in shown_in(20, ("infiltrate", "present"), (other, "present")):
            assert {special for _, special, _ in told} == {"consolidation"}


def test_a_hazy_opacity_is_not_lost_beside_a_special_one():
    """Beside a nodule, the simulator would take a lung opacity for that nodule (catalogue.IMPLIES)."""
    assert "lung opacity" in IMPLIES["nodule"]
    alone = Counter(special for told in shown_in(60, ("infiltrate", "present")) for _, special, _ in told)
    assert set(alone) == {"lung opacity", "consolidation"} and min(alone.values()) > 18
    for told in shown_in(20, ("infiltrate", "present"), ("nodule", "present")):
        assert ("infiltrate", "consolidation", "present") in told


def test_what_the_study_denies_is_not_drawn():
    for told in shown_in(20, ("lung lesion", "present"), ("nodule", "absent")):
        assert told == {("lung lesion", "mass", "present")}
    told = shown(("airspace opacity", "present"), ("consolidation", "absent"))
    assert told == {("airspace opacity", None, "present")}


def test_a_diagnosis_shows_its_signs_and_none_when_it_is_only_possible():
    assert shown(("heart failure", "present")) == {
        ("heart failure", "cardiomegaly", "present"), ("heart failure", "edema", "present"),
    }  # fmt: skip
    assert shown(("heart failure", "present"), ("edema", "absent")) == {
        ("heart failure", "cardiomegaly", "present")
    }
    assert shown(("pneumonia", "present"), ("consolidation", "absent")) == {("pneumonia", None, "present")}
    assert shown(("pneumonia", "uncertain")) == {("pneumonia", None, "uncertain")}
    # "COPD signs": the signs are there, the diagnosis is possible.
    assert shown(("copd", "uncertain")) == {("copd", "hyperinflation", "present")}


def test_what_no_film_shows_and_what_is_absent_have_no_row():
    assert shown(("fracture", "present"), ("tuberculosis", "present"), ("support devices", "absent")) == set()
    assert "fracture" not in signs.NAMED and set(signs.NAMED) <= set(FINDINGS)


def test_shares_are_those_of_the_table_and_one_patient_keeps_its_device():
    n = 2000
    studies = studies_of(*(
        {"sample_id": f"t/{i}/{k}", "patient_id": f"t/{i}"} for i in range(n) for k in (1, 2)
    ))  # fmt: skip
    rows = findings_of(*((name, "support devices", "present", 1) for name in studies["sample_id"]))
    told = signs.shown_as(rows, studies, 0).join(studies.select("sample_id", "patient_id"), on="sample_id")
    assert told.group_by("patient_id").agg(pl.col("shown").n_unique())["shown"].to_list() == [1] * n
    counts = Counter(told["shown"])
    for name, share in signs.REALISED_AS["support devices"].items():
        # Four standard deviations of a share among n patients.
        assert abs(counts[name] / (2 * n) - share) < 4 * (share * (1 - share) / n) ** 0.5, name


STATED = st.dictionaries(
    st.sampled_from([*signs.REALISED_AS, *signs.SEEN_AS, "consolidation", "nodule", "pacemaker", "edema"]),
    st.sampled_from(["present", "absent", "uncertain"]),
    min_size=1, max_size=6,
)  # fmt: skip


@given(st.lists(STATED, min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=12)
def test_a_study_depends_on_nothing_but_itself(studies, random):
    """Row order and other studies change nothing; every claim is shown as something that nobody denies."""
    frame = studies_of(*({"sample_id": f"t/{i}/1", "patient_id": f"t/{i}"} for i in range(len(studies))))
    facts = [(f"t/{i}/1", name, s, 1) for i, each in enumerate(studies) for name, s in each.items()]
    columns = ["sample_id", "finding", "shown", "as_status"]
    whole = signs.shown_as(findings_of(*facts), frame, 0).select(columns).sort(columns)
    random.shuffle(facts)
    assert signs.shown_as(findings_of(*facts), frame, 0).select(columns).sort(columns).equals(whole)
    first = findings_of(*(fact for fact in facts if fact[0] == "t/0/1"))
    assert (
        signs.shown_as(first, frame[:1], 0).select(columns).sort(columns)
        .equals(whole.filter(pl.col("sample_id") == "t/0/1"))
    )  # fmt: skip
    for sample_id, name, special, _ in whole.iter_rows():
        stated = studies[int(sample_id.split("/")[1])]
        assert stated[name] != "absent"
        assert special is None or special in RENDERABLE and stated.get(special) != "absent"
