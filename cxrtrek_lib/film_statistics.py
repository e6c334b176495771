"""How films look, in numbers: grey levels, power spectrum, sharpness; how far two sets of films lie apart.

Every film is first resized to SIDE pixels (images.resize), so that sets of other sizes compare. Frequencies
are cycles per film width: films of different fields compare by what a reader of the picture sees.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from cxrtrek_lib import images
from cxrtrek_lib.inference_stats import cluster_weights, interval

SIDE = 224
BINS = 64
# Octaves of spatial frequency, cycles per film width; below 2 the window is in the way, 112 is the limit.
OCTAVES = ((2, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 113))
_BLOCK = 16  # pixels: a patch about as wide as a rib and its gap


class Looks(NamedTuple):
    """A set of n films in numbers. Rows of all arrays are films.

    patients    (n,) of str: films of one patient are not independent
    histograms  (n, BINS) share of the pixels per bin of [0, 1]
    spectra     (n, SIDE // 2 + 1) power per frequency; white noise of variance v has v at all of them
    numbers     {name: (n,)} mean and SD of the grey levels (0 to 1), share of pixels that are clipped (first
                or last of 256 levels), local contrast (median SD of patches, grey levels) and sharpness
                (median over patches of root mean square gradient / SD, per pixel)
    """

    patients: list[str]
    histograms: np.ndarray
    spectra: np.ndarray
    numbers: dict[str, np.ndarray]

    @property
    def octaves(self) -> np.ndarray:
        """(n, len(OCTAVES)) mean power of each octave, dB against a variance of 1."""
        bands = [self.spectra[:, low:high].mean(axis=1) for low, high in OCTAVES]
        return 10 * np.log10(np.maximum(np.stack(bands, axis=1), 1e-12))


def looks(films: Sequence[np.ndarray], patients: Sequence[str]) -> Looks:
    """Films float (H, W) in [0, 1], 1 = white, and the patient of each. Raises ValueError without films."""
    if len(films) == 0 or len(films) != len(patients):
        raise ValueError(
            f"{len(films)} films of {len(patients)} patients: give one patient per film, at least 1"
        )
    small = [images.resize(film, SIDE) for film in films]
    return Looks(
        list(patients),
        np.array([histogram(film) for film in small]),
        np.array([spectrum(film) for film in small]),
        {name: np.array([measure(film) for film in small]) for name, measure in _NUMBERS.items()},
    )


def histogram(film: np.ndarray) -> np.ndarray:
    """(BINS,) share of the pixels in each of BINS equal bins of [0, 1]."""
    counts, _ = np.histogram(film, BINS, (0, 1))
    return counts / film.size


def power(film: np.ndarray) -> np.ndarray:
    """(N, N) power of a square film per 2-D frequency (numpy.fft order): its mean is the film's variance.

    The film, less its mean, under a Hann window whose mean square is 1: the edges of a film do not meet.
    """
    size = len(film)
    edge = np.hanning(size + 2)[1:-1]
    window = np.outer(edge, edge) / np.mean(edge**2)
    centred = film - np.average(film, weights=window)
    return np.abs(np.fft.fft2(centred * window)) ** 2 / size**2


def spectrum(film: np.ndarray) -> np.ndarray:
    """(N // 2 + 1,) mean power over all directions at 0, 1, ... N // 2 cycles per film width."""
    cycles = np.fft.fftfreq(len(film), 1 / len(film))
    ring = np.rint(np.hypot(cycles[:, None], cycles)).astype(int).ravel()
    sums, counts = np.bincount(ring, power(film).ravel()), np.bincount(ring)
    return (sums / counts)[: len(film) // 2 + 1]


def clipped(film: np.ndarray) -> float:
    """Share of the pixels in the first or last of 256 grey levels."""
    level = np.rint(255 * film)
    return float(np.mean((level <= 0) | (level >= 255)))


def local_contrast(film: np.ndarray) -> float:
    """Median over patches of 16 x 16 pixels of the grey levels' standard deviation."""
    return float(np.median(_patches(film).std(axis=(1, 2))))


def sharpness(film: np.ndarray) -> float:
    """Median over patches of the root mean square gradient over the standard deviation, 1/pixel.

    A ramp gives 0.22 (SD of 16 steps: 4.6), white noise 1.0 by central differences.
    """
    down, right = np.gradient(film)
    slope = np.sqrt(_patches(down**2 + right**2).mean(axis=(1, 2)))
    spread = _patches(film).std(axis=(1, 2))
    seen = spread > 1 / 255  # black borders have no sharpness
    return float(np.median(slope[seen] / spread[seen])) if seen.any() else 0.0


def _patches(film: np.ndarray) -> np.ndarray:
    """(n, 16, 16) patches of a film, side by side; what is left at the right and below is cut."""
    rows, columns = (n // _BLOCK for n in film.shape)
    cut = film[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    return cut.swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK)


_NUMBERS = {
    "mean grey level": lambda film: float(film.mean()),
    "SD of grey levels": lambda film: float(film.std()),
    "clipped pixels": clipped,
    "local contrast": local_contrast,
    "sharpness": sharpness,
}


def histogram_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Wasserstein-1 distance, grey levels of 0 to 1, between two histograms (BINS,) that sum to 1.

    In one dimension it is the area between the cumulative histograms (Villani 2003, section 2.2).
    """
    return float(np.abs(np.cumsum(first - second)).sum() / len(first))


def differences(first: Looks, second: Looks) -> dict[str, float]:
    """{statistic: second against first}: distance of the pooled histograms, differences of medians."""
    distance = histogram_distance(first.histograms.mean(axis=0), second.histograms.mean(axis=0))
    one, other = _per_film(first), _per_film(second)
    return {
        "grey levels": distance,
        **{name: float(np.median(other[name]) - np.median(one[name])) for name in one},
    }


def _per_film(films: Looks) -> dict[str, np.ndarray]:
    """{statistic: value of every film} of what is compared by its median."""
    octaves = {
        f"{low}-{min(high, SIDE // 2)} cycles": films.octaves[:, i] for i, (low, high) in enumerate(OCTAVES)
    }
    return {**films.numbers, **octaves}


def _part(films: Looks, rows: np.ndarray) -> Looks:
    """The films of these rows, a row as often as it is named."""
    return Looks(
        [films.patients[i] for i in rows],
        films.histograms[rows],
        films.spectra[rows],
        {name: values[rows] for name, values in films.numbers.items()},
    )


def _resampled(films: Looks, n_boot: int, seed: int):
    """Bootstrap draws of a set: whole patients, with replacement."""
    _, patient = np.unique(films.patients, return_inverse=True)
    for weights in cluster_weights(patient.max() + 1, n_boot, seed):
        for times in weights.astype(int):
            yield _part(films, np.repeat(np.arange(len(patient)), times[patient]))


def _halves(films: Looks, n_splits: int, seed: int):
    """Random halves of a set, no patient in both."""
    names, patient = np.unique(films.patients, return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            "real films of one patient: a baseline needs two halves, give films of 2 patients or more"
        )
    random = np.random.default_rng(seed)
    for _ in range(n_splits):
        first = np.isin(patient, random.permutation(len(names))[: len(names) // 2])
        yield _part(films, np.flatnonzero(first)), _part(films, np.flatnonzero(~first))


def compare(real: Looks, simulated: Looks, *, n_boot: int = 500, seed: int = 0) -> pl.DataFrame:
    """One row per statistic: what real and simulated films have, their difference, and the baseline.

    Columns: statistic, unit, real, real_p10, real_p90, simulated, simulated_p10, simulated_p90 (medians and
    10th and 90th percentile between films; null for the grey levels, whose histograms are pooled),
    difference (simulated - real; for the grey levels the Wasserstein distance) with its 95 % interval low,
    high (bootstrap of patients in both sets), and baseline: the 95th percentile of |difference| between two
    random halves of the real films, no patient in both. What is below it is no difference that these films
    could show.
    """
    found = differences(real, simulated)
    pairs = zip(_resampled(real, n_boot, seed), _resampled(simulated, n_boot, seed + 1), strict=True)
    drawn = [differences(*pair) for pair in pairs]
    halves = [differences(*pair) for pair in _halves(real, n_boot, seed + 2)]
    sets = {"real": _per_film(real), "simulated": _per_film(simulated)}
    rows = []
    for name, value in found.items():
        row = {"statistic": name, "unit": "dB" if "cycles" in name else _UNITS.get(name, "grey levels 0-1")}
        for label, films in sets.items():
            spread = np.percentile(films[name], (50, 10, 90)).tolist() if name in films else [None] * 3
            row |= dict(zip((label, f"{label}_p10", f"{label}_p90"), spread, strict=True))
        low, high = interval(np.array([draw[name] for draw in drawn]))
        baseline = float(np.percentile(np.abs([half[name] for half in halves]), 95))
        rows.append(row | {"difference": value, "low": low, "high": high, "baseline": baseline})
    return pl.DataFrame(rows, infer_schema_length=None)


_UNITS = {"clipped pixels": "share", "sharpness": "1/pixel"}
