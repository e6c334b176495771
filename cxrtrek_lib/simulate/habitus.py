"""A patient's own tissue: the phantom's densities with the body's gains, and what the CT lacks, drawn."""

import numpy as np

from cxrtrek_lib.simulate import clavicles, heart, layers, phantom
from cxrtrek_lib.simulate.geometry import Geometry
from cxrtrek_lib.simulate.patient import Body
from cxrtrek_lib.simulate.phantom import Phantom
from cxrtrek_lib.simulate.projector import plane_axis

_MIDDLE_X, _BREAST_X = 180.0, 74.0  # mm in the phantom: midline, from there to the nipple
_CHEST_FRONT = 112.0  # mm from the chest's middle to its front
_CHEST_RADIUS = 150.0  # mm, curvature of the chest's front within an axial slice


def tissue(anatomy: Phantom, body: Body) -> np.ndarray:
    """Density relative to water, float32 (Y, Z, X), of one healthy patient: bone, lung and heart scaled."""
    soft, bone, air, vessels = phantom.densities(anatomy)
    volume = soft + np.float32(body.bone - 1) * bone
    # From the lungs' base to their apices the gain goes from one value to the other.
    heights = np.arange(anatomy.hu.shape[1]) * anatomy.spacing[1]
    ends = [
        float(bound(anatomy.outlines[f"{side} lung"][:, 1]))
        for bound, side in ((np.min, "left"), (np.max, "right"))
    ]
    gain = np.interp(heights, ends, body.lung).astype(np.float32)[:, None]
    volume += (gain - 1) * air
    volume += gain * np.float32(body.vessels - 1) * vessels
    if body.heart > 1:
        layers.lay(volume, heart.larger(anatomy, body.heart, "normal heart"))
    return volume


def drawn(anatomy: Phantom, body: Body, geo: Geometry, samples: int) -> np.ndarray:
    """What the volume lacks, drawn on the plane (samples, samples), mm of water: breasts and clavicles."""
    plane = np.zeros((samples, samples), dtype=np.float32) + breasts(body, geo, samples)
    for side in ("left", "right"):
        plane += body.bone * clavicles.draw(anatomy.centrelines[f"{side} clavicle"], geo, samples)
    return plane


def breasts(body: Body, geo: Geometry, samples: int) -> np.ndarray:
    """Thickness (samples, samples), mm of water, of both breasts: crisp below, thinner upwards; 0 for men.

    The same two domes on the chest's front, seen from the front or, on a lateral film, from the side, one
    behind the other.
    """
    edge, radius, thickness = body.breast
    if not thickness:
        return np.zeros((1, 1), dtype=np.float32)
    slab = len(geo.zoom) // 2 if geo.lateral else len(geo.zoom) - 1
    axis = plane_axis(geo, samples) / geo.zoom[slab]
    # -1 at the lower edge, 1 at the upper rim; the upper half thins out over twice the height.
    up = (-axis[:, None] - np.interp(edge, geo.up_knots, geo.up_mm[slab])) / radius - 1
    tall = np.where(up < 0, up, 0.55 * up) ** 2
    out = np.zeros((samples, samples), dtype=np.float32)
    if geo.lateral:
        near = np.flatnonzero(-axis > 0.4 * _CHEST_FRONT)  # columns in front of the chest's middle
        forward = (-axis[near] - _CHEST_FRONT * body.depth).astype(np.float32)
        step = radius / 8
        for off in np.arange(-9.0, 10.0) * step:  # sagittal slices of one breast, on a wall that curves away
            wall = -((_BREAST_X + off) ** 2) / (2 * _CHEST_RADIUS)
            front = wall + thickness * np.clip(1 - tall - (off / (1.1 * radius)) ** 2, 0, None) ** 0.7
            slice_ = np.clip((front - forward) / 3 + 0.5, 0, 1) * np.clip((forward - wall) / 12 + 0.5, 0, 1)
            out[:, near] += np.where(front > wall, 2 * step * slice_, 0).astype(np.float32)
        return out
    for sign in (-1, 1):
        nipple = np.interp(_MIDDLE_X + sign * _BREAST_X, geo.across_knots, geo.across_mm[slab])
        profile = np.clip(1 - tall - ((axis - nipple) / (1.1 * radius)) ** 2, 0, None)
        out += (thickness * profile**0.7).astype(np.float32)
    return out
