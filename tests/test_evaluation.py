"""Stage scores against scikit-learn and a brute-force bootstrap; the metrics files against their contract."""

import json

import numpy as np
import polars as pl
import pytest
from fake_answers import fake_cohort, fake_predictions, fake_scores, patients_of
from scipy.stats import ttest_rel
from sklearn.metrics import balanced_accuracy_score

from cxrtrek_lib.evaluation import (
    beside,
    compared,
    difference,
    evaluation_json,
    finetune_json,
    side_by_side,
    stage_differences,
    stage_scores,
    sums,
    views,
    write_metrics,
)
from cxrtrek_lib.inference_stats import cluster_weights
from cxrtrek_lib.metrics import score_answers

STUDIES, QUESTIONS = fake_cohort(40)
ROWS = fake_scores(QUESTIONS, 0.7)


def by_hand(rows: pl.DataFrame) -> tuple[dict, dict, float]:
    """Cell, stage and overall scores the slow way, balanced accuracy by scikit-learn."""
    cells = {}
    for (stage, kind), part in rows.group_by("stage", "format"):
        if kind == "close-ended":
            said = part["pred_class"].fill_null("unparsed")
            cells[stage, kind] = balanced_accuracy_score(part["gold_class"].to_numpy(), said.to_numpy())
        else:
            cells[stage, kind] = part["score"].mean()
    stages = {s: float(np.mean([v for (t, _), v in cells.items() if t == s])) for s in {s for s, _ in cells}}
    return cells, stages, float(np.mean(list(stages.values())))


def test_scores_are_means_of_formats_and_of_stages():
    cells, stages, overall = by_hand(ROWS)
    table = stage_scores(ROWS, n_boot=50, seed=0)
    for row in table.iter_rows(named=True):
        expected = {
            "format": lambda row: cells[row["stage"], row["format"]],
            "stage": lambda row: stages[row["stage"]],
            "overall": lambda row: overall,
        }[row["level"]](row)
        assert row["score"] == pytest.approx(expected), row
        assert 0 <= row["low"] <= row["score"] <= row["high"] <= 1
    assert table.filter(pl.col("level") == "stage")["stage"].to_list() == [1, 2, 3, 5, 8]  # 4, 6, 7: no row
    assert table.filter(pl.col("level") == "overall")["n"].item() == ROWS.height


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_interval_equals_a_brute_force_bootstrap():
    """Every draw rebuilds the table row by row and scores it from scratch."""
    patients = sorted(ROWS["patient_id"].unique())
    n_boot = 60
    drawn = []
    for weights in np.concatenate(list(cluster_weights(len(patients), n_boot, seed=7))):
        copies = [p for p, w in zip(patients, weights, strict=True) for _ in range(int(w))]
        resampled = pl.DataFrame({"patient_id": copies}).join(ROWS, on="patient_id")
        drawn.append(by_hand(resampled))
    table = stage_scores(ROWS, n_boot=n_boot, seed=7)
    overall = table.filter(pl.col("level") == "overall").row(0, named=True)
    assert (overall["low"], overall["high"]) == pytest.approx(
        tuple(np.percentile([d[2] for d in drawn], [2.5, 97.5]))
    )
    stage = table.filter(pl.col("level") == "stage", pl.col("stage") == 2).row(0, named=True)
    assert (stage["low"], stage["high"]) == pytest.approx(
        tuple(np.percentile([d[1][2] for d in drawn], [2.5, 97.5]))
    )


def test_differences_by_stage_are_those_of_the_stage_scores():
    systems = {"predicted": ROWS, "none": fake_scores(QUESTIONS, 0.2, seed=3), "gold": ROWS}
    found = stage_differences(systems, n_boot=200, seed=0)
    tables = {name: stage_scores(rows, n_boot=50, seed=0) for name, rows in systems.items()}
    score = {
        (name, row["stage"]): row["score"]
        for name, table in tables.items()
        for row in table.filter(level="stage").iter_rows(named=True)
    }
    assert found.select("first", "second").unique().height == 2  # majority and blank image are not there
    for row in found.iter_rows(named=True):
        gap = score[row["first"], row["stage"]] - score[row["second"], row["stage"]]
        assert row["difference"] == pytest.approx(gap) and row["low"] <= row["difference"] <= row["high"]
        assert row["n"] == ROWS.filter(stage=row["stage"]).height
    assert set(found.filter(first="gold")["p"]) == {1.0}, "the same answers twice"
    assert found.filter(first="predicted", stage=2)["p_holm"].item() == pytest.approx(10 / 201)


def test_effect_size_counts_in_standard_deviations_of_patients():
    """Where every patient has one answer, d is t / sqrt(n) of SciPy's paired t-test."""
    keys = ["patient_id"]
    one, other = (
        rows.filter(pl.col("format") == "open-ended", stage=8).unique(keys, keep="first", maintain_order=True)
        for rows in (ROWS, fake_scores(QUESTIONS, 0.4, seed=2))
    )
    expected = ttest_rel(one["score"], other["score"]).statistic / np.sqrt(one.height)
    assert difference(one, other, n_boot=50, seed=0)["effect_size"] == pytest.approx(expected)
    by_stage = stage_differences({"predicted": one, "none": other}, n_boot=50, seed=0)
    assert by_stage["effect_size"].to_list() == pytest.approx([expected])
    assert difference(one, one, n_boot=50, seed=0)["effect_size"] is None, "no spread, no unit to count in"


def test_systems_from_outside_are_compared_with_the_headline():
    systems = dict.fromkeys(("predicted", "majority", "gold", "theirs"), ROWS)
    assert compared(systems) == [("predicted", "majority"), ("gold", "predicted"), ("predicted", "theirs")]
    content = evaluation_json({"predicted": ROWS, "theirs": fake_scores(QUESTIONS, 0.2)}, n_boot=100, seed=0)
    assert content["differences"]["predicted - theirs"]["low"] > 0


def test_baselines_stand_beside_every_number():
    tables = {
        name: stage_scores(fake_scores(QUESTIONS, s), n_boot=50, seed=0)
        for name, s in (("a", 0.7), ("b", 0.3))
    }
    wide = beside(tables)
    assert wide.columns == ["level", "stage", "format", "n", "a", "low", "high", "b"]
    assert wide["a"].equals(tables["a"]["score"].alias("a")) and wide["b"].equals(
        tables["b"]["score"].alias("b")
    )


def test_views_leave_out_what_is_not_there():
    closed = ROWS.filter(pl.col("format") != "open-ended")
    found = views(closed, n_boot=50, seed=0)
    assert (
        "without open-ended" not in found["view"].to_list() and "authors' formats" in found["view"].to_list()
    )
    whole = views(ROWS, n_boot=50, seed=0)
    without = whole.filter(view="without open-ended").row(0, named=True)
    assert without["score"] == pytest.approx(found.filter(view="macro: stages")["score"].item())
    assert (whole["low"] <= whole["score"]).all() and (whole["score"] <= whole["high"]).all()
    assert found.filter(view="micro: questions")["n"].item() == closed.height


def test_tables_side_by_side():
    table = stage_scores(ROWS, n_boot=50, seed=0)
    both = side_by_side({"a": table, "b": table})
    assert both.columns[0] == "system" and both.height == 2 * table.height
    assert both.filter(system="b").drop("system").equals(table)


def test_order_of_rows_does_not_matter():
    shuffled = ROWS.sample(fraction=1, shuffle=True, seed=3)
    assert stage_scores(shuffled, n_boot=50, seed=0).equals(stage_scores(ROWS, n_boot=50, seed=0))


def test_a_constant_yes_scores_one_half_on_yes_no_however_rare_no_is():
    closed = QUESTIONS.filter(pl.col("qtype") == "yes_no")
    said = closed.select("sample_id", "turn", answer=pl.lit("Yes."))
    table = stage_scores(score_answers(closed, said, patients_of(closed)), n_boot=50, seed=0)
    assert table["score"].to_list() == [0.5, 0.5, 0.5]


def test_parse_failures_are_wrong_and_counted_apart():
    said = fake_predictions(QUESTIONS, 1.0).with_columns(
        answer=pl.when(pl.col("turn") == 0).then(pl.lit("?!")).otherwise(pl.col("answer"))
    )
    table = stage_scores(score_answers(QUESTIONS, said, patients_of(QUESTIONS)), n_boot=50, seed=0)
    first = table.filter(pl.col("level") == "stage", pl.col("stage") == 1).row(0, named=True)
    assert (first["score"], first["parse_failure_rate"]) == (0.0, 1.0)
    overall = table.filter(pl.col("level") == "overall").row(0, named=True)
    assert overall["score"] == pytest.approx(0.8)
    assert overall["parse_failure_rate"] == pytest.approx(40 / QUESTIONS.height)


def test_no_row_is_an_error_of_one_line():
    with pytest.raises(ValueError, match="0 rows"):
        sums(ROWS[:0])


def test_difference_of_two_systems():
    worse = fake_scores(QUESTIONS, 0.3, seed=1)
    found = difference(ROWS, worse, n_boot=300, seed=0)
    assert found["difference"] == pytest.approx(by_hand(ROWS)[2] - by_hand(worse)[2])
    assert 0 < found["low"] < found["high"] and found["p"] < 0.05
    with pytest.raises(ValueError, match="different questions"):
        difference(ROWS, worse[1:], n_boot=10, seed=0)


def test_evaluation_json_has_the_promised_keys():
    systems = {m: fake_scores(QUESTIONS, s) for m, s in (("predicted", 0.7), ("gold", 0.8), ("none", 0.6))}
    content = evaluation_json(systems | {"blank_image": fake_scores(QUESTIONS, 0.3)}, n_boot=100, seed=0)
    modes = {"predicted", "gold", "none", "blank_image"}
    for key in ("overall", "stages", "yes_no_balanced_accuracy", "detection_mean_iou", "parse_failure_rate"):
        assert set(content[key]) == modes
    assert set(content["overall"]["predicted"]) == {"score", "low", "high", "n"}
    assert list(content["stages"]["gold"]) == [str(stage) for stage in range(1, 9)]
    assert content["stages"]["gold"]["4"]["n"] == 0 and np.isnan(content["stages"]["gold"]["4"]["score"])
    assert set(content["differences"]) == {"predicted - blank_image", "predicted - none", "gold - predicted"}
    for test in content["differences"].values():
        assert test["p_holm"] >= test["p"]
    closed = systems["gold"].filter(pl.col("format") == "close-ended")
    assert content["yes_no_balanced_accuracy"]["gold"]["score"] == pytest.approx(
        balanced_accuracy_score(closed["gold_class"].to_numpy(), closed["pred_class"].to_numpy())
    )


def test_metrics_file_is_plain_rounded_and_byte_stable(tmp_path):
    path = tmp_path / "deep" / "evaluation.json"
    content = {"b": {"score": np.float64(1 / 3), "n": np.int64(3)}, "a": [float("nan"), -0.0, True, None]}
    write_metrics(path, content)
    first = path.read_bytes()
    assert first.index(b'"a"') < first.index(b'"b"') and first.endswith(b"}\n")
    assert json.loads(first) == {"a": [None, 0.0, True, None], "b": {"n": 3, "score": 0.333333}}
    write_metrics(path, dict(reversed(content.items())))
    assert path.read_bytes() == first
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        write_metrics(tmp_path / "file" / "x.json", content)


def test_finetune_json():
    history = {
        "encoder": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.5}],
        "decoder": [
            {"step": 10, "train_loss": 3.0},
            {"step": 10, "validation_loss": 2.0, "stage_1": 0.5, "choice": 0.75},
            {"step": 20, "train_loss": 1.0},
            {"step": 20, "validation_loss": 2.5},
        ],
        "parameters": {"total": 5, "trainable": 2},
        "cases": {"train": 8},
    }
    measured = {
        "processes": 1, "precision": "fp32", "tokens_per_second": 900.0, "peak_memory_gb": 1.5,
        "dropped_turns": 0, "seconds": 60.0,
    }  # fmt: skip
    history |= measured
    assert finetune_json(history) == {
        "parameters": {"total": 5, "trainable": 2, "trainable_percent": 40.0},
        "cases": {"train": 8},
        "encoder_epochs": 2,
        "encoder_loss": 1.5,
        "decoder_steps": 20,
        "train_loss": 1.0,
        "validation_loss": 2.5,
        "best_validation_loss": 2.0,
        "best_validation": {"stage_1": 0.5, "choice": 0.75},
        "best_step": 10,
        **measured,
    }
