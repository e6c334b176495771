"""Each finding leads back to its row: sample_id and source_column, looked up with the csv and XML modules."""

import csv
import gzip
import io
import re
import tarfile
import zipfile
from collections import defaultdict
from xml.etree import ElementTree

import polars as pl
import pytest
from real_tables import table

from cxrtrek_lib import packages
from cxrtrek_lib.findings import CORE
from cxrtrek_lib.sources import chexpert, nih, openi, padchest, rsna, siim, vindr
from cxrtrek_lib.sources.openi_vocabulary import RULES
from cxrtrek_lib.sources.padchest_vocabulary import PADCHEST

DATA = packages.data_dir("torchxrayvision")


def rows(name, key, wanted):
    """wanted value of the key column -> its rows as dicts."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(DATA / name) as file:
            text = file.read(file.namelist()[0]).decode()
    else:
        text = gzip.decompress((DATA / name).read_bytes()).decode()
    lines = csv.reader(io.StringIO(text, newline=""))
    header = next(lines)
    place = header.index(key)
    found = defaultdict(list)
    for line in lines:
        if line[place] in wanted:
            found[line[place]].append(dict(zip(header, line, strict=True)))
    return found


def drawn(name, n=24):
    """Rows of every status and kind of evidence, evenly from the sorted findings."""
    findings = table(name).findings.with_columns(kind=pl.col("source_column").str.extract(r"^(\w+: \w+)"))
    parts = findings.sort("sample_id", "finding", "source_column").partition_by(
        "status", "kind", "evidence_tier"
    )
    taken = [part.gather_every(max(1, part.height * len(parts) // n)) for part in parts]
    sample = pl.concat(taken).rows(named=True)
    assert len(sample) >= 20
    return [(row, row["sample_id"].split("/", 1)[1], row["source_column"]) for row in sample]


def test_chexpert():
    words = {"1.0": ("present", "definite"), "0.0": ("absent", "definite"), "-1.0": ("uncertain", "possible")}
    sample = drawn("chexpert")
    views = [f"{n}_{side}" for n in range(1, 9) for side in ("frontal", "lateral")]
    paths = {f"CheXpert-v1.0-small/train/{study}/view{v}.jpg": study for _, study, _ in sample for v in views}
    by_study = defaultdict(list)
    for path, found in rows(chexpert.TABLE, "Path", paths).items():
        by_study[paths[path]] += found
    for row, study, source in sample:
        assert by_study[study]
        label = source.removeprefix("chexpert: ")
        for raw in by_study[study]:
            if label == "No Finding":
                (own,) = (k for k, v in chexpert.CHEXPERT.items() if v == row["finding"])
                assert (raw["No Finding"], raw[own], row["status"]) == ("1.0", "", "absent")
                assert row["evidence_tier"] == 2
            else:
                assert words[raw[label]] == (row["status"], row["certainty"])
                assert chexpert.CHEXPERT[label] == row["finding"] and row["evidence_tier"] == 1


def test_padchest():
    words = {"upper lobe": "lobe|ls|apical", "lung base": "basal", "lung apex": "apical"}
    places = 0
    sample = drawn("padchest", 60)
    raws = rows(padchest.TABLE, "StudyID", {study for _, study, _ in sample})
    for row, study, source in sample:
        for raw in raws[study]:
            labels = [label.strip() for label in re.findall(r"'([^']*)'", raw["Labels"])]
            said = source.removeprefix("padchest: Labels = ").split(", ")
            if row["status"] == "absent":
                assert set(labels) <= {"normal", "unchanged"} and "normal" in labels
                assert row["finding"] in CORE and row["evidence_tier"] == 2 and said == ["normal"]
            else:
                assert set(said) <= set(labels) and {PADCHEST[label] for label in said} == {row["finding"]}
                sentences = raw["LabelsLocalizationsBySentence"]
                if row["laterality"] in ("left", "right"):
                    assert (
                        row["laterality"] in sentences or "lingula" in sentences or "middle lobe" in sentences
                    )
                if row["location"] in words:
                    assert re.search(words[row["location"]], sentences + str(said))
                    places += 1
    assert places


def test_nih():
    sample = drawn("nih")
    names = {f"{image}.png" for _, image, _ in sample}
    panel, boxes, entries = (
        rows(table, "Image Index", names) for table in (nih.ADJUDICATED, nih.BOX_LIST, nih.ENTRIES)
    )
    for row, image, source in sample:
        name = f"{image}.png"
        if source.startswith("nih: google2019 "):
            (raw,) = panel[name]
            label = source.removeprefix("nih: google2019 ")
            assert row["status"] == {"YES": "present", "NO": "absent"}[raw[label]]
            assert label.lower() == row["finding"]
        else:
            assert row["status"] == "present"
            if source == "nih: BBox_List_2017":
                labels = [raw["Finding Label"] for raw in boxes[name]]
            else:
                (raw,) = entries[name]
                labels = raw["Finding Labels"].split("|")
                assert source.removeprefix("nih: Finding Labels = ") in labels
            assert row["finding"] in {nih.NIH[label] for label in labels}


def test_vindr():
    sample = drawn("vindr")
    raws = rows(vindr.TABLE, "image_id", {film for _, film, _ in sample})
    for row, film, source in sample:
        label, votes = re.fullmatch(r"vindr: (.*), (\d) of 3 readers", source).groups()
        readers = {raw["rad_id"] for raw in raws[film] if raw["class_name"] == label}
        assert len(readers) == int(votes)
        assert row["status"] == ("present" if len(readers) > 1 else "uncertain" if readers else "absent")
        assert vindr.VINDR[label] == row["finding"]


def test_rsna():
    sample = drawn("rsna")
    raws = rows(rsna.LABELS, "patientId", {film for _, film, _ in sample})
    for row, film, source in sample:
        targets = {raw["Target"] for raw in raws[film]}
        assert source == "rsna: Target"
        said = {("lung opacity", "present"), ("pneumonia", "uncertain")} if targets == {"1"} else None
        assert (row["finding"], row["status"]) in (said or {("pneumonia", "absent")})
        assert targets in ({"0"}, {"1"})


def test_siim():
    sample = drawn("siim")
    raws = rows(siim.TABLE, "ImageId", {film for _, film, _ in sample})
    for row, film, source in sample:
        masks = [raw[" EncodedPixels"].strip() for raw in raws[film]]
        assert source == "siim: EncodedPixels" and row["finding"] == "pneumothorax"
        assert row["status"] == ("absent" if masks == ["-1"] else "present") and masks


@pytest.fixture(scope="module")
def reports():
    with tarfile.open(DATA / openi.REPORTS) as archive:
        roots = [
            ElementTree.fromstring(archive.extractfile(m).read()) for m in archive if m.name.endswith("xml")
        ]
    return {
        root.find("uId").get("id"): [m.text.strip() for m in root.iterfind("MeSH/major")] for root in roots
    }


def test_openi(reports):
    for row, uid, source in drawn("openi"):
        tag = source.removeprefix("openi: MeSH ")
        assert tag in reports[uid]
        if row["evidence_tier"] == 2:
            assert reports[uid] == ["normal"] and row["status"] == "absent"
            continue
        parts = tag.lower().split("/")
        assert (row["status"] == "uncertain") == ("borderline" in parts)
        assert row["finding"] in {name for needed, name in RULES[parts[0]] if needed <= set(parts)}
        for word in ("laterality", "severity"):
            if row[word] in ("left", "right", "moderate"):
                implied = {"left": "lingula", "right": "middle lobe"}.get(row[word])
                assert row[word] in parts or implied in parts


def test_openi_quality_by_its_tag(reports):
    marked = {uid for uid, tags in reports.items() if "Technical Quality of Image Unsatisfactory" in tags}
    studies = table("openi").studies
    kept = {uid for uid in marked if f"openi/{uid}" in set(studies["sample_id"])}
    assert len(marked) == 86 and {f"openi/{uid}" for uid in kept} == set(
        studies.drop_nulls("quality")["sample_id"]
    )
