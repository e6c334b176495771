"""The vocabulary: no name twice, no endless ancestry, every label map ends in it."""

from collections import Counter

import pytest

from cxrtrek_lib import findings
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.simulate import catalogue
from cxrtrek_lib.sources import chexpert, nih, openi_vocabulary, padchest_vocabulary, vindr

MAPS = {"chexpert": chexpert.CHEXPERT, "nih": nih.NIH, "adjudicated": nih.NIH_ADJUDICATED,
        "vindr": vindr.VINDR, "padchest": padchest_vocabulary.PADCHEST,
        "openi": openi_vocabulary.OPENI}  # fmt: skip


def test_no_word_means_two_findings():
    words = Counter(w for name, finding in FINDINGS.items() for w in (name, *finding.synonyms))
    assert [word for word, n in words.items() if n > 1] == []
    assert all(word == word.lower().strip() for word in words)


def test_the_names_that_other_parts_rely_on():
    assert set(catalogue.SHOWN) <= set(FINDINGS) and set(findings.CORE) <= set(FINDINGS)
    assert "pacemaker" in findings.DEVICES and "pleural effusion" not in findings.DEVICES
    assert not set(findings.REGIONS) & set(FINDINGS)
    # What a film shows on a side, or in a grade, can be asked about.
    assert {name for name, shown in catalogue.SHOWN.items() if shown.sides} <= findings.SIDED
    assert {name for name, shown in catalogue.SHOWN.items() if shown.graded} <= findings.GRADED


def test_the_29_regions_of_chest_imagenome():
    """Wu et al. 2021: 8 regions of each lung, both clavicles, and 11 without a side; no word means two."""
    of_lung = (
        "lung", "lung apex", "upper lung zone", "mid lung zone", "lower lung zone", "hilum",
        "costophrenic angle", "hemidiaphragm",
    )  # fmt: skip
    middle = {
        "trachea", "spine", "aortic arch", "mediastinum", "upper mediastinum", "superior vena cava", "heart",
        "cavoatrial junction", "right atrium", "carina", "abdomen",
    }  # fmt: skip
    sided = {f"{side} {part}" for side in ("left", "right") for part in (*of_lung, "clavicle")}
    assert set(findings.REGIONS) == sided | middle and len(sided | middle) == 29
    words = Counter(w for name, synonyms in findings.REGIONS.items() for w in {name, *synonyms})
    doubled = {word for word, n in words.items() if n > 1}
    assert doubled == {"costophrenic sulcus"}  # of either side
    assert not set(words) & {w for name, finding in FINDINGS.items() for w in (name, *finding.synonyms)}


def test_diagnoses_are_not_things_seen():
    assert set(FINDINGS) >= findings.DIAGNOSES and not findings.DIAGNOSES & findings.DEVICES
    # Bustos et al. 2020: of the tree's differential diagnoses, these are also signs on a film.
    assert not {"edema", "emphysema", "pulmonary fibrosis", "bone lesion"} & findings.DIAGNOSES
    assert {"pneumonia", "tuberculosis", "tuberculosis sequelae", "lung metastasis"} <= findings.DIAGNOSES


def test_parents_are_of_the_same_kind():
    for name, finding in FINDINGS.items():
        if finding.parent is not None:
            assert FINDINGS[finding.parent].kind == finding.kind, name


@pytest.mark.parametrize("source", MAPS)
def test_labels_map_into_the_vocabulary(source):
    names = {name for name in MAPS[source].values() if name is not None}
    assert names <= set(FINDINGS)


def test_ancestors_and_relations():
    assert findings.ancestors("nodule") == ["nodule or mass", "lung lesion", "lung opacity"]
    assert findings.ancestors("cardiomegaly") == []
    assert {"rib fracture", "clavicle fracture", "fracture"} <= findings.related(["fracture"])
    assert "consolidation" not in findings.related(["nodule"])  # cousins are fair distractors
    for name in FINDINGS:
        assert name in findings.related([name])
        assert all(name in findings.related([other]) for other in findings.related([name]))


def test_canonical():
    assert findings.canonical(" Pulmonary Edema ") == "edema"
    assert findings.canonical("cardiac pacemaker") == "pacemaker"
    assert findings.canonical("normal") is None
