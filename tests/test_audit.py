"""The hand audit: 200 Q&A, drawn by hash over all stages, read against the raw rows of their tables.

tests/audited_questions.csv holds ids and verdicts, no text: sample_id, turn, stage, verdict (true; awkward:
true but odd), the rule that the answer follows, and a digest of the Q&A that was read. Here every one of
them is built again from the packaged tables: an audited answer that changes has to be read again.
"""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import polars as pl
from real_tables import table

from cxrtrek_lib import build

AUDIT = Path(__file__).with_name("audited_questions.csv")


def digest(row: dict) -> str:
    """Of what was read: question, answer and evidence."""
    text = "\x1f".join(row[column] for column in ("question", "answer", "evidence"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def rebuilt(sample_ids: set[str]) -> dict[tuple[str, int], dict]:
    """(sample_id, turn) -> row of all questions about the patients of these studies, seed 0."""
    parts = []
    for source in sorted({sample_id.split("/")[0] for sample_id in sample_ids}):
        tables = table(source)
        patients = tables.studies.filter(pl.col("sample_id").is_in(list(sample_ids)))["patient_id"].unique()
        studies = tables.studies.filter(pl.col("patient_id").is_in(patients.implode()))
        mine = [frame.join(studies, on="sample_id", how="semi") for frame in (tables.findings, tables.boxes)]
        parts.append(build.questions(studies, *mine, 0))
    rows = pl.concat(parts).filter(pl.col("sample_id").is_in(list(sample_ids)))
    return {(row["sample_id"], row["turn"]): row for row in rows.iter_rows(named=True)}


def test_the_audited_answers_are_those_that_are_built():
    audited = list(csv.DictReader(AUDIT.open()))
    stages = Counter(int(row["stage"]) for row in audited)
    assert len(audited) == 200 and stages == dict.fromkeys(range(1, 9), 25)
    assert {row["verdict"] for row in audited} <= {"true", "awkward"}  # no false answer was found
    assert all(row["rule"] for row in audited)
    built = rebuilt({row["sample_id"] for row in audited})
    changed = [
        (row["sample_id"], row["turn"])
        for row in audited
        if digest(built[row["sample_id"], int(row["turn"])]) != row["digest"]
    ]
    assert not changed, f"{len(changed)} audited Q&A changed: read them again; the first is {changed[0]}"
