"""The claim ledger: each statement of the paper that is public, and what this study can say about it.

Verdicts follow from the metrics files, so they change with the run: `reproduced`, `scaled down` (done, but
smaller or on other material), `not reproduced` (tested, not found), `not tested`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from cxrtrek_lib import ablation_scores
from cxrtrek_lib.inference_stats import with_interval
from cxrtrek_lib.leaders import LEVEL

HEAD = """# Claim ledger

What is public of *Interpreting Chest X-rays Like a Radiologist* (arXiv 2505.23143), statement by
statement. Its full text, metrics and scores were not available to us, so no score here is compared with one
of theirs. Written by the step `report` from `reports/metrics`; {origin} films unless a line says otherwise;
95 % intervals, patients resampled. Found means: the whole interval on the stated side of 0, and p < 0.05
after Holm's correction.

- **reproduced**: done as stated, and found. **scaled down**: done, but smaller or on other material.
- **not reproduced**: tested here, and not found at this size. **not tested**: nothing here speaks to it.

| statement of the paper | verdict | what this run shows | where |
|---|---|---|---|
"""


class Line(NamedTuple):
    """One statement; links are relative to reports/."""

    statement: str
    verdict: str
    shown: str
    links: Sequence[str]


def _difference(test: dict[str, Any]) -> str:
    interval = f"{test['low']:+.3f} to {test['high']:+.3f}"
    return f"{test['difference']:+.3f} ({interval}), Holm p {test['p_holm']:.3f}, n = {test['n']:,}"


def _tested(test: dict[str, Any] | None, *, above: bool = True) -> str:
    """Verdict of a paired difference that the paper would have above (else below) 0."""
    if test is None:
        return "not tested"
    side = test["low"] > 0 if above else test["high"] < 0
    return "scaled down" if side and test["p_holm"] < LEVEL else "not reproduced"


def ledger(
    dataset: dict[str, Any],
    evaluation: dict[str, Any],
    ablations: dict[str, Any],
    transfer: pl.DataFrame,
    *,
    checkpoint: str,
    alone_share: float,
) -> list[Line]:
    """Every statement with its verdict.

    dataset, evaluation, ablations  contents of the metrics files
    transfer    the transfer table (report.transfer_table)
    checkpoint  model.checkpoint of params.yaml
    alone_share train.alone_share: what was trained without context, and so is at home without it
    """
    tests, small = evaluation["differences"], checkpoint == "small"
    asked = [stage for stage, n in dataset["stages"].items() if n]
    formats = [kind for kind, n in dataset["formats"].items() if n]
    context, order = tests.get("predicted - none"), tests.get("predicted - shuffled")
    overall = evaluation["overall"]
    arm = ablations["differences"].get("no_context, none")
    learnt = ablation_scores.best(ablations) >= ablations["arms"]["majority"]["none"]["overall"]["low"]
    scored = transfer.filter(pl.col("headline"), pl.col("asked") != "two readers").drop_nulls("score")
    above = scored.filter(pl.col("low") > pl.col("baseline")).height
    lines = [
        Line(
            "A dataset of 428,966 samples and over 11 million Q&A, 26.29 per sample",
            "scaled down",
            f"{dataset['n_studies']:,} studies, {dataset['n_qa']:,} Q&A, "
            f"{dataset['qa_per_study']:.2f} per study, from other sources; every difference is explained",
            ["tables/paper_comparison.csv", "tables/table_dataset.csv"],
        ),
        Line(
            "Eight sequential diagnostic stages, from image validation to the report",
            "reproduced" if len(asked) == 8 else "scaled down",
            f"{len(asked)} of 8 stages have questions",
            ["figures/figure2_dataset.png"],
        ),
        Line(
            "Four response formats: open-ended, close-ended, choice, detection",
            "reproduced" if len(formats) == 4 else "scaled down",
            f"{len(formats)} of 4 occur; detection needs boxes, which the tables hardly have: "
            f"{dataset['formats'].get('detection', 0):,} questions there, most in the simulated cohort",
            ["figures/figure2_dataset.png", "tables/stage_format_source.csv"],
        ),
        Line(
            "Figure 2 (a)-(f), statistics of the dataset",
            "scaled down",
            "all six panels, of our sources, beside the 100 samples that the authors published",
            ["figures/figure2_dataset.png"],
        ),
        Line(
            "Figure A, the training mixture per source",
            "scaled down",
            "the same figure of our training sources; MIMIC-CXR joins when its folder is named",
            ["figures/figure_a_mixture.png"],
        ),
        Line(
            "CXRTrekNet: several views and a prior film, each answer appended to the context of later stages",
            "scaled down",
            f"the same flow with the checkpoint `{checkpoint.rpartition('/')[2]}`"
            + (", a decoder of a few million parameters trained from nothing" if small else ""),
            ["model_card.md"],
        ),
        Line(
            "Encoders frozen, the language model tuned parameter-efficiently",
            "scaled down",
            "encoder frozen; the small decoder is tuned whole, larger ones through LoRA"
            if small
            else "encoder frozen, LoRA",
            ["model_card.md", "figures/training_curves.png"],
        ),
        Line(
            "Stage scores of CXRTrekNet above those of existing medical models (Figure 4)",
            "not tested",
            "no weights of these models at hand; ours stands beside baselines: overall "
            f"{with_interval(overall['predicted'])}, most common answer "
            f"{with_interval(overall['majority'])}; any system can be added with evaluate.systems",
            ["figures/stage_radar.png", "tables/table_scores.csv"],
        ),
        Line(
            "The context of earlier stages helps (earlier models reason without context)",
            _tested(context),
            f"own earlier answers as context less none: {_difference(context)}; of the last training batches "
            f"{alone_share:.0%} asked each question alone",
            ["figures/context_modes.png", "tables/stage_differences.csv"],
        ),
        Line(
            "Training along the stages helps",
            _tested(arm, above=False) if learnt else "not tested",
            "trained and asked without context, less the reference: "
            + (_difference(arm) if arm else "no such arm")
            + ("" if learnt else "; but every arm stays below the most common answer, too small to tell")
            + ("; all go on from the trained model" if small else "")
            + "; one run of each",
            ["figures/ablations.png", "tables/table_ablations.csv"],
        ),
        Line(
            "The order of the stages matters (misalignment with the clinical flow)",
            _tested(order),
            f"stages in order less shuffled: {_difference(order)}",
            ["figures/context_modes.png"],
        ),
        Line(
            "Errors can be traced from stage to stage",
            "scaled down",
            f"annotated less own answers as context: {_difference(tests['gold - predicted'])}; the "
            "matrix of joint errors, one flipped answer, and contradictions with stage 2 are measured",
            ["figures/cross_stage_errors.png", "figures/flipped_answer.png", "figures/report_errors.png"],
        ),
        Line(
            "Transfer to five external datasets: classification, detection, VQA, report generation",
            "scaled down",
            f"{scored['dataset'].n_unique()} data sets of our own choice, {above} of {scored.height} scores "
            "with their whole interval above the baseline; films: "
            + ", ".join(sorted(set(transfer["image_origin"]))),
            ["figures/transfer_forest.png", "tables/table_transfer.csv"],
        ),
        Line("Use in the clinic", "not tested", "nobody has tried it on patients; not a medical device", []),
    ]
    return lines


def markdown(lines: Sequence[Line], *, origin: str) -> str:
    """The ledger as Markdown; a bar in a text would end its cell, so none may hold one (ValueError)."""
    rows = []
    for line in lines:
        links = ", ".join(f"[{link.rpartition('/')[2]}]({link})" for link in line.links) or "-"
        cells = (line.statement, f"**{line.verdict}**", line.shown, links)
        if any("|" in cell for cell in cells):
            raise ValueError(f"claim {line.statement!r}: a cell holds a bar; word it without one")
        rows.append(f"| {' | '.join(cells)} |")
    return HEAD.format(origin=origin) + "\n".join(rows) + "\n"
