"""What a film shows, exactly: boxes of findings and regions in percent, visibility in mm of water.

`region_boxes` and `film_change` measure; `told` turns what was measured into what is asserted.
"""

from collections.abc import Sequence

import numpy as np

from cxrtrek_lib.simulate import catalogue, projector
from cxrtrek_lib.simulate.geometry import Geometry
from cxrtrek_lib.simulate.plan import Planned
from cxrtrek_lib.tables import SEVERITIES

TRUTH_SIZE = 160  # samples of the plane on which findings are measured: boxes do not depend on the film's
VISIBLE_MM = 4.0  # a finding that changes its own footprint by less is not asserted
FRINGE = 0.05  # share of the change that may be too faint to count for a finding's box
TRIM = 0.003  # share of the rest that may lie outside each side of the box
SHOWN = 0.6  # share of a region's box that must lie on the film for the region to be named
Key = tuple[str, str | None]  # (finding, side)
Seen = tuple[float, list[float] | None]  # visibility in mm of water, box in percent


def region_boxes(geo: Geometry, outlines: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """{region: [x1, y1, x2, y2]} in percent of the film, for regions of which at least SHOWN is on the film.

    outlines  {region: (N, 3) mm in the phantom}. A box is the extent of the projected points, so it is exact
    for the mask whose rim they are; it is cut at the film's edge.
    """
    boxes = {}
    for region, on_film in projector.place(geo, outlines).items():
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
    The box leaves out the faint fringe, at most FRINGE of the change, and of the rest `trim` on each side.
    pixel is the size of one sample, percent of the film.
    """
    inside = ((positions >= 0) & (positions <= 100)).all(axis=1) & (strength > 0)
    if not inside.any():
        return 0.0, None
    positions, strength = positions[inside], strength[inside]
    visibility = float(strength[strength > 0.25 * strength.max()].mean())
    # Faint fringes (a meniscus thinning out, interpolation) would push the box far from what can be seen.
    rising = np.sort(strength)
    fringe = rising[np.searchsorted(np.cumsum(rising), FRINGE * rising.sum())]
    seen = strength >= min(0.08 * rising[-1], fringe)
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


def told(
    plans: list[Planned],
    seen: dict[Key, Seen],
    regions: dict[str, list[float]],
    view: str,
    clipped: Sequence[str] = (),
) -> tuple[list[dict], list[dict], list[dict]]:
    """What a film says of every finding of catalogue.SHOWN; each is in one of the three lists returned.

    seen     (finding, side) -> (visibility in mm, box or None) of what was planned
    regions  {region: box} of the film
    clipped  regions that the film cuts off
    shown      present or absent: finding, status, laterality, severity, location (a lung zone, for
               catalogue.FOCAL), visibility_mm, drawn, implied_by (names; empty for what was planned), boxes
               {side or "": box}
    not_visible  the same for planned findings that the film does not show
    undecided  {"finding", "because"}: asserted neither way, since another finding, the view or the film's
               edge forbids it
    A lateral film lays one side over the other: findings there have no laterality and one box.
    """
    lateral = view == "LATERAL"
    if lateral:
        plans = [each._replace(laterality=None) for each in plans]
        seen = _sides_as_one(seen)
    rows = {each.finding: _row(each, seen, regions) for each in plans}
    hidden = {name: row for name, row in rows.items() if not row["boxes"]}
    undecided = {name: "lateral view" for name in catalogue.NOT_IN_LATERAL if lateral}
    present = {name: row for name, row in rows.items() if row["boxes"] and name not in undecided}
    for region in clipped:
        place = region.split(" ", 1)[1]
        undecided |= dict.fromkeys(catalogue.AT_AN_END.get(place, ()), f"{region} cut off")
    for cause, least, names in catalogue.CANNOT_DENY:
        if cause in present and _reaches(present[cause]["severity"], least):
            undecided |= dict.fromkeys(names, cause)
    for cause in hidden:
        undecided |= dict.fromkeys(catalogue.IMPLIES[cause], f"hidden {cause}")
    for cause in list(present):
        for name in catalogue.IMPLIES[cause]:
            boxes = _implied_boxes(name, present[cause]["boxes"], regions, lateral)
            if boxes:
                present[name] = _with_implied(present.get(name), name, present[cause], boxes, regions)
            else:
                undecided[name] = cause
    # What is seen is asserted, whatever stands beside it; what was planned and is not seen is hidden.
    hidden = {name: row for name, row in hidden.items() if name not in present}
    undecided = {name: why for name, why in undecided.items() if name not in present and name not in hidden}
    shown = []
    for name in catalogue.SHOWN:
        if name in present:
            shown.append(present[name])
        elif name not in hidden and name not in undecided:
            shown.append(_plain(name, "absent"))
    open_ = [{"finding": name, "because": undecided[name]} for name in catalogue.SHOWN if name in undecided]
    return shown, list(hidden.values()), open_


def _plain(name: str, status: str) -> dict:
    """A row of nothing but a status."""
    return {"finding": name, "status": status, "laterality": None, "severity": None, "location": None,
            "visibility_mm": 0.0, "drawn": [], "implied_by": [], "boxes": {}}  # fmt: skip


def _row(this: Planned, seen: dict[Key, Seen], regions: dict[str, list[float]]) -> dict:
    """A planned finding as the film shows it; `boxes` is empty when it shows none of it."""
    name = this.finding
    measured = {side: seen.get((name, side), (0.0, None)) for side in this.sides()}
    boxes = {side or "": box for side, (mm, box) in measured.items() if box and mm >= VISIBLE_MM}
    if boxes and name in catalogue.ORGANS and catalogue.ORGANS[name] in regions:
        boxes = {"": regions[catalogue.ORGANS[name]]}
    held = [regions[each] for each in catalogue.OF_REGIONS.get(name, ()) if each in regions]
    boxes = {side: merged([box, *held]) for side, box in boxes.items()}
    # Of two sides one may be hidden: only the other is asserted.
    side = next(iter(boxes)) if this.laterality == "bilateral" and len(boxes) == 1 else this.laterality
    return {
        **_plain(name, "present"),
        "laterality": side,
        "severity": this.severity,
        "location": _zone(name, boxes, regions),
        "visibility_mm": round(max(mm for mm, _ in measured.values()), 2),
        "drawn": list(this.drawn),
        "boxes": boxes,
    }


def _with_implied(row: dict | None, name: str, cause: dict, boxes: dict, regions: dict) -> dict:
    """The row of a finding that another one implies: what it was before, and the other's boxes."""
    row = _plain(name, "present") if row is None else row
    both = {
        side: merged([each[side] for each in (row["boxes"], boxes) if side in each])
        for side in ("left", "right", "")
        if side in row["boxes"] or side in boxes
    }
    sides = [side for side in both if side]
    return {
        **row,
        "laterality": "bilateral" if len(sides) == 2 else sides[0] if sides else None,
        "location": _zone(name, both, regions),
        "visibility_mm": max(row["visibility_mm"], cause["visibility_mm"]),
        "implied_by": [*row["implied_by"], cause["finding"]],
        "boxes": both,
    }


def _implied_boxes(name: str, boxes: dict, regions: dict, lateral: bool) -> dict[str, list[float]]:
    """Boxes of a finding that is implied by one with `boxes`; {} when the film does not show the place."""
    if name == "costophrenic angle blunting":
        angles = {side: regions.get(f"{side} costophrenic angle") for side in boxes}
        return {side: box for side, box in angles.items() if box}
    if lateral or not catalogue.SHOWN[name].sides or "" not in boxes:
        return boxes
    # Edema has no side, an opacity has: the part of its box in each lung.
    halves = {}
    for side in ("left", "right"):
        lung = regions.get(f"{side} lung")
        if lung:
            part = [*np.maximum(boxes[""][:2], lung[:2]), *np.minimum(boxes[""][2:], lung[2:])]
            if part[0] < part[2] and part[1] < part[3]:
                halves[side] = [float(value) for value in part]
    return halves


def _sides_as_one(seen: dict[Key, Seen]) -> dict[Key, Seen]:
    """The same for a film on which left and right lie over each other."""
    one: dict[Key, Seen] = {}
    for (name, _), (mm, box) in seen.items():
        before, known = one.get((name, None), (0.0, None))
        boxes = [each for each, size in ((known, before), (box, mm)) if each and size >= VISIBLE_MM]
        one[name, None] = max(mm, before), merged(boxes) if boxes else None
    return one


def _reaches(severity: str | None, least: str | None) -> bool:
    """Whether a grade is at least another; any is when that is None."""
    return least is None or severity is not None and SEVERITIES.index(severity) >= SEVERITIES.index(least)


def _zone(name: str, boxes: dict[str, list[float]], regions: dict[str, list[float]]) -> str | None:
    """The lung zone in which a focal finding has the middle of its box; None when its sides differ."""
    if name not in catalogue.FOCAL or not boxes:
        return None
    found = {_zone_of(side, box, regions) for side, box in boxes.items()}
    return found.pop() if len(found) == 1 else None


def _zone_of(side: str, box: list[float], regions: dict[str, list[float]]) -> str | None:
    middle = 0.5 * (box[1] + box[3])
    zones = [zone for zone in ("upper", "mid", "lower") if f"{side} {zone} lung zone" in regions]

    def distance(zone: str) -> float:
        _, top, _, bottom = regions[f"{side} {zone} lung zone"]
        return max(top - middle, middle - bottom, 0)

    return f"{min(zones, key=distance)} lung zone" if zones else None
