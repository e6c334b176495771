"""A folder of real films: which file is the film of which name."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from cxrtrek_lib import images, paths


class Found(NamedTuple):
    """Files of a folder by the names that were looked for.

    files      name -> its file
    several    name -> why none of its files can be taken: they differ
    n_files    films in the folder; n_strangers  those that nobody looked for
    """

    files: dict[str, Path]
    several: dict[str, str]
    n_files: int
    n_strangers: int


def find(root: str, names: list[str], source: str) -> Found:
    """The files of a folder and its sub-folders that bear these names, whatever the kind of file.

    root   from the repository's root; names  with or without a suffix; source  for messages
    A name is a film's when both agree up to their suffixes (images.SUFFIXES), so that a table of DICOM films
    finds their PNG copies. Hidden files and files with other suffixes are no films. Copies of one file count
    once. Raises FileNotFoundError or ValueError, one line, when there is no such folder, no film in it, or
    none with one of the names.
    """
    key, folder = f"images.roots.{source}", paths.ROOT / root
    if not folder.is_dir():
        raise FileNotFoundError(f"{key}: {root}: no such folder; name the one that holds the films, or null")
    there: dict[str, list[Path]] = {}
    for parent, below, listed in os.walk(folder, followlinks=True):
        below.sort()
        for name in sorted(listed):
            if name.lower().endswith(images.SUFFIXES) and not name.startswith("."):
                there.setdefault(stem(name), []).append(Path(parent, name))
    n_files = sum(map(len, there.values()))
    if not n_files:
        kinds = ", ".join(images.SUFFIXES)
        raise ValueError(
            f"{key}: {root}: no film ({kinds}) in this folder or below; name the one that holds them"
        )
    wanted = {stem(name): name for name in names}
    files, several = {}, {}
    for mark in sorted(wanted.keys() & there.keys()):
        first, *others = there[mark]
        if others and len({hashlib.sha256(path.read_bytes()).digest() for path in there[mark]}) > 1:
            told = " and ".join(str(path.relative_to(folder)) for path in (first, others[0]))
            several[wanted[mark]] = f"{told} have this name and differ; keep one"
        else:
            files[wanted[mark]] = first
    if not files and not several:
        example = min(path.name for each in there.values() for path in each)
        raise ValueError(
            f"{key}: {root}: none of {n_files:,} films (such as {example}) has a name of {source}'s table "
            f"(such as {min(names)}); name the folder of the original files"
        )
    matched = sum(len(there[mark]) for mark in wanted.keys() & there.keys())
    return Found(files, several, n_files, n_files - matched)


def stem(name: str) -> str:
    """A film's name without the suffix of a kind of film; dots in identifiers stay.

    >>> stem("00000001_000.png"), stem("1.2.276.0"), stem("a.DICOM")
    ('00000001_000', '1.2.276.0', 'a')
    """
    suffix = next((each for each in images.SUFFIXES if name.lower().endswith(each)), "")
    return name[: len(name) - len(suffix)]
