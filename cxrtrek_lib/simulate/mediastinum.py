"""Findings of the aorta and of the mediastinum, as layers of tissue and as outlines.

All of them grow into lung: what lies inside the mediastinum already is as dense as what is put there.
"""

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from cxrtrek_lib.simulate import heart
from cxrtrek_lib.simulate.displacement import ACROSS, UP, displaced
from cxrtrek_lib.simulate.layers import AIR, FLUID, MUSCLE, Box, Layer, box_around, box_of, tight
from cxrtrek_lib.simulate.phantom import Phantom
from cxrtrek_lib.simulate.plan import Lesion

# By how much the aorta's radius grows, mm. The phantom's arch is 24 mm wide; a thoracic aorta is dilated from
# about 40 mm (2022 ACC/AHA guideline on aortic disease). Range ours.
DILATION_MM = (10.0, 16.0)
# A tortuous aorta: how far the arch climbs, the descending part bows to the left, the ascending to the right.
CLIMB_MM, BOW_MM, ASCENDING_MM = (12.0, 22.0), (24.0, 38.0), (5.0, 11.0)
# mm of z -> share of the bow.
_BOW = PchipInterpolator((125.0, 165.0, 205.0, 245.0, 275.0), (0.0, 0.65, 1.0, 0.55, 0.35))
_ECTASIA_MM = 5.0  # a tortuous aorta's radius grows a little, too
_CLIMB_FROM = 205.0  # mm of z from which the arch is drawn upwards
_ASCENDING_Y = 122.0  # mm: the ascending aorta lies in front of this depth
WIDENING_MM = (12.0, 21.0)  # by how much the upper mediastinum is wider on either side
# A hernia's diameter, mm, and the share of its height that is filled with fluid.
HERNIA_MM, HERNIA_LEVEL = (46.0, 84.0), (0.25, 0.60)
_HERNIA_WALL = 5.0  # mm


def dilated(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Aortic enlargement: the thoracic aorta thicker all round by a drawn DILATION_MM."""
    mm = lesion.between("size", *DILATION_MM)
    box = _around_aorta(anatomy, mm + 3)
    distance = ndimage.distance_transform_edt(anatomy.aorta[box] < 0.5, sampling=anatomy.spacing)
    return [_in_lung(anatomy, lesion, box, np.clip((mm - distance) / 2 + 0.5, 0, 1), MUSCLE)]


def tortuous(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Aortic elongation: arch higher, descending aorta bowed to the left, ascending one to the right."""
    box = _around_aorta(anatomy, BOW_MM[1] + 3)
    y, z, x = _grid(box, anatomy)
    climb, bow = _elongation(lesion)
    source = np.where(z > _CLIMB_FROM, _CLIMB_FROM + (z - _CLIMB_FROM) / climb, z)
    shape = anatomy.aorta[box].shape
    upwards = UP, np.broadcast_to(z - source, (1, *shape[1:]))
    aside = ACROSS, np.broadcast_to(bow(y, source), shape)
    (higher,) = displaced([anatomy.aorta[box]], [upwards], anatomy.spacing)
    (bowed,) = displaced([higher], [aside], anatomy.spacing)
    # No lung is left between the descending aorta and where it was.
    swept = np.minimum(
        np.maximum.accumulate(bowed[..., ::-1], axis=2)[..., ::-1], np.maximum.accumulate(higher, axis=2)
    )
    distance = ndimage.distance_transform_edt(np.maximum(bowed, swept) < 0.5, sampling=anatomy.spacing)
    return [_in_lung(anatomy, lesion, box, np.clip((_ECTASIA_MM - distance) / 2 + 0.5, 0, 1), MUSCLE)]


def widened(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Enlarged cardiomediastinum: above the heart wider to both sides by a drawn WIDENING_MM."""
    mm = lesion.between("size", *WIDENING_MM)
    box = box_of(anatomy.mediastinum > 0.5)
    margin = int(mm / anatomy.spacing[2]) + 2
    box = (box[0], box[1], slice(box[2].start - margin, box[2].stop + margin))
    # Smoothed: vessels that leave the hila do not count, nor do they widen.
    core = ndimage.gaussian_filter(anatomy.mediastinum[box], 7 / anatomy.spacing) > 0.5
    distance = ndimage.distance_transform_edt(~core, sampling=anatomy.spacing)
    reach = mm * _upper(anatomy, np.arange(box[1].start, box[1].stop) * anatomy.spacing[1])
    alpha = np.clip((reach[:, None] - distance) / 3 + 0.5, 0, 1) * (reach > 1)[:, None]
    return [_in_lung(anatomy, lesion, box, alpha, MUSCLE)]


def hernia(anatomy: Phantom, base: np.ndarray, lesion: Lesion) -> list[Layer]:
    """Hiatal hernia: part of the stomach above the diaphragm, behind the heart, with air over fluid."""
    centre, extent = _hernia(anatomy, lesion)
    box = box_around(centre, extent + 8, anatomy)
    y, z, x = _grid(box, anatomy)

    start = int(lesion.draw("texture") * 64)
    lumps = 2.0 * anatomy.noise[np.ix_(*((np.arange(b.start, b.stop) + start) % 64 for b in box))]

    def within(extent: np.ndarray) -> np.ndarray:
        parts = [((p - c) / e) ** 2 for p, c, e in zip((y, z, x), centre, extent, strict=True)]
        # Depth under a lumpy surface, mm, to first order; blurred over 4 mm.
        depth = (1 - np.sqrt(sum(parts))) * float(extent.min()) + lumps
        return np.clip(depth / 4 + 0.5, 0, 1)

    spared = 1 - np.maximum(anatomy.spine[box], anatomy.aorta[box])
    sac = (within(extent) * spared).astype(np.float32)
    inner = within(extent - _HERNIA_WALL) * spared
    surface = centre[1] + (2 * lesion.between("level", *HERNIA_LEVEL) - 1) * (extent[1] - _HERNIA_WALL)
    air = (inner * np.clip((z - surface) / 2 + 0.5, 0, 1)).astype(np.float32)
    return [
        tight(Layer(lesion.finding, None, box, sac, FLUID)),
        tight(Layer(lesion.finding, None, box, air, AIR)),
    ]


def outlines(
    anatomy: Phantom, scale: float, lesions: list[Lesion], lateral: bool = False
) -> dict[str, np.ndarray]:
    """The anatomy's outlines for a view, with a heart `scale` times as wide and what the lesions enlarge."""
    points = heart.outlines(anatomy, scale, lateral)
    whole = [name for name in ("mediastinum", "upper mediastinum") if name in points]
    known = {lesion.finding: lesion for lesion in lesions}
    if "enlarged cardiomediastinum" in known:
        middle = float(anatomy.landmarks["carina"][2])
        mm = known["enlarged cardiomediastinum"].between("size", *WIDENING_MM)
        for name in whole:
            y, z, x = points[name].T
            points[name] = np.stack([y, z, x + mm * _upper(anatomy, z) * np.sign(x - middle)], axis=1)
    arch = points["aortic arch"]
    if "aortic elongation" in known:
        climb, bow = _elongation(known["aortic elongation"])
        y, z, x = arch.T
        up = np.where(z > _CLIMB_FROM, _CLIMB_FROM + (z - _CLIMB_FROM) * climb, z)
        arch = _swollen(np.stack([y, up, x + bow(y, z)], axis=1), _ECTASIA_MM)
    if "aortic enlargement" in known:
        arch = _swollen(arch, known["aortic enlargement"].between("size", *DILATION_MM))
    points["aortic arch"] = arch
    return points | {name: np.concatenate([points[name], arch]) for name in whole}


def _swollen(points: np.ndarray, mm: float) -> np.ndarray:
    """Points whose extent is `mm` larger on all sides."""
    return np.concatenate([points + offset for offset in (-mm, mm)])


def _in_lung(anatomy: Phantom, lesion: Lesion, box: Box, alpha: np.ndarray, target: float) -> Layer:
    """The layer where there is lung."""
    lungs = anatomy.lung["left"][box] + anatomy.lung["right"][box]
    return tight(Layer(lesion.finding, None, box, (alpha * lungs).astype(np.float32), target))


def _around_aorta(anatomy: Phantom, mm: float) -> Box:
    """The box of the aorta above the diaphragm, `mm` wider on all sides."""
    low = anatomy.outlines["heart"][:, 1].min() / anatomy.spacing[1]
    box = box_of(anatomy.aorta > 0.5)
    box = (box[0], slice(max(box[1].start, int(low)), box[1].stop), box[2])
    margin = np.ceil(mm / anatomy.spacing).astype(int)
    return tuple(
        slice(max(0, b.start - m), min(n, b.stop + m))
        for b, m, n in zip(box, margin, anatomy.hu.shape, strict=True)
    )


def _elongation(lesion: Lesion):
    """How a tortuous aorta runs: stretch of what lies above _CLIMB_FROM, and (y, z) mm -> shift of x, mm."""
    climb = 1 + lesion.between("climb", *CLIMB_MM) / 55  # the arch ends 55 mm above _CLIMB_FROM
    left, right = lesion.between("bow", *BOW_MM), lesion.between("ascending", *ASCENDING_MM)

    def bow(y, z):
        height = _BOW(np.clip(z, _BOW.x[0], _BOW.x[-1]))
        ahead = np.clip((y - _ASCENDING_Y) / 12 + 0.5, 0, 1)
        return left * height * (1 - ahead) - right * ahead

    return climb, bow


def _upper(anatomy: Phantom, z: np.ndarray) -> np.ndarray:
    """Share of the widening at heights z, mm: whole at arch and hila, less above, none at the heart."""
    carina = float(anatomy.landmarks["carina"][1])
    return np.interp(z, carina + np.array([-60.0, 12.0, 50.0, 90.0]), [0.0, 1.0, 1.0, 0.6])


def _hernia(anatomy: Phantom, lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half axes (3,) of the hernia, (y, z, x) mm: on the diaphragm, about the oesophagus."""
    extent = lesion.between("size", *HERNIA_MM) / 2 * np.array([0.85, 0.9, 1.0])
    floor = float(anatomy.outlines["heart"][:, 1].min())
    height = floor + 0.75 * extent[1]
    line = anatomy.centrelines["esophagus"]
    y, _, x = line[np.argmin(np.abs(line[:, 1] - height))]
    return np.array([y - 4, height, x + lesion.between("aside", 2, 22)]), extent


def _grid(box: Box, anatomy: Phantom) -> list[np.ndarray]:
    """Positions (y, z, x) of a box's voxels, mm, shaped so that they broadcast to the box."""
    return [axis * spacing for axis, spacing in zip(np.ogrid[box], anatomy.spacing, strict=True)]


# Finding -> its layers.
LAYERS = {
    "aortic enlargement": dilated,
    "aortic elongation": tortuous,
    "enlarged cardiomediastinum": widened,
    "hiatal hernia": hernia,
}
