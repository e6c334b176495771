"""cohort.py: which studies become cases, and the tables and files of a small cohort, end to end."""

import hashlib
import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrtrek_lib import cohort, pretrain, schema, tables
from cxrtrek_lib.simulate import RENDERABLE, truth_tables


def studies_frame(rows: list[dict]) -> pl.DataFrame:
    defaults = {
        "source": "t", "study_id": "s", "order": 0, "prior_study_id": None, "next_study_id": None,
        "split": "train", "views": ["PA"], "images": ["a.jpg"], "image_origin": "none", "exposure": None,
        "quality": None,
        "age": None, "sex": None, "findings_text": None, "impression_text": None,
    }  # fmt: skip
    full = [{**defaults, "patient_id": row["sample_id"].rsplit("/", 1)[0], **row} for row in rows]
    return tables.conform("studies", pl.DataFrame(full, schema_overrides=tables.STUDIES))


def findings_frame(rows: list[tuple]) -> pl.DataFrame:
    fixed = {
        "evidence_tier": 1,
        "laterality": None,
        "location": None,
        "severity": None,
        "certainty": None,
        "source_column": "t: x",
    }
    full = [{"sample_id": s, "finding": f, "status": status, **fixed} for s, f, status in rows]
    return tables.conform("findings", pl.DataFrame(full, schema=tables.FINDINGS))


def select_one(views=("PA",), **statuses) -> cohort.Selection:
    """The selection from one study with these findings (underscores for blanks)."""
    studies = studies_frame([{"sample_id": "t/p/1", "views": list(views)}])
    rows = [("t/p/1", name.replace("_", " "), status) for name, status in statuses.items()]
    return cohort.select(studies, findings_frame(rows), {"train": 0}, seed=0)


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
        (["PA"], {"pneumothorax": "uncertain"}, "nothing present, something uncertain"),
        (["PA"], {}, "no finding stated present or absent"),
        (
            ["PA"],
            {"lung_opacity": "present", "consolidation": "absent"},
            "a general finding whose only renderable form is denied",
        ),
    ],
)
def test_who_is_eligible_and_why_not(views, statuses, reason):
    assert select_one(views, **statuses).excluded == ({reason: 1} if reason else {})


def many(n: int = 400) -> tuple[pl.DataFrame, pl.DataFrame]:
    """n patients with two studies each; rarer findings for higher numbers."""
    rows, facts = [], []
    for i in range(n):
        name = RENDERABLE[min(4, i % 40 // 8)] if i % 3 else None
        for k in (1, 2):
            prior = f"t/p{i}/1" if k == 2 else None
            rows.append({"sample_id": f"t/p{i}/{k}", "order": k - 1, "prior_study_id": prior})
            facts.append((f"t/p{i}/{k}", name or "edema", "present" if name else "absent"))
    return studies_frame(rows), findings_frame(facts)


def test_cases_are_even_over_findings_and_a_share_has_priors():
    studies, findings = many()
    selection = cohort.select(studies, findings, {"train": 120}, seed=0)
    counts = dict(selection.counts.select("finding", "cases").iter_rows())
    assert set(counts) == {*RENDERABLE, cohort.NO_FINDING} and set(counts.values()) == {20}
    share = selection.cases["prior_study_id"].is_not_null().mean()
    assert abs(share - cohort.PRIOR_SHARE) < 0.02
    shown = {*selection.cases["sample_id"], *selection.priors["sample_id"]}
    assert set(selection.cases["prior_study_id"].drop_nulls()) <= shown
    assert not set(selection.cases["sample_id"]) & set(selection.priors["sample_id"])
    none = cohort.select(studies, findings, {"train": 120}, seed=0, prior_share=0.0)
    assert none.cases["prior_study_id"].null_count() == 120 and none.priors.is_empty()


@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_the_choice_does_not_depend_on_row_order(seed):
    studies, findings = many(60)
    one = cohort.select(studies, findings, {"train": 30}, seed=seed)
    other = cohort.select(
        studies.sample(fraction=1, shuffle=True, seed=seed), findings.reverse(), {"train": 30}, seed=seed
    )
    assert one.cases.equals(other.cases) and one.counts.equals(other.counts)


def test_too_few_studies_is_one_line():
    studies, findings = many(5)
    with pytest.raises(ValueError, match="lower the cohort's size"):
        cohort.select(studies, findings, {"train": 1000}, seed=0)


def test_only_adjudicated_studies_of_nih():
    studies = studies_frame([{"sample_id": "nih/1/a"}, {"sample_id": "nih/2/a"}])
    findings = findings_frame([("nih/1/a", "pneumothorax", "absent"), ("nih/2/a", "pneumothorax", "absent")])
    panel = findings.with_columns(
        source_column=pl.Series(["nih: google2019 Pneumothorax", "nih: Finding Labels"])
    )
    assert cohort.adjudicated(studies, panel)["sample_id"].to_list() == ["nih/1/a"]


@pytest.fixture(scope="module")
def small() -> cohort.Selection:
    """Four cases: an effusion with a prior that had a pneumothorax, two single studies, one normal."""
    studies = studies_frame([
        {"sample_id": "t/a/1", "order": 0, "next_study_id": "t/a/2"},
        {"sample_id": "t/a/2", "order": 1, "prior_study_id": "t/a/1", "views": ["AP", "LATERAL"]},
        {"sample_id": "t/b/1", "sex": "F"}, {"sample_id": "t/c/1", "split": "test"}, {"sample_id": "t/d/1"},
    ])  # fmt: skip
    findings = findings_frame([
        ("t/a/1", "pneumothorax", "present"), ("t/a/1", "lung opacity", "uncertain"),
        ("t/a/2", "pleural effusion", "present"), ("t/b/1", "support devices", "present"),
        ("t/c/1", "lung opacity", "present"), ("t/d/1", "pneumothorax", "absent"),
    ])  # fmt: skip
    chosen = cohort.select(studies, findings, {"train": 4, "test": 1}, seed=0, prior_share=1.0)
    # The study before the effusion as a prior only, not as a case of its own.
    first = chosen.cases.filter(pl.col("sample_id") == "t/a/1")
    return chosen._replace(cases=chosen.cases.filter(pl.col("sample_id") != "t/a/1"), priors=first)


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    summary = cohort.make("t", small, size_px=128, seed=0, workers=2, folder=folder)
    return folder, summary


def digests(folder) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_cohort_is_complete(made):
    folder, summary = made
    studies = tables.read_table("studies", folder / "studies.parquet")
    assert sorted(studies["sample_id"]) == ["t/a/2", "t/b/1", "t/c/1", "t/d/1"]
    assert summary["n_films"] == 5 and summary["n_cases_with_prior"] == 1
    assert set(studies["image_origin"]) == {"simulated"} and studies["exposure"].null_count() == 0
    with_prior = studies.row(by_predicate=pl.col("sample_id") == "t/a/2", named=True)
    assert with_prior["views"] == ["AP"] and with_prior["images"] == ["png/t_a_2.png", "png/t_a_1.png"]
    for names in studies["images"]:
        for name in names:
            with Image.open(folder / name) as film:
                assert film.size == (128, 128) and film.text["image_origin"] == "simulated"


def test_truth_is_in_the_tables(made):
    folder, _ = made
    findings = tables.read_table("findings", folder / "findings.parquet")
    assert set(findings["source_column"]) == {"simulated"} and set(findings["evidence_tier"]) == {1}
    status = {(row["sample_id"], row["finding"]): row["status"] for row in findings.iter_rows(named=True)}
    assert status["t/a/2", "pleural effusion"] == "present" and status["t/a/2", "pacemaker"] == "absent"
    assert status["t/a/1", "pneumothorax"] == "present"  # the prior's truth is there too
    assert status["t/b/1", "support devices"] == status["t/b/1", "pacemaker"] == "present"
    assert status["t/c/1", "lung opacity"] == status["t/c/1", "consolidation"] == "present"
    assert status["t/d/1", "pneumothorax"] == "absent" and ("t/d/1", "lung opacity") not in status
    boxes = tables.read_table("boxes", folder / "boxes.parquet")
    assert boxes.filter(schema_box_wrong()).height == 0
    columns = ["target", "laterality", "x1", "y1", "x2", "y2"]
    second = boxes.filter((pl.col("sample_id") == "t/a/2") & (pl.col("image_id") == 2)).select(columns)
    first = boxes.filter(pl.col("sample_id") == "t/a/1").select(columns)
    assert second.sort(columns).equals(first.sort(columns)) and len(first) > 12
    scenes = pl.read_parquet(folder / "scenes.parquet")
    assert len(scenes) == 5 and "pleural effusion: laterality" in scenes["drawn"].explode().to_list()


def schema_box_wrong() -> pl.Expr:
    corners = [pl.col(c).is_between(0, 100) for c in ("x1", "y1", "x2", "y2")]
    return ~(pl.all_horizontal(corners) & (pl.col("x1") < pl.col("x2")) & (pl.col("y1") < pl.col("y2")))


def test_questions_are_about_the_cases_and_compare_with_the_prior(made):
    folder, _ = made
    qa = tables.read_table("qa", folder / "qa.parquet")
    studies = tables.read_table("studies", folder / "studies.parquet")
    assert set(qa["sample_id"]) == set(studies["sample_id"])
    assert set(qa.filter(pl.col("stage") == 5)["sample_id"]) == {"t/a/2"}
    assert not schema.validate(qa, studies)
    assert {1, 2, 3, 5, 8} <= set(qa["stage"])


def test_bytes_do_not_depend_on_workers_and_a_killed_run_goes_on(made, small, tmp_path):
    folder, _ = made
    whole = digests(folder)
    (tmp_path / "png").mkdir()
    # As a kill leaves it: one film whole, one cut off, a stray one; no tables.
    (tmp_path / "png" / "t_a_1.png").write_bytes((folder / "png" / "t_a_1.png").read_bytes())
    (tmp_path / "png" / "t_b_1.png").write_bytes((folder / "png" / "t_b_1.png").read_bytes()[:2000])
    (tmp_path / "png" / "stray.png").touch()
    before = (tmp_path / "png" / "t_a_1.png").stat().st_mtime_ns
    cohort.make("t", small, size_px=128, seed=0, workers=1, folder=tmp_path)
    assert digests(tmp_path) == whole
    assert (tmp_path / "png" / "t_a_1.png").stat().st_mtime_ns == before


def test_films_lists_every_film_once_with_its_truth(made):
    folder, _ = made
    films, findings, boxes = pretrain.films(folder)
    assert sorted(films["sample_id"]) == ["t/a/1", "t/a/2", "t/b/1", "t/c/1", "t/d/1"]
    assert dict(films.select("sample_id", "split").iter_rows())["t/c/1"] == "test"
    assert set(findings["sample_id"]) == set(boxes["sample_id"]) == set(films["sample_id"])
    assert set(boxes["image_id"]) == {1}


def test_a_hidden_finding_is_uncertain_not_absent():
    def row(finding, status):
        return {
            "finding": finding,
            "status": status,
            "laterality": None,
            "severity": "mild",
            "location": None,
        }

    told = {
        "t/a/1": {
            "findings": [row("pleural effusion", "present")],
            "not_visible": [row("consolidation", "present")],
        }
    }
    frame = truth_tables.findings(told, {"t/a/1": {"lung opacity": "consolidation"}})
    status = dict(frame.select("finding", "status").iter_rows())
    assert status == {
        "pleural effusion": "present",
        "consolidation": "uncertain",
        "lung opacity": "uncertain",
    }
    assert frame.filter(pl.col("status") == "uncertain")["severity"].null_count() == 2


def test_examples_show_every_finding(made):
    folder, _ = made
    films, titles, boxes = cohort.examples(folder)
    shown = {name for title in titles for name in title.split("\n")[0].split(", ")}
    assert {"pleural effusion", "pacemaker", "consolidation", cohort.NO_FINDING} <= shown
    assert len(films) == len(titles) == len(boxes) == 4 and films[0].shape == (128, 128)


def test_a_film_that_fails_is_named_after_the_others_are_done(small, tmp_path):
    spoilt = small._replace(
        cases=small.cases.with_columns(
            views=pl.when(pl.col("sample_id") == "t/b/1").then(pl.lit(["LATERAL"])).otherwise("views")
        )
    )
    with pytest.raises(ValueError, match="1 of 5 films failed; the first is t/b/1") as caught:
        cohort.make("t", spoilt, size_px=128, seed=0, workers=1, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "png").glob("*.png"))) == 4 and not (tmp_path / "studies.parquet").exists()


def test_the_summary_is_json_and_says_simulated(made):
    folder, summary = made
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["image_origin"] == "simulated"
