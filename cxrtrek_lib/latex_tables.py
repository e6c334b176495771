r"""The paper's tables as LaTeX (booktabs) with their data as CSV: scores, transfer, ablations, dataset.

Each is a whole `table*` environment to \input; it needs \usepackage{booktabs,adjustbox}. Bold is what a
paired test leaves at the top (see leaders.py), never just the highest mean. Everything is read from what
steps wrote.
"""

import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from cxrtrek_lib import figures, files, paths
from cxrtrek_lib.conversations import STAGES
from cxrtrek_lib.leaders import LEVEL
from cxrtrek_lib.score_figures import ARMS, TEST_CONTEXTS, looks
from cxrtrek_lib.transfer_figures import TITLES

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "–": "--", "−": "$-$", "×": r"$\times$",
}  # fmt: skip
NOT_PRINTED = ("constant", "untuned")  # a page has no room for all systems; the CSV has them
BOLD_NOTE = (
    "Bold: the highest mean of a row and every system that a paired patient-level randomisation test "
    f"(Holm's correction within the row, p < {LEVEL}) does not show to be lower."
)


class Cell(NamedTuple):
    """A number as it is printed, with its interval beneath it."""

    text: str
    interval: str = ""
    bold: bool = False


class Table(NamedTuple):
    r"""A table to print.

    name     of its files, and of its \label as tab:name
    header   one text per column; long ones are broken over lines
    align    LaTeX column types, one letter per column
    parts    groups of rows, parted by thin lines; a row is one Cell per column
    data     what is in it, for the CSV file
    """

    name: str
    caption: str
    header: Sequence[str]
    align: str
    parts: Sequence[Sequence[Sequence[Cell]]]
    data: pl.DataFrame


def escape(text: str) -> str:
    """Plain text as LaTeX prints it.

    >>> print(escape("50 % of R&D_2"))
    50 \\% of R\\&D\\_2
    """
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda found: _SPECIAL[found[0]], text)


def latex(table: Table) -> str:
    r"""The table as a `table*` environment; the same bytes for the same table.

    A table wider than the page is printed smaller.
    Raises ValueError when a row has another number of cells than the header.
    """
    heads = []
    for text, kind in zip(table.header, table.align, strict=True):
        lines = [escape(line) for line in textwrap.wrap(text, 14)] or [""]
        side = "l" if kind == "l" else "r"
        stacked = r" \\ ".join(lines)
        heads.append(lines[0] if len(lines) == 1 else rf"\shortstack[{side}]{{{stacked}}}")
    lines = [
        rf"% {table.name}: made by the step report; edit cxrtrek_lib/latex_tables.py, not this file.",
        r"% Needs \usepackage{booktabs,adjustbox}.",
        r"\begin{table*}[t]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3.5pt}",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\begin{adjustbox}{max width=\textwidth}",
        rf"\begin{{tabular}}{{@{{}}{table.align}@{{}}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
    ]
    for part in table.parts:
        lines.append(r"\midrule")
        for row in part:
            if len(row) != len(table.header):
                raise ValueError(f"{table.name}: a row of {len(row)} cells under {len(table.header)} heads")
            texts = [textwrap.wrap(cell.text, 30) or [""] for cell in row]
            above = [escape(text[0]) for text in texts]
            above = [rf"\textbf{{{text}}}" if c.bold else text for text, c in zip(above, row, strict=True)]
            lines.append(" & ".join(above) + r" \\")
            below = [escape(" ".join(text[1:])) for text in texts]
            if any(below) or any(cell.interval for cell in row):
                below = [
                    rf"{{\scriptsize {escape(_bare(c.interval))}}}" if c.interval else text
                    for text, c in zip(below, row, strict=True)
                ]
                lines.append(" & ".join(below) + r" \\[2pt]")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}", r"\end{table*}", ""])


def _bare(interval: str) -> str:
    """(0.663–0.700) as (.663–.700): eight columns of intervals are as wide as a page is."""
    return re.sub(r"\b0\.", ".", interval)


def write(table: Table) -> str:
    """Write reports/tables/<name>.tex, .csv and .txt (caption); returns the LaTeX text."""
    text = latex(table)
    with files.whole(paths.TABLES / f"{table.name}.tex") as temporary:
        temporary.write_text(text, encoding="utf-8")
    figures.save_table(table.name, table.data, table.caption)
    return text


def _score(found: dict[str, Any], *, bold: bool = False) -> Cell:
    if found["score"] is None:
        return Cell("--")
    return Cell(f"{found['score']:.3f}", f"({found['low']:.3f}–{found['high']:.3f})", bold)


def main_scores(evaluation: dict[str, Any], leading: pl.DataFrame, *, origin: str) -> Table:
    """Scores by stage and overall, one column per system or baseline.

    evaluation  the content of evaluation.json
    leading     leaders.leaders
    """
    names = looks(evaluation["overall"])
    leads = {(row["stage"], row["system"]): row["leads"] for row in leading.iter_rows(named=True)}
    printed = [name for name in names if name not in NOT_PRINTED]
    rows, data = [], []
    for stage in (*STAGES, None):
        by_system = evaluation["overall"] if stage is None else None
        found = {
            name: by_system[name] if by_system else evaluation["stages"][name][str(stage)] for name in names
        }
        label = "Overall" if stage is None else f"{stage} {STAGES[stage][0]}"
        n = found[next(iter(names))]["n"]
        # Bold sets nothing apart where all lead.
        told = {name: leads.get((stage, name), False) for name in names}
        cells = [_score(found[name], bold=told[name] and not all(told.values())) for name in printed]
        rows.append([Cell(label), Cell(f"{n:,}"), *cells])
        data += [
            {"stage": stage, "what": label, "system": name, "n": n}
            | _numbers(found[name])
            | {"leads": told[name]}
            for name in names
        ]
    caption = (
        f"Scores by diagnostic stage on the test split ({origin} films), from 0 to 1; in brackets the 95 % "
        "bootstrap interval, resampling patients. Stage score: mean of the primary metrics of its formats; "
        f"overall: mean of the stages. {BOLD_NOTE} Where all are level, none is bold."
    )
    header = ["stage", "n", *(names[name][0] for name in printed)]
    frame = pl.DataFrame(data, schema_overrides={"stage": pl.Int8}, infer_schema_length=None)
    return Table("table_scores", caption, header, "lr" + "r" * len(printed), [rows[:-1], rows[-1:]], frame)


def _numbers(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("score", "low", "high")}


def ablations(found: dict[str, Any], *, origin: str) -> Table:
    """The arms of the ablations, asked with and without context, and the most common answer.

    found  the content of ablations.json
    """
    measures = ("overall", "yes_no_balanced_accuracy", "detection_mean_iou")
    reference = found["reference"]
    tests = found["differences"]
    # Against the reference, which is the only arm that the others were tested against.
    above = {key for key, test in tests.items() if test["p_holm"] < LEVEL and test["difference"] > 0}
    level = {reference, *(key for key, test in tests.items() if test["p_holm"] >= LEVEL)}
    best = above or (level if len(level) <= len(tests) else set())
    parts, data = [], []
    for arm, said in ARMS.items():
        if arm not in found["arms"]:
            continue
        part = []
        for context, (label, _, _) in TEST_CONTEXTS.items():
            key, scores = f"{arm}, {context}", found["arms"][arm][context]
            cells = [_score(scores[name], bold=name == "overall" and key in best) for name in measures]
            test = tests.get(key)
            gap = Cell("reference" if key == reference else "--")
            if test is not None:
                gap = Cell(
                    _signed(test["difference"]), f"({_signed(test['low'])} to {_signed(test['high'])})"
                )
            p = Cell("" if test is None else _p(test["p_holm"]))
            name = Cell(said.replace("\n", " ") if context == next(iter(TEST_CONTEXTS)) else "")
            part.append([name, Cell(label), *cells, gap, p])
            numbers = {f"{m}_{k}": scores[m][k] for m in measures for k in ("score", "low", "high", "n")}
            tested = {k: None if test is None else test[k] for k in ("difference", "low", "high", "p_holm")}
            data.append({"trained": arm, "asked": context} | numbers | tested | {"bold": key in best})
        parts.append(part)
    majority = found["arms"]["majority"]["none"]
    cells = [_score(majority[name]) for name in measures]
    parts.append([[Cell("no model"), Cell("most common answer"), *cells, Cell("--"), Cell("")]])
    numbers = {f"{m}_{k}": majority[m][k] for m in measures for k in ("score", "low", "high", "n")}
    data.append({"trained": "majority", "asked": "none"} | numbers | {"bold": False})
    n = found["arms"][reference.split(", ")[0]]["predicted"]["overall"]["n"]
    caption = (
        f"Ablations: trainings of equal budget that differ in one thing, asked {n:,} questions of the same "
        f"test cases ({origin} films). In brackets 95 % bootstrap intervals, resampling patients. "
        "Difference: overall score less the reference's; p: paired patient-level randomisation test after "
        "Holm's correction. Bold: shown to be above the reference; if none is, the reference and all that "
        "are not shown to differ from it (nothing where none differs). One run of each."
    )
    header = [
        "trained",
        "asked with",
        "overall",
        "yes/no balanced accuracy",
        "boxes mean IoU",
        "difference",
        "p",
    ]
    return Table(
        "table_ablations", caption, header, "llrrrrr", parts, pl.DataFrame(data, infer_schema_length=None)
    )


def _signed(difference: float) -> str:
    return f"{round(difference, 3) + 0.0:+.3f}".replace("-", "−")  # + 0.0: never "-0.000"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def transfer(table: pl.DataFrame) -> Table:
    """Headline scores on external data sets: in the stage flow, asked alone, and what needs no film.

    table  of report.transfer_table; a score that cannot be had is null, and `note` says why
    """
    about = ["dataset", "task", "metric", "image_origin"]
    headline = table.filter(pl.col("headline"))
    parts: dict[str, list] = {}
    for (*key,), group in headline.group_by(about, maintain_order=True):
        asked = {row["asked"]: row for row in group.iter_rows(named=True)}
        first = next(iter(asked.values()))
        flow, alone = asked.get("in the stage flow"), asked.get("alone")
        sure = flow is not None and flow["difference_low"] is not None
        better = sure and flow["difference_low"] > 0, sure and flow["difference_high"] < 0
        gap = Cell("--")
        if sure:
            interval = f"({_signed(flow['difference_low'])} to {_signed(flow['difference_high'])})"
            gap = Cell(_signed(flow["difference"]), interval)
        others = [_beside(row, bold=bold) for row, bold in zip((flow, alone), better, strict=True)]
        if flow is None and alone is None:  # two readers of one film, one against the other
            others = [Cell("--"), _score(first)]
        baselines = [Cell("--" if first[k] is None else f"{first[k]:.3f}") for k in ("baseline", "majority")]
        cells = [TITLES.get(key[0], key[0]), *key[1:3], key[3], f"{first['n']:,}"]
        if flow is None and alone is None:
            cells[2] += f" ({first['asked']})"
        parts.setdefault(key[0], []).append([*map(Cell, cells), *others, gap, *baselines])
    caption = (
        "External data sets, none trained on; our own choice, the paper's are not public. In brackets 95 % "
        "bootstrap intervals, resampling patients. Difference: asked in the stage flow less asked alone, the "
        "same questions. Bold: the better of the two where the whole interval of the paired difference lies "
        "on one side of 0 (not corrected for the number of rows). Blank: the model on a blank film, or the "
        "median box. No film: the most common training answer. A dash: not scorable, see the CSV."
    )
    header = ["data set", "task", "metric", "films", "n", "in the stage flow", "asked alone", "difference",
              "blank", "no film"]  # fmt: skip
    return Table("table_transfer", caption, header, "llllrrrrrr", list(parts.values()), table)


def _beside(row: dict[str, Any] | None, *, bold: bool) -> Cell:
    return Cell("--") if row is None else _score(row, bold=bold)


def dataset(summary: pl.DataFrame, found: dict[str, Any]) -> Table:
    """Patients, studies, images, questions and facts by source and split, and in all.

    summary  reports/tables/dataset_summary.csv
    found    the content of dataset.json
    """
    keys = ("patients", "studies", "images", "with_prior", "qa", "facts")
    parts = []
    for (_,), group in summary.group_by(["source"], maintain_order=True):
        part = []
        for row in group.sort("split").iter_rows(named=True):
            counts = [Cell(f"{row[key]:,}") for key in keys]
            part.append(
                [Cell(row["source"]), Cell(row["split"]), *counts, Cell(f"{row['qa_per_study']:.2f}")]
            )
        parts.append(part)
    names = ("n_patients", "n_studies", "n_images", None, "n_qa", "n_facts")
    totals = [Cell("" if name is None else f"{found[name]:,}") for name in names]
    parts.append([[Cell("all"), Cell(""), *totals, Cell(f"{found['qa_per_study']:.2f}")]])
    caption = (
        "The dataset by annotation table and split: questions and answers are built from annotations alone, "
        "without the images. A patient is in one split only; a fact counts once per study, in however many "
        "questions it stands. Per study: questions divided by studies."
    )
    header = [
        "source",
        "split",
        "patients",
        "studies",
        "images",
        "with a prior",
        "questions",
        "facts",
        "per study",
    ]
    return Table("table_dataset", caption, header, "llrrrrrrr", parts, summary)
