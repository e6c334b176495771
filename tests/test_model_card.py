"""The model card: read back with huggingface_hub, its numbers counted by hand."""

import pytest
from huggingface_hub import ModelCard
from tables_by_hand import studies

from cxrtrek_lib import hub, model_card, params, paths

GROUPS = params.load(paths.PROFILES / "default.yaml").groups()
SETTINGS = {name: GROUPS[name] for name in ("seed", "model", "train")}
ROW = {"step": 8, "epoch": 1, "train_loss": 0.9, "validation_loss": 0.8, "stage_1": 0.5, "choice": 0.25}
HISTORY = {
    "checkpoint": "small",
    "encoder": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}],
    "decoder": [ROW, {"step": 12, "epoch": 2, "train_loss": 0.5}, ROW | {"step": 16, "validation_loss": 0.9}],
    "parameters": {"total": 4_000_000, "trainable": 1_000_000, "encoder": 900_000},
    "cases": {"train": 3, "validate": 1},
}
SCORE = {"score": 0.5, "low": 0.4, "high": 0.6, "n": 1234}
NOTHING = {"score": None, "low": None, "high": None, "n": 0}
SYSTEMS = ("predicted", "gold", "none", "blank_image", "majority")
EVALUATION = {
    **{key: dict.fromkeys(SYSTEMS, SCORE) for key in ("overall", "yes_no_balanced_accuracy")},
    "detection_mean_iou": dict.fromkeys(SYSTEMS, NOTHING),
    "stages": dict.fromkeys(SYSTEMS, {str(s): SCORE if s < 8 else NOTHING for s in range(1, 9)}),
    "grounding": {key: {"scores": dict.fromkeys(SYSTEMS, SCORE)} for key in model_card.GROUNDING},
}


@pytest.fixture
def cohort(tmp_path):
    """Three studies to train on, one to validate, one to test on, and a film of each."""
    whence = [("train", "chexpert")] * 2 + [("train", "padchest"), ("validate", "padchest"), ("test", "nih")]
    rows = [
        {"sample_id": f"s{n}", "patient_id": f"p{n}", "split": split, "source": source}
        | {"image_origin": "simulated"}
        for n, (split, source) in enumerate(whence)
    ]
    folder = tmp_path / "cohort"
    (folder / "png").mkdir(parents=True)
    studies(*rows).write_parquet(folder / "studies.parquet")
    for row in rows:
        (folder / "png" / f"{row['sample_id']}.png").write_bytes(row["sample_id"].encode())
    return folder


@pytest.fixture
def write(cohort, tmp_path):
    def write(**changes):
        history = HISTORY | changes
        model_card.write(tmp_path, history=history, settings=SETTINGS, films=cohort)
        return ModelCard.load(tmp_path / "README.md", ignore_metadata_errors=False)

    return write


def test_the_card_says_what_was_trained_on_what(write, cohort):
    card = write()
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-text-to-text"
    assert card.data.license == "other" and card.data.to_dict().get("base_model") is None
    text = card.text
    assert "**Trained on simulated radiographs; not for clinical use.**" in text
    assert "| all | 4,000,000 |" in text and "| tuned | 1,000,000 (25.0 %) |" in text
    assert f"| chexpert | 2 | {hub.TERMS['chexpert']} |" in text and "| padchest | 2 |" in text
    assert "nih" not in text, "test cases are not training data"
    assert model_card.cohort_sha256(cohort) in text
    assert "detector-style supervision" in text and "2 passes" in text
    assert "weights of epoch 1, of the lowest validation loss" in text and "16 optimiser steps" in text
    assert "| whole | 0.800 |" in text and "| stage 1: Image validation | 0.500 |" in text
    assert "| choice | 0.250 |" in text
    rate = GROUPS["train"]["learning_rate"]
    assert f"| `train.learning_rate` | {rate} |" in text and "| `train.patience` | null |" in text
    assert str(paths.ROOT) not in card.content and str(cohort) not in card.content


def test_the_hash_is_of_names_and_contents(cohort):
    before = model_card.cohort_sha256(cohort)
    assert model_card.cohort_sha256(cohort) == before and len(before) == 64
    (cohort / "png" / "s1.png").write_bytes(b"other")
    changed = model_card.cohort_sha256(cohort)
    (cohort / "png" / "s1.png").rename(cohort / "png" / "s9.png")
    assert len({before, changed, model_card.cohort_sha256(cohort)}) == 3


def test_another_checkpoint_is_named_and_needs_no_encoder_of_ours(write, tmp_path):
    card = write(checkpoint="someone/model-2b", encoder=[])
    assert card.data.base_model == "someone/model-2b" and "registers the image encoder" not in card.text
    assert "The terms of someone/model-2b apply as well." in card.text
    (tmp_path / "mine").mkdir()
    card = write(checkpoint=str(tmp_path / "mine"), encoder=[])
    assert card.data.base_model == "mine", "nobody else's path"
    assert write(checkpoint="smollm2").data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_test_scores_are_added_once_they_are_known(write, tmp_path):
    before = write()
    text = model_card.with_scores(tmp_path / "README.md", EVALUATION, origin="simulated")
    (tmp_path / "scored.md").write_text(text)
    card = ModelCard.load(tmp_path / "scored.md", ignore_metadata_errors=False)
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"overall": 0.5, "yes_no_balanced_accuracy": 0.5}  # no box was asked for
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}
    cells = "| 1,234 | 0.500 (0.400 to 0.600) | 0.500 (0.400 to 0.600) | 0.500 (0.400 to 0.600) |"
    assert (
        f"| stage 1: Image validation {cells}" in text and "stage 8" not in text.partition("## Evaluation")[2]
    )
    assert f"| on which side is it: accuracy {cells}" in text
    assert "Not yet scored" in before.text and "Not yet scored" not in text
    untouched = before.text.partition("## Evaluation")[0]
    assert card.text.startswith(untouched) and card.text.count("## Licences") == 1
    with pytest.raises(ValueError, match="no place for test scores"):
        model_card.with_scores(tmp_path / "scored.md", EVALUATION, origin="simulated")
