"""Layers of tissue laid into a volume: a share of every voxel of a box gives place to another density.

Layers are laid one over the other; each knows only the anatomy, never the film. Density is relative to water:
1 + HU / 1000.
"""

from typing import NamedTuple

import numpy as np

from cxrtrek_lib.simulate.phantom import Phantom

AIR, PLEURA, FLUID, CONSOLIDATED, MUSCLE = 0.005, 0.95, 1.015, 1.025, 1.045

Box = tuple[slice, slice, slice]


class Layer(NamedTuple):
    """Inside `box`, voxels become alpha * target + (1 - alpha) * what they were.

    finding, side  whose evidence it is: the leave-one-out scene leaves out all layers of the same two
    box            (y, z, x) slices
    alpha          float32 in [0, 1], of the box's shape
    target         density relative to water, a scalar wherever possible, else float32 of the box's shape
    """

    finding: str
    side: str | None
    box: Box
    alpha: np.ndarray
    target: np.ndarray | float


def lay(volume: np.ndarray, layer: Layer) -> None:
    """Put one layer into a volume, in place."""
    part = volume[layer.box]
    part += layer.alpha * (layer.target - part)


def without(base: np.ndarray, layers: list[Layer], finding: str, side: str | None, box: Box) -> np.ndarray:
    """The volume inside a box with all layers but those of one finding and side: the leave-one-out scene."""
    part = base[box].copy()
    for layer in layers:
        if (layer.finding, layer.side) == (finding, side):
            continue
        here, there = common(box, layer.box)
        if here is None:
            continue
        target = layer.target if np.isscalar(layer.target) else layer.target[there]
        part[here] += layer.alpha[there] * (target - part[here])
    return part


def common(one: Box, other: Box) -> tuple[Box, Box] | tuple[None, None]:
    """The overlap of two boxes as slices of each; (None, None) when they do not meet."""
    both = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)]
    if any(s.start >= s.stop for s in both):
        return None, None
    return tuple(
        tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(both, box, strict=True))
        for box in (one, other)
    )


def union(boxes: list[Box]) -> Box:
    """The smallest box around several."""
    return tuple(
        slice(min(box[i].start for box in boxes), max(box[i].stop for box in boxes)) for i in range(3)
    )


def box_of(mask: np.ndarray) -> Box:
    """The smallest box around what is not 0 in a mask (Y, Z, X)."""
    axes = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {i}))) for i in range(3)]
    return tuple(slice(int(a[0]), int(a[-1]) + 1) for a in axes)


def box_around(centre_mm: np.ndarray, reach_mm: np.ndarray, anatomy: Phantom) -> Box:
    """The box of voxels within `reach_mm` (3,) of a point (3,) (y, z, x) mm, cut at the volume's sides."""
    return tuple(
        slice(max(0, int((c - r) / s)), min(n, int((c + r) / s) + 2))
        for c, r, s, n in zip(centre_mm, reach_mm, anatomy.spacing, anatomy.hu.shape, strict=True)
    )


def lung_box(anatomy: Phantom, side: str) -> Box:
    """The smallest box (y, z, x) around one lung."""
    return box_of(anatomy.lung[side] > 0.02)


def tight(layer: Layer) -> Layer:
    """The same layer in the smallest box that holds its alpha; an empty layer keeps one voxel."""
    if not layer.alpha.any():
        box = tuple(slice(b.start, b.start + 1) for b in layer.box)
        return layer._replace(box=box, alpha=np.zeros((1, 1, 1), dtype=np.float32))
    inner = box_of(layer.alpha > 0)
    box = tuple(slice(b.start + i.start, b.start + i.stop) for b, i in zip(layer.box, inner, strict=True))
    target = layer.target if np.isscalar(layer.target) else np.ascontiguousarray(layer.target[inner])
    return layer._replace(box=box, alpha=np.ascontiguousarray(layer.alpha[inner]), target=target)


def resample(volume: np.ndarray, positions: list[np.ndarray]) -> np.ndarray:
    """Linear interpolation of a volume at separable positions (one float array per axis), zero outside."""
    for axis, position in enumerate(positions):
        n = volume.shape[axis]
        taps = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(n))).astype(np.float32)
        volume = np.moveaxis(np.tensordot(taps, volume, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(volume)
