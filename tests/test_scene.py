"""simulate/scene.py: films whose truth holds in the film itself, measured apart from what tells it."""

import numpy as np
import pytest
from films_by_hand import SIZE, alone, change, of, present, share_inside, study, told
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib import findings, simulate, tables
from cxrtrek_lib.simulate import acquisition, catalogue, devices, patient, plan, scene, shapes, truth
from cxrtrek_lib.simulate.catalogue import SHOWN

SIDED = [(name, side) for name, shown in SHOWN.items() for side in ("left", "right") if shown.sides]
EACH = [*SIDED, *((name, None) for name, shown in SHOWN.items() if not shown.sides)]


def test_every_finding_is_made_by_somebody():
    made = {*scene.LAYERS, *shapes.SHAPES, *devices.STROKES}
    assert made == set(SHOWN)
    assert (
        list(scene.LAYERS)[0] == "pneumothorax"
    )  # it replaces the whole lung: later findings lie in the rest


@pytest.mark.parametrize(("finding", "side"), EACH)
def test_a_box_holds_its_finding_and_is_tight(finding, side):
    difference, known = alone(finding, side)
    row = of(known, finding)
    assert row["status"] == "present" and row["visibility_mm"] >= truth.VISIBLE_MM
    assert list(row["boxes"]) == [side or ""] and row["laterality"] == side
    # A bent spine moves all of the chest: its box is the spine, where most of the change is.
    assert share_inside(difference, row["boxes"].values()) >= (0.4 if finding == "scoliosis" else 0.9)
    if finding in catalogue.ORGANS:
        return  # the whole heart, the whole spine
    strong = difference > 0.05 * difference.max()
    ((x1, y1, x2, y2),) = ([int(round(v * SIZE / 100)) for v in box] for box in row["boxes"].values())
    box, strip = strong[y1:y2, x1:x2], SIZE // 20
    assert box[:strip].any() and box[-strip:].any() and box[:, :strip].any() and box[:, -strip:].any()


@pytest.mark.parametrize(("finding", "side"), SIDED)
def test_the_patients_right_is_on_the_films_left(finding, side):
    difference, known = alone(finding, side)
    columns = difference.sum(axis=0)
    if finding == "pacemaker":  # its leads cross the midline, the generator does not
        columns = np.where(columns > 0.4 * columns.max(), columns, 0)
    middle = 100 * (columns * np.arange(SIZE)).sum() / columns.sum() / SIZE
    x1, _, x2, _ = of(known, finding)["boxes"][side]
    spine = sum(known["regions"]["spine"][::2]) / 2
    assert x2 > spine + 5 if side == "left" else x1 < spine - 5
    if finding != "central venous catheter":  # a left one ends right of the midline, too
        assert middle > spine + 5 if side == "left" else middle < spine - 5


def test_regions_are_where_anatomy_has_them():
    regions = told(study())["regions"]
    assert set(regions) <= set(findings.REGIONS) and len(regions) >= 20
    centre = {name: ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for name, b in regions.items()}
    for part in ("lung", "hemidiaphragm", "costophrenic angle", "upper lung zone", "clavicle"):
        assert centre[f"right {part}"][0] < 50 < centre[f"left {part}"][0], part
    for side in ("left", "right"):
        heights = [centre[f"{side} {z} lung zone"][1] for z in ("upper", "mid", "lower")]
        assert heights == sorted(heights)
        assert centre[f"{side} costophrenic angle"][1] > centre[f"{side} lung"][1]
    assert centre["aortic arch"][1] < centre["heart"][1] and centre["heart"][0] > 50


def test_same_study_same_film_and_other_patient_other_film():
    facts = study(present("consolidation"))
    one, again = (simulate.film(facts, 128, 0) for _ in range(2))
    np.testing.assert_array_equal(one[0], again[0])
    assert one[1] == again[1]
    other = simulate.film({**facts, "patient_id": "t/other"}, 128, 0)
    assert np.abs(one[0] - other[0]).mean() > 0.02
    assert one[0].dtype == np.float32 and 0 <= one[0].min() < 0.2 and 0.8 < one[0].max() <= 1


def test_several_views_of_a_scene_are_the_films_of_each_view():
    facts = study(present("nodule"), present("pacemaker"))
    together = simulate.films(facts, acquisition.VIEWS, 128, 0)
    assert [known["view"] for _, known in together] == list(acquisition.VIEWS)
    for view, (image, known) in zip(acquisition.VIEWS, together, strict=True):
        alone_image, alone_truth = simulate.film({**facts, "view": view}, 128, 0)
        np.testing.assert_array_equal(image, alone_image)
        assert known == alone_truth


def test_boxes_do_not_depend_on_the_films_size():
    facts = study(present("pleural effusion"), present("pneumothorax"))
    small, large = told(facts, 128), told(facts, 320)
    assert small == large


def placed(finding, known):
    """Middle and size of a finding's box, as shares of the lung's box on its side."""
    row = of(known, finding)
    box, lung = (np.array(b) for b in (row["boxes"]["right"], known["regions"]["right lung"]))
    extent = lung[2:] - lung[:2]
    return ((box[:2] + box[2:]) / 2 - lung[:2]) / extent, (box[2:] - box[:2]) / extent


@pytest.mark.parametrize("finding", ["consolidation", "nodule", "granuloma"])
def test_the_next_film_of_a_patient_shows_a_lesion_in_place(finding):
    """Prior and current differ in view, rotation, tilt and inspiration; the lesion in its lung does not."""
    moved, other = [], []
    for number in range(5):
        rows = [
            study(
                present(finding, laterality="right", severity="mild" if SHOWN[finding].graded else None),
                sample_id=f"t/{number}/{i}",
                patient_id=f"t/{number}",
                view=view,
            )
            for i, view in enumerate(("PA", "AP"))
        ]
        known = [told(each) for each in rows]
        if any(each["clipped"] for each in known):  # the lung's box ends at the film's edge
            continue
        (before, size), (after, again) = (placed(finding, each) for each in known)
        # What lies 80 mm in front of the axis moves by 1.3 % of a lung's width (110 mm) with each degree.
        turned = abs(known[0]["rotation_deg"] - known[1]["rotation_deg"])
        assert abs(after[0] - before[0]) < 0.08 + 0.013 * turned
        assert abs(after[1] - before[1]) < 0.13
        np.testing.assert_allclose(again, size, rtol=0.25, atol=0.03)
        moved.append(np.abs(after - before).max())
        other.append(before)
    assert (
        len(moved) >= 3 and 2 * np.mean(moved) < np.ptp(other, axis=0).max()
    )  # other patients have theirs elsewhere


def test_a_lesion_grows_about_its_place():
    sizes = []
    for number, severity in enumerate(("mild", "moderate", "severe")):
        row = present("consolidation", laterality="right", severity=severity)
        known = told(study(row, sample_id=f"t/again/{number}", patient_id="t/again"))
        sizes.append(placed("consolidation", known))
    for (middle, small), (later, large) in zip(sizes, sizes[1:], strict=False):
        assert (np.abs(middle - later) < large / 2).all()
        assert large.prod() > 1.3 * small.prod()


def test_a_finding_left_out_leaves_the_film_without_it():
    """Two routes to the same change: layers left out, and a patient who never had the finding."""
    rows = [
        present("pleural effusion", laterality="right", severity="moderate"),
        present("consolidation", laterality="right", severity="severe"),
        present("cardiomegaly", severity="severe"),
        present("pneumothorax", laterality="left", severity="severe"),
        present("nodule", laterality="left"),
        present("edema"),
        present("hemidiaphragm elevation", laterality="left"),
    ]
    body = patient.body(0, "t/p")
    lesions = [each for one in plan.resolve(study(*rows), 0) for each in plan.lesions(one, "t/p", 0)]
    whole = scene.build(lesions, body)
    changes = list(scene.alone(whole, scene.without_movers(lesions, body)))
    assert len(changes) == len(rows)
    for (name, side), box, change_of_density in changes:
        rest = scene.build([each for each in lesions if (each.finding, each.side) != (name, side)], body)
        expected = whole.volume - rest.volume
        np.testing.assert_allclose(change_of_density, expected[box], atol=2e-5)
        expected[box] = 0
        assert np.abs(expected).max() < 2e-5, name


@given(
    st.integers(0, 10**6),
    st.sets(st.sampled_from(simulate.RENDERABLE), min_size=1, max_size=3),
    st.sampled_from(["PA", "AP", "LATERAL"]),
)
@settings(max_examples=8)
def test_whatever_is_asserted_is_visible_and_boxed_on_its_side(number, names, view):
    rows = map(present, sorted(names))
    known = told(study(*rows, sample_id=f"t/{number}/1", patient_id=f"t/{number}", view=view))
    asserted = {row["finding"] for row in known["findings"]}
    hidden = {row["finding"] for row in known["not_visible"]}
    undecided = {row["finding"] for row in known["undecided"]}
    assert len(known["findings"]) + len(known["not_visible"]) + len(known["undecided"]) == len(SHOWN)
    assert asserted | hidden | undecided == set(SHOWN) and hidden <= names
    implied = {parent for name in names for parent in catalogue.IMPLIES[name]}
    for row in known["findings"]:
        shown = row["status"] == "present"
        assert shown <= (row["finding"] in names | implied)
        assert not (row["status"] == "absent" and row["finding"] in names | implied)
        assert bool(row["boxes"]) == shown
        if shown:
            assert row["visibility_mm"] >= truth.VISIBLE_MM
            sides = {"bilateral": {"left", "right"}, None: {""}}.get(row["laterality"], {row["laterality"]})
            assert set(row["boxes"]) == sides
            assert (row["laterality"] is not None) == (
                bool(SHOWN[row["finding"]].sides) and view != "LATERAL"
            )
        for box in [*row["boxes"].values(), *known["regions"].values()]:
            assert 0 <= box[0] < box[2] <= 100 and 0 <= box[1] < box[3] <= 100


def test_what_fluid_hides_is_not_asserted():
    rows = [
        present("pleural effusion", laterality="right", severity="severe"),
        present("consolidation", laterality="right", severity="mild", location="lung base"),
    ]
    facts = study(*rows, sample_id="t/hide/1", patient_id="t/hide")
    known = told(facts)
    assert [row["finding"] for row in known["not_visible"]] == ["consolidation"]
    assert "consolidation" not in {row["finding"] for row in known["findings"]}
    assert change(facts, "consolidation").max() < 2 * truth.VISIBLE_MM
    assert change(study(rows[1], sample_id="t/hide/1", patient_id="t/hide"), "consolidation").max() > 20


def test_exposure_moves_the_grey_levels():
    means = [simulate.film(study(exposure=exposure), 128, 0)[0].mean() for exposure in tables.EXPOSURES]
    assert means[0] > means[1] + 0.05 > means[2] + 0.1


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (study(present("flying carpet")), "flying carpet"),
        (study(view="OBLIQUE"), "OBLIQUE"),
        (study(exposure="burnt"), "burnt"),
    ],
)
def test_what_no_film_can_show_is_one_line(facts, word):
    with pytest.raises(ValueError, match=word) as caught:
        simulate.film(facts, 128, 0)
    assert "\n" not in str(caught.value) and facts["sample_id"] in str(caught.value)


@pytest.mark.parametrize("size", [64, 127, 1025])
def test_sizes_outside_the_range_are_refused(size):
    with pytest.raises(ValueError, match="128 to 1024"):
        simulate.film(study(), size, 0)
