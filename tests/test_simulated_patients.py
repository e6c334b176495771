"""simulate/: what a linear probe reads in the films of some patients holds in those of others."""

import numpy as np
import pytest
from films_by_hand import present, study

from cxrtrek_lib import draws, images, inference_stats, simulate

NAMES = ("pleural effusion", "emphysema", "pacemaker")
PATIENTS, FOLDS = 100, 5


@pytest.fixture(scope="module")
def cohort() -> tuple[np.ndarray, np.ndarray]:
    """Films of 100 patients at 24 x 24 pixels, standardised (100, 576), and what each shows (100, 3)."""
    pixels, shown = [], []
    for number in range(PATIENTS):
        patient = f"t/many/{number}"
        names = [name for name in NAMES if draws.uniform(0, patient, f"here/{name}") < 0.5]
        facts = study(*map(present, names), sample_id=f"{patient}/1", patient_id=patient,
                      view=("PA", "AP")[number % 2])  # fmt: skip
        pixels.append(images.resize(simulate.film(facts, 128)[0], 24).ravel())
        shown.append([name in names for name in NAMES])
    pixels = np.array(pixels)
    return (pixels - pixels.mean(0)) / pixels.std(0), np.array(shown)


@pytest.mark.parametrize("finding", NAMES)
def test_a_linear_probe_of_some_patients_holds_on_others(cohort, finding):
    """Ridge regression on raw pixels, five folds of patients: it has no chance to know a patient again."""
    pixels, shown = cohort
    label = shown[:, NAMES.index(finding)]
    score = np.zeros(PATIENTS)
    for fold in range(FOLDS):
        test = np.arange(PATIENTS) % FOLDS == fold
        train, target = pixels[~test], 2.0 * label[~test] - 1
        weights = np.linalg.solve(train @ train.T + 300 * np.eye(len(train)), target - target.mean())
        score[test] = pixels[test] @ train.T @ weights
    area, low, _ = inference_stats.auroc(label, score, list(range(PATIENTS)), n_boot=300, seed=0)
    assert area > 0.8 and low > 0.7, (finding, area, low)
