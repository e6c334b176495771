"""Whose anatomy is on a film: every number drawn by hash from the patient alone, none kept in a generator.

So every film of a patient shows the same anatomy, from any side. Ranges are ours, chosen so that films vary
about as much as those of adults do; they are not fitted to a population.

All of it bends and weighs ONE source anatomy. What that cannot give: other branchings of vessels and
bronchi, other shapes and numbers of ribs, other forms of the heart or of the aorta than stretched ones,
other fissures and clavicles, scapulae of hanging arms, age (calcium, worn vertebrae), old scars. A model that
recognises this one anatomy is not thereby good at another's: it flatters the figures of simulated films.
"""

from typing import NamedTuple

import numpy as np

from cxrtrek_lib import draws

WAVES = 5  # cosines per axis of the smooth in-plane warp
BEND_MM = 5.0  # largest amplitude of the longest
_BENDS = np.array([draws.key(f"body/bend/{i}") for i in range(4 * WAVES**2)], dtype=np.uint64)


class Body(NamedTuple):
    """One patient's anatomy, relative to the phantom; scales are 1 where the patient is as the phantom.

    sex         "M" or "F"
    width, depth, height  scale of the trunk along x, y, z
    left, right  further scale of x of either half of the chest
    mediastinum, spine  further scale of x near the midline, at the depth of the heart and of the spine
    heart_shift  mm to the left by which heart and great vessels lie off the phantom's place
    upper, lower  further scale of z of the lungs' upper and lower half
    lean        degrees by which the front of the chest is higher against its back: slope of the ribs
    wall        scale of the soft tissue at the flanks (habitus); before and behind the chest by a third of it
    heart       scale of the heart when nothing is wrong with it, at least 1
    bone        gain of bone's excess density
    lung        (at the base, at the apex) gain of everything inside the lung
    vessels     further gain of what is denser than air-filled lung in it: vessels and bronchial walls
    breast      (phantom's z of the lower edge, radius, thickness), mm; thickness 0: none
    bend        (2, 2, WAVES, WAVES) mm: for a frontal and a lateral film, amplitudes of cosines down and
                across the film, displacing (down, right)
    """

    sex: str
    width: float
    depth: float
    height: float
    left: float
    right: float
    mediastinum: float
    spine: float
    heart_shift: float
    upper: float
    lower: float
    lean: float
    wall: float
    heart: float
    bone: float
    lung: tuple[float, float]
    vessels: float
    breast: tuple[float, float, float]
    bend: np.ndarray


def body(seed: int, patient_id: str, sex: str | None = None) -> Body:
    """The patient's anatomy. sex None: drawn."""

    def between(question: str, low: float, high: float) -> float:
        return low + (high - low) * draws.uniform(seed, patient_id, f"body/{question}")

    sex = sex or draws.pick(seed, patient_id, "body/sex", ("M", "F"))
    small = 0.95 if sex == "F" else 1.02
    # Sum of two uniforms: middling people are commoner than extremes.
    size = small * (1 + between("size/a", -0.045, 0.045) + between("size/b", -0.045, 0.045))
    bend = draws.uniforms(np.full(len(_BENDS), draws.key(seed, patient_id), dtype=np.uint64), _BENDS)
    bend = BEND_MM * (2 * bend.reshape(2, 2, WAVES, WAVES) - 1)
    # Longer waves bend more; the constant wave would only shift the film.
    bend /= np.maximum(1, np.add.outer(np.arange(WAVES), np.arange(WAVES)))
    bend[:, :, 0, 0] = 0
    bend[1, 0, :, 0] = bend[0, 0, :, 0]  # what moves a whole level up does so in both views
    breast = (0.0, 0.0, 0.0)
    if sex == "F":
        breast = (
            between("breast/edge", 116, 150),
            between("breast/radius", 46, 62),
            between("breast/thickness", 8, 42),
        )
    gain = between("lung", 0.85, 1.25)
    slope = between("lung/slope", -0.12, 0.12)
    return Body(
        sex=sex,
        width=size * between("width", 0.95, 1.05),
        depth=size * between("depth", 0.88, 1.12),
        height=size * between("height", 0.98, 1.12),
        left=between("left", 0.95, 1.05),
        right=between("right", 0.95, 1.05),
        mediastinum=between("mediastinum", 0.70, 0.87),
        spine=between("spine", 0.82, 1.0),
        heart_shift=between("heart/shift", -5, 4),
        upper=between("upper", 0.94, 1.06),
        lower=between("lower", 0.94, 1.08),
        lean=between("lean", -3, 3),
        wall=between("wall", 0.9, 2.5),
        heart=max(1.0, between("heart", 0.97, 1.04)),
        bone=between("bone", 1.3, 2.0),
        lung=(gain * (1 - slope), gain * (1 + slope)),
        vessels=between("vessels", 0.65, 1.5),
        breast=breast,
        bend=bend,
    )
