"""The figures: numbers that are drawn, bytes that are stable, a style that leaves nothing behind."""

import matplotlib as mpl
import polars as pl
import pytest
from fake_answers import fake_boxes, fake_cohort, fake_film, fake_predictions, fake_scores
from figure_checks import VISIONS, apart, assert_printable
from matplotlib import pyplot as plt
from PIL import Image

from cxrtrek_lib import ablations, figures, film_figures, score_figures
from cxrtrek_lib.ablation_scores import MEASURES
from cxrtrek_lib.evaluation import evaluation_json, stage_scores

STUDIES, QUESTIONS = fake_cohort(24)
ROWS = {name: fake_scores(QUESTIONS, skill) for name, skill in (("predicted", 0.8), ("majority", 0.4))}
TABLES = {name: stage_scores(rows, n_boot=50, seed=0) for name, rows in ROWS.items()}
HISTORY = {
    "encoder": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}],
    "decoder": [
        {"epoch": 1, "step": 1, "train_loss": 3.0},
        {"epoch": 1, "step": 2, "train_loss": 2.0},
        {"epoch": 1, "step": 2, "validation_loss": 2.5},
        {"epoch": 2, "step": 3, "validation_loss": 2.25},
    ],
    "cases": {"train": 8, "validate": 4},
}
SCORE = {"score": 0.5, "low": 0.4, "high": 0.6, "n": 1000}
ABLATIONS = {
    "arms": {
        arm: {context: dict.fromkeys(MEASURES, SCORE) for context in ("predicted", "none")}
        for arm in (*score_figures.ARMS, "majority")
    },
    "differences": {
        "shuffled, none": {"difference": 0.02, "low": -0.01, "high": 0.05, "p_holm": 0.4, "n": 1000}
    },
}
BOX = [[10.0, 10.0, 50.0, 60.0]]
DRAWINGS = {
    "training_curves": lambda: figures.training_curves(HISTORY, origin="simulated"),
    "stage_radar": lambda: score_figures.stage_radar(TABLES, origin="simulated"),
    "context_modes": lambda: score_figures.context_modes(
        evaluation_json(ROWS, n_boot=50, seed=0), origin="simulated"
    ),
    "stage_format_heatmap": lambda: score_figures.stage_format_heatmap(
        TABLES["predicted"], system="predicted", origin="simulated"
    ),
    "ablations": lambda: score_figures.ablation_forest(ABLATIONS, origin="simulated"),
    "contact_sheet": lambda: film_figures.contact_sheet(
        [fake_film(1), fake_film(2)], ["PA", "AP"], [BOX, []], origin="simulated"
    ),
    "detection_examples": lambda: film_figures.detection_examples(
        [fake_film(1), fake_film(2)], ["heart", "heart"], [BOX, BOX], [BOX, []], origin="simulated"
    ),
}


pytestmark = pytest.mark.usefixtures("scratch")


@pytest.mark.parametrize("name", DRAWINGS)
def test_saved_figure_is_complete_and_nothing_is_clipped(name, scratch):
    before, opened = dict(mpl.rcParams), plt.get_fignums()
    figure, data, caption = DRAWINGS[name]()
    assert_printable(figure)
    inside = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert inside.x0 > -0.02 and inside.y0 > -0.02, name
    assert inside.x1 < width + 0.02 and inside.y1 < height + 0.02, name
    assert width <= figures.PAGE + 1e-6
    figures.save(figure, name, data, caption)
    assert dict(mpl.rcParams) == before and plt.get_fignums() == opened
    assert (scratch / "tables" / f"{name}.txt").read_text().strip() == caption
    assert pl.read_csv(scratch / "tables" / f"{name}.csv").height == data.height > 0
    with Image.open(scratch / "figures" / f"{name}.png") as picture:
        assert picture.size == pytest.approx((width * 300, height * 300), abs=1)
    pdf = (scratch / "figures" / f"{name}.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"CreationDate" not in pdf and b"/Producer" not in pdf


@pytest.mark.parametrize(("n_cases", "times"), [(6, 1), (24, 1), (24, 137)])
def test_score_figures_are_printable_at_any_size(n_cases, times):
    """A smoke run of few cases; and one with every system, two from outside, and counts in the thousands."""
    _, questions = fake_cohort(n_cases)
    scored = fake_scores(questions, 0.8)
    names = list(score_figures.SYSTEMS if times > 1 else TABLES) + ["our own system", "another"] * (times > 1)
    table = stage_scores(scored, n_boot=50, seed=0).with_columns(pl.col("n") * times)
    shown = [name for name in names if name not in ("constant", "swapped_image")]
    figure, _, _ = score_figures.stage_radar(dict.fromkeys(shown, table), origin="simulated")
    assert_printable(figure)
    found = evaluation_json({"predicted": scored}, n_boot=50, seed=0)
    for key in ("overall", "yes_no_balanced_accuracy", "detection_mean_iou"):
        found[key] = {name: found[key]["predicted"] | {"n": 97 * times} for name in names}
    assert_printable(score_figures.context_modes(found, origin="simulated")[0])
    heatmap = score_figures.stage_format_heatmap(table, system="predicted", origin="simulated")
    assert_printable(heatmap[0])


@pytest.mark.parametrize("name", ["training_curves", "stage_radar", "detection_examples"])
def test_the_same_numbers_give_the_same_bytes(name, scratch):
    def written():
        figures.save(*[(drawn := DRAWINGS[name]())[0], name, *drawn[1:]])
        return [path.read_bytes() for path in sorted(scratch.rglob(f"{name}.*"))]

    first = written()
    assert len(first) == 4 and written() == first


PALETTE = ("BLUE", "ORANGE", "GREEN", "RED", "PURPLE", "SKY", "YELLOW", "GREY", "BLACK")


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_stay_apart_for_the_colour_blind(vision):
    """Simulated after Machado et al. 2009; the least pair is seven times what is just noticed."""
    colours = [getattr(figures, name) for name in PALETTE]
    least = min(
        (apart(one, other, vision), PALETTE[i], PALETTE[j])
        for i, one in enumerate(colours)
        for j, other in enumerate(colours[:i])
    )
    assert least[0] > 15, least


def test_the_simulation_of_colour_blindness_is_right():
    """Red and green of equal lightness are told apart by nobody with protanopia or deuteranopia."""
    assert apart("#000000", "#ffffff", "normal") == pytest.approx(100, abs=0.1)
    for vision in ("protanopia", "deuteranopia"):
        assert apart("#ffffff", "#ffffff", vision) == 0
        assert apart("#b06060", "#708060", vision) < 0.5 * apart("#b06060", "#708060", "normal")


def test_systems_differ_in_marker_too():
    looks = score_figures.looks([*score_figures.SYSTEMS, "a", "b", "c"])
    markers = [marker for _, _, marker in looks.values()]
    assert len(set(markers)) == len(markers)


def test_a_picture_is_small_and_its_colours_are_those_of_the_style(scratch):
    figures.save(*[(drawn := DRAWINGS["context_modes"]())[0], "small", *drawn[1:]])
    with Image.open(scratch / "figures" / "small.png") as picture:
        assert picture.mode == "P" and picture.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        shown = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert any(max(abs(a - b) for a, b in zip(c, (0, 0x72, 0xB2), strict=True)) <= 2 for c in shown)  # BLUE


def test_style_is_put_back_after_an_error():
    before, opened = dict(mpl.rcParams), plt.get_fignums()
    with pytest.raises(RuntimeError), figures.style():
        plt.subplots()
        raise RuntimeError
    assert dict(mpl.rcParams) == before and plt.get_fignums() == opened


def test_shares_as_text():
    assert [figures.percent(share) for share in (0, 0.0004, 0.0005, 0.125, 1)] == [
        "0.0 %", "<0.1 %", "0.1 %", "12.5 %", "100.0 %",
    ]  # fmt: skip


def test_training_curves_ring_the_best_validation_loss_where_there_is_one():
    figure, data, _ = figures.training_curves(HISTORY, origin="simulated")
    assert [text.get_text() for text in figure.axes[1].texts] == ["best 2.250"]
    assert data.filter(phase="training")["loss"].to_list() == [3.0, 2.0]
    short = HISTORY | {"decoder": HISTORY["decoder"][:2]}
    figure, _, _ = figures.training_curves(short, origin="simulated")
    assert not figure.axes[1].texts


def test_a_stage_without_questions_is_said_and_never_drawn_as_zero():
    figure, data, _ = score_figures.stage_radar(TABLES, origin="simulated")
    (ax,) = figure.axes
    texts = [text.get_text() for text in ax.texts]
    assert sum("no questions" in text for text in texts) == 3  # stages 4, 6 and 7
    assert set(data["stage"]) == {1, 2, 3, 5, 8}
    markers = [line for line in ax.get_lines() if line.get_marker() in ("o", "X")]
    assert [len(line.get_xdata()) for line in markers] == [5, 5]


def test_systems_from_outside_are_drawn_beside_ours_under_their_own_names():
    shown = {"theirs": TABLES["predicted"], "predicted": TABLES["predicted"], "others": TABLES["majority"]}
    look = score_figures.looks(shown)
    assert list(look) == ["predicted", "theirs", "others"] and look["theirs"][0] == "theirs"
    assert len({(colour, marker) for _, colour, marker in look.values()}) == 3
    figure, data, _ = score_figures.stage_radar(shown, origin="simulated")
    written = {text.get_text() for ax in figure.axes for text in ax.get_legend().get_texts()}
    assert written == {label for label, _, _ in look.values()}
    found = evaluation_json({"predicted": ROWS["predicted"], "theirs": ROWS["predicted"]}, n_boot=50, seed=0)
    figure, data, _ = score_figures.context_modes(found, origin="simulated")
    assert set(data["system"]) == {"predicted", "theirs"}
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "own answers as context",
        "theirs",
    ]


def test_every_arm_and_every_context_of_the_ablations_is_drawn():
    assert set(score_figures.ARMS) == set(ablations.ARMS)
    assert set(score_figures.TEST_CONTEXTS) == set(ablations.CONTEXTS)
    figure, data, caption = DRAWINGS["ablations"]()
    assert data.height == 3 * (2 * len(ablations.ARMS) + 1)  # and the majority baseline
    said = [text.get_text() for text in figure.axes[-1].texts]
    assert "+0.020 (-0.010 to +0.050), p 0.400" in said and "1,000 questions" in caption


def test_heatmap_leaves_absent_cells_empty():
    figure, data, _ = DRAWINGS["stage_format_heatmap"]()
    written = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert len(written) == data.height


def test_every_film_says_what_it_is():
    for name in ("contact_sheet", "detection_examples"):
        figure, _, caption = DRAWINGS[name]()
        for ax in figure.axes[:2]:
            assert "SIMULATED" in [text.get_text() for text in ax.texts]
        assert "simulated" in caption


def test_detection_examples_state_iou_and_missing_answers():
    figure, data, caption = DRAWINGS["detection_examples"]()
    assert data["iou"].to_list() == [1.0, 0.0]
    assert "no box answered" in figure.axes[1].get_title(loc="left")
    assert "mean IoU is 0.50" in caption
    with pytest.raises(ValueError, match="empty"):
        film_figures.detection_examples([], [], [], [], origin="simulated")


def test_cases_on_sheets_are_drawn_by_hash_and_read_from_the_tables(scratch):
    for image in STUDIES["images"].explode().unique():
        Image.fromarray(fake_film(size=32)).save(scratch / image)
    present = QUESTIONS.filter(qtype="detection").select("sample_id", "target").unique()
    findings = present.select("sample_id", finding="target", status=pl.lit("present"))
    boxes = fake_boxes(QUESTIONS)
    _, sheet, caption = film_figures.cohort_sheet(STUDIES, findings, boxes, scratch, seed=0, n=6)
    assert sheet.height == 6 and f"{STUDIES.height} cases" in caption
    again = film_figures.cohort_sheet(STUDIES.reverse(), findings, boxes, scratch, seed=0, n=6)[1]
    assert again.equals(sheet)
    nothing = sheet.filter(pl.col("title").str.contains("no finding"))
    assert 0 < nothing.height < 6 and set(nothing["boxes_percent"]) == {""}

    answers = fake_predictions(QUESTIONS, 1.0)
    _, examples, _ = film_figures.answer_examples(STUDIES, QUESTIONS, answers, scratch, seed=0, n=5)
    assert examples.height == 5 and set(examples["iou"]) == {1.0}
    _, examples, _ = film_figures.answer_examples(STUDIES, QUESTIONS, answers[:0], scratch, seed=0, n=5)
    assert set(examples["answered_boxes"]) == {0}
