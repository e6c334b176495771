"""The figures of a dataset: numbers by hand, nothing clipped or written over, the same bytes."""

import polars as pl
import pytest
from fake_answers import fake_cohort
from figure_checks import assert_printable
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from cxrtrek_lib import conversations, figures
from cxrtrek_lib.dataset_statistics import dataset_counts, dataset_figures, icicle, published, shortcuts

STUDIES, QUESTIONS = fake_cohort(60)
SPLIT = STUDIES.with_columns(
    split=pl.when(pl.col("patient_id") < "chexpert/patient00020")
    .then(pl.lit("train"))
    .otherwise(pl.lit("test"))
)
COUNTS = dataset_counts.count(SPLIT, QUESTIONS)
DRAWINGS = {
    "overview": lambda: dataset_figures.dataset_overview(COUNTS, origin="made up"),
    "mixture": lambda: dataset_figures.training_mixture(COUNTS, origin="made up"),
    "shortcuts": lambda: dataset_figures.shortcut_scores(
        shortcuts.shortcuts(SPLIT, QUESTIONS, n_boot=20, seed=0), origin="made up"
    ),
    **{
        f"panel {name}": lambda name=name: dataset_figures.panel(name, COUNTS, origin="made up")
        for name in "abcdef"
    },
}


pytestmark = pytest.mark.usefixtures("scratch")


@pytest.mark.parametrize("name", DRAWINGS)
def test_nothing_is_clipped_and_no_label_covers_another(name):
    figure, data, caption = DRAWINGS[name]()
    width, height = figure.get_size_inches()
    assert width == pytest.approx(figures.COLUMN if name.startswith("panel") else figures.PAGE)
    assert height <= 247 / 25.4  # a page
    assert_printable(figure)
    inside = figure.get_tightbbox()
    assert inside.x0 > -0.02 and inside.y0 > -0.02
    assert inside.x1 < width + 0.02 and inside.y1 < height + 0.02
    assert data.height > 0 and "made up" in caption


@pytest.mark.parametrize("name", ["overview", "shortcuts"])
def test_the_same_numbers_give_the_same_bytes(name, scratch):
    def written() -> list[bytes]:
        figures.save(*[(drawn := DRAWINGS[name]())[0], "drawn", *drawn[1:]])
        return [path.read_bytes() for path in sorted(scratch.rglob("drawn.*"))]

    first = written()
    assert len(first) == 4 and written() == first


def luminance(colour) -> float:
    """Relative luminance of a colour, W3C's WCAG 2.2."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.parametrize("name", "ab")
def test_words_can_be_read_on_their_ground(name):
    """Every label stands in one cell, its contrast above 4.5 (WCAG AA), so it survives grayscale."""
    (ax,) = DRAWINGS[f"panel {name}"]()[0].axes
    for text in ax.texts:
        x, y = text.xy
        corners = [(p, p.get_x(), p.get_y()) for p in ax.patches]
        (cell,) = [p for p, u, v in corners if u < x < u + p.get_width() and v < y < v + p.get_height()]
        light, dark = sorted((luminance(text.get_color()), luminance(cell.get_facecolor())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, text.get_text()
    shades = sorted(luminance(colour) for colour in dataset_figures.FORMAT_COLOURS.values())
    assert all(b - a > 0.1 for a, b in zip(shades, shades[1:], strict=False))


def test_figure_2_numbers_by_hand():
    _, data, caption = DRAWINGS["overview"]()
    stages = data.filter(panel="c stage")
    assert stages["share"].sum() == pytest.approx(1) and stages["published"].sum() == pytest.approx(1)
    share = dict(stages.select("x", "share").iter_rows())
    assert share["4"] == 0
    assert share["2"] == pytest.approx((QUESTIONS["stage"] == 2).mean())
    formats = dict(data.filter(panel="f format").select("x", "share").iter_rows())
    assert formats["close-ended"] == pytest.approx((QUESTIONS["qtype"] == "yes_no").mean())
    sizes = data.filter(panel="d Q&A per sample")
    mean = (sizes["x"].cast(pl.Int64) * sizes["share"]).sum()
    assert mean == pytest.approx(QUESTIONS.height / QUESTIONS["sample_id"].n_unique())
    for side in ("question", "answer"):
        table = data.filter(panel=f"e {side} words")
        words = [len(text.split()) for text in QUESTIONS[side]]
        assert (table["x"].cast(pl.Int64) * table["share"]).sum() == pytest.approx(sum(words) / len(words))
    for panel in ("a question words", "b answer words"):
        assert data.filter(panel=panel)["share"].sum() == pytest.approx(1)
    yes = data.filter(panel="b answer words", x="yes")["share"].item()
    assert yes == pytest.approx((QUESTIONS["answer"] == "Yes.").mean())
    assert f"{QUESTIONS.height:,} Q&A of {STUDIES.height:,} samples" in caption


def test_a_panel_alone_draws_what_the_whole_figure_draws():
    whole = DRAWINGS["overview"]()[1]
    for name in "cdef":
        alone = DRAWINGS[f"panel {name}"]()[1]
        assert alone.equals(whole.filter(pl.col("panel").str.starts_with(f"{name} ")))


@pytest.mark.parametrize("times", [1, 3, 6])
def test_legends_cover_neither_bars_nor_lines(times):
    turns = pl.concat([QUESTIONS.with_columns(pl.col("turn") + 50 * n) for n in range(times)])
    counts = dataset_counts.count(SPLIT, turns)
    for figure in (
        dataset_figures.panel("d", counts, origin="made up")[0],
        dataset_figures.dataset_overview(counts, origin="made up")[0],
    ):
        figure.draw_without_rendering()
        for ax in figure.axes:
            if ax.get_legend() is not None:  # panels d and e
                legend = ax.get_legend().get_window_extent()
                drawn = [artist.get_window_extent().y1 for artist in [*ax.patches, *ax.collections]]
                assert legend.y0 > max(drawn)
        (ax,) = [ax for ax in figure.axes if ax.get_xlabel() == "Q&A per sample"]
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [
            f"mean {times * QUESTIONS.height / STUDIES.height:.2f}", "paper 26.29",
        ]  # fmt: skip


def test_word_cells_by_hand():
    openings = pl.DataFrame(
        {
            "first": ["is", "is", "is", "do", "can", "can", "how", "on"],
            "second": ["there", "this", "it", "you", "a", "b", "", "the"],
            "n": [30, 10, 5, 25, 6, 6, 14, 4],
        }
    )
    cells = icicle.word_cells(openings, 0.1)
    assert cells.rows() == [
        ("is", "there", ["there"], 0.3), ("is", "this", ["this"], 0.1), ("is", None, ["it"], 0.05),
        ("do", "you", ["you"], 0.25), ("how", "", [""], 0.14), ("can", None, ["a", "b"], 0.12),
        (None, None, ["on"], 0.04),
    ]  # fmt: skip


words = st.sampled_from(["is", "do", "can", "how", ""])


@given(st.lists(st.tuples(words, words, st.integers(1, 99)), min_size=1), st.floats(0, 1))
def test_an_icicle_loses_nothing(pairs, least):
    openings = pl.DataFrame(pairs, schema=["first", "second", "n"], orient="row")
    openings = openings.group_by("first", "second").agg(pl.col("n").sum())
    cells = icicle.word_cells(openings, least)
    assert cells["share"].sum() == pytest.approx(1)
    assert cells.select("first", "second").is_unique().all()
    assert (cells.filter(pl.col("second").is_not_null())["share"] >= least - 1e-9).all()


def test_figure_a_counts_the_training_split_only():
    _, data, caption = DRAWINGS["mixture"]()
    train = SPLIT.filter(split="train")
    asked = QUESTIONS.join(train, on="sample_id")
    assert dict(data.select("source", "qa").rows()) == dict(asked["source"].value_counts().rows())
    assert dict(data.select("source", "studies").rows()) == dict(train["source"].value_counts().rows())
    assert data["qa_share"].sum() == pytest.approx(1) == data["studies_share"].sum()
    assert data.select(pl.sum_horizontal(conversations.KINDS))["open-ended"].to_list() == data["qa"].to_list()
    assert f"{train.height:,} studies" in caption
    external = dataset_counts.count(SPLIT.with_columns(split=pl.lit("external")), QUESTIONS)
    with pytest.raises(ValueError, match="training split"):
        dataset_figures.training_mixture(external, origin="made up")


def test_one_sample_with_one_question_is_drawn():
    counts = dataset_counts.count(SPLIT, QUESTIONS[:1])
    for name in "abcdef":
        _, data, _ = dataset_figures.panel(name, counts, origin="made up")
        assert data["share"].sum() == pytest.approx(2 if name == "e" else 1)


def test_the_published_reference_adds_up():
    """Counts of the 100 samples: 2,606 Q&A, 26.06 per sample; the four formats share the whole."""
    assert sum(published.PER_STAGE.values()) == 2606
    assert sum(published.FORMATS.values()) == pytest.approx(1)
    for stage, n in published.PER_STAGE.items():
        cells = [m for (of, _), m in published.STAGE_FORMATS.items() if of == stage]
        assert sum(cells) in ([n] if stage not in (1, 3) else [0, 469])
    assert published.STAGE_FORMATS[3, "detection"] / 2606 == pytest.approx(
        published.FORMATS["detection"], abs=5e-4
    )
    assert published.QA_PER_SAMPLE * published.SAMPLES > published.QA
