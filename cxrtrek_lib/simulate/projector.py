"""From a volume to line integrals on a detector, a cone beam as matrix products; and where points fall.

For one slab of the body parallel to the detector a cone beam is a zoom about the central ray, and a zoom
along two axes is one matrix on the left and one on the right. So the whole projection is one product that
interpolates every slab across, and one that interpolates it down and sums over slabs: two sparse matrices
instead of an interpolation for every voxel of every ray. Scale, inspiration, habitus, rotation and tilt only
move the sampling positions, slab by slab: they cost nothing. Rotation and tilt are shears along depth: right
for a parallel beam to first order, wrong by under 0.5 mm at 6 degrees. What one detector position does to all
depths alike (bend, roll, shift) is a warp of the finished projection.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

from cxrtrek_lib.simulate.geometry import Geometry, onto_plane
from cxrtrek_lib.simulate.patient import WAVES

MARGIN = 1.12  # the plane is rendered wider than the film, so that warps find data at its rim


class Taps(NamedTuple):
    """Along one axis, the T voxels from which each of `size` samples is interpolated, slab by slab.

    voxel   int32 (T, D, size)
    weight  float32 (T, D, size)
    """

    voxel: np.ndarray
    weight: np.ndarray


class Weights(NamedTuple):
    """Interpolation on a square plane; D slabs, each of `merge` voxels along the depth.

    down    Taps along z, weights in mm of body times share of the voxel
    across  Taps along the axis across the film, weights in shares
    axes    the volume's axes in the order (depth, z, across)
    """

    down: Taps
    across: Taps
    axes: tuple[int, int, int]
    merge: int


def weights(geo: Geometry, shape: tuple[int, int, int], size: int) -> Weights:
    """The taps of a plane of size x size samples, MARGIN times as wide as the film; row 0 is its top.

    shape  (Y, Z, X) of the volume. Catmull-Rom where the plane is finer than the voxels, the same kernel
    widened where it is coarser.
    """
    height, width = shape[1], shape[geo.axes[2]]
    plane = plane_axis(geo, size) / geo.zoom[:, None]  # (D, size) body mm
    at = np.stack([
        np.interp(row, *_rising(knots, geo.across_knots))
        for row, knots in zip(plane, geo.across_mm, strict=True)
    ]) / geo.spacing[geo.axes[2]]  # fmt: skip
    across = _kernel(at)
    outside = (across.voxel < 0) | (across.voxel >= width)  # of the CT's sides: air
    across = Taps(np.clip(across.voxel, 0, width - 1), np.where(outside, np.float32(0), across.weight))
    at = np.stack([
        np.interp(row, knots, geo.up_knots) for row, knots in zip(-plane, geo.up_mm, strict=True)
    ]) / geo.spacing[1]  # fmt: skip
    down = _kernel(at)  # above and below the CT its last slice goes on
    down = Taps(np.clip(down.voxel, 0, height - 1), down.weight * geo.step[:, None].astype(np.float32))
    return Weights(down, across, geo.axes, geo.merge)


def _rising(position: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots turned round where positions fall: np.interp wants them rising."""
    return (position, value) if position[0] < position[-1] else (position[::-1], value[::-1])


def _kernel(position: np.ndarray) -> Taps:
    """The taps at positions (D, size) in voxels."""
    wide = np.maximum(1, np.abs(np.gradient(position, axis=1))).astype(np.float32)
    reach = int(np.ceil(2 * wide.max()))
    base = np.floor(position)
    offsets = np.arange(1 - reach, reach + 1)[:, None, None]
    far = np.abs((position - base).astype(np.float32) - offsets.astype(np.float32)) / wide
    near = 1 + far * far * (1.5 * far - 2.5)
    weight = np.where(far < 1, near, np.where(far < 2, 2 - far * (4 + far * (0.5 * far - 2.5)), 0))
    return Taps((base.astype(np.int32) + offsets).astype(np.int32), weight / weight.sum(axis=0))


def project(volume: np.ndarray, matrices: Weights) -> np.ndarray:
    """Line integrals float32 (size, size) of a volume (Y, Z, X), in the volume's unit times mm.

    The ray's obliquity (under 1.5 % at the film's corner) is left out.
    """
    return _product(_slabs(volume, matrices, 0), matrices.down, matrices.across)


def project_part(
    part: np.ndarray, matrices: Weights, box: tuple[slice, slice, slice]
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The same for a part of the volume at `box` (y, z, x), air elsewhere: (line integrals, their window).

    The window (slice, slice) of the plane is all that the part can reach.
    """
    depth, height, across = (box[axis] for axis in matrices.axes)
    first = depth.start // matrices.merge
    slabs = _slabs(part, matrices, depth.start - first * matrices.merge)
    here = slice(first, first + len(slabs))
    rows, columns = _reaching(matrices.down, here, height), _reaching(matrices.across, here, across)
    window = tuple(
        slice(reached[0], reached[-1] + 1) if len(reached) else slice(0, 0)
        for reached in (np.flatnonzero(taps.weight.any(axis=(0, 1))) for taps in (rows, columns))
    )
    rows, columns = (
        Taps(taps.voxel[..., side], taps.weight[..., side])
        for taps, side in zip((rows, columns), window, strict=True)
    )
    return _product(slabs, rows, columns), window


def _reaching(taps: Taps, slabs: slice, voxels: slice) -> Taps:
    """The taps of some slabs as they meet a part of the axis: voxels counted from its start, others at 0."""
    voxel = taps.voxel[:, slabs] - voxels.start
    count = voxels.stop - voxels.start
    met = (voxel >= 0) & (voxel < count)
    return Taps(np.clip(voxel, 0, count - 1), np.where(met, taps.weight[:, slabs], np.float32(0)))


def _slabs(volume: np.ndarray, matrices: Weights, offset: int) -> np.ndarray:
    """float32 (D, A, Z): the volume turned to (depth, across, z), sums of `merge` slices.

    offset  slices of air before the first one, so that a part's slabs are those of the whole volume
    """
    axis, merge = matrices.axes[0], matrices.merge
    after = -(offset + volume.shape[axis]) % merge
    if offset or after:
        pad = [(0, 0)] * 3
        pad[axis] = (offset, after)
        volume = np.pad(volume, pad)
    slabs = np.moveaxis(volume, axis, 0)
    while merge > 1:  # neighbours in pairs: an einsum takes twice as long, and its order is the machine's
        slabs, merge = slabs[::2] + slabs[1::2], merge // 2
    return np.ascontiguousarray(slabs if axis == 2 else slabs.transpose(0, 2, 1))


def _product(slabs: np.ndarray, down: Taps, across: Taps) -> np.ndarray:
    """float32 (rows, columns): slabs (D, A, Z) interpolated across, then down, and summed over D.

    Both matrices hold T entries in a row of hundreds: sparse, they take a quarter of the time of dense ones.
    """
    depth, width, height = slabs.shape
    slab = np.arange(depth, dtype=np.int32)[:, None]
    # Across: one row for each slab and column of the plane.
    order = (1, 2, 0)
    matrix = _sparse(
        (across.voxel + slab * width).transpose(order), across.weight.transpose(order), depth * width, 2
    )
    partial = (matrix @ slabs.reshape(depth * width, height)).reshape(depth, -1, height)
    # Down: one row for each row of the plane, all slabs in it.
    order = (2, 1, 0)
    matrix = _sparse(
        (down.voxel + slab * height).transpose(order), down.weight.transpose(order), depth * height, 1
    )
    return matrix @ np.ascontiguousarray(partial.transpose(0, 2, 1)).reshape(depth * height, -1)


def _sparse(voxel: np.ndarray, weight: np.ndarray, width: int, row_axes: int) -> sparse.csr_array:
    """The matrix whose rows are the first `row_axes` axes of its entries; all rows have the same number."""
    rows = int(np.prod(voxel.shape[:row_axes]))
    starts = np.arange(rows + 1, dtype=np.int32) * np.int32(voxel.size // max(rows, 1))
    return sparse.csr_array((weight.ravel(), voxel.ravel(), starts), shape=(rows, width))


def plane_axis(geo: Geometry, size: int) -> np.ndarray:
    """(size,) mm on the detector of the plane's sample centres, from left to right or top to bottom."""
    return (np.arange(size) + 0.5 - size / 2) * (MARGIN * geo.field / size)


def _waves(geo: Geometry, mm: np.ndarray) -> np.ndarray:
    """(N, WAVES) cosines across the film, which carry the bend."""
    first = np.cos(np.pi * (mm / geo.field + 0.5))
    waves = np.ones((len(mm), WAVES))
    waves[:, 1] = first
    for i in range(2, WAVES):  # Chebyshev's recurrence: one cosine instead of WAVES
        waves[:, i] = 2 * first * waves[:, i - 1] - waves[:, i - 2]
    return waves


def warp_targets(geo: Geometry, points: np.ndarray) -> np.ndarray:
    """Positions on the plane (N, 2) (down, right) mm that the film shows at detector positions (N, 2)."""
    down, right = _waves(geo, points[:, 0]), _waves(geo, points[:, 1])
    bend = np.stack([((down @ part) * right).sum(axis=1) for part in geo.bend], axis=1)
    target = points @ geo.turn.T + bend + np.asarray(geo.shift)
    _slide(geo, target.T)
    return target


def _slide(geo: Geometry, target: np.ndarray) -> None:
    """Lateral: what a breath moves more or less than the plane says, in place; target (2, ...) mm."""
    if geo.slide is not None:
        (down, mm), (right, share) = geo.slide
        target[0] += np.interp(target[0], down, mm) * np.interp(target[1], right, share)


def to_film(geo: Geometry, plane: np.ndarray, size: int) -> np.ndarray:
    """Film float32 (size, size) from a plane (P, P): bent, rolled, shifted and cut to the field."""
    axis = (np.arange(size) + 0.5 - size / 2) * (geo.field / size)
    waves = _waves(geo, axis)
    samples = len(plane)
    # `warp_targets` on a grid: the cosines are separable.
    target = np.stack([
        waves @ part @ waves.T + geo.turn[i, 0] * axis[:, None] + geo.turn[i, 1] * axis + geo.shift[i]
        for i, part in enumerate(geo.bend)
    ])  # fmt: skip
    _slide(geo, target)
    target = target / (MARGIN * geo.field / samples) + samples / 2 - 0.5
    return ndimage.map_coordinates(plane, target, order=3, mode="nearest")


def onto_film(geo: Geometry, plane_points: np.ndarray) -> np.ndarray:
    """Inverse warp: detector positions (N, 2) (down, right) mm at which plane positions (N, 2) are shown.

    Begins with linear interpolation between the nodes of a coarse grid, right to a few tenths of a mm.
    """
    nodes, known = _inverse(geo)
    at = np.clip((plane_points - nodes[0]) / (nodes[1] - nodes[0]), 0, len(nodes) - 1 - 1e-9)
    low = at.astype(np.intp)
    f, (i, j) = at - low, low.T
    top = known[i, j] + f[:, 1:] * (known[i, j + 1] - known[i, j])
    bottom = known[i + 1, j] + f[:, 1:] * (known[i + 1, j + 1] - known[i + 1, j])
    beyond = plane_points - (nodes[0] + at * (nodes[1] - nodes[0]))  # 0 but for points outside the grid
    return _refined(geo, plane_points, top + f[:, :1] * (bottom - top) + beyond, 2)


def plane_on_film(geo: Geometry, size: int) -> np.ndarray:
    """(size, size, 2) (down, right) mm: where the film shows every sample of a plane, right to 0.3 mm."""
    nodes, known = _inverse(geo)
    at = (plane_axis(geo, size) - nodes[0]) / (nodes[1] - nodes[0])
    taps = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(nodes))))
    return np.stack([taps @ part @ taps.T for part in known.transpose(2, 0, 1)], axis=-1)


@lru_cache(maxsize=4)  # asked for by regions, quality, evidence and devices of one film
def _inverse(geo: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (M,) mm along the plane's sides, 16 mm apart; where the film shows their grid, (M, M, 2) mm."""
    nodes = np.linspace(-0.5, 0.5, 25) * MARGIN * geo.field
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    # The warp moves by a few mm per 100 mm: each turn shrinks the error about tenfold. A slide is steeper:
    # after 12 turns under 0.00002 mm are left.
    known = _refined(geo, grid, grid, 6 if geo.slide is None else 12)
    return nodes, known.reshape(len(nodes), len(nodes), 2)


def _refined(geo: Geometry, plane_points: np.ndarray, guess: np.ndarray, turns: int) -> np.ndarray:
    for _ in range(turns):
        guess = guess + plane_points - warp_targets(geo, guess)
    return guess


def percent(geo: Geometry, film_points: np.ndarray) -> np.ndarray:
    """Detector positions (..., 2) (down, right) mm -> (..., 2) (x, y) percent of the film, not clipped."""
    return 100 * (film_points[..., ::-1] / geo.field + 0.5)


def place(geo: Geometry, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name: (N, 2) (x, y) percent of the film, not clipped} of phantom positions {name: (N, 3) mm}."""
    on_plane = onto_plane(geo, np.concatenate(list(parts.values())))
    placed = percent(geo, onto_film(geo, on_plane))  # all at once: the inverse warp is set up once
    ends = np.cumsum([len(points) for points in parts.values()])[:-1]
    return dict(zip(parts, np.split(placed, ends), strict=True))
