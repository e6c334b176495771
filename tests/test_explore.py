"""What the exploratory notebook loads: every question once, scores as the study gives, slices by hand."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest
from fake_answers import fake_cohort, fake_film, fake_predictions, patients_of
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from cxrtrek_lib import explore, metrics, paths, tables

STUDIES, QUESTIONS = fake_cohort(9)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A cohort with films and the answers of two systems."""
    monkeypatch.setattr(paths, "FILMS", tmp_path / "films")
    monkeypatch.setattr(paths, "DATASET", tmp_path / "dataset")
    monkeypatch.setattr(paths, "PREDICTIONS", tmp_path / "predictions")
    folder = tmp_path / "films" / "training"
    tables.write_table("studies", STUDIES, folder / "studies.parquet")
    tables.write_table("qa", QUESTIONS.reverse(), folder / "qa.parquet")
    for image in STUDIES["images"].explode().unique():
        Image.fromarray(fake_film(size=64)).save(folder / image)
    for name, skill in (("predicted", 0.8), ("none", 0.3)):
        tables.write_table(
            "predictions", fake_predictions(QUESTIONS, skill), paths.PREDICTIONS / f"{name}.parquet"
        )
    return folder


def test_a_split_has_every_question_once_in_the_order_of_asking(study):
    rows = explore.questions()
    asked = QUESTIONS.sort("sample_id", "stage", "turn")
    assert rows.select("sample_id", "turn").equals(asked.select("sample_id", "turn"))
    ours = dict(STUDIES.select("sample_id", "patient_id").iter_rows())
    assert all(ours[sample] == patient for sample, patient in rows.select("sample_id", "patient_id").rows())
    assert len(rows.to_pandas()) == QUESTIONS.height


def test_what_is_not_there_is_told_in_one_line(study):
    with pytest.raises(ValueError, match="cohort training has no split 'train'; it has test"):
        explore.questions("train")
    with pytest.raises(FileNotFoundError, match=r"nih: no such cohort \(there: training\); run `dvc repro`"):
        explore.questions("external", "nih")
    with pytest.raises(FileNotFoundError, match="dataset: no such cohort"):
        explore.questions("test", explore.DATASET)
    with pytest.raises(FileNotFoundError, match="gold.parquet: no such table .*run `dvc repro`"):
        explore.answers("gold")


def test_answers_are_scored_as_in_the_study(study):
    rows = explore.answers("predicted", "none")
    assert rows.height == 2 * QUESTIONS.height and rows["system"].unique(maintain_order=True).to_list() == [
        "predicted",
        "none",
    ]
    scored = metrics.score_answers(QUESTIONS, fake_predictions(QUESTIONS, 0.8), patients_of(QUESTIONS))
    keys = ["sample_id", "turn"]
    own = rows.filter(system="predicted").sort(keys)
    assert own["score"].to_list() == scored.sort(keys)["score"].to_list()
    assert explore.answers().equals(rows.filter(system="predicted"))


def test_a_slice_has_the_score_that_sklearn_gives(study):
    part = explore.answers("predicted", "none").filter(stage=2, format="close-ended")
    found = explore.compare(part, n_boot=50, seed=0)
    for row in found.iter_rows(named=True):
        own = part.filter(system=row["system"])
        expected = balanced_accuracy_score(own["gold_class"].to_list(), own["pred_class"].to_list())
        assert row["score"] == pytest.approx(expected) and row["low"] <= row["score"] <= row["high"]
        assert (row["n"], row["n_patients"]) == (own.height, own["patient_id"].n_unique())
    first, second = found["score"]
    assert found["first_less_this"].to_list() == [None, pytest.approx(first - second)]
    with pytest.raises(ValueError, match="no answer is in this slice"):
        explore.compare(part.clear(), n_boot=50, seed=0)


def test_a_case_is_drawn_with_gold_and_answered_boxes(study):
    own = explore.answers()
    names = own["sample_id"].unique().sort().to_list()
    boxed = own.filter(qtype="detection")
    number = names.index(boxed["sample_id"][0])
    gold = boxed.filter(sample_id=names[number])["bbox_list"].explode().to_list()
    answered = boxed.filter(sample_id=names[number])["given"].str.count_matches("<|box|>", literal=True).sum()
    first, *_ = explore.draw_case(own, number).axes
    drawn = [(patch.get_x(), patch.get_y()) for patch in first.patches]
    assert {(x1, y1) for x1, y1, _, _ in gold} <= set(drawn) and len(drawn) == len(gold) + answered
    assert first.texts[0].get_text() == "SIMULATED" and names[number] in first.get_title(loc="left")
    assert not explore.draw_case(own, number, "anatomy").axes[0].patches  # all boxes here are of findings
    two = names.index(STUDIES.filter(pl.col("images").list.len() == 2)["sample_id"][0])
    assert explore.draw_case(own, two).axes[1].get_title(loc="left") == "prior film"
    assert explore.conversation(own, two).height == QUESTIONS.filter(sample_id=names[two]).height
    assert explore.conversation(explore.questions(), two).columns == ["stage", "question", "gold"]


def test_the_settings_of_make_lab_are_settings_of_jupyterlab():
    """Kernel without a question, no request to a network."""
    settings = json.loads((paths.ROOT / ".jupyter/labconfig/default_setting_overrides.json").read_text())
    for plugin, values in settings.items():
        package, name = plugin.split(":")
        schema = json.loads(
            Path(sys.prefix, "share/jupyter/lab/schemas", package, f"{name}.json").read_text()
        )
        assert set(values) <= set(schema["properties"]), plugin
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    assert "JUPYTER_CONFIG_PATH=$(CURDIR)/.jupyter" in (paths.ROOT / "Makefile").read_text()
