"""From the answers to one external dataset to rows of the transfer table, task by task."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cxrtrek_lib import baselines, metrics, transfer_scores
from cxrtrek_lib.tables import KEYS
from cxrtrek_lib.transfer_scores import RANKING, mean_over, resampled, told

# How the same questions were asked. The blank films' answers are the baseline of both.
FLOW, ALONE, BLANK = "in the stage flow", "alone", "blank film"
ASKED = (FLOW, ALONE)
MEAN = "mean of findings"
MEDIAN = "median training box"
ONE_CLASS = "not scorable: all films are alike"
NO_THRESHOLD = "no threshold: the validation films are all alike"
FEW = 4  # findings of a dataset up to which each is a row of the forest plot
# One row of the transfer table.
# metric      name, with what is scored: "AUROC, pneumothorax"
# asked       how; `difference` (in the flow less alone, paired, with its 95 % interval) stands in FLOW's rows
# score, low, high  with the 95 % interval over patients; null when not scorable, and `note` says why
# n, n_patients, n_positive, prevalence  answers (or films), their patients, those with the finding
# unanswered  questions without an answer or P(yes): left out of rankings, wrong elsewhere
# baseline    score of `baseline_name`; majority: of the answer that is commonest in training, or of what
#             needs no film (AUROC 0.5, AP the prevalence, F1 of always yes)
# threshold   P(yes) from which on F1 counts a yes, of the validation split
# headline    whether the forest plot shows it
ROW = {
    "metric": pl.String, "asked": pl.String, "score": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "n": pl.Int64, "n_patients": pl.Int64, "n_positive": pl.Int64, "prevalence": pl.Float64,
    "unanswered": pl.Int64, "baseline": pl.Float64, "baseline_name": pl.String, "majority": pl.Float64,
    "difference": pl.Float64, "difference_low": pl.Float64, "difference_high": pl.Float64,
    "threshold": pl.Float64, "headline": pl.Boolean, "note": pl.String,
}  # fmt: skip


class Answered(NamedTuple):
    """What one dataset was asked and answered, films of one origin.

    rows        the tasks' questions (transfer_questions.ROW) with patient_id, `finding` and `part`
    answers     FLOW, ALONE, BLANK -> predictions, any questions
    validation  questions of the validation films (their answers are in FLOW and ALONE); None without any
    training    questions of the training cases
    clinical    metric of reports that is to run -> its python and weights (clinical_metrics.of_pairs)
    """

    studies: pl.DataFrame
    rows: pl.DataFrame
    answers: dict[str, pl.DataFrame]
    validation: pl.DataFrame | None
    training: pl.DataFrame
    clinical: Mapping[str, Mapping[str, str]]
    n_boot: int
    seed: int

    @classmethod
    def of(
        cls, studies, qa, answers, validation, training, *, clinical, n_boot: int, seed: int
    ) -> "Answered":
        """Of the questions `qa` (transfer_questions.conversations) that are about `studies`."""
        rows = qa.filter(pl.col("task").is_not_null()).rename({"task": "part"})
        rows = rows.join(studies.select("sample_id", "patient_id"), on="sample_id", maintain_order="left")
        rows = rows.with_columns(finding=pl.col("fact").str.split("|").list.first())
        return cls(studies, rows, answers, validation, training, clinical, n_boot, seed)

    def said(self, asked: str, rows: pl.DataFrame) -> pl.DataFrame:
        """The answers to some questions, in their order: answer, prob_yes, prob_answer; null = none."""
        columns = ["answer", "prob_yes", "prob_answer"]
        given = self.answers[asked].select(*KEYS, *columns)
        return rows.select(KEYS).join(given, on=KEYS, how="left", maintain_order="left").select(columns)

    def numbered(self, rows: pl.DataFrame) -> tuple[np.ndarray, int]:
        """(patient number (N,) of each row, number of patients)."""
        names, numbers = np.unique(rows["patient_id"].to_numpy(), return_inverse=True)
        return numbers, len(names)

    def resampled(self, score: Callable[[np.ndarray], np.ndarray], n_patients: int) -> np.ndarray:
        return resampled(score, n_patients, n_boot=self.n_boot, seed=self.seed)


def compared(metric: str, draws: dict[str, np.ndarray], **rest: Any) -> list[dict]:
    """One row for each way of asking, from its score (1 + B,) of all patients and of B resamplings.

    rest  further columns of ROW, a dict where they differ by the way of asking; what is left out is null
    """
    rows = []
    for asked, drawn in draws.items():
        row = dict.fromkeys(ROW) | {"metric": metric, "asked": asked, "headline": False} | told(drawn)
        row |= {key: value[asked] if isinstance(value, dict) else value for key, value in rest.items()}
        if row["score"] is None:
            row["note"] = row["note"] or ONE_CLASS
        elif asked == FLOW and ALONE in draws:
            names = {"score": "difference", "low": "difference_low", "high": "difference_high"}
            row |= {names[key]: value for key, value in told(drawn - draws[ALONE]).items()}
        rows.append(row)
    return rows


def counts(rows: pl.DataFrame, n_positive: int | None, unanswered: int) -> dict[str, Any]:
    """Columns of ROW that count: the rows that are scored, those with the finding, those left out."""
    return {
        "n": rows.height,
        "n_patients": rows["patient_id"].n_unique(),
        "n_positive": n_positive,
        "prevalence": None if n_positive is None or rows.is_empty() else n_positive / rows.height,
        "unanswered": unanswered,
    }


def baseline(score: float, name: str = BLANK) -> dict[str, Any]:
    """Columns of ROW that say what a score stands beside."""
    return {"baseline": _number(score), "baseline_name": name}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# --- classification -----------------------------------------------------------------------------------
class Ranked(NamedTuple):
    """P(yes) of one finding, scored: rows that count, labels; how asked -> (1 + B, 3) of RANKING, threshold.

    blank  (3,): of the blank films' answers
    """

    kept: pl.DataFrame
    labels: np.ndarray
    draws: dict[str, np.ndarray]
    limits: dict[str, float | None]
    blank: np.ndarray
    unanswered: int

    @property
    def share(self) -> float:
        """Prevalence; NaN without a film."""
        return float(self.labels.mean()) if len(self.labels) else float("nan")

    def scorable(self) -> bool:
        return not np.isnan(self.draws[FLOW][0, 0])


def classification(about: Answered, *, names: Sequence[str]) -> list[dict]:
    """AUROC, AP and F1 of P(yes) of each finding, and their means over the findings that can be scored.

    A film without P(yes) of its presence question in one of the runs counts in none (`unanswered`).
    """
    presence = about.rows.filter(pl.col("part") == "presence")
    numbers, n_patients = about.numbered(presence)
    presence = presence.with_columns(number=pl.Series(numbers, dtype=pl.Int64))
    parts = {name: presence.filter(pl.col("finding") == name) for name in names}
    ranked = {name: _ranked(about, part, name, n_patients) for name, part in parts.items() if len(part)}
    rows = []
    for name, one in ranked.items():
        common = counts(one.kept, int(one.labels.sum()), one.unanswered)
        without = {"AUROC": 0.5, "AP": one.share, "F1": 2 * one.share / (1 + one.share)}
        for place, metric in enumerate(RANKING):
            rows += compared(
                f"{metric}, {name}",
                {asked: drawn[:, place] for asked, drawn in one.draws.items()},
                **common,
                **baseline(one.blank[place]),
                majority=_number(without[metric]),
                headline=metric == "AUROC" and len(names) <= FEW,
                threshold=one.limits if metric == "F1" else None,
                note=NO_THRESHOLD
                if metric == "F1" and one.scorable() and None in one.limits.values()
                else None,
            )
    whole = [one for one in ranked.values() if one.scorable()]
    if len(whole) > 1:
        positive = sum(int(one.labels.sum()) for one in whole)
        unanswered = sum(one.unanswered for one in whole)
        common = counts(pl.concat([one.kept for one in whole]), positive, unanswered)
        if len(whole) < len(ranked):
            common["note"] = f"of the {len(whole)} of {len(ranked)} findings that can be scored"
        without = {"AUROC": 0.5, "AP": float(np.mean([one.share for one in whole]))}
        for place, metric in enumerate(RANKING):
            rows += compared(
                f"{metric}, {MEAN}",
                {asked: mean_over([one.draws[asked][:, place] for one in whole]) for asked in ASKED},
                **common,
                **baseline(mean_over([one.blank[place : place + 1] for one in whole])[0]),
                majority=without.get(metric),
                headline=metric != "AP",
            )
    return rows


def _ranked(about: Answered, part: pl.DataFrame, name: str, n_patients: int) -> Ranked:
    """The films that are asked about one finding, ranked by P(yes) as each run has it."""
    chances = pl.DataFrame({run: about.said(run, part)["prob_yes"] for run in (*ASKED, BLANK)})
    known = chances.select(pl.all_horizontal(pl.all().is_not_null() & pl.all().is_not_nan())).to_series()
    kept, chances = part.filter(known), chances.filter(known)
    labels = kept["answer"].str.starts_with("Yes").to_numpy()
    owner = kept["number"].to_numpy()
    limits = {asked: _threshold(about, asked, name) for asked in ASKED}
    score = {
        run: transfer_scores.ranking(labels, chances[run].to_numpy(), owner, limits.get(run, limits[FLOW]))
        for run in chances.columns
    }
    # Both ways of asking on each draw: drawing the patients takes as long as scoring them.
    both = about.resampled(
        lambda weights: np.stack([score[asked](weights) for asked in ASKED], 1), n_patients
    )
    draws = {asked: both[:, place] for place, asked in enumerate(ASKED)}
    blank = score[BLANK](np.ones((1, n_patients)))[0]
    return Ranked(kept, labels, draws, limits, blank, part.height - kept.height)


def _threshold(about: Answered, asked: str, name: str) -> float | None:
    """The validation films' best threshold of a finding, from the same way of asking."""
    films = about.validation.filter(pl.col("fact") == f"{name}|presence", pl.col("task").is_not_null())
    known = films.select("answer").with_columns(prob_yes=about.said(asked, films)["prob_yes"]).drop_nulls()
    return transfer_scores.best_threshold(
        known["answer"].str.starts_with("Yes").to_numpy(), known["prob_yes"]
    )


# --- detection ----------------------------------------------------------------------------------------
def detection(about: Answered, *, names: Sequence[str], iou: float) -> list[dict]:
    """mAP and FROC of the boxes over the findings, AP of each, and mean IoU on films that have the finding.

    A box is as sure as P(yes) of the presence question about the same finding and film. The baseline has the
    same sureness and, for every film, the median box of the training cases.
    """
    where = about.rows.filter(pl.col("part") == "boxes")
    if not any(where["bbox_list"].list.len()):
        return []
    numbers, n_patients = about.numbered(where)
    median = baselines.majority_predictions(about.training, where)["answer"].to_list()
    prior = pl.Series(transfer_scores.boxes_of(median), dtype=pl.List(pl.List(pl.Float64)))
    where = where.with_columns(number=pl.Series(numbers), prior=prior)
    presence = about.rows.filter(pl.col("part") == "presence")
    rows, draws, priors = [], {asked: [] for asked in ASKED}, []
    for name in names:
        part = where.filter(pl.col("finding") == name)
        gold = part["bbox_list"].to_list()
        if not any(gold):
            continue
        owner = part["number"].to_numpy()
        for asked in ASKED:
            boxes, sure = _boxes(about, asked, part, presence)
            score = transfer_scores.detection(gold, boxes, sure, owner, iou=iou)
            draws[asked].append(about.resampled(score, n_patients))
            if asked == FLOW:
                score = transfer_scores.detection(gold, part["prior"].to_list(), sure, owner, iou=iou)
                priors.append(score(np.ones((1, n_patients)))[0])
        if len(names) > 1:
            rows += compared(
                f"AP at IoU {iou}, {name}",
                {asked: draws[asked][-1][:, 0] for asked in ASKED},
                **counts(part, sum(map(bool, gold)), _unanswered(about, part)),
                **baseline(priors[-1][0], MEDIAN),
            )
    positive = where.filter(pl.col("bbox_list").list.len() > 0)
    common = counts(where, positive.height, _unanswered(about, where))
    for place, metric in enumerate((f"mAP at IoU {iou}", f"FROC at IoU {iou}")):
        drawn = {asked: mean_over([each[:, place] for each in draws[asked]]) for asked in ASKED}
        prior = float(np.mean([each[place] for each in priors]))
        rows += compared(metric, drawn, **common, **baseline(prior, MEDIAN), headline=True)
    owner = positive["number"].to_numpy()
    drawn = {}
    for asked in ASKED:
        values = _ious(positive, transfer_scores.boxes_of(about.said(asked, positive)["answer"].to_list()))
        drawn[asked] = about.resampled(partial(weighted_mean, values, owner), n_patients)
    prior = float(np.mean(_ious(positive, positive["prior"].to_list())))
    common = counts(positive, positive.height, _unanswered(about, positive))
    headline = len(names) == 1
    return rows + compared(
        "mean IoU where present", drawn, **common, **baseline(prior, MEDIAN), headline=headline
    )


def _unanswered(about: Answered, rows: pl.DataFrame) -> int:
    return about.said(FLOW, rows)["answer"].null_count()


def _boxes(
    about: Answered, asked: str, part: pl.DataFrame, presence: pl.DataFrame
) -> tuple[list, list[float]]:
    """(boxes of each film, how sure they are); a film without a presence answer is the least sure."""
    on = ["sample_id", "finding"]
    sure = presence.select(on).with_columns(sure=about.said(asked, presence)["prob_yes"])
    sure = part.select(on).join(sure, on=on, how="left", maintain_order="left")["sure"]
    boxes = transfer_scores.boxes_of(about.said(asked, part)["answer"].to_list())
    return boxes, sure.fill_null(-1.0).to_list()


def _ious(rows: pl.DataFrame, boxes: list) -> np.ndarray:
    gold = rows["bbox_list"].to_list()
    return np.array([metrics.box_score(*pair)["iou"] for pair in zip(gold, boxes, strict=True)])


def weighted_mean(values: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights (b, P) -> (b,): mean of values (N,) over the rows of a draw's patients, owner (N,)."""
    drawn = weights[:, owner]
    with np.errstate(invalid="ignore"):
        return drawn @ values / drawn.sum(1)
