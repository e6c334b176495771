"""DVC's conveniences as docs/dvc.md tells them, in a small repository without a network."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from cxrtrek_lib import paths

STEP = """
stages:
  score:
    cmd: cp source.json scores.json && cp source.png figure.png && mkdir -p data && cp source.json data/x
    deps: [source.json]
    params: [seed]
    outs: [data, {figure.png: {cache: false}}]
    metrics: [{scores.json: {cache: false}}]
plots: [figure.png]
"""


def run(folder, *command, check=True):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "tmp" / "site"), "DVC_NO_ANALYTICS": "1",
        # Whatever would be fetched goes to a port where nobody answers.
        "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
    }  # fmt: skip
    command = [sys.executable, "-m", *command] if command[0] == "dvc" else command
    said = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert not check or said.returncode == 0, said.stderr
    return said.stdout


def git(folder, *command):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return run(folder, "git", *who, *command)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository of one step, run once, with this study's DVC settings and template of plots."""
    folder = tmp_path_factory.mktemp("dvc") / "study"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(paths.ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    (folder / "cxrtrek_lib" / "templates").mkdir(parents=True)
    shutil.copy(paths.TEMPLATES / "plots.html", folder / "cxrtrek_lib" / "templates")
    (folder / "source.json").write_text('{"overall": {"score": 0.5, "n": 10}}')
    (folder / "params.yaml").write_text("seed: 0\n")
    (folder / "dvc.yaml").write_text(STEP)
    Image.new("RGB", (8, 8)).save(folder / "source.png")
    git(folder, "init", "--quiet")
    run(folder, "dvc", "repro")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_push_and_pull_through_a_folder(project, tmp_path):
    run(project, "dvc", "remote", "add", "--force", "--default", "store", str(tmp_path / "store"))
    run(project, "dvc", "push")
    clone = tmp_path / "clone"
    git(project, "commit", "--quiet", "-am", "a remote")
    git(tmp_path, "clone", "--quiet", str(project), str(clone))
    assert not (clone / "data").exists()
    run(clone, "dvc", "pull")
    assert (clone / "data" / "x").read_bytes() == (project / "data" / "x").read_bytes()
    assert "up to date" in run(clone, "dvc", "status")


def test_metrics_and_plots_need_no_network(project):
    (project / "scores.json").write_text('{"overall": {"score": 0.75, "n": 10}}')
    difference = json.loads(run(project, "dvc", "metrics", "diff", "--json"))
    assert difference["scores.json"]["overall.score"] == {"old": 0.5, "new": 0.75, "diff": 0.25}
    git(project, "checkout", "--quiet", "scores.json")
    assert "0.5" in run(project, "dvc", "metrics", "show", "--md")
    run(project, "dvc", "plots", "show")
    page = (project / "dvc_plots" / "index.html").read_text()
    assert "Figures of the run" in page and "<img" in page and "{plot_divs}" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<script" not in page


def test_the_plots_of_the_study_are_pictures_that_its_steps_make():
    text = paths.PIPELINE.read_text()
    plots = re.findall(r"^  - (reports/figures/\S+)$", text.partition("\nplots:\n")[2], flags=re.MULTILINE)
    assert len(plots) >= 10
    for plot in plots:
        assert plot.endswith(".png") and f"      - {plot}:\n" in text, plot
