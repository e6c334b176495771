"""simulate/render.py: films to files, whole or not at all, the same bytes whoever writes them."""

import json
from concurrent.futures.process import BrokenProcessPool
from unittest import mock

import pytest
from films_by_hand import present, study
from PIL import Image

from cxrtrek_lib.simulate import render


def facts(number: int, *rows: dict) -> dict:
    return study(*rows, sample_id=f"t/{number}/1", patient_id=f"t/{number}")


def test_a_batch_goes_on_and_what_it_wrote_does_not_depend_on_who_wrote_it(tmp_path):
    studies = [facts(0), facts(1, present("pacemaker")), facts(2, present("nodule"))]
    broken = [facts(1, present("flying carpet")), facts(2, present("edema", severity="huge"))]
    jobs = [(each, tmp_path / "films" / f"{i}.png") for i, each in enumerate(studies)]
    with pytest.raises(
        ValueError, match="2 of 3 films failed; the first is t/1/1: unknown finding"
    ) as caught:
        render.render_all(
            [jobs[0], (broken[0], jobs[1][1]), (broken[1], jobs[2][1])], size_px=128, seed=0, workers=2
        )
    assert "\n" not in str(caught.value) and str(tmp_path / "films" / "failed.txt") in str(caught.value)
    lines = (tmp_path / "films" / "failed.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["1.png", "t/1/1"], ["2.png", "t/2/1"]]
    assert "huge" in lines[1]
    first = jobs[0][1].read_bytes()  # written although its neighbours failed
    jobs[2][1].write_bytes(first[: len(first) // 2])  # as a kill in the middle of a film would leave it

    truths = render.render_all(jobs, size_px=128, seed=0, workers=1)
    assert not (tmp_path / "films" / "failed.txt").exists()
    here = [render.render(each, 128, 0, tmp_path / f"{i}.png") for i, each in enumerate(studies)]
    assert truths == here
    assert jobs[0][1].read_bytes() == first
    for i, (_, path) in enumerate(jobs):
        assert path.read_bytes() == (tmp_path / f"{i}.png").read_bytes()


def test_a_film_is_reused_only_when_whole_and_the_same(tmp_path):
    path, known = tmp_path / "film.png", facts(1, present("pacemaker"))
    first = render.render(known, 128, 0, path)
    whole = path.read_bytes()
    with Image.open(path) as film:
        assert json.loads(film.text["truth"]) == first
        assert film.text["image_origin"] == "simulated" and film.text["sample_id"] == "t/1/1"
        assert film.size == (128, 128) and film.mode == "L"
    path.write_bytes(whole[:-500])  # as a kill or a full disk leaves it
    assert render.render(known, 128, 0, path) == first and path.read_bytes() == whole
    identity = render.identity(known, 128, 0)
    assert render.read_truth(path, identity) == first
    for other in (
        render.identity(known, 128, 1),
        render.identity(known, 256, 0),
        render.identity(facts(1), 128, 0),
    ):
        assert render.read_truth(path, other) is None
    with mock.patch.object(render, "code_version", lambda: "another simulator"):
        assert render.read_truth(path, render.identity(known, 128, 0)) is None
    assert list(tmp_path.iterdir()) == [path]


def test_two_studies_never_share_a_file(tmp_path):
    with pytest.raises(ValueError, match="t/2/1 and t/1/1 would both be") as caught:
        render.render_all(
            [(facts(1), tmp_path / "1.png"), (facts(2), tmp_path / "1.png")], size_px=128, seed=0, workers=1
        )
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match="cannot make this folder"):
        render.render_all([(facts(1), tmp_path / "file" / "1.png")], size_px=128, seed=0, workers=1)


def test_why_a_film_failed_is_one_line():
    assert render._reason(ValueError("t/1/1: no\nsecond line")) == "t/1/1: no"
    assert render._reason(IndexError("index 3")) == "IndexError: index 3"
    assert "fewer workers" in render._reason(BrokenProcessPool("a process\nterminated abruptly"))
    assert render.render_all([], size_px=128, seed=0, workers=1) == []
