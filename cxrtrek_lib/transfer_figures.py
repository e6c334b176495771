"""Figures of the external datasets: the forest of their scores, and what a change of acquisition does.

As in figures.py, every function returns (figure, data, caption).
"""

from pathlib import Path

import polars as pl
from matplotlib import pyplot as plt

from cxrtrek_lib import images
from cxrtrek_lib.figures import BLACK, BLUE, GREEN, GREY, PAGE, RED, Drawing, letter, styled
from cxrtrek_lib.inference_stats import with_interval

# Dataset -> its name in print.
TITLES = {
    "nih": "NIH ChestX-ray14", "rsna": "RSNA Pneumonia", "vindr": "VinDr-CXR", "openi": "Open-i",
    "vqa_rad": "VQA-RAD", "slake": "SLAKE", "mimic_cxr_vqa": "MIMIC-CXR-VQA",
}  # fmt: skip
# How it was asked -> (colour, marker, place above or below the row's middle).
ASKED = {
    "in the stage flow": (BLUE, "s", -0.17),
    "alone": (GREEN, "o", 0.17),
    "two readers": (GREY, "P", 0.0),
}


@styled
def transfer_forest(table: pl.DataFrame) -> Drawing:
    """External datasets: one row per headline score, asked in the stage flow and alone, with 95 % intervals.

    table  rows of the transfer table (transfer_tasks.ROW with dataset, task, image_origin); those that are
           no headline are in the data only. A row that cannot be scored says so.
    """
    about = ["dataset", "task", "metric", "image_origin"]
    shown = table.filter(pl.col("headline"))
    keys = shown.select(about).unique(maintain_order=True)
    # The numbers have a panel of their own: text beside the only one would be cut off.
    size = (PAGE, 0.95 + 0.31 * keys.height)
    figure, (ax, side) = plt.subplots(1, 2, figsize=size, width_ratios=[1, 0.82], sharey=True)
    side.axis("off")
    labels = []
    for row, key in enumerate(keys.iter_rows(named=True)):
        asked = {
            entry["asked"]: entry for entry in shown.join(pl.DataFrame([key]), on=about).iter_rows(named=True)
        }
        for how, entry in asked.items():
            colour, marker, shift = ASKED[how]
            if entry["score"] is None:
                ax.text(0.01, row + shift, f"{how}: {entry['note']}", color=GREY, fontsize=6, va="center")
                continue
            ax.plot([entry["low"], entry["high"]], [row + shift] * 2, color=colour, lw=1.4)
            ax.plot(entry["score"], row + shift, marker, color=colour, mec="white", mew=0.4, ms=4.5)
            text = with_interval(entry)
            side.text(0.0, row + shift, text, color=colour, va="center", fontsize=6)
        first = next(iter(asked.values()))
        if first["baseline"] is not None:
            ax.plot(first["baseline"], row, "D", mfc="white", mec=BLACK, ms=3.5, mew=0.8, zorder=3)
        if first["majority"] is not None:
            ax.plot(first["majority"], row, "x", color=GREY, ms=4, mew=1, zorder=3)
        side.text(0.5, row, _difference(first), va="center", fontsize=6)
        labels.append(_label(key, first))
    ax.set_yticks(range(keys.height), labels, linespacing=1.1, fontsize=6)
    ax.set_ylim(keys.height - 0.4, -0.6)
    for row in range(1, keys.height):
        if keys["dataset"][row] != keys["dataset"][row - 1]:
            ax.axhline(row - 0.5, color="#BBBBBB", lw=0.6, xmin=-0.6, clip_on=False)
    ax.set_xlim(-0.02, 1.02)
    ax.grid(axis="x")
    ax.set_xlabel("score (0-1; 95 % interval)")
    side.text(0.0, -0.75, "score (95 % interval)", va="bottom", fontsize=6, fontweight="bold")
    side.text(0.5, -0.75, "in the flow less alone", va="bottom", fontsize=6, fontweight="bold")
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, ms=4.5, lw=1.4, label=how)
        for how, (colour, marker, _) in ASKED.items()
        if how in set(shown["asked"])
    ]
    handles.append(plt.Line2D([], [], color=BLACK, marker="D", mfc="white", ms=3.5, lw=0, label="baseline"))
    handles.append(plt.Line2D([], [], color=GREY, marker="x", ms=4, lw=0, label="without a film"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    names = sorted(set(shown["baseline_name"].drop_nulls()))
    origins = ", ".join(sorted(set(table["image_origin"])))
    caption = (
        "External datasets, none used in training; our own choice, not the paper's (which are not public). "
        "Each question is asked after the model's own answers to stages 1 and 2 (squares), and alone "
        "(circles); 95 % intervals by patient-cluster bootstrap, that of the difference paired; a difference "
        "in bold leaves 0 out. "
        f"Open diamonds: {' or '.join(names)}; crosses: the commonest training answer, or what needs no film "
        "(AUROC 0.5, AP the prevalence). n: films or answers, with the finding in brackets. "
        f"Image origin: {origins}."
    )
    return figure, table, caption


def _label(key: dict, entry: dict) -> str:
    positive = f" ({entry['n_positive']:,})" if entry["n_positive"] is not None else ""
    name = TITLES.get(key["dataset"], key["dataset"])
    return f"{name}: {key['metric']}\n{key['task']}, n = {entry['n']:,}{positive}, {key['image_origin']}"


def _difference(entry: dict) -> str:
    if entry["difference"] is None:
        return ""
    low, high = entry["difference_low"], entry["difference_high"]
    text = f"{entry['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    return rf"$\bf{{{text.split(' ')[0]}}}$ {text.split(' ', 1)[1]}" if low > 0 or high < 0 else text


@styled
def domain_shift(table: pl.DataFrame) -> Drawing:
    """How far each factor of acquisition moves presence, from domain_shift.scores: two panels."""
    changed = table.filter(pl.col("auroc_difference").is_not_null())
    plain = table.filter(pl.col("auroc_difference").is_null()).row(0, named=True)
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 0.9 + 0.21 * changed.height), sharey=True)
    panels = (("balanced_accuracy", "Balanced accuracy of yes and no"), ("auroc", "AUROC of P(yes)"))
    for k, (ax, (key, title)) in enumerate(zip(axes, panels, strict=True)):
        for row, entry in enumerate(changed.iter_rows(named=True)):
            low, high = entry[f"{key}_difference_low"], entry[f"{key}_difference_high"]
            colour = RED if high < 0 else GREEN if low > 0 else GREY
            ax.plot([low, high], [row, row], color=colour, lw=1.4)
            ax.plot(entry[f"{key}_difference"], row, "o", color=colour, ms=4)
        ax.axvline(0, color=BLACK, lw=0.6)
        ax.grid(axis="x")
        ax.set_xlabel(f"less unchanged films ({plain[key]:.3f})")
        letter(ax, "ab"[k], title)
    labels = [f"{entry['factor']} ({entry['group']})" for entry in changed.iter_rows(named=True)]
    axes[0].set_yticks(range(changed.height), labels)
    axes[0].set_ylim(changed.height - 0.5, -0.5)
    caption = (
        "Presence of findings on simulated films with one factor of acquisition changed, less the score on "
        f"the unchanged films of the same {plain['n_patients']} patients ({plain['n']:,} questions a factor, "
        "each asked alone; about half of them are answered yes). Bars: 95 % patient-cluster bootstrap "
        "intervals, paired; red: lower, green: higher, grey: not shown to differ. Not corrected for how many "
        "factors there are. Simulated films."
    )
    return figure, table, caption


@styled
def shifted_films(shown: pl.DataFrame, folder: Path) -> Drawing:
    """The first case's film with every factor; shown, folder: of domain_shift.make."""
    first = shown.filter(pl.col("patient_id") == shown["patient_id"][0]).unique(
        "study_id", maintain_order=True
    )
    columns = 6
    figure, axes = plt.subplots(-(-first.height // columns), columns, figsize=(PAGE, 2.7), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (factor, names) in zip(axes.flat, first.select("study_id", "images").iter_rows(), strict=False):
        ax.imshow(images.read(folder / names[0]), cmap="gray", vmin=0, vmax=1)
        ax.set_title(factor, fontsize=6, fontweight="normal", pad=2)
    return (
        figure,
        first.select("sample_id", "study_id"),
        "One scene with each factor changed; simulated films.",
    )
