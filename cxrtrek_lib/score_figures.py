"""Figures of scores: stage radars, systems side by side, stage x format; ablations.

As in figures.py, every function returns (figure, data, caption).
"""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from cxrtrek_lib.conversations import KINDS, STAGES
from cxrtrek_lib.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    RED,
    SKY,
    STAGE_LABELS,
    Drawing,
    letter,
    styled,
)
from cxrtrek_lib.inference_stats import with_interval

# System -> (label, colour, marker); colour and marker both tell systems apart.
SYSTEMS = {
    "predicted": ("own answers as context", BLUE, "o"),
    "gold": ("gold answers as context", ORANGE, "s"),
    "none": ("no context", GREEN, "^"),
    "shuffled": ("stages in shuffled order", PURPLE, "v"),
    "swapped_image": ("another patient's film", BLACK, "P"),
    "blank_image": ("blank image", RED, "D"),
    "untuned": ("before fine-tuning", GREY, "*"),
    "majority": ("majority answer", GREY, "X"),
    "constant": ("one answer per format", SKY, "d"),
}
# The same model and film, other earlier answers as context.
CONTEXT_MODES = ("predicted", "gold", "none", "shuffled")
# Looks of systems from outside (evaluate.systems), in the order in which they come; their name is the label.
GUESTS = tuple(zip((BLACK, PURPLE, GREEN, ORANGE, SKY), "<>hp8", strict=True))

# Arm of the ablations -> how it was trained.
ARMS = {
    "context": "in stage order,\nwith history",
    "no_context": "each question\nalone",
    "shuffled": "shuffled order,\nwith history",
    "tuned_encoder": "in stage order,\nencoder tuned",
}
# A panel a score: (key, title, unit).
PANELS = (
    ("overall", "Overall score", "mean of stage scores"),
    ("yes_no_balanced_accuracy", "Yes/no questions", "balanced accuracy"),
    ("detection_mean_iou", "Boxes", "mean IoU"),
)
TEXT = 0.55  # width of a panel that a score with its interval takes
# Context at test -> (label, colour, marker face).
TEST_CONTEXTS = {"predicted": ("own answers as context", BLUE, BLUE), "none": ("no context", GREEN, "white")}


def looks(names: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Label, colour and marker of each system: those of SYSTEMS in their order, then those from outside."""
    names = list(names)
    guests = [name for name in names if name not in SYSTEMS]
    ours = {name: look for name, look in SYSTEMS.items() if name in names}
    return ours | {name: (name, *GUESTS[k % len(GUESTS)]) for k, name in enumerate(guests)}


def _stage_table(systems: dict[str, pl.DataFrame]) -> pl.DataFrame:
    parts = [
        table.filter(pl.col("level") == "stage").select(
            pl.lit(name).alias("system"), "stage", "n", "score", "low", "high"
        )
        for name, table in systems.items()
    ]
    return pl.concat(parts)


@styled
def stage_radar(systems: dict[str, pl.DataFrame], *, origin: str) -> Drawing:
    """Figure 4 of the paper: one axis per stage, one line per system, 95 % intervals as radial bars.

    systems  name as in SYSTEMS, or one from outside -> evaluation.stage_scores table, same questions each
    Left the model beside systems that see no film and those from outside, right its own modes of context
    (left out when there is only one). A stage without questions has a dotted axis that says so; lines across
    it are dotted, too.
    """
    data = _stage_table(systems)
    look = looks(systems)
    contexts = [name for name in look if name in CONTEXT_MODES]
    others = [name for name in look if name == "predicted" or name not in CONTEXT_MODES]
    panels = [("Film and baselines", others), ("Context of earlier stages", contexts)]
    panels = panels[: 1 if len(contexts) < 2 else 2]
    width = PAGE if len(panels) == 2 else 0.55 * PAGE
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, 4.1), subplot_kw={"projection": "polar"}, squeeze=False
    )
    for k, (ax, (title, names)) in enumerate(zip(axes.flat, panels, strict=True)):
        _radar(ax, data.filter(pl.col("system").is_in(names)), {name: look[name] for name in names})
        ax.set_title(f"{'ab'[k]}  {title}", pad=26, loc="center")
    patients = max(table["n_patients"].max() for table in systems.values())
    caption = (
        f"Stage scores (0-1, mean of the primary metrics of the stage's formats) of {len(systems)} "
        f"systems on the test split, {patients:,} patients, {origin} films; the model with its own answers "
        "as context (a) beside systems that do not see the film or come from elsewhere, (b) beside the same "
        "model with other contexts. Bars: 95 % patient-cluster bootstrap intervals. "
        "Stages marked 'no questions' are not scored."
    )
    if len(panels) == 1:
        caption = caption.replace(" (a)", "").replace(", (b) beside the same model with other contexts", "")
    return figure, data, caption


def _radar(ax: Axes, data: pl.DataFrame, look: dict[str, tuple[str, str, str]]) -> None:
    """One radar; data with columns system, stage, n, score, low, high."""
    asked = sorted(data["stage"].unique())
    angle = {stage: 2 * np.pi * k / len(STAGES) for k, stage in enumerate(STAGES)}
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    ax.set_ylim(0, 1)
    ax.set_yticks([0.25, 0.5, 0.75, 1], ["0.25", "0.5", "0.75", ""], color=GREY, fontsize=6)
    ax.set_rlabel_position(np.degrees(angle[5] + angle[6]) / 2)  # where scores are low: least drawn over
    ax.set_xticks([angle[stage] for stage in STAGES], [""] * len(STAGES))
    ax.xaxis.grid(False)
    ax.spines["polar"].set_color("#CCCCCC")
    counts = dict(data.select("stage", "n").unique().iter_rows())
    for stage, label in STAGE_LABELS.items():
        there = stage in asked
        ax.plot([angle[stage]] * 2, [0, 1], color="#BBBBBB", lw=0.6, ls="-" if there else (0, (1, 3)))
        x, y = np.sin(angle[stage]), np.cos(angle[stage])
        side = "center" if abs(x) < 0.1 else ("left" if x > 0 else "right")
        words = textwrap.fill(label, 15 if abs(x) > 0.1 else 40)
        text = f"{words}\n" + (f"n = {counts[stage]:,}" if there else "no questions")
        up = "center" if abs(y) < 0.1 else ("bottom" if y > 0 else "top")
        ax.text(angle[stage], 1.07, text, ha=side, va=up, color=BLACK if there else GREY, fontsize=6)
    for k, (name, (label, colour, marker)) in enumerate(look.items()):
        points = {row["stage"]: row for row in data.filter(system=name).iter_rows(named=True)}
        shift = (k - (len(look) - 1) / 2) * 0.045  # systems side by side, so that bars do not hide bars
        for here, there in zip(asked, [*asked[1:], asked[0]], strict=True):
            whole = (there - here) % len(STAGES) == 1
            ends = [angle[here] + shift, angle[there] + shift + (2 * np.pi if there <= here else 0)]
            line = _chord(ends, [points[here]["score"], points[there]["score"]])
            ax.plot(*line, color=colour, lw=1.0 if whole else 0.8, ls="-" if whole else (0, (1, 2)))
        at = [angle[stage] + shift for stage in asked]
        for theta, stage in zip(at, asked, strict=True):
            ends = [points[stage]["low"], points[stage]["high"]]
            ax.plot([theta] * 2, ends, color=colour, lw=2.4, alpha=0.35)
        heights = [points[stage]["score"] for stage in asked]
        ax.plot(at, heights, marker, color=colour, mec="white", mew=0.5, ms=4.5, label=label)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, handletextpad=0.2, columnspacing=1.2)


def _chord(theta: Sequence[float], radius: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The straight line between two points of a polar plot, which Matplotlib would draw as a spiral."""
    share = np.linspace(0, 1, 40)
    x = (1 - share) * radius[0] * np.cos(theta[0]) + share * radius[1] * np.cos(theta[1])
    y = (1 - share) * radius[0] * np.sin(theta[0]) + share * radius[1] * np.sin(theta[1])
    return np.arctan2(y, x), np.hypot(x, y)


@styled
def context_modes(evaluation: dict[str, Any], *, origin: str) -> Drawing:
    """Every system beside the others: overall score, yes/no balanced accuracy, mean IoU of boxes.

    evaluation  the content of evaluation.json
    """
    look = looks(evaluation["overall"])
    names = list(look)
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 0.8 + 0.26 * len(names)), sharey=True)
    rows = []
    for k, (ax, (key, title, unit)) in enumerate(zip(axes, PANELS, strict=True)):
        for row, name in enumerate(names):
            found = evaluation[key][name]
            rows.append({"panel": key, "system": name} | found)
            _, colour, marker = look[name]
            if not found["n"]:
                ax.text(0.5, row, "no questions", color=GREY, ha="center", va="center")
                continue
            ax.plot([found["low"], found["high"]], [row, row], "|-", color=colour, lw=1.4, ms=5, mew=1.2)
            ax.plot(found["score"], row, marker, color=colour, mec="white", mew=0.5, ms=4)
            text = with_interval(found)
            right = found["low"] > TEXT  # the text stands where there is room
            ax.annotate(
                text,
                (found["low"] if right else found["high"], row),
                xytext=(-4 if right else 4, 0),
                textcoords="offset points",
                ha="right" if right else "left",
                va="center",
                fontsize=5.5,
            )
        ax.set_yticks(range(len(names)), [look[name][0] for name in names])
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        ax.grid(axis="x")
        ax.set_xlabel(unit)
        letter(ax, "abc"[k], title)
    axes[1].axvline(0.5, color=BLACK, lw=0.7, ls=(0, (4, 2)), zorder=0)
    n = evaluation["overall"][names[0]]["n"]
    caption = (
        f"Systems on the same {n:,} test questions ({origin} films): score with 95 % patient-cluster "
        "bootstrap "
        "interval. Dashed: balanced accuracy of any constant answer."
    )
    return figure, pl.DataFrame(rows, infer_schema_length=None), caption


@styled
def stage_format_heatmap(table: pl.DataFrame, *, system: str, origin: str) -> Drawing:
    """Score of every stage x format of one system, with n; hatched where no question exists.

    table  evaluation.stage_scores of the system
    """
    cells = table.filter(pl.col("level") == "format")
    found = {(row["stage"], row["format"]): row for row in cells.iter_rows(named=True)}
    values = np.array([[found.get((s, kind), {}).get("score", np.nan) for kind in KINDS] for s in STAGES])
    texts = [
        [
            f"{found[s, kind]['score']:.2f}\nn = {found[s, kind]['n']:,}" if (s, kind) in found else ""
            for kind in KINDS
        ]
        for s in STAGES
    ]
    figure, ax = plt.subplots(figsize=(PAGE * 0.66, 3.7))
    frame = pl.DataFrame(values, schema=list(KINDS)).to_pandas().set_axis(list(STAGE_LABELS.values()))
    ax.add_patch(
        Rectangle((0, 0), len(KINDS), len(STAGES), hatch="////", fc="white", ec="#DDDDDD", lw=0, zorder=0)
    )
    bar = {"label": "primary score", "shrink": 0.8}
    look = {"cmap": "cividis", "linewidths": 0.8, "linecolor": "white", "annot_kws": {"fontsize": 6.5}}
    hidden = np.isnan(values)
    sns.heatmap(
        frame, ax=ax, vmin=0, vmax=1, annot=np.array(texts), fmt="", mask=hidden, cbar_kws=bar, **look
    )
    scale = plt.get_cmap(look["cmap"])
    for text in ax.texts:  # seaborn writes white on tan, which few can read
        x, y = text.get_position()
        text.set_color(_ink(scale(values[int(y), int(x)])))
    ax.tick_params(length=0)
    ax.tick_params(axis="y", rotation=0)
    ax.xaxis.tick_top()
    caption = (
        f"Primary score (0-1) of every stage and response format, {SYSTEMS[system][0]}, {origin} films; "
        "n answers. Hatched: no such question. "
        "Open-ended: mean of ROUGE-L F1 and finding-F1; close-ended: balanced accuracy; "
        "choice: exact set; detection: F1 at IoU 0.5. Intervals are in the table of stage scores."
    )
    return figure, cells, caption


def _ink(fill: Sequence[float]) -> str:
    """Black or white, whichever contrasts more with a colour (relative luminance, WCAG 2.2)."""
    rgb = np.array(to_rgb(fill))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "white" if linear @ (0.2126, 0.7152, 0.0722) < 0.18 else "black"


@styled
def ablation_forest(found: dict[str, Any], *, origin: str) -> Drawing:
    """The arms of the ablations: three scores with 95 % intervals, and how far each is from the reference.

    found  the content of ablations.json; `majority` in its arms is drawn as a line
    """
    names = [name for name in ARMS if name in found["arms"]]
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 0.95 + 0.52 * len(names)), sharey=True)
    rows = []
    for k, (ax, (key, title, unit)) in enumerate(zip(axes, PANELS, strict=True)):
        for row, name in enumerate(names):
            for shift, context in zip((-0.17, 0.17), TEST_CONTEXTS, strict=True):
                score = found["arms"][name][context][key]
                rows.append({"panel": key, "arm": name, "context": context} | score)
                _, colour, face = TEST_CONTEXTS[context]
                if score["n"]:
                    ax.plot([score["low"], score["high"]], [row + shift] * 2, color=colour, lw=1.6)
                    ax.plot(score["score"], row + shift, "o", color=colour, mfc=face, ms=5)
        baseline = found["arms"]["majority"]["none"][key]
        rows.append({"panel": key, "arm": "majority", "context": "none"} | baseline)
        if baseline["n"]:
            ax.axvline(baseline["score"], color=GREY, lw=0.9, ls=(0, (4, 2)))
        ax.set_yticks(range(len(names)), [ARMS[name] for name in names])
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="x")
        ax.set_xlabel(unit)
        letter(ax, "abc"[k], title)
    tests = found["differences"]
    beside = {"transform": axes[-1].get_yaxis_transform(), "va": "center", "fontsize": 6}
    axes[-1].text(1.06, -0.62, "overall score less the reference's", **beside)
    for row, name in enumerate(names):
        for shift, context in zip((-0.17, 0.17), TEST_CONTEXTS, strict=True):
            test = tests.get(f"{name}, {context}")
            said = "reference"
            if test is not None:
                interval = f"{test['low']:+.3f} to {test['high']:+.3f}"
                said = f"{round(test['difference'], 3) + 0.0:+.3f} ({interval}), p {test['p_holm']:.3f}"
            axes[-1].text(1.06, row + shift, said, color=TEST_CONTEXTS[context][1], **beside)
    handles = [
        plt.Line2D([], [], color=colour, mfc=face, marker="o", ms=5, lw=1.6, label=label)
        for label, colour, face in TEST_CONTEXTS.values()
    ]
    handles.append(plt.Line2D([], [], color=GREY, lw=0.9, ls=(0, (4, 2)), label="majority answer"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    n = found["arms"][names[0]]["predicted"]["overall"]["n"]
    caption = (
        f"Trainings of equal budget that differ in one thing, on the same {n:,} questions of test cases "
        f"({origin} films): scores with 95 % patient-cluster bootstrap intervals. Right: difference of the "
        "overall score to the first row, with its interval and the p of the paired patient-level "
        "randomisation test after Holm's correction. One run of each."
    )
    return figure, pl.DataFrame(rows, infer_schema_length=None), caption
