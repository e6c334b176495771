"""Executed notebooks as pages: offline, titled, timed; and provenance that names no place or person."""

import getpass
import re
import socket

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from cxrtrek_lib import notebook_pages, paths, provenance, report


def executed(folder, stem, *, seconds=83.5):
    cells = [
        new_markdown_cell("# 05 · Answers & questions\n\n**Question.** Well?"),
        new_code_cell("print(1)", outputs=[new_output("stream", text="1 < 2\n")]),
    ]
    metadata = {"papermill": {"start_time": None, "end_time": None}}
    if seconds is not None:
        metadata["papermill"] = {
            "start_time": "2026-11-23T01:00:00.000000+00:00",
            "end_time": f"2026-11-23T01:{int(seconds // 60):02d}:{seconds % 60:09.6f}+00:00",
        }
    nbformat.write(new_notebook(cells=cells, metadata=metadata), folder / f"{stem}.ipynb")


@pytest.fixture
def pages(tmp_path):
    executed(tmp_path, "05_predict.gold")
    executed(tmp_path, "09_report", seconds=None)
    executed(tmp_path, "05_predict.none.failed")
    executed(tmp_path, "08_gone")
    executed(tmp_path, "06_evaluate_stages")
    executed(tmp_path, "06_evaluate_stages.running")
    return notebook_pages.export(tmp_path, tmp_path / "html")


def test_finished_copies_of_present_notebooks_become_pages(pages):
    assert [page.stem for page in pages] == ["05_predict.gold", "09_report"]
    assert pages[0].title == "05 · Answers & questions"
    assert [page.seconds for page in pages] == [83.5, None]


def test_a_page_loads_nothing_and_keeps_what_was_said(pages):
    text = pages[0].file.read_text()
    assert "1 &lt; 2" in text and "<title>05 · Answers &amp; questions</title>" in text
    assert not re.search(r'(src|href)="(https?:)?//', text) and "@import" not in text
    assert not re.search(r"<script[^>]*>(?:(?!</script>).)*https?://", text, flags=re.DOTALL)


def test_the_same_notebook_gives_the_same_page(pages, tmp_path):
    first = pages[0].file.read_bytes()
    notebook_pages.export(tmp_path, tmp_path / "html")
    assert pages[0].file.read_bytes() == first


def test_what_is_no_notebook_is_named(tmp_path):
    (tmp_path / "05_predict.gold.ipynb").write_text("{")
    with pytest.raises(ValueError, match=r"05_predict\.gold\.ipynb: not a notebook"):
        notebook_pages.export(tmp_path, tmp_path / "html")


def test_durations_for_people():
    seconds = (None, 0.4, 48.2, 89.9, 90, 3540, 3600, 3900)
    assert [report.duration(s) for s in seconds] == [
        "", "0 s", "48 s", "90 s", "2 min", "59 min", "1 h 00 min", "1 h 05 min",
    ]  # fmt: skip


def test_provenance_names_no_place_and_no_person():
    told = " ".join(value for _, value in provenance.table({"sha256": "ab12"}))
    assert "ab12" in told and "cores" in told and "torch 2" in told
    assert str(paths.ROOT) not in told and socket.gethostname() not in told.split()
    assert getpass.getuser() not in told.split()
    assert re.match(r"[0-9a-f]{40}(, with \d+ changed files)?$|not a git", provenance.commit())


def test_hashes_are_those_of_dvc_lock(tmp_path):
    lock = tmp_path / "dvc.lock"
    assert provenance.outputs(lock) == []
    lock.write_text(
        "schema: '2.0'\nstages:\n  a:\n    cmd: x\n    outs:\n"
        "    - {path: data/a, md5: 12ab.dir}\n    - {path: reports/metrics/a.json, md5: 99}\n"
    )
    assert provenance.outputs(lock) == [("a", "data/a", "12ab.dir")]
