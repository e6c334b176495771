"""domain_shift.py: one factor changes at a time; scores against scikit-learn."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from tables_by_hand import studies as studies_of

from cxrtrek_lib import domain_shift, tables
from cxrtrek_lib.simulate import acquisition, patient, scene

STUDY = {
    "sample_id": "t/a/1", "patient_id": "t/a", "view": "PA", "sex": "M",
    "findings": [{"finding": "pleural effusion", "status": "present", "laterality": "left"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return domain_shift.films(STUDY, size_px=128, seed=0)


def test_the_unchanged_film_is_the_simulators(made):
    films, truth = made
    image, told = scene.film(STUDY, 128, 0)
    np.testing.assert_array_equal(films[domain_shift.UNCHANGED], image)
    assert told == truth


def test_every_factor_gives_another_film_of_the_same_scene(made):
    films, _ = made
    plain = films[domain_shift.UNCHANGED]
    assert list(films)[0] == domain_shift.UNCHANGED and set(films) == set(domain_shift.FACTORS)
    for name, film in films.items():
        assert film.shape == (128, 128) and film.dtype == np.float32 and 0 <= film.min() <= film.max() <= 1
        assert (film is plain) or np.abs(film - plain).mean() > 0.0003, name


def test_factors_do_what_their_names_say(made):
    films, _ = made
    plain = films[domain_shift.UNCHANGED]
    assert films["underexposed"].mean() > plain.mean() + 0.05 > plain.mean() > films["overexposed"].mean()
    assert films["flat"].std() < plain.std()

    def grain(film):
        return np.abs(np.diff(film, axis=0)).mean()

    assert grain(films["noisy"]) > 1.02 * grain(plain)
    assert max(grain(films["half size"]), grain(films["motion"])) < grain(plain)


def test_a_factor_changes_nothing_else_of_the_acquisition():
    shot = acquisition.acquisition(0, "t/a/1", "PA")
    changed = {
        name: {field for field in shot._fields if getattr(change(shot), field) != getattr(shot, field)}
        for name, (_, _, change, *_) in domain_shift.FACTORS.items()
    }
    assert (
        changed["noisy"] == {"dose"}
        and changed["motion"] == {"motion_mm"}
        and changed["flat"] == {"contrast"}
    )
    assert changed["other view"] == {"view", "source_mm", "field_mm", "scatter"}
    assert changed["underexposed"] == changed["overexposed"] == {"brightness", "dose"}
    assert changed["half size"] == changed["dense vessels"] == set()
    body = patient.body(0, "t/a", "M")
    dense = domain_shift._bodied(body, {"vessels": 1.6})
    assert dense.vessels == 1.6 * body.vessels and dense._replace(vessels=body.vessels) == body


def test_scores_are_scikit_learns_and_differences_are_paired():
    random = np.random.default_rng(0)
    factors = (domain_shift.UNCHANGED, "noisy")
    truth = [random.random(3) < 0.5 for _ in range(20)]
    rows, answers = [], []
    for factor in domain_shift.FACTORS:
        noise = 0.6 if factor == "noisy" else 0.2
        for k in range(20):
            for turn in range(3):
                there = bool(truth[k][turn])
                p = float(np.clip(0.5 + (0.3 if there else -0.3) + noise * random.standard_normal(), 0, 1))
                name = f"t/{k}, {factor}"
                rows.append((name, turn, "Yes." if there else "No."))
                answers.append((name, turn, "Yes." if p > 0.5 else "No.", p, 1.0))
    asked = pl.DataFrame(
        rows, schema={"sample_id": pl.String, "turn": pl.Int16, "answer": pl.String}, orient="row"
    )
    given = pl.DataFrame(answers, schema=tables.PREDICTIONS, orient="row")
    shown = studies_of(*(
        {"sample_id": f"t/{k}, {factor}", "patient_id": f"t/{k}", "study_id": factor}
        for factor in domain_shift.FACTORS for k in range(20)
    ))  # fmt: skip
    table = domain_shift.scores(shown, asked, given, n_boot=100, seed=0)
    found = {row["factor"]: row for row in table.to_dicts()}
    for factor in factors:
        part = asked.join(given, on=["sample_id", "turn"], suffix="_said").filter(
            pl.col("sample_id").str.ends_with(f", {factor}")
        )
        gold, said = part["answer"] == "Yes.", part["answer_said"] == "Yes."
        assert found[factor]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(gold, said))
        assert found[factor]["auroc"] == pytest.approx(roc_auc_score(gold, part["prob_yes"]))
        assert (found[factor]["n"], found[factor]["n_patients"]) == (60, 20)
    less = found["noisy"]["auroc"] - found[domain_shift.UNCHANGED]["auroc"]
    assert (
        found["noisy"]["auroc_difference"] == pytest.approx(less)
        and found["noisy"]["auroc_difference_high"] < 0.2
    )
    assert found[domain_shift.UNCHANGED]["auroc_difference"] is None
    assert list(domain_shift.as_json(table)) == list(domain_shift.FACTORS)
