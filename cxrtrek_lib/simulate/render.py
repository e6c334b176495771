"""Films to files, in worker processes: one PNG per film that carries its own truth, whole or not there."""

import hashlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

from cxrtrek_lib import files
from cxrtrek_lib.simulate import phantom, scene

# The modules that decide what a film looks like and what is true of it.
MAKERS = ("phantom", "patient", "projector", "lesions", "devices", "detector", "truth", "scene")


@cache
def code_version() -> str:
    """Hash of the simulator's own source: a film is reused only while the code that made it is the same."""
    digest = hashlib.sha256()
    for module in MAKERS:
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
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
    Raises ValueError naming the first film that failed and how many did, after the others are done.
    """
    if not jobs:
        return []
    phantom.load()  # built once here, not once per worker
    for folder in {path.parent for _, path in jobs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot make this folder ({error.strerror}); check its owner"
            ) from None
    truths: list[dict | None] = [None] * len(jobs)
    failures: list[tuple[int, str]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = {pool.submit(render, study, size_px, seed, path): i for i, (study, path) in enumerate(jobs)}
        try:
            for done in tqdm(
                as_completed(waiting), total=len(jobs), desc="films", unit="film", mininterval=0.5
            ):
                try:
                    truths[waiting[done]] = done.result()
                except (ValueError, OSError) as error:
                    failures.append((waiting[done], str(error).splitlines()[0]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        index, reason = min(failures)
        sample_id = jobs[index][0]["sample_id"]
        raise ValueError(f"{len(failures)} of {len(jobs)} films failed; the first is {sample_id}: {reason}")
    return truths
