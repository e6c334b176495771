"""Figures of errors and calibration: complete, nothing clipped, the origin in them, empty tables drawn."""

import polars as pl
import pytest
from fake_answers import fake_cohort, fake_film, fake_predictions, fake_scores, patients_of
from figure_checks import assert_printable
from PIL import Image

from cxrtrek_lib import (
    calibration,
    case_figures,
    consistency,
    figures,
    intervention,
    trace_figures,
    traceability,
)
from cxrtrek_lib.flips import flips

DRAWS = {"n_boot": 50, "seed": 0}
STUDIES, QA = fake_cohort(40)
ANSWERS = {name: fake_predictions(QA, skill) for name, skill in (("predicted", 0.6), ("gold", 0.8))}
ROWS = {name: fake_scores(QA, skill) for name, skill in (("predicted", 0.6), ("gold", 0.8))}
OWN = ANSWERS["predicted"], ROWS["predicted"]
FLIPS = flips(QA, OWN[0], 0)
PATIENTS = patients_of(QA)
STATEMENTS = consistency.report_statements(QA, *OWN)
RETURNING = consistency.returning_errors(STATEMENTS, ROWS["predicted"])
PROBABLE = OWN[0].with_columns(
    pl.int_range(pl.len()).mod(97).truediv(97).alias(name) for name in ("prob_yes", "prob_answer")
)
EMPTY = {
    "effects": pl.DataFrame(schema=intervention._EFFECTS),
    "follows": pl.DataFrame(schema=intervention._REPORTS),
    "contradictions": pl.DataFrame(schema=consistency._BY_STAGE),
    "errors": pl.DataFrame(schema=consistency._ORIGINS),
}


def flipped():
    apart = intervention.answers_apart(OWN, (ANSWERS["gold"], ROWS["gold"]), FLIPS)
    follows = intervention.report_follows(QA, OWN[0], ANSWERS["gold"], FLIPS, PATIENTS, **DRAWS)
    return trace_figures.intervention(intervention.effects(apart, **DRAWS), follows, origin="simulated")


def reports(rows=ROWS["predicted"], contradictions=None, errors=None):
    if contradictions is None:
        spoken = {"predicted": OWN[0], "annotated": QA}
        contradictions = consistency.contradictions(QA, spoken, PATIENTS, **DRAWS)
        errors = consistency.report_errors(STATEMENTS, **DRAWS)
    first = traceability.first_wrong_stage(rows)
    return trace_figures.report_errors(contradictions, first, errors, origin="simulated")


def reliability(answers=PROBABLE):
    summary = calibration.summary({"predicted": (ROWS["predicted"], answers)}, **DRAWS)
    bins = {
        kind: calibration.reliability(calibration.events(ROWS["predicted"], answers, kind), kind, **DRAWS)
        for kind in calibration.KINDS
    }
    return trace_figures.reliability(bins, summary, origin="simulated")


def exposure():
    return trace_figures.exposure_gap(traceability.exposure_gap(ROWS, **DRAWS), origin="simulated")


def matrices():
    tables = {name: traceability.cross_stage(rows, **DRAWS) for name, rows in ROWS.items()}
    return trace_figures.cross_stage_matrices(tables, origin="simulated")


def worked(folder, returning=RETURNING):
    for image in STUDIES["images"].explode().unique():
        Image.fromarray(fake_film(size=32)).save(folder / image)
    chain = consistency.worked_case(returning, QA, *OWN, seed=0)
    return case_figures.worked_case(chain, STUDIES, folder, n_cases=returning.height, origin="simulated")


DRAWINGS = {
    "exposure_gap": exposure, "cross_stage_errors": matrices, "flipped_answer": flipped,
    "report_errors": reports, "reliability": reliability, "worked_case": worked,
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_saved_figure_is_complete_and_nothing_is_clipped(name, scratch):
    figure, data, caption = DRAWINGS[name](*([scratch] if name == "worked_case" else []))
    assert_printable(figure)
    inside, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert inside.x0 > -0.02 and inside.y0 > -0.02, name
    assert inside.x1 < width + 0.02 and inside.y1 < height + 0.02, name
    assert width <= figures.PAGE + 1e-6 and "simulated" in caption
    texts = [*figure.texts, *(text for ax in figure.axes for text in ax.texts)]
    assert {"simulated films", "SIMULATED"} & {text.get_text() for text in texts}
    figures.save(figure, name, data, caption)
    assert pl.read_csv(scratch / "tables" / f"{name}.csv").height == data.height > 0


def test_matrix_shows_each_number_above_its_null():
    figure, data, _ = matrices()
    defined = data.drop_nulls("observed").filter(context="predicted")
    written = [text.get_text() for text in figure.axes[0].texts]
    pairs = zip(written[::2], written[1::2], strict=True)
    expected = defined.select("observed", "null").rows()
    assert list(pairs) == [(f"{observed:.2f}", f"{null:.2f}") for observed, null in expected]


def test_the_worked_case_marks_each_answer(scratch):
    figure, chain, caption = worked(scratch)
    marks = [t.get_text() for t in figure.axes[1].texts if t.get_text() in ("right", "wrong")]
    assert marks == ["right" if right else "wrong" for right in chain["right"]]
    assert chain["sample_id"][0] in caption and f"{RETURNING.height:,} such findings" in caption
    assert "Drawn by hash" in caption


def test_nothing_to_show_is_said_and_drawn(scratch):
    figure, chain, caption = worked(scratch, RETURNING.clear())
    assert chain.is_empty() and caption == figure.axes[1].texts[0].get_text()
    figure, data, _ = trace_figures.intervention(EMPTY["effects"], EMPTY["follows"], origin="simulated")
    assert data.is_empty()
    empty = EMPTY["contradictions"], EMPTY["errors"]
    _, data, _ = reports(ROWS["predicted"], *empty)
    assert set(data["panel"]) == {"b"}
    figure, data, _ = reliability(OWN[0])  # a system that gives no probability
    assert data.is_empty()
    assert [ax.texts[0].get_text() for ax in figure.axes[:2]] == ["no probability"] * 2
