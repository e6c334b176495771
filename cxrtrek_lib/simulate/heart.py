"""Findings of the heart, as layers of tissue and as outlines."""

import numpy as np

from cxrtrek_lib.simulate.layers import MUSCLE, Layer, box_of, resample
from cxrtrek_lib.simulate.phantom import Phantom
from cxrtrek_lib.simulate.plan import Lesion

HEART_SCALE = {"mild": (1.15, 1.20), "moderate": (1.24, 1.31), "severe": (1.36, 1.46)}


def cardiomegaly(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """The heart larger (see `larger`), by HEART_SCALE."""
    return [larger(anatomy, lesion.within(HEART_SCALE), lesion.finding)]


def larger(anatomy: Phantom, scale: float, finding: str) -> Layer:
    """The heart `scale` times as wide and 1 + 0.6 (scale - 1) as high and deep; lung in its way gives place.

    The heart grows about a point right of and above its middle: mostly to the left and downwards.
    """
    box = box_of(anatomy.heart > 0.02)
    centre_mm, scales = growth(anatomy, scale)
    centre = centre_mm / anatomy.spacing
    grown = tuple(
        slice(max(0, int(c - (c - b.start) * s) - 1), min(n, int(c + (b.stop - c) * s) + 2))
        for b, c, s, n in zip(box, centre, scales, anatomy.heart.shape, strict=True)
    )
    places = [
        c + (np.arange(g.start, g.stop) - c) / s - b.start
        for g, b, c, s in zip(grown, box, centre, scales, strict=True)
    ]
    alpha = resample(anatomy.heart[box], places)
    lungs = anatomy.lung["left"][grown] + anatomy.lung["right"][grown]
    return Layer(finding, None, grown, alpha * lungs, MUSCLE)


def growth(anatomy: Phantom, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Fixed point (3,) in mm and scales (3,) along (y, z, x) of a heart that is `scale` times as wide."""
    heart = anatomy.outlines["heart"]
    low, high = heart.min(axis=0), heart.max(axis=0)
    along = 1 + 0.6 * (scale - 1)
    return low + (0.5, 0.62, 0.33) * (high - low), np.array([along, along, scale])


def outlines(anatomy: Phantom, scale: float, lateral: bool = False) -> dict[str, np.ndarray]:
    """The anatomy's outlines for a view, with a heart that is `scale` times as wide."""
    centre, scales = growth(anatomy, scale)
    points = dict(anatomy.lateral_outlines if lateral else anatomy.outlines)
    for name in {"heart", "right atrium"} & set(points):
        points[name] = (points[name] - centre) * scales + centre
    if "mediastinum" in points:
        points["mediastinum"] = np.concatenate([points["mediastinum"], points["heart"]])
    return points


LAYERS = {"cardiomegaly": cardiomegaly}
