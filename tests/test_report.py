"""The page: self-contained, honest about a model that does not look, and free of this machine's paths."""

import hashlib
import json
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image
from test_figures import TRANSFER
from test_viewer import Page

from cxrtrek_lib import paths, report
from cxrtrek_lib.figures import save_table

NAMES = (
    *("figure2_dataset", "test_films", "training_curves", "stage_radar", "context_modes"),
    *("exposure_gap", "cross_stage_errors", "flipped_answer", "report_errors", "worked_case", "reliability"),
    *("stage_format_heatmap", "detection_examples", "ablations", "transfer_forest"),
)
SCORE = {"score": 0.5, "low": 0.4, "high": 0.6, "n": 100}
NOTHING = {"score": None, "low": None, "high": None, "n": 0}
TEST = {"difference": 0.1, "low": 0.05, "high": 0.15, "p": 0.001, "p_holm": 0.003, "n": 100}
EVALUATION = {
    "overall": {"predicted": SCORE, "blank_image": SCORE},
    "yes_no_balanced_accuracy": {"predicted": SCORE, "blank_image": SCORE},
    "detection_mean_iou": {"predicted": SCORE, "blank_image": NOTHING},
    "parse_failure_rate": {"predicted": 0.01, "blank_image": 0.0},
    "stages": {
        name: {str(s): SCORE if s in (1, 2, 8) else NOTHING for s in range(1, 9)}
        for name in ("predicted", "blank_image")
    },
    "differences": {"predicted - blank_image": TEST},
    "grounding": {
        name: {"scores": {"predicted": SCORE, "blank_image": NOTHING}, "differences": {}}
        for name in ("presence", "side", "region_box", "finding_box")
    },
}
ABLATIONS = {"differences": {"no_context, none": TEST, "shuffled, predicted": TEST | {"low": -0.1}}}
DATASET = {
    "n_studies": 12,
    "n_patients": 9,
    "n_qa": 120,
    "n_facts": 80,
    "qa_per_study": 10.0,
    "sha256": "ab12",
}
FINETUNE = {
    "parameters": {"total": 10, "trainable": 5, "trainable_percent": 50.0},
    "cases": {"train": 8, "validate": 2},
}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(paths, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    (tmp_path / "figures").mkdir()
    for name in NAMES:
        Image.fromarray(np.zeros((4, 470), np.uint8)).save(tmp_path / "figures" / f"{name}.png")
        save_table(name, pl.DataFrame({"x": [1]}), f"Caption of {name}, n = 5 & more.")
    return tmp_path


def build(scratch, **change):
    given = {
        "dataset": DATASET,
        "finetune": FINETUNE,
        "evaluation": EVALUATION,
        "ablations": ABLATIONS,
        "transfer": TRANSFER,
        "viewer": "<p>the viewer</p>",
        "origin": "simulated",
    }
    report.build(scratch / "index.html", **given | change)
    return (scratch / "index.html").read_text()


def test_page_holds_every_figure_with_alt_text_and_caption(scratch):
    text = build(scratch)
    page = Page(text)
    images = page.all("img")
    assert len(images) == len(NAMES)
    assert all(
        len(image["alt"]) > 20 and image["src"].startswith("data:image/png;base64,") for image in images
    )
    for name in NAMES:
        assert f"Caption of {name}, n = 5 &amp; more." in text
    assert "max-width: 200px" in text  # 470 dots
    assert "the viewer" in text and "0.800" in text and "blank film" in text


def test_nothing_is_fetched_and_no_path_of_the_machine_is_told(scratch):
    text = build(scratch)
    for _, attributes in Page(text).tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert not re.match(r"[a-z]+://|//|/", attributes.get("href", "").removeprefix("data:,"))
    assert "url(" not in text and "@import" not in text and "http" not in text
    assert str(paths.ROOT) not in text and str(scratch) not in text


def test_page_states_origin_licences_and_provenance(scratch):
    text = build(scratch)
    assert "All films on this page are simulated." in text
    assert "CC BY-NC-ND 4.0" in text and "Not a medical device" in text
    assert hashlib.sha256(b"seed: 0\n").hexdigest() in text
    assert "torch 2" in text and "ab12" in text


def test_a_model_that_does_not_beat_its_blank_image_run_is_said_so(scratch):
    text = build(scratch)
    assert "Yes: with the film it scores higher than the same model with a blank image." in text
    blind = EVALUATION | {"differences": {"predicted - blank_image": TEST | {"low": -0.01}}}
    text = build(scratch, evaluation=blind)
    assert "Not yet: its image-grounded score does not beat the blank-image run of the same model." in text
    assert "Yes: with the film" not in text
    assert "95 % interval -0.010 to +0.150" in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.2, "Yes: "), (-0.1, 0.1, "Not shown: "), (-0.06, -0.04, "No, it hurts: ")],
)
def test_context_that_hurts_is_said_so(low, high, said):
    test = TEST | {"difference": (low + high) / 2, "low": low, "high": high}
    (sentence,) = report.findings_in_words({"differences": {"predicted - none": test}})
    assert sentence["answer"].startswith(said)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.01, 0.2, "No: "), (-0.1, 0.1, "Not shown: "), (-0.06, -0.04, "Yes: ")]
)
def test_a_negative_ablation_is_told_as_such(low, high, said):
    """Training without context scores higher: then context does not help, and the page says so."""
    test = TEST | {"difference": (low + high) / 2, "low": low, "high": high}
    (sentence,) = report.ablations_in_words({"differences": {"no_context, none": test}})
    assert sentence["question"] == "Does training with context help?"
    assert sentence["answer"].startswith(said) and sentence["tone"] == "neutral"


def test_ablations_and_what_only_the_film_tells_are_on_the_page(scratch):
    text = build(scratch)
    assert "No: trained and asked without context" in text and "Not shown: trained in shuffled order" in text
    header, rows = report.grounding_rows(EVALUATION)
    assert header == ["question", "n", "own answers as context", "blank image"]
    assert [row[1:] for row in rows] == [["100", "0.500 (0.400 to 0.600)", "no questions"]] * 4
    assert "box of a region (mean IoU)" in text


def test_absent_stages_and_boxes_say_so(scratch):
    assert report.stage_rows(EVALUATION)[1][3] == ["4 Relationships", "0", "no questions", "no questions"]
    assert report.system_rows(EVALUATION)[1][3] == "no questions"
    assert "no questions" in build(scratch)


def test_same_inputs_same_bytes_and_metrics_files_are_enough(scratch):
    first = build(scratch)
    assert build(scratch, evaluation=json.loads(json.dumps(EVALUATION))) == first


def test_a_missing_figure_or_too_large_a_page_leaves_the_old_page_whole(scratch, monkeypatch):
    old = build(scratch)
    monkeypatch.setattr(report, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="show fewer cases"):
        build(scratch)
    monkeypatch.undo()
    assert (scratch / "index.html").read_text() == old


def test_a_missing_figure_is_named(scratch):
    (scratch / "figures" / "stage_radar.png").unlink()
    with pytest.raises(FileNotFoundError, match="stage_radar.png"):
        build(scratch)
    assert not (scratch / "index.html").exists()


def test_external_scores_are_read_from_their_files(scratch):
    rows = TRANSFER.to_dicts()
    for name in ("nih", "openi"):
        same = [row | {"n_positive": None} for row in rows if row["dataset"] == name]
        (scratch / f"{name}.json").write_text(
            json.dumps(same + [same[0] | {"metric": "other", "score": 0.1}])
        )
    table = report.transfer_table(sorted(scratch.glob("*.json")))
    assert table.height == 4 and table["score"].to_list() == [0.8, 0.1, 0.3, 0.1]
    content = report.transfer_json(table)
    assert set(content) == {"nih", "openi"}
    assert {"task", "metric", "score", "low", "high", "n", "image_origin"} <= set(content["nih"])
    assert content["nih"]["score"] == content["nih"]["metrics"]["AUROC"]["score"] == 0.8
    assert content["nih"]["metrics"]["other"]["score"] == 0.1
    with pytest.raises(ValueError, match="no external score in 0 files"):
        report.transfer_table([])
