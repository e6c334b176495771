"""Findings of a whole lung: edema, interstitial opacity, emphysema, hyperinflation, as layers of tissue.

Fluid and scars take a share of the air (alpha towards fluid); emphysema takes a share of the tissue (alpha
towards air). Sizes of the grades are ours.
"""

from functools import cache

import numpy as np
from scipy import ndimage

from cxrtrek_lib.simulate.layers import AIR, FLUID, PLEURA, Box, Layer, common, lung_box, tight
from cxrtrek_lib.simulate.nodules import lobulated, shares
from cxrtrek_lib.simulate.phantom import LOBES, SIDES, Phantom, load
from cxrtrek_lib.simulate.plan import Lesion

# Share of the air that is fluid at the hila: a lung of -830 HU becomes one of -660, -460 and -180 HU there.
EDEMA_SHARE = {"mild": (0.17, 0.23), "moderate": (0.38, 0.48), "severe": (0.68, 0.85)}
KERLEY_LINES = {"mild": 7, "moderate": 9, "severe": 9}  # on each side
# Share of the air that a wall of the network takes, and how high the network reaches, 0 = base, 1 = apex.
NETWORK_SHARE = {"mild": (0.41, 0.47), "moderate": (0.50, 0.58), "severe": (0.61, 0.70)}
NETWORK_REACH = {"mild": 0.48, "moderate": 0.68, "severe": 0.95}
CELL_MM = 9.0  # mean way between two walls of the network along a line
# Share of the lung's tissue that is lost, and bullae of each lung.
EMPHYSEMA_LOSS = {"mild": (0.30, 0.36), "moderate": (0.42, 0.49), "severe": (0.53, 0.60)}
BULLAE = {"mild": 0, "moderate": 2, "severe": 3}
BULLA_RADIUS_MM, _BULLA_WALL_MM = (12.0, 26.0), 0.8
HYPERINFLATION_LOSS = {"mild": (0.10, 0.13), "moderate": (0.14, 0.17), "severe": (0.18, 0.22)}


def edema(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Fluid about both hila that thins out towards the chest wall, full upper vessels, septal lines below."""
    peak, laid = np.float32(lesion.within(EDEMA_SHARE)), []
    for side in SIDES:
        box, lung = _lung(anatomy, side)
        y, z, x = _places(anatomy, box)
        hilum = anatomy.landmarks[f"{side} hilum"]
        # Gravity: the wing hangs lower than it rises.
        above = (z - hilum[1]) / np.where(z > hilum[1], np.float32(70), np.float32(88))
        depth, aside = (y - hilum[0]) / np.float32(105), (x - hilum[2]) / np.float32(72)
        alpha = np.exp(-(depth**2)) * np.exp(-(above**2)) * np.exp(-(aside**2))
        alpha *= peak * np.clip(anatomy.wall[box] / np.float32(20), 0.3, 1)  # the rim of the lung is spared
        alpha *= np.clip(1 + np.float32(0.4) * _laid(_clouds(), box, lesion, side), 0.3, 1.5)
        # Blood moves to the upper zones: there a vessel takes more of its voxels.
        higher = np.clip((z - hilum[1] + 10) / 30, 0, 0.7)
        alpha += higher * np.clip(2 * (base[box] - np.float32(0.3)), 0, 1)
        np.minimum(alpha, np.float32(0.9), out=alpha)
        alpha *= lung
        laid.append(tight(Layer(lesion.finding, lesion.side, box, alpha, FLUID)))
        laid += _kerley(anatomy, lesion, side, box[2])
    return laid


def _kerley(anatomy: Phantom, lesion: Lesion, side: str, across: slice) -> list[Layer]:
    """Septal lines (Kerley B): level plates at the side wall of the lower lung, 10-20 mm long, 1 mm thick."""
    laid = []
    angle = anatomy.outlines[f"{side} costophrenic angle"]
    for i in range(KERLEY_LINES[lesion.severity]):
        length, depth, off, up = (
            lesion.between(f"{side}/septum/{i}/{name}", low, high)
            for name, low, high in (("length", 10, 20), ("depth", 12, 24), ("off", -12, 24), ("up", 0, 7))
        )
        row = (angle[:, 1].min() + 14 + 8 * i + up) / anatomy.spacing[1]
        box = (
            slice(*(int((angle[0, 0] + off + end * depth / 2) / anatomy.spacing[0]) for end in (-1, 1))),
            slice(int(row), int(row) + 2),
            across,
        )
        # A level plate of 1 mm between two rows of voxels: its share of each.
        share = np.array([1 - row % 1, row % 1], dtype=np.float32)[:, None] / np.float32(anatomy.spacing[1])
        outer = (_places(anatomy, box)[2] - angle[0, 2]) * (1 if side == "left" else -1) > -40
        alpha = share * anatomy.lung[side][box] * (anatomy.wall[box] < length) * outer
        laid.append(tight(Layer(lesion.finding, lesion.side, box, alpha, FLUID)))
    return laid


def interstitial(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """A network of thickened walls, densest below and under the pleura."""
    side = lesion.side
    box, lung = _lung(anatomy, side)
    up = _height(anatomy, side, box)
    alpha = np.clip((NETWORK_REACH[lesion.severity] - up) / np.float32(0.25), 0, 1)
    alpha = lesion.within(NETWORK_SHARE) * alpha * np.clip(1.25 - anatomy.wall[box] / np.float32(40), 0.15, 1)
    alpha *= _laid(_network(), box, lesion, side)
    alpha *= lung
    return [tight(Layer(lesion.finding, side, box, alpha, FLUID))]


def emphysema(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Tissue lost in both lungs, unevenly and more above than below; bullae in the upper lobes."""
    loss, laid = np.float32(lesion.within(EMPHYSEMA_LOSS)), []
    for side in SIDES:
        box, lung = _lung(anatomy, side)
        alpha = loss * (np.float32(0.85) + np.float32(0.3) * _height(anatomy, side, box))
        alpha = alpha * (1 + np.float32(0.2) * _laid(_clouds(), box, lesion, side))
        np.clip(alpha, 0, 0.85, out=alpha)
        alpha *= lung
        laid.append(Layer(lesion.finding, lesion.side, box, alpha, AIR))
        for i in range(BULLAE[lesion.severity]):
            laid += _bulla(anatomy, lesion, side, f"{side}/bulla/{i}")
    return laid


def _bulla(anatomy: Phantom, lesion: Lesion, side: str, question: str) -> list[Layer]:
    """An air space without tissue in the upper third of a lung, and its wall."""
    sites = anatomy.lobe_sites[LOBES[side][0]]
    high = np.flatnonzero(sites[:, 1] >= np.quantile(sites[:, 1], 0.5))
    middle = sites[high[int(lesion.draw(question) * len(high))]]
    radius = lesion.between(f"{question}/radius", *BULLA_RADIUS_MM)
    outer = lobulated(lesion, question, middle, radius, 0.7, 5, (0.5, 0.7))
    box, whole = shares(outer, anatomy)
    inner_box, air = shares(outer - (0, 0, 0, _BULLA_WALL_MM), anatomy)
    hollow = np.zeros_like(whole)
    _, there = common(inner_box, box)
    hollow[there] = air
    lung = anatomy.lung[side][box]
    return [
        Layer(lesion.finding, lesion.side, box, hollow * lung, AIR),
        Layer(lesion.finding, lesion.side, box, (whole - hollow) * lung, PLEURA),
    ]


def hyperinflation(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """The same tissue in more air: both lungs a little thinner. Low, flat domes are shapes.py's part."""
    loss = np.float32(lesion.within(HYPERINFLATION_LOSS))
    return [
        Layer(lesion.finding, lesion.side, box, loss * lung, AIR)
        for box, lung in (_lung(anatomy, side) for side in SIDES)
    ]


def _lung(anatomy: Phantom, side: str) -> tuple[Box, np.ndarray]:
    """The box of a lung and its mask therein."""
    box = lung_box(anatomy, side)
    return box, anatomy.lung[side][box]


def _places(anatomy: Phantom, box: Box) -> list[np.ndarray]:
    """mm of a box's voxels along y, z, x: float32 (Y, 1, 1), (1, Z, 1), (1, 1, X)."""
    shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    return [
        (np.arange(b.start, b.stop) * s).astype(np.float32).reshape(shape)
        for b, s, shape in zip(box, anatomy.spacing, shapes, strict=True)
    ]


def _height(anatomy: Phantom, side: str, box: Box) -> np.ndarray:
    """float32 (1, Z, 1): 0 at the lowest visible lung, 1 at its apex."""
    lung = anatomy.outlines[f"{side} lung"][:, 1]
    return np.clip((_places(anatomy, box)[1] - lung.min()) / np.ptp(lung), 0, 1)


def _laid(tile: np.ndarray, box: Box, lesion: Lesion, side: str) -> np.ndarray:
    """A periodic tile (64, 64, 64) over a box, shifted by draws: the same in every film of the patient."""
    for axis, b in enumerate(box):
        shift = int(lesion.draw(f"{side}/texture/{axis}") * 64)
        tile = tile.take((np.arange(b.start, b.stop) + shift) % 64, axis=axis)
    return tile


@cache
def _clouds() -> np.ndarray:
    """float32 (64, 64, 64), periodic, unit variance: clouds some 20 mm wide, and longer along depth.

    On a film, depth is averaged over: clouds as deep as they are wide would hardly be seen.
    """
    return _smooth(9 * np.array([1.3, 1, 1]))


@cache
def _network() -> np.ndarray:
    """float32 (64, 64, 64) in [0, 1], periodic: walls where smooth noise changes its sign.

    Noise smoothed by sigma does so every pi sqrt(2) sigma along a line (Rice 1944). Cells are longer along
    depth: else the many of them that lie behind each other would be a mere haze on a film.
    """
    noise = _smooth(CELL_MM / (np.pi * np.sqrt(2)) * np.array([3, 1, 1]))
    return np.exp(-((noise / np.float32(0.3)) ** 2))


def _smooth(sigma_mm: np.ndarray) -> np.ndarray:
    """float32 (64, 64, 64): periodic Gaussian noise of unit variance, smoothed. The same on every machine."""
    white = np.random.default_rng(1).standard_normal((64, 64, 64), dtype=np.float32)
    noise = ndimage.gaussian_filter(white, sigma_mm / load().spacing, mode="wrap")
    return noise / noise.std()


# Finding -> its layers.
LAYERS = {
    "edema": edema,
    "interstitial opacity": interstitial,
    "emphysema": emphysema,
    "hyperinflation": hyperinflation,
}
