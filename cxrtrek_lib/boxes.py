"""How boxes overlap, and the boxes on which several readers of one film agree."""

import numpy as np
import polars as pl
from scipy.sparse.csgraph import connected_components

from cxrtrek_lib.tables import CORNERS

AGREED = 0.4  # intersection over union from which two readers mean the same lesion, as VinDr's own metric


def iou_matrix(gold: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: boxes (N, 4), (M, 4) as x1 y1 x2 y2 -> (N, M) in [0, 1]."""
    low = np.maximum(gold[:, None, :2], answer[None, :, :2])
    high = np.minimum(gold[:, None, 2:], answer[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(-1)
    area_gold, area_answer = (gold[:, 2:] - gold[:, :2]).prod(-1), (answer[:, 2:] - answer[:, :2]).prod(-1)
    return inter / (area_gold[:, None] + area_answer[None] - inter)


def consensus(boxes: pl.DataFrame, reader: str) -> pl.DataFrame:
    """One box where at least two readers boxed the same finding at the same place, as tables.BOXES rows.

    boxes   tables.BOXES: of each reader, in any order; several boxes of one reader and finding are allowed
    reader  what the column `reader` of the result says
    Boxes of two readers that overlap by AGREED or more are of one lesion (single linkage). Its box is the
    mean over readers of each reader's mean corners, so that a reader who drew it twice counts once.
    """
    agreed = []
    for (sample_id, image_id, target), group in boxes.group_by(
        "sample_id", "image_id", "target", maintain_order=True
    ):
        readers, corners = group["reader"].to_numpy(), group.select(CORNERS).to_numpy()
        linked = (iou_matrix(corners, corners) >= AGREED) & (readers[:, None] != readers)
        n_lesions, lesion_of = connected_components(linked, directed=False)
        for lesion in (lesion_of == n for n in range(n_lesions)):
            if len(set(readers[lesion])) > 1:
                mine = group.filter(lesion).group_by("reader").agg(pl.col(CORNERS).mean()).select(CORNERS)
                agreed.append((sample_id, image_id, target, *mine.mean().row(0)))
    schema = {name: boxes.schema[name] for name in ("sample_id", "image_id", "target", *CORNERS)}
    rows = pl.DataFrame(agreed, schema=schema, orient="row").with_columns(
        laterality=pl.lit(None, dtype=pl.String), reader=pl.lit(reader)
    )
    return rows.select(boxes.columns).sort("sample_id", "image_id", "target", *CORNERS)
