"""Scores of the arms: those of the evaluation, compared with the reference alone, corrected together."""

import json

import polars as pl
import pytest
from fake_answers import fake_cohort, fake_predictions

from cxrtrek_lib import ablation_scores, baselines, evaluation, tables
from cxrtrek_lib.metrics import score_answers

SKILLS = {
    ("context", "predicted"): 0.6, ("context", "none"): 0.6, ("no_context", "predicted"): 0.2,
    ("no_context", "none"): 0.95,
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort():
    studies, qa = fake_cohort(48)
    train = pl.int_range(pl.len()) < 16
    return studies.with_columns(split=pl.when(train).then(pl.lit("train")).otherwise(pl.lit("test"))), qa


@pytest.fixture(scope="module")
def folder(cohort, tmp_path_factory):
    """Answers of two arms to 24 of the 32 test cases."""
    studies, qa = cohort
    asked = qa.join(studies.filter(split="test").head(24), on="sample_id", how="semi")
    out = tmp_path_factory.mktemp("ablations")
    for seed, ((arm, context), skill) in enumerate(SKILLS.items()):
        frame = fake_predictions(asked, skill, seed)
        tables.write_table("predictions", frame, out / arm / f"{context}.parquet")
    return out


def test_every_arm_is_scored_on_the_questions_it_was_asked(cohort, folder):
    studies, qa = cohort
    systems = ablation_scores.scored(folder, studies, qa)
    assert set(systems) == {*SKILLS, ablation_scores.MAJORITY}
    asked = qa.join(studies.filter(split="test").head(24), on="sample_id", how="semi")
    assert {rows.height for rows in systems.values()} == {asked.height}
    train = qa.join(studies.filter(split="train"), on="sample_id", how="semi")
    majority = score_answers(asked, baselines.majority_predictions(train, asked), studies)
    assert systems[ablation_scores.MAJORITY].equals(majority)


def test_the_metrics_file_compares_everything_with_the_reference(cohort, folder, tmp_path):
    systems = ablation_scores.scored(folder, *cohort)
    found = ablation_scores.ablations_json(systems, n_boot=200, seed=0)
    evaluation.write_metrics(tmp_path / "ablations.json", found)
    assert json.loads((tmp_path / "ablations.json").read_text())["reference"] == "context, predicted"
    for (arm, context), rows in systems.items():
        table = evaluation.stage_scores(rows, n_boot=200, seed=0)
        overall = table.filter(level="overall").row(0, named=True)
        scores = found["arms"][arm][context]["overall"]
        assert scores == {key: overall[key] for key in ("score", "low", "high", "n")}
    tests = found["differences"]
    assert set(tests) == {"context, none", "no_context, predicted", "no_context, none"}
    assert tests["no_context, none"]["low"] > 0 > tests["no_context, predicted"]["high"]
    assert all(test["p"] <= test["p_holm"] for test in tests.values())
    gap = found["arms"]["no_context"]["none"]["overall"]["score"]
    gap -= found["arms"]["context"]["predicted"]["overall"]["score"]
    assert tests["no_context, none"]["difference"] == pytest.approx(gap)


def test_arms_of_other_questions_and_missing_arms_are_told(cohort, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro ablations"):
        ablation_scores.scored(tmp_path, *cohort)
    whole = tables.read_table("predictions", folder / "context" / "predicted.parquet")
    for context, frame in (("predicted", whole.head(50)), ("none", whole)):
        tables.write_table("predictions", frame, tmp_path / "context" / f"{context}.parquet")
    with pytest.raises(ValueError, match="not among the questions"):
        ablation_scores.scored(tmp_path, *cohort)
