"""Cohorts of real films: files found by name, what cannot be used counted, truth only from the annotation."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from real_tables import table
from tables_by_hand import boxes as boxes_of
from tables_by_hand import findings as findings_of
from tables_by_hand import studies as studies_of
from test_images import dicom

from cxrtrek_lib import (
    chat,
    cohort,
    contact_sheet,
    image_folder,
    paths,
    real_cohort,
    schema,
    selection,
    tables,
)

NIH_SAMPLE = paths.ROOT.parent / "shared" / "nih_sample"
RAMP = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))


def film(path: Path, pixels: np.ndarray = RAMP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".dcm", ".dicom"):
        return dicom(path, pixels)
    Image.fromarray(pixels).save(path)
    return path


def write_dataset(folder: Path, studies, findings, marked) -> None:
    for name, frame in {"studies": studies, "findings": findings, "boxes": marked}.items():
        tables.write_table(name, frame, folder / f"{name}.parquet")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A root of the study with a data set in it; returns the folder for films."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "DATASET", tmp_path / "dataset")
    (tmp_path / "films").mkdir()
    return tmp_path / "films"


def nih(place, n=6, **changes):
    """n NIH studies of as many patients, numbered from 0, and one of a training source: odd ones have
    pneumonia, even ones no pneumothorax; number 2 is adjudicated."""
    rows = [
        {
            "sample_id": f"nih/{i:08}_000", "source": "nih", "patient_id": f"nih/{i:08}", "split": "external",
            "images": [f"{i:08}_000.png"], "views": ["AP"], "next_study_id": "nih/x",
        }
        | changes.get(f"s{i}", {})
        for i in range(n)
    ]  # fmt: skip
    studies = studies_of(*rows, {"sample_id": "chexpert/a", "source": "chexpert", "patient_id": "chexpert/a"})
    stated = [
        (row["sample_id"], *(("pneumonia", "present") if i % 2 else ("pneumothorax", "absent")), 1)
        for i, row in enumerate(rows)
        if not row.get("silent")
    ]
    findings = findings_of(*stated).with_columns(
        source_column=pl.when(pl.col("sample_id") == "nih/00000002_000")
        .then(pl.lit("nih: google2019 Pneumothorax"))
        .otherwise("source_column")
    )
    write_dataset(
        place.parent / "dataset",
        studies,
        findings,
        boxes_of(("nih/00000001_000", 1, "pneumonia", 10, 20, 30, 40)),
    )
    return [row["images"][0] for row in rows]


def choose(name="nih", n=10, root="films"):
    return real_cohort.choose(name, {"external": {name: n}}, root, seed=0)


def make(place, name="nih", n=10, size_px=64, root="films"):
    folder = place.parent / "cohort"
    chosen = choose(name, n, root)
    return folder, real_cohort.make(name, chosen, size_px=size_px, seed=0, workers=2, folder=folder)


def message(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Which file is which film


def test_sub_folders_suffixes_and_dots_in_names(place):
    film(place / "images_001" / "a.png")
    film(place / "deep" / "er" / "1.2.276.0.dcm")
    film(place / "c.JPG")
    film(place / "stranger.png")
    film(place / ".a.png")
    (place / "notes.txt").write_text("no film")
    found = image_folder.find("films", ["a.dicom", "1.2.276.0", "c.png", "lost.png"], "nih")
    assert {name: file.name for name, file in found.files.items()} == {
        "a.dicom": "a.png", "1.2.276.0": "1.2.276.0.dcm", "c.png": "c.JPG",
    }  # fmt: skip
    assert (found.n_files, found.n_strangers, found.several) == (4, 1, {})


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("nih", "images_002/images/00000001_000.png"), ("openi", "NLMCXR_png/CXR1_1_IM-0001-4001.png"),
        ("rsna", "stage_2_train_images/0004cfab-14fd-4e49-80ba-63a80b6bddd6.dcm"),
        ("vindr", "train/000434271f63a053c4128a0ba6352c7f.dicom"),
        ("vindr", "converted/000434271f63a053c4128a0ba6352c7f.png"),
    ],
)  # fmt: skip
def test_the_released_file_names_join_the_tables(place, source, file):
    names = table(source).studies["images"].list.first().to_list()
    film(place / file)
    assert image_folder.find("films", names, source).files.popitem()[1] == place / file


def test_copies_count_once_and_films_that_differ_are_not_guessed_at(place):
    for folder in ("one", "two"):
        film(place / folder / "same.png")
    film(place / "one" / "other.png")
    film(place / "two" / "other.png", RAMP[::-1].T)
    found = image_folder.find("films", ["same.png", "other.png"], "nih")
    assert list(found.files) == ["same.png"]
    assert found.several == {
        "other.png": "one/other.png and two/other.png have this name and differ; keep one"
    }
    assert found.n_strangers == 0


def test_a_folder_of_no_use_is_one_line(place):
    nih(place)
    told = message(lambda: choose(root="nowhere"), FileNotFoundError)
    assert told.startswith("images.roots.nih: nowhere: no such folder")
    assert "no film (.png, " in message(choose)
    film(place / "IMG_0001.png")
    told = message(choose)
    assert (
        "none of 1 films (such as IMG_0001.png) has a name of nih's table (such as 00000000_000.png)" in told
    )
    told = message(lambda: real_cohort.choose("chexpert", {"external": {"nih": 3}}, "films", seed=0))
    assert told == "cohort 'chexpert' cannot be of real films; params.yaml sizes nih"


# Which studies


def test_every_study_is_a_case_or_counted_with_its_reason(place):
    names = nih(place, 8, s3={"views": ["LATERAL"]}, s4={"silent": True})
    for name in names[1:7]:
        film(place / name)
    film(place / "sub" / names[6], RAMP.T)
    chosen = choose(n=2)
    assert chosen.excluded == {
        real_cohort.NO_FILM: 2, real_cohort.SEVERAL: 1, selection.NOT_FRONTAL: 1, selection.NOTHING_STATED: 1,
        selection.NOT_NEEDED: 1,
    }  # fmt: skip
    assert chosen.cases.height + sum(chosen.excluded.values()) == 8
    assert chosen.cases["sample_id"][0] == "nih/00000002_000"  # adjudicated ones come first
    assert chosen.cases["next_study_id"].null_count() == 2
    reasons = dict(chosen.left_out.select("image", "reason").iter_rows())
    assert sorted(reasons) == [names[0], names[6], names[7]]
    assert reasons[names[0]] == real_cohort.NO_FILM and "keep one" in reasons[names[6]]
    counts = {row[1]: row[2:] for row in chosen.counts.iter_rows()}
    assert counts == {"no finding": (1, 1), "pneumonia": (1, 2)}


def test_no_study_that_can_be_a_case_says_why(place):
    film(place / nih(place, 1, s0={"views": ["LATERAL"]})[0])
    assert message(choose).endswith("can be a case: first view not known to be PA or AP (1)")


def test_a_patient_who_is_trained_on_stops_the_cohort(place):
    film(place / nih(place, s1={"patient_id": "chexpert/a"})[0])
    assert "leakage: patients to be tested on are trained on, too (1): chexpert/a" in message(choose)


# The cohort


def test_a_cohort_of_real_films_says_only_what_its_table_says(place):
    for name in nih(place):
        film(place / name, np.kron(RAMP, np.ones((2, 2), dtype=np.uint8)))
    folder, summary = make(place)
    assert summary == json.loads((folder / "summary.json").read_text())
    assert (summary["n_cases"], summary["n_films"], summary["image_origin"]) == (6, 6, "real")
    studies = tables.read_table("studies", folder / "studies.parquet")
    assert set(studies["image_origin"]) == {"real"} and set(studies["split"]) == {"external"}
    found = {
        name: tables.read_table(name, folder / f"{name}.parquet") for name in ("findings", "boxes", "qa")
    }
    assert "simulated" not in {*found["findings"]["source_column"], *found["boxes"]["reader"]}
    assert not found["qa"]["evidence"].str.contains("simulated").any()
    assert found["boxes"].select(tables.CORNERS).rows() == [(10, 20, 30, 40)]
    # Pneumonia is never called absent here, nor pneumothorax present: neither is asked as yes or no.
    asked = found["qa"].filter(qtype="yes_no")["fact"].unique().to_list()
    assert not [fact for fact in asked if fact.endswith("|presence")]
    for images in studies["images"]:
        with Image.open(folder / images[0]) as written:
            assert (written.size, written.mode, written.text["image_origin"]) == ((64, 64), "L", "real")
            assert np.abs(np.asarray(written, dtype=int) - RAMP).max() <= 1
    films = pl.read_parquet(folder / "films.parquet")
    assert set(films["width_px"]) == {128} and set(films["file"]) == {f"{i:08}_000.png" for i in range(6)}
    cases = chat.cases(studies, found["qa"], folder)  # what notebooks 05 and 07 read
    assert len(cases) == 6
    assert schema.validate(schema.Cases(studies, found["qa"], "made")).lines() == []


def test_films_that_cannot_be_used_are_listed_and_the_rest_goes_on(place):
    names = nih(place)
    for name in names[2:]:
        film(place / name)
    (place / names[0]).write_bytes(b"\x89PNG cut off")
    Image.fromarray(np.stack([RAMP, RAMP.T, RAMP], -1)).save(place / names[1])
    film(place / names[3], RAMP[:40])
    folder, summary = make(place)
    assert summary["n_cases"] == 3
    assert summary["excluded"] == {real_cohort.UNREADABLE: 2, real_cohort.NOT_SQUARE: 1}
    reasons = dict(pl.read_csv(folder / "left_out.csv").select("image", "reason").iter_rows())
    assert sorted(reasons) == [names[0], names[1], names[3]]
    assert "a colour image" in reasons[names[1]] and "64 x 40 pixels" in reasons[names[3]]
    assert not [reason for reason in reasons.values() if str(place) in reason]  # no path of this machine
    counts = {row["finding"]: row["cases"] for row in summary["cases_per_split_and_finding"]}
    assert counts == {"no finding": 2, "pneumonia": 1}
    for name in names[2:]:
        (place / name).write_bytes(b"nothing")
    told = message(lambda: make(place))
    assert (
        told.startswith("images.roots.nih: none of 6 films can be used; the first: ")
        and str(place) not in told
    )


def test_a_cohort_made_anew_leaves_nothing_of_the_one_before(place):
    names = nih(place)
    for name in names:
        film(place / name)
    folder, _ = make(place)
    (folder / "scenes.parquet").write_bytes(b"of simulated films")
    (place / names[5]).unlink()
    make(place)
    assert not (folder / "scenes.parquet").exists() and len(list((folder / "png").iterdir())) == 5
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    make(place)
    assert before == {path: path.read_bytes() for path in folder.rglob("*.*")}
    cohort.clear(folder, [f"png/nih_{name}" for name in names[:5]])
    left = {"studies.parquet", "findings.parquet", "boxes.parquet", "qa.parquet", "summary.json"}
    assert {path.name for path in folder.iterdir()} == left | {"png"}


def test_a_contact_sheet_of_real_films_says_so(place):
    for name in nih(place):
        film(place / name)
    folder, _ = make(place)
    films, titles, marked = contact_sheet.examples(folder)
    assert titles == ["pneumonia\n", "no finding\n"]
    assert marked == [[(10, 20, 30, 40)], []]  # the one that a reader boxed comes first
    _, data, caption = contact_sheet.contact_sheet(films, titles, marked, origin="real")
    assert caption == "2 real films, 1 of them with the boxes of their findings (yellow)."
    assert set(data["image_origin"]) == {"real"}


# Boxes in pixels of the film


def vindr_cohort(place, monkeypatch, shape=(80, 160)):
    """One VinDr film with a nodule that two of three readers boxed; pixels as (rows, columns)."""
    one = {
        "sample_id": "vindr/f",
        "source": "vindr",
        "split": "external",
        "images": ["f.dicom"],
        "views": ["UNKNOWN"],
    }
    studies = studies_of(one, {"sample_id": "chexpert/a", "source": "chexpert"})
    findings = findings_of(("vindr/f", "nodule or mass", "present", 1), ("vindr/f", "mass", "uncertain", 1))
    write_dataset(place.parent / "dataset", studies, findings, boxes_of())
    corners = [("R8", 16, 20, 32, 40), ("R9", 16, 20, 32, 40), ("R10", 100, 50, 130, 70)]
    marked = boxes_of(*(("vindr/f", 1, "nodule or mass", *row[1:]) for row in corners))
    marked = marked.with_columns(reader=pl.Series([f"vindr: {row[0]}" for row in corners]))
    monkeypatch.setattr(real_cohort.vindr, "pixel_boxes", lambda: marked)
    film(place / "train" / "f.dicom", np.kron(RAMP, np.ones((3, 3), dtype=np.uint8))[: shape[0], : shape[1]])
    return make(place, "vindr")


def test_vindr_boxes_become_percent_of_the_real_film(place, monkeypatch):
    folder, summary = vindr_cohort(place, monkeypatch)
    assert summary["n_cases"] == 1
    marked = tables.read_table("boxes", folder / "boxes.parquet").select("reader", *tables.CORNERS).rows()
    two = (10, 25, 20, 50)  # 16 of 160, 20 of 80, ...
    assert marked == [
        ("vindr: R8", *two), ("vindr: R9", *two), ("vindr: R10", 62.5, 62.5, 81.25, 87.5),
        (real_cohort.CONSENSUS, *two),
    ]  # fmt: skip
    qa = tables.read_table("qa", folder / "qa.parquet")
    asked = qa.filter(qtype="detection")["bbox_list"].to_list()
    assert asked == [[list(map(float, two))]]
    assert tables.read_table("studies", folder / "studies.parquet")["views"].to_list() == [["PA"]]


def test_vindr_films_that_were_resized_are_refused(place, monkeypatch):
    told = message(lambda: vindr_cohort(place, monkeypatch, shape=(64, 64)))
    assert told == (
        "images.roots.vindr: train/f.dicom has 64 x 64 pixels and a box to 130, 70 (1 such films): resized "
        "copies, or another release; give the original DICOM films"
    )


# Real films of NIH ChestX-ray14


@pytest.mark.skipif(not NIH_SAMPLE.is_dir(), reason=f"no real films: {NIH_SAMPLE} is not at hand")
def test_a_dozen_real_nih_films_become_a_cohort(place):
    files = sorted(NIH_SAMPLE.glob("*.png"))[:12]
    for file in files:
        (place / file.name).symlink_to(file)
    rows = [
        {"sample_id": f"nih/{file.stem}", "source": "nih", "patient_id": f"nih/{file.stem[:8]}",
         "split": "external", "images": [file.name]}
        for file in files
    ]  # fmt: skip
    stated = [
        (row["sample_id"], "pneumonia", "present" if i % 2 else "absent", 1) for i, row in enumerate(rows)
    ]
    studies = studies_of(*rows, {"sample_id": "chexpert/a", "source": "chexpert"})
    write_dataset(place.parent / "dataset", studies, findings_of(*stated), boxes_of())
    folder, summary = make(place, n=12, size_px=224)
    assert (summary["n_cases"], summary["excluded"], summary["n_files_without_study"]) == (12, {}, 0)
    films = pl.read_parquet(folder / "films.parquet")
    assert set(films["width_px"]) == {512}
    asked = tables.read_table("qa", folder / "qa.parquet")
    assert asked.filter(pl.col("fact") == "pneumonia|presence").height
    for name in films["film"]:
        with Image.open(folder / name) as written:
            levels = np.asarray(written)
        assert levels.shape == (224, 224) and levels.std() > 20  # a film, not a blank sheet
