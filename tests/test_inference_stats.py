"""Bootstrap, paired tests, Holm and AUROC against brute force, scikit-learn, SciPy and hand values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_rel
from sklearn.metrics import roc_auc_score

from cxrtrek_lib import inference_stats
from cxrtrek_lib.inference_stats import (
    auroc,
    auroc_difference,
    bootstrap_mean,
    cluster_weights,
    holm,
    paired_difference,
    paired_effect,
    patient_sums,
)


def mean_of(totals):
    return totals[:, 0] / totals[:, 1]


def sums_and_counts(scores, patients):
    sums, counts = patient_sums(np.asarray(scores, dtype=float), patients)
    return np.column_stack([sums, counts])


def test_weights_resample_whole_patients_and_do_not_depend_on_the_chunk(monkeypatch):
    whole = np.concatenate(list(cluster_weights(7, 50, seed=3)))
    assert whole.shape == (50, 7) and (whole.sum(1) == 7).all()
    monkeypatch.setattr(inference_stats, "CHUNK_BYTES", 8 * 7 * 4)  # four draws a chunk
    pieces = list(cluster_weights(7, 50, seed=3))
    assert len(pieces) == 13
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_bootstrap_mean_equals_resampling_rows_by_hand():
    random = np.random.default_rng(0)
    patients = random.integers(0, 20, 100)
    scores = random.random(100)
    rows = {p: np.flatnonzero(patients == p) for p in np.unique(patients)}
    draws = []
    for weights in np.concatenate(list(cluster_weights(len(rows), 300, seed=5))):
        picked = np.concatenate([np.tile(rows[p], int(w)) for p, w in zip(rows, weights, strict=True)])
        draws.append(scores[picked].mean())
    expected = (scores.mean(), *np.percentile(draws, [2.5, 97.5]))
    assert bootstrap_mean(scores, patients, n_boot=300, seed=5) == pytest.approx(expected)


def test_interval_widens_when_answers_of_a_patient_agree():
    """40 patients x 10 equal answers carry the information of 40 answers, not of 400."""
    scores = np.repeat(np.arange(40) % 2, 10)
    _, low, high = bootstrap_mean(scores, np.repeat(np.arange(40), 10), n_boot=2000, seed=0)
    _, low_rows, high_rows = bootstrap_mean(scores, np.arange(400), n_boot=2000, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 40), rel=0.1)
    assert high_rows - low_rows == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 400), rel=0.1)


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        scores = random.random(80) < 0.6
        _, low, high = bootstrap_mean(scores, np.arange(80), n_boot=200, seed=trial)
        hits += low <= 0.6 <= high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("scores", "patients", "n_boot"), [([], [], 10), ([1.0], ["a", "b"], 10), ([1.0], ["a"], 0)]
)
def test_bootstrap_mean_refuses_what_it_cannot_score(scores, patients, n_boot):
    with pytest.raises(ValueError) as caught:
        bootstrap_mean(scores, patients, n_boot=n_boot, seed=0)
    assert "\n" not in str(caught.value)


def test_paired_difference_of_a_system_with_itself_is_nothing():
    one = sums_and_counts([0.2, 0.9, 0.4], ["a", "b", "c"])
    assert paired_difference(one, one, mean_of, n_boot=100, seed=0) == {
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
        "p": 1.0,
    }


def test_paired_p_is_the_exact_sign_test_for_binary_answers():
    """One answer a patient, 14 patients where only A is right, 4 where only B is: a sign test."""
    a = sums_and_counts([1] * 14 + [0] * 4 + [1] * 12, range(30))
    b = sums_and_counts([0] * 14 + [1] * 4 + [1] * 12, range(30))
    found = paired_difference(a, b, mean_of, n_boot=20_000, seed=0)
    assert found["difference"] == pytest.approx(10 / 30)
    assert found["p"] == pytest.approx(binomtest(4, 18, 0.5).pvalue, abs=0.01)
    assert 0 < found["low"] < found["difference"] < found["high"]
    swapped = paired_difference(b, a, mean_of, n_boot=20_000, seed=0)
    assert (swapped["difference"], swapped["low"]) == pytest.approx((-found["difference"], -found["high"]))


def test_paired_effect_is_cohens_d_of_a_mean_and_follows_the_jackknife_of_any_score():
    random = np.random.default_rng(4)
    a, b = random.random((2, 50))
    one, two = sums_and_counts(a, range(50)), sums_and_counts(b, range(50))
    assert paired_effect(one, two, mean_of) == pytest.approx(ttest_rel(a, b).statistic / np.sqrt(50))
    assert paired_effect(one, one, mean_of) is None and paired_effect(one[:1], two[:1], mean_of) is None
    # Patients of several answers: pseudo-values one by one.
    counts = random.integers(1, 5, 50)
    one, two = (np.column_stack([random.random(50) * counts, counts]) for _ in range(2))

    def gap(rows):
        return one[rows, 0].sum() / counts[rows].sum() - two[rows, 0].sum() / counts[rows].sum()

    everyone = np.arange(50)
    pseudo = [50 * gap(everyone) - 49 * gap(np.delete(everyone, k)) for k in everyone]
    expected = gap(everyone) / np.std(pseudo, ddof=1)
    assert paired_effect(one, two, mean_of) == pytest.approx(expected)


def test_pairing_is_sharper_than_two_separate_intervals():
    random = np.random.default_rng(2)
    hardness = random.random(60)  # the same patients are hard for both systems
    a, b = sums_and_counts(hardness, range(60)), sums_and_counts(hardness - 0.05, range(60))
    found = paired_difference(a, b, mean_of, n_boot=500, seed=0)
    assert found["low"] == pytest.approx(0.05) == found["high"]


def test_paired_systems_must_have_the_same_patients():
    with pytest.raises(ValueError, match="score the same turns"):
        paired_difference(np.ones((2, 2)), np.ones((3, 2)), mean_of, n_boot=10, seed=0)


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04, multiplied by 4 3 2 1: .02 .03 .06 .04, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    with pytest.raises(ValueError, match="leave"):
        holm([0.1, float("nan")])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_exactly_what_the_step_down_procedure_rejects(p_values):
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    rejected = set()
    for step, i in enumerate(order):
        if p_values[i] * (len(p_values) - step) > 0.05:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auroc_equals_scikit_learn_with_ties(pairs):
    labels, scores = [p[0] for p in pairs], [float(p[1]) for p in pairs]
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="one class"):
            auroc(labels, scores, range(len(labels)), n_boot=5, seed=0)
        return
    value, low, high = auroc(labels, scores, range(len(labels)), n_boot=20, seed=0)
    assert value == pytest.approx(roc_auc_score(labels, scores))
    assert 0 <= low <= high <= 1


def test_auroc_interval_equals_resampling_films_by_hand():
    random = np.random.default_rng(4)
    patients = random.integers(0, 25, 80)
    labels = random.random(80) < 0.4
    scores = labels * 0.6 + random.random(80)
    names, index = np.unique(patients, return_inverse=True)
    draws = []
    for weights in np.concatenate(list(cluster_weights(len(names), 200, seed=9))):
        draws.append(roc_auc_score(labels, scores, sample_weight=weights[index]))
    _, low, high = auroc(labels, scores, patients, n_boot=200, seed=9)
    assert (low, high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))


def test_auroc_difference_is_of_the_same_draws():
    random = np.random.default_rng(3)
    labels = np.array([True, False] * 20)
    first, patients = random.normal(size=40) + labels, [i // 3 for i in range(40)]
    second = first + random.normal(size=40) / 2
    draws = {"n_boot": 200, "seed": 9}
    assert auroc_difference(labels, first, first, patients, **draws) == (0, 0, 0)
    gap, low, high = auroc_difference(labels, first, second, patients, **draws)
    alone = auroc(labels, first, patients, **draws), auroc(labels, second, patients, **draws)
    assert gap == pytest.approx(roc_auc_score(labels, first) - roc_auc_score(labels, second))
    assert low < gap < high and high - low < min(one[2] - one[1] for one in alone)
    by_hand = []
    for weights in next(cluster_weights(14, 200, 9)):
        weights = weights[patients]
        if len(set(labels[weights > 0])) == 2:
            by_hand.append(
                roc_auc_score(labels, first, sample_weight=weights)
                - roc_auc_score(labels, second, sample_weight=weights)
            )
    assert (low, high) == pytest.approx(np.percentile(by_hand, [2.5, 97.5]))


def test_auroc_refuses_nan_scores():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        auroc([True, False], [float("nan"), 0.1], ["a", "b"], n_boot=5, seed=0)
