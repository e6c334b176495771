"""simulate/shapes.py and displacement.py: anatomy that moves as planned, all together, without folds."""

import itertools

import numpy as np
import pytest
from films_by_hand import alone, lobe_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cxrtrek_lib.simulate import displacement, phantom, shapes
from cxrtrek_lib.simulate.displacement import ACROSS, UP
from cxrtrek_lib.simulate.phantom import Phantom
from cxrtrek_lib.simulate.plan import Lesion
from cxrtrek_lib.tables import SEVERITIES

ANATOMY = phantom.load()
SPACING = ANATOMY.spacing
SPACES = np.array([2.0, 2.5, 1.5])
SIDES = ("left", "right")


def lesion(finding: str, side=None, severity=None, patient="t/p") -> Lesion:
    return Lesion(finding, side, severity, None, patient, 0)


MOVERS = {  # lesions of the phantoms below, by name
    **{side: [lesion("hemidiaphragm elevation", side)] for side in SIDES},
    **{grade: [lesion("scoliosis", severity=grade)] for grade in SEVERITIES},
    "flat": [lesion("hyperinflation", severity="severe")],
}


@pytest.fixture(scope="module")
def raised() -> dict[str, tuple[Phantom, float]]:
    """One phantom per side whose hemidiaphragm is elevated, and by how many mm."""
    made = {}
    for side in SIDES:
        (one,) = MOVERS[side]
        made[side] = shapes.deformed(ANATOMY, [one]), one.between("size", *shapes.ELEVATION_MM[side])
    return made


@pytest.fixture(scope="module")
def bent() -> dict[str, tuple[Phantom, float]]:
    """One scoliosis per grade, and its planned Cobb angle."""
    grades = {grade: MOVERS[grade][0] for grade in SEVERITIES}
    return {
        grade: (shapes.deformed(ANATOMY, [one]), one.within(shapes.COBB_DEG)) for grade, one in grades.items()
    }


@pytest.fixture(scope="module")
def flat() -> Phantom:
    return shapes.deformed(ANATOMY, MOVERS["flat"])


def dome(anatomy: Phantom, side: str, back=80, front=115) -> float:
    """Height, mm, of a dome: the highest floor of the lung at depths y, mm, 45 to 110 mm off the midline.

    Measured from the lung's mask, to a voxel; no outline or shift is used. The heart lies in front.
    """
    y, x = np.arange(anatomy.hu.shape[0]) * SPACING[0], np.arange(anatomy.hu.shape[2]) * SPACING[2]
    off = (x - 170) * (1 if side == "left" else -1)
    lung = anatomy.lung[side] > 0.5
    here = (lung.sum(axis=1) > 15) & ((y > back) & (y < front))[:, None] & ((off > 45) & (off < 110))
    return float(np.percentile(lung.argmax(axis=1)[here], 98) * SPACING[1])


def spine_line(anatomy: Phantom) -> tuple[np.ndarray, np.ndarray]:
    """Heights and x, mm, of the middle of what a frontal film shows of the vertebrae."""
    shadow = anatomy.spine.sum(axis=0)
    z = np.arange(len(shadow)) * anatomy.spacing[1]
    x = shadow @ np.arange(shadow.shape[1]) / np.maximum(shadow.sum(axis=1), 1e-6) * anatomy.spacing[2]
    return z, ndimage.gaussian_filter1d(x, 4)


def litres(mask: np.ndarray) -> float:
    return float(mask.sum() * np.prod(SPACING) / 1e6)


@given(st.floats(-9, 9), st.sampled_from([UP, ACROSS]))
def test_an_even_shift_moves_points_and_volume_by_itself(mm, axis):
    volume = np.zeros((3, 20, 24), dtype=np.float32)
    volume[1, 10, 12] = 1
    shift = axis, np.full((1, 20, 24), mm, dtype=np.float32)
    point = np.array([[1, 10, 12]]) * SPACES
    (moved,) = displacement.displaced([volume], [shift], SPACES)
    centre = np.array(ndimage.center_of_mass(moved)) * SPACES
    expected = point[0] + mm * np.eye(3)[axis]
    np.testing.assert_allclose(centre, expected, atol=1e-3)
    np.testing.assert_allclose(displacement.pushed(point, shift, SPACES)[0], expected, atol=0.01)


@given(st.floats(-2, 0.7), st.floats(0, 45))
def test_points_solve_a_linear_shift_exactly(slope, height):
    """shift(q) = slope q: p = q - slope q, so q = p / (1 - slope) by hand."""
    q = height / (1 - slope)
    if q > 19 * SPACES[1]:
        return  # beyond the volume the shift no longer grows
    ramp = (slope * np.arange(20) * SPACES[1]).astype(np.float32)
    shift = UP, np.broadcast_to(ramp[None, :, None], (4, 20, 6))
    (end,) = displacement.pushed(np.array([[3.0, height, 4.0]]), shift, SPACES)
    np.testing.assert_allclose(end, [3.0, q, 4.0], atol=0.02)


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_gathering_agrees_with_interpolation_of_every_column(number):
    generator = np.random.default_rng(number)
    volume = generator.random((3, 14, 9)).astype(np.float32)
    up = ndimage.gaussian_filter(generator.normal(0, 30, volume.shape), 3).astype(np.float32)
    (moved,) = displacement.displaced([volume], [(UP, up)], SPACES)
    z = np.arange(14) * SPACES[1]
    for y, x in itertools.product(range(3), range(9)):
        np.testing.assert_allclose(moved[y, :, x], np.interp(z - up[y, :, x], z, volume[y, :, x]), atol=2e-3)


def test_two_shifts_are_one_after_the_other():
    generator = np.random.default_rng(3)
    volume = generator.random((4, 16, 18)).astype(np.float32)
    shifts = [(axis, ndimage.gaussian_filter(generator.normal(0, 40, volume.shape), 3).astype(np.float32))
              for axis in (UP, ACROSS)]  # fmt: skip
    both = displacement.displaced([volume], shifts, SPACES)[0]
    first = displacement.displaced([volume], shifts[:1], SPACES)
    np.testing.assert_array_equal(both, displacement.displaced(first, shifts[1:], SPACES)[0])


def test_a_patient_without_such_findings_keeps_the_phantom_itself():
    assert shapes.deformed(ANATOMY, []) is ANATOMY
    assert shapes.deformed(ANATOMY, [lesion("cardiomegaly", severity="mild")]) is ANATOMY


@pytest.mark.parametrize("which", ["left", "right", "severe", "flat"])
def test_points_move_with_the_volumes(which, raised, bent, flat):
    """Masks and points are displaced by two routes: both must tell the same anatomy."""
    made = flat if which == "flat" else bent[which][0] if which in bent else raised[which][0]
    for axis in (UP, ACROSS):  # the outline is the rim of a frontal shadow
        inside = np.flatnonzero((made.heart > 0.5).any(axis=tuple({0, 1, 2} - {axis}))) * SPACING[axis]
        told = made.outlines["heart"][:, axis]
        assert abs(told.min() - inside[0]) < 1.6 * SPACING[axis]
        assert abs(told.max() - inside[-1]) < 1.6 * SPACING[axis]
    for name, sites in made.lobe_sites.items():
        at = np.round(sites / SPACING).astype(int)
        # No shape asks for the aorta: in its place a lobe of the label map goes where the shape moves it.
        lobe = shapes.deformed(ANATOMY._replace(aorta=lobe_masks()[name]), MOVERS[which]).aorta
        assert (lobe[tuple(at.T)] > 0.5).mean() > 0.95, name
    carina = np.round(made.landmarks["carina"] / SPACING).astype(int)
    near = tuple(slice(i - 3, i + 4) for i in carina)
    assert made.hu[near].min() < -700  # air of the trachea


@pytest.mark.parametrize("side", SIDES)
def test_a_raised_dome_is_higher_by_the_planned_amount(side, raised):
    made, mm = raised[side]
    other = "left" if side == "right" else "right"
    assert abs(dome(made, side) - dome(ANATOMY, side) - mm) <= 4
    assert abs(dome(made, other) - dome(ANATOMY, other)) <= SPACING[1]
    # By points, which a film's region box shows.
    heights = [each.outlines[f"{side} hemidiaphragm"][:, 1].max() for each in (made, ANATOMY)]
    assert abs(heights[0] - heights[1] - mm) < 1


@pytest.mark.parametrize("side", SIDES)
def test_a_raised_dome_leaves_ribs_and_the_other_lung_alone(side, raised):
    made, _ = raised[side]
    other = "left" if side == "right" else "right"
    assert np.abs(made.bone - ANATOMY.bone).sum() < 0.06 * ANATOMY.bone.sum()
    assert abs(litres(made.lung[other]) / litres(ANATOMY.lung[other]) - 1) < 0.01
    assert 0.6 < litres(made.lung[side]) / litres(ANATOMY.lung[side]) < 0.9  # the lung loses volume
    angle = f"{side} costophrenic angle"
    np.testing.assert_allclose(made.outlines[angle], ANATOMY.outlines[angle], atol=6)


@pytest.mark.parametrize("grade", SEVERITIES)
def test_the_spine_has_the_planned_cobb_angle(grade, bent):
    """The angle between the steepest parts of the curve above and below its apex, from the vertebrae."""
    made, cobb = bent[grade]
    (z, x), (_, plain) = spine_line(made), spine_line(ANATOMY)
    curve = x - plain
    apex = int(np.abs(curve).argmax())
    assert abs(z[apex] - 198) < 15  # T8
    tilt = np.degrees(np.arctan(np.gradient(curve, z)))
    chest = (z > 95) & (z < 305)
    assert abs(np.ptp(tilt[chest]) - cobb) < 0.15 * cobb
    # Lower than the plan by what the vertebral arches, nearer to their place, take from the mean.
    assert abs(abs(curve[apex]) - shapes.apex_shift(cobb)) < 0.12 * shapes.apex_shift(cobb)


def test_an_apex_shift_by_hand():
    """A curve 210 mm long of 20 degrees: slope tan 10 = 0.1763, so 210 / pi * 0.1763 = 11.79 mm."""
    assert abs(shapes.apex_shift(20.0) - 11.79) < 0.01


def test_the_chest_follows_a_scoliosis_less_and_keeps_its_content(bent):
    made, cobb = bent["severe"]
    full = shapes.apex_shift(cobb)
    moved = np.array([made.outlines[name][:, 2].mean() - ANATOMY.outlines[name][:, 2].mean()
                      for name in ("heart", "left mid lung zone")])  # fmt: skip
    assert (np.abs(moved) < 0.8 * full).all()
    for name in ("bone", "spine", "heart"):
        before, after = litres(getattr(ANATOMY, name)), litres(getattr(made, name))
        assert abs(after / before - 1) < 0.06, name


def test_most_curves_are_to_the_right():
    to_right = sum(lesion("scoliosis", patient=f"t/{i}").draw("direction") < 0.85 for i in range(200))
    assert 150 < to_right < 190


def test_overinflated_lungs_have_flat_low_domes_and_a_narrow_heart(flat):
    share = lesion("hyperinflation", severity="severe").within(shapes.FLATTENING)
    angle = np.mean([ANATOMY.outlines[f"{side} costophrenic angle"][:, 1].min() for side in SIDES])
    # The right dome is highest at 150 mm, with no heart under it.
    before, after = (dome(each, "right", 130, 170) - angle for each in (ANATOMY, flat))
    assert 0.5 * share < 1 - after / before < share + 0.05
    for side in SIDES:
        assert dome(flat, side) < dome(ANATOMY, side) - 7
        assert litres(flat.lung[side]) > 1.02 * litres(ANATOMY.lung[side])
    width = [np.ptp(each.outlines["heart"][:, 2]) for each in (flat, ANATOMY)]
    height = [np.ptp(each.outlines["heart"][:, 1]) for each in (flat, ANATOMY)]
    assert 0.86 < width[0] / width[1] < 0.96 and height[0] > height[1]
    (z, x), (_, plain) = spine_line(flat), spine_line(ANATOMY)
    assert np.abs(x - plain)[(z > 60) & (z < 310)].max() < 2
    drop = -shapes.lowered(ANATOMY, share)
    assert drop.max() > 25 and drop[ANATOMY.spine > 0.5].mean() < 0.5  # vertebrae stay at their height


def test_emphysema_and_hyperinflation_are_one_shape():
    both = [lesion("emphysema", severity="severe"), lesion("hyperinflation", severity="mild")]
    one, two = shapes.deformed(ANATOMY, both[:1]), shapes.deformed(ANATOMY, both)
    np.testing.assert_array_equal(one.hu, two.hu)


def test_a_dome_raised_in_emphysema_rises_from_where_that_left_it():
    findings = [lesion("emphysema", severity="severe"), lesion("hemidiaphragm elevation", "right")]
    low, both = shapes.deformed(ANATOMY, findings[:1]), shapes.deformed(ANATOMY, findings)
    mm = findings[1].between("size", *shapes.ELEVATION_MM["right"])
    assert abs(dome(both, "right") - dome(low, "right") - mm) < 12
    assert dome(both, "right") > dome(both, "left") + 15
    assert abs(dome(both, "left") - dome(low, "left")) <= SPACING[1]


def test_nothing_folds_even_at_the_largest_sizes_together():
    """p - shift(p) grows along the shift's axis, for every sum of findings that one patient may have."""
    apex = shapes.apex_shift(shapes.COBB_DEG["severe"][1])
    share = shapes.FLATTENING["severe"][1]
    up = {
        "none": [np.zeros((1, 1, 1), dtype=np.float32)],
        "raised": [shapes.raised(ANATOMY, side, shapes.ELEVATION_MM[side][1]) for side in SIDES],
        "tilted": [shapes.tilted(ANATOMY, sign * apex) for sign in (-1, 1)],
        "lowered": [shapes.lowered(ANATOMY, share)],
    }
    for low in (up["none"][0], up["lowered"][0]):
        for high, turn in itertools.product(up["raised"], [*up["none"], *up["tilted"]]):
            assert (np.diff(low + high + turn, axis=1) < 0.99 * SPACING[1]).all()
    for sign in (-1, 1):
        across = shapes.curved(ANATOMY, sign * apex) + shapes.slender(ANATOMY, share)
        assert (np.diff(across, axis=2) < 0.99 * SPACING[2]).all()


@pytest.mark.parametrize("finding, side, severity", [
    ("hemidiaphragm elevation", "left", None),
    ("hemidiaphragm elevation", "right", None),
    ("emphysema", None, "moderate"),
])  # fmt: skip
def test_the_box_holds_what_the_finding_changes(finding, side, severity):
    changed, truth = alone(finding, side, severity)
    (row,) = (row for row in truth["findings"] if row["finding"] == finding)
    assert row["status"] == "present" and row["visibility_mm"] > 15
    (box,) = row["boxes"].values()
    n = len(changed)
    x1, y1, x2, y2 = (int(np.floor(v * n / 100)) for v in box[:2] + [b + 100 / n for b in box[2:]])
    assert changed[y1:y2, x1:x2].sum() > 0.9 * changed.sum()
