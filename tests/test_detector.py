"""simulate/detector.py: grey levels against physics worked out by hand, on films of simple shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib import tables
from cxrtrek_lib.simulate import acquisition, detector

STEADY = {"motion_mm": 0.0, "field_mm": 345.0}


def shot(name="t/p/s", view="PA", exposure="adequate", **more):
    return acquisition.acquisition(0, name, view, exposure)._replace(**{**STEADY, **more})


def grid(size):
    """(down, right) mm from the film's middle of every pixel."""
    axis = (np.arange(size) + 0.5) * 345 / size - 172.5
    return axis[:, None], axis[None]


def soft_edge(distance, width=3.0):
    return 1 / (1 + np.exp(distance / width))


def chest(size):
    """Millimetres of water (size, size) of a chest of smooth shapes: air, trunk, two lungs, mediastinum."""
    down, right = grid(size)
    trunk = 205 * soft_edge(np.abs(right) - 150) * np.ones_like(down)
    lungs = sum(
        soft_edge(20 * (np.hypot((right - side * 72) / 48, (down + 20) / 105) - 1)) for side in (-1, 1)
    )
    return (trunk - 105 * lungs).astype(np.float32)


def stripes(size, period_mm, axis, amplitude=0.5, base=100.0):
    wave = amplitude * np.sin(2 * np.pi * grid(size)[axis] / period_mm)
    return np.broadcast_to(base + wave, (size, size)).astype(np.float32)


def amplitude(film, period_mm, axis):
    """Half the swing of stripes along an axis: the Fourier coefficient of the film's middle."""
    size = len(film)
    down, right = grid(size)
    middle = slice(size // 4, -size // 4)
    profile = film.mean(axis=1 - axis)[middle]
    wave = np.exp(2j * np.pi * (down if axis == 0 else right).ravel()[middle] / period_mm)
    return 2 * abs(np.mean((profile - profile.mean()) * wave))


def test_a_film_is_grey_levels_and_repeats_itself():
    film = detector.develop(chest(160), shot())
    assert film.dtype == np.float32 and film.shape == (160, 160)
    assert film.min() >= 0 and film.max() <= 1
    np.testing.assert_array_equal(film, detector.develop(chest(160), shot()))
    assert np.abs(film - detector.develop(chest(160), shot("t/p/other"))).max() > 0.005


def test_tissue_is_white_lung_dark_and_air_black():
    film = detector.develop(chest(160), shot())
    air, lung, trunk, middle = film[60:90, 1:4], film[60:90, 40:52], film[130:150, 40:120], film[60:90, 78:82]
    assert air.mean() < 0.1 < 0.25 < lung.mean() < 0.5 < 0.7 < middle.mean()
    assert 0.75 < trunk.mean() < 0.95
    body = film[:, 20:140]
    assert np.mean((body < 1 / 255) | (body > 254 / 255)) < 0.001  # real films: median 0


@given(st.integers(-55, 55), st.sampled_from([-72, 0, 72]), st.floats(2, 12), st.sampled_from(["PA", "AP"]))
@settings(max_examples=12)
def test_more_water_is_whiter(down_mm, right_mm, thickness, view):
    """Nodules on lung and mediastinum, on any film: the nodule gains, nothing beside it loses much."""
    down, right = grid(160)
    distance = np.hypot(down - down_mm, right - right_mm)
    lesion = thickness * soft_edge(distance - 7, 1.2)
    this = shot(f"t/{down_mm}", view, dose=1e9)
    change = detector.develop(chest(160) + lesion.astype(np.float32), this) - detector.develop(
        chest(160), this
    )
    assert change.max() == change[distance < 7].max() > 0.0005 * thickness
    assert change.min() > -0.35 * change.max()


def test_noise_follows_the_quanta():
    """Four times the dose halves the noise; behind 50 mm more water it is exp(MU * 50 / 2) times as high."""
    spread = {}
    for dose in (2e4, 8e4):
        for water in (30.0, 80.0):
            flat = np.full((160, 160), water, dtype=np.float32)
            still = shot(scatter=0.0, dose=dose)
            spread[dose, water] = (
                detector.develop(flat, still) - detector.develop(flat, still._replace(dose=1e12))
            ).std()
    assert spread[2e4, 30.0] / spread[8e4, 30.0] == pytest.approx(2, rel=0.05)
    assert spread[2e4, 80.0] / spread[2e4, 30.0] == pytest.approx(np.exp(detector.MU * 25), rel=0.05)


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_scatter_takes_the_contrast_behind_the_mediastinum(view):
    """Niklason et al. 1981: without a grid 90 % of the radiation there is scatter, with one over half."""
    kept = {}
    for thickness in (100.0, 205.0):
        swing = []
        for scatter in (0.0, 0.5 if view == "AP" else 0.24):
            film = detector.develop(
                stripes(224, 20, 0, base=thickness), shot(view=view, scatter=scatter, dose=1e12)
            )
            swing.append(amplitude(film, 20, 0) / np.mean(film * (1 - film)))  # slope of the tone curve out
        kept[thickness] = swing[1] / swing[0]
    low, high = (0.1, 0.25) if view == "AP" else (0.25, 0.5)
    assert low < kept[205.0] < high < kept[100.0]


@pytest.mark.parametrize("sigma", [0.8, 1.5])
def test_motion_blurs_along_the_body_alone(sigma):
    """Stripes of period p keep exp(-2 (pi sigma / p)^2) of their contrast: the transfer of a Gaussian."""
    for axis, expected in ((0, np.exp(-2 * (np.pi * sigma / 6) ** 2)), (1, 1.0)):
        films = [
            detector.develop(stripes(320, 6, axis), shot(dose=1e12, motion_mm=motion))
            for motion in (0.0, sigma)
        ]
        still, moved = (amplitude(film, 6, axis) for film in films)
        assert moved / still == pytest.approx(expected, abs=0.02)


def test_films_of_all_sizes_look_alike():
    large = detector.develop(chest(1024), shot(dose=1e9))
    for size in (128, 256, 512):
        film, step = detector.develop(chest(size), shot(dose=1e9)), 1024 // size
        reduced = large.reshape(size, step, size, step).mean(axis=(1, 3))
        assert np.abs(film - reduced).mean() < 0.006 and np.abs(film - reduced).max() < 0.05


def test_exposure_can_be_told_and_adequate_films_differ_in_tone():
    means = {
        exposure: [
            detector.develop(chest(128), shot(f"t/{i}/1", "AP" if i % 2 else "PA", exposure)).mean()
            for i in range(14)
        ]
        for exposure in tables.EXPOSURES
    }
    under, adequate, over = (means[name] for name in ("underexposed", "adequate", "overexposed"))
    assert min(under) > np.median(adequate) + 0.04 and max(over) < np.median(adequate) - 0.04
    wrong = sum(u <= a for u in under for a in adequate) + sum(o >= a for o in over for a in adequate)
    assert wrong <= 0.03 * 2 * 14**2
    assert 0.01 < np.std(adequate) < 0.06


def test_a_device_has_no_dark_rim():
    """The film's change 1 to 3 mm beside metal is that 7 to 10 mm beside it: unsharp masks have limits."""
    down, right = grid(512)
    beyond = np.maximum(np.abs(down + 40), np.abs(right + 72)) - 22  # mm outside a square of 44 mm
    metal = chest(512) + 95 * (beyond < 0).astype(np.float32)
    change = detector.develop(metal, shot(dose=1e9)) - detector.develop(chest(512), shot(dose=1e9))
    straight = np.minimum(np.abs(down + 40), np.abs(right + 72)) < 15  # not at the corners
    rim, around = (change[straight & (beyond > low) & (beyond < high)] for low, high in ((1, 3), (7, 10)))
    assert change[beyond < 0].min() > 0.3
    assert rim.mean() > around.mean() - 0.05 and rim.min() > around.min() - 0.06


def test_a_film_of_air_is_a_film():
    """Nothing to set the tone by: no error, no NaN."""
    assert np.isfinite(detector.develop(np.zeros((128, 128), dtype=np.float32), shot())).all()
