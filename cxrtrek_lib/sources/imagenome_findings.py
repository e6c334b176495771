"""Chest ImaGenome's sentences -> findings with side, zone and severity, put together with a study's labels.

What the labels mean, and which of their statements are not taken, stands in imagenome.py.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import polars as pl

from cxrtrek_lib.findings import FINDINGS, GRADED, SIDED, ancestors
from cxrtrek_lib.sources import common
from cxrtrek_lib.tables import FINDINGS as FINDINGS_TABLE
from cxrtrek_lib.tables import SEVERITIES

# Region without its side -> place of a finding; the whole lung says no place.
ZONES = {
    "upper lung zone": "upper lung zone", "mid lung zone": "mid lung zone",
    "lower lung zone": "lower lung zone", "apical zone": "lung apex", "hilar structures": "hilum",
}  # fmt: skip
# "kind|label" -> canonical name. A label that names two things ("pulmonary edema/hazy opacity") is unmapped.
IMAGENOME: dict[str, str | None] = common.inverted({
    None: (
        "nlp|abnormal", "nlp|normal", "technicalassessment|rotated", "technicalassessment|artifact",
        "technicalassessment|breast/nipple shadows", "technicalassessment|skin fold", "texture|opacity",
        "texture|alveolar", "texture|interstitial", "texture|calcified", "texture|lucency",
    ),
    "lung opacity": ("anatomicalfinding|lung opacity",),
    "airspace opacity": ("anatomicalfinding|airspace opacity",),
    "consolidation": ("anatomicalfinding|consolidation",),
    "infiltrate": ("anatomicalfinding|infiltration",),
    "atelectasis": (
        "anatomicalfinding|atelectasis", "anatomicalfinding|linear/patchy atelectasis",
        "anatomicalfinding|lobar/segmental collapse",
    ),
    "vascular congestion": (
        "anatomicalfinding|vascular congestion", "anatomicalfinding|vascular redistribution",
    ),
    "interstitial opacity": ("anatomicalfinding|increased reticular markings/ild pattern",),
    "pleural effusion": ("anatomicalfinding|pleural effusion",),
    "costophrenic angle blunting": ("anatomicalfinding|costophrenic angle blunting",),
    "scarring": ("anatomicalfinding|pleural/parenchymal scarring",),
    "bronchiectasis": ("anatomicalfinding|bronchiectasis",),
    "cardiomegaly": ("anatomicalfinding|enlarged cardiac silhouette",),
    "mediastinal shift": ("anatomicalfinding|mediastinal displacement",),
    "enlarged cardiomediastinum": ("anatomicalfinding|mediastinal widening",),
    "hilar enlargement": ("anatomicalfinding|enlarged hilum",),
    "aortic elongation": ("anatomicalfinding|tortuous aorta",),
    "pneumomediastinum": ("anatomicalfinding|pneumomediastinum",),
    "pneumothorax": ("anatomicalfinding|pneumothorax",),
    "hydropneumothorax": ("anatomicalfinding|hydropneumothorax",),
    "lung lesion": ("anatomicalfinding|lung lesion",),
    "nodule or mass": (
        "anatomicalfinding|mass/nodule (not otherwise specified)",
        "anatomicalfinding|multiple masses/nodules",
    ),
    "nodule": ("anatomicalfinding|calcified nodule",),
    "rib fracture": ("anatomicalfinding|rib fracture",),
    "clavicle fracture": ("anatomicalfinding|clavicle fracture",),
    "fracture": ("anatomicalfinding|spinal fracture",),
    "hyperinflation": ("anatomicalfinding|hyperaeration",),
    "hemidiaphragm elevation": ("anatomicalfinding|elevated hemidiaphragm",),
    "diaphragmatic eventration": ("anatomicalfinding|diaphragmatic eventration (benign)",),
    "pneumoperitoneum": ("anatomicalfinding|sub-diaphragmatic air",),
    "subcutaneous emphysema": ("anatomicalfinding|subcutaneous air",),
    "hernia": ("anatomicalfinding|hernia",),
    "scoliosis": ("anatomicalfinding|scoliosis",),
    "degenerative spine changes": ("anatomicalfinding|spinal degenerative changes",),
    "bone lesion": ("anatomicalfinding|bone lesion",),
    "low lung volumes": ("technicalassessment|low lung volumes",),
    "pneumonia": ("disease|pneumonia",),
    "granuloma": ("disease|granulomatous disease",),
    "goiter": ("disease|goiter",),
    "pericardial effusion": ("disease|pericardial effusion",),
    "chest tube": ("tubesandlines|chest tube",),
    "endotracheal tube": ("tubesandlines|endotracheal tube",),
    "tracheostomy tube": ("tubesandlines|tracheostomy tube",),
    "enteric tube": ("tubesandlines|enteric tube",),
    "central venous catheter": (
        "tubesandlines|picc", "tubesandlines|ij line", "tubesandlines|chest port",
        "tubesandlines|subclavian line",
    ),
    "sternal wires": ("device|sternotomy wires",),
    "heart valve prosthesis": ("device|prosthetic valve",),
    "pacemaker": ("device|cardiac pacer and wires",),
})  # fmt: skip

# "kind|label" -> defect of the image (studies.quality).
DEFECTS = {"technicalassessment|rotated": "rotated", "technicalassessment|artifact": "artifact"}
# Kinds of label that describe a sentence and are no finding themselves.
CUES = ("severity", "temporal", "texture", "comparison", "laterality")
# What names a side in a sentence, in lower case; "upright" does not.
SIDE_WORDS = {
    side: re.compile(rf"\b(?:{side}|both|bilateral|bibasilar|bibasal|biapical)") for side in ("left", "right")
}
# Lists of a region, one entry per sentence.
SENTENCES = ("attributes", "phrases", "sections", "severity_cues")
NAMES = list(FINDINGS)

# Columns of a statement: about a finding, in one region, by one sentence of one graph.
STATEMENT = {
    "graph": pl.UInt32, "region": pl.String, "finding": pl.UInt16, "label": pl.String, "yes": pl.Boolean,
    "severity": pl.UInt8, "hedged": pl.Boolean, "named": pl.Boolean,
}  # fmt: skip


class Said(NamedTuple):
    """What the labels of one sentence say.

    findings  (number in NAMES, yes or no, the label, whether a severity in the sentence can only be its own)
    cues      labels of the kinds in CUES
    notes     ("defect", one of DEFECTS' values) or ("unmapped", a label that the vocabulary does not hold)
    """

    findings: tuple[tuple[int, bool, str, bool], ...]
    cues: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]


@lru_cache(maxsize=100_000)
def said(labels: tuple[str, ...]) -> Said:
    """The labels of one sentence, sorted out.

    >>> [(NAMES[n], yes) for n, yes, *_ in said(("anatomicalfinding|yes|atelectasis", "nlp|yes|abnormal"))[0]]
    [('atelectasis', True)]
    """
    stated, cues, notes = [], [], []
    for label in labels:
        kind, _, rest = label.partition("|")
        truth, _, name = rest.partition("|")
        key = f"{kind}|{name}"
        if kind in CUES and key not in IMAGENOME:
            cues.append(label)
        elif key not in IMAGENOME or truth not in ("yes", "no"):
            notes.append(("unmapped", key))
        elif key in DEFECTS and truth == "yes":
            notes.append(("defect", DEFECTS[key]))
        elif IMAGENOME[key] is not None:
            stated.append((IMAGENOME[key], truth == "yes", label))
    affirmed = {finding for finding, yes, _ in stated if yes}
    denied = {finding for finding, yes, _ in stated if not yes}
    general = {above for finding in affirmed for above in ancestors(finding)}
    only = affirmed - general if len(affirmed - general) == 1 else set()
    # "No consolidation" does not deny every opacity, although the graph notes both.
    moot = general | {above for finding in denied for above in ancestors(finding)}
    kept = [
        (NAMES.index(finding), yes, label, finding in only)
        for finding, yes, label in stated
        if yes or finding not in moot
    ]
    return Said(tuple(kept), tuple(cues), tuple(notes))


def statements(number: int, region: dict[str, Any], notes: set[tuple[int, str, str]]) -> Iterator[tuple]:
    """STATEMENT rows of one region of graph `number`; what Said calls notes is added with that number.

    Raises KeyError or TypeError when the region lacks a list, and ValueError when they differ in length.
    """
    name = region["bbox_name"]
    where = name if name and region.get(name) is True else ""
    side = side_of(where)
    columns = [region[key] for key in SENTENCES]
    for labels, phrase, section, severities in zip(*columns, strict=True):
        if section != "finalreport":
            notes.add((number, "unmapped", f"section {section}"))
            continue
        findings, cues, noted = said(tuple(labels))
        notes.update((number, *note) for note in noted)
        grades = {cue.rpartition("|")[2] for cue in (*severities, *cues) if cue.startswith("severity|yes|")}
        notes.update((number, "unmapped", f"severity|{cue}") for cue in grades - {*SEVERITIES, "hedge"})
        hedged, grades = "hedge" in grades, grades.intersection(SEVERITIES)
        grade = SEVERITIES.index(grades.pop()) + 1 if len(grades) == 1 else 0
        named = side is not None and (
            f"laterality|yes|{side}" in cues or SIDE_WORDS[side].search(phrase.lower()) is not None
        )
        for finding, yes, label, sole in findings:
            yield number, where, finding, label, yes, grade if sole else 0, hedged, named


def side_of(region: str) -> str | None:
    """left or right, when the region's name begins with it."""
    return next((side for side in ("left", "right") if region.startswith(f"{side} ")), None)


def findings_of(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """One findings row (tables.FINDINGS) per study and finding, from statements with a column sample_id.

    Also reason -> number of findings that were made uncertain or not taken.
    """
    regions = rows["region"].unique().to_list()
    zones = {name: ZONES.get(name.removeprefix(f"{side_of(name)} ")) for name in regions}
    key = ["sample_id", "finding"]
    rows = rows.with_columns(
        side=pl.col("region").replace_strict({r: side_of(r) for r in regions}, return_dtype=pl.String),
        zone=pl.col("region").replace_strict(zones, return_dtype=pl.String),
        both=(pl.col("yes").any() & ~pl.col("yes").all()).over(*key, "region"),
    )
    sure = pl.col("yes") & ~pl.col("both") & ~pl.col("hedged")
    no = ~pl.col("yes") & ~pl.col("hedged")

    def agreed(column: str, known: pl.Expr) -> pl.Expr:
        values = pl.col(column).filter(sure & known).unique()
        return pl.when(values.len() == 1).then(values.first())

    seen = rows.group_by(key).agg(
        sure=sure.any(),
        affirmed=pl.col("yes").any(),
        hedged=(pl.col("yes") & ~pl.col("both")).any(),
        denied=(no & pl.col("side").is_null()).any()
        | ((no & (pl.col("side") == "left")).any() & (no & (pl.col("side") == "right")).any()),
        left=(sure & pl.col("named") & (pl.col("side") == "left")).any(),
        right=(sure & pl.col("named") & (pl.col("side") == "right")).any(),
        location=agreed("zone", pl.col("zone").is_not_null()),
        grade=agreed("severity", pl.col("severity") > 0),
        source_column=pl.concat_str(pl.lit("imagenome: "), pl.col("label").unique().sort().str.join(", ")),
    )
    name = pl.col("finding").replace_strict(dict(enumerate(NAMES)), return_dtype=pl.String)
    present = pl.col("status") == "present"
    side = (
        pl.when(pl.col("left") & pl.col("right"))
        .then(pl.lit("bilateral"))
        .when("left")
        .then(pl.lit("left"))
        .when("right")
        .then(pl.lit("right"))
    )
    grade = pl.col("grade").replace_strict(dict(enumerate(SEVERITIES, 1)), return_dtype=pl.String)
    seen = seen.with_columns(
        finding=name,
        status=pl.when("sure")
        .then(pl.lit("present"))
        .when("affirmed")
        .then(pl.lit("uncertain"))
        .when("denied")
        .then(pl.lit("absent")),
    ).with_columns(
        evidence_tier=pl.lit(1, dtype=pl.Int8),
        laterality=pl.when(present & pl.col("finding").is_in(SIDED)).then(side),
        # "Enlarged hilum in the hilum" says nothing new.
        location=pl.when(
            present & pl.col("finding").is_in(SIDED) & (pl.col("finding") != "hilar enlargement")
        ).then("location"),
        severity=pl.when(present & pl.col("finding").is_in(GRADED)).then(grade),
        certainty=pl.when((pl.col("status") == "uncertain") & pl.col("hedged")).then(pl.lit("possible")),
    )
    kept = seen.filter(pl.col("status").is_not_null())
    contradicted = kept.filter((pl.col("status") == "uncertain") & ~pl.col("hedged")).height
    return common.complete("findings", kept.select(c for c in FINDINGS_TABLE if c in kept.columns)), {
        "imagenome: finding made uncertain, affirmed and denied for one region": contradicted,
        "imagenome: finding denied for one side only or with a hedge, not taken": seen.height - kept.height,
    }


def put_together(labels: pl.DataFrame, graphs: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Findings of a study's labels and of its graphs as one table, one row per study and finding.

    labels, graphs  frames in tables.FINDINGS, at most one row per study and finding each
    Where both say the same, the row has the graph's side, place and severity. Where they differ the finding
    is uncertain; but a label at tier 2 (implied) gives way. A general finding is not absent where a special
    case of it is present or uncertain: such rows are left out. Also returns reason -> number of findings.
    """
    key = ["sample_id", "finding"]
    implied = pl.col("evidence_tier") > 1
    labels = pl.concat([labels.filter(~implied), labels.filter(implied).join(graphs, on=key, how="anti")])
    agree = pl.col("status") == pl.col("status_graph")
    both = labels.join(graphs, on=key, suffix="_graph").with_columns(agree=agree)
    differing = both.height - both["agree"].sum()
    doubtful = (
        pl.when(pl.col("status") == "uncertain")
        .then("certainty")
        .when(pl.col("status_graph") == "uncertain")
        .then("certainty_graph")
    )
    merged = both.with_columns(
        *(pl.when("agree").then(f"{c}_graph").alias(c) for c in ("laterality", "location", "severity")),
        status=pl.when("agree").then("status").otherwise(pl.lit("uncertain")),
        certainty=pl.when("agree").then(pl.coalesce("certainty", "certainty_graph")).otherwise(doubtful),
        source_column=pl.concat_str("source_column", pl.lit("; "), "source_column_graph"),
    )
    rows = pl.concat([
        merged.select(labels.columns),
        labels.join(graphs, on=key, how="anti"),
        graphs.join(labels, on=key, how="anti").select(labels.columns),
    ])  # fmt: skip
    lines = pl.DataFrame(
        [(name, above) for name in FINDINGS for above in ancestors(name)],
        schema=["finding", "general"],
        orient="row",
    )
    special = rows.filter(pl.col("status") != "absent").join(lines, on="finding")
    special = special.select("sample_id", finding="general").unique().with_columns(status=pl.lit("absent"))
    kept = rows.join(special, on=[*key, "status"], how="anti")
    return kept, {
        "imagenome: finding made uncertain, graph and labels differ": differing,
        "imagenome: general finding denied beside a special case of it, not taken": rows.height - kept.height,
    }
