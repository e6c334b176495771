"""A pacemaker drawn analytically: thin metal stays sharp at every film size because no voxel carries it."""

import numpy as np
from PIL import Image, ImageDraw

from cxrtrek_lib.simulate.phantom import Phantom
from cxrtrek_lib.simulate.projector import Geometry, onto_film, onto_plane

# Extra attenuation as mm of water. A 7 mm titanium can with its battery stops nearly everything behind it.
CAN_MM, LEAD_MM = 95.0, 34.0
LEAD_WIDTH_MM = 2.0
OVERSAMPLE = 4


def pacemaker(phantom: Phantom, geo: Geometry, side: str, share: float, leads: int, size: int) -> np.ndarray:
    """Extra attenuation float32 (size, size), mm of water: generator under a clavicle, leads to the heart.

    share in [0, 1) moves the generator in its pocket; leads is 1 (right ventricle) or 2 (and right atrium).
    """
    can, paths = _course(phantom, side, share, leads)
    scale = size * OVERSAMPLE / geo.field
    pixels = [
        onto_film(geo, onto_plane(geo, points)) * scale + size * OVERSAMPLE / 2 for points in [can, *paths]
    ]
    layers = []
    for points, width in zip(
        pixels, [None] + [max(1, round(LEAD_WIDTH_MM * scale))] * len(paths), strict=True
    ):
        canvas = Image.new("L", (size * OVERSAMPLE, size * OVERSAMPLE))
        outline = [(float(x), float(y)) for y, x in points]
        draw = ImageDraw.Draw(canvas)
        if width is None:
            draw.polygon(outline, fill=255)
        else:
            draw.line(outline, fill=255, width=width, joint="curve")
        layers.append(np.asarray(canvas.reduce(OVERSAMPLE), dtype=np.float32) / 255)
    return CAN_MM * layers[0] + LEAD_MM * np.clip(sum(layers[1:]), 0, 1.6)


def _course(phantom: Phantom, side: str, share: float, leads: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Outline of the generator and centre lines of the leads, (N, 3) (y, z, x) mm in the phantom."""
    sign = 1 if side == "left" else -1
    middle = 180.0
    centre = np.array([196.0, 272.0 - 14 * share, middle + sign * (86 + 14 * share)])
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    # A rounded box, 46 x 42 mm (superellipse), flat against the chest wall.
    across = 23 * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.6
    up = 21 * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.6
    can = centre + np.stack([np.zeros_like(angle), up, across], axis=1)
    heart = phantom.outlines["heart"]
    low, left, right = heart[:, 1].min(), heart[:, 2].min(), heart[:, 2].max()
    start = centre + (0, 21, -8 * sign)
    vein = [start, (185, 300, middle + sign * 66), (160, 298, middle + sign * 34), (150, 282, middle - 10)]
    cava = [(145, 255, middle - 22), (143, 222, middle - 26)]
    apex = [(150, 196, middle - 24), (165, 176, middle + 2), (178, low + 22, left + 0.72 * (right - left))]
    atrium = [(150, 200, middle - 30), (160, 190, middle - 18), (168, 205, middle - 14)]
    courses = [[*vein, *cava, *apex], [*vein, *cava, *atrium]][:leads]
    return can, [_smooth(np.array(course, dtype=np.float64)) for course in courses]


def _smooth(knots: np.ndarray, samples: int = 12) -> np.ndarray:
    """Catmull-Rom curve through the knots (K, 3): (K - 1) * samples + 1 points."""
    padded = np.concatenate([knots[:1], knots, knots[-1:]])
    t = np.linspace(0, 1, samples, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        )
    return np.concatenate([*pieces, knots[-1:]])
