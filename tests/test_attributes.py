"""Stage 3, attributes: each is asked once, told rightly, and only where it is known."""

import re
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build
from cxrtrek_lib.findings import DIAGNOSES, GRADED
from cxrtrek_lib.sources import openi_vocabulary, padchest_vocabulary
from cxrtrek_lib.stages import places, wording
from cxrtrek_lib.stages.attributes import SEVERAL, attributes
from cxrtrek_lib.text_findings import findings_in

TEMPLATES = wording.load()
NAMES = [f"made/{n}" for n in range(40)]


def ask(*facts, samples=("made/a",), seed=0):
    """The stage-3 rows of studies that all have the same facts (tuples as in findings, without sample_id)."""
    rows = [(sample, *fact) for sample in samples for fact in facts]
    frames = studies(*({"sample_id": sample} for sample in samples)), findings(*rows), boxes()
    evidence = build.gather(*frames, seed)
    rows = pl.concat(attributes(evidence, TEMPLATES[3]))
    return rows.join(evidence.studies.select("i", "sample_id"), on="i")


def bare(options):
    """Options without their labels, sorted."""
    return sorted(re.sub(r"^(?:[A-J]\.|\d+\.|\d+\)\.) ", "", option) for option in options)


def test_each_attribute_is_asked_once_openly_or_with_options():
    fact = ("pleural effusion", "present", 1, "right", "moderate", "lung base")
    qa = ask(fact, samples=NAMES)
    single = qa.filter(pl.col("fact") != "composite|description")
    assert Counter(single["fact"]) == dict.fromkeys(
        ("pleural effusion|side", "pleural effusion|severity", "pleural effusion|place"), len(NAMES)
    )
    assert not single.select("i", "fact").is_duplicated().any()
    said = {
        "pleural effusion|side": ("On the right.", ["bilateral", "left", "right"], "right"),
        "pleural effusion|severity": ("Moderate.", ["mild", "moderate", "severe"], "moderate"),
        "pleural effusion|place": (
            "At the lung base.", ["lung apex", "lung base", "perihilar region"], "lung base",
        ),
    }  # fmt: skip
    for fact, (openly, options, right) in said.items():
        rows = single.filter(fact=fact)
        assert set(rows["qtype"]) == {"captioning", "single-choice"}
        assert set(rows.filter(qtype="captioning")["answer"]) == {openly}
        for row in rows.filter(qtype="single-choice").iter_rows(named=True):
            assert bare(row["option_list"]) == options and bare(row["answer_list"]) == [right]
    assert set(single["target"]) == {"location_[pleural effusion]", "severity_[pleural effusion]"}
    assert set(single["evidence"]) == {"made: pleural effusion"}
    described = qa.filter(fact="composite|description")
    assert described["answer"].to_list() == ["Moderate pleural effusion at the right lung base."] * len(NAMES)


@pytest.mark.parametrize(
    ("name", "side", "severity", "place", "told"),
    [
        ("pleural effusion", "right", "moderate", None, "Moderate right pleural effusion."),
        ("consolidation", "left", None, "lower lobe", "Consolidation in the left lower lobe."),
        ("nodule", "bilateral", None, "upper lobe", "Bilateral nodules in the upper lobes."),
        ("atelectasis", "bilateral", "mild", "lung base", "Mild bilateral atelectasis at the lung bases."),
        ("emphysema", None, "severe", "upper lobe", "Severe emphysema in the upper lobe."),
        ("scarring", "left", None, "lingula", "Scarring in the lingula."),
        ("pneumothorax", "left", "mild", "upper lobe", "Mild left pneumothorax."),  # in no lobe
        ("mass", "right", None, "retrocardiac region", "Right mass in the retrocardiac region."),
        ("chest tube", "bilateral", None, "lung base", "Bilateral chest tubes at the lung bases."),
        ("central venous catheter", "right", None, "superior vena cava",
         "Right-sided central venous catheter in the superior vena cava."),
        ("stent", None, "severe", "coronary arteries", None),  # no grade; its place is asked
    ],
)  # fmt: skip
def test_the_description_puts_together_what_is_known(name, side, severity, place, told):
    qa = ask((name, "present", 1, side, severity, place))
    described = qa.filter(fact="composite|description")["answer"].to_list()
    assert described == ([told] if told else [])


@pytest.mark.parametrize(
    ("fact", "told"),
    [
        (("pacemaker", "present", 1, "left"), "Left-sided pacemaker."),
        (("cardiomegaly", "present", 1, None, "severe"), "Severe cardiomegaly."),
        # There is no left middle lobe: the place is not believed.
        (("consolidation", "present", 1, "left", None, "middle lobe"), "Left consolidation."),
    ],
)
def test_one_known_attribute_is_not_asked_openly_twice(fact, told):
    qa = ask(fact, samples=NAMES)
    for _, rows in qa.group_by("i"):
        openly = rows.filter(qtype="captioning")
        assert openly.height == 1
        if openly["fact"][0] == "composite|description":
            assert openly["answer"][0] == told and rows.height == 2
        else:
            assert rows.height == 1
    assert 8 < qa.filter(fact="composite|description").height < 32


def test_certainty_where_the_source_tells_it():
    qa = ask(
        ("edema", "present", 1, None, None, None, "definite"),
        ("fracture", "uncertain", 1, None, None, None, "possible"),
        ("cardiomegaly", "present", 1),
        ("nodule", "uncertain", 1),
        ("pneumothorax", "absent", 1),
        ("pneumonia", "uncertain", 1, None, None, None, "possible"),
    )
    assert set(qa["fact"]) == {"edema|certainty", "fracture|certainty"}
    said = {row["fact"]: row for row in qa.iter_rows(named=True)}
    assert {bare(row["option_list"])[0] for row in said.values()} == {"definite"}
    assert bare(said["edema|certainty"]["answer_list"]) == ["definite"]
    assert bare(said["fracture|certainty"]["answer_list"]) == ["possible"]


def test_nothing_is_asked_about_the_attributes_of_what_is_not_present_or_a_diagnosis():
    assert not ask(
        ("pneumothorax", "absent", 1, "left", "mild"),
        ("pleural effusion", "uncertain", 1, "left", "mild", "lung base"),
        ("pneumonia", "present", 1, "left", "severe", "lower lobe", "definite"),
        ("edema", "present", 1),
    ).height


def test_rows_about_one_finding_are_put_together():
    def told(*rows):
        return set(ask(*(("atelectasis", "present", 1, *row) for row in rows))["answer"]) & {
            "Mild bilateral atelectasis.",
            "Left atelectasis.",
            "On the left.",
        }

    assert told(("left", "mild"), ("right", "mild")) == {"Mild bilateral atelectasis."}
    assert told(("left", "mild"), ("left", "severe")) <= {"Left atelectasis.", "On the left."}
    assert not told(("left", None), (None, None))  # is the second one left, too?


def test_options_for_a_place_are_other_places_of_its_kind():
    def offered(side, place):
        qa = ask(("consolidation", "present", 1, side, None, place), samples=NAMES)
        rows = qa.filter(fact="consolidation|place", qtype="single-choice")
        return {tuple(bare(options)) for options in rows["option_list"]}

    lobes = ("lower lobe", "middle lobe", "upper lobe")
    assert offered("right", "lower lobe") == offered(None, "lower lobe") == {lobes}
    assert offered("left", "lower lobe") == {("lower lobe", "upper lobe")}
    assert offered("right", "middle lobe") == {lobes}
    # A part of the upper lobe and a part of the base: nothing is clearly somewhere else.
    assert offered("left", "lingula") == offered("left", "retrocardiac region") == set()


def test_what_the_words_for_places_hold():
    sources = {
        *padchest_vocabulary.PLACES,
        *padchest_vocabulary.LABEL_PLACES.values(),
        *openi_vocabulary.LOCATIONS.values(),
    }
    used = {*places.PAIRED, *places.ONE_SIDED, *places.AT, *places.PARENCHYMAL}
    used |= {place for kind in places.KINDS for place in kind}
    assert used <= sources  # a typing error would go unnoticed otherwise
    assert not set(places.PAIRED) & set(places.ONE_SIDED)
    kinds = [place for kind in places.KINDS for place in kind]
    assert len(kinds) == len(set(kinds))


def test_words_for_several_are_understood_as_the_finding():
    for name, several in SEVERAL.items():
        assert findings_in(f"There are bilateral {several}.").get(name) == "present", several


def test_questions_read_well_with_one_finding_and_with_several():
    """ "Where is the sternal wires?": no verb may have to agree with the finding."""
    verb = re.compile(r"\b(is|are|was|were|has|have|does|do|this|these) (the )?\{finding\}(?! and)")
    for stage in (3, 4):
        for template in TEMPLATES[stage].values():
            for ask_ in template.ask:
                assert not verb.search(ask_), ask_


FACT = st.tuples(
    st.sampled_from(["pleural effusion", "nodule", "cardiomegaly", "pneumonia", "pacemaker", "emphysema"]),
    st.sampled_from(["present", "absent", "uncertain"]),
    st.sampled_from([1, 2]),
    st.sampled_from([None, "left", "right", "bilateral"]),
    st.sampled_from([None, "mild", "severe"]),
    st.sampled_from([None, "upper lobe", "middle lobe", "lung base", "lingula", "hilum"]),
    st.sampled_from([None, "definite", "possible"]),
)


@given(st.lists(FACT, max_size=6, unique_by=lambda fact: fact[0]), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_what_is_asked_is_known_and_its_options_are_right_or_wrong(facts, random):
    known = {fact[0]: fact for fact in facts}
    qa = ask(*facts)
    columns = {"side": 3, "severity": 4, "place": 5, "certainty": 6}
    asked = Counter()
    for row in qa.iter_rows(named=True):
        name, _, attribute = row["fact"].partition("|")
        if name == "composite":
            continue
        asked[row["fact"]] += 1
        fact = known[name]
        assert name not in DIAGNOSES and fact[columns[attribute]] is not None
        assert fact[1] == "present" or (attribute == "certainty" and fact[1] == "uncertain")
        if attribute == "severity":
            assert name in GRADED
        if row["option_list"]:
            assert len(set(bare(row["option_list"]))) == len(row["option_list"]) >= 2
            assert bare(row["answer_list"]) == [fact[columns[attribute]]]
    assert set(asked.values()) <= {1}
    for fact in facts:
        if fact[1] == "present" and fact[0] not in DIAGNOSES and fact[3] is not None:
            assert asked[f"{fact[0]}|side"] == 1
    shuffled = list(facts)
    random.shuffle(shuffled)
    again = ask(*shuffled, samples=("made/a", "made/b")).filter(sample_id="made/a")
    assert again.drop("i").sort("rank", "bits").equals(qa.drop("i").sort("rank", "bits"))
