"""Figures of errors on their way: exposure gap, cross-stage matrix, flips, reports; and reliability.

As in figures.py, every function returns (figure, data, caption).
"""

import textwrap

import numpy as np
import polars as pl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cxrtrek_lib.calibration import BINS
from cxrtrek_lib.conversations import REPORT_STAGE, STAGES
from cxrtrek_lib.figures import (
    BLACK,
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    RED,
    SKY,
    STAGE_LABELS,
    Drawing,
    letter,
    styled,
)
from cxrtrek_lib.intervention import ABOUT
from cxrtrek_lib.traceability import WRONG_BELOW

MATRICES = {"predicted": "Own answers as context", "gold": "Annotated answers as context"}
_WRONG = f"Wrong: primary score below {WRONG_BELOW}."
_INTERVAL = "95 % patient-cluster bootstrap intervals"
_LOOK = {  # what a question is about -> (label, colour, marker)
    ABOUT[0]: ("about the flipped finding", BLUE, "o"),
    ABOUT[1]: ("about other findings", ORANGE, "s"),
    ABOUT[2]: ("about the whole study", GREEN, "^"),
}


def _bar(ax: Axes, low: float, high: float, at: float, colour: str, *, upright: bool = False) -> None:
    """A 95 % interval."""
    ends = ([at, at], [low, high]) if upright else ([low, high], [at, at])
    ax.plot(*ends, color=colour, lw=1.4, alpha=0.75, solid_capstyle="butt")


def _say_origin(figure: Figure, origin: str) -> None:
    """Where the films come from, small, in the lower left corner of the picture."""
    figure.text(0.005, 0.008, f"{origin} films", color=GREY, fontsize=5, ha="left", va="bottom")


@styled
def exposure_gap(table: pl.DataFrame, *, origin: str) -> Drawing:
    """Gap between annotated and own answers as context, by stage and overall.

    table  of traceability.exposure_gap
    """
    figure, ax = plt.subplots(figsize=(COLUMN, 0.6 + 0.22 * table.height))
    ax.axvline(0, color=BLACK, lw=0.6)
    for row, entry in enumerate(table.iter_rows(named=True)):
        colour = BLACK if entry["stage"] is None else BLUE
        _bar(ax, entry["low"], entry["high"], row, colour)
        ax.plot(entry["gap"], row, "D" if entry["stage"] is None else "o", color=colour)
        beside = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 6}
        ax.text(1.02, row, f"{round(entry['gap'], 3) + 0.0:+.3f}  n = {entry['n']:,}", **beside)
    ax.set_yticks(range(table.height), [STAGE_LABELS.get(stage, "overall") for stage in table["stage"]])
    ax.set_ylim(table.height - 0.5, -0.5)
    ax.set_xlabel("score: annotated less own context")
    ax.grid(axis="x")
    _say_origin(figure, origin)
    caption = (
        "Exposure gap: score with the annotated earlier answers as context less that with the model's own, "
        f"the same questions, {origin} films, with {_INTERVAL}. To the right of 0, own errors cost score."
    )
    return figure, table, caption


@styled
def cross_stage_matrices(tables: dict[str, pl.DataFrame], *, origin: str) -> Drawing:
    """P(wrong at j | wrong at i) for every pair of stages, the null beneath each number.

    tables  key of MATRICES -> traceability.cross_stage
    """
    data = pl.concat(
        [table.select(pl.lit(name).alias("context"), pl.all()) for name, table in tables.items()]
    )
    reach = max(0.05, data["excess"].abs().max() or 0.0)
    scale, colours = Normalize(-reach, reach), plt.get_cmap("RdBu_r")
    figure, axes = plt.subplots(1, len(tables), figsize=(PAGE, 3.05), sharey=True, squeeze=False)
    for k, (ax, (name, table)) in enumerate(zip(axes.flat, tables.items(), strict=True)):
        ax.add_patch(Rectangle((0.5, 0.5), 8, 8, hatch="////", fc="white", ec="#DDDDDD", lw=0, zorder=0))
        for stage in STAGES:
            ax.add_patch(Rectangle((stage - 0.5, stage - 0.5), 1, 1, fc="#EEEEEE", ec="white", lw=0.8))
        found = table.drop_nulls("observed").with_columns(pl.col("p_holm").fill_null(1.0))
        for cell in found.iter_rows(named=True):
            x, y = cell["stage"], cell["given"]
            fill = colours(scale(cell["excess"]))
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=fill, ec="white", lw=0.8))
            ink = "white" if abs(cell["excess"]) > 0.6 * reach else BLACK
            ax.text(x, y - 0.16, f"{cell['observed']:.2f}", color=ink, fontsize=6.5, ha="center", va="center")
            ax.text(x, y + 0.24, f"{cell['null']:.2f}", color=ink, fontsize=5, ha="center", va="center")
        for cell in found.filter(pl.col("p_holm") < 0.05).iter_rows(named=True):
            place = (cell["stage"] - 0.46, cell["given"] - 0.46)
            ax.add_patch(Rectangle(place, 0.92, 0.92, fc="none", ec=BLACK, lw=1.2))
        ax.set_xlim(0.5, 8.5)
        ax.set_ylim(8.5, 0.5)
        ax.set_aspect("equal")
        ax.set_xticks(list(STAGES))
        ax.set_yticks(list(STAGES), [STAGE_LABELS[stage] for stage in STAGES])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_xlabel("stage of the other answer, j")
        letter(ax, "abcd"[k], MATRICES[name])
    axes[0, 0].set_ylabel("stage with a wrong answer, i")
    label = "P(wrong at j | wrong at i) less null"
    figure.colorbar(plt.cm.ScalarMappable(scale, colours), ax=axes, shrink=0.75, pad=0.01, label=label)
    _say_origin(figure, origin)
    n_patients = data["n_patients"].max()
    caption = (
        "Do errors go together? Large: how often an answer of stage j is wrong when one of stage i in the "
        "same case is; small: the same with stage j of another patient (patients permuted). Red: more often "
        f"than by chance. Framed: p < 0.05 after Holm's correction over all pairs. {_WRONG} With "
        "annotated context an error is not passed on: what remains there comes from films and questions that "
        f"are hard. Up to {n_patients:,} patients, {origin} films; intervals: see table. Hatched: no case."
    )
    return figure, data, caption


@styled
def intervention(effects: pl.DataFrame, follows: pl.DataFrame, *, origin: str) -> Drawing:
    """What one flipped early answer changes in later answers, and what reports say of the finding then.

    effects, follows  of intervention.effects and intervention.report_follows
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(PAGE, 2.7), sharey=False, gridspec_kw={"width_ratios": (3, 2)}
    )
    by_stage = pl.col("stage").is_not_null() & pl.col("flip").is_null()
    stages = effects.filter(by_stage, pl.col("about").is_in(ABOUT))
    shifts = dict(zip(_LOOK, (-0.22, 0.0, 0.22), strict=True))
    for about, (label, colour, marker) in _LOOK.items():
        part = stages.filter(about=about)
        for entry in part.iter_rows(named=True):
            at = entry["stage"] + shifts[about]
            _bar(left, entry["changed_low"], entry["changed_high"], at, colour, upright=True)
        at = part["stage"].to_numpy() + shifts[about]
        look = {"color": colour, "mec": "white", "mew": 0.5, "ms": 5, "clip_on": False}
        left.plot(at, part["changed"], marker, label=label, **look)
    places = [stage for stage in STAGES if stage > 1]
    titles = [textwrap.fill(STAGES[stage][0], 12, break_long_words=False) for stage in places]
    names = [f"{stage}\n{title}" for stage, title in zip(places, titles, strict=True)]
    left.set_xticks(places, names, fontsize=5.5)
    left.set_xlim(1.5, 8.5)
    left.set_ylim(bottom=0)
    left.set_ylabel("share of later answers that change")
    left.grid(axis="y")
    letter(left, "a", "After one flipped answer of stage 2")
    figure.legend(loc="outside lower center", ncols=3, handletextpad=0.2, columnspacing=1.2)
    said = {
        "as_flipped": ("as flipped", BLUE),
        "against": ("the opposite", ORANGE),
        "silent": ("nothing", GREY),
    }
    contexts = follows.filter(pl.col("context") != "difference") if follows.height else follows
    for row, entry in enumerate(contexts.iter_rows(named=True)):
        for k, (name, (_, colour)) in enumerate(said.items()):
            at = k + (0.16 if row else -0.16)
            look = {"color": colour} if row else {"color": "white", "edgecolor": colour}
            right.bar(at, entry[name], 0.3, lw=0.9, **look)
            ends = ([at, at], [entry[f"{name}_low"], entry[f"{name}_high"]])
            right.plot(*ends, color=BLACK, lw=0.8, solid_capstyle="butt")
    right.set_xticks(range(len(said)), [label for label, _ in said.values()])
    right.set_ylabel("share of reports")
    right.set_xlabel("what the report says of the finding\n(open: own answer; filled: flipped answer)")
    right.set_ylim(0, 1)
    letter(right, "b", "Does the report follow?")
    _say_origin(figure, origin)
    n = effects.filter(pl.col("about").is_null(), pl.col("stage").is_null())
    counts = (n["n"].sum(), n["n_cases"].sum())
    caption = (
        "One yes/no answer of stage 2 on the presence of a finding, drawn by hash in each case, is turned "
        f"into its opposite in the context; {counts[0]:,} later answers of {counts[1]:,} cases, {origin} "
        "films. (a) Later answers whose text differs from that without the flip. (b) What reports say of the "
        f"finding with and without the flip. {_INTERVAL[0].upper()}{_INTERVAL[1:]}."
    )
    data = pl.concat(
        [
            effects.select(pl.lit("a").alias("panel"), pl.all()),
            follows.select(pl.lit("b").alias("panel"), pl.all()),
        ],
        how="diagonal",
    )
    return figure, data, caption


@styled
def report_errors(
    contradictions: pl.DataFrame, first: pl.DataFrame, errors: pl.DataFrame, *, origin: str
) -> Drawing:
    """Reports against earlier answers: contradictions, first wrong stage, where wrong statements begin.

    contradictions, errors  of consistency.contradictions and consistency.report_errors
    first                   of traceability.first_wrong_stage
    """
    figure, ((a, b), (c, d)) = plt.subplots(2, 2, figsize=(PAGE, 4.4))
    later = sorted(contradictions["stage"].unique()) if contradictions.height else []
    for shift, system, label, colour, marker in (
        (-0.12, "predicted", "the model's own answers", BLUE, "o"),
        (0.12, "annotated", "annotated answers", GREY, "s"),
    ):
        part = contradictions.filter(system=system) if contradictions.height else contradictions
        for k, entry in enumerate(part.iter_rows(named=True)):
            at = later.index(entry["stage"]) + shift
            _bar(a, entry["contradicts_low"], entry["contradicts_high"], at, colour)
            a.plot(entry["contradicts"], at, marker, color=colour, label=label if k == 0 else None)
            note = f"{entry['contradicts']:.2f}, n = {entry['n']:,}"
            a.annotate(note, (entry["contradicts_high"], at), (5, 0), textcoords="offset points", va="center",
                       fontsize=6)  # fmt: skip
    a.set_yticks(range(len(later)), [STAGE_LABELS[stage] for stage in later])
    a.set_ylim(len(later) - 0.4, -0.6)
    a.set_xlim(-0.02, 1)
    a.set_xlabel("share of later statements that contradict stage 2")
    if later:
        a.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handletextpad=0.2)
    letter(a, "a", "Contradictions within a case")
    places = [*range(1, REPORT_STAGE), None]
    for shift, kind, colour in ((-0.2, "wrong", RED), (0.2, "right", SKY)):
        part = first.filter(report=kind)
        share = dict(part.select("stage", "share").iter_rows())
        heights = [share.get(stage, 0.0) for stage in places]
        label = f"{kind} report (n = {part['n_cases'].sum():,})"
        b.bar(np.arange(len(places)) + shift, heights, 0.38, color=colour, label=label)
    b.set_xticks(range(len(places)), [*map(str, range(1, REPORT_STAGE)), "none"])
    b.set_xlabel("stage of the first wrong answer")
    b.set_ylabel("share of cases")
    b.legend(loc="upper right")
    letter(b, "b", "First wrong stage of a case")
    lines = list(errors.iter_rows(named=True))
    total = max(1, sum(entry["n_wrong"] for entry in lines))
    for row, entry in enumerate(lines):
        missed, invented = entry["n_missed"] / total, entry["n_invented"] / total
        c.barh(row, missed, 0.6, color=BLUE, label="left out" if row == 0 else None)
        c.barh(row, invented, 0.6, left=missed, color=ORANGE, label="invented" if row == 0 else None)
        if entry["of_wrong"] is not None:
            c.plot([entry["of_wrong_low"], entry["of_wrong_high"]], [row, row], color=BLACK, lw=0.8)
        _bar(d, entry["risk_low"], entry["risk_high"], row, BLUE)
        d.plot(entry["risk"], row, "o", color=BLUE)
        beside = {"transform": d.get_yaxis_transform(), "va": "center", "fontsize": 6}
        d.text(1.02, row, f"{entry['risk']:.2f}, n = {entry['n']:,}", **beside)
    for ax in (c, d):
        ax.set_yticks(range(len(lines)), [entry["origin"] for entry in lines])
        ax.set_ylim(len(lines) - 0.4, -0.6)
    if lines:
        c.legend(loc="lower right")
    c.set_xlabel("share of wrong statements of reports")
    letter(c, "c", "First wrong answer about the finding")
    d.set_yticklabels([])
    d.set_xlim(0, 1.02)
    d.grid(axis="x")
    d.set_xlabel("share of statements that is wrong")
    _say_origin(figure, origin)
    letter(d, "d", "Risk of a wrong statement, by origin")
    caption = (
        "Reports beside the answers before them, own answers as context, "
        f"{origin} films. (a) Statements of later stages that contradict the answer of stage 2 on the same "
        "finding; annotated answers show the noise of reading texts. (b) Stage of a case's first wrong "
        f"answer, for cases with a wrong and with a right report. {_WRONG} (c) Findings that reports leave "
        "out or invent, by the stage of the first wrong answer that names the finding; (d) how often a "
        f"report is wrong about a finding, by the same origin, {sum(entry['n'] for entry in lines):,} "
        f"findings stated in a report or its annotated text. {_INTERVAL[0].upper()}{_INTERVAL[1:]}."
    )
    data = pl.concat(
        [
            table.select(pl.lit(panel).alias("panel"), pl.all())
            for panel, table in (("a", contradictions), ("b", first), ("c, d", errors))
        ],
        how="diagonal_relaxed",
    )
    return figure, data, caption


@styled
def reliability(tables: dict[str, pl.DataFrame], summary: pl.DataFrame, *, origin: str) -> Drawing:
    """Observed share of the event against the stated probability, with the number of answers per bin.

    tables   kind (yes_no, choice) -> calibration.reliability
    summary  calibration.summary of the same system
    """
    names = {
        "yes_no": ("Yes/no", "P(yes)", "share of annotated yes"),
        "choice": ("Choice", "P(answer)", "share right"),
    }
    figure, axes = plt.subplots(
        2, 2, figsize=(COLUMN, 2.7), sharex=True, gridspec_kw={"height_ratios": (3, 1)}, squeeze=False
    )
    for k, (kind, (title, unit, share)) in enumerate(names.items()):
        top, low = axes[0, k], axes[1, k]
        table = tables[kind]
        top.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=(0, (4, 2)))
        for entry in table.iter_rows(named=True):
            _bar(top, entry["low"], entry["high"], entry["mean_probability"], BLUE, upright=True)
        top.plot(table["mean_probability"], table["observed"], "o-", color=BLUE, lw=0.8, ms=3)
        low.bar(table["from"] + 0.5 / BINS, table["n"], 0.9 / BINS, color=SKY)
        found = summary.filter(kind=kind).row(0, named=True)
        if found["n"]:
            interval = f"({found['ece_low']:.3f}-{found['ece_high']:.3f})"
            text = f"ECE {found['ece']:.3f}\n{interval}\nBrier {found['brier']:.3f}"
            top.text(0.04, 0.98, text, transform=top.transAxes, va="top", fontsize=6)
        else:
            top.text(0.5, 0.5, "no probability", transform=top.transAxes, ha="center", color=GREY)
        top.set_xlim(0, 1)
        top.set_ylim(0, 1)
        top.set_ylabel(share)
        low.set_ylabel("n")
        low.set_xlabel(unit)
        low.yaxis.set_major_locator(plt.MaxNLocator(2, integer=True))
        letter(top, "ab"[k], title)
    figure.align_ylabels()
    _say_origin(figure, origin)
    n = [
        f"{found['n']:,} {names[found['kind']][0].lower()} answers" for found in summary.iter_rows(named=True)
    ]
    caption = (
        f"Reliability of stated probabilities, own answers as context, {' and '.join(n)}, {origin} films. "
        f"Points: mean of a bin, with {_INTERVAL}; dashed: perfect calibration; below: answers per bin."
    )
    return figure, pl.concat(list(tables.values())), caption
