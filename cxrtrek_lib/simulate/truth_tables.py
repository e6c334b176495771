"""Truth of many films (the dicts of scene.film) as tables: findings, boxes and one row per film."""

import polars as pl

from cxrtrek_lib import tables

# One row per film. rendered: findings that the film shows, visibility_mm: of each; not_visible: planned ones
# that are too faint to assert; drawn: "finding: attribute" that the hash decided, not the annotation.
SCENES = {
    "sample_id": pl.String, "film": pl.String, "view": pl.String, "exposure": pl.String, "sex": pl.String,
    "rotation_deg": pl.Float64, "tilt_deg": pl.Float64, "roll_deg": pl.Float64, "inspiration": pl.Float64,
    "source_mm": pl.Float64, "scatter": pl.Float64, "cardiothoracic_ratio": pl.Float64,
    "rendered": pl.List(pl.String), "visibility_mm": pl.List(pl.Float64), "not_visible": pl.List(pl.String),
    "drawn": pl.List(pl.String),
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
            "rendered": [row["finding"] for row in present],
            "visibility_mm": [row["visibility_mm"] for row in present],
            "not_visible": [row["finding"] for row in truth["not_visible"]],
            "drawn": [f"{row['finding']}: {word}" for row in present for word in row["drawn"]],
        })  # fmt: skip
    return pl.DataFrame(rows, schema=SCENES)
