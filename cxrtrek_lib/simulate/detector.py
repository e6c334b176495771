"""From millimetres of water to the grey levels of a film: attenuation, scatter, quantum noise, processing.

Lengths are in mm on the detector, so a film of 128 pixels and one of 1024 show the same. Numbers without a
source are ours, set so that grey levels and power spectrum come near those of real films
(benchmarks/realism.py measures by how much they still differ).
"""

import numpy as np
from scipy import ndimage

from cxrtrek_lib.simulate.acquisition import Acquisition

MU = 0.0205  # 1/mm of water at about 70 keV, the mean energy of a 120 kV chest beam
# The CT's voxels blur along the body (slices of 2.5 mm) more than across it (1.4 mm); a sharpened image lends
# the lost contrast back. Limited, so that a device or the skin gets no rim.
_VOXEL_MM, _VOXEL_GAIN, _VOXEL_LIMIT = (1.6, 0.6), 1.4, 2.5  # (down, across), -, mm of water
_SCATTER_MM = 38.0  # standard deviation of the spread of scattered photons
# Behind lung (about 100 mm of water) an acquisition's own share of the radiation is scattered. Behind the
# mediastinum (about 200 mm) it is some 90 % without a grid and more than half with one (Niklason, Sorenson &
# Nelson 1981, Medical Physics, doi 10.1118/1.595027, abstract); the power is set so that both come out.
_LUNG_MM, _SCATTER_POWER = 100.0, 2.2
_SLOW_MM, _SLOW_GAIN = 22.0, 0.74  # what is slower than this is compressed
_FINE_MM, _FINE_GAIN, _FINE_LIMIT = 1.3, 0.55, 0.05  # what is finer is raised, subtle contrast most; nats
# Tone: percentiles of the body (lung, chest wall, abdomen), the logits midway between the first two, logits
# per nat, and the nats between the first and the last above which the slope is lowered (lateral films).
_ANCHORS, _MIDDLE, _SLOPE, _LATITUDE = (8, 55, 95), 0.05, 2.0, 1.6
_THIN = 0.4  # of the attenuation of the thick parts: what has less is air beside the patient, or skin
_BRIGHTNESS = 4.2  # logits per unit of an acquisition's brightness


def develop(water_mm: np.ndarray, shot: Acquisition) -> np.ndarray:
    """Film float32 (N, N) in [0, 1], 1 = white = most attenuating, from line integrals in mm of water.

    Processing is that of digital radiography in its simplest form: the log of the signal, the slow part of
    the image compressed and the fine part raised (so that ribs show over lung and mediastinum), less where
    few photons arrive, then a tone curve of fixed slope, set on the film's own lungs and chest wall. Scatter
    alone makes a bedside film flat. The exposure moves the tone and sets the noise; strengths differ a
    little from film to film, as between machines. Raising subtle contrast more than strong is
    the idea of multiscale contrast amplification (Vuylsteke & Schoeters 1994).
    """
    pixel = shot.field_mm / len(water_mm)
    random = np.random.Generator(np.random.Philox(key=shot.key))
    slow_gain, fine_gain, slope = (_SLOW_GAIN, _FINE_GAIN, _SLOPE) * (
        1 + np.array([0.14, 0.4, 0.12]) * random.uniform(-1, 1, 3)
    )

    signal = _signal(_unblurred(water_mm.astype(np.float32), pixel), shot, pixel)
    noise = random.standard_normal(signal.shape, dtype=np.float32)
    # Poisson in the log domain; above some tens of quanta it is Gaussian.
    dark = -np.log(signal) + noise / np.sqrt(signal * np.float32(shot.dose * pixel**2) + 4)

    slow = _slow(dark, _SLOW_MM / pixel)
    fine = _limited(dark - ndimage.gaussian_filter(dark, _FINE_MM / pixel, mode="nearest"), _FINE_LIMIT)
    flat = dark + (slow_gain - 1) * slow + fine_gain * np.clip(2.15 - 0.6 * slow, 0.2, 1) * fine
    lung, wall, abdomen = np.percentile(_body(dark, flat), _ANCHORS)
    slope *= shot.contrast * min(1.0, _LATITUDE / max(abdomen - lung, 1e-3))
    tone = slope * (flat - (lung + wall) / 2) + _MIDDLE + _BRIGHTNESS * shot.brightness
    tone -= 0.3 * np.logaddexp(0, -2 * (tone + 1.2))  # a steeper toe: air is black on bright films, too
    return (1 / (1 + np.exp(-tone))).astype(np.float32)


def _body(dark: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """(n,) values of `flat` where the patient is, near the film's middle, without air and skin folds."""
    rim = len(flat) // 8
    dark, flat = dark[rim:-rim, rim:-rim], flat[rim:-rim, rim:-rim]
    thick = np.percentile(dark, 90)
    return flat[dark >= min(_THIN * thick, thick)]


def _unblurred(water: np.ndarray, pixel: float) -> np.ndarray:
    """Water image (N, N) with part of the contrast that the voxels of the CT have taken from small things."""
    blurred = ndimage.gaussian_filter(water, [mm / pixel for mm in _VOXEL_MM], mode="nearest")
    return np.maximum(water + _VOXEL_GAIN * _limited(water - blurred, _VOXEL_LIMIT), 0)


def _signal(water: np.ndarray, shot: Acquisition, pixel: float) -> np.ndarray:
    """Detected share of the radiation in air (N, N), float32: primary, blurred by motion, and scattered."""
    primary = np.exp(-np.float32(MU) * water)
    if shot.motion_mm > 0:
        primary = ndimage.gaussian_filter1d(primary, shot.motion_mm / pixel, axis=0, mode="nearest")
    behind_lung = shot.scatter / (1 - shot.scatter)
    scattered = primary * (behind_lung * (water / _LUNG_MM) ** _SCATTER_POWER)
    return primary + _slow(scattered, _SCATTER_MM / pixel)


def _limited(detail: np.ndarray, limit: float) -> np.ndarray:
    """Small values as they are, large ones pressed below the limit."""
    return limit * np.tanh(detail / limit)


def _slow(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur (N, N) by many pixels, on a grid of about 64 x 64 cells: there it costs nothing."""
    size = len(image)
    cells = -(-size // max(1, size // 64))
    edges = np.round(np.linspace(0, size, cells + 1)).astype(int)
    means = np.add.reduceat(np.add.reduceat(image, edges[:-1], axis=0), edges[:-1], axis=1)
    means /= np.outer(np.diff(edges), np.diff(edges))
    small = ndimage.gaussian_filter(means, sigma * cells / size, mode="nearest")
    at = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    taps = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))).astype(np.float32)
    return taps @ small @ taps.T
