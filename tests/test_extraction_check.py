"""Findings read from reports against tags: hand counts, and the real Open-i reports."""

import polars as pl
import pytest
from test_text_findings import openi_reports

from cxrtrek_lib import extraction_check
from cxrtrek_lib.extraction_check import against_tags
from cxrtrek_lib.sources import openi
from cxrtrek_lib.tables import FINDINGS, STUDIES


def test_precision_and_recall_by_hand(monkeypatch):
    monkeypatch.setattr(extraction_check, "FEWEST", 3)
    texts = ["Left effusion.", "Possible effusion.", "No effusion.", "Effusion.", "Effusion.", None]
    base = dict.fromkeys(STUDIES) | {"source": "openi"}
    studies = pl.DataFrame(
        [
            base | {"sample_id": f"s{n}", "patient_id": f"p{n}", "findings_text": t}
            for n, t in enumerate(texts)
        ],
        schema=STUDIES,
    )
    tag = dict.fromkeys(FINDINGS) | {"finding": "pleural effusion", "status": "present"}
    tags = [tag | {"sample_id": f"s{n}"} for n in (0, 1, 2, 5)] + [
        tag | {"sample_id": "s3", "status": "absent"}
    ]
    row = against_tags(studies, pl.DataFrame(tags, schema=FINDINGS), n_boot=50, seed=0).row(0, named=True)
    # s5 has no text. Read as present: s0, s3, s4, of which s0 is tagged. Tagged: s0, s1, s2; s2 is denied.
    assert (row["n_reports"], row["n_tagged"], row["n_read"]) == (5, 3, 3)
    assert (row["precision"], row["recall"]) == pytest.approx((1 / 3, 2 / 3))
    assert against_tags(
        studies.filter(source="nih"), pl.DataFrame(tags, schema=FINDINGS), n_boot=50, seed=0
    ).is_empty()


def test_real_reports_are_read_well():
    """The reports and tags as they are published."""
    table = openi.read()
    found = against_tags(table.studies, table.findings, n_boot=50, seed=0)
    assert len(openi_reports()) >= found["n_reports"][0] > 3700 and found.height > 40
    common = found.filter(pl.col("n_tagged") >= 100)
    assert common["precision"].median() > 0.9 and common["recall"].median() > 0.8
    assert found.filter(finding="hemidiaphragm elevation")["recall"].item() > 0.9
    assert (found["precision_low"] <= found["precision"]).all() and (
        found["recall"] <= found["recall_high"]
    ).all()
