"""Unfinished work that survives a kill: written whole or not at all, taken up only by the very same run."""

import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import torch


def fingerprint(settings: dict, files: Iterable[Path | str]) -> str:
    """Short hash of all that a run depends on: settings (JSON values), the bytes of its inputs and code."""
    digest = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for path in files:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def write(state: dict, path: Path, key: str) -> None:
    """Write a state of tensors, numbers and strings; a kill in the middle leaves the one before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save({"key": key, "state": state}, temporary)
    os.replace(temporary, path)


def read(path: Path, key: str) -> dict | None:
    """The state that a run with this key left, or None when there is none or it is another run's."""
    if not path.is_file():
        return None
    found = torch.load(path, weights_only=True)
    return found["state"] if found["key"] == key else None
