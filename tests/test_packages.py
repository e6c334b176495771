"""Packages used as data: found without import, at the pinned version, or one line that says what to run."""

import subprocess
import sys

import pytest

from cxrtrek_lib import packages


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_data_folder_is_found_without_importing_the_package():
    code = (
        "import sys; from cxrtrek_lib import packages; d = packages.data_dir('torchxrayvision');"
        "print((d / 'chexpert_train.csv.gz').is_file(), 'torchxrayvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=packages.ROOT)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_pins_are_read_past_comments(tmp_path):
    pins = tmp_path / "pins.txt"
    pins.write_text("# data only\nalpha==1.0  # why\nbeta==2.1\n")
    assert packages.pinned_version("beta", pins) == "2.1"
    assert packages.pinned_version("alpha", pins) == "1.0"
    with pytest.raises(ValueError) as error:
        packages.pinned_version("gamma", pins)
    assert "gamma==VERSION" in one_line(error)


def test_a_wrong_version_is_refused(tmp_path):
    pins = tmp_path / "pins.txt"
    pins.write_text("torchxrayvision==0.0.1\n")
    with pytest.raises(RuntimeError) as error:
        packages.data_dir("torchxrayvision", pins)
    assert "pip install --no-deps torchxrayvision==0.0.1" in one_line(error)


@pytest.fixture
def absent(tmp_path):
    pins = tmp_path / "pins.txt"
    pins.write_text("no_such_package_of_ours==3.2\n")
    return pins


def test_an_absent_package_is_installed_exactly_as_pinned(absent, monkeypatch, capsys):
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no network")

    monkeypatch.setattr(packages.subprocess, "run", run)
    with pytest.raises(RuntimeError) as error:
        packages.data_dir("no_such_package_of_ours", absent)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "no_such_package_of_ours==3.2"]
    assert commands == [pip]
    assert "ERROR: no network" in one_line(error) and " ".join(pip) in one_line(error)
    assert len(capsys.readouterr().out.splitlines()) == 1
