"""How a film was taken, drawn by hash from the film's own identity, and what of it a reader is told or asked.

Ranges are ours unless a source is named: wide enough that films differ as those of a busy department do.
"""

from typing import NamedTuple

from cxrtrek_lib import draws
from cxrtrek_lib.tables import EXPOSURES

SOURCE_MM = {"PA": 1800.0, "AP": 1050.0, "LATERAL": 1800.0}  # source to detector; AP: a bedside film
FIELD_MM = {"PA": 345.0, "AP": 375.0, "LATERAL": 385.0}  # side of the square field on the detector, at most
VIEWS = tuple(SOURCE_MM)
SCATTER = {"PA": (0.16, 0.32), "AP": (0.40, 0.58), "LATERAL": (0.12, 0.24)}  # AP: without a grid
ABOVE_MM = 22.0  # film above the lungs' apices: the CT ends about there
CLIPPED_SHARE = {"PA": 0.06, "AP": 0.14, "LATERAL": 0.04}  # of films that cut an apex or a costophrenic angle
MOVED_SHARE = {"PA": 0.03, "AP": 0.09, "LATERAL": 0.05}  # of films blurred by a breath or a restless patient


class Acquisition(NamedTuple):
    """How one film was taken.

    view        one of VIEWS; LATERAL: left side at the detector, the patient faces the image's left
    exposure    one of EXPOSURES
    rotation    degrees about the body's long axis, positive: the patient's left side turned backwards
    tilt        degrees out of the film's plane: leaning back (lateral: towards the detector) is positive
    roll        degrees, in the plane of the film
    shift       (down, right) mm on the detector
    above       mm of film above the apices; negative: the apices are cut off
    cut         {"left" or "right": mm of that side's chest beyond the film's edge}, mostly {}
    inspiration scale of the lungs' height, 1 = as in the CT, whose patient lies
    motion_mm   standard deviation of the blur along the body's axis, 0 = held still
    source_mm   source to detector
    field_mm    side of the square field on the detector
    scatter     scattered share of the detected radiation behind lung
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
    above: float
    cut: dict[str, float]
    inspiration: float
    motion_mm: float
    source_mm: float
    field_mm: float
    scatter: float
    brightness: float
    contrast: float
    dose: float
    key: int


def acquisition(seed: int, sample_id: str, view: str, exposure: str | None = None) -> Acquisition:
    """How a study's film was taken. exposure None: drawn, 70 % adequate. Raises ValueError (one line).

    Two films of a study share the depth of inspiration's draw and nothing else.
    """
    if view not in VIEWS:
        raise ValueError(f"{sample_id}: view {view!r} cannot be simulated; known: {', '.join(VIEWS)}")
    if exposure is not None and exposure not in EXPOSURES:
        raise ValueError(f"{sample_id}: unknown exposure {exposure!r}; known: {', '.join(EXPOSURES)}")

    def share(question: str) -> float:
        return draws.uniform(seed, sample_id, f"acquisition/{view}/{question}")

    def between(question: str, low: float, high: float) -> float:
        return low + (high - low) * share(question)

    if exposure is None:
        chance = share("exposure")
        exposure = "underexposed" if chance < 0.15 else "overexposed" if chance > 0.85 else "adequate"
    portable = view == "AP"
    brightness = {"underexposed": (0.14, 0.21), "adequate": (-0.06, 0.06), "overexposed": (-0.21, -0.14)}[
        exposure
    ]
    dose = {"underexposed": 4e4, "adequate": 2.5e5, "overexposed": 6e5}[exposure]
    turn = 1.5 if portable else 1.0  # bedside films are centred worse
    above, cut = ABOVE_MM, {}
    if share("clipped") < CLIPPED_SHARE[view]:
        place = share("clipped/place")
        if view == "LATERAL" or place < 0.4:
            above = -between("clipped/mm", 10, 28)
        else:
            cut = {"left" if place < 0.7 else "right": between("clipped/mm", 18, 34)}
    motion = between("motion", 0.8, 2.4) if share("moved") < MOVED_SHARE[view] else 0.0
    breath = draws.uniform(seed, sample_id, "acquisition/inspiration")
    return Acquisition(
        view=view,
        exposure=exposure,
        rotation=turn * between("rotation", -4, 4),
        tilt=turn * between("tilt", -3, 3),
        roll=turn * between("roll", -2, 2),
        shift=(turn * between("shift/down", -4, 6), turn * between("shift/right", -7, 7)),
        above=above,
        cut=cut,
        inspiration=0.76 + 0.28 * breath if portable else 0.92 + 0.20 * breath,
        motion_mm=motion,
        source_mm=SOURCE_MM[view],
        field_mm=FIELD_MM[view],
        scatter=between("scatter", *SCATTER[view]),
        brightness=between("brightness", *brightness),
        contrast=between("contrast", 0.85, 1.15),
        dose=dose * between("dose", 0.7, 1.4),
        key=draws.key(seed, sample_id, view, "acquisition/noise"),
    )
