"""Devices: mass and place of what is drawn, and courses that run where the CT says they should."""

import functools

import numpy as np
import pytest
from films_by_hand import change, of, present, share_inside, study, told, water
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib.simulate import acquisition, devices, geometry, patient, phantom, projector, strokes
from cxrtrek_lib.simulate.plan import Lesion
from cxrtrek_lib.simulate.strokes import Stroke

PATIENTS = [f"t/{i}" for i in range(16)]
SIDED = ("pacemaker", "central venous catheter", "chest tube")


@functools.cache
def anatomy() -> phantom.Phantom:
    return phantom.load()


@functools.cache
def film(view: str = "PA") -> geometry.Geometry:
    shot = acquisition.acquisition(0, "t/p/s", view)._replace(rotation=0.0, tilt=0.0)
    return geometry.geometry(patient.body(0, "t/p"), shot, anatomy().hu.shape, anatomy().spacing)


def course(finding: str, patient_id: str, side: str | None = None, where=None) -> list[Stroke]:
    return devices.STROKES[finding](where or anatomy(), Lesion(finding, side, None, None, patient_id, 0))


def hu(points: np.ndarray) -> np.ndarray:
    """The CT at points (N, 3) mm; those outside the volume are left out."""
    index = np.round(points / anatomy().spacing).astype(int)
    inside = ((index >= 0) & (index < anatomy().hu.shape)).all(axis=1)
    return anatomy().hu[tuple(index[inside].T)]


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance (N,) in mm from each point to the nearest of others."""
    return np.linalg.norm(points[:, None] - others[None], axis=-1).min(axis=1)


def line(start=(150.0, 230.0, 120.0), move=(0.0, -120.0, 90.0)) -> np.ndarray:
    return np.array(start) + np.linspace(0, 1, 60)[:, None] * np.array(move)


def mass(parts: list[Stroke], size: int, view: str = "PA") -> float:
    """mm^3 of water on the film."""
    return strokes.draw(parts, film(view), size).sum(dtype=float) * (film(view).field / size) ** 2


def length(points: np.ndarray, view: str = "PA") -> float:
    """mm on the film."""
    geo = film(view)
    shown = projector.onto_film(geo, geometry.onto_plane(geo, points.astype(float)))
    return float(np.linalg.norm(np.diff(shown, axis=0), axis=1).sum())


@pytest.mark.parametrize("size", [160, 224, 512])
@pytest.mark.parametrize(("width", "bore"), [(0.9, 0), (2.3, 0.9), (10.2, 7.5)])
def test_a_line_keeps_its_mass_however_thin(size, width, bore):
    expected = length(line()) * np.pi / 4 * (width**2 - bore**2) * 3.0
    # The beam diverges: it is not quite at right angles to the line.
    assert mass([Stroke(line(), width, 3.0, bore)], size) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("view", ["PA", "LATERAL"])
@pytest.mark.parametrize("degrees", [30, 60])
def test_a_line_that_leans_along_the_beam_is_as_much_denser_as_it_is_shorter(view, degrees):
    lean = np.radians(degrees)
    depth, across = ((1.0, 0, 0), (0, 0, 1.0)) if view == "PA" else ((0, 0, 1.0), (1.0, 0, 0))
    move = 60 * (np.sin(lean) * np.array(depth) + np.cos(lean) * np.array(across))
    start = np.array([140.0, 200.0, 180.0])
    points = line(start - move / 2, move)
    shown = length(points, view) * np.pi / 4 * 2.0**2
    assert mass([Stroke(points, 2.0, 1.0)], 224, view) == pytest.approx(shown / np.cos(lean), rel=0.06)


def test_lines_that_cross_add_up():
    one, other = Stroke(line(), 2.0, 5.0), Stroke(line(move=(0, 100.0, 90.0)), 2.0, 5.0)
    both = strokes.draw([one, other], film(), 224)
    np.testing.assert_allclose(
        both, strokes.draw([one], film(), 224) + strokes.draw([other], film(), 224), atol=1e-4
    )


def test_a_tube_shows_its_walls_and_a_wire_its_middle():
    upright = line((150.0, 240.0, 178.0), (0, -120.0, 0))
    for bore, pale in ((8.0, True), (0.0, False)):
        across = strokes.draw([Stroke(upright, 10.0, 1.0, bore)], film(), 1024)[400]
        lit = np.flatnonzero(across > 0.05)
        middle, peak = across[lit[0] : lit[-1] + 1][len(lit) // 2], across.max()
        assert (middle < 0.6 * peak) == pale
        # Through the middle: two walls of 1 mm, or 10 mm of the solid.
        assert middle == pytest.approx(10 - bore, rel=0.1)


def test_a_slab_is_as_dense_as_it_is_thick():
    corners = np.array([(y, z, x) for y in (150, 157) for z in (200, 240) for x in (160, 210)], dtype=float)
    shown = strokes.draw([Stroke(corners, None, 2.0)], film(), 224)
    # 14 mm of water, spread by the body's scale and the beam's magnification; nothing but one even patch.
    assert 14 / 1.5 < shown.max() < 14 * 1.25
    assert (shown > 0.99 * shown.max()).sum() > 0.85 * (shown > 0).sum()
    assert mass([Stroke(corners, None, 2.0)], 224) == pytest.approx(7 * 40 * 50 * 2.0, rel=0.03)


def test_what_leaves_the_film_is_cut_off_there():
    inside = Stroke(line((150.0, 230.0, 178.0), (0, 0, 100.0)), 4.0, 3.0)
    further = Stroke(line((150.0, 230.0, 178.0), (0, 0, 500.0)), 4.0, 3.0)
    shown = strokes.draw([further], film(), 224)
    assert shown[:, :100].max() == 0 and shown[:, -1].max() > 0
    before = strokes.draw([inside], film(), 224)
    middle = slice(0, 150)
    np.testing.assert_allclose(shown[:, middle], before[:, middle], atol=0.2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 300)] * 3), min_size=2, max_size=8, unique_by=lambda p: round(p[0])))
def test_a_smooth_curve_passes_its_knots(knots):
    knots = np.array(knots)
    curve = strokes.smooth(knots, 0.05)
    assert nearest(knots, curve).max() < 0.1
    np.testing.assert_allclose(curve[[0, -1]], knots[[0, -1]], atol=1e-6)


@pytest.mark.parametrize("patient_id", PATIENTS)
def test_the_endotracheal_tube_ends_in_air_above_the_carina(patient_id):
    tube, opaque = course("endotracheal tube", patient_id)
    carina = anatomy().landmarks["carina"]
    assert 25 <= np.linalg.norm(tube.points[-1] - carina) <= 62
    assert tube.points[-1, 1] > carina[1]
    assert np.median(hu(tube.points[-20:])) < -700  # inside the airway of the CT itself
    assert tube.points[0, 1] > 345  # it comes from above the film
    np.testing.assert_allclose(np.linalg.norm(opaque.points - tube.points, axis=1), 4.4)


@pytest.mark.parametrize("patient_id", PATIENTS)
def test_the_enteric_tube_runs_behind_the_trachea_to_the_stomach(patient_id):
    tube, *opaque = course("enteric tube", patient_id)
    carina, stomach = anatomy().landmarks["carina"], anatomy().landmarks["stomach"]
    at_carina = tube.points[np.argmin(np.abs(tube.points[:, 1] - carina[1]))]
    assert at_carina[0] < carina[0] - 5  # y grows to the front
    dome = anatomy().outlines["left hemidiaphragm"][:, 1].max()
    tip = tube.points[-1]
    assert tip[1] < dome and np.linalg.norm(tip - stomach) < 95
    assert stomach[2] - 60 < tip[2] < anatomy().outlines["left lung"][:, 2].max()
    assert np.median(hu(tube.points)) > -300
    first, second = opaque
    gap = np.linalg.norm(second.points[0] - first.points[-1])
    assert 5 < gap < 12


@pytest.mark.parametrize("side", phantom.SIDES)
def test_the_chest_tube_pierces_the_wall_and_lies_in_its_pleural_space(side):
    out, ends = devices.OUTWARD[side], []
    lung = anatomy().outlines[f"{side} lung"]
    for patient_id in PATIENTS:
        tube, first, second = course("chest tube", patient_id, side)
        rim = lung[:, 2].max() if side == "left" else lung[:, 2].min()
        assert out * (tube.points[0, 2] - rim) > 15  # it begins outside the ribs
        inside = np.round(tube.points[-25:] / anatomy().spacing).astype(int)
        assert (anatomy().wall[tuple(inside.T)] > 0).all()  # within the chest
        assert anatomy().lung[side][tuple(inside.T)].mean() > 0.5
        tip_to_gap = np.linalg.norm(np.diff(second.points, axis=0), axis=1).sum()
        assert 38 < tip_to_gap < 75
        assert 5 < np.linalg.norm(second.points[0] - first.points[-1]) < 12
        share = (tube.points[-1, 1] - lung[:, 1].min()) / np.ptp(lung[:, 1])
        ends.append("apex" if share > 0.75 else "base" if share < 0.4 else "between")
    assert set(ends) == {"apex", "base"}


@pytest.mark.parametrize("side", phantom.SIDES)
def test_the_central_line_ends_at_the_cavoatrial_junction_by_all_three_ways(side):
    ways = set()
    cava, junction = anatomy().centrelines["superior vena cava"], anatomy().landmarks["cavoatrial junction"]
    for patient_id in PATIENTS:
        line_, _ = course("central venous catheter", patient_id, side)
        start, tip = line_.points[0], line_.points[-1]
        assert abs(tip[1] - junction[1]) < 26 and nearest(tip[None], cava)[0] < 12
        assert nearest(line_.points[-25:], cava).max() < 12  # the last 50 mm lie in the vena cava
        assert devices.OUTWARD[side] * (start[2] - junction[2]) > -20
        ways.add("neck" if start[1] > 340 else "arm" if start[1] < 230 else "clavicle")
    assert ways == {"neck", "arm", "clavicle"}


@pytest.mark.parametrize("side", phantom.SIDES)
def test_the_generator_lies_on_the_chest_and_its_leads_end_in_the_heart(side):
    leads = set()
    for patient_id in PATIENTS:
        case, _, *paths = course("pacemaker", patient_id, side)
        middle = case.points.mean(axis=0)
        assert hu(middle[None])[0] > -300  # under the skin
        index = tuple(np.round(middle / anatomy().spacing).astype(int))
        assert anatomy().lung[side][index] == 0 and anatomy().bone[index] < 0.2
        assert np.ptp(case.points[:, 0]) == pytest.approx(7)
        lung = anatomy().lung[side][:, index[1], index[2] - 6 : index[2] + 7].max(axis=1) > 0.5
        assert not lung[index[0] - 2 :].any()  # in front of the lung
        tips = np.array([path.points[-1] for path in paths])
        inside = np.round(tips / anatomy().spacing).astype(int)
        assert (anatomy().heart[tuple(inside.T)] > 0.5).all()
        heart = anatomy().outlines["heart"][:, 2]
        across = (tips[:, 2] - heart.min()) / np.ptp(heart)
        assert across[0] > 0.6 and (across[1:] < 0.4).all()  # right ventricle's apex, right atrium
        leads.add(len(paths))
    assert leads == {1, 2}


@pytest.mark.parametrize("patient_id", PATIENTS)
def test_the_wires_hold_the_breastbone(patient_id):
    parts = course("sternal wires", patient_id)
    loops = parts[2::3]
    assert len(parts) == 3 * len(loops) and 5 <= len(loops) <= 7
    bone = anatomy().centrelines["sternum"]
    centres = np.array([loop.points[:-1].mean(axis=0) for loop in loops])
    assert nearest(centres, bone).max() < 5
    assert (np.diff(centres[:, 1]) < -10).all()  # one under the other
    for loop, strand in zip(loops, parts[::3], strict=True):
        np.testing.assert_allclose(loop.points[0], loop.points[-1], atol=1e-6)
        assert strand.points[:, 0].min() > loop.points[:, 0].max() - 2  # twisted in front
    # They pass behind the bone, in front of the heart.
    back = np.array([loop.points[:, 0].min() for loop in loops])
    assert (back > np.percentile(anatomy().outlines["heart"][:, 0], 90) - 25).all()


@pytest.mark.parametrize("finding", devices.STROKES)
def test_a_course_is_the_patients_own_and_follows_the_anatomy(finding):
    side = "left" if finding in SIDED else None
    first, again = course(finding, "t/1", side), course(finding, "t/1", side)
    other = course(finding, "t/2", side)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.points, two.points)
    assert not np.array_equal(first[0].points[-1], other[0].points[-1])
    # The whole anatomy moved by whole voxels: every point of the device moves along.
    voxels = (2, -3, 4)
    moved = voxels * anatomy().spacing

    def along(value):
        if isinstance(value, dict):
            return {name: along(part) for name, part in value.items()}
        if value.shape == anatomy().hu.shape:
            return np.roll(value, voxels, axis=(0, 1, 2))
        return value + moved if value.shape[-1:] == (3,) and value.ndim <= 2 else value

    fields = {name: along(value) for name, value in anatomy()._asdict().items() if name != "spacing"}
    shifted = course(finding, "t/1", side, anatomy()._replace(**fields))
    for one, two in zip(first, shifted, strict=True):
        np.testing.assert_allclose(two.points, one.points + moved, atol=0.02)


@pytest.mark.parametrize("finding", devices.STROKES)
@pytest.mark.parametrize("view", ["AP", "LATERAL"])
def test_films_show_a_device_and_box_it(finding, view):
    facts = study(present(finding), sample_id="t/8/1", patient_id="t/8", view=view)
    row = of(told(facts), finding)
    assert row["status"] == "present" and row["visibility_mm"] > 4
    assert share_inside(change(facts, finding), row["boxes"].values()) > 0.9
    if finding in SIDED and view == "AP":
        assert list(row["boxes"]) == [row["laterality"]]


def test_a_device_only_adds():
    bare, tube = (water(study(*rows)) for rows in ([], [present("chest tube", laterality="left")]))
    assert (tube - bare).min() > -1e-3 and (tube - bare).max() > 5
