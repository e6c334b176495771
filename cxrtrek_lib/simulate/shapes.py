"""Findings that move anatomy instead of filling it: one displacement of the phantom for all of them.

A displacement goes along one axis at a time (see displacement.py), first up and down, then across.
"""

import numpy as np
from scipy import ndimage

from cxrtrek_lib.simulate.displacement import ACROSS, UP, moved
from cxrtrek_lib.simulate.phantom import Phantom
from cxrtrek_lib.simulate.plan import Lesion

# By how much a raised dome is higher than it was, mm. The phantom's right dome stands 23 mm above the left
# one, so a left one must rise further to be seen. Ranges ours.
ELEVATION_MM = {"left": (32.0, 60.0), "right": (25.0, 50.0)}
# Share of a dome's height above the costophrenic angles that is lost, the dome taken smooth (12 mm): its very
# top loses about a quarter less.
FLATTENING = {"mild": (0.30, 0.42), "moderate": (0.50, 0.64), "severe": (0.70, 0.84)}
_SLENDER = 0.11  # share of its width that the heart loses over a dome that is wholly flat
# Cobb angle of the thoracic curve, degrees. Scoliosis begins at 10 (Scoliosis Research Society); bounds of
# the grades near 25 and 40, where bracing and surgery begin; a film's own lean hides less than 15.
COBB_DEG = {"mild": (19.0, 25.0), "moderate": (29.0, 39.0), "severe": (44.0, 57.0)}
_APEX_MM, _HALF_CURVE_MM = 198.0, 105.0  # z of the curve's middle vertebra, T8, and from there to its ends
_COUNTER, _COUNTER_MM, _HALF_COUNTER_MM = (
    0.45,
    150.0,
    85.0,
)  # lumbar curve: relative size, mm below, half length
_OUTSIDE = 0.25  # share of the spine's displacement that the sides of the chest follow
_FRONT = 0.5  # and share that the sternum follows

# Findings that `deformed` knows.
SHAPES = ("hemidiaphragm elevation", "hyperinflation", "emphysema", "scoliosis")


def deformed(anatomy: Phantom, lesions: list[Lesion]) -> Phantom:
    """The phantom as the lesions of SHAPES deform it; the same object when none is among them.

    Displacements of several findings add up: a dome raised in emphysema rises from where that left it. Of
    emphysema and hyperinflation the flatter one counts, they are one shape.
    """
    up, across = [], []
    flat = [each.within(FLATTENING) for each in lesions if each.finding in ("hyperinflation", "emphysema")]
    if flat:
        up.append(lowered(anatomy, max(flat)))
        across.append(slender(anatomy, max(flat)))
    for each in lesions:
        if each.finding == "hemidiaphragm elevation":
            up.append(raised(anatomy, each.side, each.between("size", *ELEVATION_MM[each.side])))
        elif each.finding == "scoliosis":
            # Right-sided thoracic curves are the rule (about nine of ten in adolescents).
            apex = apex_shift(each.within(COBB_DEG)) * (-1 if each.draw("direction") < 0.85 else 1)
            up.append(tilted(anatomy, apex))
            across.append(curved(anatomy, apex))
    shifts = [(axis, sum(parts[1:], start=parts[0])) for axis, parts in ((UP, up), (ACROSS, across)) if parts]
    return _angles_kept(moved(anatomy, shifts), anatomy) if shifts else anatomy


def _angles_kept(made: Phantom, plain: Phantom) -> Phantom:
    """Costophrenic angles in their size: the box about a tip goes with it, not with the dome beside it."""
    for group in ("outlines", "lateral_outlines"):
        points = dict(getattr(made, group))
        for name in [name for name in points if name.endswith("costophrenic angle")]:
            before = getattr(plain, group)[name]
            tip = before[:, UP].argmin()
            points[name] = before + (points[name][tip] - before[tip])
        made = made._replace(**{group: points})
    return made


def raised(anatomy: Phantom, side: str, mm: float) -> np.ndarray:
    """Upward shift float32 (Y, Z, X), mm, of one hemidiaphragm: `mm` at its dome, 0 at ribs and midline.

    The lung above gives way up to its apex, the abdomen below is drawn after.
    """
    x, z = _axis(anatomy, ACROSS), _axis(anatomy, UP)
    sign = 1 if side == "left" else -1
    dome = float(anatomy.outlines[f"{side} hemidiaphragm"][:, 1].max())
    top = float(anatomy.outlines[f"{side} lung"][:, 1].max())
    # Sources from `dome` - 45 to `dome` rise by the whole amount: the dome keeps its shape.
    height = _step(z, -60, dome - 45 + mm) * (1 - _step(z, dome + mm, top))
    aside = _step(sign * (x - _spine(anatomy)[0][:, None]), -12, 32)  # (Z, X)
    shift = np.zeros_like(anatomy.hu)
    half = np.flatnonzero(aside.any(axis=0))
    half = slice(half[0], half[-1] + 1)
    rise = mm * height[:, None] * aside[:, half]
    shift[..., half] = _off_wall(anatomy.wall[..., half], 22) * _off_spine(anatomy, x[half]) * rise
    return shift


def lowered(anatomy: Phantom, share: float) -> np.ndarray:
    """Upward shift float32 (Y, Z, X), mm, all below 0, of both domes and the heart: `share` of their height.

    Height is that of the chest's floor above the costophrenic angles: it goes from the domes, not from the
    sulci, so domes flatten. The lung above is drawn after up to its apex.
    """
    z = _axis(anatomy, UP)
    floor = _floor(anatomy)
    angles = np.mean(
        [anatomy.outlines[f"{side} costophrenic angle"][:, 1].min() for side in ("left", "right")]
    )
    drop = share * np.maximum(floor - np.float32(angles), 0)
    top = max(float(anatomy.outlines[f"{side} lung"][:, 1].max()) for side in ("left", "right"))
    fall = drop[:, None] * (1 - _step(z, float(floor.max()), top))[:, None]
    return -_off_spine(anatomy, _axis(anatomy, ACROSS)) * fall


def slender(anatomy: Phantom, share: float) -> np.ndarray:
    """Shift across float32 (1, Z, X), mm: the heart narrower as the domes lose `share` of their height."""
    z, x = _axis(anatomy, UP), _axis(anatomy, ACROSS)
    low, high = (float(bound(anatomy.outlines["heart"][:, 1])) for bound in (np.min, np.max))
    off = x - _spine(anatomy)[0][:, None]
    pinch = 1 / (1 - _SLENDER * share) - 1
    height = _step(z, low - 50, low) * (1 - _step(z, high - 30, high + 30))
    inner = 1 - _step(np.abs(off), 70, 135)
    return (-pinch * height[:, None] * inner * off)[None]


def apex_shift(cobb: float) -> float:
    """Shift of the apex, mm, of a cosine-shaped curve with a Cobb angle of `cobb` degrees.

    x(z) = apex (1 + cos(pi z / half)) / 2 is steepest, apex pi / (2 half), half way to both of its ends;
    the Cobb angle lies between these two slopes.
    """
    return 2 * _HALF_CURVE_MM / np.pi * np.tan(np.radians(cobb) / 2)


def curved(anatomy: Phantom, apex: float) -> np.ndarray:
    """Shift across float32 (Y, Z, X), mm, of a scoliosis: `apex` at the spine, less at sides and front."""
    y, x = _axis(anatomy, 0), _axis(anatomy, ACROSS)
    curve = (apex * _curve(_axis(anatomy, UP)))[:, None]
    off = np.abs(x - _spine(anatomy)[0][:, None] - curve)
    aside = 1 - (1 - _OUTSIDE) * np.clip((off - 25) / 100, 0, 1)
    depth = 1 - (1 - _FRONT) * _step(y, 90, 205)
    return depth[:, None, None] * (curve * aside)


def tilted(anatomy: Phantom, apex: float) -> np.ndarray:
    """Upward shift float32 (1, Z, X), mm, that turns vertebrae and the heads of ribs square to the curve."""
    z, x = _axis(anatomy, UP), _axis(anatomy, ACROSS)
    curve = (apex * _curve(z))[:, None]
    off = x - _spine(anatomy)[0][:, None] - curve
    slope = np.gradient(curve[:, 0], float(anatomy.spacing[UP]))[:, None]
    return (-slope * off * (1 - _step(np.abs(off), 0, 64)))[None]


def _axis(anatomy: Phantom, axis: int) -> np.ndarray:
    """Positions of the voxels along an axis, float32, mm."""
    return (np.arange(anatomy.hu.shape[axis]) * anatomy.spacing[axis]).astype(np.float32)


def _step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between (3 t^2 - 2 t^3)."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _curve(z: np.ndarray) -> np.ndarray:
    """The spine's curve over height, 1 at the apex, with the lumbar counter-curve."""

    def wave(middle: float, half: float) -> np.ndarray:
        return 0.5 + 0.5 * np.cos(np.pi * np.clip((z - middle) / half, -1, 1))

    return wave(_APEX_MM, _HALF_CURVE_MM) - _COUNTER * wave(_APEX_MM - _COUNTER_MM, _HALF_COUNTER_MM)


def _spine(anatomy: Phantom) -> tuple[np.ndarray, np.ndarray]:
    """x of the spine's middle and y of its front at every height, float32 (Z,) mm, smoothed."""
    across = anatomy.spine.sum(axis=0)
    middle = across @ _axis(anatomy, ACROSS) / np.maximum(across.sum(axis=1), 1e-3)
    depth = anatomy.spine.max(axis=2) > 0.5  # (Y, Z)
    front = (len(depth) - 1 - depth[::-1].argmax(axis=0)) * anatomy.spacing[0]
    return tuple(
        ndimage.gaussian_filter1d(each, 8, mode="nearest").astype(np.float32) for each in (middle, front)
    )


def _off_wall(wall: np.ndarray, mm: float) -> np.ndarray:
    """From depths (Y, Z, X) mm: 0 at the inner chest wall, 1 from `mm` inside; it never narrows downwards."""
    wall = wall.copy()
    for z in reversed(range(wall.shape[1] - 1)):
        np.maximum(wall[:, z], wall[:, z + 1], out=wall[:, z])
    return _step(wall, 0, mm)


def _off_spine(anatomy: Phantom, x: np.ndarray) -> np.ndarray:
    """float32 (Y, Z, len(x)) in [0, 1]: 0 at the spine, 1 well in front of it or beside it."""
    middle, front = _spine(anatomy)
    before = _step(_axis(anatomy, 0)[:, None] - front, 0, 100)  # (Y, Z)
    beside = _step(np.abs(x - middle[:, None]), 22, 50)  # (Z, X)
    return 1 - (1 - before[:, :, None]) * (1 - beside)


def _floor(anatomy: Phantom) -> np.ndarray:
    """Height of the chest's floor, float32 (Y, X) mm: the lowest of lungs and mediastinum; 0 beside them."""
    chest = anatomy.lung["left"] + anatomy.lung["right"] + anatomy.mediastinum > 0.5
    floor = chest.argmax(axis=1) * np.float32(anatomy.spacing[1])
    sigma = 12 / anatomy.spacing[[0, 2]]
    return ndimage.gaussian_filter(floor, sigma)
