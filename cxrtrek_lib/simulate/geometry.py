"""Where a patient's voxels fall on a film's plane, frontal or lateral, slab by slab along the depth."""

from dataclasses import dataclass

import numpy as np

from cxrtrek_lib.simulate.acquisition import Acquisition
from cxrtrek_lib.simulate.patient import Body

# The phantom's own measures, mm of its axes.
_MIDDLE_Y, _MIDDLE_X, _APEX_Z = 125.0, 180.0, 312.0  # middle of the chest; top of the lungs
_HALF_CHEST, _HALF_MEDIASTINUM = 132.0, 55.0  # from the midline to the outer side of the ribs, to the hila
_BACK, _FRONT = 25.0, 238.0  # y between which the chest lies: outside, soft tissue of the wall
_LUNG_BASE, _LUNG_MIDDLE, _LUNG_TOP = 70.0, 195.0, 320.0  # z between which the lungs stretch
_SPINE_Y, _HEART_Y = 80.0, 120.0  # y up to which all moves with the spine, from which with the heart
_FIXED_Y, _MOVED_Y = 40.0, 160.0  # y up to which a breath moves nothing, from which all that it moves
_LOWER_SHARE = 1.5  # the lungs' lower half takes three quarters of a breath, the upper half one
_FAR = 500.0
_CHASSIS_MM = 15.0  # from the skin to the detector's sensitive layer
# Voxels of depth summed into a slab of one magnification, 4 or 6 mm deep: wrong by 0.2 mm at the film's rim.
_MERGE = {"frontal": 2, "lateral": 4}


@dataclass(frozen=True, eq=False)  # each is itself alone: projector keeps what it works out for one
class Geometry:
    """Where voxels of one patient fall on one film's plane; lengths in mm. D slabs along the depth.

    lateral   bool
    axes      the volume's axes in the order (depth, z, across): (0, 1, 2) frontal, (2, 1, 0) lateral
    merge     voxels per slab
    depth_mm  (D,) phantom's coordinate of each slab's middle
    zoom      (D,) magnification of each slab
    step      (D,) mm of body per voxel of depth
    across_knots (K,), across_mm (D, K)  phantom coordinate -> body coordinate to the film's right, at knots
    up_knots (L,), up_mm (D, L)  the same along z, upwards
    field     side of the film on the detector
    spacing   (3,) mm per voxel of the phantom
    bend      (2, WAVES, WAVES), turn (2, 2), shift (2,): the warp of the plane
    slide     lateral: (down, mm) and (right, share) knots of a further warp, see `geometry`; else None
    """

    lateral: bool
    axes: tuple[int, int, int]
    merge: int
    depth_mm: np.ndarray
    zoom: np.ndarray
    step: np.ndarray
    across_knots: np.ndarray
    across_mm: np.ndarray
    up_knots: np.ndarray
    up_mm: np.ndarray
    field: float
    spacing: np.ndarray
    bend: np.ndarray
    turn: np.ndarray
    shift: tuple[float, float]
    slide: tuple[np.ndarray, np.ndarray] | None


def geometry(body: Body, shot: Acquisition, shape: tuple[int, int, int], spacing: np.ndarray) -> Geometry:
    """The geometry of one film. shape (Y, Z, X) and spacing are the phantom's.

    On a lateral film the patient faces the image's left: across runs from front to back. How far a breath
    moves a place depends on its y (the dome moves, the spine and the ribs' posterior arcs do not). A frontal
    film has that slab by slab; on a lateral film y lies in the plane, so there the plane is made for the
    half of the movement and warped where y moves more or less (`slide`).
    """
    lateral = shot.view == "LATERAL"
    axes, merge = ((2, 1, 0), _MERGE["lateral"]) if lateral else ((0, 1, 2), _MERGE["frontal"])
    axis = axes[0]
    count = -(-shape[axis] // merge)
    depth_mm = (np.arange(count) * merge + 0.5 * (merge - 1)) * spacing[axis]
    if lateral:
        knots = _x_body(body, np.array([_HEART_Y]))
        depth = np.interp(depth_mm, knots[0], knots[1][0])
        ends = np.interp((np.arange(count + 1) * merge - 0.5) * spacing[axis], knots[0], knots[1][0])
        nearest = depth[-1]  # the left side touches the detector
        toward = depth
        share = np.full(count, 0.5)
        across_knots, across_mm = _y_body(body)
        across_mm = np.tile(-across_mm, (count, 1))
    else:
        knots = _y_body(body)
        depth = np.interp(depth_mm, *knots)
        ends = np.interp((np.arange(count + 1) * merge - 0.5) * spacing[axis], *knots)
        toward = depth if shot.view == "PA" else -depth
        nearest = toward.max()
        share = _breath_share(depth_mm)
        across_knots, across_mm = _x_body(body, depth_mm)
    source = shot.source_mm - nearest - _CHASSIS_MM  # from the source to the middle of the chest
    zoom = shot.source_mm / (source + toward)
    middle = shot.source_mm / source
    up_knots, up_mm = _z_body(body, shot.inspiration, share)

    # The film is placed by the apices, as a radiographer does, and collimated where a small body's CT ends.
    extremes = _z_body(body, shot.inspiration, np.array([0.0, 1.0]))[1]
    apex = np.interp(_APEX_Z, up_knots, extremes[0])
    below = min(apex - np.interp(0.0, up_knots, row) for row in extremes) * middle
    field = min(shot.field_mm, below + shot.above)
    edges = {
        side: np.interp(_MIDDLE_X + sign * _HALF_CHEST, across_knots, across_mm[count // 2]) * middle
        for side, sign in (("left", 1), ("right", -1))
    }
    if shot.cut:  # collimated to the chest's width, and the patient stands aside of it
        field = min(field, 1.04 * (edges["left"] - edges["right"]))
    up_mm = up_mm + (0.5 * field - shot.above) / middle - apex
    extremes = extremes + (0.5 * field - shot.above) / middle - apex

    for side, mm in shot.cut.items():
        sign = 1 if side == "left" else -1
        across_mm = across_mm + sign * max(0.5 * field + mm - sign * edges[side], 0) / middle
    across_mm = across_mm + np.tan(np.radians(shot.rotation)) * depth[:, None]
    up_mm = up_mm + np.tan(np.radians(shot.tilt)) * depth[:, None]
    angle, lean = np.radians(shot.roll), np.tan(np.radians(body.lean))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slide = None
    if lateral:
        turn[0, 1] -= lean
        down = -extremes * middle  # (not moved, fully moved) at each knot
        y = np.linspace(_FIXED_Y, _MOVED_Y, 16)
        right = -np.interp(y, *_y_body(body)) * middle
        slide = (
            np.stack([down[0][::-1], (down[1] - down[0])[::-1]]),
            np.stack([right[::-1], 0.5 - _breath_share(y)[::-1]]),
        )
    else:
        up_mm = up_mm + lean * depth[:, None]
    return Geometry(
        lateral=lateral,
        axes=axes,
        merge=merge,
        depth_mm=depth_mm,
        zoom=zoom,
        step=np.diff(ends) / merge,
        across_knots=across_knots,
        across_mm=across_mm,
        up_knots=up_knots,
        up_mm=up_mm,
        field=field,
        spacing=spacing,
        bend=body.bend[int(lateral)],
        turn=turn,
        shift=shot.shift,
        slide=slide,
    )


def _ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    part = np.clip((value - low) / (high - low), 0, 1)
    return part * part * (3 - 2 * part)


def _breath_share(y: np.ndarray) -> np.ndarray:
    return _ramp(y, _FIXED_Y, _MOVED_Y)


def _x_body(body: Body, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phantom x (6,) -> body x (D, 6) at depths y (D,): midline, halves of the chest, wall."""
    knots = _MIDDLE_X + np.array(
        [-_FAR, -_HALF_CHEST, -_HALF_MEDIASTINUM, _HALF_MEDIASTINUM, _HALF_CHEST, _FAR]
    )
    front = _ramp(y, _SPINE_Y, _HEART_Y)
    half = _HALF_MEDIASTINUM * (body.spine + (body.mediastinum - body.spine) * front)
    shift = body.heart_shift * front
    wall = (_FAR - _HALF_CHEST) * body.wall
    right, left = (np.full(len(y), _HALF_CHEST * scale) for scale in (body.right, body.left))
    rows = np.stack([-right - wall, -right, -half + shift, half + shift, left, left + wall], axis=1)
    return knots, body.width * rows


def _y_body(body: Body) -> tuple[np.ndarray, np.ndarray]:
    """Phantom y (4,) -> body y (4,): the chest, and the wall's soft tissue before and behind it."""
    knots = np.array([_MIDDLE_Y - _FAR, _BACK, _FRONT, _MIDDLE_Y + _FAR])
    back, front = _MIDDLE_Y - _BACK, _FRONT - _MIDDLE_Y
    wall = 1 + (body.wall - 1) / 3
    rows = [-back - (_FAR - back) * wall, -back, front, front + (_FAR - front) * wall]
    return knots, body.depth * np.array(rows)


def _z_body(body: Body, inspiration: float, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phantom z (5,) -> body z (D, 5) where a breath moves by `share` (D,): it stretches the lungs downwards.

    Apices and what lies below the lungs keep their size.
    """
    knots = np.array([_LUNG_BASE - _FAR, _LUNG_BASE, _LUNG_MIDDLE, _LUNG_TOP, _LUNG_TOP + _FAR])
    breath = (inspiration - 1) * share
    upper = (_LUNG_TOP - _LUNG_MIDDLE) * body.upper * (1 + (2 - _LOWER_SHARE) * breath)
    lower = (_LUNG_MIDDLE - _LUNG_BASE) * body.lower * (1 + _LOWER_SHARE * breath)
    top = np.full(len(share), _LUNG_TOP)
    rows = [top - upper - lower - _FAR, top - upper - lower, top - upper, top, top + _FAR]
    return knots, body.height * np.stack(rows, axis=1)


def onto_plane(geo: Geometry, points: np.ndarray) -> np.ndarray:
    """Plane positions (N, 2) (down, right) mm of phantom positions (N, 3) (y, z, x) mm."""
    depth, up, across = (points[:, axis].astype(np.float64) for axis in geo.axes)
    at = np.clip((depth - geo.depth_mm[0]) / (geo.depth_mm[1] - geo.depth_mm[0]), 0, len(geo.zoom) - 1)
    zoom = np.interp(at, np.arange(len(geo.zoom)), geo.zoom)
    return np.stack(
        [
            -_between(at, up, geo.up_knots, geo.up_mm) * zoom,
            _between(at, across, geo.across_knots, geo.across_mm) * zoom,
        ],
        axis=1,
    )


def _between(at: np.ndarray, value: np.ndarray, knots: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(N,) body mm of phantom coordinates `value` at fractional slabs `at`: linear along both."""
    i = np.minimum(at.astype(np.intp), len(table) - 2)
    k = np.clip(np.searchsorted(knots, value) - 1, 0, len(knots) - 2)
    f, g = at - i, (value - knots[k]) / (knots[k + 1] - knots[k])
    low = table[i, k] + g * (table[i, k + 1] - table[i, k])
    high = table[i + 1, k] + g * (table[i + 1, k + 1] - table[i + 1, k])
    return low + f * (high - low)
