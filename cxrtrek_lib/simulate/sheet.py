"""Contact sheets of simulated films; apart from the figure code, whose changes must not re-render films."""

import numpy as np
from PIL import Image, ImageDraw

YELLOW = (240, 228, 66)
_TILE, _HEAD = 288, 30  # pixels: side of a film on the sheet, height of its two lines of text


def contact_sheet(
    films: list[np.ndarray], titles: list[str], boxes: list[list[list[float]]], columns: int = 4
) -> Image.Image:
    """The films side by side, their boxes in yellow, SIMULATED written into each.

    films   float32 (H, W) in [0, 1], square
    titles  one per film, at most two lines
    boxes   per film, [x1, y1, x2, y2] in percent
    Raises ValueError when there is no film.
    """
    if not films:
        raise ValueError("contact sheet: no film to show; the cohort is empty")
    columns = min(columns, len(films))
    rows = -(-len(films) // columns)
    sheet = Image.new("RGB", (columns * _TILE, rows * (_TILE + _HEAD)), "white")
    for i, (film, title, marked) in enumerate(zip(films, titles, boxes, strict=True)):
        tile = Image.fromarray(np.round(film * 255).astype(np.uint8)).resize((_TILE, _TILE)).convert("RGB")
        draw = ImageDraw.Draw(tile)
        for box in marked:
            draw.rectangle([value * _TILE / 100 for value in box], outline=YELLOW)
        draw.text((4, _TILE - 14), "SIMULATED", fill="white", stroke_width=1, stroke_fill="black")
        x, y = (i % columns) * _TILE, (i // columns) * (_TILE + _HEAD)
        ImageDraw.Draw(sheet).multiline_text((x + 4, y + 2), title, fill="black", spacing=2)
        sheet.paste(tile, (x, y + _HEAD))
    return sheet
