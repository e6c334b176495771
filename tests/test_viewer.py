"""The case viewer: self-contained, escaped, and showing the boxes and marks of the tables."""

import re
from html.parser import HTMLParser

import polars as pl
import pytest
from fake_answers import fake_cohort, fake_film, fake_predictions, patients_of
from PIL import Image

from cxrtrek_lib.metrics import score_answers
from cxrtrek_lib.viewer import case_viewer, mark, readable

STUDIES, QUESTIONS = fake_cohort(9)


class Page(HTMLParser):
    """Opening tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag, name=None):
        return [
            a for t, a in self.tags if t == tag and (name is None or name in (a.get("class") or "").split())
        ]


@pytest.fixture
def folder(tmp_path):
    for image in STUDIES["images"].explode().unique():
        Image.fromarray(fake_film(size=32)).save(tmp_path / image)
    return tmp_path


def viewer(folder, predictions, qa=QUESTIONS, studies=STUDIES, **more):
    rows = score_answers(qa, predictions, patients_of(qa))
    return case_viewer(studies, qa, predictions, rows, folder, seed=0, **more)


def test_viewer_shows_every_turn_of_its_cases(folder):
    predictions = fake_predictions(QUESTIONS, 0.5)
    page = Page(viewer(folder, predictions, n_cases=4))
    cases = page.all("article", "cv-case")
    assert len(cases) == len(page.all("option")) == 4
    assert sum("hidden" in case for case in cases) == 3  # one case at a time
    names = re.findall(r"<b>(chexpert/[^<]+)</b>", viewer(folder, predictions, n_cases=4))
    shown = QUESTIONS.filter(pl.col("sample_id").is_in(names))
    assert len(page.all("div", "cv-turn")) == shown.height
    scored = score_answers(shown, predictions.join(shown, on="sample_id", how="semi"), patients_of(shown))
    assert len(page.all("span", "cv-right")) == (scored["score"] >= 0.995).sum()
    assert len(page.all("img")) == STUDIES.filter(pl.col("sample_id").is_in(names))["images"].list.len().sum()


def test_boxes_are_drawn_where_the_table_says(folder):
    text = viewer(folder, fake_predictions(QUESTIONS, 1.0))
    corners = r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    corners = r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    drawn = re.findall(rf"<rect {corners}><title>[^,<]+, gold", text)
    boxes = [b for turn in QUESTIONS.filter(pl.col("qtype") == "detection")["bbox_list"] for b in turn]
    expected = sorted((x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)) for x1, y1, x2, y2 in boxes)
    assert sorted(tuple(map(float, box)) for box in drawn) == expected
    assert len(re.findall(r", answered</title>", text)) == len(boxes)


def test_no_request_leaves_the_fragment_and_text_is_escaped(folder):
    given = fake_predictions(QUESTIONS, 1.0).with_columns(answer=pl.lit("<script>alert(1)</script>"))
    text = viewer(folder, given)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "http" not in text
    assert all(image["alt"].startswith("simulated chest film") for image in page.all("img"))
    assert len(page.all("span", "cv-origin")) == len(page.all("img"))


def test_cases_are_drawn_by_hash_not_by_row_order(folder):
    predictions = fake_predictions(QUESTIONS, 0.5)
    first = viewer(folder, predictions, n_cases=3)
    again = viewer(folder, predictions.reverse(), QUESTIONS.reverse(), STUDIES.reverse(), n_cases=3)
    assert again == first


def test_missing_answers_and_films_are_said(folder):
    text = viewer(folder, fake_predictions(QUESTIONS, 1.0)[:0])
    assert "(no answer)" in text and "not answered" in text
    with pytest.raises(ValueError, match="no test case"):
        viewer(folder, fake_predictions(QUESTIONS, 1.0), studies=STUDIES[:0])
    (folder / "film0.png").unlink()
    with pytest.raises(FileNotFoundError, match="film0.png: no such picture"):
        viewer(folder, fake_predictions(QUESTIONS, 1.0))


def test_box_answers_read_as_words():
    boxes = "<|box|>(1.20, 2.00), (30.60, 40.00)<|/box|> <|box|>(5, 6), (7, 8)<|/box|>"
    assert (
        readable(f"See <|ref|> left lung <|/ref|> {boxes}.")
        == "See left lung at (1, 2) to (31, 40) and (5, 6) to (7, 8)."
    )
    assert readable("No box") == "No box"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"answered": False, "parsed": False, "score": 0}, ("wrong", "not answered")),
        ({"answered": True, "parsed": False, "score": 0}, ("wrong", "unreadable")),
        ({"answered": True, "parsed": True, "score": 0}, ("wrong", "wrong")),
        ({"answered": True, "parsed": True, "score": 0.634}, ("partly", "0.63")),
        ({"answered": True, "parsed": True, "score": 1}, ("right", "right")),
    ],
)
def test_marks(row, expected):
    assert mark(row) == expected
