"""What the exploratory notebook loads and draws, a line each: questions, answers, slices, cases."""

from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from cxrtrek_lib import evaluation, film_figures, images, metrics, paths, tables
from cxrtrek_lib.conversations import PLACEHOLDER, is_box, parse_boxes
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.tables import KEYS

DATASET = "dataset"  # all annotations, without films; every other name is a cohort of data/films/
_ABOUT = ("patient_id", "source", "split", "views", "images", "image_origin", "age", "sex")


def questions(split: str = "test", cohort: str = "training") -> pl.DataFrame:
    """Questions and gold answers of a split, a row each, with what is known of the study.

    split   train, validate, test or external
    cohort  "training", an external source ("nih", "openi", ...) or "dataset": all annotations, without films
            (millions of rows in its train split: some GB)
    Columns: those of tables.QA without is_joint_sent and evidence, then patient_id, source, split, views,
    images (paths relative to `folder_of(cohort)`), image_origin, age and sex; rows in the order of asking.
    `.to_pandas()` makes it a pandas table.
    Raises FileNotFoundError when the cohort is not there, ValueError when it has no such split; one line.
    """
    folder = folder_of(cohort)
    studies = tables.read_table("studies", folder / "studies.parquet")
    chosen = studies.filter(split=split)
    if chosen.is_empty():
        known = ", ".join(studies["split"].unique().sort())
        raise ValueError(f"cohort {cohort} has no split {split!r}; it has {known}")
    qa = pl.scan_parquet(folder / "qa.parquet").drop("is_joint_sent", "evidence")
    found = qa.join(chosen.lazy().select("sample_id", *_ABOUT), on="sample_id").collect()
    shown = pl.col("question").str.replace_all(PLACEHOLDER, "", literal=True).str.strip_chars()
    return found.with_columns(shown).sort("sample_id", "stage", "turn")


def folder_of(cohort: str = "training") -> Path:
    """Where a cohort lies. Raises FileNotFoundError, one line, when it is not there."""
    folder = paths.DATASET if cohort == DATASET else paths.FILMS / cohort
    if not (folder / "qa.parquet").is_file():
        made = sorted(path.parent.name for path in paths.FILMS.glob("*/qa.parquet"))
        raise FileNotFoundError(
            f"{folder}: no such cohort (there: {', '.join(made) or 'none'}); run `dvc repro`"
        )
    return folder


def answers(*systems: str) -> pl.DataFrame:
    """`questions("test")` once per system, with its answers and their scores.

    systems  names of predictions/<system>.parquet: predicted (the headline), gold, none, shuffled,
             blank_image, swapped_image; none given: predicted
    Adds system, given (the answer; null: none), prob_yes, prob_answer, parsed, score (0-1, the primary one of
    its format, metrics.py), iou, gold_class, pred_class and format. Raises FileNotFoundError, one line, when
    a system has not answered.
    """
    systems = systems or ("predicted",)
    given = {
        name: tables.read_table("predictions", paths.PREDICTIONS / f"{name}.parquet") for name in systems
    }
    asked = questions()
    parts = []
    for name, table in given.items():
        rows = metrics.score_answers(asked, table, asked, progress=True)
        scored = rows.select(
            *KEYS, "format", "parsed", "answered", "score", "iou", "gold_class", "pred_class"
        )
        own = table.select(*KEYS, "prob_yes", "prob_answer", given="answer")
        found = asked.join(own, on=KEYS, how="left", maintain_order="left")
        found = found.join(scored, on=KEYS, maintain_order="left")
        parts.append(found.select(pl.lit(name).alias("system"), pl.all()))
    return pl.concat(parts)


def compare(rows: pl.DataFrame, *, n_boot: int, seed: int) -> pl.DataFrame:
    """The systems of a slice of `answers`, the first of them beside each of the others.

    rows  some rows of `answers`, the same questions of every system
    Returns a row per system: system, n (answers), n_patients, score (mean of the stages there are, each the
    mean of its formats: of one stage and format simply its score), low, high (95 %, patients resampled),
    first_less_this and its low and high (paired), p. Raises ValueError for an empty slice, or when the
    systems answered different questions.
    """
    if rows.is_empty():
        raise ValueError("no answer is in this slice; choose a wider one")
    systems = {name: rows.filter(system=name) for name in rows["system"].unique(maintain_order=True)}
    first, table = next(iter(systems.values())), []
    for name, part in systems.items():
        found = evaluation.stage_scores(part, n_boot=n_boot, seed=seed).row(-1, named=True)  # the whole
        row = {"system": name, "n": part.height, "n_patients": part["patient_id"].n_unique()}
        row |= {key: found[key] for key in ("score", "low", "high")}
        test = evaluation.difference(first, part, n_boot=n_boot, seed=seed) if part is not first else {}
        row |= {"first_less_this": test.get("difference"), "difference_low": test.get("low")}
        table.append(row | {"difference_high": test.get("high"), "p": test.get("p")})
    numbers = dict.fromkeys(("first_less_this", "difference_low", "difference_high", "p"), pl.Float64)
    return pl.DataFrame(table, schema_overrides=numbers)


def draw_case(
    rows: pl.DataFrame, number: int = 0, boxes: str = "findings", *, cohort: str = "training"
) -> Figure:
    """The films of one case with gold boxes (yellow) and those that were answered, if any (blue, dashed).

    rows    of `questions`, or of one system of `answers`
    number  of the case, from 0, by sample_id
    boxes   "findings", "anatomy" or "none"
    """
    names = rows["sample_id"].unique().sort()
    case = rows.filter(sample_id=names[number % len(names)])
    study, folder = case.row(0, named=True), folder_of(cohort)
    asked = case.filter(qtype="detection").filter(
        pl.col("target").is_in(list(FINDINGS)) == (boxes == "findings")
    )
    gold, said = ([[] for _ in study["images"]] for _ in range(2))
    for turn in asked.iter_rows(named=True) if boxes != "none" else ():
        place = (turn["image_id"] or 1) - 1
        gold[place] += turn["bbox_list"] or []
        said[place] += [box for box in parse_boxes(turn.get("given") or "") if is_box(box)]
    labels = [*study["views"], *["prior film"] * (len(study["images"]) - len(study["views"]))]
    person = ", ".join(filter(None, [study["sex"], f"{study['age']:.0f} y" if study["age"] else ""]))
    labels[0] = (
        f"{study['sample_id']}\n{labels[0]}, {person}" if person else f"{study['sample_id']}\n{labels[0]}"
    )
    return film_figures.case_films(
        [images.read(folder / image) for image in study["images"]],
        labels,
        gold=gold,
        answered=said,
        origins=[study["image_origin"]] * len(labels),
    )


def conversation(rows: pl.DataFrame, number: int = 0) -> pl.DataFrame:
    """The questions of one case in the order of asking: stage, question, gold, and the answers if there are.

    rows, number  as in `draw_case`
    """
    names = rows["sample_id"].unique().sort()
    case = rows.filter(sample_id=names[number % len(names)]).sort("stage", "turn")
    answered = ["given", "score", "prob_yes"] if "given" in rows.columns else []
    return case.select("stage", "question", pl.col("answer").alias("gold"), *answered)
