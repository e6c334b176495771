"""The external datasets: which tasks each one sets, from which questions, and what scores the answers.

dataset  task                    truth
nih      classification          NIH ChestX-ray14 labels adjudicated by radiologists (Majkowska et al. 2020)
rsna     classification,         RSNA Pneumonia Detection Challenge: opacities suspicious for pneumonia, boxed
         detection (IoU 0.5)     by radiologists (Shih et al. 2019)
vindr    classification,         VinDr-CXR, several findings a film: what two of three radiologists marked
         detection (IoU 0.4)     (Nguyen et al. 2022); how far they agree stands beside it (reader_agreement)
openi    VQA, report generation  Open-i: MeSH tags of the reports, and the reports (Demner-Fushman et al.
                                 2016)

The five external sets of the paper are unknown to us; these are our own choice, and none is trained on. Each
question is asked inside the stage flow, after the model's own answers to stages 1 and 2, and alone.

A further dataset is one function here (Cohort -> Plan), its name in `DATASETS`, and its line in params.yaml
under cohort.external; its annotation table is read by a module of sources/. Question sets that bring their
own questions and films need a reader only, see vqa_files.py.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cxrtrek_lib import (
    chat,
    leakage,
    paths,
    prediction_run,
    reader_agreement,
    tables,
    transfer_questions,
    vqa_files,
)
from cxrtrek_lib.conversations import REPORT_STAGE
from cxrtrek_lib.simulate import NOT_SHOWN
from cxrtrek_lib.sources.nih import NIH_ADJUDICATED
from cxrtrek_lib.sources.vindr import VINDR, pixel_boxes
from cxrtrek_lib.tables import KEYS
from cxrtrek_lib.transfer_tasks import ALONE, BLANK, FLOW, Answered, classification, detection
from cxrtrek_lib.transfer_texts import report_generation, visual_questions

# Rows of these sources of truth count for NIH: the film's own, or the radiologists', no text-mined label.
NIH_TRUTH = r"^simulated$|^nih: google2019"
VINDR_CONSENSUS = "vindr: consensus"  # the boxes of at least two readers, where films are real (real_cohort)
LEFT_OUT = {
    "dataset": pl.String, "image": pl.String, "reason": pl.String, "detail": pl.String, "questions": pl.Int64,
}  # fmt: skip
NONE: Mapping[str, Mapping[str, str]] = {}
NO_FILM_SHOWS = "no film of this cohort states it"


class Cohort(NamedTuple):
    """An external dataset: tables of its films (tables.STUDIES, FINDINGS, BOXES, QA).

    tags  tables.FINDINGS as annotated, before any film was made of them
    """

    name: str
    folder: Path
    studies: pl.DataFrame
    findings: pl.DataFrame
    boxes: pl.DataFrame
    qa: pl.DataFrame
    tags: pl.DataFrame


class Plan(NamedTuple):
    """What a dataset asks and how it is scored.

    questions  part -> questions (tables.QA)
    tasks      task -> Answered -> rows of the transfer table; its questions are told apart by their part
    names      findings whose P(yes) needs a threshold, fixed on the training cohort's validation split
    left_out   what the dataset labels and no question asks about -> why
    readers    tables.BOXES of the single readers, where the dataset keeps them; matched from `iou` on
    """

    questions: dict[str, pl.DataFrame]
    tasks: dict[str, Callable[[Answered], list[dict]]]
    names: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    readers: pl.DataFrame | None = None
    iou: float = 0.5


def nih(cohort: Cohort, *, seed: int) -> Plan:
    """Is what the panel of radiologists adjudicated there?"""
    truth = cohort.findings.filter(pl.col("source_column").str.contains(NIH_TRUTH))
    names = tuple(NIH_ADJUDICATED.values())
    asked = transfer_questions.presence(cohort.studies, truth, names, seed=seed)
    return Plan(
        {"presence": asked},
        {"classification": partial(classification, names=names)},
        names,
        _left_out(names, asked),
    )


def rsna(cohort: Cohort, *, seed: int) -> Plan:
    """Is there an opacity suspicious for pneumonia, and where?"""
    return _boxed(cohort, ("lung opacity",), cohort.boxes, iou=0.5, seed=seed)


def vindr(cohort: Cohort, *, seed: int) -> Plan:
    """Which of VinDr's findings are there, and where?"""
    agreed = cohort.boxes.filter(pl.col("reader") == VINDR_CONSENSUS)
    names = tuple(name for name in VINDR.values() if name is not None)
    plan = _boxed(cohort, names, agreed if len(agreed) else cohort.boxes, iou=0.4, seed=seed)
    unnamed = {label: "not a finding of its own" for label, name in VINDR.items() if name is None}
    del unnamed["No finding"]
    return plan._replace(left_out=plan.left_out | unnamed, readers=pixel_boxes(), iou=0.4)


def openi(cohort: Cohort, *, seed: int) -> Plan:
    """Questions on what the report's tags state, in the four formats; the report itself."""
    reports = cohort.qa.filter(pl.col("stage") == REPORT_STAGE, pl.col("fact").str.starts_with("report|"))
    asked = transfer_questions.tagged(cohort.qa, cohort.tags, seed=seed)
    tagged = cohort.tags.filter(pl.col("status") == "present")["finding"].unique().sort()
    return Plan(
        {"vqa": asked, "report": reports},
        {"VQA": visual_questions, "report generation": report_generation},
        left_out=_left_out(tagged.to_list(), asked),
    )


DATASETS = {"nih": nih, "rsna": rsna, "vindr": vindr, "openi": openi}


def _boxed(cohort: Cohort, names: tuple[str, ...], boxes: pl.DataFrame, *, iou: float, seed: int) -> Plan:
    there = transfer_questions.presence(cohort.studies, cohort.findings, names, seed=seed)
    where = transfer_questions.locations(cohort.studies, cohort.findings, boxes, names, seed=seed)
    tasks = {
        "classification": partial(classification, names=names),
        "detection": partial(detection, names=names, iou=iou),
    }
    return Plan({"presence": there, "boxes": where}, tasks, names, _left_out(names, there))


def _left_out(names, asked: pl.DataFrame) -> dict[str, str]:
    """Labels without a question -> why no film shows them, or that none of these films does."""
    about = set(asked["fact"].str.split("|").list.first())
    return {name: NOT_SHOWN.get(name, NO_FILM_SHOWS) for name in names if name not in about}


def cohort(name: str) -> Cohort:
    """The films of an external dataset (data/films/<name>).

    Raises ValueError, one line, for an unknown dataset, a study that stands twice or is not external, and
    whatever it shares with the training cohort (leakage.refuse_shared).
    """
    if name not in DATASETS:
        raise ValueError(f"unknown external dataset {name!r}; known: {', '.join(DATASETS)}")
    folder = paths.FILMS / name
    parts = {
        part: tables.read_table(part, folder / f"{part}.parquet")
        for part in ("studies", "findings", "boxes", "qa")
    }
    refuse(name, parts["studies"])
    annotated = tables.read_table("findings", paths.DATASET / "findings.parquet")
    tags = annotated.join(parts["studies"], on="sample_id", how="semi", maintain_order="left")
    return Cohort(name, folder, **parts, tags=tags)


def refuse(name: str, studies: pl.DataFrame) -> None:
    """Raise ValueError, one line, when films cannot be tested on; `studies`: tables.STUDIES of a dataset."""
    twice = studies.filter(studies["sample_id"].is_duplicated())
    if len(twice):
        raise ValueError(f"{name}: study {twice['sample_id'][0]} stands twice; make its cohort again")
    trained = studies.filter(pl.col("split") != "external")
    if len(trained):
        sample_id, split = trained.select("sample_id", "split").row(0)
        raise ValueError(f"{name}: study {sample_id} is in split {split}, not external")
    leakage.refuse_shared(studies, tables.read_table("studies", paths.FILMS / "training" / "studies.parquet"))


def plan(cohort: Cohort, *, seed: int) -> Plan:
    """What the dataset asks of its films, and what scores the answers."""
    return DATASETS[cohort.name](cohort, seed=seed)


def validation(names: tuple[str, ...], *, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(studies, questions) of the training cohort's validation split: is each of `names` there?

    Their P(yes) fixes thresholds; nothing of the external films does. Both empty without names.
    """
    folder = paths.FILMS / "training"
    studies = tables.read_table("studies", folder / "studies.parquet").filter(pl.col("split") == "validate")
    findings = tables.read_table("findings", folder / "findings.parquet")
    findings = findings.join(studies, on="sample_id", how="semi")
    asked = transfer_questions.presence(studies, findings, names, general=True, seed=seed)
    qa = transfer_questions.conversations(studies, {"presence": asked}, seed=seed)
    return studies.join(qa, on="sample_id", how="semi", maintain_order="left"), qa


def answer(
    folder: Path,
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    *,
    names: tuple[str, ...],
    work: Path,
    seed: int,
    **how,
) -> dict[str, pl.DataFrame]:
    """Answers (tables.PREDICTIONS) in the stage flow, alone, and in the flow on blank films.

    folder       holds the films of `studies`
    studies, qa  external films and their questions (transfer_questions.conversations)
    names        findings that the validation films are asked about, in the flow and alone
    how          arguments of prediction_run.run: batch_cases, max_new_tokens, processes
    The validation films' answers are among those of the first two.
    """
    held_out, asked = validation(names, seed=seed)
    films, about = (
        {ALONE: transfer_questions.alone(qa), FLOW: qa},
        {ALONE: transfer_questions.alone(asked), FLOW: asked},
    )
    cases = {
        run: [
            *chat.cases(studies.join(films[run], on="sample_id", how="semi"), films[run], folder),
            *chat.cases(held_out, about[run], paths.FILMS / "training"),
        ]
        for run in (FLOW, ALONE)
    }
    # Boxes stand last in a conversation, and the baseline of boxes is another: a blank film is not asked.
    unboxed = qa.filter(pl.col("task").ne_missing("boxes"))
    cases[BLANK] = chat.cases(studies.join(unboxed, on="sample_id", how="semi"), unboxed, folder)
    with prediction_run.shared_by(how["processes"]) as pool:
        return {
            run: prediction_run.run(
                paths.MODELS / "trained",
                asked,
                context="none" if run == ALONE else "predicted",
                blank=run == BLANK,
                work=work / run.replace(" ", "_"),
                film_tokens=paths.FILM_TOKENS,
                pool=pool,
                **how,
            )
            for run, asked in cases.items()
        }


def kept(answers: dict[str, pl.DataFrame], qa: pl.DataFrame) -> pl.DataFrame:
    """Every answer to `qa` with its question.

    Columns sample_id, turn, task, stage, question, gold, asked, answer, prob_yes.
    asked  as in the transfer table, or "blank film"; gold is "" for the questions of the flow. The validation
    films' answers are left out.
    """
    about = qa.select("sample_id", "turn", "task", "stage", "question", gold="answer")
    said = {run: given.select(*KEYS, "answer", "prob_yes") for run, given in answers.items()}
    return pl.concat([
        about.with_columns(asked=pl.lit(run)).join(given, on=KEYS, maintain_order="left")
        for run, given in said.items()
    ])  # fmt: skip


def score(
    name: str,
    studies: pl.DataFrame,
    qa: pl.DataFrame,
    answers: dict[str, pl.DataFrame],
    plan: Plan,
    *,
    n_boot: int,
    seed: int,
    clinical: Mapping[str, Mapping[str, str]] = NONE,
) -> list[dict]:
    """Rows of the transfer table: see transfer_tasks.ROW. Real and simulated films are scored apart.

    qa, answers  as `answer` takes and returns them
    clinical     metrics of reports by packages of their own (evaluate.clinical): clinical_metrics.of_pairs
    """
    held_out, asked = validation(plan.names, seed=seed) if plan.names else (None, None)
    training = tables.read_table("qa", paths.FILMS / "training" / "qa.parquet")
    of_split = tables.read_table("studies", paths.FILMS / "training" / "studies.parquet")
    training = training.join(of_split.filter(pl.col("split") == "train"), on="sample_id", how="semi")
    rows = []
    for origin in sorted(studies["image_origin"].unique()):
        films = studies.filter(pl.col("image_origin") == origin)
        about = Answered.of(films, qa, answers, asked, training, clinical=clinical, n_boot=n_boot, seed=seed)
        for task, scored in plan.tasks.items():
            rows += [{"dataset": name, "task": task, **row, "image_origin": origin} for row in scored(about)]
    if plan.readers is not None:
        found = reader_agreement.agreement(plan.readers, iou=plan.iou, n_boot=n_boot, seed=seed)
        rows += [{"dataset": name, **row} for row in found]
    return rows


def question_sets(
    folders: dict[str, str | None], *, work: Path, n_boot: int, seed: int, **how: int
) -> tuple[list[dict], pl.DataFrame]:
    """(rows of the transfer table, what was left out) of the question sets that the user has (vqa_files.py).

    folders  name -> its folder, from the repository's root, or None: not at hand
    how      arguments of prediction_run.run: batch_cases, max_new_tokens, processes
    left out: dataset, image, reason, detail, questions. Raises ValueError or FileNotFoundError as
    vqa_files.read and `refuse` do.
    """
    rows, left_out = [], [pl.DataFrame(schema=LEFT_OUT)]
    for name, place in folders.items():
        if place is None:
            continue
        folder = paths.ROOT / place
        found = vqa_files.read(name, folder)
        refuse(name, found.studies)
        plan = Plan({"vqa": found.qa}, {"VQA": visual_questions})
        qa = transfer_questions.conversations(found.studies, plan.questions, seed=seed)
        answers = answer(folder, found.studies, qa, names=(), work=work / name, seed=seed, **how)
        rows += score(name, found.studies, qa, answers, plan, n_boot=n_boot, seed=seed)
        left_out.append(found.left_out.select(pl.lit(name).alias("dataset"), pl.all()))
    return rows, pl.concat(left_out)
