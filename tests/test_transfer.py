"""External scores: questions inside the stage flow and alone, thresholds, baselines, refusals."""

import polars as pl
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from tables_by_hand import boxes as boxes_of
from tables_by_hand import findings as findings_of
from tables_by_hand import studies as studies_of

from cxrtrek_lib import chat, clinical_metrics, paths, tables, transfer, transfer_questions, transfer_tasks
from cxrtrek_lib.conversations import format_boxes
from cxrtrek_lib.transfer_tasks import ALONE, BLANK, FLOW

LABELS = [1, 0, 1, 0, 0, 1]
FLOW_P, ALONE_P, BLANK_P = [0.9, 0.2, 0.6, 0.7, 0.1, 0.3], [0.9, 0.2, 0.8, 0.4, 0.1, 0.7], [0.5] * 6
VALIDATION = {"labels": [1, 1, 0, 0], FLOW: [0.8, 0.55, 0.5, 0.1], ALONE: [0.8, 0.75, 0.5, 0.1]}
HERE, THERE = [10.0, 10.0, 40.0, 40.0], [60.0, 60.0, 90.0, 90.0]
REPORTS = ["No pleural effusion.", "Cardiomegaly.", "No acute disease."] * 2
WRITTEN = ["No pleural effusion. No pneumothorax.", "Heart size is normal.", "No acute disease."] * 2


@pytest.fixture
def films(tmp_path, monkeypatch):
    """The training cohort's tables under paths.FILMS: four validation films and one training film."""
    monkeypatch.setattr(paths, "FILMS", tmp_path)
    (tmp_path / "training").mkdir()
    ids = [f"train/v{k}" for k in range(4)]
    studies = studies_of(
        *({"sample_id": name, "split": "validate", "source": "train"} for name in ids),
        {"sample_id": "train/t", "split": "train", "source": "train", "patient_id": "train/t"},
    )
    status = ["present" if label else "absent" for label in VALIDATION["labels"]]
    rows = [(name, "lung opacity", each, 1) for name, each in zip(ids, status, strict=True)]
    findings = findings_of(*rows, ("train/t", "lung opacity", "present", 1))
    boxes = boxes_of(("train/t", 1, "lung opacity", *HERE))
    train = studies.filter(split="train")
    asked = transfer_questions.locations(train, findings, boxes, ["lung opacity"], seed=0)
    told = transfer_questions.presence(train, findings, ["lung opacity"], seed=0)
    report = told.with_columns(
        qtype=pl.lit("captioning"), answer=pl.lit("No acute disease."), stage=pl.lit(8, pl.Int8)
    )
    for name, table in (
        ("studies", studies),
        ("findings", findings),
        ("qa", pl.concat([asked, told, report])),
    ):
        table.write_parquet(tmp_path / "training" / f"{name}.parquet")
    return tmp_path


def external(origin="simulated") -> transfer.Cohort:
    """Six films of three patients; the first, third and last have an opacity, in a box."""
    ids = [f"rsna/{k}" for k in range(6)]
    studies = studies_of(*(
        {"sample_id": name, "source": "rsna", "patient_id": f"rsna/p{k // 2}", "split": "external",
         "image_origin": origin} for k, name in enumerate(ids)
    ))  # fmt: skip
    status = ["present" if label else "absent" for label in LABELS]
    findings = findings_of(*((name, "lung opacity", each, 1) for name, each in zip(ids, status, strict=True)))
    boxes = boxes_of(
        *((name, 1, "lung opacity", *HERE) for name, label in zip(ids, LABELS, strict=True) if label)
    )
    qa = pl.DataFrame(schema=tables.QA)
    return transfer.Cohort("rsna", paths.FILMS, studies, findings, boxes, qa, findings.clear())


def answered(qa: pl.DataFrame, names: tuple[str, ...], chances: dict[str, list], box=HERE) -> dict:
    """Answers to the external films (P(yes) by film) and the validation films; every film is boxed."""
    _, asked = transfer.validation(names, seed=0)
    given = {}
    for run, values in chances.items():
        rows = []
        for part, of_film in ((qa, values), (asked, VALIDATION.get(run, [None] * 4))):
            ids = sorted(part["sample_id"].unique())
            chance = dict(zip(ids, of_film, strict=True)) if ids else {}
            for sample_id, turn, qtype in part.select("sample_id", "turn", "qtype").iter_rows():
                p = chance[sample_id] if qtype == "yes_no" else None
                text = format_boxes("lung opacity", [box]) if qtype == "detection" else "Yes." if p else "x"
                rows.append((sample_id, turn, text, p, 0.5))
        given[run] = pl.DataFrame(rows, schema=tables.PREDICTIONS, orient="row")
    return given


def scored(films, *, flow=FLOW_P, origin="simulated", box=HERE) -> dict:
    """(task, metric, asked) -> row."""
    cohort = external(origin)
    plan = transfer.rsna(cohort, seed=0)
    qa = transfer_questions.conversations(cohort.studies, plan.questions, seed=0)
    answers = answered(qa, plan.names, {FLOW: flow, ALONE: ALONE_P, BLANK: BLANK_P}, box)
    rows = transfer.score("rsna", cohort.studies, qa, answers, plan, n_boot=50, seed=0)
    return {(row["task"], row["metric"], row["asked"]): row for row in rows}


# Questions


def test_the_flow_comes_first_and_its_questions_do_not_depend_on_the_truth(films):
    cohort = external()
    qa = transfer_questions.conversations(cohort.studies, transfer.rsna(cohort, seed=0).questions, seed=0)
    assert qa.columns == list(transfer_questions.ROW)
    scored = pl.col("task").is_not_null()
    facts = qa.group_by("sample_id").agg(
        flow=pl.col("fact").filter(~scored), rest=pl.col("task").filter(scored),
        turns=pl.col("turn"), first=pl.col("task").is_null().arg_min(),
    )  # fmt: skip
    assert facts["flow"].n_unique() == 1 and facts["flow"][0].len() == 6
    assert facts["rest"].to_list() == [["presence", "boxes"]] * 6
    assert facts["turns"].to_list() == [list(range(8))] * 6 and set(facts["first"]) == {6}
    cases = chat.cases(cohort.studies, qa, films)
    assert [turn.stage for turn in cases[0].turns] == [1, 1, 1, 2, 2, 2, 2, 3]
    alone = transfer_questions.alone(qa)
    assert set(alone.select("sample_id", "turn").rows()) < set(qa.select("sample_id", "turn").rows())


def test_a_film_without_the_finding_is_asked_for_a_box_all_the_same(films):
    where = transfer.rsna(external(), seed=0).questions["boxes"].sort("sample_id")
    assert where["bbox_list"].list.len().to_list() == LABELS


def test_a_general_name_follows_from_its_special_cases(films):
    studies = studies_of(*({"sample_id": f"a/{k}"} for k in range(4)))
    findings = findings_of(
        ("a/0", "nodule", "present", 1), ("a/0", "mass", "absent", 1), ("a/0", "granuloma", "absent", 1),
        ("a/1", "nodule", "absent", 1), ("a/1", "mass", "absent", 1), ("a/1", "granuloma", "absent", 1),
        ("a/2", "nodule", "absent", 1), ("a/2", "mass", "uncertain", 1), ("a/2", "granuloma", "absent", 1),
        ("a/3", "nodule or mass", "absent", 1), ("a/3", "nodule", "present", 1),  # as the table has it
    )  # fmt: skip
    asked = transfer_questions.presence(studies, findings, ["nodule or mass"], general=True, seed=0)
    assert dict(asked.select("sample_id", "answer").iter_rows()) == {
        "a/0": "Yes.",
        "a/1": "No.",
        "a/3": "No.",
    }


# Scores


def test_classification_is_scikit_learns_in_the_flow_and_alone(films):
    rows = scored(films)
    for asked, chances in ((FLOW, FLOW_P), (ALONE, ALONE_P)):
        area = rows["classification", "AUROC, lung opacity", asked]
        assert area["score"] == pytest.approx(roc_auc_score(LABELS, chances))
        assert area["baseline"] == area["majority"] == 0.5 and area["baseline_name"] == BLANK
        precision = rows["classification", "AP, lung opacity", asked]
        assert precision["score"] == pytest.approx(average_precision_score(LABELS, chances))
        assert (area["n"], area["n_patients"], area["n_positive"], area["prevalence"]) == (6, 3, 3, 0.5)
        assert area["low"] <= area["score"] <= area["high"] and area["image_origin"] == "simulated"


def test_the_threshold_is_that_of_the_validation_films_asked_the_same_way(films):
    rows = scored(films)
    for asked, chances, limit in ((FLOW, FLOW_P, 0.55), (ALONE, ALONE_P, 0.75)):
        row = rows["classification", "F1, lung opacity", asked]
        assert row["threshold"] == limit
        assert row["score"] == pytest.approx(f1_score(LABELS, [p >= limit for p in chances]))
    # Other answers to the external films leave it where it is.
    assert scored(films, flow=ALONE_P)["classification", "F1, lung opacity", FLOW]["threshold"] == 0.55


def test_answers_are_kept_with_their_questions_and_without_the_validation_films(films):
    cohort = external()
    plan = transfer.rsna(cohort, seed=0)
    qa = transfer_questions.conversations(cohort.studies, plan.questions, seed=0)
    answers = answered(qa, plan.names, {FLOW: FLOW_P, ALONE: ALONE_P, BLANK: BLANK_P})
    table = transfer.kept(answers, qa)
    assert table.height == 3 * len(qa) and set(table["sample_id"]) == set(cohort.studies["sample_id"])
    asked = table.filter(pl.col("task") == "presence", pl.col("asked") == ALONE).sort("sample_id")
    assert asked["prob_yes"].to_list() == ALONE_P
    assert asked["gold"].to_list() == ["Yes." if label else "No." for label in LABELS]


def test_the_difference_is_flow_less_alone_and_nought_between_equals(films):
    row = scored(films)["classification", "AUROC, lung opacity", FLOW]
    assert row["difference"] == pytest.approx(roc_auc_score(LABELS, FLOW_P) - roc_auc_score(LABELS, ALONE_P))
    row = scored(films, flow=ALONE_P)["classification", "AUROC, lung opacity", FLOW]
    assert row["difference"] == row["difference_low"] == row["difference_high"] == 0
    assert scored(films)["classification", "AUROC, lung opacity", ALONE]["difference"] is None


def test_boxes_are_as_sure_as_the_presence_answer(films):
    """Every film is boxed at the right place: precision then is that of the ranking of films."""
    rows = scored(films)
    assert rows["detection", "mean IoU where present", FLOW]["score"] == 1
    area = rows["detection", "mAP at IoU 0.5", ALONE]
    assert area["score"] == 1 and area["baseline"] is not None, "alone, the three with the finding are surest"
    assert rows["detection", "mAP at IoU 0.5", FLOW]["score"] < 1
    wrong = scored(films, box=THERE)["detection", "mAP at IoU 0.5", FLOW]
    assert wrong["score"] == 0 and wrong["baseline"] > 0 and wrong["baseline_name"] == "median training box"


def test_films_without_a_probability_are_left_out_and_counted(films):
    row = scored(films, flow=[None, *FLOW_P[1:]])["classification", "AUROC, lung opacity", FLOW]
    assert (row["n"], row["unanswered"]) == (5, 1)
    assert row["score"] == pytest.approx(roc_auc_score(LABELS[1:], FLOW_P[1:]))


def test_a_run_without_any_probability_is_said_not_raised(films):
    row = scored(films, flow=[None] * 6)["classification", "AUROC, lung opacity", FLOW]
    assert (row["score"], row["n"], row["unanswered"]) == (None, 0, 6) and row["note"]


def test_one_class_is_said_not_raised(films):
    cohort = external()
    absent = cohort.findings.with_columns(status=pl.lit("absent"))
    cohort = cohort._replace(findings=absent, boxes=cohort.boxes.clear())
    plan = transfer.rsna(cohort, seed=0)
    qa = transfer_questions.conversations(cohort.studies, plan.questions, seed=0)
    answers = answered(qa, plan.names, {FLOW: FLOW_P, ALONE: ALONE_P, BLANK: BLANK_P})
    rows = transfer.score("rsna", cohort.studies, qa, answers, plan, n_boot=50, seed=0)
    assert {row["task"] for row in rows} == {"classification"}
    assert all(row["score"] is None and row["note"] == transfer_tasks.ONE_CLASS for row in rows)


def test_real_and_simulated_films_are_scored_apart(films):
    cohort = external()
    origin = pl.when(pl.int_range(pl.len()) < 2).then(pl.lit("real")).otherwise(pl.lit("simulated"))
    studies = cohort.studies.with_columns(image_origin=origin)
    plan = transfer.rsna(cohort, seed=0)
    qa = transfer_questions.conversations(studies, plan.questions, seed=0)
    answers = answered(qa, plan.names, {FLOW: FLOW_P, ALONE: ALONE_P, BLANK: BLANK_P})
    rows = transfer.score("rsna", studies, qa, answers, plan, n_boot=50, seed=0)
    n = {row["image_origin"]: row["n"] for row in rows if row["metric"] == "AUROC, lung opacity"}
    assert n == {"real": 2, "simulated": 4}


def reports_of(cohort):
    """(plan, questions): a report of each film, whose annotated text is REPORTS."""
    asked = transfer_questions.presence(
        cohort.studies, cohort.findings, ["lung opacity"], seed=0
    ).with_columns(
        qtype=pl.lit("captioning"),
        stage=pl.lit(8, pl.Int8),
        answer=pl.Series(REPORTS),
        fact=pl.lit("report|findings"),
    )
    plan = transfer.Plan({"report": asked}, {"report generation": transfer.report_generation})
    qa = transfer_questions.conversations(cohort.studies, plan.questions, seed=0)
    return plan, qa


def test_reports_are_scored_as_rouge_score_scores_them(films):
    cohort = external()
    plan, qa = reports_of(cohort)
    order = dict(zip(sorted(cohort.studies["sample_id"]), WRITTEN, strict=True))
    rows = [(s, t, order[s], None, 0.5) for s, t in qa.select("sample_id", "turn").iter_rows()]
    given = pl.DataFrame(rows, schema=tables.PREDICTIONS, orient="row")
    blank = given.with_columns(answer=pl.lit("x"))
    rows = transfer.score(
        "openi", cohort.studies, qa, {FLOW: given, ALONE: given, BLANK: blank}, plan, n_boot=50, seed=0
    )
    row = next(row for row in rows if row["metric"] == "ROUGE-L F1, all reports")
    scorer = RougeScorer(["rougeL"])
    oracle = [scorer.score(g, w)["rougeL"].fmeasure for g, w in zip(REPORTS, WRITTEN, strict=True)]
    assert row["score"] == pytest.approx(sum(oracle) / 6) and row["baseline"] == 0
    common = [scorer.score(g, "No acute disease.")["rougeL"].fmeasure for g in REPORTS]
    assert row["majority"] == pytest.approx(sum(common) / 6)


def test_a_clinical_metric_is_scored_or_says_why_not(films, monkeypatch):
    cohort = external()
    plan, qa = reports_of(cohort)
    rows = [
        (s, t, REPORTS[k], None, 0.5)
        for k, (s, t) in enumerate(qa.select("sample_id", "turn").iter_rows())
        if k < 6
    ]
    given = pl.DataFrame(rows, schema=tables.PREDICTIONS, orient="row")
    answers = {FLOW: given, ALONE: given, BLANK: given}
    how = {"GREEN": {"python": "/nowhere/python", "weights": "/nowhere"}}
    rows = transfer.score("openi", cohort.studies, qa, answers, plan, n_boot=50, seed=0, clinical=how)
    found = [row for row in rows if row["metric"] == "GREEN, all reports"]
    assert len(found) == 2 and all(
        row["score"] is None and row["note"].startswith("not run: ") for row in found
    )
    # A stand-in of the package: one in common of two, whatever the texts.
    half = {"of_pairs": lambda metric, pairs, **_: dict.fromkeys(pairs, (1.0, 2.0))}
    monkeypatch.setattr(clinical_metrics, "of_pairs", half["of_pairs"])
    rows = transfer.score("openi", cohort.studies, qa, answers, plan, n_boot=50, seed=0, clinical=how)
    found = [row for row in rows if row["metric"] == "GREEN, all reports"]
    assert [row["score"] for row in found] == [0.5, 0.5] and found[0]["difference"] == 0


# Refusals


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.with_columns(split=pl.lit("test")), "is in split test, not external"),
        (lambda s: pl.concat([s, s.head(1)]), "stands twice"),
        (lambda s: s.with_columns(source=pl.lit("train")), "leakage: train would be tested on"),
        (lambda s: s.with_columns(patient_id=pl.lit("train/t")), "leakage: patients to be tested on"),
    ],
)
def test_what_must_not_be_tested_on_is_refused_in_one_line(films, change, said):
    with pytest.raises(ValueError, match=said) as error:
        transfer.refuse("rsna", change(external().studies))
    assert "\n" not in str(error.value)


def test_an_unknown_dataset_is_named(films):
    with pytest.raises(ValueError, match="unknown external dataset 'mimic'; known: nih, rsna, vindr, openi"):
        transfer.cohort("mimic")


def test_what_no_film_shows_is_listed(films):
    cohort = external()._replace(name="nih")
    left = transfer.nih(cohort, seed=0).left_out
    assert left["fracture"].startswith("below what a film") and left["pneumothorax"] == transfer.NO_FILM_SHOWS
