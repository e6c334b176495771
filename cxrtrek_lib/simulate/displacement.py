"""Displacement of volumes and points, one axis at a time: what makes a deformed phantom of the plain one.

A shift is written from its end: the voxel at p shows what was at p - shift(p). So volumes are gathered
without holes, and nothing folds as long as the shift grows by less than 1 mm per mm along its axis.
"""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from cxrtrek_lib.simulate.phantom import POINTS, Phantom

UP, ACROSS = 1, 2  # axes of a volume (y, z, x)
Shift = tuple[int, np.ndarray]  # (UP or ACROSS, float32 (Y or 1, Z, X) mm)


def moved(anatomy: Phantom, shifts: list[Shift]) -> Phantom:
    """All of a phantom, volumes and points, displaced by one shift after the other."""
    fields = anatomy._asdict()
    parts = {
        (name, key): value
        for name, field in fields.items()
        for key, value in (field.items() if isinstance(field, dict) else [(None, field)])
    }
    volumes = [at for at, value in parts.items() if value.shape == anatomy.hu.shape]
    ends = displaced([parts[at] for at in volumes], shifts, anatomy.spacing)
    parts |= zip(volumes, ends, strict=True)
    groups = [at for at in parts if at[0] in POINTS]
    points = np.concatenate([parts[at].reshape(-1, 3) for at in groups])
    for shift in shifts:
        points = pushed(points, shift, anatomy.spacing)
    ends = np.split(points, np.cumsum([parts[at].size // 3 for at in groups])[:-1])
    parts |= {at: end.reshape(parts[at].shape) for at, end in zip(groups, ends, strict=True)}
    return Phantom(**{
        name: {key: parts[name, key] for key in field} if isinstance(field, dict) else parts[name, None]
        for name, field in fields.items()
    })  # fmt: skip


def displaced(volumes: list[np.ndarray], shifts: list[Shift], spacing: np.ndarray) -> list[np.ndarray]:
    """Volumes (Y, Z, X) of one shape displaced by one shift after the other; their edges go on.

    Linear interpolation. Slice by slice, all volumes and shifts of a slice in a row: they then stay in the
    processor's cache.
    """
    out = [np.empty_like(volume) for volume in volumes]
    all_taps = [_taps(*shift, volumes[0].shape, spacing) for shift in shifts]
    for y, taps_here in enumerate(zip(*all_taps, strict=True)):
        for volume, new in zip(volumes, out, strict=True):
            new[y] = volume[y]
            if not volume[y].any():
                continue
            for box, below, share, stride in taps_here:
                flat = new[y].ravel()
                low = flat.take(below, mode="clip")  # never outside; "clip" spares NumPy the check
                high = flat.take(below + stride, mode="clip")
                high -= low
                high *= share
                high += low
                new[y][box] = high
    return out


def _taps(axis: int, shift: np.ndarray, shape: tuple[int, int, int], spacing: np.ndarray) -> Iterator[tuple]:
    """Per slice y: (box of the slice that is displaced, index of each lower neighbour, share of the upper
    one, and how far behind it lies)."""
    depth, height, width = shape
    held = shift.any(axis=0)
    rows, columns = (np.flatnonzero(held.any(axis=other)) for other in (1, 0))
    if not len(rows):
        rows = columns = np.zeros(1, dtype=int)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    stride, length = (width, height) if axis == UP else (1, width)
    along = np.arange(length, dtype=np.float32)
    along = along[:, None] if axis == UP else along[None]
    start = np.arange(height * width, dtype=np.int32).reshape(height, width) - along.astype(np.int32) * stride
    along, start = np.broadcast_to(along, (height, width))[box], start[box]
    steps = shift[:, *box] / np.float32(spacing[axis])
    for y in range(depth):
        if y < len(steps):  # the one slice of a shift without depth serves all
            source = np.clip(along - steps[y], 0, length - 1.001)
            base = source.astype(np.int32)
            share = source - base
            below = (start + base * stride).astype(np.intp)
        yield box, below, share, stride


def pushed(points: np.ndarray, shift: Shift, spacing: np.ndarray) -> np.ndarray:
    """Points (N, 3) mm where a shift brings them; it goes on beyond the volume's sides."""
    axis, mm = shift
    start, end = points[:, axis].astype(np.float64), points.astype(np.float64)
    # p - shift(p) grows with p: halve the interval in which it is `start`, to below 0.01 mm.
    low, high = start + float(mm.min()), start + float(mm.max())
    for _ in range(14):
        end[:, axis] = (low + high) / 2
        at = (end / spacing).T
        if len(mm) == 1:
            at[0] = 0
        short = end[:, axis] - ndimage.map_coordinates(mm, at, order=1, mode="nearest") < start
        low, high = np.where(short, end[:, axis], low), np.where(short, high, end[:, axis])
    return end.astype(points.dtype)
