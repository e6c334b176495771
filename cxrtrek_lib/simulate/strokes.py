"""Devices drawn analytically: thin metal keeps its sharpness and its mass at every film size.

No voxel carries a device: a wire of 1 mm would vanish in voxels of 2 mm. Its shadow is laid on the film's
pixels directly, in any view, and sums to what a film of infinitely many pixels would show.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.spatial import ConvexHull

from cxrtrek_lib.simulate.geometry import Geometry, onto_plane
from cxrtrek_lib.simulate.projector import onto_film

_ALONG, _ACROSS = 0.25, 0.33  # pixels between the samples of a line
_OVERSAMPLE = 4
CLEAR_MM = 20.0  # mm of water: denser parts are no clearer, so they count no more when a device is boxed
_MOST_SLANT = 4.0  # a line along the beam is denser, but never more than this: it has bends and an end


class Stroke(NamedTuple):
    """One part of a device: a solid or hollow line, or a convex body.

    points    float (N, 3), (y, z, x) mm in the phantom: along the middle of the line; or on the body's hull
    width_mm  outer diameter as the film shows it; None: a body
    density   attenuation relative to water: mm of water per mm of material
    bore_mm   inner diameter of a tube, 0 for a solid line
    """

    points: np.ndarray
    width_mm: float | None
    density: float
    bore_mm: float = 0.0


def smooth(knots: np.ndarray, step_mm: float = 2.0) -> np.ndarray:
    """A smooth curve (N, 3) through knots (K, 3), about `step_mm` between points: natural cubic spline."""
    knots = np.asarray(knots, dtype=np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    places = np.linspace(0, along[-1], max(2, round(along[-1] / step_mm) + 1))
    return CubicSpline(along, knots, bc_type="natural")(places)


def draw(strokes: list[Stroke], geo: Geometry, size: int) -> np.ndarray:
    """Extra attenuation float32 (size, size), mm of water, of the parts of one device.

    Its sum times the area of a pixel is, for a line on the film, length x cross-section x density. What lies
    outside the film is cut off.
    """
    points = np.concatenate([stroke.points for stroke in strokes]).astype(np.float64)
    per_mm = size / geo.field
    ends = np.cumsum([len(stroke.points) for stroke in strokes])[:-1]
    on_film = np.split(onto_film(geo, onto_plane(geo, points)) * per_mm + (size - 1) / 2, ends)
    slant = np.split(_slant(geo, points, ends), ends)
    water, laid = np.zeros((size, size)), []
    for stroke, pixels, denser in zip(strokes, on_film, slant, strict=True):
        if stroke.width_mm is None:
            water += _body(pixels, stroke, per_mm, size)
        else:
            laid.append(_line(pixels, denser, stroke, per_mm))
    if laid:
        water += _splat(*(np.concatenate(part) for part in zip(*laid, strict=True)), size)
    return water.astype(np.float32)


def _slant(geo: Geometry, points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How much denser (N,) a line through `points` looks than across the beam: 1 / sine of their angle.

    ends  where the next line begins. The beam's direction at a point is the one that moves it nowhere on the
    film, so this holds in any view.
    """
    home = onto_plane(geo, points)
    moves = np.stack([onto_plane(geo, points + step) - home for step in np.eye(3)], axis=-1)  # (N, 2, 3)
    beam = np.cross(moves[:, 0], moves[:, 1])
    beam /= np.linalg.norm(beam, axis=1, keepdims=True)
    course = np.concatenate([np.gradient(part, axis=0) for part in np.split(points, ends)])
    course /= np.maximum(np.linalg.norm(course, axis=1, keepdims=True), 1e-9)
    sine = np.sqrt(np.maximum(1 - (beam * course).sum(axis=1) ** 2, 0))
    return 1 / np.maximum(sine, 1 / _MOST_SLANT)


def _line(pixels: np.ndarray, slant: np.ndarray, stroke: Stroke, per_mm: float) -> tuple:
    """Samples of a line or tube along `pixels` (N, 2) (row, column): places (M, 2) and mm of water (M,)."""
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(pixels, axis=0), axis=1))])
    n = max(1, int(np.ceil(lengths[-1] / _ALONG)))
    at = (np.arange(n) + 0.5) * (lengths[-1] / n)
    middle = np.stack([np.interp(at, lengths, part) for part in pixels.T], axis=1)
    course = np.gradient(pixels, axis=0)
    across = np.stack([-np.interp(at, lengths, course[:, 1]), np.interp(at, lengths, course[:, 0])], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    radius = stroke.width_mm / 2
    edges = np.linspace(-radius, radius, max(1, int(np.ceil(2 * radius * per_mm / _ACROSS))) + 1)
    area = np.diff(_chords(edges, radius) - _chords(edges, stroke.bore_mm / 2))  # mm^2 of material each
    offsets = 0.5 * (edges[1:] + edges[:-1]) * per_mm
    places = middle[:, None] + offsets[:, None] * across[:, None]
    # mm of water = density x mm^2 of material x length / area, lengths in pixels and area in pixels^2
    weights = stroke.density * per_mm * (lengths[-1] / n) * np.interp(at, lengths, slant)[:, None] * area
    return places.reshape(-1, 2), weights.ravel()


def _chords(at: np.ndarray, radius: float) -> np.ndarray:
    """Area (mm^2) of a disc of `radius` from its left rim to each place `at`."""
    if radius <= 0:
        return np.zeros_like(at)
    x = np.clip(at / radius, -1, 1)
    return radius**2 * (x * np.sqrt(1 - x**2) + np.arcsin(x) + np.pi / 2)


def _splat(places: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Film (size, size): `weights` (M,) at `places` (M, 2), each shared linearly by the 4 pixels around."""
    film = np.zeros(size * size)
    corner = np.floor(places).astype(np.intp)
    part = places - corner
    for down in (0, 1):
        for right in (0, 1):
            row, column = corner[:, 0] + down, corner[:, 1] + right
            share = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1]) * weights
            inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
            film += np.bincount((row * size + column)[inside], share[inside], size * size)
    return film.reshape(size, size)


def _body(pixels: np.ndarray, stroke: Stroke, per_mm: float, size: int) -> np.ndarray:
    """Film (size, size) of a convex body, its mass spread evenly over its shadow."""
    hull = ConvexHull(pixels)
    # Pixel centres have whole coordinates here; PIL's pixel k covers k to k + 1 of its own.
    corners = (pixels[hull.vertices, ::-1] + 0.5) * _OVERSAMPLE - 0.5
    canvas = Image.new("L", (size * _OVERSAMPLE,) * 2)
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    covered = np.asarray(canvas.reduce(_OVERSAMPLE), dtype=np.float64) / 255
    volume, shadow = ConvexHull(stroke.points).volume, hull.volume / per_mm**2
    return stroke.density * volume / shadow * covered
