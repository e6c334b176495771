"""Where in a lung: its lobes, its fissures, and the places that annotations name."""

from functools import cache
from typing import NamedTuple

import numpy as np

from cxrtrek_lib.simulate import phantom
from cxrtrek_lib.simulate.layers import Box
from cxrtrek_lib.simulate.phantom import LOBES, Phantom
from cxrtrek_lib.simulate.plan import Lesion

# Part of an annotated place's words -> where it is, as shares of the visible lung's extent: depth (0 = back),
# height (0 = base), breadth (0 = at the mediastinum) and floor (height above the lowest visible lung there).
# The first that fits counts. Ours, after the usual meaning of the words.
PLACES = {
    "apex": {"height": 1.0},
    "apical": {"height": 1.0},
    "upper lung": {"height": 0.83},
    "mid lung": {"height": 0.5},
    "lower lung": {"height": 0.17},
    "base": {"height": 0.2, "floor": 0.13},
    "basal": {"height": 0.2, "floor": 0.13},
    "lingula": {"depth": 0.75, "height": 0.25},
    "paracardiac": {"depth": 0.7, "height": 0.3, "breadth": 0.1},
    "cardiophrenic": {"depth": 0.8, "floor": 0.05, "breadth": 0.1},
    "costophrenic": {"height": 0.0, "breadth": 1.0},
    "paramediastinal": {"height": 0.75, "breadth": 0.0},
    "paratracheal": {"height": 0.9, "breadth": 0.0},
    "aortopulmonary": {"height": 0.7, "breadth": 0.0},
    "paravertebral": {"depth": 0.1, "height": 0.4, "breadth": 0.0},
    "subpleural": {"breadth": 1.0},
    "fissure": {"height": 0.5},
}
# The same about the hilum: mm above it. Lung begins some 18 mm beside it.
HILAR = {"suprahilar": 34, "infrahilar": -34, "hilum": 0, "perihilar": 0}
_BESIDE_MM = 18.0
_LOBE_WORDS = {"upper lobe": 0, "lingula": 0, "middle lobe": 1, "lower lobe": -1}  # index in phantom.LOBES
_MOSTLY = {
    "apex": 0,
    "apical": 0,
    "upper lung": 0,
    "base": -1,
    "basal": -1,
    "retrocardiac": -1,
    "phrenic": -1,
}
_NEAREST = 0.04  # share of the sites, those nearest to the place, among which one is drawn
_FISSURE_MM = 28.0  # sites within this distance of the other lobe tell where the fissure is


class Fissure(NamedTuple):
    """A quadratic surface: at q = (p - centre) / scale, p in mm (y, z, x), its value is
    constant + linear . q + q . square . q; positive above (upper or middle lobe), 0 on the fissure.
    """

    centre: np.ndarray
    scale: np.ndarray
    constant: float
    linear: np.ndarray
    square: np.ndarray


def lobe(lesion: Lesion) -> str:
    """The lobe that the annotated place means, else a drawn one: lower lobes twice as often as the others."""
    names = LOBES[lesion.side]
    if (index := _index(_LOBE_WORDS | _MOSTLY, lesion)) is not None:
        return names[index]
    names = [*names, names[-1]]
    return names[int(lesion.draw("lobe") * len(names))]


def site(anatomy: Phantom, lesion: Lesion, elsewhere: str = "") -> np.ndarray:
    """Middle (3,) mm of a lesion: a drawn place inside the lung, where the annotation's words have it.

    elsewhere  words to go by when the annotation has none; empty: a lobe is drawn (see `lobe`)
    The site is chosen in the undeformed phantom: a lesion stays on its place of the lung when the lung's
    shape changes between two films of a patient.
    """
    words = lesion.place or elsewhere
    if "retrocardiac" in words:
        return _behind_heart(anatomy, lesion)
    part = next((part for part in (*HILAR, *PLACES) if part in words), None)
    index = _index(_LOBE_WORDS, lesion)
    name = LOBES[lesion.side][index] if index is not None else None if part else lobe(lesion)
    ranked = _ranked(lesion.side, name, part)
    chosen = ranked[int(lesion.draw("site") * len(ranked))]
    return np.concatenate([anatomy.lobe_sites[each] for each in LOBES[lesion.side]])[chosen].astype(float)


def _index(meanings: dict[str, int], lesion: Lesion) -> int | None:
    return next((index for words, index in meanings.items() if words in (lesion.place or "")), None)


@cache
def _ranked(side: str, name: str | None, part: str | None) -> np.ndarray:
    """Indices of a lung's sites (its lobes' one after the other) in a lobe or, nearest first, at a place."""
    anatomy = phantom.load()
    sites = np.concatenate([anatomy.lobe_sites[each] for each in LOBES[side]])
    lobe_of = np.repeat(LOBES[side], [len(anatomy.lobe_sites[each]) for each in LOBES[side]])
    kept = np.arange(len(sites)) if name is None else np.flatnonzero(lobe_of == name)
    if part is None:
        return kept
    count = max(12, round(_NEAREST * len(sites)))
    if part in HILAR:
        beside = -_BESIDE_MM if side == "right" else _BESIDE_MM
        goal = anatomy.landmarks[f"{side} hilum"] + (0, HILAR[part], beside)
        far = ((sites - goal) ** 2 @ (0.3, 1, 1))[kept]  # a frontal film shows no depth
        return kept[np.argsort(far, kind="stable")[:count]]
    depth, height, across = ((sites - sites.min(axis=0)) / np.ptp(sites, axis=0)).T
    # x runs from the patient's right to the left: breadth starts at the mediastinum.
    breadth = 1 - across if side == "right" else across
    column = np.round(10 * breadth).astype(int)
    lowest = np.array([height[column == each].min(initial=1.0) for each in range(11)])
    shares = {"depth": depth, "height": height, "breadth": breadth, "floor": height - lowest[column]}
    far = sum((shares[axis] - goal) ** 2 for axis, goal in PLACES[part].items())
    return kept[np.argsort(far[kept], kind="stable")[:count]]


def _behind_heart(anatomy: Phantom, lesion: Lesion) -> np.ndarray:
    """(3,) mm: lung behind the heart's shadow, low and near the midline."""
    low, high = anatomy.outlines["heart"].min(axis=0), anatomy.outlines["heart"].max(axis=0)
    across = {"left": (0.65, 0.82), "right": (0.08, 0.18)}[lesion.side]
    shares = (0.5, lesion.between("up", 0.15, 0.4), lesion.between("across", *across))
    middle, z, x = low + (high - low) * shares
    row, column = round(z / anatomy.spacing[1]), round(x / anatomy.spacing[2])
    lung = np.flatnonzero(anatomy.lung[lesion.side][: int(middle / anatomy.spacing[0]), row, column] > 0.5)
    y = lung[len(lung) // 2] * anatomy.spacing[0] if len(lung) else low[0]
    return np.array([y, z, x])


def fissure(anatomy: Phantom, side: str, name: str) -> Fissure:
    """The "major" fissure (above the lower lobe) or the right "minor" one (between upper and middle lobe).

    A quadratic surface between the sites of the lobes, by least squares. It gives 97-99 % of the CT's
    lung voxels the lobe that the label map gives them, and moves with the sites when the anatomy is deformed.
    """
    upper, *middle, lower = (anatomy.lobe_sites[each].astype(np.float64) for each in LOBES[side])
    above, below = (upper, *middle), (lower,)
    if name == "minor":
        above, below = (upper,), middle
    above, below = np.concatenate(above), np.concatenate(below)
    apart = ((above**2).sum(axis=1)[:, None] + (below**2).sum(axis=1) - 2 * above @ below.T) < _FISSURE_MM**2
    above, below = above[apart.any(axis=1)], below[apart.any(axis=0)]
    points, sign = np.concatenate([above, below]), np.repeat([1.0, -1.0], [len(above), len(below)])
    weight = 1 / np.sqrt(np.repeat([len(above), len(below)], [len(above), len(below)]))
    centre, scale = points.mean(axis=0), points.std(axis=0)
    q = (points - centre) / scale
    i, j = np.triu_indices(3)
    terms = np.concatenate([np.ones((len(q), 1)), q, q[:, i] * q[:, j]], axis=1)
    fit = np.linalg.lstsq(terms * weight[:, None], sign * weight, rcond=None)[0]
    square = np.zeros((3, 3))
    square[i, j] = fit[4:]
    return Fissure(centre, scale, float(fit[0]), fit[1:4], 0.5 * (square + square.T))


def above(surface: Fissure, anatomy: Phantom, box: Box) -> np.ndarray:
    """float32 of the box's shape: mm above a fissure, negative below; right to first order near it."""
    y, z, x = (
        ((np.arange(b.start, b.stop) * s - c) / e).astype(np.float32)
        for b, s, c, e in zip(box, anatomy.spacing, surface.centre, surface.scale, strict=True)
    )
    q = (y[:, None, None], z[:, None], x)
    slopes = [sum(np.float32(m) * each for m, each in zip(row, q, strict=True)) for row in surface.square]
    value = np.float32(surface.constant)
    steep = np.float32(0)
    for each, slope, first, scale in zip(q, slopes, surface.linear, surface.scale, strict=True):
        value = value + each * (slope + np.float32(first))
        steep = steep + ((2 * slope + np.float32(first)) / np.float32(scale)) ** 2
    return value / np.sqrt(steep + np.float32(1e-9))


def share(anatomy: Phantom, side: str, name: str, box: Box, edge_mm: float = 3.0) -> np.ndarray:
    """float32 of the box's shape in [0, 1]: 1 in a lobe, 0 in the lung's others, soft over edge_mm.

    Outside the lung it means nothing: multiply by the lung.
    """

    def over(fissure_name: str) -> np.ndarray:
        return np.clip(above(fissure(anatomy, side, fissure_name), anatomy, box) / edge_mm + 0.5, 0, 1)

    if name == LOBES[side][-1]:
        return 1 - over("major")
    if side == "left":
        return over("major")
    minor = over("minor")
    return over("major") * (minor if name == LOBES[side][0] else 1 - minor)
