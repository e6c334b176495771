"""simulate/: films whose truth holds in the film itself, measured apart from the code that tells it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from cxrtrek_lib import findings, simulate, tables
from cxrtrek_lib.simulate import detector, lesions, patient, phantom, projector, render, scene, truth

SIZE = 160


def study(*rows: dict, sample_id="t/p/s", patient_id="t/p", view="PA", **more) -> dict:
    return {"sample_id": sample_id, "patient_id": patient_id, "view": view, "findings": list(rows), **more}


def present(finding: str, **more) -> dict:
    return {"finding": finding, "status": "present", **more}


def told(facts: dict, size: int = 128) -> dict:
    return simulate.film(facts, size, 0)[1]


def of(truth_: dict, finding: str) -> dict:
    return next(row for row in truth_["findings"] if row["finding"] == finding)


@pytest.fixture
def water(monkeypatch):
    """Films as mm of water, before noise and tone: what two scenes differ in is then their findings alone."""
    monkeypatch.setattr(detector, "develop", lambda water_mm, shot: water_mm)


def change(facts: dict, finding: str, size: int = SIZE) -> np.ndarray:
    """|film with - film without one finding|, mm of water (needs the fixture `water`)."""
    rest = [row for row in facts["findings"] if row["finding"] != finding]
    with_it, without = (simulate.film(f, size, 0)[0] for f in (facts, {**facts, "findings": rest}))
    return np.abs(with_it - without)


def share_inside(image: np.ndarray, boxes) -> float:
    """Share of the image's sum that lies in the union of boxes (percent)."""
    inside = np.zeros(image.shape, dtype=bool)
    n = len(image)
    for x1, y1, x2, y2 in boxes:
        inside[
            int(y1 * n / 100) : int(np.ceil(y2 * n / 100)), int(x1 * n / 100) : int(np.ceil(x2 * n / 100))
        ] = True
    return float(image[inside].sum() / image.sum())


CASES = [
    present("pleural effusion", laterality="left", severity="mild"),
    present("pleural effusion", laterality="bilateral", severity="severe"),
    present("consolidation", laterality="right", severity="moderate"),
    present("pneumothorax", laterality="left", severity="mild"),
    present("cardiomegaly", severity="moderate"),
    present("pacemaker", laterality="left"),
]


@pytest.mark.parametrize("row", CASES, ids=lambda row: f"{row['finding']} {row.get('laterality')}")
def test_a_box_holds_its_finding_and_is_tight(water, row):
    facts = study(row, sample_id="t/box/1", patient_id="t/box")
    boxes = list(of(told(facts), row["finding"])["boxes"].values())
    difference = change(facts, row["finding"])
    assert share_inside(difference, boxes) >= 0.9
    if row["finding"] == "cardiomegaly":
        return  # an enlarged heart is the whole heart
    strong = difference > 0.05 * difference.max()
    for x1, y1, x2, y2 in boxes:
        ends = [int(round(v * SIZE / 100)) for v in (x1, y1, x2, y2)]
        box, strip = strong[ends[1] : ends[3], ends[0] : ends[2]], SIZE // 20
        assert box[:strip].any() and box[-strip:].any() and box[:, :strip].any() and box[:, -strip:].any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("finding", list(scene.SIDED))
def test_the_patients_right_is_on_the_films_left(water, side, finding):
    facts = study(present(finding, laterality=side, severity=None), sample_id="t/side/1", patient_id="t/side")
    columns = change(facts, finding).sum(axis=0)
    if finding == "pacemaker":  # its leads cross the midline, the generator does not
        columns = np.where(columns > 0.4 * columns.max(), columns, 0)
    middle = (columns * np.arange(SIZE)).sum() / columns.sum() / SIZE
    assert middle > 0.55 if side == "left" else middle < 0.45
    box = of(told(facts), finding)["boxes"][side]
    assert (box[2] > 65) if side == "left" else (box[0] < 35)


def test_regions_are_where_anatomy_has_them():
    regions = told(study())["regions"]
    assert set(regions) <= set(findings.REGIONS) and len(regions) >= 12
    centre = {name: ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for name, b in regions.items()}
    for part in ("lung", "hemidiaphragm", "costophrenic angle", "upper lung zone", "clavicle"):
        assert centre[f"right {part}"][0] < 50 < centre[f"left {part}"][0], part
    for side in ("left", "right"):
        heights = [centre[f"{side} {z} lung zone"][1] for z in ("upper", "mid", "lower")]
        assert heights == sorted(heights)
        assert centre[f"{side} costophrenic angle"][1] > centre[f"{side} lung"][1]
    assert centre["aortic arch"][1] < centre["heart"][1] and centre["heart"][0] > 50


def test_the_hearts_box_is_the_box_of_its_projected_voxels():
    """Two routes: matrices and image warp here, points and inverse warp in truth.py."""
    anatomy = phantom.load()
    body, shot = patient.body(0, "t/p"), patient.acquisition(0, "t/p/s", "AP")
    geo = projector.geometry(body, shot, anatomy.hu.shape, anatomy.spacing)
    mask = (anatomy.heart > 0.5).astype(np.float32)
    plane = projector.project(mask, *projector.weights(geo, mask.shape, 400), geo.step)
    shadow = projector.to_film(geo, plane, 357) > 1.5
    rows, columns = np.nonzero(ndimage.binary_opening(shadow))
    measured = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 100 / 357
    box = truth.region_boxes(geo, {"heart": anatomy.outlines["heart"]})["heart"]
    np.testing.assert_allclose(box, measured, atol=1.2)


def test_a_projected_block_has_the_size_and_thickness_of_geometry():
    """A water block of known size in air: magnification and path length by hand."""
    shape, spacing = (40, 100, 120), np.array([2.0, 2.0, 2.0])
    body = patient.body(0, "t/p")._replace(
        width=1.0, depth=1.0, height=1.0, mediastinum=1.0, flank=1.0, bend=np.zeros((2, 5, 5))
    )
    shot = patient.acquisition(0, "t/p/s", "PA")._replace(
        rotation=0.0, tilt=0.0, roll=0.0, shift=(0.0, 0.0), inspiration=1.0
    )
    geo = projector.geometry(body, shot, shape, spacing)
    volume = np.zeros(shape, dtype=np.float32)
    volume[15:25, :, 85:95] = 1  # 20 mm deep, 20 mm wide about x = 179
    plane = projector.project(volume, *projector.weights(geo, shape, 480), geo.step)
    profile = plane[240]
    inside = np.flatnonzero(profile > 10)
    # In the middle: Catmull-Rom overshoots at the block's edges, where no voxel of a CT is as sharp.
    assert abs(profile[inside[len(inside) // 2]] - 20) < 0.2
    source_to_block = shot.source_mm - (0.5 * 40 * 2 + 15) + (20 * 2 - 1 - 125)
    width = (profile > 10).sum() * projector.MARGIN * geo.field / 480
    assert abs(width - 20 * shot.source_mm / source_to_block) < 1.2


def test_the_matrix_projector_agrees_with_marching_along_rays():
    anatomy = phantom.load()
    body, shot = (
        patient.body(0, "t/ray"),
        patient.acquisition(0, "t/ray/1", "AP")._replace(rotation=0, tilt=0),
    )
    geo = projector.geometry(body, shot, anatomy.hu.shape, anatomy.spacing)
    density = 1 + anatomy.hu / 1000
    plane = projector.project(density, *projector.weights(geo, density.shape, 200), geo.step)
    axis = projector.plane_axis(geo, 200)
    depths = np.arange(len(geo.zoom))
    for row, column in [(60, 60), (100, 130), (120, 70), (150, 100)]:
        x = np.interp(axis[column] / geo.zoom, geo.x_knots[1], geo.x_knots[0]) / anatomy.spacing[2]
        z = np.interp(-axis[row] / geo.zoom, geo.z_knots[1], geo.z_knots[0]) / anatomy.spacing[1]
        marched = ndimage.map_coordinates(density, [depths, z, x], order=1, mode="nearest").sum() * geo.step
        assert abs(plane[row, column] - marched) < 0.03 * marched + 1


@given(st.integers(0, 10**6), st.sampled_from(["PA", "AP"]))
@settings(max_examples=20)
def test_the_warp_and_its_inverse(patient_number, view):
    body = patient.body(0, f"t/{patient_number}")
    shot = patient.acquisition(0, f"t/{patient_number}/1", view)
    geo = projector.geometry(body, shot, (124, 133, 256), np.array([2.1, 2.5, 1.4]))
    points = (np.random.default_rng(patient_number).random((50, 2)) - 0.5) * geo.field
    np.testing.assert_allclose(
        projector.warp_targets(geo, projector.onto_film(geo, points)), points, atol=0.1
    )


def test_the_phantom_is_one_plain_chest():
    anatomy = phantom.load()
    litres = {side: mask.sum() * np.prod(anatomy.spacing) / 1e6 for side, mask in anatomy.lung.items()}
    assert 1.5 < litres["left"] < litres["right"] < 4  # the right lung is the larger one
    soft = anatomy.hu[(anatomy.bone == 0) & (anatomy.heart > 0.99)]
    assert 30 < soft.mean() < 60 and soft.max() < 300  # contrast is gone: 314 HU in the CT
    x = np.arange(anatomy.hu.shape[2])
    middles = [
        (mask.sum((0, 1)) * x).sum() / mask.sum()
        for mask in (anatomy.lung["right"], anatomy.heart, anatomy.lung["left"])
    ]
    assert middles == sorted(middles)
    front, back = anatomy.hu[-12:], anatomy.hu[:12]
    assert (front > -500).any() and (back > -500).any()  # skin at both ends: nothing was cut off


def test_same_study_same_film_and_other_patient_other_film():
    facts = study(present("consolidation"))
    one, again = (simulate.film(facts, 128, 0) for _ in range(2))
    np.testing.assert_array_equal(one[0], again[0])
    assert one[1] == again[1]
    other = simulate.film({**facts, "patient_id": "t/other"}, 128, 0)
    assert np.abs(one[0] - other[0]).mean() > 0.02
    assert one[0].dtype == np.float32 and 0 <= one[0].min() < 0.2 and 0.8 < one[0].max() <= 1


def test_boxes_do_not_depend_on_the_films_size():
    facts = study(present("pleural effusion"), present("pneumothorax"))
    small, large = told(facts, 128), told(facts, 320)
    assert small == large


def test_a_prior_shows_the_same_lesion_in_place():
    sizes = {}
    for number, severity in enumerate(("mild", "severe")):
        facts = study(
            present("consolidation", laterality="right", severity=severity),
            sample_id=f"t/again/{number}",
            patient_id="t/again",
        )
        box = of(told(facts), "consolidation")["boxes"]["right"]
        sizes[severity] = box
    mild, severe = sizes["mild"], sizes["severe"]
    middle = [np.mean(mild[i::2]) for i in (0, 1)]
    assert severe[0] < middle[0] < severe[2] and severe[1] < middle[1] < severe[3]
    assert (severe[2] - severe[0]) * (severe[3] - severe[1]) > 1.5 * (mild[2] - mild[0]) * (mild[3] - mild[1])


@given(
    st.integers(0, 10**6),
    st.sets(st.sampled_from(simulate.RENDERABLE), min_size=1, max_size=3),
    st.sampled_from(["PA", "AP"]),
)
@settings(max_examples=12)
def test_whatever_is_asserted_is_visible_and_boxed_on_its_side(number, names, view):
    facts = study(
        *map(present, sorted(names)), sample_id=f"t/{number}/1", patient_id=f"t/{number}", view=view
    )
    known = told(facts)
    asserted = {row["finding"] for row in known["findings"]}
    assert asserted | {row["finding"] for row in known["not_visible"]} == set(simulate.RENDERABLE)
    for row in known["findings"]:
        assert (row["status"] == "present") == (row["finding"] in names)
        assert bool(row["boxes"]) == (row["status"] == "present")
        if row["status"] == "present":
            assert row["visibility_mm"] >= truth.VISIBLE_MM
            sides = {"bilateral": {"left", "right"}, None: {""}}.get(row["laterality"], {row["laterality"]})
            assert set(row["boxes"]) == sides
        for box in row["boxes"].values():
            assert 0 <= box[0] < box[2] <= 100 and 0 <= box[1] < box[3] <= 100


def test_what_fluid_hides_is_not_asserted(water):
    rows = [
        present("pleural effusion", laterality="right", severity="severe"),
        present("consolidation", laterality="right", severity="mild", location="lower lobe"),
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


def test_uncertain_findings_are_drawn_half_of_the_time():
    row = {"finding": "pneumothorax", "status": "uncertain"}
    plans = [scene.resolve(study(row, sample_id=f"t/{i}/1"), 0) for i in range(400)]
    there = [plan for each in plans for plan in each]
    assert 150 < len(there) < 250 and {plan.severity for plan in there} == {"mild"}


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (study(present("flying carpet")), "unknown finding"),
        (study(present("edema")), "cannot be rendered"),
        (study(present("pneumothorax"), {"finding": "pneumothorax", "status": "absent"}), "both"),
        (study(present("pacemaker", laterality="bilateral")), "bilateral"),
        (study(present("cardiomegaly", laterality="left")), "left"),
        (study(present("consolidation", severity="huge")), "huge"),
        (study(view="LATERAL"), "LATERAL"),
        (study(exposure="burnt"), "burnt"),
    ],
)
def test_what_no_film_can_show_is_one_line(facts, word):
    with pytest.raises(ValueError, match=word) as caught:
        simulate.film(facts, 128, 0)
    assert "\n" not in str(caught.value) and facts["sample_id"] in str(caught.value)


def test_sizes_outside_the_range_are_refused():
    with pytest.raises(ValueError, match="128 to 1024"):
        simulate.film(study(), 64, 0)


def test_a_collapsed_lung_takes_its_lesion_along():
    anatomy = phantom.load()
    layer = lesions.consolidation(anatomy, "left", "lung_upper_lobe_left", 0.5, 30, 0.3)
    moved = lesions.collapsed(layer, anatomy, 0.5)

    def middle(each):
        z = np.arange(each.box[1].start, each.box[1].stop)
        return (each.alpha.sum((0, 2)) * z).sum() / each.alpha.sum()

    assert moved.alpha.sum() < 0.7 * layer.alpha.sum()
    assert middle(moved) < middle(layer)  # from the upper lobe down to the hilum


def test_a_film_is_reused_only_when_whole_and_the_same(tmp_path):
    path, facts = tmp_path / "film.png", study(present("pacemaker"))
    first = render.render(facts, 128, 0, path)
    whole = path.read_bytes()
    assert json.loads(Image.open(path).text["truth"]) == first
    path.write_bytes(whole[:-500])  # as a kill or a full disk leaves it
    assert render.render(facts, 128, 0, path) == first and path.read_bytes() == whole
    assert render.read_truth(path, render.identity(facts, 128, 0)) == first
    assert render.read_truth(path, render.identity(facts, 128, 1)) is None
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_phantom_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom.paths, "PHANTOM", tmp_path)
    (tmp_path / f"phantom-v{phantom.VERSION}.npz").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="delete it"):
        phantom.load.__wrapped__()
