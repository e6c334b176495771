"""Every metric on 50 made-up cases: against independent libraries, and frozen.

`samples/golden_answers.jsonl` holds 230 questions and answers in all four formats, among them missing,
empty, garbled, Unicode, reversed and out-of-range ones; `samples/golden_scores.json` what they scored when
this was written. A change of a golden value is a change of a metric: raise metrics.VERSION with it.
"""

import contextlib
import io
import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sacrebleu
from nltk.translate.bleu_score import corpus_bleu
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, jaccard_score

from cxrtrek_lib import also_reported, evaluation, metrics, systems
from cxrtrek_lib.inference_stats import cluster_weights
from cxrtrek_lib.tables import QA
from cxrtrek_lib.text_findings import findings_in

SAMPLES = Path(__file__).parent / "samples"
LINES = [json.loads(line) for line in (SAMPLES / "golden_answers.jsonl").read_text().splitlines()]
ABOUT = {"task_type": "made up", "image_input_count": 1, "fact": "f", "evidence": "made up"}
QUESTIONS = pl.DataFrame(
    [dict.fromkeys(QA) | ABOUT | {k: v for k, v in line.items() if k in QA} for line in LINES], schema=QA
)
STUDIES = pl.DataFrame(LINES).select("sample_id", "patient_id").unique(maintain_order=True)
GIVEN = pl.DataFrame(LINES, infer_schema_length=None).select(
    "sample_id", "turn", "prob_yes", "prob_answer", answer="given"
)
GIVEN = GIVEN.filter(pl.col("answer").is_not_null())
ANSWERS, COUNTED = systems.in_order(QUESTIONS, GIVEN)
ROWS = metrics.score_answers(QUESTIONS, ANSWERS, STUDIES)
ALSO = also_reported.scores(QUESTIONS, {"made up": ANSWERS}, {"made up": ROWS}, n_boot=50, seed=0)
SCORES = {row["metric"]: row["score"] for row in ALSO.iter_rows(named=True)}


def of(*qtypes: str) -> list[dict]:
    return [line for line in LINES if line["qtype"] in qtypes]


# --- what the answers of the fixture say, read without the code under test --------------------------------
CLASSES = {
    "Yes.": "yes", "Yes": "yes", "Yes, there is a small one.": "yes", "\uff39\uff45\uff53": "yes",
    "No.": "no", "N\u200bo": "no", "Uncertain.": "uncertain", "perhaps": "", "": "", None: "",
}  # fmt: skip


def classes(lines: list[dict]) -> tuple[list[str], list[str]]:
    return [CLASSES[line["answer"]] for line in lines], [CLASSES[line["given"]] for line in lines]


def picked(line: dict, text: str) -> list[bool]:
    """Which options a text names, by plain search; "A and B" names two by their labels."""
    by_label = {f"{line['option_list'][0][0]} and {line['option_list'][1][0]}": [True, True, False]}
    return by_label.get(text, [option in text for option in line["option_list"]])


def choices() -> tuple[np.ndarray, np.ndarray]:
    """Indicators (questions, 4 options) of gold and answer."""
    lines = of("single-choice", "multi-choice")
    both = [[picked(line, line[key]) for line in lines] for key in ("answer", "given")]
    return tuple(np.array([row + [False] * (4 - len(row)) for row in rows]) for rows in both)


def boxes_of(text: str) -> list[list[float]]:
    """Boxes that are ordered and inside 0-100, by splitting the text at its brackets."""
    points = [tuple(map(float, part.split(")")[0].split(", "))) for part in text.split("(")[1:]]
    found = [[*a, *b] for a, b in zip(points[::2], points[1::2], strict=True)]
    return [b for b in found if b[0] < b[2] <= 100 and b[1] < b[3] <= 100]


def overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def best_match(gold: list, said: list, worth) -> float:
    """The largest sum of `worth` over one-to-one pairs, by trying all."""
    short, long = sorted((gold, said), key=len)
    return max(
        sum(worth(overlap(a, b)) for a, b in zip(short, order, strict=False))
        for order in itertools.permutations(long)
    )


def coco(lines: list[tuple[list, list, float]]) -> float:
    """COCO's AP at IoU 0.5 of (gold boxes, boxes said, confidence) per image."""

    def wide(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    truth, said = [], []
    for image, (gold, boxes, sure) in enumerate(lines, start=1):
        common = {"image_id": image, "category_id": 1}
        truth += [common | {"bbox": wide(b), "area": 1.0, "iscrowd": 0} for b in gold]
        said += [common | {"bbox": wide(b), "score": sure} for b in boxes]
    truth = [box | {"id": number} for number, box in enumerate(truth, start=1)]
    images = [{"id": image} for image in range(1, len(lines) + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1}]}
        gold.createIndex()
        judge = COCOeval(gold, gold.loadRes(said), "bbox")
        judge.params.iouThrs = np.array([0.5])
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, 0, 0, -1]
    return float(precision.mean())


# --- the primary metrics -----------------------------------------------------------------------------------
def primary() -> dict[str, float]:
    found = {
        row["metric"]: row["score"]
        for row in evaluation.views(ROWS, n_boot=50, seed=0).rename({"view": "metric"}).iter_rows(named=True)
    }
    stages = evaluation.stage_scores(ROWS, n_boot=50, seed=0)
    for row in stages.iter_rows(named=True):
        found[" ".join(str(row[key]) for key in ("level", "stage", "format") if row[key] is not None)] = row[
            "score"
        ]
    return found


def test_balanced_accuracy_by_scikit_learn():
    for stage in (1, 2):
        lines = [line for line in of("yes_no") if line["stage"] == stage]
        with (
            pytest.warns(UserWarning, match="classes not in y_true")
            if stage == 2
            else contextlib.nullcontext()
        ):
            expected = balanced_accuracy_score(*classes(lines))
        assert primary()[f"format {stage} close-ended"] == pytest.approx(expected)


def test_exact_set_match_and_jaccard_by_scikit_learn():
    gold, said = choices()
    assert primary()["format 3 choice"] == pytest.approx(accuracy_score(gold, said))
    expected = jaccard_score(gold, said, average="samples", zero_division=0)
    assert SCORES["Jaccard"] == pytest.approx(expected)


def test_boxes_by_trying_every_pairing():
    f1, iou = [], []
    for line in of("detection"):
        gold, said = line["bbox_list"], boxes_of(line["given"])
        f1.append(2 * best_match(gold, said, lambda v: v >= 0.5) / (len(gold) + len(said)))
        iou.append(best_match(gold, said, float) / max(len(gold), len(said)))
    assert primary()["format 3 detection"] == pytest.approx(np.mean(f1))
    assert SCORES["mean IoU"] == pytest.approx(np.mean(iou))


def test_open_ended_by_rouge_score_and_sets_of_findings():
    judge, scores, rouges = RougeScorer(["rougeL"]), [], []
    for line in of("captioning"):
        rouge = judge.score(line["answer"], line["given"])["rougeL"].fmeasure
        gold, said = set(findings_in(line["answer"]).items()), set(findings_in(line["given"]).items())
        known = 2 * len(gold & said) / (len(gold) + len(said)) if gold | said else None
        scores.append((line["stage"], rouge if known is None else (rouge + known) / 2))
        rouges.append(rouge)
    assert SCORES["ROUGE-L F1"] == pytest.approx(np.mean(rouges))
    for stage in (5, 8):
        expected = np.mean([score for at, score in scores if at == stage])
        assert primary()[f"format {stage} open-ended"] == pytest.approx(expected)


def test_overall_is_the_mean_of_stages_and_these_of_their_formats():
    found = primary()
    stage_3 = (found["format 3 choice"] + found["format 3 detection"]) / 2
    assert found["stage 3"] == pytest.approx(stage_3)
    whole = [found["stage 1"], found["stage 2"], stage_3, found["stage 5"], found["stage 8"]]
    assert found["overall"] == found["macro: stages"] == pytest.approx(np.mean(whole))
    cells = [found[key] for key in found if key.startswith("format ")]
    assert found["macro: stage x format"] == pytest.approx(np.mean(cells))
    assert found["micro: questions"] == pytest.approx(ROWS["score"].mean())
    assert found["without detection"] == pytest.approx(
        np.mean([*whole[:2], found["format 3 choice"], *whole[3:]])
    )
    assert found["only open-ended"] == pytest.approx(np.mean(whole[3:]))
    by_format = ROWS.group_by("format").agg(pl.col("score").mean()).filter(pl.col("format") != "close-ended")
    gold, said = classes(of("yes_no"))
    recalls = [np.mean([s == c for g, s in zip(gold, said, strict=True) if g == c]) for c in set(gold)]
    assert found["macro: formats"] == pytest.approx(np.mean([*by_format["score"], np.mean(recalls)]))


# --- the metrics beside them ------------------------------------------------------------------------------
def test_accuracy_and_macro_f1_by_scikit_learn():
    gold, said = classes(of("yes_no"))
    assert SCORES["accuracy"] == pytest.approx(accuracy_score(gold, said))
    expected = f1_score(gold, said, labels=sorted(set(gold)), average="macro")
    assert SCORES["macro-F1"] == pytest.approx(expected)


def test_bleu_by_sacrebleu_and_by_nltk():
    lines = of("captioning")
    gold, said = [line["answer"] for line in lines], [line["given"] for line in lines]
    expected = sacrebleu.corpus_bleu(said, [gold], lowercase=True, smooth_method="none").score / 100
    assert SCORES["BLEU-4"] == pytest.approx(expected)
    split = Tokenizer13a()
    tokens = [[split(text.lower()).split() for text in pair] for pair in zip(gold, said, strict=True)]
    # NLTK counts one missing 4-gram for an answer of three words, which has none to miss.
    long = [k for k, (_, words) in enumerate(tokens) if len(words) >= 4]
    expected = corpus_bleu([[tokens[k][0]] for k in long], [tokens[k][1] for k in long])
    totals = np.sum([also_reported.bleu_counts(gold[k], said[k]) for k in long], axis=0, keepdims=True)
    assert len(long) > 40 and also_reported.bleu(totals)[0] == pytest.approx(expected)


def test_average_precision_by_pycocotools():
    lines = [(line["bbox_list"], boxes_of(line["given"]), line["prob_answer"]) for line in of("detection")]
    assert 0 < SCORES["AP at IoU 0.5"] < 1
    assert SCORES["AP at IoU 0.5"] == pytest.approx(coco(lines))


# --- intervals, frozen values, counts ---------------------------------------------------------------------
def test_intervals_are_those_of_resampled_rows():
    """Draws by hand: rows of a patient as often as it was drawn, scored by the libraries."""
    single = [line for line in of("detection") if len(boxes_of(line["given"])) <= 1]
    keys = pl.DataFrame(single).select("sample_id", "turn")
    rows = pl.concat(
        [ROWS.filter(pl.col("format") != "detection"), ROWS.join(keys, on=keys.columns, how="semi")]
    )
    found = also_reported.scores(QUESTIONS, {"x": ANSWERS}, {"x": rows}, n_boot=40, seed=3)
    patients = sorted({line["patient_id"] for line in LINES})
    for metric, lines, score in (
        ("BLEU-4", of("captioning"), _bleu),
        ("macro-F1", of("yes_no"), _macro_f1),
        ("AP at IoU 0.5", single, _ap),
    ):
        there = sorted({line["patient_id"] for line in lines})
        assert metric != "BLEU-4" or there == patients
        drawn = []
        for weights in np.concatenate(list(cluster_weights(len(there), 40, seed=3))):
            often = dict(zip(there, weights.astype(int), strict=True))
            drawn.append(score([line for line in lines for _ in range(often[line["patient_id"]])]))
        row = found.filter(metric=metric).row(0, named=True)
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=1e-9)


def _bleu(lines: list[dict]) -> float:
    texts = [[line[key] for line in lines] for key in ("given", "answer")]
    return sacrebleu.corpus_bleu(texts[0], [texts[1]], lowercase=True, smooth_method="none").score / 100


def _macro_f1(lines: list[dict]) -> float:
    gold, said = classes(lines)
    return f1_score(gold, said, labels=sorted(set(gold)), average="macro")


def _ap(lines: list[dict]) -> float:
    return coco([(line["bbox_list"], boxes_of(line["given"]), line["prob_answer"]) for line in lines])


def test_frozen_values():
    found = {"version": metrics.VERSION, "primary": primary(), "also": SCORES, "counted": COUNTED}
    found = json.loads(json.dumps(evaluation._plain(found)))
    frozen = json.loads((SAMPLES / "golden_scores.json").read_text())
    assert found["version"] == frozen["version"] and found["counted"] == frozen["counted"]
    for group in ("primary", "also"):
        assert found[group] == pytest.approx(frozen[group], abs=2e-6), group


def test_what_cannot_be_run_says_so_and_is_never_zero():
    rows = ALSO.filter(pl.col("note") != "")
    assert set(rows["metric"]) == set(also_reported.NOT_RUN) and len(rows) == 6
    assert rows["note"].str.starts_with("not run: needs ").all()
    assert rows.select("score", "low", "high").null_count().row(0) == (6, 6, 6)
    without = ANSWERS.with_columns(prob_answer=pl.lit(None, pl.Float64))
    blind = also_reported.scores(QUESTIONS, {"x": without}, {"x": ROWS}, n_boot=50, seed=0)
    row = blind.filter(metric="AP at IoU 0.5").row(0, named=True)
    assert row["score"] is None and row["note"].startswith("not run: needs prob_answer")
    assert set(ALSO["direction"]) == {"higher"} and set(ALSO["range"]) == {"0-1"}
