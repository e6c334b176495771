"""Chest ImaGenome on small files in its published format: boxes, findings, what is not taken, questions."""

import credentialed_files as files
import numpy as np
import polars as pl
import pytest
from credentialed_files import FIRST, LAST, SECOND, said
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxrtrek_lib import build, conversations, schema
from cxrtrek_lib.findings import FINDINGS, REGIONS
from cxrtrek_lib.sources import imagenome, imagenome_findings, mimic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return files.write_mimic(tmp_path_factory.mktemp("mimic"))


@pytest.fixture(scope="module")
def read(folder):
    return mimic.read(folder, texts=files.write_reports(folder / "texts", packed=True))


def with_graphs(read, folder, place, *graphs, packed=True):
    """The annotations with graphs written to the folder `place`."""
    return imagenome.add(read, files.write_graphs(place, graphs, packed), folder)


def test_region_boxes_in_percent_of_the_image(tmp_path, read, folder):
    right_lung = files.box("right lung", [395, 532, 1255, 1268])
    boxes = with_graphs(read, folder, tmp_path, files.graph(2, boxes=[right_lung])).boxes
    row = boxes.row(0, named=True)
    assert (row["sample_id"], row["image_id"], row["target"]) == (FIRST, 1, "right lung")
    # By hand, on 2544 x 3056 px: 395/2544, 532/3056, 1255/2544, 1268/3056.
    assert [row[corner] for corner in ("x1", "y1", "x2", "y2")] == [15.53, 17.41, 49.33, 41.49]


def test_a_case_has_the_paper_s_number_of_boxes(tmp_path, read, folder):
    added = with_graphs(read, folder, tmp_path, files.graph(2))
    assert added.boxes.height == 29 >= 13
    assert set(added.boxes["target"]) == set(REGIONS) and added.boxes["target"].is_unique().all()
    assert sum(label.startswith("imagenome region ") for label in added.unmapped) == len(files.REGIONS) - 29
    assert added.unmapped["imagenome region descending aorta"] == 1


@pytest.mark.parametrize("size", [(2544, 3056), (3056, 2544), (2000, 2000)])
def test_padded_coordinates_are_turned_back(tmp_path, size):
    """Draw a rectangle, shrink and pad the image as released, and find the rectangle there."""
    corners = [600, 500, 1500, 1400]
    film = np.zeros((size[1], size[0]), dtype=np.uint8)
    film[corners[1] : corners[3], corners[0] : corners[2]] = 255
    ratio = 224 / max(size)
    small = Image.fromarray(film).resize([int(side * ratio) for side in size], Image.Resampling.BOX)
    square = Image.new("L", (224, 224))
    square.paste(small, [(224 - side) // 2 for side in small.size])
    rows, columns = np.nonzero(np.asarray(square) > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    entry = files.box("spine", corners, size)
    entry |= dict(zip(("x1", "y1", "x2", "y2"), map(int, found), strict=True))
    entry = {key: value for key, value in entry.items() if not key.startswith("original")}

    made = files.mimic_tables()
    sized = [row | {"Columns": size[0], "Rows": size[1]} for row in files.image_rows()]
    folder = files.write_mimic(tmp_path / "mimic", made | {"metadata": (files.METADATA, sized)})
    graphs = files.write_graphs(tmp_path / "graphs", [files.graph(2, boxes=[entry])], True)
    row = imagenome.add(mimic.read(folder), graphs, folder).boxes.row(0, named=True)
    pixel = 100 / ratio / min(size)  # one pixel of the small image, in percent
    for corner, value in zip(("x1", "y1", "x2", "y2"), corners, strict=True):
        assert abs(row[corner] - 100 * value / size[corner[0] == "y"]) < pixel


def test_boxes_that_are_none_are_counted(tmp_path, read, folder):
    wrong = [
        files.box("spine", [900, 900, 900, 1200]),
        files.box("trachea", [900, 900, 800, 1200]),
        files.box("right lung", [-500, 100, -20, 900]),
        files.box("left lung", [2000, 100, 2800, 3056]),
        files.box("mediastinum", [0, 0, 10, 10]), files.box("mediastinum", [0, 0, 20, 20]),
        {"bbox_name": "aortic arch"},
    ]  # fmt: skip
    added = with_graphs(read, folder, tmp_path, files.graph(2, boxes=wrong))
    assert added.boxes.select("target", "x1", "y1", "x2", "y2").rows() == [
        ("left lung", 78.62, 3.27, 100.0, 100.0)
    ]
    counts = {
        reason.removeprefix("imagenome: box "): n for reason, n in added.corrected.items() if "box" in reason
    }
    assert counts == {
        "inverted or without area, left out": 2,
        "outside the image, left out": 1,
        "cut at the edge of the image": 1,
        "of a region with two different ones, left out": 2,
        "without coordinates or image size, left out": 1,
    }


@given(st.lists(st.lists(st.integers(-4000, 4000), min_size=4, max_size=4), min_size=1, max_size=8))
def test_every_kept_box_is_a_box(corners):
    rows = [
        {"graph": 0, "region": "spine", **dict(zip(imagenome._CORNERS, [*box, 0, 0, 0, 0], strict=True))}
        | {"sample_id": f"s{n}", "image_id": 1, "width": 2544.0, "height": 3056.0}
        for n, box in enumerate(corners)
    ]
    kept, counts, _ = imagenome._boxes(pl.DataFrame(rows, schema_overrides=imagenome._BOX))
    assert all(conversations.is_box(list(box)) for box in kept.select("x1", "y1", "x2", "y2").rows())
    left_out = sum(n for reason, n in counts.items() if reason.endswith("left out"))
    assert kept.height + left_out == len(corners)


FOUND = {"yes": "anatomicalfinding|yes|", "no": "anatomicalfinding|no|"}


def sentence(phrase, yes=(), no=(), cues=()):
    """(phrase, labels, cues) of a sentence that affirms and denies anatomical findings."""
    return phrase, [FOUND["yes"] + name for name in yes] + [FOUND["no"] + name for name in no], list(cues)


def on(*names):
    """A function from sentences to the regions `names`, to all of which they are given."""
    return lambda *sentences: [files.region(name, *sentences) for name in names]


LEFT, RIGHT, BOTH = on("left lung"), on("right lung"), on("left lung", "right lung")
CONSOLIDATION, OPACITY = ["consolidation"], ["consolidation", "lung opacity"]
LEFT_ONE = sentence("Left consolidation.", CONSOLIDATION)
# Name -> (regions of the graph of SECOND, finding, (status, side, place, severity) of its row).
CASES = {
    "side, zone and severity": (
        on("right lung", "right lower lung zone")(
            sentence("A moderate right lower lobe consolidation.", OPACITY, cues=["moderate"])
        ),
        "consolidation", ("present", "right", "lower lung zone", "moderate"),
    ),
    "a generality has no severity": (
        RIGHT(sentence("Mild right consolidation.", OPACITY, cues=["mild"])),
        "lung opacity", ("present", "right", None, None),
    ),
    "both sides named": (
        BOTH(sentence("Bilateral consolidation.", CONSOLIDATION)),
        "consolidation", ("present", "bilateral", None, None),
    ),
    "no side named": (
        BOTH(sentence("Upright film: consolidation.", CONSOLIDATION)),
        "consolidation", ("present", None, None, None),
    ),
    "one sentence, two findings": (
        LEFT(sentence("Mild left scar, consolidation.", ["consolidation", "bronchiectasis"], cues=["mild"])),
        "consolidation", ("present", "left", None, None),
    ),
    "two severities": (
        LEFT(*(sentence("Left consolidation.", CONSOLIDATION, cues=[cue]) for cue in ("mild", "severe"))),
        "consolidation", ("present", "left", None, None),
    ),
    "hedged": (
        LEFT(sentence("Possible left consolidation.", CONSOLIDATION, cues=["hedge"])),
        "consolidation", ("uncertain", None, None, None),
    ),
    "affirmed and denied": (
        LEFT(LEFT_ONE, sentence("No consolidation.", no=CONSOLIDATION)),
        "consolidation", ("uncertain", None, None, None),
    ),
    "denied on one side, present on the other": (
        [*LEFT(LEFT_ONE), *RIGHT(sentence("None on the right.", no=CONSOLIDATION))],
        "consolidation", ("present", "left", None, None),
    ),
    "denied on both sides": (
        BOTH(sentence("No consolidation.", no=CONSOLIDATION)),
        "consolidation", ("absent", None, None, None),
    ),
    "denied for an unpaired region": (
        on("mediastinum")(sentence("No mediastinal widening.", no=["mediastinal widening"])),
        "enlarged cardiomediastinum", ("absent", None, None, None),
    ),
    "denied on one side": (
        LEFT(sentence("No left consolidation.", no=CONSOLIDATION)), "consolidation", None,
    ),
    "denied with a hedge": (
        BOTH(sentence("Probably none.", no=CONSOLIDATION, cues=["hedge"])), "consolidation", None,
    ),
    "a special case denied": (
        BOTH(sentence("No consolidation.", no=["consolidation", "airspace opacity"])),
        "airspace opacity", None,
    ),
    "a general finding denied beside a special case of it": (
        BOTH(sentence("Clear lungs.", no=["lung opacity"]), sentence("Nodule.", ["calcified nodule"])),
        "lung opacity", None,
    ),
    "not in the final report": (
        [files.region("left lung", LEFT_ONE, sections=["prelimread"])], "consolidation", None,
    ),
    "region not in the sentence": (
        [files.region("left lung", LEFT_ONE, known=False)],
        "consolidation", ("present", None, None, None),
    ),
    # The labels of SECOND: pleural effusion 1, cardiomegaly -1, pneumothorax 0.
    "as the label says": (
        RIGHT(sentence("Small right effusion.", ["pleural effusion"], cues=["mild"])),
        "pleural effusion", ("present", "right", None, "mild"),
    ),
    "against the label": (
        RIGHT(sentence("Right pneumothorax.", ["pneumothorax"])),
        "pneumothorax", ("uncertain", None, None, None),
    ),
    "where the label doubts": (
        on("cardiac silhouette")(sentence("Large heart.", ["enlarged cardiac silhouette"], cues=["severe"])),
        "cardiomegaly", ("uncertain", None, None, None),
    ),
    "device": (
        on("svc")(("Right PICC.", ["tubesandlines|yes|picc"], [])),
        "central venous catheter", ("present", None, None, None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_graph_says_of_a_finding(tmp_path, read, folder, case):
    regions, finding, expected = CASES[case]
    added = with_graphs(read, folder, tmp_path, files.graph(3, *regions, boxes=[]))
    row = said(added, SECOND).get(finding)
    told = row and tuple(row[c] for c in ("status", "laterality", "location", "severity"))
    assert told == expected
    if row and finding not in said(read, SECOND):
        assert row["source_column"].startswith("imagenome: ") and row["evidence_tier"] == 1


def test_findings_stay_one_row_each(tmp_path, read, folder):
    regions = [region for regions, *_ in CASES.values() for region in regions]
    added = with_graphs(read, folder, tmp_path, files.graph(3, *regions), files.graph(2, *regions))
    assert added.findings.select("sample_id", "finding").is_unique().all()
    untouched = said(read, LAST)
    assert said(added, LAST) == untouched
    source = said(added, SECOND)["pleural effusion"]["source_column"]
    assert source.startswith("mimic: CheXpert Pleural Effusion; imagenome: ")


def test_implied_absence_gives_way_to_a_statement(tmp_path, read, folder):
    regions = LEFT(sentence("Left lesion.", ["lung lesion"]))
    added = said(with_graphs(read, folder, tmp_path, files.graph(2, *regions)), FIRST)
    assert (added["lung lesion"]["status"], added["lung lesion"]["evidence_tier"]) == ("present", 1)
    assert "lung opacity" not in added  # a lesion is one, so that it is no longer absent
    assert added["pleural effusion"]["status"] == "absent"


def test_what_is_not_taken_is_counted(tmp_path, read, folder):
    rotated = ("Rotated.", ["technicalassessment|yes|rotated"], [])
    regions = [
        *LEFT(("Rash.", ["disease|yes|rash", "anatomicalfinding|yes|vascular calcification"], ["huge"])),
        files.region("right lung", rotated, phrases=[]),
        *on("mediastinum")(rotated),
        files.region("spine", sentence("Old.", ["scoliosis"]), sections=["history"]),
    ]
    added = with_graphs(read, folder, tmp_path, files.graph(3, *regions, boxes=[]))
    labels = ("disease|rash", "anatomicalfinding|vascular calcification", "severity|huge", "section history")
    assert added.unmapped == {f"imagenome {label}": 1 for label in labels}
    assert added.corrected["imagenome: region whose sentences do not fit their labels, left out"] == 1
    assert added.corrected["imagenome: AP or PA image without a graph"] == 3
    assert added.studies.filter(sample_id=SECOND)["quality"].to_list() == [["rotated"]]
    assert added.studies.drop("quality").equals(read.studies.drop("quality"))


def test_archive_and_folder_hold_the_same(tmp_path, read, folder):
    regions = [region for regions, *_ in CASES.values() for region in regions]
    graphs = [files.graph(n, *regions) for n in (2, 3, 4)]
    one, two = (with_graphs(read, folder, tmp_path / str(p), *graphs, packed=p) for p in (False, True))
    for name in ("studies", "findings", "boxes"):
        frames = [getattr(each, name) for each in (one, two)]
        keys = [c for c in frames[0].columns if frames[0][c].dtype.is_nested() is False]
        assert frames[0].sort(keys).equals(frames[1].sort(keys))
    assert (one.unmapped, one.corrected) == (two.unmapped, two.corrected)


# Labels that name two things, or one that our vocabulary does not hold.
UNMAPPED = {
    "pulmonary edema/hazy opacity", "vascular calcification", "superior mediastinal mass/enlargement",
    "cyst/bullae", "shoulder osteoarthritis", "fluid overload/heart failure", "copd/emphysema",
    "interstitial lung disease", "lung cancer", "aspiration", "alveolar hemorrhage", "mediastinal drain",
    "pigtail catheter", "swan-ganz catheter", "intra-aortic balloon pump", "cabg grafts",
    "aortic graft/repair",
}  # fmt: skip


def test_every_published_label_is_mapped_or_known_not_to_be():
    """Chest ImaGenome publishes 43 anatomical findings, 10 diseases, 12 tubes and lines, 5 devices."""
    keys = [key.split("|") for key, name in imagenome_findings.IMAGENOME.items() if name]
    mapped = {name for kind, name in keys if kind != "technicalassessment"}
    assert not mapped & UNMAPPED and len(mapped) + len(UNMAPPED) == 43 + 10 + 12 + 5
    assert set(filter(None, imagenome_findings.IMAGENOME.values())) <= set(FINDINGS)


WRONG_GRAPHS = {
    "graph of mimic/p10010001/s50010003, but the image is of": lambda g: g | {"study_id": 50010003},
    "damaged or cut off ('objects')": lambda g: {k: v for k, v in g.items() if k != "objects"},
    "objects without bbox_name": lambda g: g | {"objects": [{}]},
}  # fmt: skip


@pytest.mark.parametrize("told", WRONG_GRAPHS)
def test_a_wrong_graph_is_told_in_one_line(tmp_path, read, folder, told):
    with pytest.raises(ValueError) as error:
        with_graphs(read, folder, tmp_path, WRONG_GRAPHS[told](files.graph(3)))
    assert told in str(error.value) and files.dicom(3) in str(error.value) and "\n" not in str(error.value)


def test_damaged_archives_are_told(tmp_path, read, folder):
    graphs = files.write_graphs(tmp_path / "graphs", [files.graph(3)], True)
    archive = graphs / "silver_dataset" / "scene_graph.zip"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ValueError, match="scene_graph.zip: damaged or cut off"):
        imagenome.add(read, graphs, folder)
    graphs = files.write_graphs(tmp_path / "other", [files.graph(3) | {"image_id": "other"}], True)
    with pytest.raises(ValueError, match="no scene graph of any of 7 images"):
        imagenome.add(read, graphs, folder)


def test_questions_from_the_small_files(tmp_path, read, folder):
    regions = CASES["side, zone and severity"][0] + CASES["as the label says"][0]
    added = with_graphs(read, folder, tmp_path, files.graph(2), files.graph(3, *regions))
    qa = build.questions(added.studies, added.findings, added.boxes, seed=0)
    assert schema.validate(schema.Cases(added.studies, qa, "small files")).lines() == []
    third = qa.filter((pl.col("stage") == 3) & (pl.col("sample_id") == SECOND))
    located = third.filter(pl.col("qtype") == "detection")
    assert located.height >= 4
    corners = added.boxes.select("sample_id", "target", pl.concat_list("x1", "y1", "x2", "y2"))
    boxes = {(sample_id, target): box for sample_id, target, box in corners.rows()}
    for row in located.iter_rows(named=True):
        assert row["bbox_list"] == [boxes[SECOND, row["target"]]]
    words = " ".join(third["answer"]).lower()
    assert "right" in words and "moderate" in words and "lower lung zone" in words
    written = (
        qa.filter((pl.col("stage") == 8) & (pl.col("sample_id") == FIRST))["answer"].str.join(" ").item()
    )
    assert "The lungs are clear. Heart size is normal." in written
    assert "No acute cardiopulmonary process." in written
    assert {5, 6} <= set(qa["stage"])
