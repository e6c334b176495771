"""Truth of many films (the dicts of scene.film) as tables: findings, boxes and one row per film."""

import polars as pl

from cxrtrek_lib import tables
from cxrtrek_lib.findings import ancestors

# A film counts as rotated when the spinous processes lie about 1 cm or more off the middle between the medial
# ends of the clavicles: from there on the chest looks changed (G. R. Aben, "Film quality", radiology
# tutorial, Michigan State University, 2009). In the phantom the clavicles end 134 and 139 mm in front of the
# processes; in 3,000 bodies drawn by `patient.body`, 5 degrees were 1 cm or more in 97 %, and 3.5 degrees
# were less in over 99 %. Between the two neither is asserted.
ROTATED_DEG, STRAIGHT_DEG = 5.0, 3.5

# Of 8 to 10 posterior ribs above the right dome readers speak of a good inspiration (see simulate.quality).
RIBS = 8
# A film is plainly blurred when an edge is spread over 2.8 mm (full width at half maximum), two pixels of a
# film of 224: ours. Below, and above 0, it is called neither blurred nor sharp.
BLURRED_MM = 1.2

# One row per film. quality: names of defects, see `quality`; rendered: findings that the film shows,
# visibility_mm: of each; not_visible: planned ones that are too faint to assert; undecided: what it leaves
# open beside others; drawn: "finding: attribute" that the hash decided, not the annotation.
SCENES = {
    "sample_id": pl.String, "film": pl.String, "view": pl.String, "exposure": pl.String, "sex": pl.String,
    "rotation_deg": pl.Float64, "tilt_deg": pl.Float64, "roll_deg": pl.Float64, "inspiration": pl.Float64,
    "ribs_above_dome": pl.Int64, "clipped": pl.List(pl.String), "motion_mm": pl.Float64,
    "source_mm": pl.Float64, "scatter": pl.Float64, "cardiothoracic_ratio": pl.Float64,
    "quality": pl.List(pl.String), "rendered": pl.List(pl.String), "visibility_mm": pl.List(pl.Float64),
    "not_visible": pl.List(pl.String), "undecided": pl.List(pl.String), "drawn": pl.List(pl.String),
}  # fmt: skip


def spoken(truth: dict, stated: set[str]) -> dict:
    """The truth of a film without what only follows from another finding, as far as nobody stated it.

    stated  findings of the film that the annotation claims
    Who says "consolidation" does not say "lung opacity" as well: such a row stays only where it is stated,
    and its box only on sides where no special case of it has one. It is never called absent.
    """
    boxes = {row["finding"]: row["boxes"] for row in truth["findings"]}
    rows = []
    for row in truth["findings"]:
        if row["implied_by"] and row["finding"] not in stated:
            continue
        special = [boxes[cause] for cause in row["implied_by"] if row["finding"] in ancestors(cause)]
        marked = {side for each in special for side in (each if "" not in each else ("left", "right", ""))}
        own = {side: box for side, box in row["boxes"].items() if side not in marked}
        rows.append({**row, "boxes": own})
    return {**truth, "findings": rows}


def findings(told: dict[str, dict], general: dict[str, dict[str, tuple[str, ...]]]) -> pl.DataFrame:
    """tables.FINDINGS rows of every film: tier 1, source_column "simulated".

    told     sample_id -> truth, see `spoken`
    general  sample_id -> {general finding that the annotation names: findings of a film, any of which is it};
             it is present when one of them is, without attributes of its own, and absent when all are
    A planned finding that the film does not show is uncertain: it is asserted neither way, and a film that
    hides one is not called normal. What a film leaves undecided has no row.
    """
    rows = []
    for sample_id, truth in told.items():
        hidden = [
            {**row, "status": "uncertain", "laterality": None, "location": None, "severity": None}
            for row in truth["not_visible"]
        ]
        shown = {row["finding"]: row for row in [*truth["findings"], *hidden]}
        rows += [_finding(sample_id, name, row, attributes=True) for name, row in shown.items()]
        for name, specials in general.get(sample_id, {}).items():
            statuses = {shown[special]["status"] if special in shown else None for special in specials}
            status = next(each for each in ("present", None, "uncertain", "absent") if each in statuses)
            if status is not None:
                rows.append(_finding(sample_id, name, {"status": status}, attributes=False))
    return tables.conform("findings", pl.DataFrame(rows, schema_overrides=tables.FINDINGS))


def _finding(sample_id: str, name: str, row: dict, *, attributes: bool) -> dict:
    kept = {column: row[column] if attributes else None for column in ("laterality", "location", "severity")}
    fixed = {"status": row["status"], "evidence_tier": 1, "certainty": None, "source_column": "simulated"}
    return {"sample_id": sample_id, "finding": name, **fixed, **kept}


def boxes(told: dict[str, dict]) -> pl.DataFrame:
    """tables.BOXES rows of every film, findings and regions: image_id 1, reader "simulated"."""
    rows = []
    for sample_id, truth in told.items():
        marked = [
            (row["finding"], side or None, box)
            for row in truth["findings"]
            for side, box in row["boxes"].items()
        ]
        marked += [(region, None, box) for region, box in truth["regions"].items()]
        for target, side, box in marked:
            corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
            fixed = {"sample_id": sample_id, "image_id": 1, "reader": "simulated"}
            rows.append({**fixed, "target": target, "laterality": side, **corners})
    return tables.conform("boxes", pl.DataFrame(rows, schema_overrides=tables.BOXES))


def scenes(told: dict[str, dict], files: list[str]) -> pl.DataFrame:
    """One row per film (SCENES); files are the films' names, in the order of `told`."""
    rows = []
    for (sample_id, truth), file in zip(told.items(), files, strict=True):
        present = [row for row in truth["findings"] if row["status"] == "present"]
        rows.append({
            **{column: truth[column] for column in SCENES if column in truth},
            "sample_id": sample_id,
            "film": file,
            "quality": quality(truth),
            "rendered": [row["finding"] for row in present],
            "visibility_mm": [row["visibility_mm"] for row in present],
            "not_visible": [row["finding"] for row in truth["not_visible"]],
            "undecided": [row["finding"] for row in truth["undecided"]],
            "drawn": [f"{row['finding']}: {word}" for row in present for word in row["drawn"]],
        })  # fmt: skip
    return pl.DataFrame(rows, schema=SCENES)


def quality(truth: dict) -> list[str] | None:
    """Technical defects of a film, as words after "The study is": "rotated", "underexposed", "overexposed",
    "poorly inspired", "clipped", "blurred"; [] when it has none of them.

    None, nothing known, when one of them is neither plainly there nor plainly not: rotation or blur between
    the bounds, the edge of a lung at the film's edge with hardly anything cut off, or a dome that stands high
    because of a finding. Tilt is left out: no bound in degrees is accepted, and ours stays under 4.5.
    """
    rotation = abs(truth["rotation_deg"])
    lungs = [truth["regions"].get(f"{side} lung", [0.0]) for side in ("left", "right")]
    at_edge = any(not 0 < edge < 100 for lung in lungs for edge in lung)
    poor = truth["ribs_above_dome"] < RIBS
    present = [row for row in truth["findings"] if row["status"] == "present"]
    dome = any(
        row["finding"] in ("hemidiaphragm elevation", "pleural effusion") and row["laterality"] != "left"
        for row in present
    )
    unknown = (
        STRAIGHT_DEG < rotation <= ROTATED_DEG,
        at_edge and not truth["clipped"],
        poor and dome,
        0 < truth["motion_mm"] < BLURRED_MM,
    )
    if any(unknown):
        return None
    defects = {
        "rotated": rotation > ROTATED_DEG,
        truth["exposure"]: truth["exposure"] != "adequate",
        "poorly inspired": poor,
        "clipped": bool(truth["clipped"]),
        "blurred": truth["motion_mm"] > 0,
    }
    return [name for name, there in defects.items() if there]
