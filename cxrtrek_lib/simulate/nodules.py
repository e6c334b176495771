"""Focal findings of the lung: nodule, mass, calcified granuloma, as layers of tissue.

Each is a union of spheres. A voxel's share of a sphere is integrated, not sampled at its centre: a granuloma
is two or three voxels wide, and only so does it hold the calcium that its diameter says.
"""

from functools import cache

import numpy as np

from cxrtrek_lib.simulate import lobes, phantom
from cxrtrek_lib.simulate.layers import Box, Layer, box_around, common, tight
from cxrtrek_lib.simulate.phantom import LOBES, Phantom
from cxrtrek_lib.simulate.plan import Lesion

# A mass is wider than 30 mm, a nodule is not (Hansell et al. 2008, Fleischner glossary). The rest is ours:
# what is smaller than the lower ends cannot be seen on a film.
DIAMETER_MM = {"nodule": (11, 28), "mass": (32, 62), "granuloma": (6, 10)}
SOFT, CALCIFIED = 1.04, 1.90  # 40 HU and 900 HU
_ENOUGH = 20  # sites from which a place is drawn, at least
# Words of an annotated place -> its lobe's index in phantom.LOBES, or shares of the lung's height, 0 = base,
# 1 = apex. Zones are thirds, as in regions.py; apex and base are ours.
_LOBE = {"upper lobe": 0, "middle lobe": 1, "lower lobe": -1}
_HEIGHT = {
    "upper lung zone": (0.64, 1.0), "mid lung zone": (0.34, 0.67), "lower lung zone": (0.0, 0.34),
    "apex": (0.78, 1.0), "base": (0.0, 0.25),
}  # fmt: skip


def nodule(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """A nearly round opacity of soft tissue, 11-28 mm wide."""
    return _solid(anatomy, lesion, core=0.93, bumps=4, width=(0.6, 0.75))


def mass(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """A lobulated opacity of soft tissue, 32-62 mm wide; where it meets the chest wall it ends."""
    return _solid(anatomy, lesion, core=0.78, bumps=8, width=(0.3, 0.5))


def granuloma(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """A calcified ball, 6-10 mm wide: much denser than a vessel of its size."""
    radius = 0.5 * lesion.between("size", *DIAMETER_MM["granuloma"])
    spheres = np.array([[*centre(anatomy, lesion, radius), radius]])
    box, alpha = shares(spheres, anatomy)
    return [tight(Layer(lesion.finding, lesion.side, box, alpha, CALCIFIED))]


def centre(anatomy: Phantom, lesion: Lesion, radius: float) -> np.ndarray:
    """Middle (3,) mm of a focal lesion: a drawn site of the lung, where the annotated words have it.

    Beside the shadows of heart and dome, unless the words say otherwise ("hilum", "retrocardiac region":
    lobes.site). Which site is chosen in the undeformed anatomy: a lesion stays on its place of the lung when
    the lung changes its shape between two films of a patient.
    """
    place = next((words for words in (*_LOBE, *_HEIGHT) if words in (lesion.place or "")), None)
    if place is None and lesion.place not in (None, "lung"):
        return lobes.site(anatomy, lesion)
    margin = 12.0 if radius < 16 else 16.0  # a nodule clears the shadows, a mass may touch them
    clear = _clear_sites(lesion.side, place, margin)
    return _sites(anatomy, lesion.side)[clear[int(lesion.draw("site") * len(clear))]].astype(np.float64)


def _sites(anatomy: Phantom, side: str) -> np.ndarray:
    """(N, 3) mm: the sites of all lobes of a lung."""
    return np.concatenate([anatomy.lobe_sites[name] for name in LOBES[side]])


@cache
def _clear_sites(side: str, place: str | None, margin: float) -> np.ndarray:
    """Indices of a lung's sites at a place, `margin` mm or more off the shadows of mediastinum and dome.

    Those farthest from them where fewer than _ENOUGH are clear.
    """
    anatomy = phantom.load()
    sites, kept = _sites(anatomy, side), slice(None)
    if place in _LOBE:
        lobe_of = np.repeat(LOBES[side], [len(anatomy.lobe_sites[name]) for name in LOBES[side]])
        kept = lobe_of == LOBES[side][_LOBE[place]]
    elif place in _HEIGHT:
        lung = anatomy.outlines[f"{side} lung"][:, 1]
        low, high = lung.min() + np.array(_HEIGHT[place]) * np.ptp(lung)
        kept = (sites[:, 1] >= low) & (sites[:, 1] <= high)
    kept = np.arange(len(sites))[kept]
    rim, dome = anatomy.outlines["mediastinum"], anatomy.outlines[f"{side} hemidiaphragm"]
    outwards = 1 if side == "left" else -1
    off = np.array([
        min(
            (outwards * (x - rim[np.abs(rim[:, 1] - z) < margin + 3, 2])).min(initial=np.inf),
            z - dome[np.abs(dome[:, 2] - x).argmin(), 1],
        ) for _, z, x in sites[kept]
    ])  # fmt: skip
    clear = kept[off >= margin]
    return clear if len(clear) >= _ENOUGH else kept[np.argsort(-off, kind="stable")[:_ENOUGH]]


def _solid(
    anatomy: Phantom, lesion: Lesion, core: float, bumps: int, width: tuple[float, float]
) -> list[Layer]:
    """One layer of soft tissue, `lobulated`, of the finding's size; only within the lung."""
    radius = 0.5 * lesion.between("size", *DIAMETER_MM[lesion.finding])
    middle = centre(anatomy, lesion, radius)
    box, alpha = shares(lobulated(lesion, "bump", middle, radius, core, bumps, width), anatomy)
    alpha *= anatomy.lung[lesion.side][box]
    return [tight(Layer(lesion.finding, lesion.side, box, alpha, SOFT))]


def lobulated(
    lesion: Lesion, question: str, middle: np.ndarray, radius: float, core: float, bumps: int, width: tuple
) -> np.ndarray:
    """Spheres (1 + bumps, 4) (y, z, x, radius) mm about a middle, all within one sphere of `radius`.

    The first has `core` radii; bumps of `width` (low, high) radii stand on it and reach one radius.
    """
    # Directions that cover a sphere evenly (Fibonacci), turned by a draw.
    i = np.arange(bumps)
    along = 1 - (2 * i + 1) / bumps
    angle = 2 * np.pi * (i * 0.618034 + lesion.draw(f"{question}/turn"))
    across = np.sqrt(1 - along**2)
    outward = np.stack([along, across * np.sin(angle), across * np.cos(angle)], axis=1)
    size = np.array([lesion.between(f"{question}/{k}", *width) for k in i])
    places = middle + outward * (radius * (1 - size))[:, None]
    return np.concatenate([
        [[*middle, core * radius]], np.column_stack([places, radius * size])
    ])  # fmt: skip


def shares(spheres: np.ndarray, anatomy: Phantom) -> tuple[Box, np.ndarray]:
    """The box around spheres (N, 4) (y, z, x, radius) mm, and the share of each of its voxels inside them.

    Voxel i reaches half a voxel to both sides of i * spacing. The share in one sphere is exact along z
    (chord over voxel) and a mean of sub-columns along y and x: the sum is 4/3 pi r^3 to 1 % from r = 2.5 mm.
    In a union the largest share counts; only rims where spheres meet lose a little.
    """
    low, high = (spheres[:, :3] - spheres[:, 3:]).min(axis=0), (spheres[:, :3] + spheres[:, 3:]).max(axis=0)
    box = box_around(0.5 * (low + high), 0.5 * (high - low) + anatomy.spacing, anatomy)
    inside = np.zeros([b.stop - b.start for b in box], dtype=np.float32)
    for *middle, radius in spheres.tolist():
        part = box_around(np.array(middle), radius + anatomy.spacing, anatomy)
        finer = 4 if radius < 12 else 2
        sub = (np.arange(finer) + 0.5) / finer - 0.5
        # Offsets from the middle in voxels of z: sub-columns along y and x, whole voxels along z.
        y, z, x = (
            ((np.arange(b.start, b.stop)[:, None] + add).ravel() * s - m) / anatomy.spacing[1]
            for b, add, s, m in zip(part, (sub, 0, sub), anatomy.spacing, middle, strict=True)
        )
        reach2 = (radius / anatomy.spacing[1]) ** 2
        half = np.sqrt(np.maximum(reach2 - y[:, None] ** 2 - x**2, 0)).astype(np.float32)[:, None]
        z = z.astype(np.float32)[:, None]
        chord = np.minimum(half, z + np.float32(0.5)) - np.maximum(-half, z - np.float32(0.5))
        np.clip(chord, 0, 1, out=chord)
        n = [b.stop - b.start for b in part]
        share = chord.reshape(n[0], finer, n[1], n[2], finer).mean(axis=(1, 4))
        _, there = common(part, box)
        np.maximum(inside[there], share, out=inside[there])
    return box, np.minimum(inside, 1)


# Finding -> its layers.
LAYERS = {"nodule": nodule, "mass": mass, "granuloma": granuloma}
