"""selection.py: which studies become cases, prior films and futures, and that none is lost from the count."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_by_hand import boxes as boxes_of
from tables_by_hand import findings as findings_of
from tables_by_hand import studies as studies_of

from cxrtrek_lib import paths, selection
from cxrtrek_lib.simulate.catalogue import IMPLIES, RENDERABLE


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
        (["PA"], {"lung_opacity": "present", "consolidation": "absent"}, None),
        (["LATERAL"], {"pneumothorax": "present"}, selection.NOT_FRONTAL),
        (["UNKNOWN"], {"pneumothorax": "present"}, selection.NOT_FRONTAL),
        (["PA"], {"pneumothorax": "uncertain"}, selection.SUSPECTED),
        (["PA"], {}, selection.NOTHING_STATED),
        # What no film shows
        (["PA"], {"pneumothorax": "present", "rib_fracture": "present"}, selection.NOT_SHOWN),
        (["PA"], {"pneumothorax": "present", "rib_fracture": "uncertain"}, None),
        (["PA"], {"pneumothorax": "present", "rib_fracture": "absent"}, None),
        (["PA"], {"rib_fracture": "uncertain"}, selection.SUSPECTED),
        (["PA"], {"tuberculosis": "present", "consolidation": "present"}, selection.NOT_SHOWN),
        # Denied where a film would show it
        (["PA"], {"airspace_opacity": "present", "consolidation": "absent"}, selection.CONTRADICTED),
        (["PA"], {"consolidation": "present", "lung_opacity": "absent"}, selection.CONTRADICTED),
        (["PA"], {"consolidation": "uncertain", "lung_opacity": "absent"}, selection.CONTRADICTED),
        (
            ["PA"],
            {"pleural_effusion": "present", "costophrenic_angle_blunting": "absent"},
            selection.CONTRADICTED,
        ),
        # Diagnoses
        (["PA"], {"pneumonia": "present"}, None),
        (["PA"], {"pneumonia": "absent"}, None),
        (["PA"], {"pneumonia": "uncertain"}, selection.SUSPECTED),
        (["PA"], {"pneumonia": "uncertain", "pleural_effusion": "present"}, None),
        (["PA"], {"pneumonia": "uncertain", "consolidation": "absent", "pneumothorax": "present"}, None),
        (["PA"], {"pneumonia": "absent", "consolidation": "present"}, None),
        (["PA"], {"heart_failure": "present"}, None),
        (["PA"], {"heart_failure": "present", "cardiomegaly": "absent"}, None),
        (
            ["PA"],
            {"heart_failure": "present", "cardiomegaly": "absent", "edema": "absent"},
            selection.CONTRADICTED,
        ),
        (["PA"], {"pneumonia": "present", "consolidation": "absent"}, selection.CONTRADICTED),
        (["PA"], {"copd": "absent", "pneumothorax": "present"}, None),
        (["PA"], {"copd": "uncertain"}, None),
        (["PA"], {"copd": "uncertain", "hyperinflation": "absent"}, selection.SUSPECTED),
    ],
)
def test_who_is_eligible_and_why_not(views, statuses, reason):
    assert select_one(views, **statuses).excluded == {reason or selection.NOT_NEEDED: 1}


def counted(**statuses) -> set[str]:
    return set(select_one(n=1, **statuses).counts["finding"])


def test_a_diagnosis_counts_instead_of_the_findings_by_which_it_is_seen():
    assert counted(pneumonia="present", lung_opacity="present") == {"pneumonia"}
    assert counted(pneumonia="present", heart_failure="present", pneumothorax="present") == {
        "pneumonia", "heart failure", "pneumothorax",
    }  # fmt: skip
    assert counted(pneumonia="absent", consolidation="present") == {"consolidation"}
    assert counted(pneumonia="uncertain", cardiomegaly="present") == {"cardiomegaly"}
    assert counted(pneumonia="absent") == {"no finding"}
    assert counted(heart_failure="present", edema="present", cardiomegaly="present") == {"heart failure"}
    assert counted(copd="uncertain") == {"copd"}


def test_what_a_finding_implies_is_not_counted_beside_it():
    assert counted(consolidation="present", lung_opacity="present") == {"consolidation"}
    assert counted(lung_opacity="present", consolidation="uncertain") == {"lung opacity"}
    assert counted(pleural_effusion="present", costophrenic_angle_blunting="present") == {"pleural effusion"}
    assert counted(emphysema="present", hyperinflation="present") == {"emphysema"}


STATUS = st.sampled_from(["present", "absent", "uncertain"])
NAMES = ["pleural effusion", "consolidation", "lung opacity", "rib fracture", "pneumonia", "lung lesion"]


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


def many(n: int = 300, kinds: int = 9) -> tuple[pl.DataFrame, pl.DataFrame]:
    """n patients with two studies each: of kinds + 1 of them one is normal, the others have one finding each.

    Some of the later studies have scoliosis as well, which is rare.
    """
    implied = {other for name in RENDERABLE for other in IMPLIES[name]}
    names = [name for name in RENDERABLE if name not in implied]
    rows, facts = [], []
    for i in range(n):
        name = names[i % (kinds + 1)] if i % (kinds + 1) < kinds else None
        for k in (1, 2):
            prior = f"t/p{i}/1" if k == 2 else None
            rows.append(study(f"t/p{i}/{k}", order=k - 1, prior_study_id=prior))
            facts.append((f"t/p{i}/{k}", name or "edema", "present" if name else "absent", 1))
            if i % 30 in (0, 1) and k == 2:
                facts.append((f"t/p{i}/{k}", "scoliosis", "present", 1))
    return studies_of(*rows), findings_of(*facts)


def test_cases_are_even_over_findings_and_a_share_has_priors():
    studies, findings = many()
    chosen = selection.select(studies, findings, {"train": 100}, seed=0)
    counts = dict(chosen.counts.select("finding", "cases").iter_rows())
    normal, scoliosis = counts.pop(selection.NO_FINDING), counts.pop("scoliosis")
    assert len(counts) == 9 and sum(counts.values()) + normal == 100
    # Normal cases count half. What comes along (scoliosis) is as common as what is looked for.
    assert max(counts.values()) - min(counts.values()) <= 1 and abs(normal - 2 * min(counts.values())) <= 2
    assert abs(scoliosis - min(counts.values())) <= 2
    share = chosen.cases["prior_study_id"].is_not_null().mean()
    assert abs(share - selection.PRIOR_SHARE) < 0.02
    shown = {*chosen.cases["sample_id"], *chosen.priors["sample_id"]}
    assert set(chosen.cases["prior_study_id"].drop_nulls()) <= shown
    assert not set(chosen.cases["sample_id"]) & set(chosen.priors["sample_id"])


def test_a_kind_that_runs_out_leaves_its_place_to_the_others():
    studies, findings = many(40, 3)
    rare = findings_of(("t/p0/1", "hiatal hernia", "present", 1))
    findings = pl.concat([findings.filter(pl.col("sample_id") != "t/p0/1"), rare])
    chosen = selection.select(studies, findings, {"train": 30}, seed=0)
    counts = dict(chosen.counts.select("finding", "cases").iter_rows())
    assert counts["hiatal hernia"] == 1 and len(chosen.cases) == 30


@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_the_choice_does_not_depend_on_row_order(seed):
    studies, findings = many(60, 4)
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
    findings = findings_of(*stated, ("t/a/2", "rib fracture", "present", 1))
    chosen = selection.select(studies, findings, {"train": 4}, seed=0)
    links = dict(chosen.cases.select("sample_id", "next_study_id").iter_rows())
    assert links == {"t/a/1": "t/a/2", "t/b/1": None, "t/c/1": None, "t/d/1": None}
    assert chosen.futures["sample_id"].to_list() == ["t/a/2"] and chosen.priors.is_empty()
    assert "rib fracture" in chosen.findings["finding"]  # a next study needs no film


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


def test_readers_boxes_go_to_the_lung_in_whose_half_they_lie_and_two_in_one_lung_put_a_film_out(
    tmp_path, monkeypatch
):
    studies = studies_of(*(study(f"rsna/{i}", source="rsna", split="external") for i in "abc"))
    findings = findings_of(*((name, "lung opacity", "present", 1) for name in studies["sample_id"]))
    # Film's left half = patient's right. c has two boxes in its right lung.
    boxes = boxes_of(
        ("rsna/a", 1, "lung opacity", 10, 20, 30, 40), ("rsna/a", 1, "lung opacity", 60, 20, 80, 40),
        ("rsna/b", 1, "lung opacity", 45, 20, 60, 40),
        ("rsna/c", 1, "lung opacity", 10, 10, 30, 30), ("rsna/c", 1, "lung opacity", 10, 50, 30, 70),
    )  # fmt: skip
    for name, table in (("studies", studies), ("findings", findings), ("boxes", boxes)):
        table.write_parquet(tmp_path / f"{name}.parquet")
    monkeypatch.setattr(paths, "DATASET", tmp_path)
    chosen = selection.choose("rsna", {"training": {}, "external": {"rsna": 2}}, seed=0)
    assert sorted(chosen.cases["sample_id"]) == ["rsna/a", "rsna/b"]
    assert chosen.excluded == {selection.SEVERAL_BOXES: 1}
    sides = chosen.marks.filter(pl.col("sample_id") != "rsna/c").sort("sample_id", "x1")
    assert sides["laterality"].to_list() == ["right", "left", "left"]
