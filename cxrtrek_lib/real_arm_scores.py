"""What came of the arms on real NIH films: AUROC with intervals, paired differences, the answer in words."""

import numpy as np
import polars as pl
from matplotlib import pyplot as plt
from scipy.stats import rankdata

from cxrtrek_lib import figures, inference_stats
from cxrtrek_lib.real_arm import (
    FROZEN,
    GREY_LEVELS,
    NO_ENCODER,
    SCRATCH,
    SIMULATED,
    TASKS,
    TUNED,
    UNTOUCHED,
    Films,
)
from cxrtrek_lib.real_tuning import EPOCHS

VIEW_ALONE = "view alone"  # what it gives away about pneumonia that AP and PA films are not equally ill
SCORES = {
    "task": pl.String, "start": pl.String, "adapted": pl.String, "n": pl.Int64, "n_positive": pl.Int64,
    "n_patients": pl.Int64, "auroc": pl.Float64, "low": pl.Float64, "high": pl.Float64,
}  # fmt: skip
DIFFERENCES = {
    "task": pl.String, "first": pl.String, "second": pl.String, "pretraining": pl.Boolean,
    "difference": pl.Float64, "low": pl.Float64, "high": pl.Float64, "joint_low": pl.Float64,
    "joint_high": pl.Float64,
}  # fmt: skip
COLOURS = {SIMULATED: figures.BLUE, SCRATCH: figures.ORANGE, NO_ENCODER: figures.GREY}


def nothing() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Scores and differences without a row, of arms that were not run."""
    return pl.DataFrame(schema=SCORES), pl.DataFrame(schema=DIFFERENCES)


def metrics(
    status: str, real: Films | None, table: pl.DataFrame, gaps: pl.DataFrame, chosen: list[dict]
) -> dict:
    """What reports/metrics/real_films.json holds; nothing but the status when it was not run."""
    if real is None:
        return {"status": status}
    area = {task: {} for task in TASKS}
    for row in table.iter_rows(named=True):
        area[row["task"]][f"{row['start']}, {row['adapted']}"] = {
            key: row[key] for key in ("auroc", "low", "high")
        }
    return {
        "status": status,
        "image_origin": "real",
        "n_films": real.table.height,
        "n_patients": real.table["patient_id"].n_unique(),
        "n_positive": {task: int(real.table[task].sum()) for task in TASKS},
        "left_out": real.left_out,
        "unreadable": real.unreadable,
        "answer": words(gaps, chosen),
        "auroc": area,
        "differences": gaps.to_dicts(),
        "chosen": chosen,
    }


def scores(answers: pl.DataFrame, **draws: int) -> pl.DataFrame:
    """One row per task and arm (SCORES), and what the view alone says of pneumonia.

    answers  of real_arm.answers; draws: n_boot and seed. Intervals resample patients. Five models have five
    scales: where a film was scored by the model of its fold, its score is its rank in that fold.
    """
    rows = []
    for (task, start, adapted), arm in _arms(answers).items():
        area = inference_stats.auroc(arm["label"], arm["score"], arm["patient_id"], **draws)
        rows.append((task, start, adapted, *_counts(arm), *area))
    arm = _arms(answers)[TASKS[0], SIMULATED, FROZEN]
    views = answers.filter(pl.col("task") == TASKS[1]).select("image", view="label").unique("image")
    known = arm.join(views, on="image", maintain_order="left")
    ill = known.group_by("view").agg(pl.col("label").mean()).sort("label")["view"][-1]  # the view with more
    area = inference_stats.auroc(known["label"], known["view"] == ill, known["patient_id"], **draws)
    rows.append((TASKS[0], NO_ENCODER, VIEW_ALONE, *_counts(known), *area))
    return pl.DataFrame(rows, schema=SCORES, orient="row")


def differences(answers: pl.DataFrame, **draws: int) -> pl.DataFrame:
    """Paired differences of AUROC (DIFFERENCES): pretrained less scratch, then tuned less frozen.

    low, high of each alone (95 %); joint_low, joint_high so wide that all of its kind hold together in 95 %
    (Bonferroni): with four comparisons, one in five families of no difference would show one otherwise.
    """
    arms, rows = _arms(answers), []
    pairs = [((SIMULATED, each), (SCRATCH, each), True) for each in (FROZEN, TUNED)]
    pairs += [((start, TUNED), (start, FROZEN), False) for start in (SIMULATED, SCRATCH)]
    for task in TASKS:
        for first, second, pretraining in pairs:
            one, other = arms[task, *first], arms[task, *second]
            films = one["label"], one["score"], other["score"], one["patient_id"]
            gap = inference_stats.auroc_difference(*films, **draws)
            family = len(TASKS) * sum(each[2] == pretraining for each in pairs)
            _, *joint = inference_stats.auroc_difference(*films, **draws, level=1 - 0.05 / family)
            rows.append((task, ", ".join(first), ", ".join(second), pretraining, *gap, *joint))
    return pl.DataFrame(rows, schema=DIFFERENCES, orient="row")


def words(gaps: pl.DataFrame, chosen: list[dict]) -> list[str]:
    """Whether pretraining on simulated films helps on real ones: the answer, then a sentence a comparison.

    gaps  of `differences`; chosen  of real_arm.answers: whether tuning was long enough is told, too
    A difference counts when its joint interval leaves 0 behind.
    """
    told, better, worse = [], 0, 0
    for row in gaps.filter(pl.col("pretraining")).iter_rows(named=True):
        up, down = row["joint_low"] > 0, row["joint_high"] < 0
        better, worse = better + up, worse + down
        found = "better" if up else "worse" if down else "no difference shown"
        told.append(
            f"{row['task']}, {row['first'].split(', ')[1]} encoder: {found} "
            f"({row['difference']:+.3f}, joint interval {row['joint_low']:+.3f} to {row['joint_high']:+.3f})"
        )
    n = len(told)
    answer = (
        f"Yes, in all {n} comparisons." if better == n
        else f"In {better} of {n} comparisons; it harms in {worse}." if better and worse
        else f"In {better} of {n} comparisons; in the others no difference is shown." if better
        else f"No: it harms in {worse} of {n} comparisons and is not shown to help in any." if worse
        else f"No: in none of {n} comparisons is it shown to help."
    )  # fmt: skip
    last = [
        f"{sum(each['epoch'] == EPOCHS for each in mine)} of {len(mine)} from {start}"
        for start in (SIMULATED, SCRATCH)
        if (mine := [each for each in chosen if (each["start"], each["adapted"]) == (start, TUNED)])
    ]
    return [
        f"Does pretraining on simulated films help on real ones? {answer}",
        *told,
        f"The best epoch was the last of {EPOCHS} in {', '.join(last)}: with more of them tuning might gain.",
    ]


@figures.styled
def forest(table: pl.DataFrame, *, status: str, n_boot: int) -> figures.Drawing:
    """AUROC of every arm with its interval, task by task; says so when nothing was run.

    table  of `scores`, or one without rows; status  as real_arm.load gives it
    """
    figure, axes = plt.subplots(1, len(TASKS), figsize=(figures.PAGE, 2.1), sharex=True)
    for ax, task, name in zip(axes, TASKS, "ab", strict=True):
        rows = table.filter(pl.col("task") == task)
        for place, row in enumerate(rows.iter_rows(named=True)):
            colour = COLOURS[row["start"]]
            ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.2)
            ax.plot(row["auroc"], place, "o", color=colour)
        ax.set_yticks(range(rows.height), [f"{row[1]}, {row[2]}" for row in rows.iter_rows()])
        ax.set_ylim(max(rows.height, 1) - 0.5, -0.5)
        ax.axvline(0.5, color=figures.BLACK, lw=0.6, ls=":")
        ax.set(xlim=(min(0.47, table["low"].min() - 0.02) if table.height else 0, 1.01), xlabel="AUROC")
        if not rows.height:
            ax.text(0.5, 0, "not run", ha="center", va="center", color=figures.GREY)
        figures.letter(ax, name, task)
    if not table.height:
        return figure, table, f"AUROC on real films of NIH ChestX-ray14: {status}."
    (n,) = table["n"].unique()
    counts = "; ".join(f"{task}: {table.filter(task=task)['n_positive'][0]} positive" for task in TASKS)
    caption = (
        f"AUROC on {n} real films of {table['n_patients'][0]} patients of NIH ChestX-ray14 ({counts}), each "
        "scored by a model that saw no film of its patient, in five folds. Bars: 95 % bootstrap intervals "
        f"over patients ({n_boot:,} draws); dotted: chance. Labels are mined from reports. '{SIMULATED}' and "
        f"'{SCRATCH}': what the encoder was pretrained on; '{UNTOUCHED}': its own answer, no real film seen; "
        f"'{GREY_LEVELS}' (a film's histogram) and '{VIEW_ALONE}' (the view with more pneumonia called "
        "positive) are baselines. Grey levels of the simulated films were set by hand on a sample of 381 NIH "
        "films, which these may be."
    )
    return figure, table, caption


def _counts(arm: pl.DataFrame) -> tuple[int, int, int]:
    return arm.height, arm["label"].sum(), arm["patient_id"].n_unique()


def _arms(answers: pl.DataFrame) -> dict[tuple[str, str, str], pl.DataFrame]:
    """(task, start, adapted) -> its films in one order for all arms, scores made comparable between folds."""
    arms = {}
    for key, arm in answers.sort("image").group_by("task", "start", "adapted", maintain_order=True):
        if key[2] != UNTOUCHED:
            fold, score = arm["fold"].to_numpy(), arm["score"].to_numpy()
            ranks = np.empty(arm.height)
            for one in np.unique(fold):
                inside = fold == one
                ranks[inside] = rankdata(score[inside]) / (inside.sum() + 1)
            arm = arm.with_columns(score=ranks)
        arms[key] = arm
    order = [(task, start, adapted) for task in TASKS for start in (SIMULATED, SCRATCH, NO_ENCODER)
             for adapted in (UNTOUCHED, FROZEN, TUNED, GREY_LEVELS)]  # fmt: skip
    return {key: arms[key] for key in order if key in arms}
