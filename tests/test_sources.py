"""Annotation tables: the counts of the design, histories, rows re-read from the table with the csv module."""

import csv
import gzip
from functools import cache

import polars as pl
import pytest
from real_tables import table

from cxrtrek_lib import packages, tables
from cxrtrek_lib.findings import CORE
from cxrtrek_lib.sources import chexpert, common, nih, openi, padchest

DATA = packages.data_dir("torchxrayvision")


@cache
def raw_rows(name, *columns):
    """The named columns of a table, a dict per row, by the csv module."""
    with gzip.open(DATA / name, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        places = [header.index(column) for column in columns]
        return [dict(zip(columns, (row[place] for place in places), strict=True)) for row in rows]


def statements(name, sample_id):
    rows = table(name).findings.filter(sample_id=sample_id)
    return {row["finding"]: row for row in rows.iter_rows(named=True)}


# Studies, patients, images: facts measured before this code was written (PadChest: see below).
COUNTS = {
    "chexpert": (187_641, 64_540, 223_414),
    "nih": (112_120, 30_805, 112_120),
    "openi": (3_851, 3_851, 7_470),
    "vindr": (15_000, 15_000, 15_000),
    "rsna": (26_684, 26_684, 26_684),
    "siim": (12_047, 12_047, 12_047),
}
ALL = ("padchest", *COUNTS)


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


def test_what_is_corrected_is_counted():
    opposed = {"Nodule": "Nodule or mass", "Mass": "Nodule or mass", "Pneumothorax": "Pneumothorax",
               "Consolidation": "Airspace opacity"}  # fmt: skip
    panel = {
        row["Image Index"]: row for row in raw_rows(nih.ADJUDICATED, "Image Index", *nih.NIH_ADJUDICATED)
    }
    mined = [
        (row["Image Index"], label)
        for row in raw_rows(nih.ENTRIES, "Image Index", "Finding Labels")
        for label in row["Finding Labels"].split("|")
    ]
    boxed = {tuple(row.values()) for row in raw_rows(nih.BOX_LIST, "Image Index", "Finding Label")}
    refuted = sum(
        image in panel and label in opposed and panel[image][opposed[label]] == "NO"
        for image, label in [*mined, *boxed]
    )
    assert {name: table(name).corrected for name in ALL if table(name).corrected} == {
        "chexpert": {
            "chexpert: age 0, which stands for unknown": 3,
            "chexpert: view LL or RL of a frontal image set to UNKNOWN": 17,
        },
        "padchest": {
            "padchest: image with projection EXCLUDE left out": 11,
            "padchest: increased density of bone or soft tissue left out": 148,
        },
        "nih": {"nih: label that the panel refutes left out": refuted},
        "rsna": {"rsna: age outside 0 to 110 set to unknown": 5},
    }


@pytest.mark.parametrize("name", ALL)
def test_tables_keep_their_schema_and_their_keys(name):
    studies, findings, boxes, *_ = table(name)
    for part, frame in (("studies", studies), ("findings", findings), ("boxes", boxes)):
        assert dict(frame.schema) == tables.TABLES[part]
    assert studies["sample_id"].is_unique().all()
    assert (studies["views"].list.len() == studies["images"].list.len()).all()
    assert set(studies["views"].explode()) <= set(tables.VIEWS)
    assert not findings.filter((pl.col("status") == "absent") & (pl.col("evidence_tier") > 2)).height
    assert not findings.join(studies, on="sample_id", how="anti").height
    inside = pl.col("x1").ge(0) & (pl.col("x1") < pl.col("x2")) & (pl.col("x2") <= 100)
    inside &= pl.col("y1").ge(0) & (pl.col("y1") < pl.col("y2")) & (pl.col("y2") <= 100)
    assert boxes.filter(~inside).height == 0
    assert (table(name).studies["age"].drop_nulls() <= 110).all()


@pytest.mark.parametrize("name", ALL)
def test_no_finding_is_both_stated_and_denied(name):
    stated = table(name).findings.group_by("sample_id", "finding").agg(pl.col("status").unique())
    # Open-i repeats a finding once per tag, once borderline: present and uncertain, never absent.
    assert not stated.filter(
        pl.col("status").list.contains("absent") & (pl.col("status").list.len() > 1)
    ).height


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
    for n, row in enumerate(raw_rows(chexpert.TABLE, "Path", *chexpert.CHEXPERT)):
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


def test_only_sources_that_grade_certainty_state_it():
    known = {name: set(table(name).findings["certainty"].drop_nulls()) for name in ALL}
    assert known == {**dict.fromkeys(ALL, set()), "chexpert": {"definite", "possible"}, "openi": {"possible"}}
    graded = table("chexpert").findings.select("status", "certainty").unique()
    assert set(graded.rows()) == {
        ("present", "definite"),
        ("uncertain", "possible"),
        ("absent", "definite"),
        ("absent", None),
    }  # no certainty where "No Finding" implies the absence


def test_suboptimal_studies_by_the_words_of_the_tables():
    quality = {name: table(name).studies.drop_nulls("quality") for name in ALL}
    assert {name for name in ALL if quality[name].height} == {"padchest", "openi"}
    assert quality["openi"].height == 84 and quality["openi"]["quality"].to_list()[0] == ["suboptimal"]
    said = {
        f"padchest/{row['StudyID']}"
        for row in raw_rows(padchest.TABLE, "StudyID", "Labels")
        if "suboptimal study" in row["Labels"] and "exclude" not in row["Labels"]
    }
    assert said >= set(quality["padchest"]["sample_id"]) and len(said) - quality["padchest"].height < 5


def test_chexpert_frontal_views_come_first():
    views = table("chexpert").studies.filter(pl.col("views").list.len() > 1)["views"]
    lateral = views.list.eval(pl.element() == "LATERAL")
    assert (lateral.list.eval(pl.element().cast(pl.Int8).diff().fill_null(0) >= 0).list.all()).all()


def test_padchest_rows_say_what_the_csv_says():
    kept = set(table("padchest").studies["sample_id"])
    for n, row in enumerate(raw_rows(padchest.TABLE, "StudyID", "Labels")):
        sample_id = f"padchest/{row['StudyID']}"
        if n % 4001 or sample_id not in kept:
            continue
        labels = {label.strip("' ") for label in row["Labels"].strip("[]").split(",")}
        # Signs of a diagnosis are no diagnosis, and an increased density may be one of bone.
        wanted = {padchest.PADCHEST.get(label) for label in labels - {"COPD signs", "increased density"}}
        wanted -= {None}
        said = statements("padchest", sample_id)
        found = {name for name, row in said.items() if row["status"] == "present"}
        assert found - {"lung opacity"} == wanted
        absent = {name for name, row in said.items() if row["status"] == "absent"}
        assert absent == (set(CORE) if labels in ({"normal"}, {"normal", "unchanged"}) else set())


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
    panel = {
        row["Image Index"]: row for row in raw_rows(nih.ADJUDICATED, "Image Index", *nih.NIH_ADJUDICATED)
    }
    mined = {
        row["Image Index"]: row["Finding Labels"]
        for row in raw_rows(nih.ENTRIES, "Image Index", "Finding Labels")
    }
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


@pytest.mark.parametrize("module", [chexpert, padchest, nih])
def test_a_subset_says_what_the_whole_table_says(module):
    whole, part = table(module.__name__.rsplit(".")[-1]), module.read(max_patients=300)
    assert part.studies["patient_id"].n_unique() <= 300 < whole.studies.height
    for all_rows, rows in zip(whole[:3], part[:3], strict=True):
        of_part = all_rows.join(part.studies.select("sample_id"), on="sample_id", how="semi")
        key = [c for c in ("sample_id", "finding", "target", "x1") if c in rows.columns]
        assert of_part.sort(key).equals(rows.sort(key))


def test_max_patients_is_a_fair_subset():
    small, smaller = openi.read(max_patients=200), openi.read(max_patients=100)
    assert set(smaller.studies["sample_id"]) < set(small.studies["sample_id"])
    assert small.studies.height + small.excluded["openi: no image"] == 200
    numbers = small.studies["study_id"].str.strip_prefix("CXR").cast(pl.Int32)
    assert 1500 < numbers.mean() < 2500  # not the head of the archive
