"""Notebooks stay thin, stripped and true to the parameter file."""

import ast
import json
import re
import shutil
import subprocess
import sys

import pytest

from cxrtrek_lib import params, paths, run

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
STEPS = [
    "01_build_dataset", "02_dataset_statistics", "03_cohort_images", "04_finetune", "05_predict",
    "06_evaluate_stages", "07_external_transfer", "08_ablations", "09_report",
]  # fmt: skip
STRIP = "metadata.papermill cell.metadata.papermill metadata.language_info metadata.kernelspec"
GROUPS = params.load(paths.PROFILES / "default.yaml").groups()
PIPELINE = (paths.ROOT / "dvc.yaml").read_text()

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path) -> list[str]:
    return ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def test_the_nine_steps_are_there():
    assert set(STEPS) <= {path.stem for path in NOTEBOOKS}


@each_notebook
def test_nothing_of_a_run_is_saved(path):
    content = read(path)
    assert not {"papermill", "kernelspec", "language_info"} & set(content["metadata"])
    for cell in content["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        assert "papermill" not in cell["metadata"]
        assert "injected-parameters" not in cell["metadata"].get("tags", [])


def test_the_strip_rule_would_change_nothing(tmp_path):
    copies = [shutil.copy(path, tmp_path) for path in NOTEBOOKS]
    command = [sys.executable, "-m", "nbstripout", "--keep-id", "--extra-keys", STRIP, *copies]
    subprocess.run(command, check=True, timeout=60)
    for path in NOTEBOOKS:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_strip_rule_is_the_same_everywhere():
    for name in ("Makefile", ".pre-commit-config.yaml", "CONTRIBUTING.md"):
        assert STRIP in (paths.ROOT / name).read_text(), name


@each_notebook
def test_cell_ids_are_unique_and_kept(path):
    ids = [cell["id"] for cell in read(path)["cells"]]
    assert len(ids) == len(set(ids))


@each_notebook
def test_parameters_are_groups_or_settings_with_the_default_values(path):
    for name, value in run.declared_parameters(path).items():
        if name in GROUPS:
            assert value == GROUPS[name], f"{name}: not as in profiles/default.yaml"
        else:
            assert re.search(rf"notebooks/{path.name} .*--set {name}=", PIPELINE), f"{name}: no step sets it"


@each_notebook
def test_it_opens_with_the_question_and_ends_with_the_limits(path):
    cells = read(path)["cells"]
    title, last = "".join(cells[0]["source"]), "".join(cells[-1]["source"])
    assert cells[0]["cell_type"] == cells[-1]["cell_type"] == "markdown"
    assert title.startswith("# ") and "**Question.**" in title
    assert "**Limits" in last or last.startswith("## Limits")


@each_notebook
def test_cells_are_a_handful_of_lines(path):
    for source in code_cells(path)[1:]:  # the first repeats params.yaml, however long it is
        lines = [line for line in source.splitlines() if line.strip()]
        # A call that the formatter breaks over lines is one thing to read.
        assert sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(source))) <= 12, lines[0]
        assert len(lines) <= 25, lines[0]
        assert not re.search(r"^\s*class ", source, flags=re.MULTILINE), lines[0]
        assert not any(line.lstrip().startswith(("!", "%")) for line in lines), lines[0]
        for index, line in enumerate(lines):
            if line.startswith("def "):
                body = [later for later in lines[index + 1 :]]
                length = next((n for n, later in enumerate(body) if not later.startswith(" ")), len(body))
                assert length + 1 <= 3, line


@each_notebook
def test_no_path_depends_on_the_current_folder(path):
    for source in code_cells(path):
        assert not re.search(r"""["'](\.\./|\./|data/|models/|predictions/|reports/|/\w+/)""", source), source
