"""Clavicles of hanging arms, drawn analytically in place of those of the CT, whose patient raised them.

The CT's clavicles are steep and cut by its upper end. They are taken out (ct.py); these begin at the same
joints with the sternum and run as in a patient who stands with the arms down: outwards, backwards, a little
up, in an S (Gray's Anatomy). The scapulae stay where raised arms put them, beside the lungs.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from cxrtrek_lib.simulate.geometry import Geometry, onto_plane
from cxrtrek_lib.simulate.projector import plane_axis

# About 150 mm from joint to joint (Bernat et al. 2014, Clinical Anatomy); thickness as in this CT. All in mm.
OUT_MM, BACK_MM, UP_MM, BOW_MM = 135.0, 62.0, 14.0, 9.0
SHARES = (0.0, 0.05, 0.12, 0.22, 0.55, 0.8, 0.92, 1.0)  # of the way outwards, at which:
RADIUS_MM = (9.5, 10.5, 9.5, 7.0, 6.0, 7.5, 8.5, 8.0)
CORTEX_MM = (0.6, 0.8, 1.2, 1.8, 2.2, 1.4, 0.9, 0.6)
DENSITY = (0.2, 0.6, 1.0, 1.0, 1.0, 0.9, 0.6, 0.0)  # the ends are seen end on, among other bones
COMPACT, SPONGY = 0.90, 0.20  # density above soft tissue's, relative to water: 950 HU and 250 HU
BLUR_MM = 0.9  # so that the drawn bone is no sharper than the CT's
POINTS = 49


def course(joint: np.ndarray, side: str) -> np.ndarray:
    """float32 (POINTS, 3) (y, z, x) mm: a clavicle's middle line, outwards from its inner joint (3,)."""
    t = np.linspace(0, 1, POINTS)
    forward = -BACK_MM * t + BOW_MM * np.sin(2 * np.pi * t)  # convex to the front, then to the back
    up = UP_MM * t + 3 * np.sin(np.pi * t)
    out = OUT_MM * t * (1 if side == "left" else -1)
    return (joint + np.stack([forward, up, out], axis=1)).astype(np.float32)


def outline(line: np.ndarray) -> np.ndarray:
    """float32 (N, 3) mm: points around a clavicle's course, at its radius along y and z."""
    radius = np.interp(np.linspace(0, 1, len(line)), SHARES, RADIUS_MM)[:, None]
    around = [line + radius * np.array(way) for way in ((0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0))]
    return np.concatenate(around).astype(np.float32)


def draw(line: np.ndarray, geo: Geometry, samples: int) -> np.ndarray:
    """Attenuation float32 (samples, samples) above soft tissue's, mm of water, of one clavicle on the plane.

    line  (N, 3) mm, its course in the phantom. A tube of compact around spongy bone; where it runs along the
    beam, rays stay in it for longer.
    """
    share = np.linspace(0, 1, len(line))
    radius, cortex = np.interp(share, SHARES, RADIUS_MM), np.interp(share, SHARES, CORTEX_MM)
    where = onto_plane(geo, line)
    zoom = np.interp(line[:, geo.axes[0]], geo.depth_mm, geo.zoom)
    out = np.zeros((samples, samples), dtype=np.float32)
    axis = plane_axis(geo, samples)
    reach = (radius * zoom).max() + 4 * BLUR_MM
    rows, columns = (
        np.flatnonzero((axis > where[:, i].min() - reach) & (axis < where[:, i].max() + reach))
        for i in (0, 1)
    )
    if not len(rows) or not len(columns):
        return out
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pixels = np.stack(np.meshgrid(axis[box[0]], axis[box[1]], indexing="ij"), axis=-1).reshape(-1, 2)
    far, nearest = cKDTree(where).query(pixels, distance_upper_bound=reach)
    near = np.isfinite(far)
    pixels, nearest = pixels[near], nearest[near]
    # The nearest place of the course lies on one of the two pieces that meet in its nearest point.
    distance, at = np.full(len(pixels), np.inf), np.zeros(len(pixels))
    for step in (-1, 0):
        i = np.clip(nearest + step, 0, len(where) - 2)
        piece = (where[1:] - where[:-1])[i]
        along = ((pixels - where[i]) * piece).sum(axis=1) / np.maximum((piece**2).sum(axis=1), 1e-6)
        along = np.clip(along, 0, 1)
        gap = np.hypot(*(pixels - where[i] - along[:, None] * piece).T)
        closer = gap < distance
        distance[closer], at[closer] = gap[closer], (i + along)[closer]
    seen = np.linalg.norm(np.gradient(where / zoom[:, None], axis=0), axis=1)
    depth = geo.axes[0]
    along_beam = np.gradient(line[:, depth].astype(np.float64)) * geo.step.mean() / geo.spacing[depth]
    index = np.arange(len(line))
    gain = np.interp(share, SHARES, DENSITY) * np.minimum(
        np.hypot(seen, along_beam) / np.maximum(seen, 1e-3), 5
    )
    outer, wall, scale, weight = (np.interp(at, index, values) for values in (radius, cortex, zoom, gain))
    off = distance / scale
    whole, inside = (2 * np.sqrt(np.clip(r**2 - off**2, 0, None)) for r in (outer, outer - wall))
    water = np.zeros(len(near), dtype=np.float32)
    water[near] = weight * (COMPACT * (whole - inside) + SPONGY * inside)
    blur = BLUR_MM * zoom.mean() / (axis[1] - axis[0])
    out[box] = ndimage.gaussian_filter(water.reshape(len(rows), len(columns)), blur, mode="nearest")
    return out
