"""Who is on the film and how it was taken: every number drawn by hash, none kept in a generator.

`body` depends on the patient alone, so every film of a patient shows the same anatomy; `acquisition`
depends on the film. Ranges are ours, chosen so that films vary about as much as adults in a PA stand do;
they are not fitted to a population.
"""

from typing import NamedTuple

import numpy as np

from cxrtrek_lib import draws
from cxrtrek_lib.tables import EXPOSURES

VIEWS = ("PA", "AP")
WAVES = 5  # cosines per axis of the smooth in-plane warp
FIELD_MM = {"PA": 345.0, "AP": 375.0}  # side of the square field on the detector


class Body(NamedTuple):
    """One patient's anatomy, relative to the phantom.

    sex         "M" or "F"
    width, depth, height  scale of the trunk along x, y, z
    mediastinum, flank    further scale of x near the midline, and outside the ribs (habitus)
    heart       scale of the heart when nothing is wrong with it
    bone, lung  gain of bone's excess density, and of everything inside the lung
    breast      (height of the lower edge above the film's middle, radius, thickness), mm; thickness 0: none
    bend        (2, WAVES, WAVES) mm, amplitudes of cosines down and across the film, displacing (down, right)
    """

    sex: str
    width: float
    depth: float
    height: float
    mediastinum: float
    flank: float
    heart: float
    bone: float
    lung: float
    breast: tuple[float, float, float]
    bend: np.ndarray


class Acquisition(NamedTuple):
    """How one film was taken.

    view        "PA" or "AP"
    exposure    one of EXPOSURES
    rotation    degrees about the body's long axis, positive: patient's left side away from the detector
    tilt        degrees, positive: leaning back
    roll        degrees, in the plane of the film
    shift       (down, right) mm on the detector
    inspiration scale of the lungs' height, 1 = as in the CT
    source_mm   source to detector
    field_mm    side of the square field on the detector
    scatter     scattered share of the detected radiation
    brightness  shift of the tone curve, grey levels of 0-1: what the exposure does
    contrast    slope of the tone curve
    dose        detected quanta per mm^2 in air
    key         64-bit seed of the noise field
    """

    view: str
    exposure: str
    rotation: float
    tilt: float
    roll: float
    shift: tuple[float, float]
    inspiration: float
    source_mm: float
    field_mm: float
    scatter: float
    brightness: float
    contrast: float
    dose: float
    key: int


def body(seed: int, patient_id: str, sex: str | None = None) -> Body:
    """The patient's anatomy. sex None: drawn."""

    def between(question: str, low: float, high: float) -> float:
        return low + (high - low) * draws.uniform(seed, patient_id, f"body/{question}")

    sex = sex or draws.pick(seed, patient_id, "body/sex", ("M", "F"))
    small = 0.95 if sex == "F" else 1.02
    # Sum of two uniforms: middling people are commoner than extremes.
    size = small * (1 + between("size/a", -0.045, 0.045) + between("size/b", -0.045, 0.045))
    # Longer waves bend more; the constant wave would only shift the film.
    bend = np.array([
        [[between(f"bend/{axis}/{i}/{j}", -5, 5) / max(1, i + j) for j in range(WAVES)] for i in range(WAVES)]
        for axis in ("down", "right")
    ])  # fmt: skip
    bend[:, 0, 0] = 0
    breast = (0.0, 0.0, 0.0)
    if sex == "F":
        breast = (
            between("breast/edge", -85, -45),
            between("breast/radius", 46, 62),
            between("breast/thickness", 8, 42),
        )
    return Body(
        sex=sex,
        width=size * between("width", 0.95, 1.05),
        depth=size * between("depth", 0.88, 1.12),
        height=size * between("height", 1.04, 1.18),
        mediastinum=between("mediastinum", 0.76, 0.93),
        flank=between("flank", 0.7, 1.7),
        heart=between("heart", 0.97, 1.04),
        bone=between("bone", 1.3, 2.0),
        lung=between("lung", 0.85, 1.25),
        breast=breast,
        bend=bend,
    )


def acquisition(seed: int, sample_id: str, view: str, exposure: str | None = None) -> Acquisition:
    """How a study's film was taken. exposure None: drawn, 70 % adequate. Raises ValueError (one line)."""
    if view not in VIEWS:
        raise ValueError(
            f"{sample_id}: view {view!r} cannot be simulated; frontal views are {', '.join(VIEWS)}"
        )
    if exposure is not None and exposure not in EXPOSURES:
        raise ValueError(f"{sample_id}: unknown exposure {exposure!r}; known: {', '.join(EXPOSURES)}")

    def between(question: str, low: float, high: float) -> float:
        return low + (high - low) * draws.uniform(seed, sample_id, f"acquisition/{question}")

    if exposure is None:
        chance = draws.uniform(seed, sample_id, "acquisition/exposure")
        exposure = "underexposed" if chance < 0.15 else "overexposed" if chance > 0.85 else "adequate"
    portable = view == "AP"
    brightness = {"underexposed": (0.13, 0.20), "adequate": (-0.04, 0.04), "overexposed": (-0.20, -0.13)}[
        exposure
    ]
    dose = {"underexposed": 1.5e4, "adequate": 9e4, "overexposed": 2.5e5}[exposure]
    turn = 1.5 if portable else 1.0  # bedside films are centred worse
    return Acquisition(
        view=view,
        exposure=exposure,
        rotation=turn * between("rotation", -4, 4),
        tilt=turn * between("tilt", -3, 3),
        roll=turn * between("roll", -2, 2),
        shift=(turn * between("shift/down", -4, 6), turn * between("shift/right", -7, 7)),
        inspiration=between("inspiration", 0.84, 1.0) if portable else between("inspiration", 0.93, 1.06),
        source_mm=1050.0 if portable else 1800.0,
        field_mm=FIELD_MM[view],
        scatter=between("scatter", 0.25, 0.45) if portable else between("scatter", 0.12, 0.28),
        brightness=between("brightness", *brightness),
        contrast=between("contrast", 0.88, 1.12) * (0.9 if portable else 1.0),
        dose=dose * between("dose", 0.7, 1.4),
        key=draws.key(seed, sample_id, "acquisition/noise"),
    )
