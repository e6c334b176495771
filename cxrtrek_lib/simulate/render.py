"""Films to files, in worker processes: one PNG per film that carries its own truth, whole or not there."""

import hashlib
import json
import os
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from cxrtrek_lib import draws, files, findings, pools
from cxrtrek_lib.simulate import phantom, scene

# Modules of this room that do not decide what a film looks like or what is true of it.
_OTHERS = ("__init__.py", "render.py", "truth_tables.py")
FAILED = "failed.txt"  # beside the films: what is missing and why, one film a line


@cache
def code_version() -> str:
    """Hash of the source and the CT behind a film: one is reused only while what made it is the same."""
    digest = hashlib.sha256()
    room = [each for each in Path(__file__).parent.glob("*.py") if each.name not in _OTHERS]
    for module in [*sorted(room), Path(draws.__file__), Path(findings.__file__)]:
        digest.update(module.read_bytes())
    digest.update(phantom.key().encode())
    return digest.hexdigest()[:16]


def identity(study: dict, size_px: int, seed: int) -> str:
    """What a film depends on, as one hash: the facts of the study, size, seed, code."""
    facts = json.dumps([study, size_px, seed, code_version()], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()


def render(study: dict, size_px: int, seed: int, path: Path) -> dict:
    """The film of a study as an 8-bit PNG at `path`; returns its truth (see scene.film).

    The PNG's text chunks say image_origin=simulated, sample_id, the identity and the truth (JSON). A whole
    film of the same identity that is already there is reused: an interrupted cohort goes on where it was.
    """
    wanted = identity(study, size_px, seed)
    if (known := read_truth(path, wanted)) is not None:
        return known
    image, truth = scene.film(study, size_px, seed)
    text = PngInfo()
    text.add_text("image_origin", "simulated")
    text.add_text("sample_id", study["sample_id"])
    text.add_text("identity", wanted)
    text.add_text("truth", json.dumps(truth, sort_keys=True), zip=True)
    with files.whole(path) as temporary:
        picture = Image.fromarray(np.round(image * 255).astype(np.uint8))
        picture.save(temporary, format="PNG", pnginfo=text, compress_level=4)
    # Through JSON, so that a rendered and a reused film tell exactly the same.
    return json.loads(json.dumps(truth, sort_keys=True))


def read_truth(path: Path, wanted: str) -> dict | None:
    """The truth in a whole film of this identity; None when there is none, or another, or a damaged one."""
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            image.load()  # a film that a kill cut off fails here
            text = image.text
        return json.loads(text["truth"]) if text.get("identity") == wanted else None
    except (OSError, SyntaxError, ValueError, KeyError):
        return None


def render_all(jobs: list[tuple[dict, Path]], *, size_px: int, seed: int, workers: int) -> list[dict]:
    """The truths of all jobs (study, path), in their order; films are written in `workers` processes.

    A film depends on its facts alone (scene.film uses one thread), so bytes do not depend on `workers`.
    A film that fails stops no other. Raises ValueError after the last one: how many failed, the first of
    them, and where FAILED lists all ("file<TAB>sample_id<TAB>reason"), in the folder that holds the films.
    """
    if not jobs:
        return []
    owner: dict[Path, str] = {}
    for study, path in jobs:
        if path in owner:
            raise ValueError(f"{study['sample_id']} and {owner[path]} would both be {path}; rename one")
        owner[path] = study["sample_id"]
    for folder in {path.parent for _, path in jobs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot make this folder ({error.strerror}); check its owner"
            ) from None
    phantom.load()  # built once here, not once per worker
    truths: list[dict | None] = [None] * len(jobs)
    failures: dict[int, str] = {}
    with pools.spawned(workers) as pool:
        waiting = {pool.submit(render, study, size_px, seed, path): i for i, (study, path) in enumerate(jobs)}
        for done in tqdm(as_completed(waiting), total=len(jobs), desc="films", unit="film", mininterval=0.5):
            try:
                truths[waiting[done]] = done.result()
            except Exception as error:  # whatever it was, the other films go on
                failures[waiting[done]] = _reason(error)
    _report(jobs, failures)
    return truths


def _reason(error: Exception) -> str:
    """Why a film failed, one line. ValueError and OSError say it themselves; others are named."""
    if isinstance(error, BrokenProcessPool):
        return "a worker process died, probably out of memory; use fewer workers and run again"
    line = (str(error).splitlines() or [""])[0]
    return line if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {line}"


def _report(jobs: list[tuple[dict, Path]], failures: dict[int, str]) -> None:
    """Write the list of failed films and raise; with none failed, remove the list of an earlier run."""
    listed = Path(os.path.commonpath([path.parent for _, path in jobs])) / FAILED
    if not failures:
        listed.unlink(missing_ok=True)
        return
    lines = []
    for i, reason in sorted(failures.items()):
        study, path = jobs[i]
        lines.append(f"{path.name}\t{study['sample_id']}\t{reason.removeprefix(study['sample_id'] + ': ')}\n")
    with files.whole(listed) as temporary:
        temporary.write_text("".join(lines))
    _, first, reason = lines[0].rstrip("\n").split("\t", 2)
    raise ValueError(
        f"{len(failures)} of {len(jobs)} films failed; the first is {first}: {reason}; all: {listed}"
    )
