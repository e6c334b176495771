"""Chest ImaGenome 1.0.0 on MIMIC-CXR: boxes of anatomical regions, and findings with side, zone and severity.

One scene graph (JSON) per frontal image, 242,072 of them, in `silver_dataset/scene_graph.zip` (members
`scene_graph/<dicom_id>_SceneGraph.json`) or the folder `silver_dataset/scene_graph`. These boxes are what
lifts stage 3 from what labels alone give to the 13.7 Q&A per case of the CXRTrek paper.
objects     up to 36 regions (29 of the paper, 7 more), boxed by an atlas method, not by a reader; the 29
            are regions of ours, the others are counted as unmapped.
attributes  per region and sentence of the report: "anatomicalfinding|yes|lung opacity", and cues of severity.
            yes: present. no: absent, if the whole is denied: both sides, or an unpaired region. Both for one
            region, or "severity|yes|hedge" in every sentence: uncertain. All at tier 1, mined by rules.
            "technicalassessment|yes|rotated" and "artifact" are defects of the image (studies.quality).
Traps: `original_width` is the width of the *box*; the image's size stands in MIMIC's metadata alone. Some
boxes reach over the image's edge (cut here) or have no area (left out). x1 to y2 are on the image shrunk to
224 px and padded: they are turned back exactly where the original ones are missing. A sentence without a side
is given to both lungs: a side is taken only where the sentence names it. A cue goes with its sentence, not
its finding: a severity is taken only where the sentence affirms one finding, its generalities aside. In one
sentence "no consolidation" brings "no lung opacity" along, which is not taken. Sentences outside the final
report are left out. A finding that graph and labels see differently is uncertain. Comparisons with earlier
studies (`relationships`) are not read: stage 5 compares what each study says.
Source: Wu et al. 2021, NeurIPS Datasets and Benchmarks; doi 10.13026/wv01-y230. The padding follows the
released gold_bbox_scaling_factors_original_to_224x224.csv (top, bottom, left, right, ratio).
Licence: PhysioNet Credentialed Health Data License 1.5.0. Nothing derived from it may be shared or is kept.
"""

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib.findings import REGIONS
from cxrtrek_lib.sources import common, credentialed, imagenome_findings, mimic

CHUNK = 1_000  # studies whose graphs' rows are held as Python objects at a time
PADDED_PX = 224  # side of the padded image that x1 to y2 refer to

# ImaGenome's region -> ours, where the names differ.
RENAMED = {
    "cardiac silhouette": "heart",
    "svc": "superior vena cava",
    **{f"{side} {theirs}": f"{side} {ours}" for side in ("left", "right") for theirs, ours in (
        ("hilar structures", "hilum"), ("apical zone", "lung apex"),
    )},
}  # fmt: skip


def add(annotations: common.Annotations, folder: Path, mimic_folder: Path) -> common.Annotations:
    """The annotations of MIMIC-CXR with boxes of regions, and with findings put together with the graphs'.

    annotations   of mimic.read; only the graphs of their images are read
    folder        of Chest ImaGenome (dataset.folders.imagenome): holds silver_dataset/
    mimic_folder  of MIMIC-CXR-JPG, whose metadata hold the size of each image
    Raises FileNotFoundError or ValueError, one line, when a file is missing, damaged or unexpected, when a
    graph belongs to another study than its image, and when there is no graph of any image.
    """
    folder = credentialed.folder_of("imagenome", folder)
    images = (
        annotations.studies.select("sample_id", "images", "views")
        .explode("images", "views")
        .with_columns(
            dicom_id=pl.col("images").str.extract(r"([^/]+)\.jpg$"),
            image_id=pl.int_range(1, pl.len() + 1, dtype=pl.Int16).over("sample_id"),
        )
        .join(mimic.image_sizes(mimic_folder), on="dicom_id", how="left", maintain_order="left")
    )
    with _graphs(folder) as (names, read):
        images = images.with_columns(found=pl.col("dicom_id").is_in(names))
        graphs = images.filter("found").with_columns(study=pl.col("sample_id").rle_id())
        if graphs.is_empty():
            raise ValueError(
                f"{folder}: no scene graph of any of {images.height} images; is it the silver set?"
            )
        parts = []
        with tqdm(total=graphs.height, desc="scene graphs", unit="graph") as bar:
            for _, part in graphs.group_by(pl.col("study") // CHUNK, maintain_order=True):
                parts.append(_part(part.with_row_index("graph"), read, bar))
    boxes, found, defects = (pl.concat([part[n] for part in parts]) for n in range(3))
    unmapped, counts = (sum((part[n] for part in parts), Counter()) for n in (3, 4))
    findings, differing = imagenome_findings.put_together(annotations.findings, found)
    frontal = images.filter(pl.col("views").is_in(["AP", "PA"]) & ~pl.col("found")).height
    corrected = annotations.corrected | dict(sorted(counts.items())) | differing
    corrected |= {"imagenome: AP or PA image without a graph": frontal}
    defects = defects.group_by("sample_id").agg(pl.col("quality").sort())
    return annotations._replace(
        studies=annotations.studies.drop("quality")
        .join(defects, on="sample_id", how="left", maintain_order="left")
        .select(annotations.studies.columns),
        findings=findings,
        boxes=pl.concat([annotations.boxes, boxes]),
        unmapped=annotations.unmapped | {f"imagenome {label}": n for label, n in sorted(unmapped.items())},
        corrected={reason: n for reason, n in corrected.items() if n},
    )


@contextmanager
def _graphs(folder: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """dicom_ids that have a scene graph, and a function from such an id to the graph's JSON."""
    place = folder / "silver_dataset" / "scene_graph"
    archive = place.with_suffix(".zip")
    end = "_SceneGraph.json"
    if place.is_dir():
        names = [path.name.removesuffix(end) for path in place.iterdir() if path.name.endswith(end)]
        yield names, lambda name: (place / f"{name}{end}").read_bytes()
        return
    if not archive.is_file():
        raise credentialed.missing("imagenome", archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = {
                Path(name).name.removesuffix(end): name for name in opened.namelist() if name.endswith(end)
            }
            yield list(members), lambda name: opened.read(members[name])
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise credentialed.damaged("imagenome", archive, error) from None


_CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2", "x1", "y1", "x2", "y2")
_BOX = {"graph": pl.UInt32, "region": pl.String, **dict.fromkeys(_CORNERS, pl.Float64)}


def _part(
    graphs: pl.DataFrame, read: Callable[[str], bytes], bar: tqdm
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, Counter, Counter]:
    """What the graphs of whole studies hold, in columns.

    Boxes, findings, defects (sample_id, quality), unmapped label -> studies, correction -> number.
    """
    boxes, statements, notes, misfit = [], [], set(), 0
    for number, name, sample_id in graphs.select("graph", "dicom_id", "sample_id").iter_rows():
        graph = _parsed(read(name), name, sample_id)
        for thing in graph["objects"]:
            boxes.append((number, thing["bbox_name"], *(thing.get(corner) for corner in _CORNERS)))
        for region in graph["attributes"]:
            try:
                statements.extend(list(imagenome_findings.statements(number, region, notes)))
            except (KeyError, TypeError, ValueError, AttributeError):
                misfit += 1
        bar.update()
    image = graphs.select("graph", "sample_id", "image_id", "width", "height")
    rows, said, noted = (
        pl.DataFrame(list(each), schema=schema, orient="row", strict=False).join(image, on="graph")
        for each, schema in (
            (boxes, _BOX),
            (statements, imagenome_findings.STATEMENT),
            (notes, {"graph": pl.UInt32, "kind": pl.String, "label": pl.String}),
        )
    )
    kept, counts, strange = _boxes(rows)
    found, doubts = imagenome_findings.findings_of(
        said.select("sample_id", *imagenome_findings.STATEMENT).drop("graph").unique()
    )
    counts |= doubts | {"imagenome: region whose sentences do not fit their labels, left out": misfit}
    noted = noted.select("sample_id", "kind", "label").unique()
    defects = noted.filter(kind="defect").select("sample_id", quality="label")
    labels = [strange, noted.filter(kind="unmapped").select("sample_id", "label")]
    unmapped = Counter(pl.concat(labels).unique()["label"].to_list())
    return kept, found, defects, unmapped, Counter(counts)


def _parsed(content: bytes, name: str, sample_id: str) -> dict[str, Any]:
    """One scene graph, checked to be that of the image and study."""
    try:
        graph = json.loads(content)
        owner = f"mimic/p{graph['patient_id']}/s{graph['study_id']}"
        lists = isinstance(graph["objects"], list) and isinstance(graph["attributes"], list)
    except (ValueError, KeyError, TypeError) as error:
        raise credentialed.damaged("imagenome", f"{name}_SceneGraph.json", error) from None
    if not lists or not all(isinstance(thing.get("bbox_name"), str) for thing in graph["objects"]):
        raise credentialed.damaged("imagenome", f"{name}_SceneGraph.json", "objects without bbox_name")
    if owner != sample_id:
        raise ValueError(
            f"{name}_SceneGraph.json: graph of {owner}, but the image is of {sample_id}; "
            f"download both again from {credentialed.PLACES['imagenome'].url}"
        )
    return graph


def _boxes(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int], pl.DataFrame]:
    """Boxes of our regions in percent, reason -> number of boxes, and (sample_id, label) of other regions.

    rows  _BOX, with sample_id, image_id and the image's width and height in pixels
    """
    rows = rows.with_columns(target=pl.col("region").replace(RENAMED))
    strange = rows.filter(~pl.col("target").is_in(list(REGIONS)))
    rows = rows.filter(pl.col("target").is_in(list(REGIONS)))
    ratio = PADDED_PX / pl.max_horizontal("width", "height")
    pad = {side: ((PADDED_PX - (pl.col(side) * ratio).floor()) / 2).floor() for side in ("width", "height")}
    original = pl.all_horizontal(pl.col(_CORNERS[:4]).is_not_null())
    percent = {}
    for corner in _CORNERS[4:]:
        side = "width" if corner.startswith("x") else "height"
        pixels = pl.when(original).then(f"original_{corner}").otherwise((pl.col(corner) - pad[side]) / ratio)
        percent[corner] = (100 * pixels / pl.col(side)).round(2).fill_nan(None)
    rows = rows.with_columns(**percent)
    flat = (pl.col("x1") >= pl.col("x2")) | (pl.col("y1") >= pl.col("y2"))
    rows = rows.with_columns(
        unknown=pl.any_horizontal(pl.col("x1", "y1", "x2", "y2").is_null()),
        flat=flat.fill_null(False),
        over=(pl.min_horizontal("x1", "y1") < 0) | (pl.max_horizontal("x2", "y2") > 100),
    )
    whole = rows.filter(~pl.col("unknown") & ~pl.col("flat"))
    cut = whole.with_columns(pl.col("x1", "y1", "x2", "y2").clip(0, 100))
    inside = cut.filter(~flat)
    twice = pl.struct("sample_id", "image_id", "target").is_duplicated()
    once = inside.filter(~twice)
    counts = {
        "imagenome: box without coordinates or image size, left out": rows["unknown"].sum(),
        "imagenome: box inverted or without area, left out": rows["flat"].sum(),
        "imagenome: box outside the image, left out": cut.height - inside.height,
        "imagenome: box of a region with two different ones, left out": inside.height - once.height,
        "imagenome: box cut at the edge of the image": once["over"].sum(),
    }
    kept = once.with_columns(reader=pl.lit("imagenome: atlas method"))
    kept = kept.select("sample_id", "image_id", "target", "x1", "y1", "x2", "y2", "reader")
    labels = strange.select("sample_id", label=pl.concat_str(pl.lit("region "), "region"))
    return common.complete("boxes", kept), counts, labels
