"""Open-i (Indiana University): English reports with MeSH tags that carry side, place and severity.

File `NLMCXR_reports.tgz` of torchxrayvision 1.5.7: 3,955 XML reports, one patient each and no history; 104
have no image and are left out, which leaves 3,851 studies with 7,470 images. Each `MeSH/major` tag is
Head/qualifier/...: a finding present at tier 1 ("Pleural Effusion/left/small"), uncertain when it says
"borderline". A report whose only tag is "normal" makes the common findings absent at tier 2. No tag, no row.
Traps: `XXXX` stands for removed words and is kept in the text columns: who makes answers of them drops those
sentences. The view in the DICOM header is noisy (1,029 studies call both films PA), so a view is
known only where the header and the packaged t-SNE view agree, or where one of them is silent and the other is
the reliable one; otherwise UNKNOWN.
Source: Demner-Fushman et al. 2016, JAMIA 23(2), 304-310.
Licence: each XML says CC BY-NC-ND 4.0: no table or text derived from it may be shared. None is kept here.
"""

import io
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import polars as pl

from cxrtrek_lib.findings import CORE, SIDED
from cxrtrek_lib.sources import common

REPORTS = "NLMCXR_reports.tgz"
HEADERS = "nlmcxr_dicom_metadata.csv.gz"
TSNE_VIEWS = "nlmcxr_tsne_pa.csv.gz"

SEVERITY = {"mild": "mild", "small": "mild", "moderate": "moderate", "severe": "severe", "large": "severe"}
LOCATIONS = {
    "upper lobe": "upper lobe", "middle lobe": "middle lobe", "lower lobe": "lower lobe",
    "lingula": "lingula",
    "base": "lung base", "apex": "lung apex", "hilum": "hilum", "retrocardiac": "retrocardiac region",
}  # fmt: skip

# Open-i MeSH: "Head" or "Head/qualifier/..." -> canonical name, matched when the tag has all the qualifiers;
# the form with most qualifiers wins. A head that stands only with qualifiers ("Lung/...") says nothing alone.
OPENI: dict[str, str | None] = common.inverted({
    None: (
        "normal", "No Indexing", "Technical Quality of Image Unsatisfactory", "Nipple Shadow",
        "Contrast Media",
        "Epicardial Fat", "Cholelithiasis",
    ),
    "pleural effusion": ("Pleural Effusion",),
    "pneumothorax": ("Pneumothorax",),
    "hydropneumothorax": ("Hydropneumothorax", "Hemopneumothorax"),
    "costophrenic angle blunting": ("Costophrenic Angle/blunted", "Sulcus/blunted"),
    "pleural thickening": ("Thickening/pleura",),
    "lung opacity": ("Opacity/lung", "Opacity/retrocardiac", "Density/lung"),
    "airspace opacity": ("Airspace Disease",),
    "consolidation": ("Consolidation",),
    "infiltrate": ("Infiltrate",),
    "pneumonia": ("Pneumonia",),
    "atelectasis": ("Pulmonary Atelectasis",),
    "volume loss": ("Volume Loss",),
    "edema": ("Pulmonary Edema",),
    "vascular congestion": ("Pulmonary Congestion",),
    "interstitial opacity": (
        "Markings/interstitial", "Lung Diseases, Interstitial", "Opacity/lung/interstitial",
        "Lung/interstitial/prominent",
    ),
    "nodule": ("Nodule/lung",),
    "mass": ("Mass/lung",),
    "mediastinal mass": ("Mass/mediastinum",),
    "granuloma": ("Calcified Granuloma", "Granuloma", "Granulomatous Disease"),
    "cavitation": ("Cavitation",),
    "pulmonary fibrosis": ("Pulmonary Fibrosis",),
    "scarring": ("Cicatrix",),
    "bronchiectasis": ("Bronchiectasis",),
    "prominent bronchovascular markings": ("Markings/bronchovascular",),
    "emphysema": ("Emphysema", "Pulmonary Emphysema"),
    "bulla": ("Bullous Emphysema", "Blister"),
    "copd": ("Pulmonary Disease, Chronic Obstructive",),
    "hyperinflation": ("Lung/hyperdistention", "Lung, Hyperlucent"),
    "low lung volumes": ("Lung/hypoinflation",),
    "flattened diaphragm": ("Diaphragm/flattened",),
    "hemidiaphragm elevation": ("Diaphragm/elevated",),
    "diaphragmatic eventration": ("Diaphragmatic Eventration",),
    "cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged", "Heart/enlarged"),
    "enlarged cardiomediastinum": ("Mediastinum/enlarged", "Mediastinum/prominent"),
    "mediastinal shift": ("Shift/mediastinum", "Shift/trachea"),
    "hilar enlargement": ("Lung/hilum/enlarged", "Lung/hilum/prominent"),
    "lymphadenopathy": (
        "Lymph Nodes/enlarged", "Lung/hilum/lymph nodes/enlarged", "Mediastinum/lymph nodes/enlarged",
    ),
    "heart failure": ("Heart Failure",),
    "pericardial effusion": ("Pericardial Effusion",),
    "aortic elongation": ("Aorta/tortuous", "Aorta, Thoracic/tortuous"),
    "aortic atherosclerosis": (
        "Atherosclerosis/aorta", "Atherosclerosis/aorta, thoracic", "Calcinosis/aorta",
    ),
    "aortic aneurysm": ("Aortic Aneurysm",),
    "pulmonary artery enlargement": ("Pulmonary Artery/enlarged", "Pulmonary Artery/prominent"),
    "pulmonary hypertension": ("Hypertension, Pulmonary",),
    "pneumomediastinum": ("Mediastinal Emphysema",),
    "fracture": ("Fractures, Bone",),
    "rib fracture": ("Fractures, Bone/ribs",),
    "clavicle fracture": ("Fractures, Bone/clavicle",),
    "degenerative spine changes": (
        "Thoracic Vertebrae/degenerative", "Spine/degenerative", "Lumbar Vertebrae/degenerative",
        "Cervical Vertebrae/degenerative", "Osteophyte", "Spondylosis",
    ),
    "scoliosis": ("Scoliosis",),
    "kyphosis": ("Kyphosis",),
    "osteopenia": ("Bone Diseases, Metabolic", "Osteoporosis"),
    "hiatal hernia": ("Hernia, Hiatal",),
    "hernia": ("Hernia, Diaphragmatic",),
    "subcutaneous emphysema": ("Subcutaneous Emphysema", "Subcutaneous  Emphysema"),
    "pneumoperitoneum": ("Pneumoperitoneum",),
    "support devices": ("Implanted Medical Device", "Medical Device", "Tube, Inserted"),
    "central venous catheter": ("Catheters, Indwelling",),
    "orthopedic hardware": (
        "Spinal Fusion", "Implanted Medical Device/humerus", "Implanted Medical Device/shoulder",
    ),
    "heart valve prosthesis": (
        "Implanted Medical Device/aortic valve", "Implanted Medical Device/mitral valve",
    ),
    "surgical material": ("Surgical Instruments", "Sutures"),
    "foreign body": ("Foreign Bodies",),
    "breast implant": ("Breast Implants",),
})  # fmt: skip

# Head -> [(qualifiers that must all stand in the tag, finding)], most qualifiers first.
_RULES: dict[str, list[tuple[frozenset[str], str | None]]] = {}
for _key, _name in sorted(OPENI.items(), key=lambda item: -item[0].count("/")):
    _head, *_needed = _key.split("/")
    _RULES.setdefault(_head, []).append((frozenset(_needed), _name))


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The reports as studies (with text), findings and (no) boxes; about 2 s in full.

    folder        where the archive lies; None reads the installed torchxrayvision
    max_patients  only the first N patients (= reports) in hash order
    Raises FileNotFoundError or ValueError, one line, when the archive is missing, damaged or unexpected.
    """
    reports = _reports(common.table_path(folder, REPORTS))
    frame = pl.DataFrame(
        reports,
        schema={
            "uid": pl.String, "findings_text": pl.String, "impression_text": pl.String,
            "tags": pl.List(pl.String), "images": pl.List(pl.String),
        },
    ).with_columns(pl.concat_str(pl.lit("openi/"), "uid").alias("sample_id"))  # fmt: skip
    frame = common.first_patients(frame.with_columns(patient_id="sample_id"), max_patients)
    with_images = frame.filter(pl.col("images").list.len() > 0)
    studies = _with_views(with_images, folder).select(
        "sample_id", "patient_id", "findings_text", "impression_text", "views", "images",
        pl.col("uid").alias("study_id"),
        pl.lit("openi").alias("source"),
        pl.lit(0, dtype=pl.Int32).alias("order"),
    )  # fmt: skip
    findings, unmapped = _findings(with_images)
    return common.Annotations(
        common.complete("studies", studies),
        common.complete("findings", findings),
        common.complete("boxes", pl.DataFrame({"sample_id": []})),
        excluded={"openi: no image": frame.height - with_images.height},
        unmapped=unmapped,
    )


def _reports(path: Path) -> list[dict]:
    """One dict per XML of the archive: uid, the two texts (None when empty), tags, image ids."""
    reports = []
    try:
        with tarfile.open(fileobj=io.BytesIO(common.unzip(path))) as archive:
            for member in archive:
                if not member.name.endswith(".xml"):
                    continue
                reports.append(_report(archive.extractfile(member).read(), path, member.name))
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a readable tar archive ({error}); {common.REPAIR}") from None
    if not reports:
        raise ValueError(f"{path}: no XML report inside; {common.REPAIR}")
    return reports


def _report(content: bytes, path: Path, name: str) -> dict:
    """The parts of one XML report that the study uses."""
    try:
        root = ElementTree.fromstring(content)
        uid = root.find("uId").attrib["id"]
    except (ElementTree.ParseError, AttributeError, KeyError) as error:
        raise ValueError(f"{path}, {name}: not an Open-i report ({error}); {common.REPAIR}") from None
    texts = {node.get("Label"): " ".join((node.text or "").split()) for node in root.iter("AbstractText")}
    return {
        "uid": uid,
        "findings_text": texts.get("FINDINGS") or None,
        "impression_text": texts.get("IMPRESSION") or None,
        "tags": [node.text.strip() for node in root.iterfind("MeSH/major") if node.text],
        "images": [node.attrib["id"] for node in root.iterfind("parentImage")],
    }


def _with_views(frame: pl.DataFrame, folder: Path | None) -> pl.DataFrame:
    """Add views, one per image, and put frontal images first, lateral ones last."""
    headers = common.read_csv(common.table_path(folder, HEADERS), ["imageid", "View Position"])
    tsne = common.read_csv(common.table_path(folder, TSNE_VIEWS), ["imageid", "tsne-view"])
    images = (
        frame.select("sample_id", "images")
        .explode("images")
        .join(headers, left_on="images", right_on="imageid", how="left")
        .join(tsne, left_on="images", right_on="imageid", how="left")
    )
    header, drawn = pl.col("View Position"), pl.col("tsne-view")
    # A header saying lateral is trusted unless t-SNE says PA; a header saying PA is not trusted alone.
    lateral = header.is_in(["LL", "RL", "LATERAL", "LARGE LATERAL"]) & drawn.ne_missing("PA")
    lateral = lateral | (drawn.eq_missing("L") & header.is_null())
    frontal = drawn.eq_missing("PA") & (header.is_null() | (header == "PA"))
    images = images.with_columns(
        view=pl.when(lateral)
        .then(pl.lit("LATERAL"))
        .when(frontal)
        .then(pl.lit("PA"))
        .otherwise(pl.lit("UNKNOWN"))
    )
    rank = pl.col("view").replace_strict({"PA": 0, "UNKNOWN": 1, "LATERAL": 2})
    images = images.sort("sample_id", rank, "images").group_by("sample_id", maintain_order=True)
    lists = images.agg(pl.col("view").alias("views"), "images")
    return frame.drop("images").join(lists, on="sample_id")


def _finding(tag: str) -> tuple[str, str | None, str | None, str | None, str | None]:
    """(label, status, laterality, location, severity) of a MeSH tag; status None when it is not a finding.

    label is the finding, or the head of a tag that the vocabulary does not hold, or "" for one that it holds
    as no finding.
    """
    head, *qualifiers = tag.split("/")
    words = set(qualifiers)
    matching = [name for needed, name in _RULES.get(head, []) if needed <= words]
    if not matching:
        return head, None, None, None, None
    name = matching[0]
    if name is None:
        return "", None, None, None, None
    sides = words & {"left", "right", "bilateral"}
    sides |= {"left"} if "lingula" in words else {"right"} if "middle lobe" in words and not sides else set()
    side = None if not sides else sides.pop() if len(sides) == 1 else "bilateral"
    severities = {SEVERITY[word] for word in words if word in SEVERITY}
    places = {LOCATIONS[word] for word in words if word in LOCATIONS}
    if "hilum" in words and name == "hilar enlargement":
        places = set()  # "hilar enlargement in the hilum" says nothing new
    return (
        name,
        "uncertain" if "borderline" in words else "present",
        side if name in SIDED else None,
        places.pop() if len(places) == 1 else None,
        severities.pop() if len(severities) == 1 else None,
    )


def _findings(frame: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Findings rows, one per tag with a finding, and head -> number of studies with an unmapped tag."""
    rows, unmapped, normal = [], {}, []
    for sample_id, tags in frame.select("sample_id", "tags").iter_rows():
        if tags == ["normal"]:
            normal.append(sample_id)
        unknown = set()
        for tag in tags:
            label, status, side, place, severity = _finding(tag)
            if status is not None:
                rows.append((sample_id, label, status, side, place, severity, f"openi: MeSH {tag}"))
            elif label:
                unknown.add(label)
        for head in unknown:
            unmapped[head] = unmapped.get(head, 0) + 1
    columns = ("sample_id", "finding", "status", "laterality", "location", "severity", "source_column")
    stated = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    stated = stated.with_columns(evidence_tier=pl.lit(1, dtype=pl.Int8))
    normal = pl.DataFrame({"sample_id": normal}, schema={"sample_id": pl.String})
    implied = common.implied_absent(normal, stated.select("sample_id", "finding"), CORE, "openi: MeSH normal")
    counts = dict(sorted(unmapped.items(), key=lambda pair: (-pair[1], pair[0])))
    return pl.concat([stated, implied], how="diagonal"), counts
