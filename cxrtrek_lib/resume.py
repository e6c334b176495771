"""Unfinished work that survives a kill: written whole or not at all, taken up only by the very same run."""

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import torch

from cxrtrek_lib import files


def fingerprint(settings: dict, inputs: Iterable[Path | str]) -> str:
    """Short hash of all that a run depends on: settings (JSON values), the bytes of its inputs and code."""
    digest = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for path in inputs:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def write(state: dict, path: Path, key: str) -> None:
    """Write a state of tensors, numbers and strings; a kill in the middle leaves the one before it."""
    with files.whole(path) as temporary:
        torch.save({"key": key, "state": state}, temporary)


def read(path: Path, key: str) -> dict | None:
    """The state that a run with this key left, or None when there is none or it is another run's."""
    if not path.is_file():
        return None
    found = torch.load(path, weights_only=True)
    return found["state"] if found["key"] == key else None
