"""From millimetres of water to the grey levels of a film: attenuation, scatter, quantum noise, tone."""

import numpy as np
from scipy import ndimage

from cxrtrek_lib.simulate.patient import Acquisition

MU = 0.0205  # 1/mm of water at about 70 keV, the mean energy of a 120 kV chest beam
_SCATTER_SIGMA_MM = 38.0


def develop(water_mm: np.ndarray, shot: Acquisition) -> np.ndarray:
    """Film float32 (N, N) in [0, 1], 1 = white = most attenuating, from line integrals in mm of water.

    Processing follows digital radiography: log of the signal, the slow part of the image compressed and the
    fine part kept (so that ribs show over both lung and mediastinum), grey levels set from the image itself;
    the exposure moves the tone curve and sets the noise.
    """
    pixel = shot.field_mm / water_mm.shape[0]
    primary = np.exp(-MU * water_mm)
    share = shot.scatter / (1 - shot.scatter)
    # Scatter is nearly flat: blurred on a coarse grid, it costs nothing.
    coarse = max(1, water_mm.shape[0] // 64)
    small = primary[: len(primary) - len(primary) % coarse, : len(primary) - len(primary) % coarse]
    small = small.reshape(len(small) // coarse, coarse, -1, coarse).mean(axis=(1, 3))
    haze = ndimage.gaussian_filter(small, _SCATTER_SIGMA_MM / (pixel * coarse), mode="nearest")
    signal = primary + share * np.minimum(_enlarge(haze, len(primary)), 0.35)
    quanta = signal * (shot.dose * pixel**2)
    noise = np.random.Generator(np.random.Philox(key=shot.key)).standard_normal(
        signal.shape, dtype=np.float32
    )
    # Poisson in the log domain; above some tens of quanta it is Gaussian.
    dark = -np.log(signal) + noise / np.sqrt(quanta + 4)
    slow = ndimage.gaussian_filter(dark, 22.0 / pixel, mode="nearest")
    fine = dark - ndimage.gaussian_filter(dark, 2.2 / pixel, mode="nearest")
    flat = 0.72 * slow + 1.0 * (dark - slow) + 0.7 * fine
    inner = flat[len(flat) // 8 : -len(flat) // 8, len(flat) // 8 : -len(flat) // 8]
    low, high = np.percentile(inner, (1.5, 98.5))
    grey = 0.55 + shot.contrast * ((flat - low) / max(high - low, 0.6) - 0.5) * 0.74 + shot.brightness
    # A soft shoulder and toe instead of a hard clip.
    return (1 / (1 + np.exp(-4.6 * (grey - 0.5)))).astype(np.float32)


def _enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation of a square image to (size, size)."""
    at = np.clip((np.arange(size) + 0.5) * len(image) / size - 0.5, 0, len(image) - 1)
    taps = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(image))))
    return taps @ image @ taps.T
