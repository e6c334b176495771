"""transfer_figures.py: what is drawn, said and left out; nothing cut off at the width of a journal page."""

import json

import numpy as np
import polars as pl
import pytest
from figure_checks import assert_printable
from matplotlib import pyplot as plt
from PIL import Image

from cxrtrek_lib import domain_shift, figures, transfer_figures, transfer_tasks
from cxrtrek_lib.transfer_tasks import ALONE, FLOW


def row(dataset, metric, asked, score, **rest) -> dict:
    spread = {} if score is None else {"low": score - 0.08, "high": score + 0.07}
    known = {
        "dataset": dataset, "task": "classification", "metric": metric, "asked": asked, "score": score,
        "n": 112_120, "n_positive": 2_430, "baseline": 0.49, "baseline_name": "blank film", "majority": 0.5,
        "headline": True, "image_origin": "simulated",
    }  # fmt: skip
    return dict.fromkeys(transfer_tasks.ROW) | known | spread | rest


GAP = {"difference": -0.119, "difference_low": -0.194, "difference_high": -0.048}
ROWS = [
    row("nih", "AUROC, pneumothorax", FLOW, 0.648, **GAP),
    row("nih", "AUROC, pneumothorax", ALONE, 0.767),
    row("nih", "AUROC, airspace opacity", FLOW, None, note=transfer_tasks.ONE_CLASS),
    row("nih", "AUROC, airspace opacity", ALONE, None, note=transfer_tasks.ONE_CLASS),
    row("rsna", "mean IoU where present", FLOW, 0.19, baseline_name="median training box", majority=None),
    row("rsna", "mean IoU where present", ALONE, 0.2),
    row("vindr", "F1 of boxes at IoU 0.4, mean of findings", "two readers", 0.42, baseline=None,
        baseline_name=None, majority=None, n_positive=None, image_origin="real (annotation table only)"),
    row("openi", "ROUGE-L F1, all reports", FLOW, 0.1, headline=False),
]  # fmt: skip


@pytest.fixture
def forest():
    figure, data, caption = transfer_figures.transfer_forest(pl.DataFrame(ROWS, infer_schema_length=None))
    with figures.style():
        yield figure, data, caption


def words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_the_forest_is_printable_at_page_width(forest):
    assert forest[0].get_figwidth() == pytest.approx(183 / 25.4)
    assert_printable(forest[0])


def test_the_forest_says_origin_n_and_difference_in_every_row(forest):
    figure, data, caption = forest
    said = words(figure)
    assert "classification, n = 112,120 (2,430), simulated" in said and "real (annotation table only)" in said
    assert "0.648 (0.568 to 0.718)" in said and "(-0.194 to -0.048)" in said
    assert said.count(transfer_tasks.ONE_CLASS) == 2 and "ROUGE-L" not in said
    assert data.height == len(ROWS), "what is no headline is in the data"
    assert "our own choice" in caption and "simulated" in caption and "median training box" in caption


def shifts() -> pl.DataFrame:
    rows = []
    for k, (name, (group, change, *_)) in enumerate(domain_shift.FACTORS.items()):
        at = {"factor": name, "group": group, "change": change, "n": 316, "n_patients": 58}
        for key in ("balanced_accuracy", "auroc"):
            less = None if name == domain_shift.UNCHANGED else -0.01 * k + 0.02
            at |= {key: 0.87, f"{key}_low": 0.8, f"{key}_high": 0.9, f"{key}_difference": less}
            at |= {f"{key}_difference_{end}": None if less is None else less + by
                   for end, by in (("low", -0.02), ("high", 0.02))}  # fmt: skip
        rows.append(at)
    return pl.DataFrame(rows, infer_schema_length=None)


def test_the_domain_shift_is_printable_and_says_what_it_is_compared_with():
    figure, data, caption = transfer_figures.domain_shift(shifts())
    with figures.style():
        assert_printable(figure)
        assert "less unchanged films (0.870)" in words(figure) and "half size (size)" in words(figure)
    assert "58 patients" in caption and "316 questions" in caption and caption.endswith("Simulated films.")
    assert json.dumps(domain_shift.as_json(data))


def test_the_films_of_one_case_with_every_factor(tmp_path):
    names = []
    for factor in domain_shift.FACTORS:
        (tmp_path / factor).mkdir()
        Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1))).save(tmp_path / factor / "0.png")
        names.append(
            {
                "sample_id": f"a, {factor}",
                "patient_id": "a",
                "study_id": factor,
                "images": [f"{factor}/0.png"],
            }
        )
    figure, data, caption = transfer_figures.shifted_films(pl.DataFrame(names), tmp_path)
    with figures.style():
        assert_printable(figure)
        assert all(factor in words(figure) for factor in domain_shift.FACTORS)
    assert data.height == len(domain_shift.FACTORS) and "simulated" in caption
