"""simulate/pleura.py: fluid that obeys gravity, air that takes the lung's place, pleura where it is thick."""

import numpy as np
import pytest
from films_by_hand import alone
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib.simulate import layers, lungs, phantom, pleura
from cxrtrek_lib.simulate.catalogue import SHOWN
from cxrtrek_lib.simulate.layers import Layer
from cxrtrek_lib.simulate.plan import Lesion
from cxrtrek_lib.tables import SEVERITIES

ANATOMY = phantom.load()
AIRY = 1 + ANATOMY.hu / 1000
VOXEL_ML = float(np.prod(ANATOMY.spacing)) / 1000
STEP = float(ANATOMY.spacing[1])  # mm of z
SIDES = ("left", "right")
PLACES = sorted(SHOWN["pleural thickening"].places)


def lesion(finding: str, side="left", severity="moderate", place=None, patient="t/p") -> Lesion:
    return Lesion(finding, side, severity, place, patient, 0)


def put(finding: str, **more) -> np.ndarray:
    """Share of every voxel of the phantom that a finding's only layer replaces."""
    (layer,) = pleura.LAYERS[finding](ANATOMY, AIRY, lesion(finding, **more))
    whole = np.zeros(ANATOMY.hu.shape, dtype=np.float32)
    whole[layer.box] = layer.alpha
    return whole


def after(finding: str, base=AIRY, **more) -> np.ndarray:
    """Density of the phantom with a finding."""
    volume = base.copy()
    for layer in pleura.LAYERS[finding](ANATOMY, base, lesion(finding, **more)):
        layers.lay(volume, layer)
    return volume


def middle(weight: np.ndarray) -> np.ndarray:
    """Centroid (3,) mm."""
    return np.array([(weight.sum(axis=tuple({0, 1, 2} - {i})) * np.arange(n)).sum() for i, n in
                     enumerate(weight.shape)]) / weight.sum() * ANATOMY.spacing  # fmt: skip


def dome(side: str) -> np.ndarray:
    """(y, z, x) mm of the top of a hemidiaphragm."""
    points = ANATOMY.outlines[f"{side} hemidiaphragm"]
    return points[points[:, 1].argmax()]


@given(
    st.sampled_from(sorted(pleura.LAYERS)),
    st.sampled_from(SIDES),
    st.sampled_from(SEVERITIES),
    st.sampled_from([None, *PLACES]),
    st.integers(0, 10**6),
)
@settings(max_examples=50)
def test_a_finding_of_the_pleura_stays_in_its_own_half_of_the_chest(finding, side, severity, place, patient):
    (layer,) = pleura.LAYERS[finding](ANATOMY, AIRY, lesion(finding, side, severity, place, f"t/{patient}"))
    assert (layer.finding, layer.side) == (finding, side)
    assert layer.alpha.dtype == np.float32 and layer.alpha.max() > 0.5
    assert layer.alpha.min() >= 0 and (layer.alpha <= ANATOMY.lung[side][layer.box] + 1e-5).all()
    if finding == "pneumothorax":
        assert layer.target.dtype == np.float32 and 0 <= layer.target.min() and layer.target.max() < 1.1


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("finding", ["pleural effusion", "pneumothorax"])
def test_a_worse_grade_is_more_water_or_less_in_the_film(finding, side):
    changes = [alone(finding, side, severity)[0].sum() for severity in SEVERITIES]
    assert changes[1] > 1.3 * changes[0] and changes[2] > 1.3 * changes[1]


# --- fluid


@given(st.sampled_from(SIDES), st.sampled_from(SEVERITIES), st.integers(0, 10**6))
@settings(max_examples=30)
def test_an_effusion_lies_at_the_bottom_and_has_a_meniscus(side, severity, patient):
    fluid = put("pleural effusion", side=side, severity=severity, patient=f"t/{patient}")
    # Litres of pleura.EFFUSION_MM; on real films the angle is blunted from 0.2 to 0.5 l on.
    low, high = {"mild": (80, 300), "moderate": (300, 1000), "severe": (900, 1600)}[severity]
    assert low < fluid.sum() * VOXEL_ML < high
    assert middle(fluid)[1] < middle(ANATOMY.lung[side])[1]
    tops = []  # of the fluid at the wall and deep in the chest
    for zone in ((ANATOMY.wall > 0) & (ANATOMY.wall < 4), ANATOMY.wall > 35):
        rows = np.flatnonzero(((fluid > 0.5) & zone).any(axis=(0, 2)))
        tops.append(rows.max() * STEP if len(rows) else 0)
    assert tops[0] > tops[1] + 20


@pytest.mark.parametrize("side", SIDES)
def test_grades_of_an_effusion_are_those_of_a_reader(side):
    """Mild blunts the angle and leaves the dome, moderate hides the dome, severe reaches the mid lung."""
    _, top, x = dome(side)
    cavity = ANATOMY.lung[side]
    over_dome = (slice(None), slice(round((top + 5) / STEP), round((top + 15) / STEP)), slice(
        round(x / ANATOMY.spacing[2]) - 4, round(x / ANATOMY.spacing[2]) + 4))  # fmt: skip
    mid = ANATOMY.outlines[f"{side} mid lung zone"][:, 1]
    hidden, reached = [], []
    for severity in SEVERITIES:
        fluid = put("pleural effusion", side=side, severity=severity)
        hidden.append(fluid[over_dome].sum() / cavity[over_dome].sum())
        levels = fluid.sum(axis=(0, 2)) / np.maximum(cavity.sum(axis=(0, 2)), 1)
        reached.append(np.flatnonzero(levels > 0.5).max() * STEP)
    assert hidden[0] < 0.5 < 0.6 < hidden[1]
    assert reached[0] < mid.min() - 20 and mid.min() - 10 < reached[2] < mid.max() + 10


@pytest.mark.parametrize("side", SIDES)
def test_a_blunted_angle_is_less_than_the_mildest_effusion_and_lateral(side):
    angle, effusion = (
        put("costophrenic angle blunting", side=side),
        put("pleural effusion", side=side, severity="mild"),
    )
    assert 20 < angle.sum() * VOXEL_ML < 0.5 * effusion.sum() * VOXEL_ML
    x = middle(angle)[2]
    lung = ANATOMY.outlines[f"{side} lung"][:, 2]
    wall = lung.min() if side == "right" else lung.max()
    assert abs(x - wall) < 35
    assert abs(middle(angle)[1] - ANATOMY.outlines[f"{side} costophrenic angle"][:, 1].mean()) < 30


# --- air


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_air_gathers_above_and_beside_the_lung(side, severity):
    volume = after("pneumothorax", side=side, severity=severity)
    cavity = ANATOMY.lung[side] > 0.99
    empty = cavity & (volume < 0.03)
    litres = empty.sum() * VOXEL_ML / 1000
    assert litres > {"mild": 0.15, "moderate": 0.35, "severe": 0.7}[severity]
    top = np.flatnonzero(cavity.any(axis=(0, 2))).max()
    apex = np.zeros_like(cavity)
    apex[:, round(top - 15 / STEP) :] = True
    assert volume[cavity & apex].mean() < 0.05 < AIRY[cavity & apex].mean()
    outside = ANATOMY.lung[side] == 0
    np.testing.assert_array_equal(volume[outside], AIRY[outside])
    if severity != "severe":  # the base stays on the diaphragm
        below = np.arange(cavity.shape[1]) * STEP < dome(side)[1] - 1
        np.testing.assert_array_equal(volume[:, below], AIRY[:, below])


def test_words_say_where_the_air_is():
    share = {}
    for place in ("lung apex", "lung base"):
        empty = (ANATOMY.lung["left"] > 0.99) & (after("pneumothorax", severity="mild", place=place) < 0.03)
        share[place] = middle(empty.astype(np.float32))[1]
    assert share["lung apex"] > middle(ANATOMY.lung["left"])[1] + 15 > share["lung base"] + 15


def test_the_visceral_line_is_denser_than_lung_and_air():
    """Across the lung's edge at mid height: air outside, then the line, then lung."""
    volume = after("pneumothorax", side="left", severity="severe")
    y, z, _ = np.round(ANATOMY.landmarks["left hilum"] / ANATOMY.spacing).astype(int)
    wall = np.flatnonzero(ANATOMY.lung["left"][y, z + 4] > 0.99).max()
    row = volume[y, z + 4, :wall][::-1]
    edge = np.flatnonzero(row > 0.3)[0]
    assert row[2 : edge - 3].max() < 0.05 and edge * ANATOMY.spacing[2] > 20
    assert row[edge : edge + 4].max() > 0.45


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", SIDES)
def test_a_layer_of_the_lung_goes_where_its_tissue_goes(side, severity):
    """Marked tissue, put into the healthy lung before it collapses, tells where the layer must go."""
    centre = ANATOMY.lobe_sites[f"lung_upper_lobe_{side}"][120]
    reach = np.full(3, 15.0)
    box = layers.box_around(centre, reach, ANATOMY)
    axes = [
        ((np.arange(b.start, b.stop) * s - c) / 12) ** 2
        for b, c, s in zip(box, centre, ANATOMY.spacing, strict=True)
    ]
    ball = np.exp(-3 * (axes[0][:, None, None] + axes[1][:, None] + axes[2])).astype(np.float32)
    ball *= ANATOMY.lung[side][box]
    marked = AIRY.copy()
    marked[box] += ball
    tissue = after("pneumothorax", marked, side=side, severity=severity) - after(
        "pneumothorax", side=side, severity=severity
    )
    moved = pleura.collapsed(
        Layer("nodule", side, box, ball, 1.04), ANATOMY, lesion("pneumothorax", side, severity)
    )
    where = np.zeros_like(marked)
    where[moved.box] = moved.alpha
    np.testing.assert_allclose(middle(where), middle(np.maximum(tissue, 0)), atol=2.5)
    assert np.linalg.norm(middle(where) - centre) > 5
    assert where.sum() < ball.sum() and moved.target == 1.04


def test_a_whole_lung_layer_shrinks_with_its_lung_and_leaves_the_air_black():
    side = "right"
    box = layers.lung_box(ANATOMY, side)
    haze = Layer("edema", side, box, 0.4 * ANATOMY.lung[side][box], 1.015)
    air = lesion("pneumothorax", side, "severe")
    volume = after("pneumothorax", side=side, severity="severe")
    empty = (ANATOMY.lung[side] > 0.99) & (volume < 0.015)
    layers.lay(volume, pleura.collapsed(haze, ANATOMY, air))
    assert (volume[empty] > 0.05).mean() < 0.02
    other = haze._replace(side="left", box=layers.lung_box(ANATOMY, "left"))
    other = other._replace(alpha=0.4 * ANATOMY.lung["left"][other.box])
    assert pleura.collapsed(other, ANATOMY, air).alpha.sum() < 1e-3 * other.alpha.sum()


def test_a_collapsed_lung_takes_its_consolidation_along():
    (layer,) = lungs.consolidation(ANATOMY, AIRY, lesion("consolidation", "left", "mild", "upper lobe"))
    moved = pleura.collapsed(layer, ANATOMY, lesion("pneumothorax", "left", "severe"))

    def height(each):
        z = np.arange(each.box[1].start, each.box[1].stop)
        return (each.alpha.sum((0, 2)) * z).sum() / each.alpha.sum()

    assert moved.alpha.sum() < 0.7 * layer.alpha.sum()
    assert height(moved) < height(layer)  # from the upper lobe down to the hilum


# --- thickening


@pytest.mark.parametrize("side", SIDES)
def test_an_apical_cap_lies_under_the_lungs_roof(side):
    cap = put("pleural thickening", side=side, place="lung apex")
    top = np.flatnonzero((ANATOMY.lung[side] > 0.5).any(axis=(0, 2))).max()
    rows = np.flatnonzero((cap > 0.3).any(axis=(0, 2)))
    assert rows.max() >= top - 1 and 8 < (top - rows.min()) * STEP < 50
    thickness = cap.sum(axis=1) * STEP
    assert 4 < np.percentile(thickness[thickness > 2], 90) < 14


@pytest.mark.parametrize("side", SIDES)
def test_a_band_lies_on_the_lateral_wall(side):
    band = put("pleural thickening", side=side, place="lung base")
    inside = band > 0.3
    assert np.percentile(ANATOMY.wall[inside], 95) < 9
    lung = ANATOMY.outlines[f"{side} lung"][:, 2]
    wall = lung.min() if side == "right" else lung.max()
    assert abs(middle(band)[2] - wall) < 30
    assert middle(band)[1] < middle(ANATOMY.lung[side])[1]


def test_a_thick_minor_fissure_runs_between_upper_and_middle_lobe():
    line = put("pleural thickening", side="right", place="minor fissure")
    z = np.arange(line.shape[1])
    columns = line.sum(axis=(0)) > 20  # (Z, X)
    for name, sign in (("lung_upper_lobe_right", 1), ("lung_middle_lobe_right", -1)):
        above = 0
        sites = ANATOMY.lobe_sites[name]
        for x in np.flatnonzero(columns.any(axis=0)):
            height = (line[:, :, x].sum(axis=0) * z).sum() / line[:, :, x].sum() * STEP
            near = sites[np.abs(sites[:, 2] - x * ANATOMY.spacing[2]) < 3]
            above += np.sign(near[:, 1] - height).sum() if len(near) else 0
        assert sign * above > 0
    thickness = (line.sum(axis=1) * STEP)[(line > 0.5).any(axis=1)]
    assert 1.5 < np.median(thickness) < 6
