"""How far VinDr-CXR's three readers of a film agree: about what a model can be expected to reach."""

from itertools import combinations

import numpy as np
import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib import also_reported
from cxrtrek_lib.sources import vindr
from cxrtrek_lib.tables import CORNERS
from cxrtrek_lib.transfer_scores import mean_over, resampled
from cxrtrek_lib.transfer_tasks import MEAN, compared

READERS = "two readers"  # stands where a model's rows say how it was asked
ORIGIN = "real (annotation table only)"


def agreement(marks: pl.DataFrame, *, iou: float, n_boot: int, seed: int) -> list[dict]:
    """Rows of the transfer table: F1 of one reader's labels and boxes against another's, by finding and mean.

    marks  tables.BOXES of single readers, of films with vindr.READERS readers each; a unit of the corners is
           that of the film, pixels or percent. Films that nobody marked add nothing to F1
    F1 is 2 x what two readers share / what both marked, over all pairs of readers and films; boxes are shared
    from `iou` on, one to one. It is symmetric, so no reader is the truth. Intervals resample films.
    """
    films, owner = np.unique(marks["sample_id"].to_numpy(), return_inverse=True)
    marks = marks.with_columns(film=pl.Series(owner))
    names = sorted(marks["target"].unique())
    shared = np.zeros((len(films), len(names), 2))  # labels, boxes: twice what pairs of readers share
    marked = np.zeros_like(shared)  # and what both readers of the pairs marked, together
    groups = marks.group_by("film", "target", maintain_order=True)
    for (film, target), group in tqdm(
        groups, total=marks.select("film", "target").n_unique(), desc="readers"
    ):
        column = names.index(target)
        boxes = [part.select(CORNERS).rows() for part in group.partition_by("reader", maintain_order=True)]
        hits = sum(sum(also_reported.box_hits(list(a), list(b), iou)) for a, b in combinations(boxes, 2))
        shared[film, column] = len(boxes) * (len(boxes) - 1), 2 * hits
        marked[film, column] = np.array([len(boxes), group.height]) * (vindr.READERS - 1)

    def f1(weights: np.ndarray) -> np.ndarray:
        flat = (weights @ each.reshape(len(films), -1) for each in (shared, marked))
        with np.errstate(invalid="ignore"):
            return np.divide(*flat).reshape(-1, len(names), 2)

    draws = resampled(f1, len(films), n_boot=n_boot, seed=seed)
    rows = []
    for place, (task, metric) in enumerate(
        (("classification", "F1"), ("detection", f"F1 of boxes at IoU {iou}"))
    ):
        for column, name in enumerate([*names, MEAN]):
            drawn = draws[:, column, place] if name != MEAN else mean_over(list(draws[:, :, place].T))
            films_of = marks if name == MEAN else marks.filter(pl.col("target") == name)
            n = films_of["sample_id"].n_unique()
            rows += [
                {"task": task, **row, "image_origin": ORIGIN}
                for row in compared(
                    f"{metric}, {name}", {READERS: drawn}, n=n, n_patients=n, headline=name == MEAN
                )
            ]
    return rows
