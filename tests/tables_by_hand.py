"""Small studies, findings and boxes tables written by hand."""

import polars as pl

from cxrtrek_lib import tables


def studies(*rows):
    """One dict per study; what is left out gets a plain default."""
    full = []
    for n, row in enumerate(rows):
        base = {
            **dict.fromkeys(tables.STUDIES), "source": "made", "patient_id": f"made/p{n}",
            "study_id": f"s{n}",
            "order": 0, "split": "train", "views": ["PA"], "image_origin": "none",
        }  # fmt: skip
        base |= row
        base["images"] = base["images"] or [f"{base['sample_id']}/{i}.png" for i in range(len(base["views"]))]
        full.append(base)
    return tables.conform("studies", pl.DataFrame(full, schema=tables.STUDIES))


def findings(*rows):
    """Tuples (sample_id, finding, status, tier, laterality, severity, location, certainty); from the
    fifth on optional."""
    names = (
        "sample_id", "finding", "status", "evidence_tier", "laterality", "severity", "location", "certainty",
    )  # fmt: skip
    full = [dict(zip(names, (*row, *[None] * (len(names) - len(row))), strict=True)) for row in rows]
    full = [{**row, "source_column": f"made: {row['finding']}"} for row in full]
    return tables.conform("findings", pl.DataFrame(full, schema=tables.FINDINGS))


def boxes(*rows):
    """Tuples (sample_id, image_id, target, x1, y1, x2, y2)."""
    names = ("sample_id", "image_id", "target", "x1", "y1", "x2", "y2")
    full = [dict(zip(names, row, strict=True)) | {"laterality": None, "reader": "made"} for row in rows]
    return tables.conform("boxes", pl.DataFrame(full, schema=tables.BOXES))
