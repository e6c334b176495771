"""Findings as layers of tissue in the phantom: where, how much, and which density takes its place.

A layer says: inside `box`, a share `alpha` of every voxel becomes density `target`. Layers are laid one over
the other; each knows only the phantom, so the same patient's lesion stays in place on every film. Density is
relative to water: 1 + HU / 1000. Numbers (HU, sizes) are typical of CT, severities are our own steps.
"""

from typing import NamedTuple

import numpy as np

from cxrtrek_lib.simulate.phantom import LOBES, Phantom

FLUID, CONSOLIDATED, MUSCLE, AIR, PLEURA = 1.015, 1.025, 1.045, 0.005, 0.95
_HILUM_DEPTH = 128.0  # mm: y of the hila, towards which a collapsing lung shrinks
_HILA = {"right": (205.0, 138.0), "left": (215.0, 212.0)}  # mm: (z, x)

# (low, high) of the drawn size. Effusion: level of the fluid, 0 = costophrenic angle, 1 = top of the dome,
# 2 = top of the lung: a mild one blunts the angle, a moderate one hides the dome.
EFFUSION_LEVEL = {"mild": (0.35, 0.60), "moderate": (0.95, 1.15), "severe": (1.35, 1.65)}
# Pneumothorax: by how much the lung shrinks towards its hilum.
COLLAPSE = {"mild": (0.13, 0.18), "moderate": (0.24, 0.33), "severe": (0.45, 0.62)}
CONSOLIDATION_RADIUS_MM = {"mild": (22, 28), "moderate": (32, 40), "severe": (46, 60)}
HEART_SCALE = {"mild": (1.13, 1.18), "moderate": (1.22, 1.29), "severe": (1.34, 1.44)}

Box = tuple[slice, slice, slice]


class Layer(NamedTuple):
    """box (y, z, x) slices; alpha float32 in [0, 1], target float32 or a scalar, both of the box's shape."""

    finding: str
    laterality: str | None
    box: Box
    alpha: np.ndarray
    target: np.ndarray | float


def size_within(limits: tuple[float, float], share: float) -> float:
    """The drawn size: `share` (0 to 1) of the way between the limits of a severity."""
    return limits[0] + (limits[1] - limits[0]) * share


def lay(volume: np.ndarray, layer: Layer) -> None:
    """Put one layer into a volume, in place."""
    part = volume[layer.box]
    part += layer.alpha * (layer.target - part)


def without(
    base: np.ndarray, layers: list[Layer], finding: str, laterality: str | None, box: Box
) -> np.ndarray:
    """The volume inside a box with all layers but those of one finding and side: the leave-one-out scene."""
    part = base[box].copy()
    for layer in layers:
        if (layer.finding, layer.laterality) == (finding, laterality):
            continue
        common = tuple(
            slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, layer.box, strict=True)
        )
        if any(s.start >= s.stop for s in common):
            continue
        here = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(common, box, strict=True))
        there = tuple(
            slice(s.start - b.start, s.stop - b.start) for s, b in zip(common, layer.box, strict=True)
        )
        target = layer.target if np.isscalar(layer.target) else layer.target[there]
        part[here] += layer.alpha[there] * (target - part[here])
    return part


def cardiomegaly(phantom: Phantom, scale: float, finding: str = "cardiomegaly") -> Layer:
    """The heart `scale` times as wide and 1 + 0.6 (scale - 1) as high and deep; lung in its way gives place.

    The heart grows about a point right of and above its middle: mostly to the left and downwards.
    """
    box = _box_of(phantom.heart > 0.02)
    centre_mm, scales = heart_growth(phantom, scale)
    centre = centre_mm / phantom.spacing
    grown = tuple(
        slice(max(0, int(c - (c - b.start) * s) - 1), min(n, int(c + (b.stop - c) * s) + 2))
        for b, c, s, n in zip(box, centre, scales, phantom.heart.shape, strict=True)
    )
    places = [
        c + (np.arange(g.start, g.stop) - c) / s - b.start
        for g, b, c, s in zip(grown, box, centre, scales, strict=True)
    ]
    alpha = _resample(phantom.heart[box], places)
    lungs = phantom.lung["left"][grown] + phantom.lung["right"][grown]
    return Layer(finding, None, grown, alpha * lungs, MUSCLE)


def heart_growth(phantom: Phantom, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Fixed point (3,) in mm and scales (3,) along (y, z, x) of a heart that is `scale` times as wide."""
    heart = phantom.outlines["heart"]
    low, high = heart.min(axis=0), heart.max(axis=0)
    along = 1 + 0.6 * (scale - 1)
    return low + (0.5, 0.62, 0.33) * (high - low), np.array([along, along, scale])


def effusion(phantom: Phantom, side: str, level: float) -> Layer:
    """Fluid in one pleural cavity up to `level` (see EFFUSION_LEVEL), higher along the chest wall."""
    lung, box = phantom.lung[side], lung_box(phantom, side)
    outlines = phantom.outlines
    heights = (
        float(outlines[f"{side} costophrenic angle"][:, 1].min()),
        float(outlines[f"{side} hemidiaphragm"][:, 1].max()),
        float(outlines[f"{side} lung"][:, 1].max()),
    )
    z = np.arange(box[1].start, box[1].stop, dtype=np.float32)[None, :, None] * np.float32(phantom.spacing[1])
    # The meniscus: surface tension and the lung's recoil draw the fluid up along the wall.
    surface = np.float32(np.interp(level, (0, 1, 2), heights)) + 26 * np.exp(
        -phantom.wall[box] / np.float32(12)
    )
    alpha = np.clip((surface - z) / 12 + 0.5, 0, 1) * lung[box]
    return _tight(Layer("pleural effusion", side, box, alpha, FLUID))


def pneumothorax(phantom: Phantom, density: np.ndarray, side: str, collapse: float) -> Layer:
    """The lung shrunk by `collapse` towards its hilum, a thin visceral line, air around it.

    density  float32 (Y, Z, X) of the healthy patient. The lung shrinks more from above and from the side
    than from front and back, and hardly from below, as in an upright patient.
    """
    box = lung_box(phantom, side)
    places, scales = _collapsed_places(phantom, side, collapse)
    cavity = phantom.lung[side][box]
    remains = _resample(cavity, places)
    tissue = _resample(density[box] * cavity, places)
    # Less air in the same tissue; the rim of what remains is the visceral pleura.
    shrunk = tissue / np.maximum(remains, 0.05) / np.float32(np.prod(scales) ** 0.8)
    rim = 4 * remains * (1 - remains)
    inside = np.clip(remains, 0, 1)
    target = inside * shrunk + (1 - inside) * np.float32(AIR)
    target += np.float32(0.5) * rim * (PLEURA - target)
    return Layer("pneumothorax", side, box, np.clip(cavity, 0, 1), target)


def collapsed(layer: Layer, phantom: Phantom, collapse: float) -> Layer:
    """A layer of the lung where the lung is after a pneumothorax: it moves and shrinks with its lung."""
    box = lung_box(phantom, layer.laterality)
    whole = np.zeros([b.stop - b.start for b in box], dtype=np.float32)
    common = tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(layer.box, box, strict=True)
    )
    here = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(common, box, strict=True))
    there = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(common, layer.box, strict=True))
    whole[here] = layer.alpha[there]
    places, _ = _collapsed_places(phantom, layer.laterality, collapse)
    moved = _resample(whole, places) * (phantom.lung[layer.laterality][box] > 0)
    return _tight(layer._replace(box=box, alpha=moved))


def _collapsed_places(phantom: Phantom, side: str, collapse: float) -> tuple[list[np.ndarray], tuple]:
    """Per axis of the lung's box: the healthy lung's voxel that is at each place now; and three scales."""
    hilum = np.array([_HILUM_DEPTH, _HILA[side][0] - 35, _HILA[side][1]]) / phantom.spacing
    scales = (1 - 0.6 * collapse, 1 - collapse, 1 - collapse)
    box = lung_box(phantom, side)
    places = [
        h + (np.arange(b.start, b.stop) - h) / s - b.start for b, h, s in zip(box, hilum, scales, strict=True)
    ]
    return places, scales


def consolidation(
    phantom: Phantom, side: str, lobe: str, place: float, radius_mm: float, texture: float
) -> Layer:
    """An airspace opacity about a drawn place of a lobe: a ragged ellipsoid within the lung.

    place in [0, 1) picks one of the lobe's sites; texture in [0, 1) the offset in the noise tile.
    """
    sites = phantom.lobe_sites[lobe]
    centre = sites[int(place * len(sites))]
    extent = radius_mm * np.array([1.35, 1.0, 1.0])  # taller than wide lungs fill along depth
    reach = 1.5 * extent
    box = tuple(
        slice(max(0, int((c - r) / s)), min(n, int((c + r) / s) + 2))
        for c, r, s, n in zip(centre, reach, phantom.spacing, phantom.hu.shape, strict=True)
    )
    axes = [
        ((np.arange(b.start, b.stop) * s - c) / e).astype(np.float32) ** 2
        for b, c, e, s in zip(box, centre, extent, phantom.spacing, strict=True)
    ]
    radius2 = axes[0][:, None, None] + axes[1][:, None] + axes[2]
    start = int(texture * 64)
    noise = phantom.noise[np.ix_(*((np.arange(b.start, b.stop) + start) % 64 for b in box))]
    alpha = np.clip((1.0 - np.sqrt(radius2) + np.float32(0.2) * noise) / np.float32(0.32), 0, 1)
    alpha *= phantom.lung[side][box]
    return _tight(Layer("consolidation", side, box, alpha, np.float32(CONSOLIDATED)))


def lobe_of(side: str, share: float) -> str:
    """The lobe that a draw in [0, 1) picks: lower lobes twice as often as the others."""
    lobes = [*LOBES[side], LOBES[side][-1]]
    return lobes[int(share * len(lobes))]


def lung_box(phantom: Phantom, side: str) -> Box:
    """The smallest box (y, z, x) around one lung."""
    return _box_of(phantom.lung[side] > 0.02)


def _box_of(mask: np.ndarray) -> Box:
    axes = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {i}))) for i in range(3)]
    return tuple(slice(int(a[0]), int(a[-1]) + 1) for a in axes)


def _tight(layer: Layer) -> Layer:
    """The same layer in the smallest box that holds its alpha; an empty layer keeps one voxel."""
    if not layer.alpha.any():
        box = tuple(slice(b.start, b.start + 1) for b in layer.box)
        return layer._replace(box=box, alpha=np.zeros((1, 1, 1), dtype=np.float32))
    inner = _box_of(layer.alpha > 0)
    box = tuple(slice(b.start + i.start, b.start + i.stop) for b, i in zip(layer.box, inner, strict=True))
    return layer._replace(box=box, alpha=np.ascontiguousarray(layer.alpha[inner]))


def _resample(volume: np.ndarray, positions: list[np.ndarray]) -> np.ndarray:
    """Linear interpolation of a volume at separable positions (one float array per axis), zero outside."""
    for axis, position in enumerate(positions):
        n = volume.shape[axis]
        taps = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(n))).astype(np.float32)
        volume = np.moveaxis(np.tensordot(taps, volume, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(volume)
