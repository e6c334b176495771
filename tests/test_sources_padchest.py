"""PadChest's words: all labels and location words reviewed, sentences told apart, places with owners."""

import csv
import gzip
import re
from collections import Counter

import polars as pl
import pytest
from real_tables import table

from cxrtrek_lib import packages
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.sources import padchest
from cxrtrek_lib.sources.padchest_vocabulary import (
    LABEL_PLACES,
    NOT_FINDINGS,
    NOT_PLACES,
    PADCHEST,
    PLACES,
    WIDER,
)

SIDES = r" (both sides?|left side|right side|bilateral)$"


@pytest.fixture(scope="module")
def cells():
    """Labels and LabelsLocalizationsBySentence of each study, by the csv module."""
    path = packages.data_dir("torchxrayvision") / padchest.TABLE
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        study, *said = (header.index(c) for c in ("StudyID", "Labels", "LabelsLocalizationsBySentence"))
        return {row[study]: tuple(row[place] for place in said) for row in rows}


def test_no_label_and_no_location_word_is_unknown(cells):
    assert table("padchest").unmapped == {}
    labels, words = set(), set()
    for said, sentences in cells.values():
        labels |= {token.strip() for token in re.findall(r"'([^']*)'", said)}
        words |= {token for token in re.findall(r"'([^']*)'", sentences) if token.startswith("loc ")}
    assert {re.sub(SIDES, "", label) for label in labels} <= set(PADCHEST)
    known = {word for names, _ in PLACES.values() for word in names}
    assert known.isdisjoint(NOT_PLACES) and words == known | set(NOT_PLACES)
    assert len(words) == 104 == len(known) + len(NOT_PLACES)  # the table's words, each reviewed once


def test_words_are_english_and_their_findings_known():
    for place, (words, names) in PLACES.items():
        assert place == place.lower().strip() and not place.startswith(("the ", "in "))
        assert words and names <= set(FINDINGS), place
    assert set(LABEL_PLACES) <= {label for label, name in PADCHEST.items() if name}
    assert all(PADCHEST[label] is None and reason for label, reason in NOT_FINDINGS.items())
    assert set(WIDER) <= set(PLACES) and {n for names in WIDER.values() for n in names} <= set(PLACES)


def test_the_space_before_a_label_continues_a_sentence(cells):
    """What the reading of the flat format rests on: such a label never comes first, nor after a place."""
    before = Counter()
    for _, sentences in cells.values():
        if sentences.startswith("["):
            tokens = [] if sentences.startswith("[[") else re.findall(r"'([^']*)'", sentences)
            for last, token in zip(["", *tokens], tokens, strict=False):
                if token.startswith(" "):
                    before["place" if last.startswith("loc ") else "label" if last else "nothing"] += 1
    assert before["label"] > 27_000 and before["place"] == before["nothing"] == 0


def sentences_of(text):
    frame = pl.DataFrame({"sample_id": ["s"], "LabelsLocalizationsBySentence": [text]})
    return padchest._sentences(frame)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[['pleural effusion', 'loc left'], ['normal', 'loc cardiac']]",
         [(["pleural effusion"], ["loc left"]), (["normal"], ["loc cardiac"])]),
        ("['consolidation', ' pneumonia', 'loc left', 'nodule', 'loc right']",
         [(["consolidation", "pneumonia"], ["loc left"]), (["nodule"], ["loc right"])]),
        ("['nodule', '', 'loc right', 'unchanged']",
         [(["nodule"], []), ([""], ["loc right"]), (["unchanged"], [])]),
        ("[]", []),
    ],
)  # fmt: skip
def test_sentences_of_both_formats(text, expected):
    assert sentences_of(text).select("labels", "words").rows() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[['pleural effusion', 'loc pleural', 'loc right']]", [("pleural effusion", "right", None)]),
        ("[['laminar atelectasis', 'loc basal', 'loc left'], ['sternotomy']]",
         [("atelectasis", "left", "lung base"), ("sternal wires", None, None)]),
        # Two labels: whose side, whose place?
        ("[['nodule', 'pneumonia', 'loc left', 'loc basal']]",
         [("nodule", None, None), ("pneumonia", None, None)]),
        ("['consolidation', ' pneumonia', 'loc left']",
         [("consolidation", None, None), ("pneumonia", None, None)]),
        # The flat list of the network, sentence by sentence.
        ("['cardiomegaly', 'loc cardiac', 'nodule', 'loc left', 'loc apical']",
         [("cardiomegaly", None, None), ("nodule", "left", "lung apex")]),
        ("['normal', 'loc left', 'nodule', 'loc right']", [("nodule", "right", None)]),
        # An unknown label opens a sentence too, and its places are not the nodule's.
        ("['nodule', '', 'loc right']", [("nodule", None, None)]),
        ("[['pneumonia', 'unchanged', 'loc middle lobe']]", [("pneumonia", "right", "middle lobe")]),
        ("[['pleural effusion both sides', 'loc right']]", [("pleural effusion", "bilateral", None)]),
        # The same finding again: elsewhere without a side, elsewhere with another place, beside others.
        ("[['nodule', 'loc left', 'loc apical'], ['nodule']]", [("nodule", None, "lung apex")]),
        ("[['nodule', 'loc left'], ['nodule', 'loc right']]", [("nodule", "bilateral", None)]),
        ("[['nodule', 'loc apical'], ['nodule', 'loc basal']]", [("nodule", None, None)]),
        ("[['nodule', 'loc apical'], ['nodule', 'mass', 'loc basal']]", [("nodule", None, None)]),
        # A label that names its place gives it in any sentence; other labels of the finding do not undo it.
        ("[['apical pleural thickening', 'fibrotic band', 'loc pleural', 'loc left']]",
         [("pleural thickening", None, "lung apex"), ("scarring", None, None)]),
        ("[['descendent aortic elongation', 'cardiomegaly', 'loc aortic']]",
         [("aortic elongation", None, "descending aorta"), ("cardiomegaly", None, None)]),
        # The more precise of two nested places; a nodule projected on a rib is not in the rib.
        ("[['callus rib fracture', 'loc rib', 'loc posterior rib', 'loc right']]",
         [("rib fracture", "right", "posterior ribs")]),
        ("[['NSG tube', 'loc infradiaphragm', 'loc gastric chamber']]", [("enteric tube", None, "stomach")]),
        ("[['nodule', 'loc rib', 'loc left']]", [("nodule", "left", None)]),
        # "right" of a catheter may be the right atrium.
        ("[['central venous catheter', 'loc right', 'loc superior cave vein']]",
         [("central venous catheter", None, "superior vena cava")]),
        ("[['central venous catheter via jugular vein', 'loc right']]",
         [("central venous catheter", "right", None)]),
        ("[['central venous catheter via subclavian vein', 'loc left', 'loc right']]",
         [("central venous catheter", None, None)]),
        ("[['pacemaker', 'loc left', 'loc pectoral']]", [("pacemaker", "left", "pectoral region")]),
    ],
)  # fmt: skip
def test_sides_and_places_belong_to_one_finding(text, expected):
    found = padchest._attributes(sentences_of(text))
    assert sorted(found.select("finding", "laterality", "location").rows()) == sorted(expected)


def test_places_reach_what_the_single_label_sentences_allow():
    """Counts of the reading by sentence; before it, flat lists with two findings gave nothing at all."""
    findings = table("padchest").findings
    assert findings.drop_nulls("laterality").height > 35_000
    assert findings.drop_nulls("location").height > 32_000
    assert set(findings["location"].drop_nulls()) <= set(PLACES) | set(LABEL_PLACES.values())
    present = findings.filter(pl.col("location").is_not_null() | pl.col("laterality").is_not_null())
    assert set(present["status"]) == {"present"}


def test_an_increased_density_of_bone_is_no_lung_opacity(cells):
    """Every study with that label, its sentences read by the csv and re modules."""
    rows = table("padchest").findings.filter(finding="lung opacity", status="present")
    said = {sample_id.removeprefix("padchest/") for sample_id in rows["sample_id"]}
    kept = {sample_id.removeprefix("padchest/") for sample_id in table("padchest").studies["sample_id"]}
    bone = re.compile("vertebrae|column|rib|clavicle|humer|scapula|shoulder|axilar|soft tissue|pectoral|bone")
    lung = re.compile(
        "lobe|lingula|basal|apical|lung field|hilar|retrocardiac|hemithorax|pleural|fissure|angle"
    )
    checked = Counter()
    for study, (labels, sentences) in cells.items():
        if study in kept and "'increased density'" in labels:
            places = set(re.findall(r"'(loc [^']*)'", sentences)) - {"loc left", "loc right", "loc bilateral"}
            words = " ".join(places)
            alone = len(re.findall(r"' ?(?!loc |normal|unchanged)[^',]+'", sentences)) == 1
            if alone and lung.search(words) and not bone.search(words):
                assert study in said
                checked["lung"] += 1
            elif places and all(map(bone.search, places)) and alone and "''" not in sentences:
                assert study not in said
                checked["bone"] += 1
    assert checked["lung"] > 100 and checked["bone"] > 20, checked


def test_signs_of_copd_leave_the_diagnosis_open():
    rows = table("padchest").findings.filter(pl.col("source_column") == "padchest: Labels = COPD signs")
    assert rows.height > 10_000 and set(rows["status"]) == {"uncertain"} and set(rows["finding"]) == {"copd"}
