"""Arms of the ablations: one start, one budget, one difference; a killed run goes on where it stopped."""

import json
from pathlib import Path

import polars as pl
import pytest

from cxrtrek_lib import ablations, finetune, paths, tables, untuned
from cxrtrek_lib import model as models
from tests import tiny
from tests.test_finetune import TRAINING, cohort  # noqa: F401 (a fixture)

MODEL = {
    "checkpoint": "small", "trust_remote_code": False, "tune_encoder": False, "vocabulary": 330,
    "hidden_size": 32, "layers": 1, "heads": 2, "lora_rank": 4,
}  # fmt: skip
SETTINGS = {
    "seed": 3,
    "model": MODEL,
    "train": TRAINING | {"alone_share": 0.5, "shuffled_share": 0.25, "patience": 2},
    "predict": {"batch_cases": 4, "max_new_tokens": 5},
    "ablations": {"train_cases": 4, "epochs": 1, "test_cases": 2},
}
TEXTS = [text for turn in tiny.TURNS for text in (turn.question, turn.answer)] * 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    model, processor, *_ = tiny.checkpoint.__wrapped__(seed=1)
    models.save(model, processor, folder)
    return folder


@pytest.fixture(scope="module")
def start(trained, tmp_path_factory):
    return str(untuned.rebuild(trained, tmp_path_factory.mktemp("start"), TEXTS, MODEL, seed=0))


def test_an_arm_differs_from_the_reference_in_one_thing():
    jobs = {
        name: ablations.job(arm, start="start", films=Path("films"), settings=SETTINGS, work=Path("work"))
        for name, arm in ablations.ARMS.items()
    }
    flat = {name: job | job["train"] for name, job in jobs.items()}
    reference = flat.pop("context")
    assert (reference["alone_share"], reference["shuffled_share"], reference["tune_encoder"]) == (0, 0, False)
    changed = {
        name: {key for key, value in job.items() if value != reference[key] and key != "train"}
        for name, job in flat.items()
    }
    assert changed == {
        "no_context": {"alone_share"}, "shuffled": {"shuffled_share"}, "tuned_encoder": {"tune_encoder"},
    }  # fmt: skip
    assert reference["epochs"] == 1 and reference["limit"] == {"train": 4, "validate": 0}
    assert reference["patience"] is None, "an arm that stops early has another budget"
    assert reference["short_epochs"] == 0, "questions asked alone in an arm that asks none so"


def test_small_goes_on_from_the_trained_model_and_others_start_untuned(trained, tmp_path, monkeypatch):
    assert ablations.start_of(trained, tmp_path, TEXTS, MODEL, seed=0) == trained
    made = []
    monkeypatch.setattr(untuned, "rebuild", lambda *given, **more: made.append((given, more)) or "untuned")
    named = MODEL | {"checkpoint": "smollm2"}
    assert ablations.start_of(trained, tmp_path, TEXTS, named, seed=3) == "untuned"
    assert made == [((trained, tmp_path, TEXTS, named), {"seed": 3})]


def test_adapters_where_the_checkpoint_has_them():
    for checkpoint, rank in (("small", None), ("smollm2", 4), ("someone/model", 4)):
        settings = SETTINGS | {"model": MODEL | {"checkpoint": checkpoint}}
        arm = ablations.ARMS["context"]
        job = ablations.job(arm, start="s", films=Path("f"), settings=settings, work=Path("w"))
        assert job["lora_rank"] == rank


def answers(out: Path) -> dict[str, pl.DataFrame]:
    return {file.stem: tables.read_table("predictions", file) for file in out.glob("*.parquet")}


def test_a_killed_comparison_goes_on_where_it_stopped(cohort, start, tmp_path, monkeypatch):  # noqa: F811
    """Killed between the arms, while an arm answers, and while the results are copied."""
    monkeypatch.setattr(paths, "FILMS", tmp_path / "films")  # a cache of film tokens lies beside them
    validate = {"films": str(cohort), "seed": 0, "limit": {"train": 0, "validate": None}}
    cases = finetune.cases(validate)["validate"]
    given = {"start": start, "films": cohort, "settings": SETTINGS, "work": tmp_path / "work"}
    history = ablations.run("no_context", cases, out=tmp_path / "out", **given)
    assert history["cases"] == {"train": 4, "validate": 0}
    assert history == json.loads((tmp_path / "out" / "no_context" / "history.json").read_text())
    found = answers(tmp_path / "out" / "no_context")
    assert set(found) == set(ablations.CONTEXTS)
    assert {frame.height for frame in found.values()} == {sum(len(case.turns) for case in cases)}

    monkeypatch.setattr(finetune, "run", lambda job: pytest.fail("trained twice"))
    (tmp_path / "work" / "no_context" / "answers" / "none.parquet").unlink()
    assert ablations.run("no_context", cases, out=tmp_path / "again", **given) == history
    again = answers(tmp_path / "again" / "no_context")
    assert all(again[context].equals(found[context]) for context in ablations.CONTEXTS)


def test_an_arm_may_be_shared_by_processes(tmp_path, monkeypatch):
    asked = {}

    def launch(job, **how):
        asked.update(how)
        Path(job["out"]).mkdir(parents=True)
        (Path(job["out"]) / "history.json").write_text("{}")

    monkeypatch.setattr(finetune, "launch", launch)
    settings = SETTINGS | {"train": SETTINGS["train"] | {"processes": 2}}
    arm = ablations.ARMS["context"]
    ablations.train(ablations.job(arm, start="s", films=Path("f"), settings=settings, work=tmp_path))
    assert asked == {"processes": 2, "config": None}


def test_unfinished_work_of_another_comparison_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "UNFINISHED", tmp_path / "unfinished")
    (tmp_path / "weights").write_text("1")
    work = ablations.workplace(SETTINGS, [tmp_path / "weights"])
    (work / "arm").mkdir()
    assert ablations.workplace(SETTINGS, [tmp_path / "weights"]) == work and (work / "arm").is_dir()
    (tmp_path / "weights").write_text("2")
    other = ablations.workplace(SETTINGS, [tmp_path / "weights"])
    assert other != work and other.is_dir() and not work.exists()


def test_test_cases_are_drawn_by_hash_from_the_test_split():
    ids = [f"s{n}" for n in range(30)]
    studies = pl.DataFrame({"sample_id": ids, "split": ["train"] * 10 + ["test"] * 20})
    drawn = ablations.test_studies(studies, 8, seed=0)
    assert drawn.height == 8 and set(drawn["split"]) == {"test"}
    assert drawn["sample_id"].to_list() != ids[10:18], "the first are not a sample"
    assert ablations.test_studies(studies, 99, seed=0).height == 20
    assert ablations.test_studies(studies, 8, seed=1)["sample_id"].to_list() != drawn["sample_id"].to_list()
