"""transfer_scores.py against scikit-learn, pycocotools and values worked out by hand."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from cxrtrek_lib import inference_stats, transfer_scores

FILMS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 10), st.integers(0, 5), st.integers(0, 3)),
    min_size=4,
    max_size=40,
)


def columns(films):
    labels, chances, patients, weights = (np.array(each) for each in zip(*films, strict=True))
    return labels, chances / 10, patients, weights.astype(float)


@given(FILMS)
@settings(max_examples=60, deadline=None)
def test_ranking_is_scikit_learns_for_any_weights(films):
    labels, chances, _, weights = columns(films)
    owner = np.arange(len(labels))
    there = weights > 0
    area, precision, f1 = transfer_scores.ranking(labels, chances, owner, 0.45)(weights[None])[0]
    if labels[there].any() and not labels[there].all():
        assert area == pytest.approx(roc_auc_score(labels, chances, sample_weight=weights))
    else:
        assert np.isnan(area)
    if labels[there].any():
        oracle = average_precision_score(labels, chances, sample_weight=weights)
        assert precision == pytest.approx(oracle)
        assert f1 == pytest.approx(f1_score(labels, chances >= 0.45, sample_weight=weights))
    else:
        assert np.isnan(precision) and np.isnan(f1)


def test_the_interval_of_auroc_is_that_of_the_studys_own_function():
    random = np.random.default_rng(0)
    labels, patients = random.random(80) < 0.4, random.integers(0, 30, 80)
    chances = np.round(random.random(80) + 0.3 * labels, 1)
    owner = np.unique(patients, return_inverse=True)[1]
    score = transfer_scores.ranking(labels, chances, owner, None)
    draws = transfer_scores.resampled(score, owner.max() + 1, n_boot=200, seed=3)
    oracle = inference_stats.auroc(labels, chances, patients, n_boot=200, seed=3)
    assert tuple(transfer_scores.told(draws[:, 0]).values()) == pytest.approx(oracle)
    assert np.isnan(draws[:, 2]).all(), "without a threshold there is no F1"


def test_draws_do_not_depend_on_how_many_rows_are_held_at_a_time(monkeypatch):
    labels, chances, owner = np.array([1, 0, 1, 0], dtype=bool), np.array([0.9, 0.8, 0.4, 0.1]), np.arange(4)
    weights = np.random.default_rng(0).integers(0, 3, (50, 4)).astype(float)
    whole = transfer_scores.ranking(labels, chances, owner, 0.5)(weights)
    monkeypatch.setattr(transfer_scores, "CELLS", 8)
    np.testing.assert_array_equal(transfer_scores.ranking(labels, chances, owner, 0.5)(weights), whole)


@given(FILMS)
@settings(max_examples=60, deadline=None)
def test_the_threshold_is_the_best_there_is(films):
    labels, chances, *_ = columns(films)
    found = transfer_scores.best_threshold(labels, chances)
    if found is None:
        assert labels.all() or not labels.any()
        return
    best = max(f1_score(labels, chances >= each) for each in np.unique(chances))
    assert f1_score(labels, chances >= found) == pytest.approx(best)


def wide(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def coco(gold, boxes, sure, iou) -> float:
    """Average precision of one class by pycocotools, on its 101 recalls."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(len(gold))],
            "categories": [{"id": 1}],
            "annotations": [
                {"id": k, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": wide(box),
                 "area": wide(box)[2] * wide(box)[3]}
                for k, (i, box) in enumerate(((i, b) for i, each in enumerate(gold) for b in each), start=1)
            ],
        }  # fmt: skip
        truth.createIndex()
        given = truth.loadRes([
            {"image_id": i, "category_id": 1, "score": score, "bbox": wide(box)}
            for i, (each, score) in enumerate(zip(boxes, sure, strict=True)) for box in each
        ])  # fmt: skip
        evaluated = COCOeval(truth, given, "bbox")
        evaluated.params.iouThrs = np.array([iou])
        evaluated.params.areaRng, evaluated.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluated.params.maxDets = [100]
        evaluated.evaluate()
        evaluated.accumulate()
    precision = evaluated.eval["precision"][0, :, 0, 0, 0]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize("iou", [0.4, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_pycocotools(iou, seed):
    random = np.random.default_rng(seed)

    def box(near=None):
        if near is None:
            low = random.uniform(0, 60, 2)
            return [*low, *(low + random.uniform(10, 35, 2))]
        return list(np.array(near) + random.uniform(-6, 6, 4))

    def said(each):
        return [box(b) for b in each if random.random() < 0.8] + [box()] * int(random.random() < 0.4)

    gold = [[box() for _ in range(random.integers(0, 3))] for _ in range(20)]
    boxes = [said(each) for each in gold]
    sure = random.permutation(20) / 20  # no ties: films of equal sureness have no order
    area, _ = transfer_scores.detection(gold, boxes, sure, np.arange(20), iou=iou)(np.ones((1, 20)))[0]
    assert area == pytest.approx(coco(gold, boxes, sure, iou), abs=1e-9)


def test_froc_by_hand():
    """Four films, two with a box. The surest answer is right, the next a false box, the third right."""
    here, there = [10, 10, 40, 40], [60, 60, 90, 90]
    gold, boxes, sure = [[here], [], [here], []], [[here], [there], [here], []], [0.9, 0.8, 0.7, 0.1]
    _, froc = transfer_scores.detection(gold, boxes, sure, np.arange(4), iou=0.5)(np.ones((1, 4)))[0]
    # Sensitivity 0.5 below 1/4 false box a film (1/8), 1 from there on.
    assert froc == pytest.approx((0.5 + 6 * 1.0) / 7)
    curve = transfer_scores.froc_curve(gold, boxes, sure, iou=0.5)
    assert curve.rows() == [(0, 0), (0, 0.5), (0.25, 0.5), (0.25, 1.0)]


def test_a_film_drawn_twice_counts_twice():
    here, there = [10, 10, 40, 40], [60, 60, 90, 90]
    gold, boxes, sure = [[here], [here]], [[here], [there]], [0.9, 0.8]
    score = transfer_scores.detection(gold, boxes, sure, np.arange(2), iou=0.5)
    twice = transfer_scores.detection(gold + gold[:1], boxes + boxes[:1], [*sure, 0.9], np.arange(3), iou=0.5)
    assert score(np.array([[2.0, 1.0]]))[0, 0] == pytest.approx(twice(np.ones((1, 3)))[0, 0])
    assert np.isnan(
        transfer_scores.detection([[]], [[here]], [1.0], np.arange(1), iou=0.5)(np.ones((1, 1)))
    ).all()


def test_means_leave_out_what_a_draw_leaves_undefined():
    mean = transfer_scores.mean_over([np.array([0.2, np.nan, np.nan]), np.array([0.4, 0.6, np.nan])])
    assert mean[:2] == pytest.approx([0.3, 0.6]) and np.isnan(mean[2])
