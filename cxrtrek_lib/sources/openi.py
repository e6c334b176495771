"""Open-i (Indiana University): English reports with MeSH tags that carry side, place and severity.

File `NLMCXR_reports.tgz` of torchxrayvision 1.5.7: 3,955 XML reports, one patient each and no history; 104
have no image and are left out, which leaves 3,851 studies with 7,470 images. Each `MeSH/major` tag is
Head/qualifier/...: a finding present at tier 1 ("Pleural Effusion/left/small"), uncertain (possible) when it
says "borderline". A report whose only tag is "normal" makes the common findings absent at tier 2. No tag, no
row. "Technical Quality of Image Unsatisfactory" (86 reports) is the study's quality. The words stand in
`openi_vocabulary.py`.
Traps: tags are written in two cases ("Lymph Nodes", "Lymph nodes") and some end in a space. `XXXX` stands for
removed words and is kept in the text columns: who makes answers of them drops those sentences. The view in
the DICOM header is noisy (1,029 studies call both films PA), so a view is known only where the header and the
packaged t-SNE view agree, or where one of them is silent and the other is the reliable one; otherwise
UNKNOWN.
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
from cxrtrek_lib.sources.openi_vocabulary import IMPLIED, LOCATIONS, RULES, SEVERITY, UNSATISFACTORY

REPORTS = "NLMCXR_reports.tgz"
HEADERS = "nlmcxr_dicom_metadata.csv.gz"
TSNE_VIEWS = "nlmcxr_tsne_pa.csv.gz"
HEADERS_SIZE, TSNE_SIZE = (7_469, 176), (3_851, 2)  # rows, columns
STUDIES = 3_955  # reports, before those without images are left out


def read(folder: Path | None = None, max_patients: int | None = None) -> common.Annotations:
    """The reports as studies (with text), findings and (no) boxes; about 2 s in full.

    folder        where the archive lies; None reads the installed torchxrayvision
    max_patients  only the first N patients (= reports) in hash order
    Raises FileNotFoundError or ValueError, one line, when the archive is missing, damaged or unexpected.
    """
    path = common.table_path(folder, REPORTS)
    reports = _reports(path)
    if folder is None:
        common.same_version(path, "reports", len(reports), STUDIES)
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
        pl.when(pl.col("tags").list.contains(UNSATISFACTORY)).then(pl.lit(["suboptimal"])).alias("quality"),
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
    reports, names = [], {}
    try:
        with tarfile.open(fileobj=io.BytesIO(common.unzip(path))) as archive:
            for member in archive:
                if not member.name.endswith(".xml"):
                    continue
                report = _report(archive.extractfile(member).read(), path, member.name)
                for known in (report["uid"], *report["images"]):
                    if known in names:
                        raise ValueError(
                            f"{path}, {member.name}: {known} stands in {names[known]}, too; {common.REPAIR}"
                        )
                    names[known] = member.name
                reports.append(report)
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
    path, headers = common.read_table(folder, HEADERS, ["imageid", "View Position"], HEADERS_SIZE)
    common.reject_repeated(headers, ["imageid"], path, "each image")
    path, tsne = common.read_table(folder, TSNE_VIEWS, ["imageid", "tsne-view"], TSNE_SIZE)
    common.reject_repeated(tsne, ["imageid"], path, "each image")
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
    head, *qualifiers = tag.lower().split("/")
    words = set(qualifiers)
    matching = [name for needed, name in RULES.get(head, []) if needed <= words]
    if not matching:
        return tag.split("/")[0], None, None, None, None
    name = matching[0]
    if name is None:
        return "", None, None, None, None
    sides = words & {"left", "right", "bilateral"}
    sides |= {"left"} if "lingula" in words else {"right"} if "middle lobe" in words and not sides else set()
    side = None if not sides else sides.pop() if len(sides) == 1 else "bilateral"
    severities = {SEVERITY[word] for word in words if word in SEVERITY}
    places = {LOCATIONS[word] for word in words if word in LOCATIONS}
    places = {place for place in places if (name, place) not in IMPLIED}
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
    stated = stated.with_columns(
        certainty=pl.when(pl.col("status") == "uncertain").then(pl.lit("possible")),
        evidence_tier=pl.lit(1, dtype=pl.Int8),
    )
    normal = pl.DataFrame({"sample_id": normal}, schema={"sample_id": pl.String})
    implied = common.implied_absent(normal, stated.select("sample_id", "finding"), CORE, "openi: MeSH normal")
    counts = dict(sorted(unmapped.items(), key=lambda pair: (-pair[1], pair[0])))
    return pl.concat([stated, implied], how="diagonal"), counts
