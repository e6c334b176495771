"""Findings from text: hand-made sentences, and real Open-i reports against their radiologists' MeSH tags."""

import importlib.util
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.text_findings import findings_in

SENTENCES = [
    ("No pneumothorax.", {"pneumothorax": "absent"}),
    ("There is a small left pleural effusion.", {"pleural effusion": "present"}),
    ("No pleural effusion or pneumothorax.", {"pleural effusion": "absent", "pneumothorax": "absent"}),
    ("Possible pneumonia.", {"pneumonia": "uncertain"}),
    ("Pneumonia cannot be excluded.", {"pneumonia": "uncertain"}),
    ("No effusion, but there is a nodule.", {"pleural effusion": "absent", "nodule": "present"}),
    ("Pleural effusion is absent.", {"pleural effusion": "absent"}),
    ("Without evidence of consolidation.", {"consolidation": "absent"}),
    ("The heart is enlarged.", {"cardiomegaly": "present"}),
    ("The heart is not enlarged.", {"cardiomegaly": "absent"}),
    ("Heart size is within normal limits.", {"cardiomegaly": "absent"}),
    ("Normal heart size.", {"cardiomegaly": "absent"}),
    ("The lungs are not clear.", {}),
    ("Lungs are clear.", {"consolidation": "absent", "lung opacity": "absent"}),
    ("No large effusion. Small right effusion.", {"pleural effusion": "present"}),
    ("No change in the right effusion.", {"pleural effusion": "present"}),
    ("Atelectasis versus pneumonia.", {"atelectasis": "uncertain", "pneumonia": "uncertain"}),
    ("The pneumothorax has resolved.", {"pneumothorax": "absent"}),
    ("Bilateral pleural effusions and nodules.", {"pleural effusion": "present", "nodule": "present"}),
    ("A dual chamber pacemaker on the left.", {"pacemaker": "present"}),
    ("Pericardial effusion.", {"pericardial effusion": "present"}),  # not a pleural one
    ("There is elevation of the right hemidiaphragm.", {"hemidiaphragm elevation": "present"}),
    ("The left hemidiaphragm is not elevated.", {"hemidiaphragm elevation": "absent"}),
    ("Tortuous thoracic aorta.", {"aortic elongation": "present"}),
    ("Atherosclerotic calcification of the aorta.", {"aortic atherosclerosis": "present"}),
    ("Blunting of the left costophrenic sulcus.", {"costophrenic angle blunting": "present"}),
    ("Lung volumes are low.", {"low lung volumes": "present"}),
    ("Fractures of the left fifth rib.", {"rib fracture": "present"}),
    (
        "Moderate left pneumothorax. Right pacemaker. No pleural effusion, consolidation.",
        {
            "consolidation": "absent",
            "pacemaker": "present",
            "pleural effusion": "absent",
            "pneumothorax": "present",
        },
    ),
    ("Mass. Edema.", {"mass": "present", "edema": "present"}),
    ("", {}),
    ("The film is rotated.", {}),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES, ids=[text or "empty" for text, _ in SENTENCES])
def test_sentences_written_by_hand(text, expected):
    assert findings_in(text) == expected


@pytest.mark.parametrize("name", sorted(FINDINGS))
def test_every_finding_is_read_back_from_plain_sentences(name):
    """The words of the vocabulary are what questions and answers are written with."""
    assert findings_in(f"There is {name}.").get(name) == "present"
    assert findings_in(f"No {name}.").get(name) == "absent"
    assert findings_in(f"Possible {name}.").get(name) == "uncertain"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_without_failing_and_case_does_not_matter(text):
    assert set(findings_in(text)) <= set(FINDINGS)
    report = "NO PLEURAL EFFUSION. small left pneumothorax"
    assert findings_in(report) == findings_in(report.lower()) == findings_in(f"\n {report}\t\n")


# MeSH heading of Open-i -> canonical finding; found counts as agreeing when text says present or uncertain.
MESH = {
    "Pleural Effusion": "pleural effusion",
    "Cardiomegaly": "cardiomegaly",
    "Pulmonary Atelectasis": "atelectasis",
    "Pneumothorax": "pneumothorax",
    "Consolidation": "consolidation",
    "Emphysema": "emphysema",
    "Pulmonary Emphysema": "emphysema",
    "Pulmonary Edema": "edema",
    "Hernia, Hiatal": "hiatal hernia",
    "Pneumonia": "pneumonia",
    "Cicatrix": "scarring",
}


def openi_reports() -> list[tuple[str, set[str]]]:
    package = Path(importlib.util.find_spec("torchxrayvision").submodule_search_locations[0])
    reports = []
    with tarfile.open(package / "data" / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            if not member.name.endswith(".xml"):
                continue
            tree = ElementTree.fromstring(archive.extractfile(member).read())
            sections = (
                t.text or ""
                for t in tree.iter("AbstractText")
                if t.get("Label") in ("FINDINGS", "IMPRESSION")
            )
            tags = {MESH.get(tag.text.split("/")[0]) for tag in tree.iter("major")} - {None}
            if text := " ".join(sections).strip():
                reports.append((text, tags))
    return reports


def test_open_i_reports_agree_with_their_mesh_tags():
    """The tags were set by readers of the same reports, who mostly left uncertain findings untagged."""
    reports = openi_reports()
    assert len(reports) > 3800
    read = [findings_in(text) for text, _ in reports]
    scores = {}
    for name in sorted(set(MESH.values())):
        tagged = {i for i, (_, tags) in enumerate(reports) if name in tags}
        present = {i for i, said in enumerate(read) if said.get(name) == "present"}
        mentioned = {i for i, said in enumerate(read) if said.get(name) in ("present", "uncertain")}
        precision, recall = len(present & tagged) / len(present), len(mentioned & tagged) / len(tagged)
        scores[name] = precision, recall
        print(f"{name:18s} n={len(tagged):4d} precision={precision:.3f} recall={recall:.3f}")
    assert scores["pleural effusion"][0] > 0.9 and scores["cardiomegaly"][0] > 0.9
    assert scores["atelectasis"][0] > 0.8 and scores["pneumothorax"][0] > 0.8
    assert sum(p for p, _ in scores.values()) / len(scores) > 0.8  # mean over findings
    assert sum(r for _, r in scores.values()) / len(scores) > 0.9
