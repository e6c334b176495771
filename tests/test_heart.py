"""simulate/heart.py and mediastinum.py: silhouettes that grow by the planned amount, in the right place."""

import numpy as np
import pytest
from films_by_hand import alone, share_inside
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from cxrtrek_lib.simulate import heart, layers, mediastinum, phantom
from cxrtrek_lib.simulate.plan import Lesion
from cxrtrek_lib.tables import SEVERITIES

ANATOMY = phantom.load()
AIRY = 1 + ANATOMY.hu / 1000
SPACING = ANATOMY.spacing
LUNGS = ANATOMY.lung["left"] + ANATOMY.lung["right"]
LAYERS = {**heart.LAYERS, **mediastinum.LAYERS}


def lesion(finding: str, severity=None, patient="t/p") -> Lesion:
    return Lesion(finding, None, severity, None, patient, 0)


def put(one: Lesion) -> np.ndarray:
    """Share of every voxel of the phantom that a finding's only layer replaces."""
    (layer,) = LAYERS[one.finding](ANATOMY, AIRY, one)
    whole = np.zeros(ANATOMY.hu.shape, dtype=np.float32)
    whole[layer.box] = layer.alpha
    return whole


def after(one: Lesion) -> np.ndarray:
    """Density of the phantom with a finding."""
    volume = AIRY.copy()
    for layer in LAYERS[one.finding](ANATOMY, AIRY, one):
        layers.lay(volume, layer)
    return volume


def extent(mask: np.ndarray, axis: int) -> np.ndarray:
    """Lowest and highest position, mm, of a mask along an axis."""
    return np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] * SPACING[axis]


def heights(low: float, high: float) -> slice:
    """Voxels of z between two heights in mm."""
    return slice(int(low / SPACING[1]), int(high / SPACING[1]))


@pytest.mark.parametrize("grade", SEVERITIES)
def test_an_enlarged_heart_has_the_planned_width(grade):
    one = lesion("cardiomegaly", grade)
    scale = one.within(heart.HEART_SCALE)
    low, high = heart.HEART_SCALE[grade]
    assert low <= scale < high
    width = np.ptp(extent(ANATOMY.heart > 0.5, 2))
    grown = np.ptp(extent((ANATOMY.heart > 0.5) | (put(one) > 0.5), 2))
    assert abs(grown / width - scale) < 0.07  # it is cut where no lung is left
    told = heart.outlines(ANATOMY, scale)["heart"][:, 2]
    assert abs(np.ptp(told) - grown) < 6


def test_the_grades_of_a_heart_do_not_meet():
    limits = [heart.HEART_SCALE[grade] for grade in SEVERITIES]
    assert all(one[1] < other[0] for one, other in zip(limits, limits[1:], strict=False))
    assert limits[0][0] > 1.1


@pytest.mark.parametrize("finding", [name for name in LAYERS if name != "hiatal hernia"])
def test_what_grows_takes_lungs_place_only(finding):
    share = put(lesion(finding, "moderate"))
    assert share.min() >= 0 and (share <= LUNGS + 1e-3).all()
    assert share.sum() * np.prod(SPACING) > 8000  # more than 8 ml


def test_an_enlarged_aorta_is_thicker_by_the_planned_amount():
    one = lesion("aortic enlargement")
    mm = one.between("size", *mediastinum.DILATION_MM)
    tree = cKDTree(np.argwhere(ANATOMY.aorta > 0.5) * SPACING)
    share = put(one)
    far, _ = tree.query(np.argwhere(share > 0.9) * SPACING)
    assert far.max() < mm + 1
    # Of the lung above the diaphragm that near, all is taken.
    floor = ANATOMY.outlines["heart"][:, 1].min()
    lung = np.argwhere(LUNGS > 0.98)
    lung = lung[lung[:, 1] * SPACING[1] > floor + 3]
    near = tree.query(lung * SPACING, distance_upper_bound=mm - 2)[0] < mm - 2
    assert share[tuple(lung[near].T)].min() > 0.9


def test_the_arch_and_its_region_grow_alike():
    for finding in ("aortic enlargement", "aortic elongation"):
        one = lesion(finding)
        told = mediastinum.outlines(ANATOMY, 1.0, [one])["aortic arch"]
        upper = (slice(None), heights(235, 400))
        grown = (put(one) > 0.5) | (ANATOMY.aorta > 0.5)
        assert abs(told[:, 1].max() - extent(grown, 1)[1]) < 5, finding
        assert abs(told[:, 2].max() - extent(grown[upper], 2)[1]) < 7, finding


def test_a_tortuous_aorta_climbs_bows_to_the_left_and_leaves_no_gap():
    one = lesion("aortic elongation")
    grown = (put(one) > 0.5) | (ANATOMY.aorta > 0.5)
    climb = extent(grown, 1)[1] - extent(ANATOMY.aorta > 0.5, 1)[1]
    low, high = mediastinum.CLIMB_MM
    assert low < climb < high + 8  # and a little thicker
    bow = one.between("bow", *mediastinum.BOW_MM)
    back = slice(0, int(115 / SPACING[0]))  # the descending aorta
    rows = (back, heights(195, 215))
    moved = extent(grown[rows], 2)[1] - extent(ANATOMY.aorta[rows] > 0.5, 2)[1]
    assert abs(moved - bow) < 9
    # Along every line from right to left there is no lung between the aorta and its new border.
    share, volume = put(one), after(one)
    for y, z in np.argwhere((share > 0.9).any(axis=2) & (ANATOMY.aorta > 0.5).any(axis=2)):
        if y < back.stop and z * SPACING[1] < 240:
            first = np.flatnonzero(ANATOMY.aorta[y, z] > 0.5)[-1]
            last = np.flatnonzero(share[y, z] > 0.9)[-1]
            assert (volume[y, z, first:last] > 0.4).all()


def test_a_wide_mediastinum_is_wide_above_the_heart():
    one = lesion("enlarged cardiomediastinum")
    mm = one.between("size", *mediastinum.WIDENING_MM)
    grown = (put(one) > 0.5) | (ANATOMY.mediastinum > 0.5)

    def wider(low, high):
        rows = (slice(None), heights(low, high))
        return np.ptp(extent(grown[rows], 2)) - np.ptp(extent(ANATOMY.mediastinum[rows] > 0.5, 2))

    assert abs(wider(250, 265) - 2 * mm) < 8  # to both sides, at the arch
    assert wider(130, 160) < 3  # not at the heart
    told = mediastinum.outlines(ANATOMY, 1.0, [one])["upper mediastinum"]
    plain = ANATOMY.outlines["upper mediastinum"]
    assert np.ptp(told[:, 2]) > np.ptp(plain[:, 2]) + 1.2 * mm


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_a_hernia_lies_behind_the_heart_on_the_diaphragm_with_air_over_fluid(number):
    one = lesion("hiatal hernia", patient=f"t/{number}")
    density = after(one)
    changed = np.abs(density - AIRY) > 0.3
    middle = [extent(changed, axis).mean() for axis in range(3)]
    heart_box = [extent(ANATOMY.heart > 0.5, axis) for axis in range(3)]
    assert middle[0] < np.mean(heart_box[0])  # behind its middle
    assert heart_box[1][0] < middle[1] < np.mean(heart_box[1])  # in its lower half
    assert abs(middle[2] - np.median(ANATOMY.centrelines["esophagus"][:, 2])) < 35
    size = np.ptp(extent(changed, 2))
    assert mediastinum.HERNIA_MM[0] - 8 < size < mediastinum.HERNIA_MM[1] + 8
    air = np.argwhere(changed & (density < 0.2))
    fluid = np.argwhere(changed & (density > 0.9))
    assert air[:, 1].mean() > fluid[:, 1].mean()
    # The level is flat: above it no fluid but the wall, so air's lowest is the same in every column.
    columns = {}
    for _y, z, x in air:
        columns[x] = min(columns.get(x, 999), z)
    inner = sorted(columns)[len(columns) // 4 : -len(columns) // 4]
    assert np.ptp([columns[x] for x in inner]) <= 2
    spared = (ANATOMY.spine > 0.99) | (ANATOMY.aorta > 0.99)
    np.testing.assert_allclose(density[spared], AIRY[spared], atol=0.02)


@pytest.mark.parametrize("finding", LAYERS)
def test_the_box_holds_what_the_finding_changes_and_is_tight(finding):
    """One patient each: 90 % of the change lies inside; but for the heart's, whose box is the organ's,
    a side moved in by 5 % of the film loses some."""
    changed, truth = alone(finding, None, "moderate" if finding == "cardiomegaly" else None)
    (row,) = (row for row in truth["findings"] if row["finding"] == finding)
    assert row["visibility_mm"] > 10
    box = row["boxes"][""]
    whole = share_inside(changed, [box])
    assert whole > 0.95
    if finding != "cardiomegaly":
        for side, step in enumerate((5, 5, -5, -5)):
            less = [value + step * (i == side) for i, value in enumerate(box)]
            assert share_inside(changed, [less]) < whole - 0.001, side


def test_the_same_patient_keeps_a_finding():
    first, second, other = (lesion("hiatal hernia", patient=p) for p in ("t/1", "t/1", "t/2"))
    np.testing.assert_array_equal(after(first), after(second))
    assert (after(first) != after(other)).any()
