"""The picture of the pipeline: edges follow from files, none crosses a box, the same bytes every time."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import networkx as nx
import pytest
import yaml

from cxrtrek_lib import paths, pipeline_graph

PIPELINE = yaml.safe_load(
    """
stages:
  read:
    cmd: python -m cxrtrek_lib.run notebooks/01_read.ipynb
    outs: [data/read]
  films:
    foreach: ${cohort.external}
    do:
      cmd: python -m cxrtrek_lib.run notebooks/02_films.ipynb --set name=${key}
      deps: [data/read/studies.parquet]
      outs: [{"data/films/${key}": {persist: true}}]
  train:
    cmd: python -m cxrtrek_lib.run notebooks/03_train.ipynb --set mode=whole
    deps: [data/films/nih]
    outs: [models]
  page:
    cmd: python -m cxrtrek_lib.run notebooks/04_page.ipynb
    deps: [models/history.json, data/read, data/films]
    metrics: [{reports/page.json: {cache: false}}]
"""
)
PARAMS = {"cohort": {"external": {"nih": 1, "openi": 2}}}


def test_edges_are_those_of_the_files_and_follow_from_no_others():
    graph = pipeline_graph.graph(PIPELINE, PARAMS)
    assert set(graph.edges) == {("read", "films"), ("films", "train"), ("train", "page")}
    assert graph.nodes["films"]["items"] == ["nih", "openi"]
    assert graph.nodes["films"]["copies"] == ["02_films.nih", "02_films.openi"]
    assert graph.nodes["train"]["copies"] == ["03_train.whole"]
    assert [layer for _, layer in graph.nodes(data="layer")] == [0, 1, 2, 3]


def test_steps_in_a_circle_are_refused():
    circle = {
        "stages": {
            "a": {"cmd": "notebooks/a.ipynb", "deps": ["y"], "outs": ["x"]},
            "b": {"cmd": "notebooks/b.ipynb", "deps": ["x"], "outs": ["y"]},
        }
    }
    with pytest.raises(nx.NetworkXUnfeasible):
        pipeline_graph.graph(circle, {})


def real():
    return pipeline_graph.graph(
        yaml.safe_load(paths.PIPELINE.read_text()),
        yaml.safe_load((paths.PROFILES / "default.yaml").read_text()),
    )


def test_the_real_pipeline_has_the_edges_that_dvc_has():
    """Every edge of ours is a way in DVC's own graph, and the other way round."""
    said = subprocess.run(
        [sys.executable, "-m", "dvc", "dag", "--dot"],
        cwd=paths.ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    theirs = {
        tuple(name.split("@")[0] for name in edge)
        for edge in re.findall(r'"([^"]+)" -> "([^"]+)"', said.stdout)
    }
    ours = nx.transitive_closure(real())
    assert {edge for edge in theirs if edge[0] != edge[1]} <= set(ours.edges)
    assert set(real().edges) <= theirs


def test_the_svg_is_whole_linked_and_no_edge_crosses_a_box():
    graph = real()
    text = pipeline_graph.svg(graph, {"report": "notebooks/html/a&b.html"})
    root = ET.fromstring(text)
    assert len([g for g in root if g.tag in ("a", "g")]) == len(graph)
    assert [a.get("href") for a in root.iter("a")] == ["notebooks/html/a&b.html"]
    boxes = [tuple(float(box.get(k)) for k in ("x", "y", "width", "height")) for box in root.iter("rect")]
    x, y, wide, high = (float(v) for v in root.get("viewBox").split())
    assert all(bx >= x and by >= y and bx + w <= wide and by + h <= high for bx, by, w, h in boxes)
    # A straight part runs through a waypoint's place: no box may stand there.
    for path in root.iter("path"):
        straight = re.search(r" (\S+) (\S+) h(\d+)$", path.get("d"))
        if straight:
            x1, level, length = (float(v) for v in straight.groups())
            assert not any(
                by < level < by + h and bx < x1 + length - 1 and bx + w > x1 + 1 for bx, by, w, h in boxes
            )


def test_the_same_picture_in_another_process():
    code = (
        "import yaml; from cxrtrek_lib import paths, pipeline_graph as g; "
        "load = lambda path: yaml.safe_load(path.read_text()); "
        "print(g.svg(g.graph(load(paths.PIPELINE), load(paths.PROFILES / 'default.yaml')), {}), end='')"
    )
    command = [sys.executable, "-c", code]
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(paths.ROOT)}
    said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert said.stdout == pipeline_graph.svg(real(), {})
