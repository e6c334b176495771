"""Opacities of the airspaces: consolidation, hazy opacity, atelectasis, as layers of tissue."""

import numpy as np

from cxrtrek_lib.simulate import lobes
from cxrtrek_lib.simulate.layers import (
    CONSOLIDATED,
    FLUID,
    Box,
    Layer,
    box_around,
    common,
    lung_box,
    resample,
    tight,
)
from cxrtrek_lib.simulate.phantom import LOBES, Phantom
from cxrtrek_lib.simulate.plan import Lesion

# Half the width of what a grade fills, mm, (low, high) of the drawn size. Grades and sizes are ours: patches
# of a mild pneumonia, a segment or two, most of a lobe.
CONSOLIDATION_RADIUS_MM = {"mild": (19, 25), "moderate": (30, 38), "severe": (52, 66)}
OPACITY_RADIUS_MM = {"mild": (28, 34), "moderate": (36, 44), "severe": (46, 56)}
OPACITY_PEAK = {"mild": 0.40, "moderate": 0.53, "severe": 0.66}  # share of the air that is replaced
# Discoid (plate-like) atelectasis: bands 2-8 mm thick, 40-90 mm long.
PLATES = {"mild": 1, "moderate": 2, "severe": 3}
PLATE_MM = {"mild": (3.2, 4.2), "moderate": (4.0, 5.4), "severe": (5.2, 7.0)}
PLATE_LENGTH_MM = {"mild": (46, 60), "moderate": (58, 72), "severe": (70, 88)}
# Collapsed lobes, after the usual schemes. Two shrink to a point (shares of the lung's box from the back, the
# base and the mediastinum) by a factor along each axis: the left upper lobe falls forward and is a veil over
# the upper lung, the middle lobe folds flat beside the heart. The others become wedges that hang on the
# hilum: their free border turns by so many degrees, (low, high), from the vertical.
SHRUNK = {
    "lung_upper_lobe_left": ((0.85, 0.95, 0.0), (0.40, 0.92, 1.0)),
    "lung_middle_lobe_right": ((0.70, 0.35, 0.0), (0.90, 0.60, 0.75)),
}
WEDGE_DEGREES = {
    "lung_lower_lobe_left": (20, 27),
    "lung_lower_lobe_right": (22, 29),
    "lung_upper_lobe_right": (38, 50),
}
CROWDED = {"mild": 0.0, "moderate": 0.16, "severe": 0.24}  # share of the air lost around plates
BRONCHI, BRONCHUS_MM = 5, 2.4  # air bronchograms: how many, and their radius where they enter


def consolidation(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Air spaces full of fluid about a drawn place: a ragged patch, a severe one the shape of its lobe.

    All but mild ones end at the fissures, and bronchi that still hold air run through them.
    """
    side, severe = lesion.side, lesion.severity == "severe"
    centre = lobes.site(anatomy, lesion)
    extent = lesion.within(CONSOLIDATION_RADIUS_MM) * np.array([1.25, 1.0, 1.0])
    box = box_around(centre, 1.5 * extent, anatomy)
    distance = np.sqrt(_radius2(centre, extent, box, anatomy))
    rough = np.float32(0.16) * texture(anatomy, lesion, box, 1) + np.float32(0.18) * texture(
        anatomy, lesion, box, 0.45
    )
    alpha = np.clip((1 - distance + np.maximum(rough, -0.4)) / np.float32(0.35), 0, 1)  # never a hollow one
    alpha *= np.float32(0.95 if severe else 0.88)
    if lesion.severity != "mild":
        alpha *= lobes.share(anatomy, side, lobe_at(anatomy, side, centre), box)
        _bronchograms(alpha, anatomy, lesion, 1.4 * float(extent[1]), box)
    alpha *= anatomy.lung[side][box]
    return [tight(Layer(lesion.finding, side, box, alpha, CONSOLIDATED))]


def opacity(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """A haze without borders: part of the air replaced, through which vessels are still seen."""
    drawn = lesion.within(OPACITY_RADIUS_MM) * np.array(
        [1.25, lesion.between("height", 0.85, 1.15), lesion.between("breadth", 0.85, 1.1)]
    )
    centre, extent = lesion.at or (lobes.site(anatomy, lesion), drawn)
    box = box_around(centre, 1.9 * extent, anatomy)
    distance2 = _radius2(centre, extent, box, anatomy)
    alpha = np.exp(-distance2 * (1 + np.float32(0.3) * texture(anatomy, lesion, box, 0.45)))
    # It ends where nobody sees it any more, not far out in the lung.
    alpha = np.float32(OPACITY_PEAK[lesion.severity] * 1.05) * np.clip(alpha - np.float32(0.05), 0, 1)
    alpha *= anatomy.lung[lesion.side][box]
    return [tight(Layer(lesion.finding, lesion.side, box, alpha, FLUID))]


def atelectasis(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Lung without air: plates near the base; when severe and a lobe is meant, the lobe shrunk to a wedge."""
    words = lesion.place or ""
    of_a_lobe = not words or any(each in words for each in ("lobe", "base", "basal", "retrocardiac"))
    if lesion.severity == "severe" and of_a_lobe:
        return [_collapsed_lobe(anatomy, lesion)]
    return _plates(anatomy, lesion)


def lobe_at(anatomy: Phantom, side: str, point: np.ndarray) -> str:
    """The lobe of a point (3,) mm of a lung: that of the nearest site."""
    near = [((anatomy.lobe_sites[name] - point) ** 2).sum(axis=1).min() for name in LOBES[side]]
    return LOBES[side][int(np.argmin(near))]


def texture(anatomy: Phantom, lesion: Lesion, box: Box, fineness: float) -> np.ndarray:
    """float32 of the box's shape: the phantom's noise (zero mean, unit variance) from a drawn start.

    fineness  voxels of noise per voxel of the phantom: 1 has grains of some 6 mm, 0.45 of some 13 mm
    """
    places, taken = [], []
    for axis, side in enumerate(box):
        at = 64 * lesion.draw(f"texture/{axis}") + fineness * np.arange(side.start, side.stop)
        first = int(at[0])
        taken.append(np.arange(first, int(at[-1]) + 2) % 64)
        places.append(at - first)
    noise = anatomy.noise[np.ix_(*taken)]
    return noise[tuple(slice(b.stop - b.start) for b in box)] if fineness == 1 else resample(noise, places)


def _radius2(centre: np.ndarray, extent: np.ndarray, box: Box, anatomy: Phantom) -> np.ndarray:
    """float32 of the box's shape: squared distance from a point in units of `extent` (3,) mm."""
    y, z, x = (
        ((np.arange(b.start, b.stop) * s - c) / e).astype(np.float32) ** 2
        for b, c, e, s in zip(box, centre, extent, anatomy.spacing, strict=True)
    )
    return y[:, None, None] + z[:, None] + x


def _bronchograms(alpha: np.ndarray, anatomy: Phantom, lesion: Lesion, reach: float, box: Box) -> None:
    """Take air-filled bronchi out of a consolidation, in place: from the hilum's side to drawn places in it.

    reach  mm that one runs through it at most
    """
    full = np.argwhere(alpha > 0.7)
    if not len(full):
        return
    hilum = anatomy.landmarks[f"{lesion.side} hilum"].astype(np.float64)
    corner = np.array([b.start for b in box])
    for number in range(BRONCHI):
        end = (full[int(lesion.draw(f"bronchus/{number}") * len(full))] + corner) * anatomy.spacing
        way = end - hilum
        length = min(reach, float(np.linalg.norm(way)))
        bow = [lesion.between(f"bronchus/{number}/{axis}", -0.12, 0.12) * length for axis in range(3)]
        for share in np.arange(0, 1, 2.5 / max(length, 2.5)):
            point = end - (1 - share) * length * way / np.linalg.norm(way)
            point = point + 4 * share * (1 - share) * np.array(bow)
            radius = BRONCHUS_MM * (1 - 0.35 * share)
            near = box_around(point, np.full(3, 3 * radius), anatomy)
            here, there = common(near, box)
            if here is not None:
                far = np.sqrt(_radius2(point, np.full(3, radius), near, anatomy)[here])
                alpha[there] = np.minimum(alpha[there], np.clip(0.7 * far - 0.35, 0.05, 1))


def _plates(anatomy: Phantom, lesion: Lesion) -> list[Layer]:
    """Thin flat bands of lung without air, nearly edge-on to a frontal ray, in lung that has lost some."""
    first = lobes.site(anatomy, lesion, "lung base")
    length, thick = lesion.within(PLATE_LENGTH_MM), lesion.between("thickness", *PLATE_MM[lesion.severity])
    laid = []
    for number in range(PLATES[lesion.severity]):
        slope, pitch = (
            lesion.between(f"slope/{number}", -0.35, 0.35),
            lesion.between(f"pitch/{number}", -0.1, 0.1),
        )
        outwards = 1.0 if lesion.side == "left" else -1.0
        centre = first + number * np.array([
            lesion.between(f"apart/{number}/y", -6, 6),
            lesion.between(f"apart/{number}/z", 11, 17),
            outwards * lesion.between(f"apart/{number}/x", -14, 10),
        ])  # fmt: skip
        half = np.array([0.5 * lesion.between(f"depth/{number}", 46, 66), thick, 0.5 * length])
        half[2] *= lesion.between(f"length/{number}", 0.7, 1.0) if number else 1.0
        box = box_around(centre, half * (1, 0, 1) + (0, 4 + 0.4 * half[2] + 0.1 * half[0], 0), anatomy)
        y, z, x = (
            (np.arange(b.start, b.stop) * s - c).astype(np.float32)
            for b, s, c in zip(box, anatomy.spacing, centre, strict=True)
        )
        y, z = y[:, None, None], z[:, None]
        bow = np.float32(lesion.between(f"bow/{number}", -4, 4))
        off = z - np.float32(slope) * x - np.float32(pitch) * y - bow * (x / np.float32(half[2])) ** 2
        # Soft over one voxel: the plate holds as much tissue as its thickness says.
        alpha = np.clip((np.float32(0.5 * thick) - np.abs(off)) / np.float32(2.5) + np.float32(0.5), 0, 1)
        rim = 1 - np.sqrt((y / np.float32(half[0])) ** 2 + (x / np.float32(half[2])) ** 2)
        alpha *= np.clip(4 * rim, 0, 1)
        alpha *= anatomy.lung[lesion.side][box]
        laid.append(tight(Layer(lesion.finding, lesion.side, box, alpha, CONSOLIDATED)))
    if crowded := CROWDED[lesion.severity]:
        extent = np.array([40.0, 16.0, 0.5 * length])
        box = box_around(first, 1.5 * extent, anatomy)
        alpha = np.float32(crowded) * np.clip(1.5 - np.sqrt(_radius2(first, extent, box, anatomy)), 0, 1)
        alpha *= anatomy.lung[lesion.side][box]
        laid.append(tight(Layer(lesion.finding, lesion.side, box, alpha, CONSOLIDATED)))
    return laid


def _collapsed_lobe(anatomy: Phantom, lesion: Lesion) -> Layer:
    """A lobe without air (see SHRUNK and WEDGE_DEGREES); its neighbours fill the place that it leaves."""
    name, box = lobes.lobe(lesion), lung_box(anatomy, lesion.side)
    lung = anatomy.lung[lesion.side][box]
    form = _shrunk(anatomy, lesion, name, box) if name in SHRUNK else _wedge(anatomy, lesion, name, box)
    return tight(Layer(lesion.finding, lesion.side, box, np.float32(0.92) * form * lung, CONSOLIDATED))


def _shrunk(anatomy: Phantom, lesion: Lesion, name: str, box: Box) -> np.ndarray:
    """float32 of the lung's box in [0, 1]: a lobe shrunk as SHRUNK says."""
    hinge, scales = SHRUNK[name]
    shares = np.array(hinge)
    if lesion.side == "right":  # x runs from the patient's right to the left
        shares[2] = 1 - shares[2]
    scales = np.array(scales) * (lesion.between("size", 0.9, 1.1), 1, 1)
    places = []
    for side, share, scale in zip(box, shares, scales, strict=True):
        middle = share * (side.stop - side.start - 1)
        places.append(middle + (np.arange(side.stop - side.start) - middle) / scale)
    return resample(lobes.share(anatomy, lesion.side, name, box) * anatomy.lung[lesion.side][box], places)


def _wedge(anatomy: Phantom, lesion: Lesion, name: str, box: Box) -> np.ndarray:
    """float32 of the lung's box in [0, 1]: a wedge on the hilum, upwards or, behind the heart, downwards."""
    y, z, x = (
        (np.arange(b.start, b.stop) * s - h).astype(np.float32)
        for b, s, h in zip(box, anatomy.spacing, anatomy.landmarks[f"{lesion.side} hilum"], strict=True)
    )
    away = -z if "lower" in name else z  # from the hilum to the wedge's broad end
    outwards = x if lesion.side == "left" else -x
    angle = np.radians(lesion.between("size", *WEDGE_DEGREES[name]))
    # The fissure that is its border bulges a little near the hilum.
    reach = np.float32(np.tan(angle)) * away * (1 + np.float32(0.3) * (1 - away / 100))
    border = np.float32(np.cos(angle)) * (reach[:, None] - outwards)
    wedge = np.clip(border / 7 + 0.5, 0, 1) * np.clip(away / 8, 0, 1)[:, None]
    if "lower" in name:  # below the dome the other lobe takes its place
        dome = anatomy.outlines[f"{lesion.side} hemidiaphragm"][:, 1].max()
        above = z + anatomy.landmarks[f"{lesion.side} hilum"][1] - dome
        wedge *= np.clip((above + 35) / 25, 0, 1)[:, None]
    depth = np.clip((20 - y) / 10, 0, 1) if "lower" in name else np.ones_like(y)
    return depth[:, None, None] * wedge


# Finding -> its layers; the order in which they are laid is scene.LAYERS.
LAYERS = {"lung opacity": opacity, "atelectasis": atelectasis, "consolidation": consolidation}
