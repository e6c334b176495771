"""boxes.py: what readers agree on, by hand; the overlap itself is tested in test_metrics.py."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_by_hand import boxes as boxes_of

from cxrtrek_lib import boxes, tables
from cxrtrek_lib.sources import vindr


def drawn(*rows):
    """Tuples (reader, target, x1, y1, x2, y2) on one film."""
    marked = boxes_of(*(("f", 1, *row[1:]) for row in rows))
    return marked.with_columns(reader=pl.Series([row[0] for row in rows], dtype=pl.String))


def agreed(*rows):
    return boxes.consensus(drawn(*rows), "all").select("target", *tables.CORNERS).rows()


def test_two_readers_who_overlap_are_one_box_and_a_third_elsewhere_is_none():
    found = agreed(
        ("R1", "nodule", 10, 10, 20, 20), ("R2", "nodule", 12, 10, 20, 20), ("R3", "nodule", 70, 70, 80, 80)
    )  # fmt: skip
    assert found == [("nodule", 11, 10, 20, 20)]


def test_a_reader_does_not_agree_with_himself_and_counts_once():
    twice = (("R1", "mass", 10, 10, 20, 20), ("R1", "mass", 10, 10, 20, 22))
    assert agreed(*twice) == []
    assert agreed(*twice, ("R2", "mass", 10, 10, 20, 18)) == [("mass", 10, 10, 20, 19.5)]


def test_findings_and_lesions_are_kept_apart():
    lesions = [(x, y, x + 10, y + 10) for x, y in ((10, 10), (60, 60))]
    found = agreed(
        *((reader, "nodule", *box) for reader in ("R1", "R2", "R3") for box in lesions),
        ("R1", "mass", *lesions[0]),
    )
    assert found == [("nodule", *box) for box in lesions]


def test_just_below_the_overlap_nobody_agrees():
    wide = 100 * boxes.AGREED  # share of a box 100 wide that lies within it
    assert agreed(("R1", "mass", 0, 0, 100, 10), ("R2", "mass", 0, 0, wide + 0.1, 10))
    assert not agreed(("R1", "mass", 0, 0, 100, 10), ("R2", "mass", 0, 0, wide - 0.1, 10))


def test_no_box_gives_no_box():
    nothing = boxes.consensus(drawn(), "all")
    assert nothing.height == 0 and tables.conform("boxes", nothing).height == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("RST"), st.integers(0, 40), st.integers(0, 40)), max_size=9),
    st.randoms(),
)
def test_the_order_of_rows_does_not_matter_and_boxes_lie_within_those_drawn(rows, random):
    marked = [(reader, "mass", x, y, x + 30, y + 30) for reader, x, y in rows]
    found = agreed(*marked)
    random.shuffle(marked)
    assert np.allclose(agreed_corners(found), agreed_corners(agreed(*marked)))
    for _, x1, y1, x2, y2 in found:
        assert min(row[2] for row in marked) <= x1 < x2 <= max(row[4] for row in marked)
        assert min(row[3] for row in marked) <= y1 < y2 <= max(row[5] for row in marked)


def agreed_corners(found):
    return np.array([row[1:] for row in found], dtype=float).reshape(-1, 4)


def test_vindr_boxes_of_three_readers_in_pixels():
    marked = vindr.pixel_boxes()
    assert set(marked.columns) == set(tables.BOXES) and marked["reader"].str.starts_with("vindr: R").all()
    # The file's 36,096 boxes less 2,203 of "Other lesion", which names no finding.
    assert marked.height == 36_096 - 2_203
