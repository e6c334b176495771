"""The benchmark's detector of focal findings, on films whose discs are drawn here."""

import importlib.util

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxrtrek_lib import paths, pretrain

SIZE = 128


@pytest.fixture(scope="module")
def detector():
    path = paths.ROOT / "benchmarks" / "local_detector.py"
    spec = importlib.util.spec_from_file_location("local_detector", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def discs(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Noise with a bright disc in every film of even number, its radius by finding: films, status, boxes."""
    random = np.random.default_rng(seed)
    films, status, boxes = random.normal(110, 12, (n, 1, SIZE, SIZE)), np.zeros((n, 3)), []
    y, x = np.mgrid[:SIZE, :SIZE]
    for i in range(0, n, 2):
        k = i // 2 % 3
        radius, (cy, cx) = (6, 14, 3)[k], random.uniform(30, 98, 2)
        films[i, 0][(y - cy) ** 2 + (x - cx) ** 2 < radius**2] += 60
        ends = np.array([cx - radius, cy - radius, cx + radius, cy + radius]) / SIZE
        status[i, k] = 1
        boxes.append([i, k, *ends])
    return torch.from_numpy(films.clip(0, 255).astype(np.uint8)), status, np.array(boxes)


def test_it_learns_what_a_disc_is_and_finds_others(detector):
    net = detector.fit(*discs(36, 0), steps=25, seed=0)
    films, status, _ = discs(36, 1)
    found = detector.scores(net, films)
    assert found.shape == (36, 3)
    assert roc_auc_score(status.any(1), found.max(1)) > 0.9


def test_the_same_seed_gives_the_same_detector(detector):
    films, status, boxes = discs(12, 0)
    one, two = (detector.fit(films, status, boxes, steps=2, seed=5) for _ in range(2))
    assert torch.equal(one.head.weight, two.head.weight)


def test_the_heat_of_a_box_is_highest_in_its_middle_and_one_half_width_off_at_its_side(detector):
    # A box from 32 to 48 px: its middle, 40, lies between the cells whose centres are 38 and 42.
    heat = detector.target(np.array([[1, 32.0, 32.0, 48.0, 48.0]]), (0, 0), 96)
    assert heat.shape == (3, 24, 24)
    assert heat[0].max() == 0
    assert heat[1, 9, 9] == pytest.approx(np.exp(-1.5 * 2 * (2 / 8) ** 2), rel=1e-5)
    assert heat[1, 9, 7] == pytest.approx(np.exp(-1.5 * ((2 / 8) ** 2 + (10 / 8) ** 2)), rel=1e-5)
    moved = detector.target(np.array([[1, 32.0, 32.0, 48.0, 48.0]]), (16, 4), 96)  # corner at x 16, y 4
    assert moved[1, 8, 5] == heat[1, 9, 9]


def test_both_sides_are_one_and_what_is_not_known_stays_unknown(detector):
    nan = float("nan")
    presence = torch.tensor([[1.0, 0.0, nan], [nan, nan, 0.0]])
    boxes = torch.full((2, 3, 4), nan)
    boxes[0, 0] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    none = torch.zeros(2, 0)
    known = pretrain.Truth(presence, none, none, boxes, none, none, none)
    status, found = detector.known_of(known, ["nodule|left", "nodule|right", "mass"])
    np.testing.assert_array_equal(status, [[1, nan, nan], [nan, 0, nan]])
    np.testing.assert_allclose(found, [[0, 0, 0.1, 0.2, 0.3, 0.4]], rtol=1e-6)


def test_a_finding_that_no_film_shows_is_named(detector):
    films, status, boxes = discs(12, 0)
    with pytest.raises(ValueError, match="no granuloma among 12 training films: raise --train"):
        detector.fit(films, status, boxes[boxes[:, 1] < 2], steps=1, seed=0)
