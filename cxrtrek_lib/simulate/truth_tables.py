"""Truth of many films (the dicts of scene.film) as tables: findings, boxes and one row per film."""

import polars as pl

from cxrtrek_lib import tables

# A film counts as rotated when the spinous processes lie about 1 cm or more off the middle between the medial
# ends of the clavicles: from there on the chest looks changed (G. R. Aben, "Film quality", radiology
# tutorial, Michigan State University, 2009). In the phantom the clavicles end 134 and 139 mm in front of the
# processes; in 3,000 bodies drawn by `patient.body`, 5 degrees were 1 cm or more in 97 %, and 3.5 degrees
# were less in over 99 %. Between the two neither is asserted.
ROTATED_DEG, STRAIGHT_DEG = 5.0, 3.5

# One row per film. quality: names of defects, see `quality`; rendered: findings that the film shows,
# visibility_mm: of each; not_visible: planned ones that are too faint to assert; drawn: "finding: attribute"
# that the hash decided, not the annotation.
SCENES = {
    "sample_id": pl.String, "film": pl.String, "view": pl.String, "exposure": pl.String, "sex": pl.String,
    "rotation_deg": pl.Float64, "tilt_deg": pl.Float64, "roll_deg": pl.Float64, "inspiration": pl.Float64,
    "source_mm": pl.Float64, "scatter": pl.Float64, "cardiothoracic_ratio": pl.Float64,
    "quality": pl.List(pl.String), "rendered": pl.List(pl.String), "visibility_mm": pl.List(pl.Float64),
    "not_visible": pl.List(pl.String), "drawn": pl.List(pl.String),
}  # fmt: skip


def findings(told: dict[str, dict], general: dict[str, dict[str, str]]) -> pl.DataFrame:
    """tables.FINDINGS rows of every film: tier 1, source_column "simulated".

    told     sample_id -> truth
    general  sample_id -> {general finding that the annotation names: the special one that realises it}; a
             general finding is present when the special one is, without attributes of its own
    A planned finding that the film does not show is uncertain: it is asserted neither way, and a film that
    hides one is not called normal.
    """
    rows = []
    for sample_id, truth in told.items():
        hidden = [
            {**row, "status": "uncertain", "laterality": None, "location": None, "severity": None}
            for row in truth["not_visible"]
        ]
        shown = {row["finding"]: row for row in [*truth["findings"], *hidden]}
        rows += [_finding(sample_id, name, row, attributes=True) for name, row in shown.items()]
        for name, special in general.get(sample_id, {}).items():
            rows.append(_finding(sample_id, name, shown[special], attributes=False))
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
            "drawn": [f"{row['finding']}: {word}" for row in present for word in row["drawn"]],
        })  # fmt: skip
    return pl.DataFrame(rows, schema=SCENES)


def quality(truth: dict) -> list[str] | None:
    """Technical defects of a film: "rotated", "underexposed", "overexposed"; [] when it has none of them.

    None, nothing known, when the film is neither plainly straight nor plainly rotated, or cuts off a lung.
    Inspiration is never a defect: readers count ribs above the diaphragm, and the simulator stretches the
    ribs together with the lungs, so every film shows those of the CT: 8 posterior ribs above the right dome,
    9 above the left one, within the 8 to 10 that are taught as a good inspiration. Tilt is left out: no bound
    in degrees is accepted, and ours stays under 4.5.
    """
    rotation = abs(truth["rotation_deg"])
    lungs = [truth["regions"].get(f"{side} lung", [0.0]) for side in ("left", "right")]
    cut = any(not 0 < edge < 100 for lung in lungs for edge in lung)
    if cut or STRAIGHT_DEG < rotation <= ROTATED_DEG:
        return None
    rotated = ["rotated"] if rotation > ROTATED_DEG else []
    return rotated + [truth["exposure"]] * (truth["exposure"] != "adequate")
