"""The case viewer: self-contained, escaped, and holding the boxes, marks and probabilities of the tables."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from fake_answers import fake_cohort, fake_film, fake_predictions, patients_of
from PIL import Image

from cxrtrek_lib.metrics import score_answers
from cxrtrek_lib.viewer import FILM_PX, case_viewer, in_notebook, labelled_film, mark, readable

STUDIES, QUESTIONS = fake_cohort(9)


class Page(HTMLParser):
    """Opening tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def folder(tmp_path):
    for image in STUDIES["images"].explode().unique():
        Image.fromarray(fake_film(size=64)).save(tmp_path / image)
    return tmp_path


def viewer(folder, predictions, qa=QUESTIONS, studies=STUDIES, **more):
    rows = score_answers(qa, predictions, patients_of(qa))
    return case_viewer(studies, qa, predictions, rows, folder, seed=0, **more)


def shown(text: str) -> dict:
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" class="cv-data">(.*?)</script>', text)[1])


def test_every_turn_of_its_cases_is_there_in_the_order_of_asking(folder):
    predictions = fake_predictions(QUESTIONS, 0.5)
    data = shown(viewer(folder, predictions, n_cases=4))
    assert len(data["cases"]) == 4
    scored = score_answers(QUESTIONS, predictions, patients_of(QUESTIONS))
    for case in data["cases"]:
        asked = QUESTIONS.filter(sample_id=case["name"]).sort("stage", "turn")
        assert [turn["question"] for turn in case["turns"]] == asked["question"].to_list()
        right = (scored.filter(sample_id=case["name"])["score"] >= 0.995).sum()
        assert sum(turn["mark"] == "right" for turn in case["turns"]) == right
        images = STUDIES.filter(sample_id=case["name"])["images"].item().to_list()
        assert [image for _, image in case["films"]] == images and set(images) <= set(data["films"])


def test_boxes_lie_where_the_tables_say(folder):
    data = shown(viewer(folder, fake_predictions(QUESTIONS, 1.0)))
    boxes = [b for turn in QUESTIONS.filter(pl.col("qtype") == "detection")["bbox_list"] for b in turn]
    expected = sorted([0, x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)] for x1, y1, x2, y2 in boxes)
    for kind in ("gold_boxes", "answer_boxes"):
        drawn = [box for case in data["cases"] for turn in case["turns"] for box in turn.get(kind, [])]
        assert sorted(drawn) == expected


def test_probabilities_and_context_are_those_of_the_table(folder):
    row = pl.int_range(pl.len())
    given = fake_predictions(QUESTIONS, 1.0).with_columns(
        prob_yes=pl.when(row == 0).then(0.0).when(row == 1).then(0.25), prob_answer=row / QUESTIONS.height
    )
    data = shown(viewer(folder, given))
    turns = {(case["name"], i): turn for case in data["cases"] for i, turn in enumerate(case["turns"])}
    first = QUESTIONS["sample_id"][0]
    assert turns[first, 0]["yes"] == 0 and turns[first, 1]["yes"] == 0.25 and "yes" not in turns[first, 2]
    assert turns[first, 2]["sure"] == pytest.approx(2 / QUESTIONS.height, abs=5e-4)
    assert data["context"] == "its own earlier answers"
    assert shown(viewer(folder, given, context="none"))["context"] == ""


def test_findings_to_filter_by(folder):
    """Of a question about one finding that one; of an open one, those that gold or answer state."""
    data = shown(viewer(folder, fake_predictions(QUESTIONS, 1.0)))
    turns = [turn for case in data["cases"] for turn in case["turns"]]
    for turn in turns:
        if turn["question"].startswith("Is there "):
            assert turn["findings"] == [turn["question"].removeprefix("Is there ").rstrip("?")]
    reports = [turn["findings"] for turn in turns if turn["question"] == "Write the report."]
    assert reports == [["cardiomegaly", "pleural effusion", "pneumothorax"]] * 9


def test_no_request_leaves_the_fragment_and_text_is_escaped(folder):
    given = fake_predictions(QUESTIONS, 1.0).with_columns(answer=pl.lit("</script><script>alert(1)</script>"))
    text = viewer(folder, given)
    assert "<script>alert" not in text
    assert shown(text)["cases"][0]["turns"][0]["answer"] == "</script><script>alert(1)</script>"
    assert not [attributes for _, attributes in Page(text).tags if {"src", "href"} & set(attributes)]
    addresses = re.findall(r'"([^"]*://[^"]*)"', text)
    assert addresses == ["http://www.w3.org/2000/svg"] * len(addresses)  # a name, never fetched
    assert all(film.startswith("data:image/webp;base64,") for film in shown(text)["films"].values())


@pytest.mark.parametrize("size", [(64, 64), (900, 600)])
def test_the_origin_is_part_of_the_picture(tmp_path, size):
    """A saved film still says what it is; without the label's corner it is the film, at most FILM_PX long."""
    film = np.full(size, 90, np.uint8)
    film[0, 0] = 0
    Image.fromarray(film).save(tmp_path / "film.png")
    encoded = labelled_film(tmp_path / "film.png", "simulated").partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    scale = min(1, FILM_PX / max(size))
    assert pixels.shape == tuple(round(side * scale) for side in size)
    corner = pixels[3 * len(pixels) // 4 :]
    assert corner.max() > 200 and corner.min() < 50  # white letters with a black edge
    assert (
        abs(np.median(pixels) - 90) <= 2 and abs(pixels[len(pixels) // 4 : len(pixels) // 2] - 90).max() < 9
    )


def test_cases_are_drawn_by_hash_not_by_row_order(folder):
    predictions = fake_predictions(QUESTIONS, 0.5)
    first = viewer(folder, predictions, n_cases=3)
    again = viewer(folder, predictions.reverse(), QUESTIONS.reverse(), STUDIES.reverse(), n_cases=3)
    assert again == first


def test_missing_answers_and_films_are_said(folder):
    data = shown(viewer(folder, fake_predictions(QUESTIONS, 1.0)[:0]))
    assert {turn["said"] for case in data["cases"] for turn in case["turns"]} == {"not answered"}
    with pytest.raises(ValueError, match="no test case"):
        viewer(folder, fake_predictions(QUESTIONS, 1.0), studies=STUDIES[:0])
    (folder / "film0.png").unlink()
    with pytest.raises(FileNotFoundError, match="film0.png: no such film"):
        viewer(folder, fake_predictions(QUESTIONS, 1.0))


def test_in_a_notebook_it_is_framed_whole(folder):
    text = viewer(folder, fake_predictions(QUESTIONS, 1.0), n_cases=2)
    ((_, frame),) = [tag for tag in Page(in_notebook(text).data).tags if tag[0] == "iframe"]
    assert frame["srcdoc"].endswith(text) and frame["title"] == "Case viewer"


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
