"""simulate/nodules.py: focal lesions against spheres computed by hand, and against the CT's own anatomy."""

import numpy as np
import pytest
from films_by_hand import change, lobe_masks, of, present, share_inside, study, told
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib.simulate import layers, nodules, phantom
from cxrtrek_lib.simulate.nodules import DIAMETER_MM
from cxrtrek_lib.simulate.plan import Lesion

MIDDLE = np.array([110.0, 200.0, 90.0])  # mm, deep in the right lung
PATIENTS = [f"t/{number}" for number in range(12)]


def lesion(finding, side="right", place=None, patient_id="t/p"):
    return Lesion(finding, side, None, place, patient_id, 0)


def layer_of(each):
    (layer,) = nodules.LAYERS[each.finding](phantom.load(), None, each)
    return layer


def positions(layer):
    """(N, 3) mm of the voxels at least half inside a layer, and the middle of its mass (3,)."""
    spacing = phantom.load().spacing
    start = np.array([b.start for b in layer.box])
    at = (np.argwhere(layer.alpha > -1) + start) * spacing
    weight = layer.alpha.ravel()
    return at[weight > 0.5], (at * weight[:, None]).sum(axis=0) / weight.sum()


@given(
    st.floats(2.5, 31),
    st.tuples(*(st.floats(-1.5, 1.5),) * 3),
)
@settings(max_examples=40)
def test_shares_add_up_to_the_volume_of_the_sphere(radius, off):
    anatomy = phantom.load()
    _, share = nodules.shares(np.array([[*(MIDDLE + off), radius]]), anatomy)
    assert 0 <= share.min() and share.max() <= 1
    volume = share.sum(dtype=np.float64) * np.prod(anatomy.spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.012)


@pytest.mark.parametrize("radius", [3.0, 9.3])
def test_every_voxels_share_is_what_counting_points_gives(radius):
    anatomy = phantom.load()
    box, share = nodules.shares(np.array([[*MIDDLE, radius]]), anatomy)
    assert all(b.stop - b.start < 20 for b in box)
    # 12 x 12 x 12 points in every voxel, which reaches half a voxel to each side of its position.
    fine = [
        (np.arange(12 * b.start, 12 * b.stop) / 12 + 0.5 / 12 - 0.5) * s - m
        for b, s, m in zip(box, anatomy.spacing, MIDDLE, strict=True)
    ]
    inside = sum(np.meshgrid(*(each**2 for each in fine), indexing="ij")) < radius**2
    n = share.shape
    counted = inside.reshape(n[0], 12, n[1], 12, n[2], 12).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(share, counted, atol=0.08)


def test_a_union_of_spheres_apart_from_each_other_is_their_sum():
    anatomy = phantom.load()
    spheres = np.array([[*MIDDLE, 5.0], [*(MIDDLE + (0, 15, 0)), 6.0]])
    _, share = nodules.shares(spheres, anatomy)
    assert share.sum() * np.prod(anatomy.spacing) == pytest.approx(4 / 3 * np.pi * (5**3 + 6**3), rel=0.01)


@pytest.mark.parametrize("finding", DIAMETER_MM)
def test_a_lesion_is_as_wide_as_its_draw_says(finding):
    spacing = phantom.load().spacing
    widths = []
    for patient_id in PATIENTS:
        each = lesion(finding, patient_id=patient_id)
        layer = layer_of(each)
        diameter = each.between("size", *DIAMETER_MM[finding])
        reach = np.array(layer.alpha.shape) * spacing
        assert (reach <= diameter + 2 * spacing).all()  # partial voxels at both ends
        whole = np.pi / 6 * diameter**3
        volume = layer.alpha.sum() * np.prod(spacing)
        # Lobulated: less than its sphere; the chest wall cuts the largest off.
        low = {"granuloma": 0.99, "nodule": 0.7, "mass": 0.3}[finding]
        assert low * whole < volume < 1.01 * whole
        widths.append(diameter)
    assert np.ptp(widths) > 0.4 * (DIAMETER_MM[finding][1] - DIAMETER_MM[finding][0])


def test_along_a_ray_through_its_middle_a_nodule_adds_what_its_width_says():
    """A nodule of 40 HU in lung of -830 HU adds 0.87 mm of water per mm of its diameter."""
    anatomy = phantom.load()
    for patient_id in PATIENTS[:6]:
        each = lesion("nodule", patient_id=patient_id)
        layer = layer_of(each)
        diameter = each.between("size", *DIAMETER_MM["nodule"])
        added = (layer.alpha * (layer.target - 0.17)).sum(axis=0).max() * anatomy.spacing[0]
        # The core is 0.93 diameters thick; a voxel's column is not thin against the smallest nodules.
        assert 0.72 * diameter < added < 0.87 * diameter + 0.1


def test_soft_and_calcified():
    assert layer_of(lesion("nodule")).target == layer_of(lesion("mass")).target == pytest.approx(1.04)
    assert layer_of(lesion("granuloma")).target == pytest.approx(1.9)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("finding", DIAMETER_MM)
def test_lesions_lie_in_their_lung_beside_the_heart_and_above_the_dome(finding, side):
    anatomy = phantom.load()
    other = anatomy.lung["left" if side == "right" else "right"]
    for patient_id in PATIENTS:
        layer = layer_of(lesion(finding, side, patient_id=patient_id))
        lung = anatomy.lung[side][layer.box]
        assert (layer.alpha * lung).sum() > 0.8 * layer.alpha.sum()
        assert (layer.alpha * other[layer.box]).sum() == 0
        _, middle = positions(layer)
        _, row, column = np.round(middle / anatomy.spacing).astype(int)
        assert anatomy.heart[:, row, column].max() < 0.5
        below = 1 + anatomy.hu[:, row, column][anatomy.wall[:, row, column] > 8] / 1000
        assert (below < 0.6).mean() > 0.5  # a ray through its middle meets lung, not abdomen


@pytest.mark.parametrize("finding", DIAMETER_MM)
@pytest.mark.parametrize(
    ("side", "lobe"),
    [("right", "upper lobe"), ("right", "middle lobe"), ("right", "lower lobe"), ("left", "upper lobe"),
     ("left", "lower lobe")],
)  # fmt: skip
def test_a_named_lobe_is_where_it_lies(finding, side, lobe):
    anatomy = phantom.load()
    for patient_id in PATIENTS[:5]:
        middle = nodules.centre(anatomy, lesion(finding, side, f"{side} {lobe}", patient_id), 8.0)
        at = tuple(np.round(middle / anatomy.spacing).astype(int))
        share = {name: mask[at] for name, mask in lobe_masks().items()}
        assert max(share, key=share.get) == f"lung_{lobe.replace(' ', '_')}_{side}"


@pytest.mark.parametrize("side", ["left", "right"])
def test_named_heights_are_in_order(side):
    anatomy = phantom.load()
    places = ("lung base", "mid lung zone", "lung apex")
    heights = {
        place: [nodules.centre(anatomy, lesion("nodule", side, place, p), 8.0)[1] for p in PATIENTS]
        for place in places
    }
    for lower, higher in zip(places, places[1:], strict=False):
        assert max(heights[lower]) < min(heights[higher])
    zones = [np.mean([nodules.centre(anatomy, lesion("nodule", side, f"{zone} lung zone", p), 8.0)[1]
                      for p in PATIENTS]) for zone in ("lower", "mid", "upper")]  # fmt: skip
    assert zones == sorted(zones)


def test_words_about_the_hilum_and_behind_the_heart_are_heeded():
    anatomy = phantom.load()
    for side in ("left", "right"):
        hilum = anatomy.landmarks[f"{side} hilum"]
        for patient_id in PATIENTS[:4]:
            middle = nodules.centre(anatomy, lesion("mass", side, "hilum", patient_id), 20.0)
            assert np.hypot(*(middle - hilum)[1:]) < 45
    behind = nodules.centre(anatomy, lesion("nodule", "left", "retrocardiac region"), 8.0)
    y, row, column = np.round(behind / anatomy.spacing).astype(int)
    assert anatomy.heart[y:, row, column].max() > 0.5


def test_a_lesion_stays_on_its_place_of_the_lung_when_the_lung_moves():
    anatomy = phantom.load()
    moved = anatomy._replace(
        lobe_sites={name: sites + np.float32([0, -9, 4]) for name, sites in anatomy.lobe_sites.items()},
        outlines={name: points - np.float32([0, 30, 0]) for name, points in anatomy.outlines.items()},
    )
    for place in (None, "left lower lobe", "upper lung zone"):
        each = lesion("mass", "left", place)
        np.testing.assert_allclose(
            nodules.centre(moved, each, 20.0) - nodules.centre(anatomy, each, 20.0), [0, -9, 4], atol=1e-3
        )


def test_two_patients_and_two_sides_differ_and_one_patient_does_not():
    one, again, other = (layer_of(lesion("mass", patient_id=p)) for p in ("t/a", "t/a", "t/b"))
    np.testing.assert_array_equal(one.alpha, again.alpha)
    assert one.box == again.box != other.box


def test_a_mass_at_the_wall_leaves_the_wall_alone():
    anatomy = phantom.load()
    density = 1 + anatomy.hu / 1000
    for patient_id in PATIENTS:
        layer = layer_of(lesion("mass", "left", "left lower lobe", patient_id))
        after = density.copy()
        layers.lay(after, layer)
        outside = anatomy.lung["left"] == 0
        np.testing.assert_array_equal(after[outside], density[outside])


@pytest.mark.parametrize("finding", DIAMETER_MM)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_film_shows_it_and_its_box_holds_it(finding, side):
    for number in range(2):
        who = f"t/{finding}/{number}"
        facts = study(present(finding, laterality=side), sample_id=f"{who}/1", patient_id=who)
        row = of(told(facts), finding)
        assert row["visibility_mm"] >= 4
        (box,) = row["boxes"].values()
        image = change(facts, finding)
        assert share_inside(image, [box]) >= 0.9
        n = len(image) / 100
        strong = image > 0.05 * image.max()
        x1, y1, x2, y2 = (round(value * n) for value in box)
        strip = len(image) // 20
        inner = strong[y1:y2, x1:x2]
        assert inner[:strip].any() and inner[-strip:].any()
        assert inner[:, :strip].any() and inner[:, -strip:].any()
