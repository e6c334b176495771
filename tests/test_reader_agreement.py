"""reader_agreement.py: F1 of readers against values worked out by hand."""

import polars as pl
import pytest
from tables_by_hand import boxes as boxes_of

from cxrtrek_lib import reader_agreement, transfer_tasks

HERE, NEAR, THERE = (10, 10, 50, 50), (10, 10, 50, 46), (60, 60, 90, 90)


def marks(*rows):
    """Tuples (film, finding, reader, box)."""
    table = boxes_of(*((film, 1, finding, *box) for film, finding, _, box in rows))
    return table.with_columns(reader=pl.Series([f"vindr: {reader}" for *_, reader, _ in rows]))


def test_f1_of_pairs_of_readers_by_hand():
    found = reader_agreement.agreement(
        marks(
            ("a", "nodule or mass", "R1", HERE), ("a", "nodule or mass", "R2", NEAR),  # agree on both
            ("b", "nodule or mass", "R1", HERE), ("b", "nodule or mass", "R2", THERE),  # on the label only
            ("c", "nodule or mass", "R3", HERE),
            *(("c", "pneumothorax", reader, HERE) for reader in ("R1", "R2", "R3")),
        ),
        iou=0.4, n_boot=50, seed=0,
    )  # fmt: skip
    score = {(row["task"], row["metric"]): row for row in found}
    # Nodule: 5 marks, each in two pairs = 10 marked; 2 pairs of readers share a label (4), 1 pair a box (2).
    assert score["classification", "F1, nodule or mass"]["score"] == pytest.approx(4 / 10)
    assert score["detection", "F1 of boxes at IoU 0.4, nodule or mass"]["score"] == pytest.approx(2 / 10)
    assert score["classification", "F1, pneumothorax"]["score"] == 1
    mean = score["classification", f"F1, {transfer_tasks.MEAN}"]
    assert mean["score"] == pytest.approx(0.7) and mean["headline"] and mean["n"] == 3
    assert mean["low"] <= mean["score"] <= mean["high"] and mean["asked"] == reader_agreement.READERS
