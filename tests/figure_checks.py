"""What a journal would send back: labels that leave the figure, stand on each other or are too small."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

SMALLEST = 5  # points: the lower limit of Nature and Radiology for lettering

# Machado, Oliveira & Fernandes 2009, table of severity 1.0, on linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# Linear sRGB -> XYZ (IEC 61966-2-1), divided by the white point D65.
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def lab(colour: str, vision: str) -> np.ndarray:
    """CIELAB of a colour "#RRGGBB" as someone with this vision sees it."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = _XYZ @ np.clip(VISIONS[vision] @ linear, 0, 1) / _WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(one: str, other: str, vision: str) -> float:
    """Delta E (CIE 1976) of two colours; about 2 is the least that is noticed, 10 is seen at a glance."""
    return float(np.linalg.norm(lab(one, vision) - lab(other, vision)))


def written(figure: Figure) -> list[tuple[Text, tuple[float, float, float, float]]]:
    """Every text that is drawn, with its extent (x0, y0, x1, y1) in pixels."""
    figure.draw_without_rendering()
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            # Ticks beyond the limits of an axis exist and are not drawn; only Matplotlib itself knows which.
            drawn = {label for tick in axis._update_ticks() for label in tick.findobj(Text)}
            hidden |= set(axis.findobj(Text)) - (
                drawn | {axis.label, axis.offsetText} if ax.axison else set()
            )
    found = []
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible() and text not in hidden:
            box = text.get_window_extent()
            found.append((text, (box.x0, box.y0, box.x1, box.y1)))
    return found


def assert_printable(figure: Figure) -> None:
    """No text is cut off, stands on another text or is smaller than SMALLEST."""
    texts = written(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for text, (x0, y0, x1, y1) in texts:
        inside = x0 > -1 and y0 > -1 and x1 < width + 1 and y1 < height + 1
        assert inside, f"cut off: {text.get_text()!r}"
        assert text.get_fontsize() >= SMALLEST, f"{text.get_fontsize()} pt: {text.get_text()!r}"
    for i, (one, a) in enumerate(texts):
        for other, b in texts[:i]:
            over = min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1
            assert not over, f"{one.get_text()!r} stands on {other.get_text()!r}"
