"""simulate/lobes.py, lungs.py: where in the lung an opacity lies, and what makes it that opacity."""

import numpy as np
import pytest
from films_by_hand import alone
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cxrtrek_lib.simulate import lobes, lungs, phantom
from cxrtrek_lib.simulate.catalogue import SHOWN
from cxrtrek_lib.simulate.phantom import LOBES
from cxrtrek_lib.simulate.plan import Lesion
from cxrtrek_lib.tables import SEVERITIES

ANATOMY = phantom.load()
VOXEL_ML = float(np.prod(ANATOMY.spacing)) / 1000
PLACES = sorted(SHOWN["consolidation"].places)
SIDES = ("left", "right")


def lesion(finding="consolidation", side="left", severity="moderate", place=None, patient="t/p") -> Lesion:
    return Lesion(finding, side, severity, place, patient, 0)


def whole(layers) -> np.ndarray:
    """Share of every voxel of the phantom that a finding's layers replace."""
    rest = np.ones(ANATOMY.hu.shape, dtype=np.float32)
    for layer in layers:
        rest[layer.box] *= 1 - layer.alpha
    return 1 - rest


def middle(alpha: np.ndarray) -> np.ndarray:
    """Centroid (3,) mm."""
    return np.array([(alpha.sum(axis=tuple({0, 1, 2} - {i})) * np.arange(n)).sum() for i, n in
                     enumerate(alpha.shape)]) / alpha.sum() * ANATOMY.spacing  # fmt: skip


def put(finding: str, **more) -> np.ndarray:
    return whole(lungs.LAYERS[finding](ANATOMY, None, lesion(finding, **more)))


def lobe_of_sites(side: str, anatomy=ANATOMY) -> tuple[np.ndarray, np.ndarray]:
    """Sites (N, 3) mm of a lung and the lobe of each."""
    return (
        np.concatenate([anatomy.lobe_sites[name] for name in LOBES[side]]),
        np.repeat(LOBES[side], [len(anatomy.lobe_sites[name]) for name in LOBES[side]]),
    )


# --- places


@pytest.mark.parametrize("side", SIDES)
def test_fissures_part_sites_that_they_have_not_seen(side):
    half = ANATOMY._replace(lobe_sites={name: sites[::2] for name, sites in ANATOMY.lobe_sites.items()})
    other = ANATOMY._replace(lobe_sites={name: sites[1::2] for name, sites in ANATOMY.lobe_sites.items()})
    sites, names = lobe_of_sites(side, other)
    everywhere = tuple(slice(0, n) for n in ANATOMY.hu.shape)
    at = tuple(np.round(sites / ANATOMY.spacing).astype(int).T)
    shares = np.array([lobes.share(half, side, name, everywhere)[at] for name in LOBES[side]])
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=0.3)  # the lobes fill the lung
    assert (np.array(LOBES[side])[shares.argmax(axis=0)] == names).mean() > 0.95


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("place", PLACES)
def test_a_site_lies_where_its_words_say(place, side):
    if (place, side) in (("middle lobe", "left"), ("lingula", "right"), ("minor fissure", "left")):
        pytest.skip("there is none on this side")
    heart, hilum = ANATOMY.outlines["heart"], ANATOMY.landmarks[f"{side} hilum"]
    outer = ANATOMY.outlines[f"{side} lung"][:, 2]
    wall = outer.min() if side == "right" else outer.max()
    sites, names = lobe_of_sites(side)
    for patient in range(8):
        point = lobes.site(ANATOMY, lesion(side=side, place=place, patient=f"t/{patient}"))
        y, z, x = point
        inside = ANATOMY.lung[side][tuple(np.round(point / ANATOMY.spacing).astype(int))]
        assert inside > 0.5
        name = names[np.argmin(((sites - point) ** 2).sum(axis=1))]
        from_midline = abs(x - ANATOMY.outlines["spine"][:, 2].mean())
        if place.endswith("lung zone"):
            zone = ANATOMY.outlines[f"{side} {place}"][:, 1]
            assert zone.min() - 5 <= z <= zone.max() + 5
        elif place.endswith("lobe"):
            assert place.split()[0] in name
        elif place == "lingula":
            assert "upper" in name and z < hilum[1] and y > hilum[0]
        elif place == "lung apex":
            assert z > ANATOMY.outlines[f"{side} upper lung zone"][:, 1].max() - 40
        elif place == "lung base":
            assert z < ANATOMY.outlines[f"{side} hemidiaphragm"][:, 1].max() + 45
        elif place == "retrocardiac region":
            assert y < heart[:, 0].mean() and heart[:, 2].min() < x < heart[:, 2].max() and z < hilum[1]
        elif place == "costophrenic angle":
            assert abs(x - wall) < 45 and z < hilum[1] - 40
        elif place in ("hilum", "perihilar region"):
            assert np.linalg.norm((point - hilum)[1:]) < 55
        elif place == "suprahilar region":
            assert z > hilum[1] + 5
        elif place == "infrahilar region":
            assert z < hilum[1] - 5
        elif place in ("paratracheal region", "paramediastinal region"):
            assert from_midline < 75 and z > hilum[1]
        elif place == "subpleural region":
            assert abs(x - wall) < 60


def test_a_lesion_moves_with_its_lung():
    moved = ANATOMY._replace(lobe_sites={name: each + 7 for name, each in ANATOMY.lobe_sites.items()})
    for side in SIDES:
        one = lesion(side=side)
        np.testing.assert_allclose(lobes.site(moved, one), lobes.site(ANATOMY, one) + 7)


# --- all opacities


@given(
    st.sampled_from(sorted(lungs.LAYERS)),
    st.sampled_from(SIDES),
    st.sampled_from(SEVERITIES),
    st.sampled_from([None, *PLACES]),
    st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_an_opacity_is_lung_of_its_side_and_nothing_else(finding, side, severity, place, patient):
    layers = lungs.LAYERS[finding](ANATOMY, None, lesion(finding, side, severity, place, f"t/{patient}"))
    for layer in layers:
        assert (layer.finding, layer.side) == (finding, side)
        assert layer.alpha.dtype == np.float32
        assert layer.alpha.shape == tuple(b.stop - b.start for b in layer.box)
        assert layer.alpha.min() >= 0 and (layer.alpha <= ANATOMY.lung[side][layer.box] + 1e-6).all()
    assert sum(layer.alpha.sum() for layer in layers) * VOXEL_ML > 0.5


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("finding", sorted(lungs.LAYERS))
def test_a_worse_grade_is_more_water_in_the_film(finding, side):
    changes = [alone(finding, side, severity)[0].sum() for severity in SEVERITIES]
    assert changes[1] > 1.4 * changes[0] and changes[2] > 1.4 * changes[1]


# --- what makes each of them itself


@pytest.mark.parametrize("name", ["upper lobe", "middle lobe", "lower lobe"])
def test_a_severe_consolidation_has_the_shape_of_its_lobe(name):
    index = {"upper lobe": 0, "middle lobe": 1, "lower lobe": 2}[name]
    sites, names = lobe_of_sites("right")
    at = tuple(np.round(sites / ANATOMY.spacing).astype(int).T)
    mild, severe = (
        put("consolidation", side="right", severity=s, place=name)[at] for s in ("mild", "severe")
    )
    own = names == LOBES["right"][index]
    assert severe[~own].mean() < 0.03
    assert severe[own].mean() > 0.3 and severe[own].mean() > 3 * mild[own].mean()


def test_bronchi_in_a_consolidation_still_hold_air(monkeypatch):
    """Tubes a few mm wide: some millilitres of air, far apart, and nowhere a cavity."""
    severe = dict(side="right", severity="severe", place="lower lobe")
    with_air = [put("consolidation", patient=f"t/{i}", **severe) for i in range(4)]
    monkeypatch.setattr(lungs, "BRONCHI", 0)
    for i, alpha in enumerate(with_air):
        solid = put("consolidation", patient=f"t/{i}", **severe)
        air = solid - alpha
        assert air.min() > -1e-5 and air.max() > 0.6
        assert 0.8 < air.sum() * VOXEL_ML < 0.05 * solid.sum() * VOXEL_ML
        dark = air > 0.4
        assert np.ptp(np.argwhere(dark), axis=0).max() > 12  # voxels: not one hole
        assert not ndimage.minimum_filter(dark, 5).any()  # nowhere 5 voxels wide


def test_an_opacity_is_hazy_and_a_consolidation_is_not():
    for side in SIDES:
        haze, solid = (put(f, side=side, severity="moderate") for f in ("lung opacity", "consolidation"))
        assert haze.max() < 0.7 < 0.85 < solid.max()
        inside = ANATOMY.lung[side] > 0.99
        steps = [
            np.abs(np.diff(alpha, axis=2))[inside[:, :, 1:] & inside[:, :, :-1]] for alpha in (haze, solid)
        ]
        assert steps[0].max() < 0.15 < 0.4 < steps[1].max()


@given(st.sampled_from(SIDES), st.sampled_from(["mild", "moderate"]), st.integers(0, 10**6))
@settings(max_examples=50)
def test_plates_are_thin_and_long(side, severity, patient):
    """Contract of the discoid form: 2-8 mm thick, 40-90 mm long, nearly edge-on to a frontal ray."""
    layers = lungs.atelectasis(
        ANATOMY, None, lesion("atelectasis", side, severity, "mid lung zone", f"t/{patient}")
    )
    plates = [layer for layer in layers if layer.alpha.max() > 0.5]
    assert len(plates) == lungs.PLATES[severity]
    first = plates[0]
    thickness = first.alpha.sum(axis=1).max() * ANATOMY.spacing[1]
    assert 2 < thickness < 8
    assert np.ptp(np.flatnonzero(first.alpha.max(axis=(0, 1)) > 0.5)) * ANATOMY.spacing[2] < 90
    depth = (first.alpha > 0.5).any(axis=(1, 2)).sum() * ANATOMY.spacing[0]
    assert depth > 3 * thickness


@pytest.mark.parametrize(
    ("side", "place"), [("left", "lower lobe"), ("right", "lower lobe"), ("right", "upper lobe"),
                        ("left", "upper lobe"), ("right", "middle lobe")],
)  # fmt: skip
def test_a_collapsed_lobe_is_smaller_than_the_lobe(side, place):
    everywhere = tuple(slice(0, n) for n in ANATOMY.hu.shape)
    name = LOBES[side][{"upper lobe": 0, "middle lobe": 1, "lower lobe": -1}[place]]
    lobe = lobes.share(ANATOMY, side, name, everywhere) * ANATOMY.lung[side]
    alpha = put("atelectasis", side=side, severity="severe", place=place)
    assert 0.1 * lobe.sum() < alpha.sum() < 0.75 * lobe.sum()
    outwards = 1 if side == "left" else -1
    moved = middle(alpha) - middle(lobe)
    if place == "lower lobe":  # inwards; a wedge that is wider below
        assert outwards * moved[2] < -5
        widths = [(alpha[:, int(z / 2.5)] > 0.5).any(axis=0).sum() for z in (195, 150)]
        assert widths[0] < widths[1]
    if (side, place) == ("right", "upper lobe"):  # upwards
        assert moved[1] > 10
    if (side, place) == ("left", "upper lobe"):  # forward
        assert moved[0] > 15


def test_texture_stays_in_place_when_a_lesion_grows():
    small, large = (
        (slice(40, 60), slice(50, 70), slice(60, 90)),
        (slice(30, 80), slice(40, 90), slice(50, 99)),
    )
    inner = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(small, large, strict=True))
    for fineness in (1, 0.45):
        one, other = (lungs.texture(ANATOMY, lesion(), box, fineness) for box in (small, large))
        np.testing.assert_allclose(one, other[inner], atol=1e-5)
    assert abs(lungs.texture(ANATOMY, lesion(), tuple(slice(0, 64) for _ in range(3)), 1).std() - 1) < 0.05
