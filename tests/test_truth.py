"""simulate/truth.py: boxes and visibility by hand, and what is asserted of findings beside each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrtrek_lib.simulate import truth
from cxrtrek_lib.simulate.catalogue import SHOWN
from cxrtrek_lib.simulate.plan import Planned

# A chest in percent: the patient's right is on the left of the film.
REGIONS = {
    "right lung": [10.0, 10.0, 45.0, 80.0],
    "left lung": [55.0, 10.0, 90.0, 80.0],
    "heart": [35.0, 45.0, 75.0, 80.0],
    **{
        f"{side} {zone} lung zone": [x1, 10.0 + 23 * i, x2, 33.0 + 23 * i]
        for side, x1, x2 in (("right", 10.0, 45.0), ("left", 55.0, 90.0))
        for i, zone in enumerate(("upper", "mid", "lower"))
    },
    "right costophrenic angle": [8.0, 70.0, 20.0, 82.0],
    "left costophrenic angle": [80.0, 70.0, 92.0, 82.0],
}
BOX = {"left": [60.0, 60.0, 70.0, 70.0], "right": [20.0, 15.0, 30.0, 25.0], None: [15.0, 20.0, 85.0, 70.0]}


def tell(*rows, view="PA", regions=REGIONS, hidden=(), clipped=()):
    """What is told of (finding, laterality, severity), seen by 20 mm; of hidden (finding, side) by 1 mm."""
    plans = [Planned(name, side, severity, None, ()) for name, side, severity in rows]
    seen = {
        (each.finding, side): (1.0 if (each.finding, side) in hidden else 20.0, BOX[side])
        for each in plans
        for side in each.sides()
    }
    shown, unseen, undecided = truth.told(plans, seen, regions, view, clipped)
    names = [row["finding"] for row in [*shown, *unseen, *undecided]]
    assert sorted(names) == sorted(SHOWN)  # each finding once, in one of the three lists
    present = {row["finding"]: row for row in shown if row["status"] == "present"}
    return present, [row["finding"] for row in unseen], {row["finding"]: row["because"] for row in undecided}


def test_nothing_planned_everything_absent():
    assert tell() == ({}, [], {})


def test_a_shown_finding_is_present_where_it_was_put():
    present, unseen, undecided = tell(("nodule", "left", None))
    assert present["nodule"]["boxes"] == {"left": BOX["left"]} and present["nodule"]["implied_by"] == []
    assert present["nodule"]["visibility_mm"] == 20.0 and present["nodule"]["location"] == "lower lung zone"
    assert not unseen and not undecided


def test_a_child_brings_its_parent():
    present, _, _ = tell(("consolidation", "right", "mild"))
    parent = present["lung opacity"]
    assert parent["laterality"] == "right" and parent["boxes"] == {"right": BOX["right"]}
    assert parent["severity"] is None and parent["implied_by"] == ["consolidation"]
    assert parent["location"] == "upper lung zone" and set(present) == {"consolidation", "lung opacity"}
    both, _, _ = tell(("consolidation", "right", "mild"), ("nodule", "left", None))
    assert both["lung opacity"]["laterality"] == "bilateral"
    assert both["lung opacity"]["boxes"] == {"left": BOX["left"], "right": BOX["right"]}
    assert both["lung opacity"]["location"] is None  # one lies above, one below
    own, _, _ = tell(("lung opacity", "left", "mild"), ("consolidation", "right", "mild"))
    assert own["lung opacity"]["laterality"] == "bilateral" and own["lung opacity"]["severity"] == "mild"


def test_edema_is_an_opacity_of_both_lungs():
    present, _, undecided = tell(("edema", None, "mild"))
    assert present["edema"]["laterality"] is None and list(present["edema"]["boxes"]) == [""]
    assert present["lung opacity"]["laterality"] == "bilateral"
    assert present["lung opacity"]["boxes"] == {"left": [55, 20, 85, 70], "right": [15, 20, 45, 70]}
    assert undecided == {"interstitial opacity": "edema"}


def test_an_effusion_blunts_the_angle_of_its_side():
    present, _, _ = tell(("pleural effusion", "left", "mild"))
    angle = present["costophrenic angle blunting"]
    assert angle["boxes"] == {"left": REGIONS["left costophrenic angle"]}
    assert angle["laterality"] == "left" and angle["implied_by"] == ["pleural effusion"]
    both, _, _ = tell(("pleural effusion", "left", "mild"), ("costophrenic angle blunting", "right", None))
    assert both["costophrenic angle blunting"]["laterality"] == "bilateral"
    # An angle that the film cuts off is not spoken of.
    cut = {name: box for name, box in REGIONS.items() if "angle" not in name}
    _, _, undecided = tell(("pleural effusion", "left", "mild"), regions=cut)
    assert undecided["costophrenic angle blunting"] == "pleural effusion"


def test_a_blunted_angle_alone_leaves_effusion_open():
    present, _, undecided = tell(("costophrenic angle blunting", "left", None))
    assert set(present) == {"costophrenic angle blunting"}
    assert undecided == dict.fromkeys(
        ("pleural effusion", "pleural thickening"), "costophrenic angle blunting"
    )


def test_emphysema_is_overinflated_and_overinflation_may_be_emphysema():
    present, _, undecided = tell(("emphysema", None, "severe"))
    assert present["hyperinflation"]["boxes"] == present["emphysema"]["boxes"] and not undecided
    present, _, undecided = tell(("hyperinflation", None, "mild"))
    assert set(present) == {"hyperinflation"} and undecided == {"emphysema": "hyperinflation"}


def test_emphysema_and_overinflation_are_boxed_with_both_lungs():
    for name in ("emphysema", "hyperinflation"):
        present, *_ = tell((name, None, "mild"))
        # BOX[None] from 20 to 70, the lungs from 10 to 80 percent of the height
        assert present["hyperinflation"]["boxes"] == present[name]["boxes"] == {"": [10.0, 10.0, 90.0, 80.0]}
    cut = {name: box for name, box in REGIONS.items() if name != "left lung"}
    present, *_ = tell(("emphysema", None, "mild"), regions=cut)
    assert present["emphysema"]["boxes"] == {"": [10.0, 10.0, 85.0, 80.0]}


def test_more_fluid_leaves_more_open():
    opened = [set(tell(("pleural effusion", "left", grade))[2]) for grade in ("mild", "moderate", "severe")]
    assert opened[0] == set() and "atelectasis" in opened[1] and "consolidation" not in opened[1]
    assert opened[1] < opened[2] and "consolidation" in opened[2]
    # What the film shows all the same is asserted.
    present, _, undecided = tell(("pleural effusion", "left", "severe"), ("consolidation", "right", "mild"))
    assert "consolidation" in present and "consolidation" not in undecided


def test_a_hidden_finding_and_what_it_implies_are_asserted_neither_way():
    present, unseen, undecided = tell(("consolidation", "left", "mild"), hidden=[("consolidation", "left")])
    assert unseen == ["consolidation"] and not present
    assert undecided == {"lung opacity": "hidden consolidation"}
    # One of two sides: the other is asserted alone.
    present, unseen, _ = tell(("consolidation", "bilateral", "mild"), hidden=[("consolidation", "left")])
    assert present["consolidation"]["laterality"] == "right" and not unseen
    # Another child shows the parent: then it is there.
    present, unseen, undecided = tell(
        ("consolidation", "left", "mild"), ("nodule", "right", None), hidden=[("consolidation", "left")]
    )
    assert present["lung opacity"]["laterality"] == "right" and unseen == ["consolidation"] and not undecided


def test_a_lateral_film_has_no_sides():
    rows = ("consolidation", "bilateral", "mild"), ("pneumothorax", "left", "severe")
    present, unseen, undecided = tell(*rows, view="LATERAL", regions={"heart": REGIONS["heart"]})
    assert present["consolidation"]["laterality"] is None
    assert present["consolidation"]["boxes"] == {"": [20.0, 15.0, 70.0, 70.0]}  # around both
    assert present["lung opacity"]["boxes"] == {"": [20.0, 15.0, 70.0, 70.0]}
    assert undecided["pneumothorax"] == undecided["scoliosis"] == "lateral view" and not unseen
    # Of two sides only one is seen: the box is that one's.
    present, _, _ = tell(rows[0], view="LATERAL", regions={}, hidden=[("consolidation", "left")])
    assert present["consolidation"]["boxes"] == {"": BOX["right"]}


def test_what_the_film_cuts_off_cannot_be_denied():
    present, _, undecided = tell(("nodule", "left", None), clipped=["left lung apex"])
    assert undecided == dict.fromkeys(("pneumothorax", "pleural thickening"), "left lung apex cut off")
    present, _, undecided = tell(("pleural effusion", "left", "mild"), clipped=["right costophrenic angle"])
    assert "pleural effusion" in present and "costophrenic angle blunting" in present
    assert undecided == {"pleural thickening": "right costophrenic angle cut off"}


def test_an_enlarged_heart_is_the_whole_heart():
    present, _, _ = tell(("cardiomegaly", None, "mild"))
    assert present["cardiomegaly"]["boxes"] == {"": REGIONS["heart"]}


def test_visibility_and_box_of_a_plateau_by_hand():
    """40 x 20 samples of 10 mm within 100 x 100 samples of 1 percent, a fringe of 0.5 mm around them."""
    centres = np.arange(100) + 0.5
    x, y = np.meshgrid(centres, centres)
    strength = np.where((x > 28) & (x < 72) & (y > 48) & (y < 72), 0.5, 0.0)
    strength[(x > 30) & (x < 70) & (y > 50) & (y < 70)] = 10.0
    at = np.stack([x, y], axis=-1).reshape(-1, 2)
    visibility, box = truth.film_change(at, strength.ravel(), 1.0)
    assert visibility == pytest.approx(10.0)  # the fringe is below a quarter of the peak
    assert box == [30.0, 50.0, 70.0, 70.0]
    assert truth.film_change(at, 0 * strength.ravel(), 1.0) == (0.0, None)
    assert truth.film_change(at + 200, strength.ravel(), 1.0) == (0.0, None)  # beside the film


@given(st.integers(0, 10**6))
def test_most_of_a_change_lies_in_its_box_however_it_is_spread(number):
    draw = np.random.default_rng(number)
    at, strength = draw.random((300, 2)) * 140 - 20, draw.random(300) ** draw.integers(1, 9)
    visibility, box = truth.film_change(at, strength, 0.1)
    seen = ((at >= 0) & (at <= 100)).all(axis=1)
    inside = (at >= np.array(box[:2]) - 1e-2).all(axis=1) & (at <= np.array(box[2:]) + 1e-2).all(axis=1)
    assert strength[seen & inside].sum() >= 0.93 * strength[seen].sum()
    assert 0 <= box[0] < box[2] <= 100 and 0 <= box[1] < box[3] <= 100
    assert 0.25 * strength[seen].max() <= visibility <= strength[seen].max()


def test_boxes_side_by_side_become_one():
    assert truth.merged([[1, 2, 3, 4], [2, 1, 5, 3]]) == [1.0, 1.0, 5.0, 4.0]
