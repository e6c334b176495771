"""Where in a lung lies what a reader boxed on another film of the same kind: middle and extent of a lesion.

The reader's box is taken in percent of the film, as if the simulated patient stood as the boxed one did. Only
visible lung can hold a lesion: a box that lies beside it moves to the nearest place there, and what hangs out
of the lung is cut off. So the film's own box is not the reader's, only near it.
"""

import numpy as np

from cxrtrek_lib.simulate import phantom, projector
from cxrtrek_lib.simulate.geometry import Geometry
from cxrtrek_lib.simulate.plan import Lesion

STEP_MM = 10.0  # over which the film's percent per mm are measured about a place
# The box of a haze reaches further than its extent, where it is down to 1/e: measured over RSNA's boxes.
BOX_PER_EXTENT = 1.37
LEAST_MM = (24.0, 9.0, 9.0)  # extent (depth, height, breadth) below which a film hardly shows a haze


def with_places(lesions: list[Lesion], findings: list[dict], geo: Geometry) -> list[Lesion]:
    """The lesions, each with the place of its box, where the study's findings have `boxes`.

    findings  rows of a study; "boxes" (optional): {"left" or "right": [x1, y1, x2, y2] in percent}
    geo       of the film that the boxes are for
    """
    boxes = {row["finding"]: row["boxes"] for row in findings if row.get("boxes")}
    return [
        each._replace(at=place(boxes[each.finding][each.side], each.side, geo))
        if each.side in boxes.get(each.finding, {})
        else each
        for each in lesions
    ]


def place(box: list[float], side: str, geo: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """(middle (3,) mm, extent (3,) mm) in the phantom, (depth, height, breadth), of a box on a frontal film.

    box  [x1, y1, x2, y2] in percent. The middle is that site of the side's lung which the film shows nearest
    to the middle of the box: sites lie 14 mm or more under the chest wall, on visible lung.
    """
    anatomy = phantom.load()
    sites = np.concatenate([anatomy.lobe_sites[name] for name in phantom.LOBES[side]]).astype(np.float64)
    corners = np.array(box, dtype=np.float64).reshape(2, 2)
    far = ((projector.place(geo, {"sites": sites})["sites"] - corners.mean(axis=0)) ** 2).sum(axis=1)
    middle = sites[np.argmin(far)]
    steps = STEP_MM * np.array([(0, 0, -1), (0, 0, 1), (0, 1, 0), (0, -1, 0)])
    right, left, up, down = projector.place(geo, {"steps": middle + steps})["steps"]
    percent_per_mm = np.array([abs(left - right)[0], abs(down - up)[1]]) / (2 * STEP_MM)
    breadth, height = (corners[1] - corners[0]) / (2 * BOX_PER_EXTENT) / percent_per_mm
    extent = np.array([1.25 * np.sqrt(breadth * height), height, breadth])
    return middle, np.maximum(extent, LEAST_MM)
