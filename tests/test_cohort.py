"""cohort.py: the films, tables and questions of a small cohort, end to end."""

import hashlib
import json
import re

import polars as pl
import pytest
from PIL import Image
from tables_by_hand import findings as findings_of
from tables_by_hand import studies as studies_of

from cxrtrek_lib import cohort, pretrain, schema, selection, tables
from cxrtrek_lib.conversations import STAGES
from cxrtrek_lib.findings import DIAGNOSES
from cxrtrek_lib.simulate import truth_tables
from cxrtrek_lib.sources import chexpert


@pytest.fixture(scope="module")
def small() -> selection.Selection:
    """Five cases: an effusion with a prior that had a pneumothorax; a pacemaker and, as a case of its own,
    the same patient's next study; a pneumonia of which only the annotation knows what followed; a normal one.
    """
    rows = [
        {"sample_id": "t/a/1", "next_study_id": "t/a/2"},
        {"sample_id": "t/a/2", "order": 1, "prior_study_id": "t/a/1", "views": ["AP", "LATERAL"]},
        {"sample_id": "t/b/1", "sex": "F", "next_study_id": "t/b/2"}, {"sample_id": "t/b/2", "order": 1},
        {"sample_id": "t/c/1", "split": "test", "next_study_id": "t/c/2"},
        {"sample_id": "t/c/2", "split": "test", "order": 1},
        {"sample_id": "t/d/1"},
    ]  # fmt: skip
    studies = studies_of(*({"patient_id": row["sample_id"][:-2], **row} for row in rows))
    findings = findings_of(
        ("t/a/1", "pneumothorax", "present", 1), ("t/a/1", "lung opacity", "uncertain", 1),
        ("t/a/2", "pleural effusion", "present", 1), ("t/a/2", "pneumonia", "uncertain", 1),
        ("t/b/1", "support devices", "present", 1),
        ("t/b/2", "pleural effusion", "present", 1), ("t/b/2", "support devices", "present", 1),
        ("t/c/1", "lung opacity", "present", 1), ("t/c/1", "pneumonia", "present", 1, "left"),
        ("t/c/2", "pneumonia", "absent", 1), ("t/c/2", "lung opacity", "absent", 1),
        ("t/c/2", "pleural effusion", "present", 1, "left", "severe", "base"),
        ("t/c/2", "edema", "present", 1),
        ("t/d/1", "pneumothorax", "absent", 1), ("t/d/1", "pneumonia", "absent", 2),
    )  # fmt: skip
    chosen = selection.select(studies, findings, {"train": 5, "test": 1}, seed=0)
    # The study before the effusion as a prior only, not as a case of its own.
    first = chosen.cases.filter(pl.col("sample_id") == "t/a/1")
    others = pl.col("sample_id").is_in(["t/b/2", "t/c/2"])
    return chosen._replace(
        cases=chosen.cases.filter(pl.col("sample_id") != "t/a/1"),
        priors=first,
        futures=studies.filter(others),
    )


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
    assert sorted(studies["sample_id"]) == ["t/a/2", "t/b/1", "t/b/2", "t/c/1", "t/d/1"]
    assert summary["n_films"] == 6 and summary["n_cases_with_prior"] == 1
    assert summary["n_cases_with_next_study"] == 2
    assert set(studies["image_origin"]) == {"simulated"} and studies["exposure"].null_count() == 0
    with_prior = studies.row(by_predicate=pl.col("sample_id") == "t/a/2", named=True)
    assert with_prior["views"] == ["AP"] and with_prior["images"] == ["png/t_a_2.png", "png/t_a_1.png"]
    links = dict(studies.select("sample_id", "next_study_id").drop_nulls().iter_rows())
    assert links == {"t/b/1": "t/b/2", "t/c/1": "t/c/2"}
    for names in studies["images"]:
        for name in names:
            with Image.open(folder / name) as film:
                assert film.size == (128, 128) and film.text["image_origin"] == "simulated"


def test_truth_is_in_the_tables(made):
    folder, _ = made
    findings = tables.read_table("findings", folder / "findings.parquet")
    told = findings.filter(pl.col("source_column") == "simulated")
    assert set(told["evidence_tier"]) == {1} and "pneumonia" not in told["finding"]
    status = {(row["sample_id"], row["finding"]): row["status"] for row in told.iter_rows(named=True)}
    assert status["t/a/2", "pleural effusion"] == "present" and status["t/a/2", "pacemaker"] == "absent"
    assert status["t/a/1", "pneumothorax"] == "present"  # the prior's truth is there too
    assert status["t/b/1", "support devices"] == status["t/b/1", "pacemaker"] == "present"
    assert status["t/c/1", "lung opacity"] == status["t/c/1", "consolidation"] == "present"
    assert status["t/d/1", "pneumothorax"] == "absent" and ("t/d/1", "lung opacity") not in status
    assert not {name for name, _ in status} & {"t/c/2"}  # a next study has no film, so no truth
    boxes = tables.read_table("boxes", folder / "boxes.parquet")
    assert boxes.filter(schema_box_wrong()).height == 0
    columns = ["target", "laterality", "x1", "y1", "x2", "y2"]
    second = boxes.filter((pl.col("sample_id") == "t/a/2") & (pl.col("image_id") == 2)).select(columns)
    first = boxes.filter(pl.col("sample_id") == "t/a/1").select(columns)
    assert second.sort(columns).equals(first.sort(columns)) and len(first) > 12
    scenes = pl.read_parquet(folder / "scenes.parquet")
    assert len(scenes) == 6 and "pleural effusion: laterality" in scenes["drawn"].explode().to_list()


def test_a_diagnosis_stays_what_the_annotation_says(made):
    folder, _ = made
    findings = tables.read_table("findings", folder / "findings.parquet")
    stated = findings.filter(pl.col("finding") == "pneumonia").sort("sample_id")
    assert stated.select("sample_id", "status", "evidence_tier", "source_column").rows() == [
        ("t/a/2", "uncertain", 1, "made: pneumonia"), ("t/c/1", "present", 1, "made: pneumonia"),
        ("t/d/1", "absent", 2, "made: pneumonia"),
    ]  # fmt: skip
    assert stated.select("laterality", "location", "severity").null_count().row(0) == (3, 3, 3)
    # A pneumonia that the annotation puts on the left is a consolidation on the left; one that is only
    # suspected puts nothing on the film.
    opacity = findings.filter(pl.col("finding") == "consolidation")
    sides = {row["sample_id"]: (row["status"], row["laterality"]) for row in opacity.iter_rows(named=True)}
    assert sides["t/c/1"] == ("present", "left") and sides["t/a/2"] == ("absent", None)


def test_a_diagnosis_whose_sign_is_hidden_is_uncertain():
    annotated = findings_of(
        ("t/1/1", "pneumonia", "present", 1, "left", None, None, "definite"),
        ("t/2/1", "pneumonia", "present", 1, "left", None, None, "definite"),
        ("t/2/1", "heart failure", "present", 1), ("t/2/1", "copd", "absent", 2),
        ("t/2/1", "pleural effusion", "present", 1), ("t/3/1", "pneumonia", "present", 1),
    )  # fmt: skip
    shown = {
        "t/1/1": ["consolidation"],
        "t/2/1": ["cardiomegaly"],
    }
    told = {
        sample_id: {"findings": [{"finding": name, "status": "present"} for name in names]}
        for sample_id, names in shown.items()
    }
    told["t/2/1"]["findings"].append({"finding": "consolidation", "status": "absent"})
    rows = cohort.diagnoses(annotated, told)
    assert rows.select("sample_id", "finding", "status", "certainty").rows() == [
        ("t/1/1", "pneumonia", "present", "definite"), ("t/2/1", "pneumonia", "uncertain", None),
        ("t/2/1", "heart failure", "present", None), ("t/2/1", "copd", "absent", None),
    ]  # fmt: skip
    assert rows["laterality"].null_count() == 4


def schema_box_wrong() -> pl.Expr:
    corners = [pl.col(c).is_between(0, 100) for c in ("x1", "y1", "x2", "y2")]
    return ~(pl.all_horizontal(corners) & (pl.col("x1") < pl.col("x2")) & (pl.col("y1") < pl.col("y2")))


def test_questions_are_about_the_cases_and_compare_with_the_prior(made):
    folder, _ = made
    qa = tables.read_table("qa", folder / "qa.parquet")
    studies = tables.read_table("studies", folder / "studies.parquet")
    assert set(qa["sample_id"]) == set(studies["sample_id"])
    assert set(qa.filter(pl.col("stage") == 5)["sample_id"]) == {"t/a/2"}
    assert schema.validate(schema.Cases(studies, qa, "made")).lines() == []
    assert {1, 2, 3, 5, 6, 8} <= set(qa["stage"])


def test_the_future_is_told_by_its_annotation_without_sides_and_grades(made):
    folder, _ = made
    qa = tables.read_table("qa", folder / "qa.parquet").filter(pl.col("stage") == 6)
    assert set(qa["sample_id"]) == {"t/b/1", "t/c/1"}
    told = dict(qa.filter(pl.col("qtype") == "captioning").select("sample_id", "answer").iter_rows())
    for sample_id, answer in told.items():
        new = re.search(r"New: ([^.]*)\.", answer)[1]
        assert new == "pleural effusion"  # neither left nor severe, and no edema, which no film of ours shows
        resolved = re.search(r"Resolved: ([^.]*)\.", answer)
        gone = set() if resolved is None else set(resolved[1].split(", "))
        assert gone == ({"pneumonia"} if sample_id == "t/c/1" else set())
    for fact, answer, evidence in qa.select("fact", "answer", "evidence").iter_rows():
        if fact == "pleural effusion|next":
            assert re.search(r"\b(new|pleural effusion)$", answer)
            assert evidence == "simulated; next made: pleural effusion"
    assert not qa["evidence"].str.contains(cohort.AS_ANNOTATED, literal=True).any()


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
    assert sorted(films["sample_id"]) == ["t/a/1", "t/a/2", "t/b/1", "t/b/2", "t/c/1", "t/d/1"]
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


def quality(rotation: float, exposure: str = "adequate", left: float = 4.0) -> list[str] | None:
    lungs = {"left lung": [50.0, 5.0, 96.0, 80.0], "right lung": [left, 5.0, 49.0, 80.0]}
    return truth_tables.quality({"rotation_deg": rotation, "exposure": exposure, "regions": lungs})


def test_quality_names_defects_only_where_they_are_plain():
    assert quality(3.0) == [] and quality(-3.0, "overexposed") == ["overexposed"]
    assert quality(5.5) == quality(-5.5) == ["rotated"]
    assert quality(-5.5, "underexposed") == ["rotated", "underexposed"]
    assert quality(4.2) is None and quality(4.2, "underexposed") is None
    assert quality(0.0, left=0.0) is None  # the film cuts off a lung


def test_quality_is_that_of_the_scene(made):
    folder, _ = made
    scenes = pl.read_parquet(folder / "scenes.parquet")
    rows = {row["sample_id"]: row for row in scenes.iter_rows(named=True)}
    studies = tables.read_table("studies", folder / "studies.parquet")
    for sample_id, defects in studies.select("sample_id", "quality").iter_rows():
        assert defects == rows[sample_id]["quality"]
    for row in scenes.drop_nulls("quality").iter_rows(named=True):
        assert ("rotated" in row["quality"]) == (abs(row["rotation_deg"]) > 5)
        assert (row["exposure"] in row["quality"]) == (row["exposure"] != "adequate")


def test_examples_show_every_finding(made):
    folder, _ = made
    films, titles, boxes = cohort.examples(folder)
    shown = {name for title in titles for name in title.split("\n")[0].split(", ")}
    assert {"pleural effusion", "pacemaker", "consolidation", selection.NO_FINDING} <= shown
    assert len(films) == len(titles) == len(boxes) == 5 and films[0].shape == (128, 128)


def test_a_film_that_fails_is_named_after_the_others_are_done(small, tmp_path):
    spoilt = small._replace(
        cases=small.cases.with_columns(
            views=pl.when(pl.col("sample_id") == "t/b/1").then(pl.lit(["LATERAL"])).otherwise("views")
        )
    )
    with pytest.raises(ValueError, match="1 of 6 films failed; the first is t/b/1") as caught:
        cohort.make("t", spoilt, size_px=128, seed=0, workers=1, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "png").glob("*.png"))) == 5 and not (tmp_path / "studies.parquet").exists()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Twelve cases chosen, as any cohort is, from the first 400 patients of CheXpert in hash order."""
    table = chexpert.read(None, 400)
    studies = table.studies.with_columns(split=pl.lit("train"))
    chosen = selection.select(studies, table.findings, {"train": 12}, seed=0)
    folder = tmp_path_factory.mktemp("films")
    cohort.make("t", chosen, size_px=128, seed=0, workers=2, folder=folder)
    cases = tables.read_table("studies", folder / "studies.parquet")
    return chosen, cases, tables.read_table("qa", folder / "qa.parquet")


def test_a_cohort_of_real_annotations_has_all_stages_and_as_many_questions_as_the_paper(real):
    _, cases, qa = real
    assert schema.validate(schema.Cases(cases, qa, "made")).lines() == []
    assert set(qa["stage"]) == set(STAGES)
    assert qa.height / cases.height >= 26  # the paper: 26.29 per sample


def test_diagnoses_and_futures_are_traced_to_the_annotation(real):
    chosen, cases, qa = real
    seen = qa.filter(pl.col("stage").is_between(2, 4))
    names = pl.concat_str("fact", pl.col("target").fill_null(""))
    assert seen.filter(names.str.contains_any(sorted(DIAGNOSES))).is_empty()
    stated = chosen.findings.group_by("sample_id").agg(pl.col("source_column").unique())
    columns = dict(stated.iter_rows())
    following = dict(cases.select("sample_id", "next_study_id").iter_rows())
    for sample_id, stage, evidence in qa.select("sample_id", "stage", "evidence").iter_rows():
        own = set(evidence.replace("next ", "").split("; ")) - {"simulated"}
        if stage == 6:
            assert own & set(columns[following[sample_id]]), (sample_id, evidence)
        if stage == 7:
            assert own <= set(columns[sample_id]) or evidence == "simulated", (sample_id, evidence)


def test_the_summary_is_json_and_says_simulated(made):
    folder, summary = made
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["image_origin"] == "simulated"
