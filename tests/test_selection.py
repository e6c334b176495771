"""selection.py: which studies become cases, prior films and futures, and that none is lost from the count."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_by_hand import findings as findings_of
from tables_by_hand import studies as studies_of

from cxrtrek_lib import paths, selection
from cxrtrek_lib.simulate import RENDERABLE


def study(sample_id: str, **columns) -> dict:
    """A row for `studies_of`; the patient is what stands before the last slash."""
    return {"sample_id": sample_id, "patient_id": sample_id.rsplit("/", 1)[0], **columns}


def select_one(views=("PA",), n=0, **statuses) -> selection.Selection:
    """The selection from one study with these findings (underscores for blanks)."""
    rows = [("t/p/1", name.replace("_", " "), status, 1) for name, status in statuses.items()]
    studies = studies_of(study("t/p/1", views=list(views)))
    return selection.select(studies, findings_of(*rows), {"train": n}, seed=0)


@pytest.mark.parametrize(
    ("views", "statuses", "reason"),
    [
        (["PA"], {"pleural_effusion": "present"}, None),
        (["AP", "LATERAL"], {"support_devices": "present", "edema": "absent"}, None),
        (["PA"], {"pneumothorax": "absent"}, None),
        (["PA"], {"lung_opacity": "present", "cardiomegaly": "uncertain"}, None),
        (["LATERAL"], {"pneumothorax": "present"}, "first view not known to be PA or AP"),
        (["UNKNOWN"], {"pneumothorax": "present"}, "first view not known to be PA or AP"),
        (["PA"], {"pneumothorax": "present", "edema": "uncertain"}, "a finding that cannot be simulated yet"),
        (["PA"], {"pneumothorax": "uncertain"}, selection.SUSPECTED),
        (["PA"], {}, "no finding stated present or absent"),
        (
            ["PA"],
            {"lung_opacity": "present", "consolidation": "absent"},
            "a finding whose only renderable form is denied",
        ),
        # Diagnoses
        (["PA"], {"pneumonia": "present"}, None),
        (["PA"], {"pneumonia": "absent"}, None),
        (["PA"], {"pneumonia": "uncertain"}, selection.SUSPECTED),
        (["PA"], {"pneumonia": "uncertain", "pleural_effusion": "present"}, None),
        (["PA"], {"pneumonia": "uncertain", "consolidation": "absent", "pneumothorax": "present"}, None),
        (["PA"], {"pneumonia": "absent", "consolidation": "present"}, None),
        (["PA"], {"heart_failure": "present"}, None),
        (["PA"], {"copd": "absent", "pneumothorax": "present"}, None),
        (["PA"], {"copd": "uncertain", "pneumothorax": "present"}, "a finding that cannot be simulated yet"),
        (["PA"], {"copd": "present", "pneumonia": "present"}, "a finding that cannot be simulated yet"),
        (
            ["PA"],
            {"heart_failure": "present", "cardiomegaly": "absent"},
            "a finding whose only renderable form is denied",
        ),
        (
            ["PA"],
            {"pneumonia": "present", "consolidation": "absent"},
            "a finding whose only renderable form is denied",
        ),
    ],
)
def test_who_is_eligible_and_why_not(views, statuses, reason):
    assert select_one(views, **statuses).excluded == {reason or selection.NOT_NEEDED: 1}


def test_a_diagnosis_counts_instead_of_the_finding_by_which_it_is_seen():
    def counted(**statuses):
        return set(select_one(n=1, **statuses).counts["finding"])

    assert counted(pneumonia="present", lung_opacity="present") == {"pneumonia"}
    assert counted(pneumonia="present", heart_failure="present", pneumothorax="present") == {
        "pneumonia", "heart failure", "pneumothorax",
    }  # fmt: skip
    assert counted(pneumonia="absent", consolidation="present") == {"consolidation"}
    assert counted(pneumonia="uncertain", cardiomegaly="present") == {"cardiomegaly"}
    assert counted(pneumonia="absent") == {"no finding"}


STATUS = st.sampled_from(["present", "absent", "uncertain"])
NAMES = ["pleural effusion", "consolidation", "lung opacity", "edema", "pneumonia", "copd"]


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(NAMES), STATUS, max_size=3),
            st.sampled_from(["PA", "LATERAL"]),
            st.sampled_from(["train", "test", "external"]),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 3),
)
@settings(max_examples=20)
def test_every_study_of_the_asked_splits_is_counted_once(rows, n):
    studies = studies_of(
        *(study(f"t/{i}/1", views=[view], split=split) for i, (_, view, split) in enumerate(rows))
    )
    facts = [(f"t/{i}/1", name, s, 1) for i, row in enumerate(rows) for name, s in row[0].items()]
    wanted = sum(split != "external" for *_, split in rows)
    try:
        chosen = selection.select(studies, findings_of(*facts), {"train": n, "test": n}, seed=0)
    except ValueError as error:
        assert "lower the cohort's size" in str(error)
        return
    assert len(chosen.cases) == 2 * n
    assert sum(chosen.excluded.values()) + len(chosen.cases) == wanted
    assert (chosen.counts["cases"] <= chosen.counts["available"]).all()


def many(n: int = 400) -> tuple[pl.DataFrame, pl.DataFrame]:
    """n patients with two studies each; rarer findings for higher numbers."""
    rows, facts = [], []
    for i in range(n):
        name = RENDERABLE[min(4, i % 40 // 8)] if i % 3 else None
        for k in (1, 2):
            prior = f"t/p{i}/1" if k == 2 else None
            rows.append(study(f"t/p{i}/{k}", order=k - 1, prior_study_id=prior))
            facts.append((f"t/p{i}/{k}", name or "edema", "present" if name else "absent", 1))
    return studies_of(*rows), findings_of(*facts)


def test_cases_are_even_over_findings_and_a_share_has_priors():
    studies, findings = many()
    chosen = selection.select(studies, findings, {"train": 120}, seed=0)
    counts = dict(chosen.counts.select("finding", "cases").iter_rows())
    assert set(counts) == {*RENDERABLE, selection.NO_FINDING} and set(counts.values()) == {20}
    share = chosen.cases["prior_study_id"].is_not_null().mean()
    assert abs(share - selection.PRIOR_SHARE) < 0.02
    shown = {*chosen.cases["sample_id"], *chosen.priors["sample_id"]}
    assert set(chosen.cases["prior_study_id"].drop_nulls()) <= shown
    assert not set(chosen.cases["sample_id"]) & set(chosen.priors["sample_id"])


@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_the_choice_does_not_depend_on_row_order(seed):
    studies, findings = many(60)
    one = selection.select(studies, findings, {"train": 30}, seed=seed)
    other = selection.select(
        studies.sample(fraction=1, shuffle=True, seed=seed), findings.reverse(), {"train": 30}, seed=seed
    )
    assert one.cases.equals(other.cases) and one.counts.equals(other.counts)
    assert one.excluded == other.excluded


def test_too_few_studies_is_one_line():
    studies, findings = many(5)
    with pytest.raises(ValueError, match="lower the cohort's size"):
        selection.select(studies, findings, {"train": 1000}, seed=0)


def test_futures_are_of_the_same_split_and_at_hand():
    studies = studies_of(
        study("t/a/1", next_study_id="t/a/2"), study("t/a/2", order=1, next_study_id="t/a/3"),
        study("t/b/1", next_study_id="t/b/2"), study("t/b/2", order=1, split="test"),
        study("t/c/1", next_study_id="t/c/2"), study("t/d/1"),
    )  # fmt: skip
    stated = [(name, "pneumothorax", "present", 1) for name in studies["sample_id"] if name != "t/a/2"]
    findings = findings_of(*stated, ("t/a/2", "edema", "present", 1))
    chosen = selection.select(studies, findings, {"train": 4}, seed=0)
    links = dict(chosen.cases.select("sample_id", "next_study_id").iter_rows())
    assert links == {"t/a/1": "t/a/2", "t/b/1": None, "t/c/1": None, "t/d/1": None}
    assert chosen.futures["sample_id"].to_list() == ["t/a/2"] and chosen.priors.is_empty()
    assert "edema" in chosen.findings["finding"]


def test_external_cases_stand_alone_and_only_adjudicated_studies_of_nih_count(tmp_path, monkeypatch):
    studies = studies_of(
        study("nih/1/a", source="nih", split="external", next_study_id="nih/1/b"),
        study("nih/1/b", source="nih", split="external", order=1, prior_study_id="nih/1/a"),
        study("nih/2/a", source="nih", split="external"),
        study("openi/1/a", source="openi", split="external"),
    )
    findings = findings_of(*((name, "pneumothorax", "present", 1) for name in studies["sample_id"]))
    panel = pl.col("sample_id").is_in(["nih/1/a", "nih/1/b"])
    findings = findings.with_columns(
        source_column=pl.when(panel).then(pl.lit("nih: google2019 Pneumothorax")).otherwise(pl.lit("x"))
    )
    studies.write_parquet(tmp_path / "studies.parquet")
    findings.write_parquet(tmp_path / "findings.parquet")
    monkeypatch.setattr(paths, "DATASET", tmp_path)
    sizes = {"training": {}, "external": {"nih": 1, "openi": 1}}
    nih = selection.choose("nih", sizes, seed=0)
    assert nih.excluded == {selection.NOT_ADJUDICATED: 1, selection.NOT_NEEDED: 1}
    assert nih.cases["sample_id"][0] in ("nih/1/a", "nih/1/b")
    assert nih.cases.null_count().select("prior_study_id", "next_study_id").row(0) == (1, 1)
    assert nih.priors.is_empty() and nih.futures.is_empty()
    openi = selection.choose("openi", sizes, seed=0)
    assert openi.cases["sample_id"].to_list() == ["openi/1/a"] and openi.excluded == {}
    with pytest.raises(ValueError, match="params.yaml sizes training, nih, openi"):
        selection.choose("vindr", sizes, seed=0)
