"""Stage 4: what occurs together, on which side and how high, stated only as far as it is known."""

import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build
from cxrtrek_lib.findings import DIAGNOSES, FINDINGS, ancestors, related
from cxrtrek_lib.stages import wording
from cxrtrek_lib.stages.relations import PAIRS_ASKED, relations

TEMPLATES = wording.load()[4]
NAMES = [f"made/{n}" for n in range(40)]
E, C, N, P = "pleural effusion", "consolidation", "nodule", "pneumothorax"


def ask(facts, marks=(), samples=("made/a",), **study):
    """The stage-4 rows of studies that all have the same facts and boxes (tuples without sample_id)."""
    rows = findings(*((sample, *fact) for sample in samples for fact in facts))
    drawn = boxes(*((sample, *mark) for sample in samples for mark in marks))
    described = ({"sample_id": sample, "patient_id": sample, **study} for sample in samples)
    return pl.concat(relations(build.gather(studies(*described), rows, drawn, 0), TEMPLATES))


def present(*names):
    return [(name, "present", 1) for name in names]


def absent(*names):
    return [(name, "absent", 1) for name in names]


def bare(option):
    return re.sub(r"^(?:[A-J]\.|\d+\.|\d+\)\.) ", "", option)


def named(question):
    """The findings that a question names, longest names first, in the order of the question."""
    found = {}
    for name in sorted(FINDINGS, key=len, reverse=True):
        if (place := question.find(name)) >= 0:
            found[place] = name
            question = question.replace(name, "#" * len(name))
    return [found[place] for place in sorted(found)]


def test_what_else_is_present_is_asked_of_one_finding():
    told = {E: "Consolidation, pacemaker.", C: "Pleural effusion, pacemaker.",
            "pacemaker": "Pleural effusion, consolidation."}  # fmt: skip
    # A diagnosis is not seen, an uncertain one not known, a general form is no other finding.
    facts = [*present(E, C, "pacemaker", "pneumonia"), ("edema", "uncertain", 1), ("mass", "absent", 1)]
    qa = ask(facts, samples=NAMES).filter(qtype="captioning")
    assert qa.height == len(NAMES)
    assert {(named(q)[0], a) for q, a in qa.select("question", "answer").iter_rows()} == set(told.items())
    assert set(qa["target"]) == {f"abnormality_[{E}]", f"abnormality_[{C}]", "foreign_body_[pacemaker]"}
    assert set(qa["evidence"]) == {"; ".join(f"made: {name}" for name in order) for order in (
        (E, C, "pacemaker"), (C, E, "pacemaker"), ("pacemaker", E, C))}  # fmt: skip
    assert not ask(present(E)).height and not ask(present(C, "lung opacity")).height
    assert not ask(present("pneumonia", E)).height
    qa = ask(present(C, "lung opacity", E), samples=NAMES).filter(qtype="captioning")
    assert set(qa["answer"]) == {"Pleural effusion.", "Lung opacity, consolidation."}


def test_no_answer_speaks_of_a_cause():
    for template in TEMPLATES.values():
        for text in (*template.ask, *template.answers.values()):
            assert not re.search(r"\b(cause|due|because|lead|result|explain|secondary|associated)", text), (
                text
            )


def test_yes_and_no_are_even_and_true():
    there, not_there = (E, C, "pacemaker"), ("edema", "fracture", "cardiomegaly")
    qa = ask([*present(*there), *absent(*not_there)], samples=NAMES).filter(qtype="yes_no")
    assert qa.height == 2 * PAIRS_ASKED * len(NAMES)
    first = set()
    for question, answer in qa.select("question", "answer").iter_rows():
        a, b = named(question)
        assert answer == ("Yes." if {a, b} <= set(there) else "No.")
        assert len({a, b} & set(there)) == (2 if answer == "Yes." else 1)
        first.add((a in there, answer))
    assert first == {(True, "Yes."), (True, "No."), (False, "No.")}  # the absent one is not always second
    counts = qa.group_by("i").agg((pl.col("answer") == "Yes.").sum().alias("yes"))
    assert counts["yes"].to_list() == [PAIRS_ASKED] * len(NAMES)
    # Without one of the two answers the other one would be known beforehand.
    assert not ask(present(*there)).filter(qtype="yes_no").height
    assert not ask([*present(E), *absent("edema", "fracture")]).filter(qtype="yes_no").height
    both = ask([*present(*there), *absent("edema")]).filter(qtype="yes_no")["answer"].to_list()
    assert sorted(both) == ["No."] * PAIRS_ASKED + ["Yes."] * PAIRS_ASKED


def test_a_contradiction_is_no_evidence_of_absence():
    facts = [*present(N, E), *absent("lung lesion")]  # a nodule is a lung lesion
    assert not ask(facts).filter(qtype="yes_no").height
    facts = [*present("lung opacity", E), *absent(N)]  # another opacity than a nodule
    for question, answer in (
        ask(facts, samples=NAMES).filter(qtype="yes_no").select("question", "answer").iter_rows()
    ):
        assert set(named(question)) == ({"lung opacity", E} if answer == "Yes." else {N, E})


def test_targets_of_pairs_tell_devices_from_abnormalities():
    facts = [*present("pacemaker", "sternal wires"), *absent("chest tube")]
    assert set(ask(facts).filter(qtype="yes_no")["target"]) == {"yes_no_foreign_body"}
    facts = [*present("pacemaker", E), *absent("edema")]
    assert set(ask(facts).filter(qtype="yes_no")["target"]) == {"yes_no_abnormality"}


@pytest.mark.parametrize(
    ("side", "other", "told"),
    [
        ("left", "left", "on the same side"),
        ("right", "left", "on opposite sides"),
        ("bilateral", "left", "only one of them bilateral"),
        ("bilateral", "bilateral", "both bilateral"),
        ("left", None, None),
    ],
)
def test_sides_of_two_findings(side, other, told):
    qa = ask([(E, "present", 1, side), (C, "present", 1, other)]).filter(qtype="single-choice")
    assert [[bare(answer) for answer in answers] for answers in qa["answer_list"]] == (
        [[told]] if told else []
    )
    if told:
        assert set(named(qa["question"][0])) == {E, C} and len(set(qa["option_list"][0])) == 4
        assert qa["evidence"][0] == f"made: {E}; made: {C}"


@pytest.mark.parametrize(
    ("marks", "told"),
    [
        ([(1, C, 10, 10, 30, 30), (1, E, 10, 40, 40, 90)], C),
        ([(1, E, 10, 10, 30, 30), (1, C, 50, 15, 80, 35)], E),  # both edges 5 percent higher
        ([(1, E, 10, 10, 30, 30), (1, C, 50, 14.9, 80, 35)], None),
        ([(1, E, 10, 10, 30, 90), (1, C, 50, 40, 80, 60)], None),  # one lies beside a part of the other
        # Of two boxes, only the lower one of C lies lower.
        ([(1, E, 10, 40, 30, 50), (1, C, 50, 60, 80, 80), (1, C, 5, 5, 9, 9)], None),
        ([(1, E, 10, 40, 30, 50), (2, C, 50, 60, 80, 80)], None),  # not on one image
        ([(1, N, 10, 10, 30, 30), (1, E, 10, 40, 40, 90)], None),  # not present
    ],
)
def test_the_higher_one(marks, told):
    qa = ask(present(E, C), marks, samples=NAMES, views=["PA", "LATERAL"]).filter(qtype="single-choice")
    assert {bare(answer) for (answer,) in qa["answer_list"]} == ({told} if told else set())
    assert qa.height == (len(NAMES) if told else 0)
    for row in qa.iter_rows(named=True):
        assert sorted(map(bare, row["option_list"])) == sorted([E, C])
        assert sorted(named(row["question"].partition(" Options")[0])) == sorted([E, C])
        assert "image 1" in row["question"] and row["evidence"] == "made"


STATES = st.dictionaries(
    st.sampled_from([E, C, N, P, "lung opacity", "lung lesion", "pneumonia", "pacemaker", "support devices"]),
    st.tuples(
        st.sampled_from(["present", "absent", "uncertain"]), st.sampled_from([None, "left", "bilateral"])
    ),
    max_size=8,
)


@given(STATES, st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_every_answer_follows_from_the_facts(states, random):
    facts = [(name, status, 1, side) for name, (status, side) in states.items()]
    there = {name for name, (status, _) in states.items() if status == "present"} - DIAGNOSES
    gone = {name for name, (status, _) in states.items() if status == "absent"}
    qa = ask(facts, samples=("made/a", "made/b"))
    for row in qa.iter_rows(named=True):
        names = named(row["question"].partition(" Options")[0])
        assert not set(names) & DIAGNOSES and set(names) <= set(states)
        if row["qtype"] == "captioning":
            assert set(named(row["answer"].lower())) == there - related(names)
        else:
            a, b = names
            assert b not in related([a])
        if row["qtype"] == "yes_no":
            assert (row["answer"] == "Yes.") == ({a, b} <= there)
            absentee = {a, b} - there
            assert absentee <= gone and not any(absentee & set(ancestors(name)) for name in there)
        if row["qtype"] == "single-choice":
            sides = [states[name][1] for name in names]
            bilateral = sides.count("bilateral")
            told = ("on the same side", "only one of them bilateral", "both bilateral")[bilateral]
            assert [bare(answer) for answer in row["answer_list"]] == [told] and {a, b} <= there
    yes = qa.filter(qtype="yes_no")["answer"].to_list()
    assert yes.count("Yes.") == yes.count("No.")
    random.shuffle(facts)
    again = ask(facts, samples=("made/b", "made/a", "made/c")).filter(pl.col("i") < 2)
    assert again.sort("i", "rank", "bits").equals(qa.sort("i", "rank", "bits"))
