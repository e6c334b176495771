"""Trainings at equal budget that differ in one thing: context, stage order, or whether the encoder is tuned.

Every arm starts from the same weights, sees the same cases as often, in batches of the same size, and answers
the same test cases, with its own earlier answers as context and without any.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from cxrtrek_lib import draws, files, finetune, paths, predict, prediction_run, resume, tables, untuned
from cxrtrek_lib import model as models
from cxrtrek_lib.chat import Case


class Arm(NamedTuple):
    """What is particular to an arm; see the keys of these names in params.yaml."""

    alone_share: float
    shuffled_share: float
    tune_encoder: bool


# The first is what the others are compared with.
ARMS = {
    "context": Arm(alone_share=0.0, shuffled_share=0.0, tune_encoder=False),
    "no_context": Arm(alone_share=1.0, shuffled_share=0.0, tune_encoder=False),
    "shuffled": Arm(alone_share=0.0, shuffled_share=1.0, tune_encoder=False),
    "tuned_encoder": Arm(alone_share=0.0, shuffled_share=0.0, tune_encoder=True),
}
CONTEXTS = ("predicted", "none")
# Conversations are trained whole; so that every arm sees as many answers, all questions are asked alone too.
# First passes over short answers alone would be a mixture of arms.
ALL = {"questions_per_case": None, "short_epochs": 0}


def test_studies(studies: pl.DataFrame, n: int, *, seed: int) -> pl.DataFrame:
    """At most `n` studies of the test split, drawn by hash, in the order of the table."""
    studies = studies.filter(split="test")
    drawn = draws.shuffle(seed, "test", "ablations", studies["sample_id"].to_list())[:n]
    return studies.filter(pl.col("sample_id").is_in(drawn))


def start_of(
    trained: Path, out: Path, texts: Sequence[str], settings: dict[str, Any], *, seed: int
) -> Path | str:
    """What every arm begins with: the checkpoint before fine-tuning, or `trained` itself if that is `small`.

    The small decoder is made from nothing: from there 600 cases led no arm past the most common answer
    (overall score 0.40, that answer 0.52), and the arms could tell nothing. Arguments as untuned.rebuild.
    """
    if settings["checkpoint"] == "small":
        return trained
    return untuned.rebuild(trained, out, texts, settings, seed=seed)


def workplace(settings: dict[str, Any], inputs: Sequence[Path]) -> Path:
    """Folder of the unfinished work of exactly this comparison; what another one left there is removed.

    settings, inputs  all that the arms depend on: JSON values, files (see resume.fingerprint)
    """
    above = paths.UNFINISHED / "ablations"
    code = [Path(module.__file__) for module in (finetune, finetune.train, models, predict, draws)]
    work = above / resume.fingerprint(settings, [*inputs, *code, Path(__file__)])
    for other in above.glob("*"):
        if other != work:
            shutil.rmtree(other)
    work.mkdir(parents=True, exist_ok=True)
    return work


def job(arm: Arm, *, start: str, films: Path, settings: dict[str, Any], work: Path) -> dict[str, Any]:
    """The training of an arm as finetune.launch takes it.

    settings  seed and the groups model, train and ablations of params.yaml
    """
    model, sizes = settings["model"], settings["ablations"]
    own = {"alone_share": arm.alone_share, "shuffled_share": arm.shuffled_share}
    return {
        "start": start,
        "films": str(films),
        "film_tokens": str(paths.FILM_TOKENS),
        # The last weights count, without a choice on validation cases: their loss, in stage order and with
        # history, would favour the arms that were trained like that.
        "train": settings["train"] | own | {"epochs": sizes["epochs"], "patience": None} | ALL,
        "limit": {"train": sizes["train_cases"], "validate": 0},
        "lora_rank": None if model["checkpoint"] == "small" else model["lora_rank"],
        "tune_encoder": arm.tune_encoder,
        "trust_remote_code": model["trust_remote_code"],
        "seed": settings["seed"],
        "out": str(work / "trained"),
        "work": str(work / "unfinished"),
    }


def train(job: dict[str, Any]) -> dict[str, Any]:
    """The history of a job's training, which is done now unless it is done already.

    In this process, which is small enough for it, unless the parameters share it between several.
    """
    history = Path(job["out"]) / "history.json"
    processes, config = (job["train"][name] for name in finetune.OF_THE_LAUNCHER)
    if not history.is_file():
        if processes == 1 and config is None:
            finetune.run(job)
        else:
            finetune.launch(job, processes=processes, config=config)
    return json.loads(history.read_text(encoding="utf-8"))


def answer(
    trained: Path, cases: Sequence[Case], out: Path, *, trust_remote_code: bool, **decoding: int
) -> None:
    """Write an arm's answers, out/<context>.parquet for each of `CONTEXTS`, unless they are there already.

    decoding  the `predict` group of params.yaml
    """
    for context in CONTEXTS:
        file = out / f"{context}.parquet"
        if file.is_file():
            continue
        answers = prediction_run.run(
            trained,
            cases,
            context=context,
            work=out / "unfinished" / context,
            film_tokens=paths.FILM_TOKENS,
            trust_remote_code=trust_remote_code,
            **decoding,
        )
        tables.write_table("predictions", answers, file)


def run(
    name: str,
    cases: Sequence[Case],
    *,
    start: str,
    films: Path,
    settings: dict[str, Any],
    work: Path,
    out: Path,
) -> dict[str, Any]:
    """Train an arm and let it answer; writes <context>.parquet and history.json into out/<name>.

    What a killed run has left in `work` is taken up. `settings` also holds the group predict. Returns the
    history of its training.
    """
    here = work / name
    asked = job(ARMS[name], start=start, films=films, settings=settings, work=here)
    history = train(asked)
    answers = here / "answers"
    trust = settings["model"]["trust_remote_code"]
    answer(Path(asked["out"]), cases, answers, trust_remote_code=trust, **settings["predict"])
    for file in answers.glob("*.parquet"):
        with files.whole(out / name / file.name) as temporary:
            shutil.copyfile(file, temporary)
    with files.whole(out / name / "history.json") as temporary:
        temporary.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    return history
