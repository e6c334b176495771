"""Bad input: each fault of a table is a one-line error with its row, or a counted, listed exclusion."""

import csv
import gzip
import io
import tarfile
import zipfile

import pytest

from cxrtrek_lib import packages
from cxrtrek_lib.sources import chexpert, nih, openi, padchest, rsna, siim, vindr

DATA = packages.data_dir("torchxrayvision")
CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(chexpert.CHEXPERT) + "\n"
PADCHEST = ",".join(padchest.COLUMNS) + "\n"


def chexpert_row(patient=1, study=1, view="view1_frontal", age=60, edema="1.0"):
    labels = [edema if label == "Edema" else "" for label in chexpert.CHEXPERT]
    frontal = "Frontal,AP" if "frontal" in view else "Lateral,"
    return (
        f"CheXpert/train/patient{patient}/study{study}/{view}.jpg,Female,{age},{frontal},{','.join(labels)}\n"
    )


def padchest_row(image="a.png", study=11, patient=21, birth="1950.0", labels="['nodule']", projection="PA"):
    sentences = f"[{labels}]".replace('"', "'")
    return f'{image},20100101,{study},{patient},{birth},F,{projection},"{labels}","{sentences}"\n'


def report(uid="CXR1", images=("CXR1_1",), tags=("normal",)):
    majors = "".join(f"<major>{tag}</major>" for tag in tags)
    parents = "".join(f'<parentImage id="{image}"/>' for image in images)
    text = '<AbstractText Label="FINDINGS">Clear lungs.</AbstractText>'
    return f'<eCitation><uId id="{uid}"/><MeSH>{majors}</MeSH>{text}{parents}</eCitation>'


NIH_ENTRIES = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
GOOD = {
    "chexpert": {chexpert.TABLE: CHEXPERT + chexpert_row() + chexpert_row(view="view2_lateral")},
    "padchest": {padchest.TABLE: PADCHEST + padchest_row() + padchest_row("b.png", projection="L")},
    "nih": {
        nih.ENTRIES: NIH_ENTRIES + "00000001_000.png,Mass|Hernia,0,1,57,M,PA\n",
        nih.BOX_LIST: "Image Index,Finding Label,Bbox [x,y,w,h]\n00000001_000.png,Mass,512.0,0,512.0,1024\n",
        nih.ADJUDICATED: "Image Index,Fracture,Pneumothorax,Airspace opacity,Nodule or mass\n"
        "00000001_000.png,NO,NO,NO,YES\n",
    },
    "vindr": {
        vindr.TABLE: "image_id,class_name,rad_id,x_min,y_min,x_max,y_max\n"
        "f1,Cardiomegaly,R8,10,10,90,50\nf1,ILD,R9,10,10,90,50\nf1,ILD,R10,10,10,90,50\n"
    },
    "rsna": {
        rsna.LABELS: "patientId,x,y,width,height,Target\nf1,512,0,512,1024,1\nf2,,,,,0\n",
        rsna.HEADERS: "PatientID,PatientSex,PatientAge,ViewPosition\nf1,M,43,PA\nf2,F,55,AP\n",
    },
    "siim": {siim.TABLE: "ImageId, EncodedPixels\n1.2,0 1\n1.3,-1\n"},
    "openi": {
        openi.REPORTS: report(),
        openi.HEADERS: "imageid,View Position\nCXR1_1,PA\n",
        openi.TSNE_VIEWS: "imageid,tsne-view\nCXR1_1,PA\n",
    },
}
READERS = {"chexpert": chexpert, "padchest": padchest, "nih": nih, "vindr": vindr, "rsna": rsna,
           "siim": siim, "openi": openi}  # fmt: skip
MAIN = {name: next(iter(files)) for name, files in GOOD.items()}


def archive(reports):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for n, text in enumerate(reports):
            entry = tarfile.TarInfo(f"ecgen-radiology/{n}.xml")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def packed(name, text):
    if name.endswith(".zip"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("table.csv", text)
        return buffer.getvalue()
    return gzip.compress(archive([text]) if name.endswith(".tgz") else text.encode())


def written(folder, source, changes=()):
    """The small tables of a source, with (file, old text, new text) replaced, in a folder."""
    files = dict(GOOD[source])
    for name, old, new in changes:
        assert old in files[name], (name, old)
        files[name] = files[name].replace(old, new, 1)
    for name, text in files.items():
        (folder / name).write_bytes(packed(name, text))
    return READERS[source].read(folder)


def refused(read, folder, *parts):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(folder)
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize("source", GOOD)
def test_the_small_tables_are_sound(tmp_path, source):
    read = written(tmp_path, source)
    assert read.studies.height in (1, 2) and read.findings.height > 0
    assert (sum(read.excluded.values()), read.unmapped, read.corrected) == (0, {}, {})


@pytest.mark.parametrize(("source", "name"), [(s, name) for s, files in GOOD.items() for name in files])
def test_a_table_that_is_missing_or_cut_off(tmp_path, source, name):
    written(tmp_path, source)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    refused(READERS[source].read, tmp_path, name, "damaged or cut off", "pip install")
    (tmp_path / name).write_bytes(b"not packed at all")
    refused(READERS[source].read, tmp_path, name, "damaged or cut off", "pip install")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    (tmp_path / name).write_bytes(bytes(flipped))
    refused(READERS[source].read, tmp_path, name)
    (tmp_path / name).unlink()
    refused(READERS[source].read, tmp_path, name, "missing", "pip install")


def test_the_real_tables_cut_off(tmp_path):
    for source, name in MAIN.items():
        content = (DATA / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        refused(READERS[source].read, tmp_path, name, "damaged or cut off")


@pytest.mark.parametrize(
    ("source", "name"), [(s, name) for s, files in GOOD.items() for name in files if "tgz" not in name]
)
def test_a_missing_column_is_named(tmp_path, source, name):
    header = GOOD[source][name].split("\n")[0]
    column = header.split(",")[-1]
    with pytest.raises(ValueError, match="no column") as error:
        written(tmp_path, source, [(name, header, header + "_v2")])
    assert repr(column) in str(error.value) and name in str(error.value)


FAULTS = [
    # The same image or box twice.
    ("chexpert", chexpert.TABLE, "view2_lateral", "view1_frontal", "row 3", "each image, once"),
    ("padchest", padchest.TABLE, "b.png", "a.png", "row 3", "ImageID", "each image, once"),
    ("nih", nih.ENTRIES, "M,PA\n", "M,PA\n00000001_000.png,Mass,1,1,58,M,PA\n", "row 3", "each image, once"),
    ("nih", nih.ADJUDICATED, "YES\n", "YES\n00000001_000.png,NO,NO,NO,NO\n", "row 3", "each image, once"),
    ("nih", nih.BOX_LIST, "1024\n", "1024\n00000001_000.png,Mass,512.0,0,512.0,1024\n", "row 3", "each box"),
    ("vindr", vindr.TABLE, "f1,ILD,R10,", "f1,ILD,R9,", "row 4", "each box, once"),
    ("rsna", rsna.LABELS, "f2,,,,,0", "f1,512,0,512,1024,1", "row 3", "each box, once"),
    ("rsna", rsna.HEADERS, "f2,F", "f1,F", "row 3", "each film, once"),
    ("siim", siim.TABLE, "1.3,-1", "1.2,0 1", "row 3", "each mask, once"),
    ("openi", openi.HEADERS, "PA\n", "PA\nCXR1_1,AP\n", "row 3", "each image, once"),
    # Images of one study, or rows of one film, that say different things.
    ("chexpert", chexpert.TABLE, "Lateral,,,,,,,1.0", "Lateral,,,,,,,0.0", "row 3", "Edema", "other images"),
    ("padchest", padchest.TABLE, "L,\"['nodule']\"", "L,\"['mass']\"", "row 3", "Labels", "other images"),
    ("rsna", rsna.LABELS, "f2,,,,,0", "f1,,,,,0", "row 2", "one value for a film"),
    ("siim", siim.TABLE, "1.3,-1", "1.2,-1", "row 3", "not both"),
    ("nih", nih.ENTRIES, ",0,1,57", ",0,2,57", "row 2", "Patient ID", "the patient of the image's name"),
    # Boxes outside the image, empty or inverted.
    ("nih", nih.BOX_LIST, "512.0,1024", "512.5,1024", "row 2", "inside the 1024 px image"),
    ("nih", nih.BOX_LIST, "Mass,512.0", "Mass,-1.0", "row 2", "inside the 1024 px image"),
    ("nih", nih.BOX_LIST, "512.0,1024", "512.0,0", "row 2", "inside the 1024 px image"),
    ("rsna", rsna.LABELS, "512,1024,1", "513,1024,1", "row 2", "inside the 1024 px film"),
    ("rsna", rsna.LABELS, "f1,512,", "f1,,", "row 2", "inside the 1024 px film"),
    ("rsna", rsna.LABELS, "f2,,,,,0", "f2,1,1,1,1,0", "row 3", "nothing for Target 0"),
    ("vindr", vindr.TABLE, "R8,10,10,90,50", "R8,90,10,10,50", "row 2", "x_max", "greater than x_min"),
    ("vindr", vindr.TABLE, "R8,10,10,90,50", "R8,-1,10,10,50", "row 2", "which is >= 0"),
    ("siim", siim.TABLE, "0 1", "1048575 2", "row 2", "inside 1024 x 1024"),
    ("siim", siim.TABLE, "0 1", "5 0", "row 2", "non-empty runs"),
    ("siim", siim.TABLE, "0 1", "5 1 9", "row 2", "pairs of numbers"),
    ("siim", siim.TABLE, "0 1", "99999999999999999999 1", "row 2", "inside 1024 x 1024"),
    # Values outside their list.
    ("chexpert", chexpert.TABLE, "1.0", "2.0", "row 2", "'2.0'", "1.0, 0.0, -1.0 or nothing"),
    ("chexpert", chexpert.TABLE, ",60,", ",old,", "row 2", "Age", "'old'"),
    ("chexpert", chexpert.TABLE, "view1_frontal", "view1_oblique", "row 2", "Path"),
    ("padchest", padchest.TABLE, ",PA,", ",SIDEWAYS,", "row 2", "SIDEWAYS"),
    ("padchest", padchest.TABLE, ",11,", ",1.1e+20,", "row 2", "StudyID"),
    ("padchest", padchest.TABLE, "1950.0", "long ago", "row 2", "PatientBirth"),
    ("nih", nih.ENTRIES, "Mass|Hernia", "Mass|Dragon", "row 2", "Dragon"),
    ("nih", nih.BOX_LIST, "png,Mass", "png,Dragon", "row 2", "Dragon"),
    ("nih", nih.BOX_LIST, "00000001_000", "00000002_000", "row 2", "an image of Data_Entry"),
    ("nih", nih.ADJUDICATED, "YES", "MAYBE", "row 2", "MAYBE"),
    ("vindr", vindr.TABLE, "f1,ILD,R10,", "f2,ILD,R10,", "row 2", "3 readers"),
    ("rsna", rsna.LABELS, "f2,,,,,0", "f2,,,,,2", "row 3", "0 or 1"),
    ("rsna", rsna.HEADERS, "f2,F", "f3,F", "no row for film f2"),
    ("openi", openi.REPORTS, "<uId", "<uid", "not an Open-i report"),
    ("openi", openi.REPORTS, "</eCitation>", "", "not an Open-i report"),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_row(tmp_path, fault):
    source, name, old, new, *parts = fault
    with pytest.raises(ValueError) as error:
        written(tmp_path, source, [(name, old, new)])
    text = str(error.value)
    assert "\n" not in text and name in text
    for part in parts:
        assert part in text, text


def test_a_reader_cannot_find_nothing_and_something(tmp_path):
    rows = GOOD["vindr"][vindr.TABLE] + "f1,No finding,R10,,,,\n"
    (tmp_path / vindr.TABLE).write_bytes(packed(vindr.TABLE, rows))
    refused(vindr.read, tmp_path, "row 5", "No finding", "no other row of a reader who found nothing")


@pytest.mark.parametrize(
    ("reports", "part"),
    [
        ([report(), report(images=("CXR2_1",))], "CXR1 stands in ecgen-radiology/0.xml, too"),
        ([report(), report("CXR2")], "CXR1_1 stands in ecgen-radiology/0.xml, too"),
        ([], "no XML report inside"),
    ],
)
def test_reports_that_repeat_each_other(tmp_path, reports, part):
    written(tmp_path, "openi")
    (tmp_path / openi.REPORTS).write_bytes(gzip.compress(archive(reports)))
    refused(openi.read, tmp_path, openi.REPORTS, part, "pip install")


@pytest.mark.parametrize(
    ("source", "changes", "count"),
    [
        ("chexpert", [(chexpert.TABLE, ",60,", ",411,"), (chexpert.TABLE, ",60,", ",411,")], 1),
        ("chexpert", [(chexpert.TABLE, ",60,", ",-3,"), (chexpert.TABLE, ",60,", ",-3,")], 1),
        ("chexpert", [(chexpert.TABLE, ",60,", ",0,"), (chexpert.TABLE, ",60,", ",0,")], 1),
        ("padchest", [(padchest.TABLE, "1950.0", "1599.0"), (padchest.TABLE, "1950.0", "1599.0")], 1),
        ("padchest", [(padchest.TABLE, "1950.0", "2011.0"), (padchest.TABLE, "1950.0", "2011.0")], 1),
        ("nih", [(nih.ENTRIES, ",57,", ",411,")], 1),
        ("nih", [(nih.ENTRIES, ",57,", ",-1,")], 1),
        ("rsna", [(rsna.HEADERS, ",43,", ",151,"), (rsna.HEADERS, ",55,", ",-2,")], 2),
    ],
)  # fmt: skip
def test_impossible_ages_are_unknown_and_counted(tmp_path, source, changes, count):
    read = written(tmp_path, source, changes)
    assert read.studies["age"].null_count() == count == sum(read.corrected.values())
    assert all(reason.startswith(f"{source}: age ") for reason in read.corrected)


def test_padchest_leaves_out_and_counts(tmp_path):
    rows = [
        padchest_row("1.png", 1, 21), padchest_row("2.png", 1, 22),  # one study, two patients
        padchest_row("3.png", 2, 23, labels="['exclude']"),
        padchest_row("4.png", 3, 23, labels="[' exclude']"),
        padchest_row("5.png", 4, 23, labels=""), padchest_row("6.png", 5, 23, projection="EXCLUDE"),
        padchest_row("7.png", 6, 24, labels="['nodule', ' dragon']"),
    ]  # fmt: skip
    (tmp_path / padchest.TABLE).write_bytes(packed(padchest.TABLE, PADCHEST + "".join(rows)))
    read = padchest.read(tmp_path)
    assert read.studies["sample_id"].to_list() == ["padchest/6"]
    assert set(read.excluded.values()) == {1} and len(read.excluded) == 5
    assert read.studies.height + sum(read.excluded.values()) == 6
    assert read.unmapped == {"dragon": 1}
    # A study of two patients stays out of a subset that holds only one of them.
    for n in (1, 2, 3):
        assert "padchest/1" not in padchest.read(tmp_path, max_patients=n).studies["sample_id"].to_list()


def test_openi_leaves_out_and_counts(tmp_path):
    written(tmp_path, "openi")
    reports = [report(), report("CXR2", (), ("normal",)), report("CXR3", ("CXR3_1",), ("Dragon/left",))]
    (tmp_path / openi.REPORTS).write_bytes(gzip.compress(archive(reports)))
    read = openi.read(tmp_path)
    assert read.excluded == {"openi: no image": 1} and read.unmapped == {"Dragon": 1}
    assert read.studies.height == 2 and read.studies["views"].to_list() == [["PA"], ["UNKNOWN"]]


@pytest.mark.parametrize("source", GOOD)
def test_another_version_of_an_installed_table_is_refused(tmp_path, monkeypatch, source):
    """The same small tables that pass as a user's folder do not pass as the pinned wheel's."""
    written(tmp_path, source)
    monkeypatch.setattr(packages, "data_dir", lambda name: tmp_path)
    refused(
        lambda _: READERS[source].read(), tmp_path, "another version of the table", "expected", "pip install"
    )


@pytest.mark.parametrize("source", GOOD)
def test_the_installed_table_has_its_pinned_size(source):
    """Rows and columns by the csv module; two of the tables have cells of several lines."""
    for name in GOOD[source]:
        if not name.endswith(".tgz"):
            if name.endswith(".zip"):
                with zipfile.ZipFile(DATA / name) as file:
                    text = file.read(file.namelist()[0]).decode()
            else:
                text = gzip.decompress((DATA / name).read_bytes()).decode()
            rows = csv.reader(io.StringIO(text, newline=""))
            columns, height = len(next(rows)), sum(1 for _ in rows)
            assert (height, columns) in [v for k, v in vars(READERS[source]).items() if k.endswith("SIZE")], (
                name
            )
