"""The anatomical regions of a film, from the label map: points in the phantom whose projection spans them.

The 29 regions of Chest ImaGenome (Wu et al. 2021, NeurIPS Datasets and Benchmarks) on a frontal film, by the
names of findings.REGIONS; on a lateral film those that a reader tells apart there. Where a region is a
convention and no organ (zones, angles, hila), the rule and its millimetres are ours, after the boxes that
readers draw.
"""

import numpy as np
from scipy import ndimage

from cxrtrek_lib.simulate import clavicles

SIDES = ("left", "right")
APEX_MM = 38.0  # height of the lung apex: about what a film shows above the clavicles
ANGLE_MM = 26.0  # reach of a costophrenic angle's box, up and inwards from the tip
ARCH_MM = 36.0  # height of the aortic arch
BELOW_MM = 80.0  # how far below the costophrenic angles a film shows the abdomen


def visible(lung: np.ndarray, wall: np.ndarray, abdomen: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """bool (Z, X): where a frontal film shows this lung, not the dome or the heart in front of its depth.

    The posterior sulcus reaches far below the dome; a reader's "lung" ends at the dome and, beside
    it, where the sulcus thins out. Rule: lung fills half of the chest's depth there, and 40 mm or more, and
    lies at most 8 mm below the dome. All arrays are (Y, Z, X).
    """
    air, chest = lung.sum(axis=0), np.count_nonzero(wall > 0, axis=0)
    under = (abdomen > 0.5).any(axis=0)
    dome = under[round(8 / spacing[1]) :][::-1].cumsum(axis=0)[::-1] > 0  # something of the abdomen above
    dome = np.pad(dome, ((0, len(under) - len(dome)), (0, 0)))
    return _largest(ndimage.binary_opening((air > 0.5 * chest) & (air * spacing[0] > 40) & ~dome))


def frontal(masks: dict, lung: dict, points: dict, courses: dict, shown: dict, spacing: np.ndarray) -> dict:
    """{region: float32 (N, 3) mm} for a frontal film; a region's box is the box of its projected points.

    masks   float32 (Y, Z, X) by name: heart, aorta, trachea, spine, superior vena cava, mediastinum (its
            organs), abdomen
    lung    {side: float32 (Y, Z, X)}; shown {side: bool (Z, X)} from `visible`; points, courses: phantom's
    """
    solid = {name: mask > 0.5 for name, mask in masks.items()}
    height = np.arange(solid["heart"].shape[1])[None, :, None] * spacing[1]
    across = np.arange(solid["heart"].shape[2])[None, None] * spacing[2]
    outlines = {}

    def add(name: str, mask: np.ndarray) -> None:
        outlines[name] = _rim(mask, mask.any(axis=0), spacing)

    for name in ("heart", "superior vena cava"):
        add(name, solid[name])
    for name in ("left clavicle", "right clavicle"):
        outlines[name] = clavicles.outline(courses[name])
    add("trachea", solid["trachea"] & (height >= points["carina"][1]))  # without the main bronchi
    heart_low = _lowest(solid["heart"], spacing)
    # Aorta and oesophagus go on below; the mediastinum of a film ends with the heart.
    add("mediastinum", solid["mediastinum"] & (height >= heart_low))
    add("upper mediastinum", solid["mediastinum"] & (height >= points["carina"][1]))
    add("aortic arch", solid["aorta"] & (height > _highest(solid["aorta"], spacing) - ARCH_MM))
    junction = points["cavoatrial junction"]
    # The label map knows no chambers: the heart below the vena cava and right of its middle is the atrium.
    add("right atrium", solid["heart"] & (height < junction[1]) & (across < junction[2] + 24))
    outlines["carina"] = _around(points["carina"], up=10, down=12, right=16, left=16)
    outlines["cavoatrial junction"] = _around(junction, up=12, down=12, right=14, left=12)
    angles = []
    for side in SIDES:
        mask, here = lung[side] > 0.5, shown[side]
        outlines[f"{side} lung"] = _rim(mask, here, spacing)
        rows = np.nonzero(here)[0]
        low, high = int(rows.min()), int(rows.max()) + 1
        cuts = [round(low + (high - low) * i / 3) for i in range(4)]
        pieces = {f"{zone} lung zone": cuts[i : i + 2] for i, zone in enumerate(("lower", "mid", "upper"))}
        pieces["lung apex"] = [high - round(APEX_MM / spacing[1]), high]
        for name, (bottom, top) in pieces.items():
            part = here.copy()
            part[:bottom] = part[top:] = False
            outlines[f"{side} {name}"] = _rim(mask, part, spacing)
        outlines[f"{side} hemidiaphragm"] = _dome(solid["abdomen"], here, spacing)
        outlines[f"{side} costophrenic angle"] = _angle(mask, here, side, spacing)
        angles.append(outlines[f"{side} costophrenic angle"][:, 1].min())
        reach = {"right": 34, "left": 12} if side == "right" else {"right": 12, "left": 34}
        outlines[f"{side} hilum"] = _around(points[f"{side} hilum"], up=30, down=36, **reach)
    below = min(angles) - BELOW_MM
    add("abdomen", solid["abdomen"] & (height >= below))
    add("spine", solid["spine"] & (height >= below))
    return outlines


def lateral(masks: dict, lung: dict, points: dict, domes: dict, spacing: np.ndarray) -> dict:
    """The same for a lateral film, where the two sides lie over one another.

    domes  {side: bool (Z, X)}: the visible lung of a frontal film, under whose width each dome is
    """
    solid = {name: mask > 0.5 for name, mask in masks.items()}
    height = np.arange(solid["heart"].shape[1])[None, :, None] * spacing[1]
    outlines = {}

    def add(name: str, mask: np.ndarray) -> None:
        outlines[name] = _rim(mask, mask.any(axis=2), spacing, axis=2)

    add("heart", solid["heart"])
    add("trachea", solid["trachea"] & (height >= points["carina"][1]))
    add("aortic arch", solid["aorta"] & (height > _highest(solid["aorta"], spacing) - ARCH_MM))
    outlines["carina"] = _around(points["carina"], up=10, down=12, back=14, front=14)
    lows = []
    for side in SIDES:
        mask = lung[side] > 0.5
        shown = _largest(mask.sum(axis=2) * spacing[2] > 12)
        outlines[f"{side} lung"] = _rim(mask, shown, spacing, axis=2)
        outlines[f"{side} hemidiaphragm"] = _dome_lateral(solid["abdomen"], shown, domes[side], spacing)
        # The posterior sulcus: the lowest lung, a film's most sensitive place for fluid.
        y, z = np.nonzero(shown)
        tip = np.argmin(z)
        x = np.nonzero(mask[y[tip], z[tip]])[0].mean() * spacing[2]
        at = np.array([y[tip] * spacing[0], z[tip] * spacing[1], x])
        outlines[f"{side} costophrenic angle"] = _around(at, up=ANGLE_MM, down=6, back=10, front=ANGLE_MM)
        lows.append(at[1])
    below = min(lows) - BELOW_MM / 2
    add("abdomen", solid["abdomen"] & (height >= below))
    add("spine", solid["spine"] & (height >= below))
    return outlines


def sites(lobe: np.ndarray, wall: np.ndarray, shown: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """float32 (N <= 400, 3) mm: places inside a lobe, 14 mm or more under the chest wall, on visible lung."""
    places = np.argwhere((lobe > 0.9) & (wall > 14) & shown[None])
    return (places[:: max(1, len(places) // 400)][:400] * spacing).astype(np.float32)


def _largest(shadow: np.ndarray) -> np.ndarray:
    """The largest connected piece of a bool array."""
    pieces, _ = ndimage.label(shadow)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def _lowest(mask: np.ndarray, spacing: np.ndarray) -> float:
    return np.flatnonzero(mask.any(axis=(0, 2))).min() * spacing[1]


def _highest(mask: np.ndarray, spacing: np.ndarray) -> float:
    return np.flatnonzero(mask.any(axis=(0, 2))).max() * spacing[1]


def _rim(mask: np.ndarray, shadow: np.ndarray, spacing: np.ndarray, axis: int = 0) -> np.ndarray:
    """float32 (N, 3) mm: first and last voxel of a bool mask along `axis` on the rim of its 2-D shadow."""
    rim = shadow & ~ndimage.binary_erosion(shadow)
    where = np.nonzero(rim & mask.any(axis=axis))
    columns = np.moveaxis(mask, axis, 0)[:, *where]
    first, last = columns.argmax(axis=0), len(columns) - 1 - columns[::-1].argmax(axis=0)
    ends = [np.stack([*where[:axis], depth, *where[axis:]], axis=1) for depth in (first, last)]
    return (np.concatenate(ends) * spacing).astype(np.float32)


def _around(point: np.ndarray, up=0.0, down=0.0, right=0.0, left=0.0, back=0.0, front=0.0) -> np.ndarray:
    """float32 (2, 3) mm: opposite corners of a box about a point (y, z, x), its reach in mm each way."""
    return np.array([point - (back, down, right), point + (front, up, left)], dtype=np.float32)


def _dome(abdomen: np.ndarray, shown: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """(N, 3) mm: upper edge of the organs under a lung, over all but the margins of the lung's width."""
    columns = np.nonzero(shown)[1]
    left, right = columns.min(), columns.max()
    inner = slice(round(left + 0.04 * (right - left)), round(right - 0.04 * (right - left)))
    under = abdomen[:, :, inner]
    top = under.shape[1] - 1 - under.any(axis=0)[::-1].argmax(axis=0)
    depth = under[:, top, np.arange(len(top))].argmax(axis=0)
    edge = np.stack([depth, top, np.arange(inner.start, inner.stop)], axis=1)[under.any(axis=(0, 1))]
    return (edge * spacing).astype(np.float32)


def _dome_lateral(
    abdomen: np.ndarray, shown: np.ndarray, dome: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """(N, 3) mm: upper edge of the organs under one lung, from front to back."""
    columns = np.nonzero(dome)[1]
    left, right = columns.min(), columns.max()
    inner = slice(round(left + 0.1 * (right - left)), round(right - 0.1 * (right - left)))
    under = abdomen[:, :, inner]
    y = np.nonzero(shown)[0]
    depths = np.arange(round(y.min() + 0.1 * np.ptp(y)), round(y.max() - 0.1 * np.ptp(y)))
    depths = depths[under[depths].any(axis=(1, 2))]
    top = under.shape[1] - 1 - under[depths].any(axis=2)[:, ::-1].argmax(axis=1)
    x = under[depths, top].argmax(axis=1) + inner.start
    return (np.stack([depths, top, x], axis=1) * spacing).astype(np.float32)


def _angle(mask: np.ndarray, shown: np.ndarray, side: str, spacing: np.ndarray) -> np.ndarray:
    """(2, 3) mm: the lowest visible lung in the outer quarter, with a margin that a reader would draw."""
    rows, columns = np.nonzero(shown)
    left, right = columns.min(), columns.max()
    quarter = (right - left) / 4
    outer = columns < left + quarter if side == "right" else columns > right - quarter
    tip = np.argmin(np.where(outer, rows, rows.max() + 1))
    z, x = rows[tip] * spacing[1], columns[tip] * spacing[2]
    y = np.nonzero(mask[:, rows[tip], columns[tip]])[0].mean() * spacing[0]
    inward = 1 if side == "right" else -1
    corners = [(y, z - 6, x - 6 * inward), (y, z + ANGLE_MM, x + ANGLE_MM * inward)]
    return np.array(corners, dtype=np.float32)
