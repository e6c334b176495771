"""The dataset on disk: nobody in two splits, the same rows whatever the processes, numbers that add up."""

import hashlib
from collections import Counter
from functools import partial

import polars as pl
import pytest
from real_tables import sample, table
from tables_by_hand import boxes, findings, studies

from cxrtrek_lib import build, corpus, params_schema, tables
from cxrtrek_lib.sources.common import Annotations

SPLIT = {"validate": 0.05, "test": 0.05}
NO_FOLDERS = dict.fromkeys(params_schema.Folders.model_fields)


def test_splits_by_patient():
    patients = table("chexpert").studies["patient_id"]
    split = corpus.split_of(patients, False, SPLIT)
    one = pl.DataFrame({"patient": patients, "split": split}).unique()
    assert one["patient"].is_unique().all()  # nobody in two splits
    share = {name: n / one.height for name, n in Counter(one["split"]).items()}
    # 64,540 patients: three standard errors of a 5 % share are 0.26 %.
    assert share["test"] == pytest.approx(0.05, abs=0.0026) and share["validate"] == pytest.approx(
        0.05, abs=0.0026
    )
    assert set(corpus.split_of(patients[:9], True, SPLIT)) == {"external"}


def test_a_test_patient_stays_a_test_patient():
    patients = table("chexpert").studies["patient_id"].unique().sort()
    small = corpus.split_of(patients, False, SPLIT)
    large = corpus.split_of(patients, False, {"validate": 0.1, "test": 0.2})
    assert set(large.filter(small == "test")) == {"test"}
    assert (corpus.split_of(patients.reverse(), False, SPLIT).reverse() == small).all()


@pytest.mark.parametrize("shares", [{"validate": 0.6, "test": 0.5}, {"validate": -0.1, "test": 0.1}])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ValueError, match="dataset.split"):
        corpus.split_of(pl.Series(["a"]), False, shares)


def test_roles_decide_who_is_trained_on():
    roles = {"openi": "train", "nih": "external", "rsna": "off"}
    studies = corpus.read_sources(roles, 200, SPLIT, NO_FOLDERS).studies
    assert set(studies["source"]) == {"openi", "nih"}
    assert set(studies.filter(source="nih")["split"]) == {"external"}
    assert set(studies.filter(source="openi")["split"]) == {"train", "validate", "test"}
    patients = studies.group_by("source").agg(pl.col("patient_id").n_unique())["patient_id"]
    assert all(190 < n <= 200 for n in patients)  # a few of the first 200 have no film


def one_study(finding: str) -> Annotations:
    """A study in which a finding is present."""
    frames = studies({"sample_id": "made/a"}), findings(("made/a", finding, "present", 1)), boxes()
    return Annotations(*frames, excluded={}, unmapped={})


def test_a_worker_count_or_shard_changes_no_row(tmp_path):
    first = None
    for workers, shard in ((1, 10**6), (2, 300)):
        folder = tmp_path / f"{workers}"
        found = corpus.write(sample, folder, 0, yes_no_ratio=3.0, workers=workers, shard=shard)
        qa = tables.read_table("qa", folder / "qa.parquet")
        assert sorted(file.name for file in folder.iterdir()) == [
            "boxes.parquet", "findings.parquet", "qa.parquet", "studies.parquet",
        ]  # fmt: skip
        first = first or (found, qa)
        assert found == first[0] and qa.equals(first[1])


def test_the_digest_covers_every_row():
    """Against SHA-256 over BLAKE2b of each study's rows, written out in plain Python."""
    qa = build.questions(*sample()[:3], 0)

    def text(value):
        return "\x00" if value is None else str(value)

    studies = {}
    for row in qa.iter_rows(named=True):
        studies.setdefault(row["sample_id"], []).append("\x1f".join(text(row[c]) for c in corpus.DIGESTED))
    digests = [
        hashlib.blake2b("\n".join(rows).encode(), digest_size=16).digest() for rows in studies.values()
    ]
    assert corpus.count(qa).digests == b"".join(digests)
    other = qa.with_columns(answer=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("x")).otherwise("answer"))
    assert corpus.count(other).digests != corpus.count(qa).digests


def test_metrics_add_up():
    studies = sample().studies
    pieces = [build.questions(*piece, 0) for piece in build.parts(*sample()[:3], 900)]
    told = corpus.Prepared(len(pieces), None, {"x: y": 3}, {"x: z": 2, "x: w": 1}, {"x: age": 4})
    found = corpus.metrics(studies, told, [corpus.count(qa) for qa in pieces])
    n_qa = sum(qa.height for qa in pieces)
    assert len(pieces) > 2
    assert found["n_studies"] == studies.height and found["n_patients"] == studies["patient_id"].n_unique()
    assert found["n_qa"] == n_qa == sum(found["stages"].values()) == sum(found["formats"].values())
    assert list(found["stages"]) == list("12345678") and len(found["formats"]) == 4
    assert all(n > 0 for n in [*found["stages"].values(), *found["formats"].values()])
    assert sum(found["sources"].values()) == sum(found["splits"].values()) == studies.height
    assert found["qa_per_study"] == round(n_qa / studies.height, 4)
    assert found["excluded"] == {"x: y": 3} and found["corrected"] == {"x: age": 4}
    assert found["unmapped"] == {"x: z": 2, "x: w": 1}


def test_facts_are_counted_once():
    """By hand: the facts that rows name, lists and summaries left out, "a; b" counted as two."""
    facts = [
        ("made/a", "a"),
        ("made/a", "a; b"),
        ("made/a", "composite|list"),
        ("made/b", "a"),
        ("made/b", "a"),
    ]
    rows = [
        {**dict.fromkeys(tables.QA), "turn": n, "sample_id": s, "fact": f} for n, (s, f) in enumerate(facts)
    ]
    assert corpus.count(pl.DataFrame(rows, schema=tables.QA)).n_facts == 3  # x and y of a, x of b


def test_an_error_in_a_worker_is_told_and_an_older_dataset_stays(tmp_path):
    corpus.write(partial(one_study, "edema"), tmp_path, 0, yes_no_ratio=None)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="unknown finding 'dragon'"):
        corpus.write(partial(one_study, "dragon"), tmp_path, 0, yes_no_ratio=None)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_balance_of_yes_and_no(tmp_path):
    """After the build no finding of a source has one answer more than the ratio times the other (by draw)."""
    corpus.write(sample, tmp_path, 0, yes_no_ratio=2.0)
    qa = tables.read_table("qa", tmp_path / "qa.parquet")
    presence = qa.filter(
        (pl.col("qtype") == "yes_no") & pl.col("stage").eq(2) & pl.col("fact").str.ends_with("|presence")
    )
    counts = Counter(
        (row["sample_id"].split("/")[0], row["fact"], row["answer"].startswith("Yes"))
        for row in presence.iter_rows(named=True)
    )
    seen = {(source, fact) for source, fact, _ in counts}
    assert len(seen) > 20
    for source, fact in seen:
        few, many = sorted(counts[source, fact, answer] for answer in (True, False))
        # A thinned count is binomial: four standard deviations above what is expected, and 2 x 0 is 0.
        assert many <= 2 * few + 4 * (2 * few) ** 0.5, (source, fact, few, many)
