"""simulate/: geometry.py and projector.py, frontal and lateral, against rays and hand-made blocks."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cxrtrek_lib.simulate import acquisition, geometry, patient, phantom, projector, truth

VIEWS = acquisition.VIEWS
SHAPE, SPACING = (40, 100, 120), np.array([2.0, 2.0, 2.0])


def plain(view: str) -> tuple[patient.Body, acquisition.Acquisition]:
    """A patient as the phantom is, taken straight."""
    scales = ("width", "depth", "height", "left", "right", "mediastinum", "spine", "upper", "lower", "wall")
    body = patient.body(0, "t/p")._replace(
        **dict.fromkeys(scales, 1.0), heart_shift=0.0, lean=0.0, bend=np.zeros((2, 2, 5, 5))
    )
    shot = acquisition.acquisition(0, "t/p/s", view)._replace(
        rotation=0.0, tilt=0.0, roll=0.0, shift=(0.0, 0.0), inspiration=1.0, above=22.0, cut={}
    )
    return body, shot


@cache
def case(view: str, number: int = 0) -> tuple:
    """(phantom, geometry) of a patient with all that can be askew."""
    anatomy = phantom.load()
    body = patient.body(0, f"t/ray/{number}")
    shot = acquisition.acquisition(0, f"t/ray/{number}/1", view)
    return anatomy, geometry.geometry(body, shot, anatomy.hu.shape, anatomy.spacing)


@pytest.mark.parametrize("view", VIEWS)
def test_a_projected_block_has_the_size_and_thickness_of_geometry(view):
    """A water block of known size in air: magnification and path length by hand, for a beam along y or x."""
    body, shot = plain(view)
    geo = geometry.geometry(body, shot, SHAPE, SPACING)
    volume = np.zeros(SHAPE, dtype=np.float32)
    if view == "LATERAL":  # 20 mm deep along x (170-190), 30 mm wide along y (30-60), in the film's middle
        volume[15:30, :, 85:95] = 1
        width, position, end, sign = 30, 179, 2 * SHAPE[2], 1
    else:  # 20 mm deep along y (30-50), 20 mm wide along x
        volume[15:25, :, 85:95] = 1
        width, position, end, sign = 20, 39, 2 * SHAPE[0], 1 if view == "PA" else -1
    plane = projector.project(volume, projector.weights(geo, SHAPE, 960))
    profile = plane[480]
    inside = np.flatnonzero(profile > 10)
    assert abs(profile[inside[len(inside) // 2]] - 20) < 0.2
    # The detector lies 15 mm beyond the volume's slab that is nearest to it.
    nearest = end if sign == 1 else 0
    to_block = shot.source_mm - 15 - abs(nearest - position)
    shadow = len(inside) * projector.MARGIN * geo.field / 960
    assert abs(shadow - width * shot.source_mm / to_block) < 1.2


@pytest.mark.parametrize("view", VIEWS)
def test_the_matrices_agree_with_marching_along_rays(view):
    """Every voxel slice at its own magnification, sampled one ray at a time, against merged slabs."""
    anatomy, geo = case(view)
    density = 1 + anatomy.hu / 1000
    plane = projector.project(density, projector.weights(geo, density.shape, 200))
    volume = density.transpose(geo.axes)
    mm = np.arange(len(volume)) * anatomy.spacing[geo.axes[0]]
    zoom, step = np.interp(mm, geo.depth_mm, geo.zoom), np.interp(mm, geo.depth_mm, geo.step)
    across_mm, up_mm = (
        np.stack([np.interp(mm, geo.depth_mm, column) for column in table.T], axis=1)
        for table in (geo.across_mm, geo.up_mm)
    )
    axis = projector.plane_axis(geo, 200)
    turn = -1 if geo.lateral else 1  # on a lateral film y falls from left to right
    errors = []
    for row in range(30, 180, 25):
        for column in range(40, 170, 25):
            places = [
                (
                    i,
                    np.interp(-axis[row] / zoom[i], up_mm[i], geo.up_knots) / anatomy.spacing[1],
                    np.interp(axis[column] / zoom[i], across_mm[i][::turn], geo.across_knots[::turn])
                    / anatomy.spacing[geo.axes[2]],
                )
                for i in range(len(volume))
            ]
            inside = [-0.5 < across < volume.shape[2] - 0.5 for _, _, across in places]
            marched = ndimage.map_coordinates(volume, np.transpose(places), order=1, mode="nearest")
            errors.append(plane[row, column] - (marched * inside * step).sum())
    assert np.abs(errors).mean() < 0.6 and np.abs(errors).max() < 6  # mm of water, of 140 on average


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("organ", ["heart", "aortic arch"])
def test_a_region_is_the_box_of_its_projected_voxels(organ, view):
    """Two routes: matrices and image warp here, points and inverse warp in truth.py."""
    anatomy, geo = case(view, 1)
    outlines = anatomy.lateral_outlines if geo.lateral else anatomy.outlines
    mask = ((anatomy.heart if organ == "heart" else anatomy.aorta) > 0.5).astype(np.float32)
    if organ == "aortic arch":
        mask[:, : round(outlines[organ][:, 1].min() / anatomy.spacing[1])] = 0
    plane = projector.project(mask, projector.weights(geo, mask.shape, 400))
    shadow = ndimage.binary_opening(projector.to_film(geo, plane, 357) > 1.5)
    rows, columns = np.nonzero(shadow)
    measured = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 100 / 357
    box = truth.region_boxes(geo, {organ: outlines[organ]})[organ]
    np.testing.assert_allclose(box, measured, atol=1.2)


@given(st.integers(0, 10**6), st.sampled_from(VIEWS))
@settings(max_examples=20)
def test_the_warp_and_its_inverse(number, view):
    body = patient.body(0, f"t/{number}")
    shot = acquisition.acquisition(0, f"t/{number}/1", view)
    geo = geometry.geometry(body, shot, (124, 133, 256), np.array([2.1, 2.5, 1.4]))
    points = (np.random.default_rng(number).random((50, 2)) - 0.5) * geo.field
    back = projector.warp_targets(geo, projector.onto_film(geo, points))
    np.testing.assert_allclose(back, points, atol=0.3)


@given(
    st.sampled_from(VIEWS),
    st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in (30, 50, 60))),
)
@settings(max_examples=20)
def test_a_part_is_projected_as_in_the_whole(view, ends):
    box = tuple(slice(low, low + length) for low, length in ends)
    volume = np.random.default_rng(0).random((30, 50, 60), dtype=np.float32)
    geo = geometry.geometry(patient.body(0, "t/p"), plain(view)[1], volume.shape, np.array([8.0, 7.0, 6.0]))
    matrices = projector.weights(geo, volume.shape, 40)
    alone = np.zeros_like(volume)
    alone[box] = volume[box]
    found = np.zeros((40, 40), dtype=np.float32)
    change, window = projector.project_part(volume[box], matrices, box)
    found[window] = change
    np.testing.assert_allclose(found, projector.project(alone, matrices), rtol=1e-4, atol=1e-3)


def places(view: str, points: list, **more) -> np.ndarray:
    """(N, 2) (x, y) percent of phantom points on the film of a plain patient; more: replaced in the shot."""
    body, shot = plain(view)
    geo = geometry.geometry(body, shot._replace(**more), (124, 133, 256), phantom.load().spacing)
    points = np.array(points, dtype=np.float64)
    return projector.percent(geo, projector.onto_film(geo, geometry.onto_plane(geo, points)))


def test_a_lateral_film_is_a_left_lateral_that_faces_left():
    front, back = places("LATERAL", [(220, 200, 180), (40, 200, 180)])
    assert front[0] < 50 < back[0] and abs(front[1] - back[1]) < 0.5
    left = np.ptp(places("LATERAL", [(40, 200, 290), (220, 200, 290)])[:, 0])
    right = np.ptp(places("LATERAL", [(40, 200, 70), (220, 200, 70)])[:, 0])
    # Nearer to the detector it is magnified less: 220 mm apart, in a beam of 1800 mm.
    assert right / left == pytest.approx(1 + 220 / 1600, abs=0.02)


@pytest.mark.parametrize("view", VIEWS)
def test_a_breath_moves_the_dome_and_not_the_spine(view):
    dome, spine, apex = (150, 160, 110), (38, 160, 166), (120, 310, 120)
    shallow, deep = (
        places(view, [dome, spine, apex], inspiration=scale, field_mm=250) for scale in (0.8, 1.0)
    )
    moved = (deep - shallow)[:, 1] / 100 * 250
    # By hand: the dome's 125 mm in the upper half lose 0.1 of their height, its 35 mm in the lower half 0.3.
    assert moved[0] == pytest.approx(1.1 * (12.5 + 10.5), rel=0.1)
    assert abs(moved[1]) < 1 and abs(moved[2]) < 2


def test_turning_to_the_left_moves_front_and_back_apart():
    sternum, spinous = (210, 230, 176), (25, 230, 166)
    straight, turned = (
        np.diff(places("PA", [sternum, spinous], rotation=angle)[:, 0])[0] for angle in (0.0, 5.0)
    )
    # tan(5 deg) of the 185 mm between them, on a film of about 345 mm, magnified 1.1 times
    assert straight - turned == pytest.approx(100 * np.tan(np.radians(5)) * 185 * 1.1 / 345, rel=0.15)
