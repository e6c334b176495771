"""From the facts of a study to the lesions of its scene: what the annotation leaves open is drawn by hash."""

from typing import NamedTuple

import numpy as np

from cxrtrek_lib import draws
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.simulate.catalogue import (
    IMPLIES,
    RENDERABLE,
    SEVERITY_SHARES,
    SHOWN,
    place_of,
    side_of_place,
)
from cxrtrek_lib.tables import SEVERITIES, STATUSES

_COLUMNS = ("status", "laterality", "severity", "location")


class Planned(NamedTuple):
    """A finding of the scene, nothing left open. drawn: names of the attributes that the hash decided."""

    finding: str
    laterality: str | None
    severity: str | None
    location: str | None
    drawn: tuple[str, ...]

    def sides(self) -> tuple[str | None, ...]:
        """The sides on which it lies; (None,) for a finding without sides."""
        return ("left", "right") if self.laterality == "bilateral" else (self.laterality,)


class Lesion(NamedTuple):
    """One side of a planned finding, ready to be put into the anatomy; side None: it has none.

    place is None or one of SHOWN[finding].places. Every draw depends on (seed, patient, finding, side,
    question), never on the study: a later film of the patient shows the lesion in place, and of the same size
    while its grade is the same. `at` (middle, extent), (3,) mm each, is where a reader boxed it (boxed.py).
    """

    finding: str
    side: str | None
    severity: str | None
    place: str | None
    patient_id: str
    seed: int
    at: tuple[np.ndarray, np.ndarray] | None = None

    def draw(self, question: str) -> float:
        """In [0, 1)."""
        return draws.uniform(self.seed, self.patient_id, f"{self.finding}/{self.side}/{question}")

    def between(self, question: str, low: float, high: float) -> float:
        """In [low, high)."""
        return low + (high - low) * self.draw(question)

    def within(self, limits: dict[str, tuple[float, float]]) -> float:
        """A size within the limits of the lesion's grade, at the patient's own share of the way."""
        return self.between("size", *limits[self.severity])


def lesions(plan: Planned, patient_id: str, seed: int) -> list[Lesion]:
    """A planned finding side by side."""
    return [
        Lesion(plan.finding, side, plan.severity, plan.location, patient_id, seed) for side in plan.sides()
    ]


def resolve(study: dict, seed: int) -> list[Planned]:
    """The findings to render, open attributes drawn. Raises ValueError (one line) for what no film can show.

    Side and place depend on (patient, finding): a prior film shows the same lesion in place. Severity
    depends on the study: it may grow. An uncertain finding is present in half of the draws, then mild; never
    when the study denies what it implies.
    What another finding implies (catalogue.IMPLIES) gets no lesion of its own on that finding's sides: a
    report that says "opacity, consolidation" speaks of one shadow.
    """
    sample = study["sample_id"]
    known: dict[str, dict] = {}
    for row in study["findings"]:
        name = row["finding"]
        problem = impossible(row)
        if problem:
            raise ValueError(f"{sample}: {problem}")
        if name in known and _facts(row) != _facts(known[name]):
            raise ValueError(f"{sample}: {name} is stated twice, {_facts(known[name])} and {_facts(row)}; "
                             "keep one row")  # fmt: skip
        known[name] = row
    plans = {}
    for name, shown in SHOWN.items():
        row = known.get(name, {"status": "absent"})
        uncertain = row["status"] == "uncertain"
        if row["status"] == "absent" or uncertain and draws.uniform(seed, sample, f"{name}/uncertain") < 0.5:
            continue
        denied = [each for each in IMPLIES[name] if known.get(each, {}).get("status") == "absent"]
        if denied and uncertain:
            continue
        if denied:
            raise ValueError(f"{sample}: {name} is present and {denied[0]} absent, but a film with the one "
                             "shows the other; drop the row that is wrong")  # fmt: skip
        place, of_place = place_of(row.get("location")), side_of_place(row.get("location"))
        side, severity = row.get("laterality") or of_place, row.get("severity")
        drawn = []
        if side is None and shown.sides:
            side = _choose(draws.uniform(seed, study["patient_id"], f"{name}/side"), shown.sides)
            drawn.append("laterality")
        if severity is None and shown.graded:
            share = 0.0 if uncertain else draws.uniform(seed, sample, f"{name}/severity")
            severity = _choose(share, SEVERITY_SHARES)
            drawn.append("severity")
        plans[name] = Planned(name, side, severity, place, tuple(drawn))
    return [kept for each in plans.values() if (kept := _own(each, plans)) is not None]


def impossible(row: dict) -> str | None:
    """Why no film can show what one row says of a finding, in one line; None when one can.

    row  {"finding", "status", "laterality", "severity", "location"}; the last three may be None or missing.
    A finding that films cannot show may be absent: that asks for nothing.
    """
    name, status = row["finding"], row["status"]
    if name not in FINDINGS:
        return f"unknown finding {name!r}; findings.FINDINGS lists the names"
    if status not in STATUSES:
        return f"{name} is {status!r}; a finding is {', '.join(STATUSES)}"
    if status == "absent":
        return None
    if name not in SHOWN:
        return f"{name} cannot be rendered; films show {', '.join(RENDERABLE)}"
    shown, side, severity = SHOWN[name], row.get("laterality"), row.get("severity")
    if side is not None and side not in shown.sides:
        return f"{name} cannot be {side!r}; allowed: {', '.join(shown.sides) or 'no side'}"
    grades = SEVERITIES if shown.graded else ()
    if severity is not None and severity not in grades:
        return f"{name} cannot be {severity!r}; allowed: {', '.join(grades) or 'no severity'}"
    place, of_place = place_of(row.get("location")), side_of_place(row.get("location"))
    if place is not None and place not in shown.places:
        allowed = ", ".join(sorted(shown.places)) or "no place"
        return f"{name} cannot be in the {place!r}; allowed: {allowed}"
    if of_place is not None and (of_place not in shown.sides or side not in (None, of_place)):
        return f"{name} is {side or 'without a side'} and in the {row['location']!r}, which is {of_place}"
    return None


def _own(plan: Planned, plans: dict[str, Planned]) -> Planned | None:
    """The finding on those of its sides where no other one implies it; None when no side is left."""
    above = [other for other in plans.values() if plan.finding in IMPLIES[other.finding]]
    if not above:
        return plan
    taken = {side for other in above for side in other.sides()}
    free = [side for side in plan.sides() if side not in taken]
    # A side that was drawn is no fact: the report spoke of the other finding's.
    if None in taken or not free or "laterality" in plan.drawn:
        return None
    return plan if len(free) == len(plan.sides()) else plan._replace(laterality=free[0])


def _facts(row: dict) -> str:
    """What a row says, in words."""
    return " ".join(str(row[column]) for column in _COLUMNS if row.get(column) is not None)


def _choose(share: float, shares: dict[str, float]) -> str:
    """The option in whose part of [0, 1) the draw falls."""
    return list(shares)[int(np.searchsorted(np.cumsum(list(shares.values()))[:-1], share, side="right"))]
