"""Where a result comes from: commit, parameters, hashes of data, package versions, machine, time per step.

No path of the machine, no name of its user.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from cxrtrek_lib import paths

# Shown with their versions: what the numbers depend on.
PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "polars", "numpy", "scipy", "scikit-learn", "matplotlib",
    "spacy", "negspacy", "torchxrayvision", "diffdrr",
)  # fmt: skip


def _said(*command: str) -> str:
    """What a command prints, or "" when it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def commit() -> str:
    """The git commit of the working tree, with "changed since" when files differ; or "not a git checkout"."""
    found = _said("git", "-C", str(paths.ROOT), "rev-parse", "HEAD")
    if not found:
        return "not a git checkout"
    # What steps write is no change of the study.
    changed = _said("git", "-C", str(paths.ROOT), "status", "--porcelain", "--untracked-files=no", "--",
                    ".", ":!reports", ":!dvc.lock", ":!README.md")  # fmt: skip
    return f"{found}, with {len(changed.splitlines())} changed files" if changed else found


def versions() -> list[str]:
    """ "name version" of Python and of PACKAGES."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return found


def hardware() -> str:
    """Processor, cores, memory, GPUs and system of this machine, in a line."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    name = model[1].strip() if model else platform.processor() or platform.machine()
    parts = [f"{name}, {os.cpu_count()} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB of memory")
    gpus = _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    parts.append(", ".join(gpus.splitlines()) if gpus else "no GPU")
    parts.append(f"{platform.system()} {platform.machine()}")
    return "; ".join(parts)


def outputs(lock: Path | None = None) -> list[tuple[str, str, str]]:
    """(step, output, hash) of what no file of reports/ is, as DVC recorded it; empty before the first run.

    lock  dvc.lock; a hash that ends in .dir is that of a folder
    """
    lock = paths.ROOT / "dvc.lock" if lock is None else lock
    if not lock.is_file():
        return []
    stages = yaml.safe_load(lock.read_text(encoding="utf-8")).get("stages") or {}
    return [
        (name, out["path"], out["md5"])
        for name, stage in stages.items()
        for out in stage.get("outs", [])
        if not out["path"].startswith("reports/")
    ]


def seconds(notebook: Path) -> float | None:
    """How long an executed notebook took, wall-clock; None while it runs or when it was not run by a step.

    Raises ValueError naming the file when it is no notebook.
    """
    try:
        noted = json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("papermill", {})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook.name}: not a notebook ({error}); run its step again") from None
    if not noted.get("start_time") or not noted.get("end_time"):
        return None
    start, end = (datetime.fromisoformat(noted[key]) for key in ("start_time", "end_time"))
    return (end - start).total_seconds()


def table(dataset: dict[str, Any]) -> list[tuple[str, str]]:
    """What made a page: (what, value).

    dataset  the content of dataset.json
    """
    return [
        ("git commit the run started from", commit()),
        ("params.yaml, SHA-256", hashlib.sha256(paths.PARAMS.read_bytes()).hexdigest()),
        ("data set, SHA-256", str(dataset["sha256"])),
        ("packages", ", ".join(versions())),
        ("machine that made this page", hardware()),
    ]
