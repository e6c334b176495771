"""run.py as a user meets it: tiny notebooks, the real kernel, the command line, what stays on disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat import v4

from cxrtrek_lib import paths, run

DECLARED = {"seed": 0, "mode": "predicted", "limit": None, "ratio": 0.5}
GROUPS = {"seed": 7, "dataset": {"train": ["chexpert"]}}


def notebook(path: Path, parameters: str | None, *cells: str) -> Path:
    """Write a notebook: a title, the parameters cell unless None, then the code cells."""
    content = v4.new_notebook(cells=[v4.new_markdown_cell("# A step\n\nWhat it asks.")])
    if parameters is not None:
        content.cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    content.cells += [v4.new_code_cell(source) for source in cells]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(content, path)
    return path


@pytest.fixture
def project(tmp_path):
    """A repository of nothing but run.py and what it imports, so that no run here touches the real one."""
    (tmp_path / "cxrtrek_lib").mkdir()
    for name in ("__init__", "paths", "params", "params_schema", "run"):
        shutil.copy(paths.ROOT / "cxrtrek_lib" / f"{name}.py", tmp_path / "cxrtrek_lib")
    shutil.copy(paths.PROFILES / "smoke.yaml", tmp_path / "params.yaml")
    return tmp_path


def start(project: Path, name: str, *options: str, out: int = subprocess.PIPE) -> subprocess.Popen:
    """A step under way; what it writes goes to a pipe each, or both to the terminal `out`."""
    command = [sys.executable, "-m", "cxrtrek_lib.run", f"notebooks/{name}.ipynb", *options]
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MPLBACKEND")}
    return subprocess.Popen(command, cwd=project, env=env, text=True, stdout=out, stderr=out)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def kept(project: Path) -> list[str]:
    return sorted(path.name for path in (project / "reports" / "notebooks").glob("*"))


# What a notebook declares


def test_declared_names_and_literals(tmp_path):
    path = notebook(
        tmp_path / "a.ipynb", "# what to read\nseed = 0\ndataset = {'train': [1, None]}  # unit\n"
    )
    assert run.declared_parameters(path) == {"seed": 0, "dataset": {"train": [1, None]}}


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("seed = int(3)", "line 1: `seed = int(3)` is not `name = literal`"),
        ("seed = 0\nimport os", "line 2: `import os` is not"),
        ("seed = size = 0", "line 1: `seed = size = 0` is not"),
        ("a.b = 0", "is not `name = literal`"),
        ("a, b = 0, 1", "is not `name = literal`"),
        ("seed += 1", "is not `name = literal`"),
        ("seed = (", "parameters cell, line 1"),
        (None, "exactly one cell tagged `parameters`, has 0"),
    ],
)
def test_a_parameters_cell_is_plain_literals(tmp_path, cell, told):
    with pytest.raises(ValueError) as caught:
        run.declared_parameters(notebook(tmp_path / "a.ipynb", cell))
    assert told in str(caught.value) and "a.ipynb" in str(caught.value) and "\n" not in str(caught.value)


def test_no_notebook_and_not_a_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="nope.ipynb: no such notebook"):
        run.declared_parameters(tmp_path / "nope.ipynb")
    (tmp_path / "cut.ipynb").write_text('{"cells": [{"cell_type"')
    with pytest.raises(ValueError, match="cut.ipynb: not a notebook"):
        run.declared_parameters(tmp_path / "cut.ipynb")


def inject(declared, settings):
    return run.step_parameters(Path("notebooks/a.ipynb"), declared, GROUPS, settings)


def test_a_notebook_gets_exactly_what_it_declares():
    assert inject({"seed": 0}, {}) == {"seed": 7}
    assert inject({"dataset": {}, "mode": "x"}, {"mode": "gold"}) == {
        "dataset": GROUPS["dataset"],
        "mode": "gold",
    }
    assert inject({"limit": None}, {"limit": 3}) == {"limit": 3}


@pytest.mark.parametrize(
    ("declared", "settings", "told"),
    [
        (
            {"mode": "x"},
            {"mod": "gold"},
            "--set mod: notebooks/a.ipynb declares no such parameter; did you mean mode?",
        ),
        ({"mode": "x"}, {"zzz": 1}, "it declares mode"),
        ({"seed": 0}, {"seed": 3}, "--set seed: is a group of params.yaml"),
        ({"mode": "x"}, {}, "notebooks/a.ipynb: declares mode, no group of params.yaml"),
        ({"datasets": {}}, {}, "did you mean the group dataset?"),
        ({"mode": "x"}, {"mode": False}, "--set mode=False: must be of type str"),
        ({"n": 1}, {"n": True}, "--set n=True: must be of type int"),
    ],
)
def test_nothing_is_guessed(declared, settings, told):
    with pytest.raises(ValueError) as caught:
        inject(declared, settings)
    assert told in str(caught.value) and "\n" not in str(caught.value)


# The command line, before a kernel starts


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--set", "mode"], "--set mode: write NAME=VALUE"),
        (["--set", "mode=a", "--set", "mode=b"], "each name once"),
        (["--set", "mdoe=gold"], "did you mean mode?"),
        (["--set", "mode=false"], "--set mode=False: must be of type str"),
        (["--set", "mode=[a"], "--set mode=[a: not a YAML literal"),
        (["--set", "mode=gold", "--params", "nope.yaml"], "nope.yaml: no such parameter file"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(project, options, told):
    notebook(project / "notebooks" / "step.ipynb", "mode = 'predicted'")
    status, out, err = finish(start(project, "step", *options))
    assert status == 1 and out == "" and told in err and len(err.splitlines()) == 1
    assert not (project / "reports").exists()


def test_a_typo_in_params_yaml_stops_the_step(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("scale: ", "scales: "))
    notebook(project / "notebooks" / "step.ipynb", "seed = 0")
    status, _, err = finish(start(project, "step"))
    assert status == 1 and len(err.splitlines()) == 1
    assert "params.yaml: dataset.scales: no such key; did you mean scale?" in err


def test_a_folder_that_cannot_be_written(project):
    notebook(project / "notebooks" / "step.ipynb", "seed = 0")
    (project / "reports").write_text("a file where a folder should be")
    status, _, err = finish(start(project, "step"))
    assert status == 1 and len(err.splitlines()) == 1
    assert "reports/notebooks: cannot write here" in err


def test_a_log_gets_the_end_of_a_bar_not_its_every_state(capsys):
    terminal = run._terminal()  # pytest's stdout is no terminal
    for percent in range(101):
        terminal.write(f"\rfilms: {percent}%")
    terminal.write("\nhalf a ")
    terminal.write("line\n")
    assert capsys.readouterr().out == "films: 100%\nhalf a line\n"


def test_a_terminal_gets_every_state_and_loses_a_remark(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    terminal = run._terminal()
    terminal.remark("still runs, 5 s")
    terminal.remark("still runs, 6 s")
    terminal.write("\rfilms: 1%")
    terminal.remark("still runs, 11 s")  # the bar can be seen
    terminal.write("\rfilms: 2%")
    assert capsys.readouterr().out == (
        f"{run.CLEAR}still runs, 5 s{run.CLEAR}still runs, 6 s{run.CLEAR}\rfilms: 1%\rfilms: 2%"
    )


# Real kernels

# Goes on only when the test, having seen its progress, says so.
BAR = """import time, pathlib
from tqdm.auto import tqdm
bar = tqdm(total=2, desc="films", mininterval=0)
bar.update()
while not pathlib.Path("seen").exists():
    time.sleep(0.05)
bar.update()
bar.close()"""


def read_until(read, wanted: str) -> str:
    """What a running step has written when `wanted` is in it; fails when it ends, or a minute passes."""
    text, end = "", time.monotonic() + 60
    while wanted not in text and time.monotonic() < end:
        text += (more := read())
        assert more, f"ended without {wanted!r}: {text}"
    assert wanted in text, text
    return text


def test_progress_reaches_a_terminal_while_the_cell_runs(project):
    """As under `dvc repro`, which hands its own terminal to the step; this one has 0 columns and rows."""
    notebook(project / "notebooks" / "step.ipynb", "seed = 0", BAR)
    mine, its = os.openpty()
    process = start(project, "step", out=its)
    os.close(its)
    read = lambda: os.read(mine, 1000).decode()  # noqa: E731
    read_until(read, "films:  50%")
    (project / "seen").touch()
    read_until(read, "films: 100%")
    read_until(read, "[step] done in")
    assert process.wait(timeout=30) == 0
    os.close(mine)


def test_a_log_hears_of_a_silent_cell_and_of_progress(project):
    """As in CI: no terminal. A cell that writes nothing is said to run; a bar's states come as they pass."""
    text = (project / "cxrtrek_lib" / "run.py").read_text()
    text = text.replace("LOG_SECONDS = 10", "LOG_SECONDS = 0")
    (project / "cxrtrek_lib" / "run.py").write_text(
        text.replace("SILENT_SECONDS = 5", "SILENT_SECONDS = 0.5")
    )
    silent = "import time, pathlib\nwhile not pathlib.Path('heard').exists():\n    time.sleep(0.05)"
    notebook(project / "notebooks" / "step.ipynb", "seed = 0", silent, BAR)
    process = start(project, "step")
    read_until(process.stdout.readline, "[step] still runs, ")
    (project / "heard").touch()
    read_until(process.stdout.readline, "films:  50%")
    (project / "seen").touch()
    status, out, err = finish(process)
    assert (status, err) == (0, "") and "films: 100%" in out


def test_a_step_that_succeeds(project):
    bar = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='films'):\n    pass"
    told = "import json, os, sys, cxrtrek_lib\n"
    told += "print(json.dumps([seed, mode, dataset, os.getcwd(), sys.executable, cxrtrek_lib.__file__]))"
    notebook(project / "notebooks" / "step.ipynb", "seed = 5\nmode = 'predicted'\ndataset = {}", bar, told)
    (project / "reports" / "notebooks").mkdir(parents=True)
    (project / "reports" / "notebooks" / "step.gold.failed.ipynb").write_text("of an earlier run")
    status, out, err = finish(start(project, "step", "--set", "mode=gold"))
    assert (status, err) == (0, "")
    line = next(line for line in out.splitlines() if line.startswith("[0"))
    seed, mode, dataset, cwd, executable, package = json.loads(line)
    assert (seed, mode) == (0, "gold") and dataset["scale"] == 400 and dataset["split"]["test"] == 0.05
    assert (cwd, executable) == (str(project), sys.executable) and package.startswith(str(project))
    assert (
        "cell 3/4 · A step · `from tqdm.auto import tqdm`" in out and "films: 100%" in out and "\r" not in out
    )
    assert kept(project) == ["step.gold.ipynb"]
    executed = nbformat.read(project / "reports" / "notebooks" / "step.gold.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    assert (
        "".join(executed.cells[3].outputs[0].text).strip().startswith("films: 100%")
    )  # not every state of the bar


def test_what_a_widget_shows_is_in_the_copy(project):
    """Several times over: a stand-in for the browser's part of a widget stopped one run in three here."""
    cell = "from ipywidgets import interact\ninteract(lambda number: print('shown', number), number=3);"
    notebook(project / "notebooks" / "step.ipynb", "seed = 0", *[cell] * 12)
    status, _, err = finish(start(project, "step"))
    assert (status, err) == (0, "")
    executed = nbformat.read(project / "reports" / "notebooks" / "step.ipynb", as_version=4)
    told = [output.get("text") for cell in executed.cells for output in cell.get("outputs", [])]
    assert told.count("shown 3\n") == 12


def test_a_step_that_fails_names_the_cell_and_looks_failed(project):
    broken = "# the films\nraise FileNotFoundError('data/films/nih: no films; run `dvc repro external@nih`')"
    notebook(project / "notebooks" / "step.ipynb", "seed = 0", "x = 1", broken, "print('never')")
    good = project / "reports" / "notebooks" / "step.ipynb"
    good.parent.mkdir(parents=True)
    good.write_text("of an earlier run")
    status, out, err = finish(start(project, "step"))
    assert status == 1 and "never" not in out and len(err.splitlines()) == 1
    assert err.startswith("notebooks/step.ipynb: cell 4/5 · A step · `raise FileNotFoundError(")
    assert (
        "failed: FileNotFoundError: data/films/nih: no films; run `dvc repro external@nih` (traceback: "
        in err
    )
    assert kept(project) == ["step.failed.ipynb", "step.ipynb"] and good.read_text() == "of an earlier run"


def test_a_kernel_that_dies(project):
    notebook(project / "notebooks" / "step.ipynb", "seed = 0", "import os\nos.kill(os.getpid(), 9)")
    status, _, err = finish(start(project, "step"))
    assert status == 1 and len(err.splitlines()) == 1
    assert "cell 3/3 · A step · `import os` failed: the kernel died (out of memory?)" in err
    assert kept(project) == ["step.failed.ipynb"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_step_leaves_nothing_that_runs_or_looks_done(project, how):
    sleep = "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '300'])\n"
    sleep += "print('pids', os.getpid(), child.pid)\ntime.sleep(300)"
    notebook(project / "notebooks" / "step.ipynb", "seed = 0", sleep)
    process = start(project, "step")
    line = next(line for line in process.stdout if line.startswith("pids"))
    kernel, child = (int(word) for word in line.split()[1:])
    assert kept(project) == ["step.running.ipynb"]
    process.send_signal(how)
    status, out, err = finish(process)
    assert (status, err) == (130, "notebooks/step.ipynb: interrupted before its end; run it again\n")
    assert kept(project) == [] and "done" not in out
    for _ in range(50):
        if not any(
            psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in (kernel, child)
        ):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the kernel or its child still runs")
