"""Annotation tables: the counts of the design, rows re-read by hand, damage told in one line."""

import csv
import gzip
import io
import tarfile

import polars as pl
import pytest
from real_tables import table

from cxrtrek_lib import packages, tables
from cxrtrek_lib.findings import CORE
from cxrtrek_lib.sources import chexpert, common, nih, openi, padchest

DATA = packages.data_dir("torchxrayvision")


def raw_rows(name):
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def statements(name, sample_id):
    rows = table(name).findings.filter(sample_id=sample_id)
    return {row["finding"]: row for row in rows.iter_rows(named=True)}


# Studies, patients, images: facts measured before this code was written (PadChest: see below).
COUNTS = {
    "chexpert": (187_641, 64_540, 223_414),
    "nih": (112_120, 30_805, 112_120),
    "openi": (3_851, 3_851, 7_470),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    studies = table(name).studies
    assert (studies.height, studies["patient_id"].n_unique(), studies["images"].list.len().sum()) == COUNTS[
        name
    ]


def test_padchest_counts():
    studies, excluded = table("padchest").studies, table("padchest").excluded
    assert studies.height + sum(excluded.values()) == 109_931
    # The 108,887 usable studies measured before still held 19 tagged " exclude", with a leading space.
    assert studies.height + excluded["padchest: tagged ' exclude' (leading space)"] == 108_887
    assert excluded["padchest: tagged exclude"] == 964
    assert studies["study_id"].str.len_chars().min() >= 20  # ids kept as text


@pytest.mark.parametrize("name", ["chexpert", "padchest", "nih", "openi"])
def test_tables_keep_their_schema_and_their_keys(name):
    studies, findings, boxes, *_ = table(name)
    for part, frame in (("studies", studies), ("findings", findings), ("boxes", boxes)):
        assert dict(frame.schema) == tables.TABLES[part]
    assert studies["sample_id"].is_unique().all()
    assert findings.join(studies, on="sample_id", how="anti").height == 0
    assert (studies["views"].list.len() == studies["images"].list.len()).all()
    assert set(studies["views"].explode()) <= set(tables.VIEWS)
    assert not findings.filter((pl.col("status") == "absent") & (pl.col("evidence_tier") > 2)).height


@pytest.mark.parametrize(("name", "n"), [("chexpert", 123_101), ("nih", 112_120 - 30_805)])
def test_history_links_both_ways(name, n):
    studies = table(name).studies
    later = studies.drop_nulls("prior_study_id")
    assert later.height == n
    both = later.join(studies, left_on="prior_study_id", right_on="sample_id")
    assert (both["next_study_id_right"] == both["sample_id"]).all()
    assert (both["patient_id_right"] == both["patient_id"]).all()
    assert (both["order_right"] + 1 == both["order"]).all()


def test_same_day_studies_have_no_known_order():
    when = pl.DataFrame({"patient_id": ["p"] * 4, "sample_id": ["a", "b", "c", "d"], "when": [1, 2, 2, 3]})
    linked = common.link_history(when)
    assert (
        linked["prior_study_id"].to_list() == [None] * 4 and linked["next_study_id"].to_list() == [None] * 4
    )
    linked = common.link_history(when.filter(pl.col("sample_id") != "c"))
    assert linked["prior_study_id"].to_list() == [None, "a", "b"]


def test_chexpert_rows_say_what_the_csv_says():
    words = {"1.0": "present", "0.0": "absent", "-1.0": "uncertain"}
    for n, row in enumerate(raw_rows(chexpert.TABLE)):
        if n % 3001:
            continue
        patient, study = row["Path"].split("/")[2:4]
        said = statements("chexpert", f"chexpert/{patient}/{study}")
        for label, name in chexpert.CHEXPERT.items():
            if name is None:
                continue
            if row[label]:
                assert (said[name]["status"], said[name]["evidence_tier"]) == (words[row[label]], 1)
            elif row["No Finding"] == "1.0" and name != "support devices":
                assert (said[name]["status"], said[name]["evidence_tier"]) == ("absent", 2)
            else:
                assert name not in said  # blank: not reported, never a "No"


def test_chexpert_frontal_views_come_first():
    views = table("chexpert").studies.filter(pl.col("views").list.len() > 1)["views"]
    lateral = views.list.eval(pl.element() == "LATERAL")
    assert (lateral.list.eval(pl.element().cast(pl.Int8).diff().fill_null(0) >= 0).list.all()).all()


def test_padchest_rows_say_what_the_csv_says():
    kept = set(table("padchest").studies["sample_id"])
    for n, row in enumerate(raw_rows(padchest.TABLE)):
        sample_id = f"padchest/{row['StudyID']}"
        if n % 4001 or sample_id not in kept:
            continue
        labels = {label.strip("' ") for label in row["Labels"].strip("[]").split(",")}
        wanted = {padchest.PADCHEST.get(label) for label in labels} - {None}
        said = statements("padchest", sample_id)
        assert {name for name, row in said.items() if row["status"] == "present"} == wanted
        absent = {name for name, row in said.items() if row["status"] == "absent"}
        assert absent == (set(CORE) if labels in ({"normal"}, {"normal", "unchanged"}) else set())


def sentence_frame(text):
    return pl.DataFrame({"sample_id": ["s"], "LabelsLocalizationsBySentence": [text]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[['pleural effusion', 'loc pleural', 'loc right']]", [("pleural effusion", "right", None)]),
        ("[['laminar atelectasis', 'loc basal', 'loc left'], ['sternotomy']]",
         [("atelectasis", "left", "lung base"), ("sternal wires", None, None)]),
        ("[['nodule', 'pneumonia', 'loc left']]", []),  # two labels: whose side is it?
        ("['cardiomegaly', 'loc cardiac', 'nodule', 'loc left']", []),  # flat list, two positive labels
        ("['normal', 'loc left', 'nodule', 'loc right']", [("nodule", "right", None)]),
        ("[['pleural effusion both sides', 'loc right']]", [("pleural effusion", "bilateral", None)]),
        ("[['pneumonia', 'loc middle lobe']]", [("pneumonia", "right", "middle lobe")]),
    ],
)  # fmt: skip
def test_padchest_places_belong_to_one_finding(text, expected):
    found = padchest._attributes(padchest._sentences(sentence_frame(text)))
    assert sorted(found.select("finding", "laterality", "location").rows()) == sorted(expected)


def test_padchest_unmapped_labels_are_listed():
    unmapped = table("padchest").unmapped
    assert unmapped["pseudonodule"] > 1000 and "cardiomegaly" not in unmapped
    assert unmapped["mastectomy"] > 400


def test_nih_boxes_and_adjudicated_labels():
    studies, findings, boxes, *_ = table("nih")
    assert boxes.height == 984 and boxes["sample_id"].n_unique() == 880
    # First row of the list: 225.08, 547.02, 86.78 wide, 79.19 high of 1024 px.
    first = boxes.filter(sample_id="nih/00013118_008", target="atelectasis").row(0, named=True)
    assert [first[c] for c in ("x1", "y1", "x2", "y2")] == [21.98, 53.42, 30.46, 61.15]
    panel = findings.filter(pl.col("source_column").str.starts_with("nih: google2019"))
    assert panel["sample_id"].n_unique() == 4_376 and panel.height == 4 * 4_376
    present = dict(panel.filter(status="present").group_by("finding").len().rows())
    assert present == {"fracture": 186, "pneumothorax": 238, "airspace opacity": 2166, "nodule or mass": 605}


def test_nih_text_labels_yield_to_the_panel():
    panel = {row["Image Index"]: row for row in raw_rows(nih.ADJUDICATED)}
    mined = {row["Image Index"]: row["Finding Labels"] for row in raw_rows(nih.ENTRIES)}
    refuted = [i for i in panel if "Nodule" in mined[i] and panel[i]["Nodule or mass"] == "NO"]
    assert refuted
    for image in refuted[:20]:
        said = statements("nih", f"nih/{image[:-4]}")
        assert "nodule" not in said and said["nodule or mass"]["status"] == "absent"
    # "No Finding" is weak: an image outside the panel's set has no absence at all.
    absent = table("nih").findings.filter(status="absent")["sample_id"].unique()
    assert set(absent) <= {f"nih/{image[:-4]}" for image in panel}


def test_openi_tags_carry_side_place_and_severity():
    said = statements("openi", "openi/CXR1234")
    assert said["cardiomegaly"]["status"] == "present"
    atelectasis = said["atelectasis"]  # Pulmonary Atelectasis/lingula/mild
    assert (atelectasis["laterality"], atelectasis["location"], atelectasis["severity"]) == (
        "left",
        "lingula",
        "mild",
    )
    assert said["costophrenic angle blunting"]["laterality"] == "left"
    assert {"scarring", "aortic atherosclerosis", "surgical material"} <= set(said)
    normal = statements("openi", "openi/CXR1")  # its only tag is "normal"
    assert {(row["status"], row["evidence_tier"]) for row in normal.values()} == {("absent", 2)}


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("Pleural Effusion/left/small", ("pleural effusion", "present", "left", None, "mild")),
        ("Cardiomegaly/borderline", ("cardiomegaly", "uncertain", None, None, None)),
        ("Lung/hypoinflation", ("low lung volumes", "present", None, None, None)),
        ("Opacity/lung/base/bilateral/interstitial",
         ("interstitial opacity", "present", "bilateral", "lung base", None)),
        ("Opacity/ribs/right", ("Opacity", None, None, None, None)),  # not a lung opacity: unmapped
        ("Consolidation/lung/upper lobe/left/right",
         ("consolidation", "present", "bilateral", "upper lobe", None)),
        ("normal", ("", None, None, None, None)),
    ],
)  # fmt: skip
def test_openi_tag_by_tag(tag, expected):
    assert openi._finding(tag) == expected


def test_openi_texts_are_real_english():
    studies = table("openi").studies
    both = studies.filter(pl.col("findings_text").is_not_null() | pl.col("impression_text").is_not_null())
    assert both.height == 3_826
    assert studies.filter(sample_id="openi/CXR1")["impression_text"][0] == "Normal chest x-XXXX."


def test_max_patients_is_a_fair_subset():
    small, smaller = openi.read(max_patients=200), openi.read(max_patients=100)
    assert set(smaller.studies["sample_id"]) < set(small.studies["sample_id"])
    assert small.studies.height + small.excluded["openi: no image"] == 200
    numbers = small.studies["study_id"].str.strip_prefix("CXR").cast(pl.Int32)
    assert 1500 < numbers.mean() < 2500  # not the head of the archive


def truncated(tmp_path, name, keep=0.5):
    content = (DATA / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])


def edited(tmp_path, name, old, new, lines=40):
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        text = "".join(line for _, line in zip(range(lines), file, strict=False))
    assert old in text
    (tmp_path / name).write_bytes(gzip.compress(text.replace(old, new, 1).encode()))


def refused(read, tmp_path, *parts):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(tmp_path)
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("read", "name"),
    [(chexpert.read, chexpert.TABLE), (nih.read, nih.ENTRIES), (openi.read, openi.REPORTS),
     (padchest.read, padchest.TABLE)],
)  # fmt: skip
def test_missing_and_truncated_tables(tmp_path, read, name):
    refused(read, tmp_path, name, "missing", "pip install")
    truncated(tmp_path, name)
    refused(read, tmp_path, name, "damaged or cut off", "pip install")


def test_wrong_content_is_named_with_its_line(tmp_path):
    edited(tmp_path, chexpert.TABLE, ",1.0,", ",2.0,")
    refused(chexpert.read, tmp_path, chexpert.TABLE, "line 2", "'2.0'", "1.0, 0.0, -1.0 or nothing")
    edited(tmp_path, chexpert.TABLE, "Pneumothorax", "Pneumo")
    refused(chexpert.read, tmp_path, "no column 'Pneumothorax'")
    edited(tmp_path, nih.ENTRIES, "Cardiomegaly|Emphysema", "Cardiomegaly|Dragon")
    refused(nih.read, tmp_path, nih.ENTRIES, "line 3", "Dragon")
    edited(tmp_path, padchest.TABLE, ",PA,", ",SIDEWAYS,")
    refused(padchest.read, tmp_path, padchest.TABLE, "line 2", "SIDEWAYS")


def test_a_bad_report_is_named(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("ecgen-radiology/9.xml")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"<oops"))
    (tmp_path / openi.REPORTS).write_bytes(gzip.compress(buffer.getvalue()))
    refused(openi.read, tmp_path, "ecgen-radiology/9.xml", "not an Open-i report")
