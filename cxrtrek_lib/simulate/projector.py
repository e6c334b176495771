"""From a volume to line integrals on a detector, a cone beam as matrix products; and where points fall.

For one depth slice a cone beam is a zoom about the central ray, and a zoom along two axes is one matrix on
the left and one on the right. So the whole projection is one batched product over depths (rows kept apart)
and one large product that also sums them: two GEMMs instead of millions of interpolations. Scale,
inspiration, habitus, rotation and tilt only move the sampling positions: they cost nothing. Rotation and
tilt are shears along depth: right for a parallel beam to first order, wrong by under 0.5 mm at 6 degrees.
What one detector position does to all depths alike (bend, roll, shift) is a warp of the finished projection.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cxrtrek_lib.simulate.patient import WAVES, Acquisition, Body

MARGIN = 1.12  # the plane is rendered wider than the film, so that warps find data at its rim
_MIDDLE_Y, _MIDDLE_X, _APEX_Z = (
    125.0,
    180.0,
    312.0,
)  # mm in the phantom: middle of the chest, top of the lungs
_APEX_AT = 0.07  # share of the film above the lungs: the CT ends about as far above them
_HALF_CHEST = 132.0  # mm from the midline to the outer side of the ribs
_HALF_MEDIASTINUM = 55.0
_LUNG_BASE, _LUNG_TOP = 70.0, 320.0  # mm of z between which inspiration stretches
_FAR = 500.0


class Geometry(NamedTuple):
    """Where voxels of one patient fall on one film's plane; all lengths in mm.

    x_knots, z_knots  (2, K): phantom coordinate (row 0) -> body coordinate (row 1), linear between knots
    zoom     (Y,) magnification of each depth slice
    yaw, pitch  (Y,) shear of each depth slice along x and z
    field    mm, side of the film on the detector
    step     mm of body per depth slice
    spacing  (3,) mm per voxel of the phantom
    bend     (2, WAVES, WAVES), roll (degrees), shift (2,): the warp of the plane
    """

    x_knots: np.ndarray
    z_knots: np.ndarray
    zoom: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    field: float
    step: float
    spacing: np.ndarray
    bend: np.ndarray
    roll: float
    shift: tuple[float, float]


def geometry(body: Body, shot: Acquisition, shape: tuple[int, int, int], spacing: np.ndarray) -> Geometry:
    """The geometry of one film. shape (Y, Z, X) and spacing are the phantom's."""
    # x: mediastinum, lungs and flanks have scales of their own; the outer knots lie far outside the body.
    x_phantom = _MIDDLE_X + np.array(
        [-_FAR, -_HALF_CHEST, -_HALF_MEDIASTINUM, _HALF_MEDIASTINUM, _HALF_CHEST, _FAR]
    )
    inner, outer = _HALF_MEDIASTINUM * body.mediastinum, _HALF_CHEST + (_FAR - _HALF_CHEST) * body.flank
    x_body = body.width * np.array([-outer, -_HALF_CHEST, -inner, inner, _HALF_CHEST, outer])
    # z: breathing in stretches the lungs downwards; apices and what lies below the lungs keep their size.
    z_phantom = np.array([_LUNG_BASE - _FAR, _LUNG_BASE, _LUNG_TOP, _LUNG_TOP + _FAR])
    lowest = _LUNG_TOP - (_LUNG_TOP - _LUNG_BASE) * shot.inspiration
    z_body = body.height * np.array([lowest - _FAR, lowest, _LUNG_TOP, _LUNG_TOP + _FAR])
    y = (np.arange(shape[0]) * spacing[0] - _MIDDLE_Y) * body.depth
    # The detector touches the body: the front of the chest in PA, the back in AP.
    reach = 0.5 * shape[0] * spacing[0] * body.depth + 15
    source = shot.source_mm - reach  # source to the middle of the chest
    # The film is placed by the apices, as a radiographer does, and collimated where a small body's CT ends.
    below = body.height * (_APEX_Z + _LUNG_BASE - lowest) * shot.source_mm / source
    field = min(shot.field_mm, below / (1 - _APEX_AT))
    z_body += field * (0.5 - _APEX_AT) * source / shot.source_mm - body.height * _APEX_Z
    away = y if shot.view == "PA" else -y
    return Geometry(
        x_knots=np.stack([x_phantom, x_body]),
        z_knots=np.stack([z_phantom, z_body]),
        zoom=shot.source_mm / (source + away),
        yaw=np.tan(np.radians(shot.rotation)) * y,
        pitch=np.tan(np.radians(shot.tilt)) * y,
        field=field,
        step=float(spacing[0] * body.depth),
        spacing=spacing,
        bend=body.bend,
        roll=shot.roll,
        shift=shot.shift,
    )


def weights(geo: Geometry, shape: tuple[int, int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolation matrices of a plane of size x size samples, MARGIN times as wide as the film.

    Returns rows float32 (size, Y, Z) and columns float32 (Y, X, size). Row 0 is the top of the film.
    Catmull-Rom where the plane is finer than the voxels, the same kernel widened where it is coarser.
    """
    depth, height, width = shape
    plane = plane_axis(geo, size)
    across = plane / geo.zoom[:, None] - geo.yaw[:, None]  # (Y, size) body mm
    down = -plane / geo.zoom[:, None] - geo.pitch[:, None]
    x = np.interp(across, geo.x_knots[1], geo.x_knots[0]) / geo.spacing[2]
    z = np.interp(down, geo.z_knots[1], geo.z_knots[0]) / geo.spacing[1]
    columns = np.zeros((depth, width, size), dtype=np.float32)
    rows = np.zeros((size, depth, height), dtype=np.float32)
    y, j = np.arange(depth)[:, None], np.arange(size)
    for tap, weight in _kernel(x):  # outside the CT's sides: air
        weight[(tap < 0) | (tap >= width)] = 0
        columns.ravel()[(y * width + np.clip(tap, 0, width - 1)) * size + j] += weight
    for tap, weight in _kernel(z):  # above and below the CT: its last slice goes on
        rows.ravel()[(j * depth + y) * height + np.clip(tap, 0, height - 1)] += weight
    return rows, columns


def _kernel(position: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(voxel int, weight float32), both (Y, size), of every tap at positions (Y, size) in voxels."""
    wide = max(1.0, float(np.abs(np.diff(position, axis=1)).max()))
    reach = int(np.ceil(2 * wide))
    base = np.floor(position)
    part = (position - base).astype(np.float32)
    base = base.astype(np.intp)
    taps, total = [], np.zeros_like(part)
    for offset in range(1 - reach, reach + 1):
        far = np.abs(part - np.float32(offset)) / np.float32(wide)
        near = 1 + far * far * (1.5 * far - 2.5)
        weight = np.where(far < 1, near, np.where(far < 2, 2 - far * (4 + far * (0.5 * far - 2.5)), 0))
        taps.append((base + offset, weight))
        total += weight
    return [(voxel, weight / total) for voxel, weight in taps]


def plane_axis(geo: Geometry, size: int) -> np.ndarray:
    """(size,) mm on the detector of the plane's sample centres, from left to right or top to bottom."""
    return (np.arange(size) + 0.5 - size / 2) * (MARGIN * geo.field / size)


def project(volume: np.ndarray, rows: np.ndarray, columns: np.ndarray, step: float) -> np.ndarray:
    """Line integrals float32 (rows, columns) of a volume (Y, Z, X), in the volume's unit times mm.

    The volume may be a crop when the matrices are cropped alike (`crop`). The ray's obliquity (under 1.5 %
    at the film's corner) is left out.
    """
    size, depth, height = rows.shape
    partial = np.matmul(volume, columns)  # (Y, Z, size)
    return (rows.reshape(size, depth * height) @ partial.reshape(depth * height, -1)) * np.float32(step)


def crop(rows: np.ndarray, columns: np.ndarray, box: tuple[slice, slice, slice]) -> tuple:
    """The matrices for a crop of the volume, and the window (slice, slice) of the plane that it can reach."""
    y, z, x = box
    rows, columns = rows[:, y, z], columns[y, x]
    down = np.flatnonzero(rows.any(axis=(1, 2)))
    right = np.flatnonzero(columns.any(axis=(0, 1)))
    if not len(down) or not len(right):
        return rows[:0], columns[..., :0], (slice(0, 0), slice(0, 0))
    window = slice(down[0], down[-1] + 1), slice(right[0], right[-1] + 1)
    return rows[window[0]], columns[..., window[1]], window


def _waves(geo: Geometry, mm: np.ndarray) -> np.ndarray:
    """(N, WAVES) cosines across the film, which carry the bend."""
    return np.cos(np.pi * (mm[:, None] / geo.field + 0.5) * np.arange(WAVES))


def warp_targets(geo: Geometry, points: np.ndarray) -> np.ndarray:
    """Positions on the plane (N, 2) (down, right) mm that the film shows at detector positions (N, 2)."""
    down, right = _waves(geo, points[:, 0]), _waves(geo, points[:, 1])
    bend = np.stack([((down @ part) * right).sum(axis=1) for part in geo.bend], axis=1)
    return points @ _turn(geo).T + bend + np.asarray(geo.shift)


def _turn(geo: Geometry) -> np.ndarray:
    angle = np.radians(geo.roll)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def to_film(geo: Geometry, plane: np.ndarray, size: int) -> np.ndarray:
    """Film float32 (size, size) from a plane (P, P): bent, rolled, shifted and cut to the field."""
    axis = (np.arange(size) + 0.5 - size / 2) * (geo.field / size)
    waves = _waves(geo, axis)
    turn = _turn(geo)
    samples = len(plane)
    # `warp_targets` on a grid: the cosines are separable.
    target = np.stack([
        waves @ part @ waves.T + turn[i, 0] * axis[:, None] + turn[i, 1] * axis + geo.shift[i]
        for i, part in enumerate(geo.bend)
    ])  # fmt: skip
    target = target / (MARGIN * geo.field / samples) + samples / 2 - 0.5
    return ndimage.map_coordinates(plane, target, order=3, mode="nearest")


def onto_film(geo: Geometry, plane_points: np.ndarray) -> np.ndarray:
    """Inverse warp: detector positions (N, 2) (down, right) mm at which plane positions (N, 2) are shown."""
    points = plane_points.copy()
    for _ in range(6):  # the warp moves by a few mm per 100 mm: each turn shrinks the error about tenfold
        points += plane_points - warp_targets(geo, points)
    return points


def plane_on_film(geo: Geometry, size: int) -> np.ndarray:
    """(size, size, 2) (down, right) mm: `onto_film` of every sample of a plane, from a coarse grid of them.

    The warp is smooth: linear interpolation between points 18 mm apart is right to 0.1 mm.
    """
    half = 0.5 * MARGIN * geo.field
    coarse = np.linspace(-half, half, 22)
    known = onto_film(geo, np.stack(np.meshgrid(coarse, coarse, indexing="ij"), axis=-1).reshape(-1, 2))
    at = (plane_axis(geo, size) + half) / (coarse[1] - coarse[0])
    taps = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(coarse))))
    return np.stack([taps @ part @ taps.T for part in known.reshape(22, 22, 2).transpose(2, 0, 1)], axis=-1)


def onto_plane(geo: Geometry, points: np.ndarray) -> np.ndarray:
    """Plane positions (N, 2) (down, right) mm of phantom positions (N, 3) (y, z, x) mm."""
    y, z, x = points.T.astype(np.float64)
    slices = np.arange(len(geo.zoom)) * geo.spacing[0]
    zoom, yaw, pitch = (np.interp(y, slices, values) for values in (geo.zoom, geo.yaw, geo.pitch))
    across = (np.interp(x, *geo.x_knots) + yaw) * zoom
    up = (np.interp(z, *geo.z_knots) + pitch) * zoom
    return np.stack([-up, across], axis=1)


def percent(geo: Geometry, film_points: np.ndarray) -> np.ndarray:
    """Detector positions (..., 2) (down, right) mm -> (..., 2) (x, y) percent of the film, not clipped."""
    return 100 * (film_points[..., ::-1] / geo.field + 0.5)
