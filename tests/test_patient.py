"""simulate/: patient.py, acquisition.py, habitus.py, quality.py: who is on a film and how it was taken."""

import numpy as np
import pytest

from cxrtrek_lib import tables
from cxrtrek_lib.simulate import (
    acquisition,
    clavicles,
    geometry,
    habitus,
    patient,
    phantom,
    projector,
    quality,
    truth,
)
from cxrtrek_lib.simulate.acquisition import VIEWS


def film_geometry(number: int, view: str, **more):
    anatomy = phantom.load()
    shot = acquisition.acquisition(0, f"t/{number}/1", view)._replace(**more)
    return geometry.geometry(patient.body(0, f"t/{number}"), shot, anatomy.hu.shape, anatomy.spacing)


def test_a_body_belongs_to_the_patient_alone():
    one, again, other = patient.body(0, "t/1"), patient.body(0, "t/1"), patient.body(0, "t/2")
    np.testing.assert_array_equal(one.bend, again.bend)
    assert one._replace(bend=0) == again._replace(bend=0) != other._replace(bend=0)
    assert patient.body(0, "t/1", "F").sex == "F" and patient.body(0, "t/1", "M").breast[2] == 0


def test_factors_of_a_body_are_drawn_apart():
    bodies = [patient.body(0, f"t/{i}") for i in range(250)]
    names = "depth height left right mediastinum spine heart_shift upper lower lean wall bone vessels".split()
    values = np.array([[*(getattr(each, name) for name in names), each.lung[0]] for each in bodies])
    related = np.corrcoef(values.T)
    # Depth and height share the patient's size; of the others 250 patients leave chance 0.2.
    assert np.abs(related[2:, 2:] - np.eye(12)).max() < 0.2
    assert 0.35 < np.mean([each.sex == "F" for each in bodies]) < 0.65


def test_healthy_hearts_are_of_normal_size():
    anatomy = phantom.load()
    ratios, shapes = [], []
    for number in range(60):
        geo = film_geometry(number, "PA", cut={})
        boxes = truth.region_boxes(geo, anatomy.outlines)
        chest = boxes["left lung"][2] - boxes["right lung"][0]
        ratios.append((boxes["heart"][2] - boxes["heart"][0]) / chest)
        shapes.append((boxes["right lung"][3] - boxes["right lung"][1]) / chest)
    # Normal is below 0.5 (Danzer 1919), here with the ribs' inner side from the lungs' boxes.
    assert 0.40 < np.median(ratios) < 0.48 and np.mean(np.array(ratios) < 0.5) > 0.9
    assert np.ptp(shapes) > 0.2  # short and wide, tall and slender


def test_every_view_shows_its_regions():
    anatomy = phantom.load()
    for view in VIEWS:
        outlines = anatomy.lateral_outlines if view == "LATERAL" else anatomy.outlines
        shown = [truth.region_boxes(film_geometry(number, view), outlines) for number in range(20)]
        assert np.mean([len(boxes) for boxes in shown]) > 0.95 * len(outlines)


def test_breasts_are_as_large_from_the_side_as_from_the_front():
    for number in range(3):
        body = patient.body(0, f"t/{number}", "F")
        litres = []
        for view in ("PA", "LATERAL"):
            geo = film_geometry(number, view)
            geo = geometry.geometry(
                body, acquisition.acquisition(0, f"t/{number}/1", view), (124, 133, 256), geo.spacing
            )
            zoom = geo.zoom[len(geo.zoom) // 2 if geo.lateral else -1]
            pixel = projector.MARGIN * geo.field / 240 / zoom
            litres.append(habitus.breasts(body, geo, 240).sum() * pixel**2 / 1e6)
        assert litres[0] == pytest.approx(litres[1], rel=0.1) and 0.05 < litres[0] < 2
    assert not habitus.breasts(patient.body(0, "t/1", "M"), geo, 60).any()


def test_clavicles_weigh_the_same_from_either_side():
    anatomy = phantom.load()
    line = anatomy.centrelines["left clavicle"]
    grams = []
    for view in ("PA", "LATERAL"):
        geo = film_geometry(2, view, rotation=0.0, above=60.0, cut={})
        body = patient.body(0, "t/2")
        zoom = np.interp(line[20, geo.axes[0]], geo.depth_mm, geo.zoom)
        pixel = projector.MARGIN * geo.field / 800 / zoom
        # Frontal: along the body's depth; lateral: along its width, which are scaled apart.
        water = clavicles.draw(line, geo, 800) / (body.depth if view == "PA" else 1)
        grams.append(water.sum() * pixel**2 / 1000)
    assert grams[0] == pytest.approx(grams[1], rel=0.25) and 3 < grams[0] < 30


def test_a_clavicle_is_a_tube_of_compact_bone():
    body, shot = patient.body(0, "t/p"), acquisition.acquisition(0, "t/p/1", "PA")
    anatomy = phantom.load()
    geo = geometry.geometry(body, shot, anatomy.hu.shape, anatomy.spacing)
    # A straight one, across the beam: radius 6 mm and cortex 2.2 mm at 0.55 of its length.
    line = np.stack([np.full(49, 150.0), np.full(49, 250.0), np.linspace(180, 300, 49)], axis=1)
    water = clavicles.draw(line.astype(np.float32), geo, 1200)
    middle = geometry.onto_plane(geo, line[26:27])[0] / (projector.MARGIN * geo.field / 1200) + 600
    column = water[:, int(middle[1])]
    through = clavicles.COMPACT * 2 * 2.2 + clavicles.SPONGY * 2 * 3.8
    assert column[int(middle[0])] == pytest.approx(through, rel=0.1)
    tallest = clavicles.COMPACT * 2 * np.sqrt(6**2 - 3.8**2)  # where the ray just misses the spongy bone
    assert 0.7 * tallest < column.max() < tallest


def test_a_patients_tissue_follows_the_gains():
    anatomy = phantom.load()
    plain = patient.body(0, "t/1")._replace(bone=1.0, lung=(1.0, 1.0), vessels=1.0, heart=1.0)
    base = habitus.tissue(anatomy, plain)
    np.testing.assert_array_equal(base, 1 + anatomy.hu / np.float32(1000))
    ribs = anatomy.bone > 0.9
    dense = habitus.tissue(anatomy, plain._replace(bone=2.0))
    np.testing.assert_allclose((dense - base)[ribs], 1 * (base[ribs] - 1) * anatomy.bone[ribs], atol=2e-3)
    lung = anatomy.lung["left"] > 0.99
    heavy = habitus.tissue(anatomy, plain._replace(lung=(1.5, 1.0)))
    change = np.where(lung, heavy / np.maximum(base, 0.01), np.nan)
    low, high = np.flatnonzero(lung.any((0, 2)))[[6, -3]]
    assert np.nanmedian(change[:, low]) > 1.4 > 1.05 > np.nanmedian(change[:, high])  # the base, not the apex


def test_shots_are_as_often_flawed_as_said():
    for view in VIEWS:
        shots = [acquisition.acquisition(0, f"t/{i}/1", view) for i in range(500)]
        clipped = np.mean([bool(shot.cut) or shot.above < 0 for shot in shots])
        moved = np.mean([shot.motion_mm > 0 for shot in shots])
        assert clipped == pytest.approx(acquisition.CLIPPED_SHARE[view], abs=0.04)
        assert moved == pytest.approx(acquisition.MOVED_SHARE[view], abs=0.03)
        adequate = np.mean([shot.exposure == "adequate" for shot in shots])
        assert adequate == pytest.approx(0.7, abs=0.06)


def test_two_films_of_a_study_share_the_breath_and_not_the_noise():
    one, other = (acquisition.acquisition(0, "t/1/1", view) for view in ("PA", "LATERAL"))
    assert one.inspiration == other.inspiration and one.key != other.key and one.rotation != other.rotation


@pytest.mark.parametrize("exposure", tables.EXPOSURES)
def test_a_stated_exposure_is_kept(exposure):
    shot = acquisition.acquisition(0, "t/1/1", "PA", exposure)
    assert shot.exposure == exposure
    assert (shot.brightness > 0.1) == (exposure == "underexposed")
    assert (shot.brightness < -0.1) == (exposure == "overexposed")


@pytest.mark.parametrize(("view", "exposure"), [("OBLIQUE", None), ("PA", "burnt")])
def test_what_is_no_shot_is_one_line(view, exposure):
    with pytest.raises(ValueError, match="OBLIQUE|burnt") as caught:
        acquisition.acquisition(0, "t/1/1", view, exposure)
    assert "t/1/1" in str(caught.value) and "\n" not in str(caught.value)


def facts(number: int, view: str = "PA", **more) -> dict:
    shot = acquisition.acquisition(0, f"t/{number}/1", view)._replace(**more)
    return quality.facts(phantom.load(), shot, film_geometry(number, view, **more))


def test_a_deeper_breath_shows_more_ribs():
    counts = [
        facts(1, inspiration=scale, rotation=0.0, tilt=0.0)["ribs_above_dome"] for scale in (0.7, 0.9, 1.15)
    ]
    assert counts == sorted(counts) and counts[0] < counts[-1] and 6 <= counts[0] and counts[-1] <= 10


def test_what_the_film_cuts_off_is_told():
    assert facts(3, cut={}, above=22.0)["clipped"] == []
    assert facts(3, cut={}, above=-35.0)["clipped"] == ["left lung apex", "right lung apex"]
    for side in ("left", "right"):
        assert facts(3, cut={side: 40.0}, above=22.0)["clipped"] == [f"{side} costophrenic angle"]


@pytest.mark.parametrize("view", VIEWS)
def test_the_facts_of_a_film(view):
    told = facts(1, view, motion_mm=1.5)
    assert told["view"] == view and told["motion_mm"] == 1.5
    assert (told["ribs_above_dome"] is None) == (view == "LATERAL")
