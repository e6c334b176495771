"""The page: self-contained, honest about a model that does not look, and free of this machine's paths."""

import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from test_figures import ABLATIONS as FOREST

from cxrtrek_lib import figure_index, latex_tables, paths, report
from cxrtrek_lib.figures import save_table
from cxrtrek_lib.notebook_pages import Page as NotebookPage

NAMES = (
    *("figure2_dataset", "figure_a_mixture", "shortcuts"),
    *("test_films", "training_curves", "stage_radar", "context_modes"),
    *("exposure_gap", "cross_stage_errors", "flipped_answer", "report_errors", "worked_case", "reliability"),
    *("stage_format_heatmap", "detection_examples", "ablations", "transfer_forest"),
)
NAMES += tuple(  # shown as soon as a step makes it
    {"domain_shift"} & set(figure_index.makers(yaml.safe_load(paths.PIPELINE.read_text())))
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


def _external(dataset, task, metric, asked, score, **rest):
    """A row of the transfer table, as transfer_tasks.py makes them."""
    row = dict.fromkeys(
        ("low", "high", "baseline", "baseline_name", "majority", "difference", "difference_low",
         "difference_high", "note")
    )  # fmt: skip
    row |= {"dataset": dataset, "task": task, "metric": metric, "asked": asked, "score": score, "n": 99}
    if score is not None:
        row |= {"low": score - 0.05, "high": score + 0.05}
    return row | {"headline": True, "image_origin": "simulated"} | rest


PAIR = ("in the stage flow", "alone")
GAP = {"difference": -0.12, "difference_low": -0.2, "difference_high": -0.04, "baseline": 0.49,
       "baseline_name": "blank film", "majority": 0.5}  # fmt: skip
LEVEL = {"difference": -0.01, "difference_low": -0.02, "difference_high": 0.01}
CLASS, REPORT = ("nih", "classification"), ("openi", "report generation")
TRANSFER_ROWS = [
    _external(*CLASS, "AUROC, pneumothorax", PAIR[0], 0.65, **GAP),
    _external(*CLASS, "AUROC, pneumothorax", PAIR[1], 0.77),
    _external(*CLASS, "AUROC, edema", PAIR[0], None, note="one class"),
    _external(*CLASS, "AUROC, edema", PAIR[1], None, note="one class"),
    _external(*CLASS, "AP", PAIR[0], 0.4, headline=False),
    _external(*REPORT, "ROUGE-L F1", PAIR[0], 0.11, **LEVEL),
    _external(*REPORT, "ROUGE-L F1", PAIR[1], 0.12),
    _external("vindr", "detection", "mean IoU", "two readers", 0.7),
]
TRANSFER = pl.DataFrame(TRANSFER_ROWS, infer_schema_length=None)
ABLATIONS = FOREST | {"differences": {"no_context, none": TEST, "shuffled, predicted": TEST | {"low": -0.1}}}
DATASET = {
    "n_studies": 12,
    "n_patients": 9,
    "n_images": 15,
    "n_qa": 120,
    "n_facts": 80,
    "qa_per_study": 10.0,
    "sha256": "ab12",
}
FINETUNE = {
    "parameters": {"total": 10, "trainable": 5, "trainable_percent": 50.0},
    "cases": {"train": 8, "validate": 2},
}


LEADING = pl.DataFrame([{"stage": s, "system": "predicted", "leads": True} for s in (1, 2, 8, None)])
SUMMARY = pl.DataFrame(
    {
        "source": ["chexpert", "nih"], "split": ["train", "external"], "patients": [900, 30],
        "studies": [1200, 30], "images": [1500, 30], "with_prior": [300, 0], "qa": [24000, 150],
        "facts": [9000, 90], "qa_per_study": [20.0, 5.0],
    }
)  # fmt: skip
ARMS = FOREST | {"reference": "context, predicted"}


def paper_tables():
    return {
        "scores": latex_tables.main_scores(EVALUATION, LEADING, origin="simulated"),
        "ablations": latex_tables.ablations(ARMS, origin="simulated"),
        "transfer": latex_tables.transfer(TRANSFER),
        "dataset": latex_tables.dataset(SUMMARY, DATASET),
    }


def executed(folder):
    """Two executed notebooks of the real pipeline."""
    html = folder / "notebooks" / "html"
    return [
        NotebookPage("04_finetune", "04 · Fine-tune", html / "04_finetune.html", 1200.0),
        NotebookPage("05_predict.gold", "05 · Answer", html / "05_predict.gold.html", 30.0),
    ]


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "REPORTS", tmp_path)
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(paths, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params.yaml")
    params = "seed: 0\ncohort: {external: {nih: 12, openi: 12, rsna: 8, vindr: 8}}\n"
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "figures").mkdir()
    for name in NAMES:
        Image.fromarray(np.zeros((4, 470), np.uint8)).save(tmp_path / "figures" / f"{name}.png")
        save_table(name, pl.DataFrame({"x": [1]}), f"Caption of {name}, n = 5 & more.")
    return tmp_path


class Outline(HTMLParser):
    """What a screen reader walks: headings, landmarks, tables and their captions, ids, focusable regions."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.ids, self.landmarks, self.links = [], [], [], [], []
        self.tables = self.captions = self.cells_without_scope = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag in ("header", "nav", "main", "footer"):
            self.landmarks.append(tag)
        if tag == "a":
            self.links.append(attributes.get("href"))
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.cells_without_scope += tag == "th" and attributes.get("scope") not in ("row", "col")


def build(scratch, **change):
    given = {
        "dataset": DATASET,
        "finetune": FINETUNE,
        "evaluation": EVALUATION,
        "ablations": ABLATIONS,
        "real": {"status": "not run: needs images.roots.nih"},
        "tables": paper_tables(),
        "pages": executed(scratch),
        "viewer": "<p>the viewer</p>",
        "origin": "simulated",
    }
    report.build(scratch / "index.html", **given | change)
    return (scratch / "index.html").read_text()


def test_page_holds_every_figure_with_alt_text_and_caption(scratch):
    text = build(scratch)
    page = Outline(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(NAMES)
    assert all(
        len(image["alt"]) > 20 and image["src"].startswith("data:image/png;base64,") for image in images
    )
    for name in NAMES:
        assert f"Caption of {name}, n = 5 &amp; more." in text
    assert "max-width: 200px" in text  # 470 dots
    assert "the viewer" in text and "0.770" in text and "blank film" in text


def test_nothing_is_fetched_and_no_path_of_the_machine_is_told(scratch):
    text = build(scratch)
    for _, attributes in Outline(text).tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert not re.match(r"[a-z]+://|//|/", attributes.get("href", "").removeprefix("data:,"))
    assert not re.search(r"url\((?!#)", text) and "@import" not in text and "http" not in text
    assert str(paths.ROOT) not in text and str(scratch) not in text


def test_page_states_origin_licences_and_provenance(scratch):
    text = build(scratch)
    assert "All films on this page are simulated unless they say otherwise." in text
    assert "CC BY-NC-ND 4.0" in text and "Not a medical device" in text
    assert hashlib.sha256(paths.PARAMS.read_bytes()).hexdigest() in text
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
    assert report.system_rows(EVALUATION)[1][3] == "no questions"
    text = build(scratch)
    assert "no questions" in text
    row = re.search(r'<th scope="row">4 Relationships</th>(.*?)</tr>', text)[1]
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == ["0", "--", "--"]


def test_the_outline_is_one_a_screen_reader_can_walk(scratch):
    outline = Outline(build(scratch))
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)  # no level is skipped
    assert outline.landmarks == ["header", "nav", "main", "footer"]
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.tables == outline.captions and outline.cells_without_scope == 0
    inside = [link[1:] for link in outline.links if link.startswith("#")]
    assert inside[0] == "results"  # the skip link comes first
    assert len(inside) >= 14 and set(inside) <= set(outline.ids)


def test_pipeline_times_and_executed_notebooks_are_on_the_page(scratch):
    text = build(scratch)
    assert 'class="pg"' in text and "evaluate_stages" in text and re.search(r"predict × \d", text)
    assert '<a href="notebooks/html/05_predict.gold.html">05_predict.gold</a>' in text
    row = re.search(r'<th scope="row">predict</th>(.*?)</tr>', text)[1]
    assert "finetune" in row and "05_predict.none" in row and row.endswith('<td class="num">30 s</td>')
    assert "took 20 min" in text  # 1,230 s


def test_bold_and_intervals_of_the_paper_tables_reach_the_page(scratch):
    text = build(scratch)
    assert "<strong>0.500</strong><small>(0.400–0.600)</small>" in text
    assert 'href="tables/table_scores.tex"' in text


def test_links_stay_in_reports(scratch):
    for link in Outline(build(scratch)).links:
        assert not link.startswith(("/", "..", "http")), link


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
    for name in ("nih", "openi", "vindr", "vqa_folders"):  # the last: no folder named, an empty list
        same = [row for row in TRANSFER_ROWS if row["dataset"] == name]
        (scratch / f"{name}.json").write_text(json.dumps(same))
    table = report.transfer_table(sorted(scratch.glob("*.json")))
    assert table.height == len(TRANSFER_ROWS)
    content = report.transfer_json(table)
    assert set(content) == {"nih", "openi", "vindr"}
    assert content["nih"]["score"] == 0.65
    found = content["nih"]["metrics"]
    assert found["AUROC, pneumothorax, alone"]["score"] == 0.77  # beside that of the flow, not over it
    assert found["AUROC, pneumothorax, in the stage flow"]["score"] == 0.65
    with pytest.raises(ValueError, match="no external score in 0 files"):
        report.transfer_table([])


def test_what_is_not_shown_after_correction_is_not_told_as_found():
    """The interval leaves out 0, but the corrected p is large: not shown."""
    test = TEST | {"p_holm": 0.3}
    (sentence,) = report.findings_in_words({"differences": {"predicted - none": test}})
    assert sentence["answer"].startswith("Not shown") and not sentence["yes"]


def test_real_films_are_those_of_this_run_or_kept_ones_or_none(scratch):
    kept = {"status": "run", "answer": ["Does it help? Yes.", "By 0.1."]}
    assert report.real_films(kept) == {"status": "run", "kept": "", "answer": kept["answer"]}
    absent = {"status": "not run: needs images.roots.nih"}
    assert report.real_films(absent)["kept"] is None
    assert "Not run: needs images.roots.nih" in build(scratch)
    (scratch / "real_films").mkdir()
    (scratch / "real_films" / "real_films.json").write_text(json.dumps(kept))
    (scratch / "real_films" / "real_films.txt").write_text("381 real films.\n")
    Image.fromarray(np.zeros((4, 470), np.uint8)).save(scratch / "real_films" / "real_films.png")
    text = build(scratch)
    assert "381 real films." in text and 'href="real_films/real_films.csv"' in text
