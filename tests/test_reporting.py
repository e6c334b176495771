"""Reports: real text where there is any, else sections that say what is known, and all of it."""

import re

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tables import sample
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build
from cxrtrek_lib.findings import BODY_REGIONS, CORE, DIAGNOSES, FINDINGS
from cxrtrek_lib.stages import reporting, wording
from cxrtrek_lib.text_findings import findings_in

E, PRESENT, ABSENT, POSSIBLE = "pleural effusion", "present", "absent", "uncertain"
TEMPLATES = wording.load()[8]


def ask(finding_rows, n=1, **study):
    """Stage 8 of n studies that have the same rows (finding, status, tier, side, severity, place)."""
    made = studies(*({"sample_id": f"made/{i}", **study} for i in range(n)))
    rows = findings(*((f"made/{i}", *row) for i in range(n) for row in finding_rows))
    return pl.concat(reporting.report(build.gather(made, rows, boxes(), 0), TEMPLATES))


def section(finding_rows, name, **study):
    """The answer of one section, wherever the draw has put it: apart or in the whole report."""
    for row in ask(finding_rows, **study).iter_rows(named=True):
        if row["target"] == name:
            return row["answer"]
        if row["target"] == "report":
            both = re.fullmatch(r"Findings: (?P<findings>.*) Impression: (?P<impression>.*)", row["answer"])
            return both[name]
    return None


def test_real_sections_are_used_where_there_are_any():
    text = {"findings_text": "Clear lungs. The XXXX is normal.", "impression_text": "No disease."}
    qa = ask([("edema", ABSENT, 1)], 200, **text)
    apart, whole = qa.filter(pl.col("target") != "report"), qa.filter(target="report")
    assert set(apart.select("target", "answer", "fact", "evidence").rows()) == {
        ("findings", "Clear lungs.", "report|findings", "made: findings_text, sentences with XXXX left out"),
        ("impression", "No disease.", "report|impression", "made: impression_text"),
    }
    assert set(whole.select("answer", "fact", "task_type").rows()) == {
        ("Findings: Clear lungs. Impression: No disease.", "report|findings; report|impression",
         "Report_Generation[ALL]"),
    }  # fmt: skip
    # One report is asked either section by section or whole.
    assert not set(whole["i"]) & set(apart["i"]) and apart.height == 2 * (200 - whole.height)
    share = reporting.WHOLE_SHARE
    assert abs(whole.height - 200 * share) < 4 * (200 * share * (1 - share)) ** 0.5


def test_a_section_without_a_legible_sentence_is_not_asked_for():
    assert ask([], impression_text="XXXX.").height == 0
    qa = ask([("edema", PRESENT, 1)], findings_text="XXXX.", impression_text="No XXXX. Stable chest.")
    assert qa.select("target", "answer").rows() == [("impression", "Stable chest.")]
    # Nothing legible at all: the report is composed.
    assert ask([("edema", PRESENT, 1)], findings_text="XXXX.")["answer"].to_list() == ["Edema."]


def test_a_composed_impression():
    rows = [(E, PRESENT, 1, "right", "mild"), ("pneumonia", POSSIBLE, 1), ("copd", PRESENT, 1)]
    rows += [(name, ABSENT, 1) for name in ("pneumothorax", "edema", "mass", "fracture", "nodule")]
    assert section(rows, "impression") == (
        "COPD. Mild right pleural effusion. Possible pneumonia. No pneumothorax, edema or nodule."
    )
    assert set(ask(rows)["fact"]) <= {
        "composite|findings",
        "composite|impression",
        "composite|findings; composite|impression",
    }
    assert ask(rows)["evidence"].str.starts_with("composed of made: ").all()


def test_a_composed_findings_section():
    rows = [
        (E, PRESENT, 1, "right", "mild"), ("pneumothorax", ABSENT, 1), ("edema", POSSIBLE, 1),
        ("consolidation", PRESENT, 1, "left", None, "lower lobe"), ("nodule or mass", ABSENT, 1),
        ("atelectasis", ABSENT, 1), ("bronchiectasis", ABSENT, 1), ("fracture", ABSENT, 1),
        ("pacemaker", PRESENT, 1, "left"),
        ("other pleural abnormality", ABSENT, 1), ("pneumonia", POSSIBLE, 1), ("kyphosis", ABSENT, 3),
    ]  # fmt: skip
    assert section(rows, "findings") == (
        "Lungs: left consolidation (lower lobe); possible edema; "
        "no atelectasis, bronchiectasis, nodule or mass. "
        "Pleura: mild right pleural effusion; no pneumothorax or other pleural abnormality. "
        "Bones and soft tissue: no fracture. Devices: left pacemaker."
    )


def test_a_normal_study():
    rows = [(name, ABSENT, 2) for name in CORE]
    assert section(rows, "impression") == (
        "No abnormal finding. No pneumonia, pleural effusion or pneumothorax."
    )
    assert section(rows, "findings") == (
        "Lungs: no consolidation, atelectasis, edema, nodule, mass or airspace opacity. "
        "Pleura: no pleural effusion or pneumothorax. Heart and mediastinum: no cardiomegaly."
    )
    with_device = [*rows, ("pacemaker", PRESENT, 1)]
    assert section(with_device, "impression") == (
        "No abnormal finding. Pacemaker. No pneumonia, pleural effusion or pneumothorax."
    )
    assert section([("edema", ABSENT, 1), ("mass", ABSENT, 1)], "impression") == "No edema or mass."


def test_findings_are_only_asked_for_where_they_say_more():
    short = [(E, PRESENT, 1, "left", "mild"), ("edema", ABSENT, 1), ("mass", POSSIBLE, 1)]
    assert section(short, "findings") is None
    assert section([*short, ("fracture", ABSENT, 1)], "findings") is not None  # denied, and no common finding
    assert section([(E, PRESENT, 1, "left", "mild", "lung base")], "findings") == (
        "Pleura: mild left pleural effusion (lung base)."
    )
    assert section([("pneumonia", PRESENT, 1, "left", None, "lung base")], "findings") is None  # a diagnosis
    assert section([("edema", ABSENT, 3)], "impression") is None


def test_what_cannot_be_said_is_not_told():
    nodule = [("nodule", PRESENT, 1), ("lung lesion", ABSENT, 1), ("fracture", ABSENT, 1)]
    assert section(nodule, "findings") == "Lungs: nodule. Bones and soft tissue: no fracture."
    made = studies({"sample_id": "made/0"})
    hidden = findings(("made/0", E, POSSIBLE, 1), ("made/0", "edema", ABSENT, 1))
    hidden = hidden.with_columns(source_column=pl.lit("simulated"))
    qa = pl.concat(reporting.report(build.gather(made, hidden, boxes(), 0), TEMPLATES))
    assert qa["answer"].to_list() == ["No edema."]  # the film hides an effusion: neither possible nor normal


def test_every_finding_but_diagnoses_has_its_region():
    names = [name for names in BODY_REGIONS.values() for name in names]
    assert sorted(names) == sorted(set(FINDINGS) - DIAGNOSES)
    assert set(BODY_REGIONS) <= set(TEMPLATES["regions"].answers)


# Findings whose names stand for themselves in text: none is part of another or said in several ways.
SPOKEN = [
    "pleural effusion", "pneumothorax", "edema", "atelectasis", "fracture", "cardiomegaly", "pacemaker",
    "scoliosis", "bronchiectasis", "emphysema", "hiatal hernia", "granuloma", "consolidation",
]  # fmt: skip


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(SPOKEN), st.sampled_from([PRESENT, ABSENT, POSSIBLE]), min_size=1))
def test_an_independent_reader_finds_what_is_known(statuses):
    """findings_in reads free text by rules of its own: it must find each status, and nothing else."""
    rows = [(name, status, 1) for name, status in statuses.items()]
    told = section(rows, "findings")
    if told is not None:
        assert findings_in(told) == statuses
    stated = findings_in(section(rows, "impression") or "")
    assert stated.items() <= statuses.items()
    if told is None:
        assert stated == statuses


def test_rows_in_any_order_give_the_same_report():
    frames = sample()[:3]
    whole = [frame.sample(fraction=1, shuffle=True, seed=seed) for seed in (1, 2) for frame in frames]
    one, two = (
        pl.concat(reporting.report(build.gather(*part, 0), TEMPLATES)).sort("i", "target")
        for part in (whole[:3], whole[3:])
    )
    assert one.equals(two) and one.height > 1000
