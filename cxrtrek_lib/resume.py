"""Unfinished work that survives a kill: written whole or not at all, taken up only by the very same run."""

import json
import os
import warnings
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import torch

from cxrtrek_lib import files


def fingerprint(settings: dict, inputs: Iterable[Path | str]) -> str:
    """Short hash of all that a run depends on: settings (JSON values), the bytes of its inputs and code."""
    digest = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for path in inputs:
        with open(path, "rb") as file:  # in pieces: a checkpoint may be larger than the memory
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()


def write(state: dict, path: Path, key: str) -> None:
    """Write a state of tensors, numbers and strings; the one before it stays beside it (`previous`)."""
    with files.whole(path) as temporary:
        torch.save({"key": key, "state": state}, temporary)
        if path.is_file():
            os.replace(path, previous(path))


def read(path: Path, key: str) -> dict | None:
    """The state that a run with this key left, or None when there is none or it is another run's.

    A damaged file (a disk that filled up, a power cut) is told in a warning, and the state before it, when
    there is one, takes its place.
    """
    for candidate in (path, previous(path)):
        if not candidate.is_file():
            continue
        try:
            found = torch.load(candidate, weights_only=True)
            if found["key"] == key:
                return found["state"]
        except Exception as error:  # zip, pickle and storage each fail in their own way
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warnings.warn(f"{candidate}: damaged ({reason}); going on from an earlier state", stacklevel=2)
    return None


def previous(path: Path) -> Path:
    """Where the state before the last one lies."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")
