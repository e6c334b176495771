"""VinDr-CXR, RSNA and SIIM: votes, boxes and masks worked out by hand and by independent code."""

import csv
import gzip
import io
import zipfile
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from real_tables import table

from cxrtrek_lib import packages
from cxrtrek_lib.sources import rsna, siim, vindr

DATA = packages.data_dir("torchxrayvision")


def gzipped(folder, name, text):
    (folder / name).write_bytes(gzip.compress(text.encode()))


def statuses(annotations, sample_id):
    rows = annotations.findings.filter(sample_id=sample_id)
    return {row["finding"]: (row["status"], row["source_column"]) for row in rows.iter_rows(named=True)}


VINDR_HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"


def test_vindr_votes(tmp_path):
    gzipped(
        tmp_path,
        vindr.TABLE,
        VINDR_HEADER
        + "f1,Cardiomegaly,3,R8,10,10,90,50\nf1,Cardiomegaly,3,R8,12,10,90,50\n"
        + "f1,Cardiomegaly,3,R9,10,11,90,50\nf1,ILD,5,R10,1,1,2,2\nf1,Dragon,9,R10,1,1,2,2\n"
        + "f2,No finding,14,R1,,,,\nf2,No finding,14,R2,,,,\nf2,No finding,14,R3,,,,\n",
    )
    read = vindr.read(tmp_path)
    said = statuses(read, "vindr/f1")
    # Two boxes by one reader are one vote; three readers in all.
    assert said["cardiomegaly"] == ("present", "vindr: Cardiomegaly, 2 of 3 readers")
    assert said["interstitial opacity"] == ("uncertain", "vindr: ILD, 1 of 3 readers")
    assert said["pneumothorax"] == ("absent", "vindr: Pneumothorax, 0 of 3 readers")
    assert "lung opacity" not in said  # a kind of opacity was marked: the blanket class is left open
    assert set(statuses(read, "vindr/f2").values()) == {
        ("absent", f"vindr: {label}, 0 of 3 readers") for label, name in vindr.VINDR.items() if name
    }
    assert read.unmapped == {"Dragon": 1} and read.boxes.height == 0
    assert set(read.findings["evidence_tier"]) == {1}


def test_vindr_facts_of_the_docstring():
    films, seen, normal = defaultdict(set), defaultdict(set), Counter()
    with gzip.open(DATA / vindr.TABLE, "rt") as file:
        for row in csv.DictReader(file):
            films[row["image_id"]].add(row["rad_id"])
            if row["class_name"] == "No finding":
                normal[row["image_id"]] += 1
            else:
                seen[row["rad_id"]].add(row["image_id"])
    assert {len(readers) for readers in films.values()} == {3}
    assert Counter(normal.values()) == {3: 10_606} and len(films) == 15_000
    assert {f"R{n}" for n in range(1, 18)} - set(seen) == {"R1", "R3", "R4", "R5", "R6", "R7"}


def test_vindr_special_findings_never_stand_beside_a_denied_lung_opacity():
    findings = table("vindr").findings
    denied = findings.filter(finding="lung opacity", status="absent")["sample_id"]
    opaque = findings.filter(
        pl.col("finding").is_in(["consolidation", "infiltrate", "nodule or mass", "atelectasis"]),
        pl.col("status") != "absent",
    )
    assert denied.len() > 10_000 and not set(denied) & set(opaque["sample_id"])


def rsna_files(folder, labels, headers="f1,M,43,PA\nf2,F,155,AP\n"):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("labels.csv", "patientId,x,y,width,height,Target\n" + labels)
    (folder / rsna.LABELS).write_bytes(content.getvalue())
    gzipped(folder, rsna.HEADERS, "PatientID,PatientSex,PatientAge,ViewPosition\n" + headers)


def test_rsna_by_hand(tmp_path):
    rsna_files(tmp_path, "f1,512.0,0.0,512.0,1024.0,1\nf1,256.0,128.0,128.0,64.0,1\nf2,,,,,0\n")
    read = rsna.read(tmp_path)
    boxes = read.boxes.select("sample_id", "target", "x1", "y1", "x2", "y2").rows()
    assert boxes == [
        ("rsna/f1", "lung opacity", 50.0, 0.0, 100.0, 100.0),
        ("rsna/f1", "lung opacity", 25.0, 12.5, 37.5, 18.75),
    ]
    said = {name: status for name, (status, _) in statuses(read, "rsna/f1").items()}
    assert said == {"lung opacity": "present", "pneumonia": "uncertain"}
    assert {name: s for name, (s, _) in statuses(read, "rsna/f2").items()} == {"pneumonia": "absent"}
    films = read.studies.sort("sample_id")
    assert films["age"].to_list() == [43.0, None] and films["sex"].to_list() == ["M", "F"]
    assert films["views"].to_list() == [["PA"], ["AP"]] and films["images"].to_list() == [
        ["f1.dcm"],
        ["f2.dcm"],
    ]
    assert read.corrected == {"rsna: age outside 0 to 110 set to unknown": 1}


def test_rsna_counts():
    read = table("rsna")
    assert read.boxes.height == 9_555 and read.boxes["sample_id"].n_unique() == 6_012
    assert sum(read.corrected.values()) == 5
    assert dict(read.findings.group_by("status").len().rows()) == {
        "present": 6_012, "uncertain": 6_012, "absent": 20_672,
    }  # fmt: skip


def decoded(runs):
    """A mask by the loop that the challenge published: pixels one after the other, then folded."""
    flat, position = np.zeros(1024 * 1024, dtype=bool), 0
    numbers = [int(n) for n in runs.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += start
        flat[position : position + length] = True
        position += length
    return flat.reshape(1024, 1024).T  # [row, column]


def test_siim_boxes_hold_the_masks():
    boxes = table("siim").boxes.sort("sample_id", "x1", "y1", "x2", "y2")
    rows = defaultdict(list)
    with gzip.open(DATA / siim.TABLE, "rt") as file:
        for n, (image, runs) in enumerate(csv.reader(file)):
            if n % 97 == 0 and runs.strip() not in ("-1", "EncodedPixels"):
                mask = decoded(runs)
                (down,), (across,) = mask.any(1).nonzero(), mask.any(0).nonzero()
                edges = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) * 100 / 1024
                rows[f"siim/{image}"].append(edges.round(2).tolist())
    assert len(rows) > 20
    for sample_id, expected in rows.items():
        found = boxes.filter(sample_id=sample_id).select("x1", "y1", "x2", "y2").rows()
        assert all(tuple(box) in found for box in expected)


def test_siim_by_hand(tmp_path):
    # Column 512: rows 256 to 511; then a run from row 1023 of column 512 into rows 0 and 1 of column 513.
    first = f"{512 * 1024 + 256} 256 511 3"
    gzipped(tmp_path, siim.TABLE, f"ImageId, EncodedPixels\n1.2,{first}\n1.2,0 1\n1.3,-1\n1.4, -1\n")
    read = siim.read(tmp_path)
    assert read.boxes.select("sample_id", "x1", "y1", "x2", "y2").rows() == [
        ("siim/1.2", 50.0, 0.0, 50.2, 100.0),
        ("siim/1.2", 0.0, 0.0, 0.1, 0.1),
    ]
    assert [s for (s, _) in statuses(read, "siim/1.3").values()] == ["absent"]
    assert read.findings.height == read.studies.height == 3
    assert read.studies["age"].is_null().all() and read.studies["views"].to_list() == [["UNKNOWN"]] * 3


def test_siim_counts():
    read = table("siim")
    assert read.boxes.height == 3_576 and read.boxes["sample_id"].n_unique() == 2_669
    assert dict(read.findings.group_by("status").len().rows()) == {"present": 2_669, "absent": 9_378}


@pytest.mark.parametrize("name", ["vindr", "rsna", "siim"])
def test_films_without_patients_have_no_history(name):
    studies = table(name).studies
    assert (studies["patient_id"] == studies["sample_id"]).all() and set(studies["order"]) == {0}
    assert studies["prior_study_id"].is_null().all() and studies["next_study_id"].is_null().all()
