"""What a film shows, exactly: boxes of findings and regions in percent, visibility in mm of water."""

import numpy as np

from cxrtrek_lib.simulate import projector
from cxrtrek_lib.simulate.projector import Geometry

TRUTH_SIZE = (
    160  # samples of the plane on which findings are measured: boxes do not depend on the film's size
)
VISIBLE_MM = 4.0  # a finding that changes its own footprint by less is not asserted
TRIM = 0.003  # share of the change that may lie outside each side of a finding's box
SHOWN = 0.6  # share of a region's box that must lie on the film for the region to be named


def region_boxes(geo: Geometry, outlines: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """{region: [x1, y1, x2, y2]} in percent of the film, for regions of which at least SHOWN is on the film.

    outlines  {region: (N, 3) mm in the phantom}. A box is the extent of the projected points, so it is exact
    for the mask whose rim they are; it is cut at the film's edge.
    """
    everything = np.concatenate(list(outlines.values()))
    placed = projector.percent(geo, projector.onto_film(geo, projector.onto_plane(geo, everything)))
    ends = np.cumsum([len(points) for points in outlines.values()])[:-1]
    boxes = {}
    for region, on_film in zip(outlines, np.split(placed, ends), strict=True):
        whole = [*on_film.min(axis=0), *on_film.max(axis=0)]
        cut = [min(100.0, max(0.0, float(value))) for value in whole]
        area = (whole[2] - whole[0]) * (whole[3] - whole[1])
        if (cut[2] - cut[0]) * (cut[3] - cut[1]) >= SHOWN * area > 0:
            boxes[region] = [round(value, 2) for value in cut]
    return boxes


def film_change(
    positions: np.ndarray, strength: np.ndarray, pixel: float, trim: float = TRIM
) -> tuple[float, list[float] | None]:
    """Visibility and box of changes of `strength` (N,) mm of water at positions (N, 2) (x, y) percent.

    Visibility is the mean change over the finding's own footprint: where it exceeds a quarter of its peak.
    The box leaves out `trim` of the change on each side, so at least 1 - 4 trim lies inside it.
    pixel is the size of one sample, percent of the film.
    """
    inside = ((positions >= 0) & (positions <= 100)).all(axis=1) & (strength > 0)
    if not inside.any():
        return 0.0, None
    positions, strength = positions[inside], strength[inside]
    visibility = float(strength[strength > 0.25 * strength.max()].mean())
    # Faint fringes (a meniscus thinning out, interpolation) would push the box far from what can be seen.
    seen = strength > 0.08 * strength.max()
    positions, strength = positions[seen], strength[seen]
    box = [0.0] * 4
    for axis in (0, 1):
        order = np.argsort(positions[:, axis], kind="stable")
        mass = np.cumsum(strength[order])
        first, last = np.searchsorted(mass, (trim * mass[-1], (1 - trim) * mass[-1]))
        ends = positions[order[[first, min(last, len(order) - 1)]], axis]
        box[axis] = max(0.0, float(ends[0]) - pixel / 2)
        box[axis + 2] = min(100.0, float(ends[1]) + pixel / 2)
    return visibility, [round(value, 2) for value in box]


def merged(boxes: list[list[float]]) -> list[float]:
    """The smallest box around several."""
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    return [float(low[0]), float(low[1]), float(high[2]), float(high[3])]
