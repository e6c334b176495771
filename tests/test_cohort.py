"""cohort.py: the films, tables and questions of a small cohort, end to end."""

import hashlib
import json
import re

import polars as pl
import pytest
from PIL import Image
from tables_by_hand import boxes as boxes_of
from tables_by_hand import findings as findings_of
from tables_by_hand import studies as studies_of

from cxrtrek_lib import cohort, contact_sheet, pretrain, schema, selection, signs, tables
from cxrtrek_lib.conversations import STAGES
from cxrtrek_lib.findings import DIAGNOSES
from cxrtrek_lib.simulate import truth_tables
from cxrtrek_lib.simulate.catalogue import RENDERABLE
from cxrtrek_lib.sources import chexpert


@pytest.fixture(scope="module")
def small() -> selection.Selection:
    """Five cases: an effusion with a prior that had a pneumothorax, a nodule in both; a device and, as a case
    of its own, the same patient's next study; a pneumonia of which only the annotation knows what followed; a
    normal one.
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
        ("t/a/1", "nodule", "present", 1, "right"),
        ("t/a/2", "pleural effusion", "present", 1, None, "moderate"), ("t/a/2", "pneumonia", "uncertain", 1),
        ("t/a/2", "nodule", "present", 1, "right"),
        ("t/b/1", "support devices", "present", 1),
        ("t/b/2", "pleural effusion", "present", 1), ("t/b/2", "support devices", "present", 1),
        ("t/c/1", "lung opacity", "present", 1), ("t/c/1", "pneumonia", "present", 1, "left"),
        ("t/c/1", "airspace opacity", "present", 1),
        ("t/c/2", "pneumonia", "absent", 1), ("t/c/2", "airspace opacity", "absent", 1),
        ("t/c/2", "pleural effusion", "present", 1, "left", "severe", "base"),
        ("t/c/2", "rib fracture", "present", 1),
        ("t/d/1", "pneumothorax", "absent", 1), ("t/d/1", "pneumonia", "absent", 2),
        ("t/d/1", "support devices", "absent", 1),
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


def device_of(small) -> str:
    """What patient b's "support devices" are shown as."""
    studies = pl.concat([small.cases, small.priors])
    shown = signs.shown_as(small.findings, studies, 0).filter(sample_id="t/b/1")
    return shown["shown"].item()


def test_truth_is_in_the_tables(made, small):
    folder, _ = made
    findings = tables.read_table("findings", folder / "findings.parquet")
    told = findings.filter(pl.col("source_column") == "simulated")
    assert set(told["evidence_tier"]) == {1} and "pneumonia" not in told["finding"]
    status = {(row["sample_id"], row["finding"]): row["status"] for row in told.iter_rows(named=True)}
    assert len(status) == len(told)  # nothing is told twice
    device = device_of(small)
    assert status["t/a/2", "pleural effusion"] == "present" and status["t/a/2", device] == "absent"
    assert status["t/a/1", "pneumothorax"] == "present"  # the prior's truth is there too
    for study in ("t/b/1", "t/b/2"):
        assert status[study, "support devices"] == status[study, device] == "present"
    assert status["t/c/1", "airspace opacity"] == status["t/c/1", "consolidation"] == "present"
    assert status["t/d/1", "support devices"] == status["t/d/1", "pneumothorax"] == "absent"
    assert ("t/d/1", "airspace opacity") not in status  # the annotation does not name it
    # What only follows from another finding is told where the annotation says so: the consolidation's
    # opacity, not the effusion's blunted angle.
    assert status["t/c/1", "lung opacity"] == "present"
    assert ("t/a/2", "costophrenic angle blunting") not in status
    assert not {name for name, _ in status} & {"t/c/2"}  # a next study has no film, so no truth
    normal = {finding: each for (sample_id, finding), each in status.items() if sample_id == "t/d/1"}
    assert set(RENDERABLE) <= set(normal) and set(normal.values()) == {"absent"}


def test_boxes_are_those_of_every_film_and_again_of_the_prior(made):
    folder, _ = made
    boxes = tables.read_table("boxes", folder / "boxes.parquet")
    assert boxes.filter(schema_box_wrong()).height == 0
    columns = ["target", "laterality", "x1", "y1", "x2", "y2"]
    second = boxes.filter((pl.col("sample_id") == "t/a/2") & (pl.col("image_id") == 2)).select(columns)
    first = boxes.filter(pl.col("sample_id") == "t/a/1").select(columns)
    assert second.sort(columns).equals(first.sort(columns)) and len(first) > 12
    # One shadow, one box: that of the consolidation, not a second one of the opacity.
    of_c = boxes.filter(sample_id="t/c/1")["target"].to_list()
    assert of_c.count("consolidation") == 1 and "lung opacity" not in of_c
    scenes = pl.read_parquet(folder / "scenes.parquet")
    assert len(scenes) == 6 and "pleural effusion: laterality" in scenes["drawn"].explode().to_list()


def test_what_did_not_change_lies_where_it_was(made):
    """The nodule of patient a: same side, and the middle of its box within what a new exposure moves it."""
    folder, _ = made
    boxes = tables.read_table("boxes", folder / "boxes.parquet")
    nodules = boxes.filter(sample_id="t/a/2", target="nodule").sort("image_id")
    assert nodules["laterality"].to_list() == ["right", "right"]
    (now, then), sizes = nodules.select(
        (pl.col("x1") + pl.col("x2")) / 2, (pl.col("y1") + pl.col("y2")) / 2
    ).rows(), (nodules["x2"] - nodules["x1"]).to_list()  # fmt: skip
    assert max(abs(a - b) for a, b in zip(now, then, strict=True)) < 12
    assert 0.7 < sizes[0] / sizes[1] < 1.4
    qa = tables.read_table("qa", folder / "qa.parquet").filter(stage=5, sample_id="t/a/2")
    told = qa.filter(qtype="captioning")["answer"].item()
    assert "New: " in told and "pleural effusion" in told.split("New: ")[1].split(".")[0]
    assert re.search(r"(Still present|Persistent|Unchanged)[^.]*nodule", told), told


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
    shown = {"t/1/1": ["consolidation"], "t/2/1": ["edema"]}  # of two signs of heart failure, one will do
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
        assert new == "pleural effusion"  # neither left nor severe, and no fracture, which no film shows
        resolved = re.search(r"No longer present: ([^.]*)\.", answer)
        gone = set() if resolved is None else set(resolved[1].split(", "))
        assert gone == ({"pneumonia", "airspace opacity"} if sample_id == "t/c/1" else set())
    for fact, answer, evidence in qa.select("fact", "answer", "evidence").iter_rows():
        if fact == "pleural effusion|next":
            assert re.search(r"\b(new|pleural effusion)$", answer)
            assert evidence.startswith("simulated; next made: pleural effusion")
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


def row(finding, status="present", boxes=(), implied_by=(), **more) -> dict:
    """One finding of a truth."""
    base = dict.fromkeys(("laterality", "severity", "location")) | {"visibility_mm": 9.0, "drawn": []}
    return base | {
        "finding": finding, "status": status, "implied_by": list(implied_by),
        "boxes": {side: [1.0, 2.0, 3.0, 4.0] for side in boxes}, **more,
    }  # fmt: skip


def test_a_hidden_finding_is_uncertain_not_absent():
    told = {
        "t/a/1": {
            "findings": [row("pleural effusion"), row("pacemaker", "absent")],
            "not_visible": [row("consolidation", severity="mild")],
        }
    }
    general = {"airspace opacity": ("consolidation",), "support devices": ("pacemaker", "pleural effusion")}
    frame = truth_tables.findings(told, {"t/a/1": general})
    status = dict(frame.select("finding", "status").iter_rows())
    assert status == {
        "pleural effusion": "present", "pacemaker": "absent", "consolidation": "uncertain",
        "airspace opacity": "uncertain", "support devices": "present",
    }  # fmt: skip
    assert frame.filter(pl.col("status") == "uncertain")["severity"].null_count() == 2


def test_a_general_name_whose_special_one_is_left_open_is_left_open():
    told = {"t/a/1": {"findings": [row("nodule", "absent")], "not_visible": []}}  # mass: undecided
    frame = truth_tables.findings(told, {"t/a/1": {"lung lesion": ("nodule", "mass")}})
    assert frame["finding"].to_list() == ["nodule"]


def test_what_another_finding_implies_is_told_where_it_is_stated():
    truth = {
        "findings": [
            row("consolidation", boxes=["left"]),
            row("lung opacity", boxes=["left", "right"], implied_by=["consolidation"]),
            row("edema", "absent"),
            row("pleural effusion", boxes=["left"]),
            row("costophrenic angle blunting", boxes=["left"], implied_by=["pleural effusion"]),
        ],
    }
    told = {each["finding"]: each for each in truth_tables.spoken(truth, {"consolidation"})["findings"]}
    assert set(told) == {"consolidation", "edema", "pleural effusion"}
    stated = {"consolidation", "lung opacity", "costophrenic angle blunting"}
    told = {each["finding"]: each for each in truth_tables.spoken(truth, stated)["findings"]}
    # The opacity's own box on the right stays; on the left it is the consolidation. An angle is no effusion.
    assert set(told["lung opacity"]["boxes"]) == {"right"} and set(told["consolidation"]["boxes"]) == {"left"}
    assert set(told["costophrenic angle blunting"]["boxes"]) == {"left"}
    truth["findings"] = [row("edema", boxes=[""]), row("lung opacity", boxes=["left"], implied_by=["edema"])]
    assert truth_tables.spoken(truth, {"lung opacity"})["findings"][1]["boxes"] == {}


def quality(**more) -> list[str] | None:
    """The defects of a straight, still, complete film with what differs from that."""
    left = more.pop("left", 4.0)
    regions = {"left lung": [50.0, 5.0, 96.0, 80.0], "right lung": [left, 5.0, 49.0, 80.0]}
    plain = {
        "rotation_deg": 0.0,
        "exposure": "adequate",
        "ribs_above_dome": 9,
        "clipped": [],
        "motion_mm": 0.0,
    }
    return truth_tables.quality(plain | {"regions": regions, "findings": [], **more})


def test_quality_names_defects_only_where_they_are_plain():
    assert quality(rotation_deg=3.0) == []
    assert quality(rotation_deg=-3.0, exposure="overexposed") == ["overexposed"]
    assert quality(rotation_deg=5.5) == quality(rotation_deg=-5.5) == ["rotated"]
    assert quality(rotation_deg=-5.5, exposure="underexposed") == ["rotated", "underexposed"]
    assert quality(rotation_deg=4.2) is None and quality(rotation_deg=4.2, exposure="underexposed") is None
    assert quality(ribs_above_dome=8) == [] and quality(ribs_above_dome=7) == ["poorly inspired"]
    assert quality(motion_mm=2.0) == ["blurred"] and quality(motion_mm=0.9) is None
    # The film's edge cuts off an angle, or only touches the lung.
    assert quality(left=0.0, clipped=["right costophrenic angle"]) == ["clipped"]
    assert quality(left=0.0) is None


def test_a_dome_that_a_finding_raises_tells_nothing_of_the_breath():
    for finding in ("hemidiaphragm elevation", "pleural effusion"):
        for side, told in (("right", None), ("bilateral", None), ("left", ["poorly inspired"])):
            assert quality(ribs_above_dome=7, findings=[row(finding, laterality=side)]) == told
            assert quality(ribs_above_dome=8, findings=[row(finding, laterality=side)]) == []
        assert quality(ribs_above_dome=7, findings=[row(finding, "absent")]) == ["poorly inspired"]


def test_quality_is_that_of_the_scene(made):
    folder, _ = made
    scenes = pl.read_parquet(folder / "scenes.parquet")
    rows = {row["sample_id"]: row for row in scenes.iter_rows(named=True)}
    studies = tables.read_table("studies", folder / "studies.parquet")
    for sample_id, defects in studies.select("sample_id", "quality").iter_rows():
        assert defects == rows[sample_id]["quality"]
    for each in scenes.drop_nulls("quality").iter_rows(named=True):
        assert ("rotated" in each["quality"]) == (abs(each["rotation_deg"]) > 5)
        assert (each["exposure"] in each["quality"]) == (each["exposure"] != "adequate")
        assert ("clipped" in each["quality"]) == bool(each["clipped"])


def test_changes_from_the_prior_film_are_counted_by_kind():
    pairs = {  # finding -> (then, now): None absent, else side and grade
        "pneumothorax": (None, ("left", "mild")), "pacemaker": (("left", None), None),
        "pleural effusion": (("left", "mild"), ("left", "severe")),
        "edema": ((None, "severe"), (None, "mild")),
        "nodule": (("left", None), ("left", None)), "mass": (("left", None), ("right", None)),
        "scoliosis": ((None, "mild"), (None, "mild")), "granuloma": (None, None),
    }  # fmt: skip
    facts = [
        (f"t/{patient}/{k}", name, "absent" if state is None else "present", 1, *(state or ()))
        for patient in "ab"
        for name, states in pairs.items()
        for k, state in enumerate(states, start=1)
    ]
    facts += [("t/a/1", "hiatal hernia", "uncertain", 1), ("t/a/2", "hiatal hernia", "present", 1)]
    findings = findings_of(*facts).with_columns(source_column=pl.lit("simulated"))
    diagnosis = findings_of(("t/a/1", "pneumonia", "present", 1), ("t/a/2", "pneumonia", "absent", 1))
    rows = [{"sample_id": f"t/{p}/2", "prior_study_id": f"t/{p}/1"} for p in "ab"]
    cases = studies_of(*rows, {"sample_id": "t/c/1"})
    told = cohort.changes(cases, pl.concat([findings, diagnosis]))
    assert set(told.iter_rows()) == {
        ("pneumothorax", "new", 2), ("pacemaker", "resolved", 2), ("pleural effusion", "worse", 2),
        ("edema", "better", 2), ("nodule", "unchanged", 2), ("mass", "other side", 2),
        ("scoliosis", "unchanged", 2),
    }  # fmt: skip
    none = cohort.changes(cases.filter(pl.col("prior_study_id").is_null()), findings)
    assert none.is_empty() and none.pivot("change", index="finding", values="cases").is_empty()


def test_examples_show_one_film_for_each_finding(made, small):
    folder, _ = made
    films, titles, boxes = contact_sheet.examples(folder)
    shown = [title.split("\n")[0] for title in titles]
    wanted = ["pleural effusion", "consolidation", "nodule", device_of(small), selection.NO_FINDING]
    assert set(wanted) <= set(shown) and len(set(shown)) == len(shown)
    told = dict(title.split("\n") for title in titles)
    assert told["nodule"].split(", ")[0] == "right"
    assert {"mild", "moderate", "severe"} & set(told["pleural effusion"].split(", "))
    assert all(boxes[:-1]) and boxes[-1] == [] and films[0].shape == (128, 128)


def test_a_film_that_fails_is_named_after_the_others_are_done(small, tmp_path):
    view = pl.when(pl.col("sample_id") == "t/b/1").then(pl.lit(["UNKNOWN"])).otherwise("views")
    two = small.cases.filter(pl.col("sample_id").is_in(["t/b/1", "t/d/1"])).with_columns(views=view)
    spoilt = small._replace(cases=two, priors=small.priors.clear())
    with pytest.raises(ValueError, match="1 of 2 films failed; the first is t/b/1") as caught:
        cohort.make("t", spoilt, size_px=128, seed=0, workers=1, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "png").glob("*.png"))) == 1 and not (tmp_path / "studies.parquet").exists()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Nine cases chosen, as any cohort is, from the first 400 patients of CheXpert in hash order."""
    table = chexpert.read(None, 400)
    studies = table.studies.with_columns(split=pl.lit("train"))
    chosen = selection.select(studies, table.findings, {"train": 9}, seed=0)
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


def test_a_film_shows_a_readers_box_on_its_side():
    studies = studies_of({"sample_id": "rsna/a"}, {"sample_id": "rsna/b"})
    stated = findings_of(*((name, "lung opacity", "present", 1) for name in studies["sample_id"]))
    shown = stated.with_columns(shown="finding", as_status="status")
    marks = boxes_of(
        ("rsna/a", 1, "lung opacity", 10, 20, 30, 40), ("rsna/a", 1, "lung opacity", 60, 20, 80, 40)
    )
    marks = marks.with_columns(laterality=pl.Series(["right", "left"]))
    marked, plain = cohort._facts(studies, stated, shown, marks)
    (row,) = marked["findings"]
    assert row["boxes"] == {"right": [10, 20, 30, 40], "left": [60, 20, 80, 40]}
    assert row["laterality"] == "bilateral" and "boxes" not in plain["findings"][0]
    (alone, _) = cohort._facts(studies, stated, shown, marks.head(1))
    assert alone["findings"][0]["laterality"] == "right"
