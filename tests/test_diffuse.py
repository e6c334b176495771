"""simulate/diffuse.py: what happens to a lung's density, against the anatomy and against textbook numbers."""

from functools import cache

import numpy as np
import pytest
from films_by_hand import change, of, present, share_inside, study, told, water
from scipy import ndimage

from cxrtrek_lib.simulate import diffuse, layers, phantom
from cxrtrek_lib.simulate.plan import Lesion
from cxrtrek_lib.tables import SEVERITIES

SIDED = "interstitial opacity"
PATIENTS = ["t/0", "t/1", "t/2"]


@cache
def density():
    return 1 + phantom.load().hu / np.float32(1000)


def layers_of(finding, severity="moderate", patient_id="t/p", side=None):
    each = Lesion(finding, side, severity, None, patient_id, 0)
    return diffuse.LAYERS[finding](phantom.load(), density(), each)


def after(finding, severity="moderate", patient_id="t/p", side=None):
    volume = density().copy()
    for layer in layers_of(finding, severity, patient_id, side):
        layers.lay(volume, layer)
    return volume


def inner(side):
    """Voxels of one lung without its rim, its vessels and its bronchi: plain lung."""
    return (phantom.load().lung[side] > 0.99) & (density() < 0.35) & (density() > 0.05)


@pytest.mark.parametrize("finding", diffuse.LAYERS)
def test_only_lung_changes_and_stays_between_air_and_fluid(finding):
    anatomy, before = phantom.load(), density()
    side = "left" if finding == SIDED else None
    volume = after(finding, "severe", side=side)
    sides = [side] if side else ["left", "right"]
    lung = sum(anatomy.lung[each] for each in sides)
    np.testing.assert_array_equal(volume[lung == 0], before[lung == 0])
    assert volume.min() >= min(0, before.min()) and volume.max() <= before.max()
    for each in sides:
        assert np.abs(volume - before)[anatomy.lung[each] > 0.5].mean() > 0.01
    if side:
        right = (anatomy.lung["right"] > 0.5) & (anatomy.lung["left"] == 0)
        np.testing.assert_array_equal(volume[right], before[right])


@pytest.mark.parametrize("finding", diffuse.LAYERS)
@pytest.mark.parametrize("patient_id", PATIENTS)
def test_grades_are_graded(finding, patient_id):
    side = "right" if finding == SIDED else None
    before = density()
    masses = [np.abs(after(finding, grade, patient_id, side) - before).sum() for grade in SEVERITIES]
    assert masses[0] * 1.15 < masses[1] and masses[1] * 1.15 < masses[2]


@pytest.mark.parametrize("severity, low, high", [("mild", 0.62, 0.72), ("severe", 0.42, 0.54)])
def test_emphysema_leaves_half_to_two_thirds_of_the_tissue(severity, low, high):
    """Lung of -830 HU becomes one of about -890 or -920 HU."""
    for patient_id in PATIENTS:
        volume = after("emphysema", severity, patient_id)
        for side in ("left", "right"):
            left_over = volume[inner(side)].mean() / density()[inner(side)].mean()
            assert low < left_over < high


def test_emphysema_is_worse_above_and_has_bullae_only_beyond_the_mild_grade():
    before, z = density(), np.arange(phantom.load().hu.shape[1])
    mild, severe = after("emphysema", "mild"), after("emphysema", "severe")
    for side in ("left", "right"):
        lung = inner(side)
        height = np.broadcast_to(z[None, :, None], lung.shape)[lung]
        lost = 1 - mild[lung] / before[lung]
        top, bottom = height > np.quantile(height, 0.8), height < np.quantile(height, 0.2)
        assert lost[top].mean() > lost[bottom].mean() * 1.1
        assert (mild[lung] < 0.015).mean() < 1e-3  # no voxel of air alone
        assert (severe[lung] < 0.015)[height > np.median(height)].mean() > 0.005


def test_hyperinflation_thins_lungs_evenly_and_less_than_emphysema():
    before = density()
    for side in ("left", "right"):
        lung = inner(side)
        left_over = after("hyperinflation", "severe")[lung] / before[lung]
        assert 0.75 < left_over.mean() < 0.9 and left_over.std() < 0.02
        assert left_over.mean() > (after("emphysema", "mild")[lung] / before[lung]).mean()


def test_edema_is_a_bat_wing():
    """Densest about the hila; less at apex, base and under the ribs; on both sides alike."""
    anatomy = phantom.load()
    y, z, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(anatomy.hu.shape, anatomy.spacing, strict=True)),
                          indexing="ij", sparse=True)  # fmt: skip
    means = []
    for patient_id in PATIENTS:
        added = after("edema", "severe", patient_id) - density()
        for side in ("left", "right"):
            hilum, lung = anatomy.landmarks[f"{side} hilum"], inner(side)
            near = lung & ((y - hilum[0]) ** 2 + (z - hilum[1]) ** 2 + (x - hilum[2]) ** 2 < 40**2)
            far_up, under_ribs = lung & (z > hilum[1] + 65), lung & (anatomy.wall < 8)
            below = lung & (z < hilum[1] - 75)
            peak = added[near].mean()
            means.append(peak)
            assert 0.3 < peak < 0.8
            assert max(added[each].mean() for each in (far_up, under_ribs, below)) < 0.5 * peak
    assert max(means) < 1.6 * min(means)


def test_edema_fills_upper_vessels():
    anatomy, before = phantom.load(), density()
    added = after("edema", "mild") - before
    z = np.arange(anatomy.hu.shape[1]) * anatomy.spacing[1]
    for side in ("left", "right"):
        upper = (anatomy.lung[side] > 0.9) & (z > anatomy.landmarks[f"{side} hilum"][1] + 30)[None, :, None]
        vessel = upper & (before > 0.45) & (before < 0.7)
        assert added[vessel].mean() > 2.5 * added[upper & (before < 0.25)].mean()


@pytest.mark.parametrize("side, sign", [("left", 1), ("right", -1)])
def test_septal_lines_are_thin_level_short_and_at_the_lower_side_wall(side, sign):
    anatomy = phantom.load()
    septa = [layer for layer in layers_of("edema", "severe") if layer.alpha.shape[1] <= 2]
    septa = [layer for layer in septa if (anatomy.lung[side][layer.box] * layer.alpha).sum() > 0]
    assert len(septa) == diffuse.KERLEY_LINES["severe"]
    hilum = anatomy.landmarks[f"{side} hilum"]
    for layer in septa:
        length = layer.alpha.shape[2] * anatomy.spacing[2]
        assert 5 < length < 45  # 10-20 mm along the ray's normal, longer where the wall slopes
        assert layer.box[1].stop * anatomy.spacing[1] < hilum[1] + 5
        middle = 0.5 * (layer.box[2].start + layer.box[2].stop) * anatomy.spacing[2]
        assert sign * (middle - hilum[2]) > 35
        # 1 mm thick: no column of voxels holds more than 1 mm of it.
        assert (layer.alpha.sum(axis=1) * anatomy.spacing[1]).max() <= 1.001


def test_the_networks_walls_are_as_far_apart_as_its_cells_are_wide():
    """Counted along lines of the tile, against Rice's formula that set its scale."""
    spacing = phantom.load().spacing
    tile = diffuse._network()
    assert 0 <= tile.min() and tile.max() <= 1
    walls = ndimage.maximum_filter1d(tile, 3, axis=2, mode="wrap") == tile
    walls &= tile > 0.5
    apart = tile.shape[2] * spacing[2] / walls.sum(axis=2).mean()
    assert diffuse.CELL_MM * 0.8 < apart < diffuse.CELL_MM * 1.35  # a wall between two voxels may be missed


def test_the_network_is_densest_below_and_under_the_pleura():
    anatomy, before = phantom.load(), density()
    added = after(SIDED, "moderate", side="right") - before
    z = np.arange(anatomy.hu.shape[1]) * anatomy.spacing[1]
    lung, outline = inner("right"), anatomy.outlines["right lung"][:, 1]
    low = (z < outline.min() + 0.4 * np.ptp(outline))[None, :, None] & lung
    high = (z > outline.min() + 0.75 * np.ptp(outline))[None, :, None] & lung
    assert added[high].max() == 0 and added[low].mean() > 0.02
    assert added[low & (anatomy.wall < 10)].mean() > 1.5 * added[low & (anatomy.wall > 40)].mean()


def test_the_network_survives_the_projection_as_fine_texture():
    """At 224 px: structure of 4-16 mm, of some mm of water, where a haze of the same mass has none."""
    facts = study(present(SIDED, laterality="bilateral", severity="severe"), sample_id="t/net/1",
                  patient_id="t/net")  # fmt: skip
    image = water(facts, 224) - water(study(sample_id="t/net/1", patient_id="t/net"), 224)
    (x1, y1, x2, y2) = (round(v * 2.24) for v in of(told(facts), SIDED)["boxes"]["right"])
    part = image[y1 + (y2 - y1) // 3 : y2 - (y2 - y1) // 4, x1 + (x2 - x1) // 4 : x2 - (x2 - x1) // 4]
    fine = part - ndimage.gaussian_filter(part, 4, mode="nearest")
    assert fine.std() > 2
    spectrum = np.abs(np.fft.fft2(fine - fine.mean())) ** 2
    waves = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, 1.55) for n in part.shape), indexing="ij"))
    assert spectrum[(waves > 1 / 16) & (waves < 1 / 4)].sum() > 0.6 * spectrum.sum()


def test_the_texture_stays_in_place_and_another_patients_is_another():
    grades = [after(SIDED, grade, "t/0", "left") - density() for grade in ("mild", "severe")]
    other = after(SIDED, "severe", "t/1", "left") - density()
    z = slice(46, 60)  # reached by both grades
    mild, severe, other = (each[:, z].ravel() for each in (*grades, other))
    assert np.corrcoef(mild, severe)[0, 1] > 0.95
    assert np.corrcoef(severe, other)[0, 1] < 0.7


@pytest.mark.parametrize("severity", ["mild", "severe"])
@pytest.mark.parametrize("finding", ["edema", SIDED, "emphysema"])  # domes do most for hyperinflation
def test_every_grade_shows_on_the_film_and_is_boxed(finding, severity):
    who = f"t/{finding}/{severity}"
    facts = study(present(finding, severity=severity), sample_id=f"{who}/1", patient_id=who)
    row = of(told(facts), finding)
    assert row["status"] == "present" and row["visibility_mm"] >= 4
    assert share_inside(change(facts, finding), list(row["boxes"].values())) >= 0.9
