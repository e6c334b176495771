"""film_statistics.py: spectra and distances against values worked out by hand and by SciPy."""

import importlib.util

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, signal, stats

from cxrtrek_lib import film_statistics as fs
from cxrtrek_lib import paths

LARGE = np.full((224, 224), 0.4, dtype=np.float32)
NOISE = np.random.default_rng(7).normal(0.5, 0.05, (224, 224))


def film(number, shift=0.0):
    """A blurred noise film, as float in [0, 1]."""
    noise = np.random.default_rng(number).normal(size=(64, 64))
    smooth = ndimage.gaussian_filter(noise, 3, mode="wrap")
    return np.clip(0.5 + shift + 0.1 * smooth / smooth.std(), 0, 1).astype(np.float32)


def test_white_noise_is_flat_at_its_variance():
    power = fs.spectrum(NOISE)
    assert len(power) == 113
    bands = [power[low:high].mean() for low, high in fs.OCTAVES[1:]]
    np.testing.assert_allclose(bands, 0.05**2, rtol=0.2)
    assert power[20:].mean() == pytest.approx(0.05**2, rel=0.02)


@pytest.mark.parametrize(("cycles", "axis"), [(12, 0), (40, 1)])
def test_a_cosine_is_one_peak(cycles, axis):
    """Amplitude A: variance A^2 / 2, all of it within a cycle of its frequency (the window's main lobe)."""
    wave = 0.5 + 0.2 * np.cos(2 * np.pi * cycles * np.arange(224) / 224)
    power = fs.power(np.broadcast_to(wave[:, None] if axis == 0 else wave, (224, 224)))
    assert power.mean() == pytest.approx(0.2**2 / 2, rel=0.01)
    near = power[cycles - 1 : cycles + 2, -1:] if axis == 0 else power[-1:, cycles - 1 : cycles + 2]
    spectrum = fs.spectrum(np.broadcast_to(wave[:, None] if axis == 0 else wave, (224, 224)))
    assert spectrum.argmax() == cycles and near.max() < power.max()
    assert spectrum[: cycles - 2].sum() + spectrum[cycles + 3 :].sum() < 1e-3 * spectrum.sum()


def test_parseval():
    """The mean of the power is the mean square of the windowed film; SciPy's window, not ours."""
    window = np.outer(*[signal.windows.hann(226)[1:-1]] * 2)
    centred = NOISE - (NOISE * window).sum() / window.sum()
    expected = np.mean((centred * window) ** 2) / np.mean(window**2)
    assert fs.power(NOISE).mean() == pytest.approx(expected, rel=1e-9)


@given(st.floats(0.1, 4), st.floats(-0.2, 0.2))
@settings(max_examples=20)
def test_contrast_moves_the_octaves_and_brightness_does_not(gain, shift):
    one = fs.looks([film(1)], ["a"])
    other = fs.Looks(
        ["a"], one.histograms, np.array([fs.spectrum(gain * fs.images.resize(film(1), 224) + shift)]), {}
    )
    np.testing.assert_allclose(other.octaves - one.octaves, 20 * np.log10(gain), atol=1e-3)


def test_histogram_is_a_share_per_bin():
    half = np.full((10, 10), 0.26)
    half[:5] = 0.99
    counted = fs.histogram(half)
    assert counted.sum() == pytest.approx(1) and counted[int(0.26 * 64)] == counted[-1] == 0.5


@given(st.integers(0, 10**6))
def test_histogram_distance_is_wassersteins(number):
    random = np.random.default_rng(number)
    one, other = random.dirichlet(np.ones(fs.BINS), 2)
    centres = (np.arange(fs.BINS) + 0.5) / fs.BINS
    expected = stats.wasserstein_distance(centres, centres, one, other)
    assert fs.histogram_distance(one, other) == pytest.approx(expected, abs=1e-12)


def test_numbers_by_hand():
    ramp = np.broadcast_to(np.arange(224) / 224, (224, 224))
    # 16 steps of 1: SD sqrt((16^2 - 1) / 12), gradient 1
    assert fs.sharpness(ramp) == pytest.approx(1 / np.sqrt(255 / 12), rel=1e-6)
    assert fs.local_contrast(ramp) == pytest.approx(np.sqrt(255 / 12) / 224, rel=1e-6)
    # white noise: a central difference has half the variance, two directions
    assert fs.sharpness(NOISE) == pytest.approx(1, rel=0.05)
    # blurred by sigma 1, neighbours two pixels apart correlate by exp(-2^2 / 4)
    blurred = ndimage.gaussian_filter(NOISE, 1)
    assert fs.sharpness(blurred) == pytest.approx(np.sqrt(1 - np.exp(-1)), rel=0.05)
    assert fs.local_contrast(NOISE) == pytest.approx(0.05, rel=0.03)
    assert fs.sharpness(np.zeros((224, 224))) == 0
    assert fs.clipped(np.array([[0, 0.4 / 255], [0.5, 254.6 / 255]])) == 0.75


def test_a_set_against_itself_and_against_brighter_films():
    films, names = [film(i) for i in range(24)], [f"p{i}" for i in range(24)]
    same = fs.looks(films, names)
    table = fs.compare(same, same, n_boot=40)
    assert table["difference"].abs().max() == 0 and (table["baseline"] > 0).sum() >= 10
    brighter = fs.looks([film(i, 0.15) for i in range(24)], names)
    row = fs.compare(same, brighter, n_boot=40).row(0, named=True)
    assert row["statistic"] == "grey levels" and row["difference"] == pytest.approx(0.15, abs=0.01)
    assert row["low"] < 0.15 < row["high"] + 0.01 and row["baseline"] < 0.05
    octave = fs.compare(same, brighter, n_boot=40).filter(statistic="8-16 cycles").row(0, named=True)
    assert abs(octave["difference"]) < 0.5 and octave["unit"] == "dB"


def test_films_of_one_patient_are_not_independent():
    """Thirty copies of three patients' films say no more than one of each: the interval stays wide."""
    few = fs.looks([film(i) for i in range(3)], ["a", "b", "c"])
    many = fs.looks([film(i) for i in range(3)] * 10, ["a", "b", "c"] * 10)
    reference = fs.looks([film(9)], ["z"])
    for name in ("mean grey level", "8-16 cycles"):
        wide = [
            fs.compare(films, reference, n_boot=100).filter(statistic=name).row(0, named=True)
            for films in (few, many)
        ]
        widths = [row["high"] - row["low"] for row in wide]
        assert widths[1] > 0.8 * widths[0] > 0


def test_no_films_and_one_patient_are_one_line():
    with pytest.raises(ValueError, match="0 films"):
        fs.looks([], [])
    one = fs.looks([film(1), film(2)], ["a", "a"])
    with pytest.raises(ValueError, match="one patient"):
        fs.compare(one, one, n_boot=2)


def test_the_benchmark_compares_a_folder_with_simulated_films(scratch, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("realism", paths.ROOT / "benchmarks" / "realism.py")
    realism = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(realism)
    asked = []
    monkeypatch.setattr(realism, "film", lambda study, size: (asked.append(study), [LARGE, {}])[1])
    monkeypatch.setattr(realism, "compare", lambda *sets: fs.compare(*sets, n_boot=10))
    (scratch / "real").mkdir()
    for i in range(6):
        levels = np.round(255 * np.kron(film(90 + i), np.ones((4, 4)))).astype(np.uint8)
        Image.fromarray(levels).save(scratch / "real" / f"{i // 2}_{i}.png")
    (scratch / "real" / "7_1.png").write_bytes(b"no film")
    out, sheet = scratch / "out", scratch / "sheet"
    realism.main(
        [f"--real={scratch / 'real'}", "--films=10", "--ap-share=0.3", f"--out={out}", f"--sheet={sheet}"]
    )
    told = capsys.readouterr().out
    assert "left out 1 of 7" in told and str(sheet) in told and "6 real films of 3 patients" in told
    assert [study["view"] for study in asked].count("AP") == 3
    assert any(study["findings"] for study in asked) and not all(study["findings"] for study in asked)
    names = {f"film_statistics.{kind}" for kind in ("pdf", "png", "csv", "txt")}
    assert {path.name for path in out.iterdir()} == names | {"comparison.csv", "comparison.txt"}
    assert pl.read_csv(out / "comparison.csv").height == 12
    with Image.open(sheet / "real_and_simulated.png") as picture:
        assert picture.size == (5 * 224, 4 * 224)  # real, simulated, the sixth pair below
