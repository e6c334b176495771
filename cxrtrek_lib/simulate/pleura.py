"""Findings of the pleural space: fluid, air and thickening, as layers of tissue.

The patient is upright in every view: free fluid lies low wherever an annotation has it (one scene serves all
views, and films of supine patients, on which fluid spreads to a haze, cannot be told from upright AP ones).
"""

import numpy as np
from scipy import ndimage

from cxrtrek_lib.simulate import lobes
from cxrtrek_lib.simulate.layers import (
    AIR,
    FLUID,
    MUSCLE,
    PLEURA,
    Box,
    Layer,
    common,
    lung_box,
    resample,
    tight,
)
from cxrtrek_lib.simulate.phantom import LOBES, Phantom
from cxrtrek_lib.simulate.plan import Lesion

# (low, high) of the drawn size.
# Effusion: level of the fluid in mm above one of _heights. A mild one blunts the costophrenic angle, a
# moderate one hides the dome, a severe one reaches the mid lung: in this chest 0.1-0.2, 0.4-0.8 and 1.2 l. On
# real erect films the angle is blunted from some 0.2 to 0.5 l on. Ranges ours.
EFFUSION_MM = {"mild": ("angle", -4, 6), "moderate": ("dome", 4, 16), "severe": ("mid lung", -12, 12)}
BLUNTED_MM = (-18, -8)  # below the angle, and in its lateral part alone
# Fluid is drawn up along the chest wall by the lung's recoil: so far above its level at the wall, mm, and
# the depth below the wall at which a third of that is left.
MENISCUS_MM = {"mild": (34, 15), "moderate": (48, 16), "severe": (52, 17)}
# Pneumothorax: by how much the lung shrinks towards its hilum.
COLLAPSE = {"mild": (0.13, 0.18), "moderate": (0.24, 0.33), "severe": (0.45, 0.62)}
HANGING = 0.4  # up to this collapse the lung's base stays on the diaphragm
CAP_MM, BAND_MM, FISSURE_MM = (6.0, 11.0), (4.0, 8.0), (2.2, 3.6)  # thickening: at the apex, wall, fissure
_LOW = ("base", "basal", "lower", "costophrenic")


def effusion(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Free fluid in one pleural cavity (see EFFUSION_MM), higher along the chest wall."""
    mark, *limits = EFFUSION_MM[lesion.severity]
    level = _heights(anatomy, lesion.side)[mark] + lesion.between("size", *limits)
    box = lung_box(anatomy, lesion.side)
    alpha = _fluid(anatomy, box, level, MENISCUS_MM[lesion.severity]) * anatomy.lung[lesion.side][box]
    return [tight(Layer(lesion.finding, lesion.side, box, alpha, FLUID))]


def blunting(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """A little fluid (see BLUNTED_MM) that fills the lateral costophrenic angle and nothing else."""
    side, box = lesion.side, lung_box(anatomy, lesion.side)
    level = _heights(anatomy, side)["angle"] + lesion.between("size", *BLUNTED_MM)
    alpha = _fluid(anatomy, box, level, MENISCUS_MM["mild"]) * _lateral(anatomy, side, box, 38, 20)
    return [tight(Layer(lesion.finding, side, box, alpha * anatomy.lung[side][box], FLUID))]


def thickening(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Thick pleura: a cap over the apex, a band along the lateral wall, or a fissure, as the words have it.

    Without words an apical cap, in a third of the draws the band. A thick major fissure shows in lateral
    views only.
    """
    side, box = lesion.side, lung_box(anatomy, lesion.side)
    if _said(lesion, "fissure"):
        alpha = _fissure(anatomy, lesion, box)
    elif _said(lesion, *_LOW, "mid", "subpleural") or not lesion.place and lesion.draw("kind") > 0.67:
        alpha = _band(anatomy, lesion, box)
    else:
        alpha = _cap(anatomy, lesion, box)
    return [tight(Layer(lesion.finding, side, box, alpha * anatomy.lung[side][box], PLEURA))]


def pneumothorax(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """The lung shrunk (see COLLAPSE) towards its hilum, a thin visceral line, air around it.

    It lies before all other findings of its lung (see `collapsed`): the layer replaces the whole cavity.
    """
    side, collapse = lesion.side, lesion.within(COLLAPSE)
    box = lung_box(anatomy, side)
    places, scales = _collapsed_places(anatomy, lesion)
    cavity = anatomy.lung[side][box]
    remains = resample(ndimage.uniform_filter(cavity, 3, mode="constant"), places)  # a line without steps
    tissue = resample(base[box] * cavity, places)
    # Less air in the same tissue; but blood leaves a shrinking lung: a small collapse hardly whitens it.
    shrunk = tissue / np.maximum(remains, 0.05) / np.float32(np.prod(scales) ** (0.25 + collapse))
    shrunk = np.minimum(shrunk, np.float32(MUSCLE))  # vessels move closer, they grow no denser
    rim = 4 * remains * (1 - remains)
    inside = np.clip(remains, 0, 1)
    target = inside * shrunk + (1 - inside) * np.float32(AIR)
    target += np.float32(0.5) * rim * (PLEURA - target)
    alpha = np.clip(cavity, 0, 1)
    if collapse < HANGING and not _said(lesion, *_LOW):  # the base stays where it was
        z = np.arange(box[1].start, box[1].stop) * anatomy.spacing[1]
        alpha *= np.clip((z - _heights(anatomy, side)["dome"]) / 25, 0, 1).astype(np.float32)[:, None]
    return [tight(Layer(lesion.finding, side, box, alpha, target))]


def collapsed(layer: Layer, anatomy: Phantom, pneumothorax: Lesion) -> Layer:
    """A layer of the lung where the lung is after a pneumothorax: it moves and shrinks with its lung."""
    side = pneumothorax.side
    box = lung_box(anatomy, side)
    here, there = common(box, layer.box)
    whole = np.zeros([b.stop - b.start for b in box], dtype=np.float32)
    if here is not None:
        whole[here] = layer.alpha[there]
    places, _ = _collapsed_places(anatomy, pneumothorax)
    moved = resample(whole, places) * (anatomy.lung[side][box] > 0)
    return tight(layer._replace(box=box, alpha=moved))


def _collapsed_places(anatomy: Phantom, lesion: Lesion) -> tuple[list[np.ndarray], tuple[float, ...]]:
    """Per axis of the lung's box: the healthy lung's voxel that is at each place now; and three scales.

    Upright, air gathers above and beside the lung: a small collapse leaves the base on the diaphragm, a large
    one hangs the lung on its hilum. Where the words say so, air gathers below instead, or above alone.
    """
    side, collapse = lesion.side, lesion.within(COLLAPSE)
    box = lung_box(anatomy, side)
    depth, height, across = anatomy.landmarks[f"{side} hilum"] / anatomy.spacing
    dome = _heights(anatomy, side)["dome"] / anatomy.spacing[1]
    height = dome + (height - dome) * 0.6 * float(np.clip((collapse - HANGING) / 0.2, 0, 1))
    beside = 1 - collapse
    if _said(lesion, *_LOW):
        height = box[1].stop - 1
    elif _said(lesion, "apex", "apical", "upper"):
        beside = 1 - 0.6 * collapse
    scales = (1 - 0.6 * collapse, 1 - collapse, beside)
    places = [
        h + (np.arange(b.start, b.stop) - h) / s - b.start
        for b, h, s in zip(box, (depth, height, across), scales, strict=True)
    ]
    return places, scales


def _fluid(anatomy: Phantom, box: Box, level: float, meniscus: tuple[float, float]) -> np.ndarray:
    """float32 of the box's shape in [0, 1]: fluid up to a level (mm of z), higher near the chest wall."""
    rise, depth = meniscus
    z = np.arange(box[1].start, box[1].stop, dtype=np.float32)[None, :, None] * np.float32(anatomy.spacing[1])
    surface = np.float32(level) + np.float32(rise) * np.exp(anatomy.wall[box] * np.float32(-1 / depth))
    return np.clip((surface - z) / np.float32(8) + np.float32(0.5), 0, 1)


def _heights(anatomy: Phantom, side: str) -> dict[str, float]:
    """mm of z: tip of the costophrenic angle, top of the dome, middle of the lung of a frontal film."""
    lung = anatomy.outlines[f"{side} lung"][:, 1]
    dome = anatomy.outlines[f"{side} hemidiaphragm"][:, 1]
    return {
        "angle": float(lung.min()),
        "dome": float(dome.max()),
        "mid lung": float(0.5 * (lung.min() + lung.max())),
    }


def _said(lesion: Lesion, *words: str) -> bool:
    """Whether one of the words stands in the annotated place."""
    return any(word in (lesion.place or "") for word in words)


def _lateral(anatomy: Phantom, side: str, box: Box, reach_mm: float, soft_mm: float) -> np.ndarray:
    """float32 (X,) of a box in [0, 1]: 1 within reach_mm of the lung's outermost place, soft over soft_mm."""
    outlines = anatomy.outlines[f"{side} lung"][:, 2]
    x = np.arange(box[2].start, box[2].stop) * anatomy.spacing[2]
    inwards = x - outlines.min() if side == "right" else outlines.max() - x
    return np.clip((reach_mm - inwards) / soft_mm + 0.5, 0, 1).astype(np.float32)


def _cap(anatomy: Phantom, lesion: Lesion, box: Box) -> np.ndarray:
    """Alpha of an apical cap: under the lung's roof, thinning out downwards, its lower border irregular."""
    lung = anatomy.lung[lesion.side][box]
    step = np.float32(anatomy.spacing[1])
    roof = (lung > 0.5)[:, ::-1].argmax(axis=1)  # voxels from the box's top to the lung, 0 also where none is
    z = np.arange(lung.shape[1])[::-1].astype(np.float32)[None, :, None]  # voxels below the box's top
    below = (z - roof[:, None].astype(np.float32)) * step
    apex = z * step  # mm below the lung's highest point
    knots = np.arange(0, lung.shape[2] + 12, 12)
    rough = [lesion.between(f"rough/{knot}", 0.65, 1.2) for knot in knots]
    thick = lesion.between("size", *CAP_MM) * np.interp(np.arange(lung.shape[2]), knots, rough)
    thick = thick.astype(np.float32) * np.clip((38 - apex) / 20, 0, 1)
    return np.clip((thick - below) / np.float32(2.5) + np.float32(0.5), 0, 1) * (thick > 0)


def _fissure(anatomy: Phantom, lesion: Lesion, box: Box) -> np.ndarray:
    """Alpha of a thick fissure: the minor one where there is one and the words do not mean the major."""
    minor = lesion.side == "right" and not _said(lesion, "major")
    surface = lobes.fissure(anatomy, lesion.side, "minor" if minor else "major")
    off = np.abs(lobes.above(surface, anatomy, box))
    half = np.float32(0.5 * lesion.between("size", *FISSURE_MM))
    alpha = np.clip((half - off) / np.float32(2.5) + np.float32(0.5), 0, 1)
    # The minor fissure ends where the major one begins.
    return alpha * (1 - lobes.share(anatomy, "right", LOBES["right"][-1], box)) if minor else alpha


def _band(anatomy: Phantom, lesion: Lesion, box: Box) -> np.ndarray:
    """Alpha of a band of thick pleura along the lateral wall, from the angle up to the mid lung."""
    heights = anatomy.outlines[f"{lesion.side} lung"][:, 1]
    low, high = heights.min(), heights.max()
    z = np.arange(box[1].start, box[1].stop, dtype=np.float32) * np.float32(anatomy.spacing[1])
    top = low + lesion.between("up", 0.4, 0.65) * (high - low)
    thick = lesion.between("size", *BAND_MM) * np.clip((top - z) / 30, 0, 1).astype(np.float32)[None, :, None]
    alpha = np.clip((thick - anatomy.wall[box]) / np.float32(2) + np.float32(0.5), 0, 1) * (thick > 0)
    return alpha * _lateral(anatomy, lesion.side, box, 45, 20)


# Finding -> its layers. A pneumothorax replaces its whole cavity: scene.LAYERS lays it before anything else
# of that lung, the fluid after it.
LAYERS = {
    "pneumothorax": pneumothorax,
    "pleural thickening": thickening,
    "costophrenic angle blunting": blunting,
    "pleural effusion": effusion,
}
