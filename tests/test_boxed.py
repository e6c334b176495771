"""boxed.py: a lung opacity lies where a reader's box has it, within visible lung."""

import numpy as np
import pytest

from cxrtrek_lib import metrics
from cxrtrek_lib.simulate import scene


def film(box: list[float], side: str, patient: str = "p") -> dict:
    """Truth of a film with one boxed opacity: its row (opacity) and the regions."""
    row = {"finding": "lung opacity", "status": "present", "laterality": side, "boxes": {side: box}}
    study = {"sample_id": f"{patient}/1", "patient_id": patient, "view": "PA", "sex": "M", "findings": [row]}
    return scene.film(study, 128)[1]


def shown(truth: dict, side: str) -> np.ndarray:
    return np.array(next(r for r in truth["findings"] if r["finding"] == "lung opacity")["boxes"][side])


@pytest.mark.parametrize(("patient", "size"), [("a", (18, 22)), ("b", (14, 30)), ("c", (24, 18))])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_box_within_the_lung_is_kept(patient, size, side):
    lung = np.array(film([20, 20, 30, 30] if side == "right" else [70, 20, 80, 30], side, patient)
                    ["regions"][f"{side} lung"])  # fmt: skip
    middle = (lung[:2] + lung[2:]) / 2
    reader = [*(middle - np.array(size) / 2), *(middle + np.array(size) / 2)]
    got = shown(film(reader, side, patient), side)
    assert metrics.iou_matrix(np.array([reader]), got[None])[0, 0] > 0.55
    assert np.abs((got[:2] + got[2:]) / 2 - middle).max() < 6


def test_a_box_beside_the_lung_moves_to_the_nearest_lung_and_what_hangs_out_is_cut_off():
    truth = film([40, 90, 60, 100], "left")  # under the dome
    lung, got = np.array(truth["regions"]["left lung"]), shown(truth, "left")
    assert (got[:2] >= lung[:2] - 4).all() and (got[2:] <= lung[2:] + 4).all()
    assert got[3] > lung[3] - 15, "as low as the lung goes"


def test_a_larger_box_makes_a_larger_opacity():
    corners = [shown(film([25 - w, 40 - w, 25 + w, 40 + w], "right"), "right") for w in (6, 10, 14)]
    sizes = [float((box[2:] - box[:2]).prod()) for box in corners]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
