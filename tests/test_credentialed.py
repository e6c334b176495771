"""Report texts, MIMIC-CXR-JPG and CheXpert Plus on small files in their published formats."""

import csv
import gzip
import json
import shutil

import credentialed_files as files
import polars as pl
import pytest
from credentialed_files import FIRST, LAST, OTHER, SECOND, THIRD, said
from hypothesis import given
from hypothesis import strategies as st

from cxrtrek_lib import build, schema, tables
from cxrtrek_lib.sources import chexpert_plus, credentialed, imagenome, mimic, reports
from cxrtrek_lib.sources.chexpert import CHEXPERT


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    files.write_plus(root / "plus")
    return files.write_reports(files.write_mimic(root / "mimic") / "texts", packed=True).parent, root / "plus"


@pytest.fixture(scope="module")
def read(places):
    return mimic.read(places[0], texts=places[0] / "texts")


# Reports


LAYOUTS = {
    "capitals": (
        " EXAMINATION:  CHEST (PA AND LAT)\n\n INDICATION:  Cough.\n\n FINDINGS:\n\n Clear\n lungs.\n\n"
        " Normal heart.\n\n IMPRESSION:\n\n Normal.\n",
        "Clear lungs. Normal heart.",
        "Normal.",
    ),
    "both in one": (
        " HISTORY: Cough.\n\n FINDINGS AND IMPRESSION:  Clear lungs.\n\n NOTIFICATION: Dr. ___ at 5 PM.\n",
        "Clear lungs.",
        None,
    ),
    "no heading for findings": (
        " CHEST RADIOGRAPH\n\n HISTORY:  Cough.\n\n REFERENCE EXAM: ___.\n\n Clear lungs. The\n heart is"
        " normal.\n\n IMPRESSION:  Normal.\n",
        "Clear lungs. The heart is normal.",
        "Normal.",
    ),
    "no heading at all": (" AP CHEST, 5:57 A.M., ___\n\n Small effusion.\n", "Small effusion.", None),
    "a heading that names the study": (
        " CHEST, TWO VIEWS:  Clear lungs.\n\n CONCLUSION: Normal.\n",
        "Clear lungs.",
        "Normal.",
    ),
    "sub-headings": (
        " FINDINGS: LUNGS: Clear.\n CHEST WALL: Normal.\n\n IMPRESSION\n Normal.\n",
        "LUNGS: Clear. CHEST WALL: Normal.",
        "Normal.",
    ),
    "typing errors": (
        " FINDNGS: Clear.\n\n IMPRESSON: Normal.\n\n RECOMENDATION: CT.\n",
        "Clear.",
        "Normal.",
    ),
    "a draft in between": (
        " FINDINGS: Clear.\n\n WET READ VERSION #1 ___ 8:19 AM\n Mass.\n\n IMPRESSION: Normal.\n",
        "Clear.",
        "Normal.",
    ),
    "a draft of two paragraphs": (
        " IMPRESSION: Normal.\n\n WET READ: ___ 8:19 AM\n Mass.\n\n It is large.\n",
        None,
        "Normal.",
    ),
    "an addendum after": (
        " IMPRESSION: Normal.\n ______________________\n      FINAL ADDENDUM\n Now a mass is seen.\n",
        None,
        "Normal.",
    ),
    "a lead": (" IMPRESSION:  AP chest compared to ___:\n\n Small effusion.\n", None, "Small effusion."),
    "only history": (" INDICATION: Cough.\n\n TECHNIQUE:  Portable.\n", None, None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "head", ["", "                FINAL REPORT\n", "WET READ: ___\n Mass.\n ___\n FINAL REPORT\n"]
)
def test_sections_of_many_layouts(layout, head):
    text, findings, impression = LAYOUTS[layout]
    found = reports.sections(head + text)
    assert " ".join(found.get("findings", "").split()) == (findings or "")
    assert " ".join(found.get("impression", "").split()) == (impression or "")


WORDS = st.lists(st.sampled_from(["lungs", "clear", "no", "effusion", "heart"]), min_size=3, max_size=8)
SECTIONS = st.lists(
    st.tuples(
        st.sampled_from(["FINDINGS", "IMPRESSION", "HISTORY", "RECOMMENDATION(S)", "COMPARISON"]), WORDS
    ),
    min_size=1,
    unique_by=lambda section: section[0],
)


@given(SECTIONS, WORDS)
def test_no_section_holds_words_of_another(parts, draft):
    parts = [(name, f"{' '.join(words)} {n}.".capitalize()) for n, (name, words) in enumerate(parts)]
    text = "".join(f" {name}:  {words}\n\n" for name, words in parts)
    found = reports.sections(f"WET READ: ___\n {' '.join(draft)}.\n FINAL REPORT\n{text}")
    names = {"RECOMMENDATION(S)": "recommendation"}
    assert found == {names.get(n, n.lower()): t for n, t in parts} | {"draft": found["draft"]}


def test_removed_words_share_one_mark():
    frame = pl.DataFrame({"text": ["Since ___,\n stable.", "___", " \n", None, "___ ____."]})
    assert frame.select(reports.cleaned("text"))["text"].to_list() == ["Since XXXX, stable.", *[None] * 4]


# MIMIC-CXR-JPG


def test_mimic_studies_in_order_of_time(read):
    studies = read.studies.sort("patient_id", "order")
    assert studies["sample_id"].to_list() == [FIRST, SECOND, THIRD, OTHER, LAST]
    assert studies["prior_study_id"].to_list() == [None, FIRST, SECOND, None, None]
    assert studies["next_study_id"].to_list() == [SECOND, THIRD, None, None, None]
    assert studies["split"].to_list() == ["train"] * 3 + ["test", "validate"]
    assert studies["views"].to_list() == [["PA", "LATERAL"], ["AP"], ["AP", "LATERAL"], ["UNKNOWN"], ["PA"]]
    first = [f"files/p10/p10010001/s50010003/{files.dicom(n)}.jpg" for n in (2, 1)]
    assert studies["images"][0].to_list() == first
    for name in ("studies", "findings", "boxes"):
        assert dict(getattr(read, name).schema) == tables.TABLES[name]


def test_mimic_labels_say_what_the_csv_says(places, read):
    words = {"1.0": "present", "0.0": "absent", "-1.0": "uncertain"}
    opposite = {"1.0": "0.0", "0.0": "1.0"}
    other = {}
    with gzip.open(places[0] / "mimic-cxr-2.0.0-negbio.csv.gz", "rt") as file:
        other = {row["study_id"]: row for row in csv.DictReader(file)}
    with gzip.open(places[0] / "mimic-cxr-2.0.0-chexpert.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            found = said(read, f"mimic/p{row['subject_id']}/s{row['study_id']}")
            for label, name in CHEXPERT.items():
                if name is None or not row[label]:
                    assert found.get(name, {"evidence_tier": 2})["evidence_tier"] == 2
                    continue
                against = opposite.get(row[label]) == other[row["study_id"]][label]
                assert found[name]["status"] == ("uncertain" if against else words[row[label]])
                assert found[name]["evidence_tier"] == 1
    assert said(read, SECOND)["pleural effusion"]["certainty"] == "definite"
    assert said(read, SECOND)["cardiomegaly"]["certainty"] == "possible"
    assert said(read, SECOND)["edema"]["certainty"] is None
    assert read.corrected["mimic: finding made uncertain, CheXpert and NegBio contradict"] == 2


def test_no_finding_is_taken_only_where_nothing_is_found(read):
    assert {row["status"] for row in said(read, FIRST).values()} == {"absent"}
    assert "support devices" not in said(read, FIRST) and len(said(read, FIRST)) == 12
    assert set(said(read, THIRD)) == {"atelectasis", "pleural effusion"}
    assert read.corrected["mimic: No Finding beside a finding, not taken"] == 1


def test_mimic_texts(read):
    texts = {
        row[0]: row[1:] for row in read.studies.select("sample_id", "findings_text", "impression_text").rows()
    }
    assert texts[FIRST] == ("The lungs are clear. Heart size is normal.", "No acute cardiopulmonary process.")
    assert texts[SECOND] == (None, "Moderate right pleural effusion is new.")
    assert texts[THIRD] == ("Small bilateral effusions. Basal atelectasis. Follow up in two weeks.", None)
    assert texts[OTHER] == texts[LAST] == (None, None)
    assert read.corrected["mimic: study without a report file"] == 1
    assert read.corrected["mimic: report without findings and impression"] == 1


def test_mimic_layouts_on_disk_make_no_difference(tmp_path, read):
    folder = files.write_mimic(tmp_path / "unpacked", packed=False)
    files.write_reports(folder, packed=False)
    beside = files.write_mimic(tmp_path / "beside")
    files.write_reports(beside / "reports", packed=True)
    archive = beside / "reports" / "mimic-cxr-reports.zip"
    for again in (mimic.read(folder), mimic.read(beside), mimic.read(folder, texts=archive)):
        assert again.studies.sort("sample_id").equals(read.studies.sort("sample_id"))
        key = ["sample_id", "finding"]
        assert again.findings.sort(key).equals(read.findings.sort(key))


def test_mimic_subset_keeps_whole_patients(places, read):
    few = mimic.read(places[0], max_patients=2).studies
    assert few["patient_id"].n_unique() == 2
    assert few.height == read.studies.join(few, on="patient_id", how="semi").height


def broken(name, change):
    """The tables of the small MIMIC with a change made to the rows of one of them."""
    made = files.mimic_tables()
    header, rows = made[name]
    return made | {name: change(header, rows)}


def row_0(**changed):
    """A change to the first row of a table."""
    return lambda header, rows: (header, [rows[0] | changed, *rows[1:]])


def without_time(header, rows):
    return [c for c in header if c != "StudyTime"], [
        {k: row[k] for k in row if k != "StudyTime"} for row in rows
    ]


BROKEN = {
    "no column 'StudyTime'": broken("metadata", without_time),
    "each image, once": broken("metadata", lambda header, rows: (header, [*rows, rows[0]])),
    "the images of one patient in a study": broken("metadata", row_0(subject_id=10010009)),
    "StudyTime is '999999'": broken("metadata", row_0(StudyTime="999999")),
    "an image that mimic-cxr-2.0.0-split.csv.gz lists": broken("split", lambda h, rows: (h, rows[1:])),
    "one split for all images of a patient": broken("split", row_0(split="test")),
    "train, validate, test": broken("split", row_0(split="dev")),
    "unknown label 'Rash'": broken("chexpert", lambda header, rows: ((*header, "Rash"), rows)),
    "Atelectasis is '2.0'": broken("negbio", row_0(Atelectasis="2.0")),
    "study_id 50010003 stands twice": broken("chexpert", lambda header, rows: (header, [*rows, rows[0]])),
}


@pytest.mark.parametrize("told", BROKEN)
def test_a_wrong_mimic_table_is_told_in_one_line(tmp_path, told):
    with pytest.raises(ValueError, match=r"mimic-cxr-2\.0\.0-\w+\.csv\.gz") as error:
        mimic.read(files.write_mimic(tmp_path, BROKEN[told]))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_labels_of_unknown_studies_are_counted(tmp_path):
    stray = broken("chexpert", lambda h, r: (h, [*r, r[0] | {"study_id": 59999999}]))
    assert mimic.read(files.write_mimic(tmp_path, stray)).excluded == {"mimic: labels without an image": 1}


@pytest.mark.parametrize("name", ["metadata", "split", "chexpert", "negbio"])
def test_a_cut_off_table_is_told(tmp_path, name):
    path = files.write_mimic(tmp_path) / f"mimic-cxr-2.0.0-{name}.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match="damaged or cut off.*download it again from https://physionet.org"):
        mimic.read(tmp_path)


def test_a_damaged_archive_of_reports_is_told(tmp_path, places):
    shutil.copytree(places[0] / "texts", tmp_path, dirs_exist_ok=True)
    archive = tmp_path / "mimic-cxr-reports.zip"
    archive.write_bytes(archive.read_bytes().replace(b"The lungs are", b"The lungs is "))
    with pytest.raises(ValueError, match="mimic-cxr-reports.zip: damaged or cut off .Bad CRC"):
        mimic.read(places[0], texts=tmp_path)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ValueError, match="mimic-cxr-reports.zip: damaged or cut off"):
        mimic.read(places[0], texts=archive)


MISSING = {
    "mimic": lambda root: mimic.read(None),
    "mimic ": lambda root: mimic.read(root),
    "mimic_reports": lambda root: mimic.read(files.write_mimic(root), texts=root / "nowhere"),
    "imagenome": lambda root: imagenome.add(None, root / "nowhere", root),
    "chexpert_plus": lambda root: chexpert_plus.read(root),
}


@pytest.mark.parametrize("key", MISSING)
def test_missing_data_say_where_they_live_and_which_param_to_set(tmp_path, key):
    with pytest.raises(FileNotFoundError) as error:
        MISSING[key](tmp_path)
    place = credentialed.PLACES[key.strip()]
    told = str(error.value)
    assert "\n" not in told and told.endswith(f"set dataset.folders.{key.strip()}")
    assert place.url in told and place.terms in told and place.title in told


# CheXpert Plus


def test_plus_studies(places):
    read = chexpert_plus.read(places[1])
    studies = {
        row["sample_id"].removeprefix("chexpert_plus/"): row for row in read.studies.iter_rows(named=True)
    }
    assert list(studies) == [f"patient0000{n}" for n in ("1/study2", "1/study1", "2/study1", "3/study1")]
    first, second, third, last = studies.values()
    assert first["views"] == ["PA", "LATERAL"] and second["views"] == ["UNKNOWN"]
    assert first["images"][0] == "train/patient00001/study2/view2_frontal.jpg"
    assert second["prior_study_id"] == first["sample_id"] and first["next_study_id"] == second["sample_id"]
    assert first["findings_text"] is None
    assert first["impression_text"] == "1. Clear lungs. 2. No effusion, compared to XXXX."
    assert second["impression_text"] == '1. Effusion, "new".'
    assert [row["age"] for row in studies.values()] == [62, 62, None, None]
    assert [row["sex"] for row in studies.values()] == ["F", "F", None, "M"]
    assert read.corrected["chexpert_plus: age outside 0 to 110 set to unknown"] == 1
    assert read.corrected["chexpert_plus: age 0, which stands for unknown"] == 1
    assert third["split"] == last["split"] == "external"


def test_plus_labels(places):
    read = chexpert_plus.read(places[1])
    found = said(read, "chexpert_plus/patient00001/study1")
    statuses = {name: (row["status"], row["certainty"]) for name, row in found.items()}
    assert statuses == {
        "pleural effusion": ("present", "definite"),
        "pneumonia": ("uncertain", "possible"),
        "edema": ("uncertain", None),  # the two sections contradict each other
        "cardiomegaly": ("absent", "definite"),  # only the findings section says so
    }
    # "No Finding" of an empty findings section says nothing; that of the impression gives way to a lesion.
    assert set(said(read, "chexpert_plus/patient00003/study1")) == {"cardiomegaly"}
    assert set(said(read, "chexpert_plus/patient00002/study1")) == {"lung lesion"}
    implied = said(read, "chexpert_plus/patient00001/study2")
    assert len(implied) == 12 and {row["evidence_tier"] for row in implied.values()} == {2}


def plus_row_0(**changed):
    return {"rows": [files.PLUS_ROWS[0] | changed, *files.PLUS_ROWS[1:]]}


PLUS_BROKEN = {
    "the patient of path_to_image": plus_row_0(deid_patient_id="patient9"),
    "each image, once": {"rows": [files.PLUS_ROWS[1], *files.PLUS_ROWS[1:]]},
    "patient_report_date_order is 'x'": plus_row_0(patient_report_date_order="x"),
    "age is 'old'": plus_row_0(age="old"),
    "view1_lateral.jpg: Edema is '2": {"findings": [{"Edema": 2.0}, *files.PLUS_FINDINGS[1:]]},
    "unknown label 'Rash'": {"impression": [{"Rash": 1.0}, *files.PLUS_IMPRESSION[1:]]},
}


@pytest.mark.parametrize("told", PLUS_BROKEN)
def test_a_wrong_plus_file_is_told_in_one_line(tmp_path, told):
    with pytest.raises(ValueError) as error:
        chexpert_plus.read(files.write_plus(tmp_path / "plus", **PLUS_BROKEN[told]))
    assert told in str(error.value) and "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_cut_off_plus_labels_are_told(tmp_path):
    folder = files.write_plus(tmp_path / "plus")
    path = folder / "chexbert_labels" / "impression_fixed.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="impression_fixed.json: damaged or cut off"):
        chexpert_plus.read(folder)
    path.write_text(json.dumps({"path_to_image": "x"}) + "\n")
    with pytest.raises(ValueError, match="line 1: no label 'Atelectasis'"):
        chexpert_plus.read(folder)


def test_questions_from_the_small_files(places):
    whole = chexpert_plus.read(places[1])
    qa = build.questions(whole.studies, whole.findings, whole.boxes, seed=0)
    assert schema.validate(schema.Cases(whole.studies, qa, "small files")).lines() == []
    written = qa.filter((pl.col("stage") == 8) & pl.col("sample_id").str.ends_with("patient00001/study1"))
    assert "Small left effusion." in written["answer"].str.join(" ").item()
    assert qa.filter(pl.col("stage") == 5).height
