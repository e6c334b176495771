"""Courses of devices through the anatomy: 3-D curves in millimetres, drawn by strokes.py in any view.

Every course reads its places from the anatomy, so it follows a deformed one; numbers here are distances from
those places. Diameters are those of common products: a 7.5 mm endotracheal tube (10.2 mm outside), a 28 Fr
chest tube (9.3 mm), a 16 Fr enteric tube (5.3 mm), a 7 Fr catheter and a 5.4 Fr PICC (2.3 and 1.8 mm), steel
wire of 1 mm. Densities are ours, after the attenuation at about 70 keV of what they are made of.
"""

import numpy as np

from cxrtrek_lib.simulate.phantom import Phantom
from cxrtrek_lib.simulate.plan import Lesion
from cxrtrek_lib.simulate.strokes import Stroke, smooth

# Attenuation relative to water: steel, a lead's coils in their sheath, plain polymer, the same filled with
# barium, a tube's opaque line; a generator's titanium case with battery and circuits, its header, a
# catheter's hub.
STEEL, LEAD, POLYMER, FILLED, OPAQUE = 40.0, 11.0, 1.8, 16.0, 27.0
GENERATOR, HEADER, HUB = 22.0, 3.0, 2.5
OUTWARD = {"left": 1, "right": -1}  # direction of x away from the midline


def endotracheal_tube(anatomy: Phantom, lesion: Lesion) -> list[Stroke]:
    """A tube in the trachea with an opaque line along its wall; its tip is 30 to 60 mm above the carina."""
    trachea = smooth(anatomy.centrelines["trachea"][::-4][::-1])  # with its end, the carina
    course = trachea[: _before_end(trachea, lesion.between("tip", 30, 60))]
    around = lesion.between("line", 0, 2 * np.pi)
    line = course + 4.4 * np.array([np.sin(around), 0, np.cos(around)])
    return [Stroke(course, 10.2, POLYMER, 7.5), Stroke(line, 1.4, OPAQUE)]


def enteric_tube(anatomy: Phantom, lesion: Lesion) -> list[Stroke]:
    """A tube down the oesophagus into the stomach: to its fundus, its body, or on to the antrum.

    Its opaque line has a gap at the last side hole, 60 to 100 mm from the tip.
    """
    gullet, fundus = anatomy.centrelines["esophagus"], anatomy.landmarks["stomach"]
    # Along the greater curvature and back to the right.
    inside = fundus + np.array([(-4, 8, 4), (8, -14, 14), (22, -38, 10), (36, -56, -12), (42, -62, -42)])
    course = smooth(np.concatenate([gullet[::-5][::-1], inside]))
    course = course[: _before_end(course, lesion.between("tip", 0, 110))]
    line = course + np.array([0, 0, 2.1])
    return [
        Stroke(course, 5.3, POLYMER, 3.5),
        *_opaque_line(line, 1.8, lesion.between("side hole", 60, 100)),
    ]


def chest_tube(anatomy: Phantom, lesion: Lesion) -> list[Stroke]:
    """A tube through the side of the chest, up to the apex or down to the base of the pleural space.

    Its opaque line has a gap at the last side hole, 45 to 70 mm from the tip.
    """
    lung = anatomy.outlines[f"{lesion.side} lung"]
    low, high = lung[:, 1].min(), lung[:, 1].max()
    out = OUTWARD[lesion.side]

    def beside(share: float, depth: float, forward: float = 0.0, down: float = 0.0) -> np.ndarray:
        """At a share of the lung's height, `depth` mm inside its outer rim; then moved forward and down."""
        rim = _rim(anatomy, lesion.side, low + share * (high - low))
        return rim + (forward, -down, -out * depth)

    enters = lesion.between("height", 0.36, 0.52)
    if lesion.draw("towards") < 0.7:  # for air: up, in front or behind
        lies = lesion.between("front", -30, 22)
        course = [
            beside(enters, -70, 6, 62),
            beside(enters, -36, 4, 34),
            beside(enters, -7, 0, 7),
            beside(enters + 0.10, 6, 0.3 * lies),
            beside(0.70, 8, 0.8 * lies),
            beside(0.86, lesion.between("apex", 10, 26), lies),
            beside(0.94, lesion.between("tip", 26, 50), lies),
        ]
    else:  # for fluid: down and behind
        course = [
            beside(enters, -70, 10, 10),
            beside(enters, -30, 4, 0),
            beside(enters, 2, -4, 4),
            beside(enters - 0.08, 28, -20),
            beside(enters - 0.19, 52, -42),
            beside(enters - 0.28, lesion.between("tip", 66, 88), -56),
        ]
    course = smooth(np.stack(course))
    around = lesion.between("line", 0, np.pi)
    line = course + 4.0 * np.array([np.sin(around), 0, np.cos(around)])
    return [
        Stroke(course, 9.3, POLYMER, 6.2),
        *_opaque_line(line, 1.4, lesion.between("side hole", 45, 70)),
    ]


def central_venous_catheter(anatomy: Phantom, lesion: Lesion) -> list[Stroke]:
    """A catheter by the internal jugular or subclavian vein, or from the arm, to the cavoatrial junction.

    Its tip lies between 6 mm in the atrium and 20 mm above the junction.
    """
    vein = anatomy.centrelines[f"{lesion.side} brachiocephalic vein"]
    access = lesion.draw("access")
    # Forward, up and outwards from where the brachiocephalic vein begins.
    if access < 0.5:  # internal jugular: from the neck
        route, width = [(4, 85, 10), (0, 62, 8), (-2, 36, 5), (-1, 15, 2)], 2.3
    elif access < 0.72:  # subclavian: from under the clavicle
        route, width = [(34, -34, 84), (24, -12, 68), (8, 3, 44), (0, 5, 20)], 2.3
    else:  # from a vein of the arm
        route = [(-52, -110, 132), (-46, -66, 122), (-30, -20, 96), (-12, 2, 62), (-2, 6, 26)]
        width = 1.8
    route = vein[0] + np.array(route, dtype=np.float64) * (1, 1, OUTWARD[lesion.side])
    lies = np.array([lesion.between("y", -3, 3), 0, lesion.between("x", -3, 3)])
    course = smooth(np.concatenate([route, lies + _into_the_atrium(anatomy, vein)]))
    course = course[: _before_end(course, lesion.between("tip", 2, 28))]
    return [Stroke(course, width, FILLED, 0.4 * width), Stroke(course[:10], 5.0, HUB, 2.0)]


def pacemaker(anatomy: Phantom, lesion: Lesion) -> list[Stroke]:
    """A generator under a clavicle, one lead to the right ventricle and, in most, one to the right atrium."""
    side, out = lesion.side, OUTWARD[lesion.side]
    place = lesion.draw("place")
    rim = _rim(anatomy, side, anatomy.outlines[f"{side} lung"][:, 1].max() - 34 - 14 * place)
    x = rim[2] + out * (4 + 10 * place)
    centre = np.array([_skin(anatomy, rim[1], x) - 14, rim[1], x])
    turn = lesion.between("turn", -0.4, 0.4)

    def pocket(outwards: np.ndarray, up: np.ndarray) -> np.ndarray:
        """Places (N, 3) in the generator's plane, flat against the chest, mm from its middle."""
        rise = np.cos(turn) * up + np.sin(turn) * outwards
        return centre + np.stack([0 * up, rise, out * (np.cos(turn) * outwards - np.sin(turn) * up)], axis=1)

    # A rounded box (superellipse) 7 mm thick, and on it the header into which the leads are plugged.
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    across, up = (np.sign(part) * np.abs(part) ** 0.65 for part in (np.cos(angle), np.sin(angle)))
    bodies = [
        Stroke(np.concatenate([outline - (3.5, 0, 0), outline + (3.5, 0, 0)]), None, density)
        for outline, density in (
            (pocket(23 * across, 19 * up), GENERATOR),
            (pocket(1 + 15 * across, 21 + 5 * up), HEADER),
        )
    ]
    # The spare lead is wound round the generator before it enters the subclavian vein.
    wound = np.array([(-8, 22), (14, 30), (26, 12), (18, -22), (-6, -27), (-27, -8), (-22, 14)], dtype=float)
    vein = anatomy.centrelines[f"{side} brachiocephalic vein"]
    entry = vein[0] + np.array([(26, -6, 66), (12, 4, 42), (1, 5, 18)]) * (1, 1, out)
    down = np.concatenate([pocket(*wound.T), entry, _into_the_atrium(anatomy, vein)])
    heart = anatomy.outlines["heart"]
    low, size = heart.min(axis=0), np.ptp(heart, axis=0)
    ventricle = [(0.56, 0.22, 0.26), (0.68, 0.14, 0.42), (0.78, 0.17, 0.62), (0.84, 0.20, 0.80)]
    appendage = [(0.54, 0.26, 0.18), (0.64, 0.21, 0.20), (0.72, 0.26, 0.22), (0.70, 0.36, 0.22)]
    ends = [ventricle, appendage] if lesion.draw("leads") < 0.6 else [ventricle]
    return bodies + [
        Stroke(smooth(np.concatenate([down + 1.5 * i, low + size * end])), 2.0, LEAD)
        for i, end in enumerate(ends)
    ]


def sternal_wires(anatomy: Phantom, lesion: Lesion) -> list[Stroke]:
    """5 to 7 loops of steel wire round the breastbone, each twisted in front: 3 strokes per loop."""
    bone = anatomy.centrelines["sternum"]
    count = 5 + int(3 * lesion.draw("count"))
    angle, along = np.linspace(0, 2 * np.pi, 33), np.linspace(0, 1, 25)[:, None]
    strokes = []
    for i in range(count):

        def between(question: str, low: float, high: float, i: int = i) -> float:
            return lesion.between(f"{question} {i}", low, high)

        share = 0.06 + 0.86 * (i + between("gap", -0.12, 0.12)) / (count - 1)
        centre = bone[round(min(max(share, 0), 1) * (len(bone) - 1))] + (0, 0, between("x", -2.5, 2.5))
        tilt, roll, half = between("tilt", -4, 4), between("roll", -3.5, 3.5), between("width", 10, 16)
        front, right = np.cos(angle), np.sin(angle)
        loop = centre + np.stack([8 * front, tilt * front + roll * right, half * right], axis=1)
        # The twist starts at the front of the loop and is bent flat against the bone.
        bend = between("bend", -np.pi, np.pi)
        twist = loop[0] + along * 6 * np.array([0.25, -np.cos(bend), np.sin(bend)])
        for phase in (0, np.pi):
            wound = 6 * np.pi * along + phase
            strand = twist + 0.75 * np.concatenate([np.cos(wound), 0 * along, np.sin(wound)], axis=1)
            strokes.append(Stroke(strand, 1.0, STEEL))
        strokes.append(Stroke(loop, 1.0, STEEL))
    return strokes


def _opaque_line(course: np.ndarray, width: float, last_hole: float) -> list[Stroke]:
    """The opaque line of a tube in two parts: it is cut at the side hole `last_hole` mm from the tip."""
    hole = _before_end(course, last_hole)
    return [Stroke(part, width, OPAQUE) for part in (course[: hole - 1], course[hole + 2 :])]


def _into_the_atrium(anatomy: Phantom, vein: np.ndarray) -> np.ndarray:
    """Knots (K, 3) down a brachiocephalic vein and the superior vena cava, to 8 mm in the right atrium."""
    cava, end = anatomy.centrelines["superior vena cava"], anatomy.landmarks["cavoatrial junction"]
    down = cava[2:-3:4]
    return np.concatenate([vein[::4], down[down[:, 1] < vein[-1, 1] - 4], [end, end + (0, -8, 2)]])


def _before_end(course: np.ndarray, mm: float) -> int:
    """Index of the point of a course (N, 3) that lies `mm` before its end, along it."""
    left = np.cumsum(np.linalg.norm(np.diff(course, axis=0), axis=1)[::-1])
    return max(4, len(course) - 1 - int(np.searchsorted(left, mm)))


def _rim(anatomy: Phantom, side: str, z: float) -> np.ndarray:
    """(y, z, x) mm of the outermost place of a lung at a height, in the middle of its depth there."""
    level = anatomy.lung[side][:, round(z / anatomy.spacing[1])] > 0.5
    x = np.flatnonzero(level.any(axis=0))[-1 if side == "left" else 0]
    return np.array([np.flatnonzero(level[:, x]).mean() * anatomy.spacing[0], z, x * anatomy.spacing[2]])


def _skin(anatomy: Phantom, z: float, x: float) -> float:
    """y (mm) of the body's front at a height and a distance across."""
    column = anatomy.hu[:, round(z / anatomy.spacing[1]), round(x / anatomy.spacing[2])]
    return float(np.flatnonzero(column > -300)[-1] * anatomy.spacing[0])


# Finding -> the parts of its device.
STROKES = {
    "pacemaker": pacemaker,
    "central venous catheter": central_venous_catheter,
    "endotracheal tube": endotracheal_tube,
    "enteric tube": enteric_tube,
    "chest tube": chest_tube,
    "sternal wires": sternal_wires,
}
