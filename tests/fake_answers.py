"""Made-up questions and answers for the tests of scoring, figures and pages; never a result of the study."""

import numpy as np
import polars as pl

from cxrtrek_lib.conversations import format_boxes
from cxrtrek_lib.metrics import score_answers
from cxrtrek_lib.tables import BOXES, PREDICTIONS, QA, STUDIES

FINDINGS = ("pleural effusion", "pneumothorax", "cardiomegaly")
SIDES = ["A. Left", "B. Right", "C. Bilateral"]


def fake_study(number: int) -> dict:
    """One study; every third patient has a second study."""
    patient, order = 2 * (number // 3) + min(number % 3, 1), number % 3 == 2
    sample = f"chexpert/patient{patient:05d}/study{int(order) + 1}"
    prior = f"chexpert/patient{patient:05d}/study1" if order else None
    return dict.fromkeys(STUDIES) | {
        "sample_id": sample,
        "source": "chexpert" if number % 2 else "padchest",
        "patient_id": f"chexpert/patient{patient:05d}",
        "study_id": sample.rsplit("/", 1)[1],
        "order": int(order),
        "prior_study_id": prior,
        "split": "test",
        "views": ["PA"],
        "images": [f"film{number}.png"] + [f"film{number - 1}.png"] * bool(order),
        "image_origin": "simulated",
        "exposure": "adequate",
        "quality": [],
        "age": 60.0,
        "sex": "F",
    }


def fake_cohort(n_cases: int = 30, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(studies, qa): about twelve questions per case in stages 1, 2, 3, 5 and 8, all four formats."""
    random = np.random.default_rng(seed)
    studies, turns = [], []
    for number in range(n_cases):
        study = fake_study(number)
        studies.append(study)
        case: list[dict] = []

        def ask(stage, qtype, question, answer, *, case=case, study=study, **more):
            case.append(
                dict.fromkeys(QA)
                | {
                    "sample_id": study["sample_id"],
                    "turn": len(case),
                    "stage": stage,
                    "task_type": "Findings_Identification",
                    "qtype": qtype,
                    "image_input_count": 1,
                    "question": question,
                    "answer": answer,
                    "fact": f"{stage}|{qtype}",
                    "evidence": "made up",
                }
                | more
            )

        view = ["A. PA", "B. AP"]
        ask(
            1,
            "single-choice",
            "Which view is this?",
            view[number % 2],
            option_list=view,
            answer_list=[view[number % 2]],
        )
        present = [name for name in FINDINGS if random.random() < 0.4]
        for name in FINDINGS:
            said = "Yes." if name in present else "No."
            ask(2, "yes_no", f"Is there {name}?", said, target="yes_no_abnormality", fact=f"{name}|presence")
        said = f"There is {present[0]}." if present else "No pleural effusion. No pneumothorax."
        ask(2, "captioning", "What does the film show?", said)
        for name in present:
            side = SIDES[int(random.integers(3))]
            options = {"option_list": SIDES, "answer_list": [side]}
            question, about = f"On which side is the {name}?", {"target": f"location_[{name}]"}
            ask(3, "single-choice", question, side, **options, **about, fact=f"{name}|side")
            x, y = random.random(2) * 50
            box = [float(v) for v in np.round([x, y, x + 30, y + 35], 2)]
            where = {"bbox_list": [box], "image_id": 1, "num_of_images": 1, "target": name}
            answer = format_boxes(name, [box])
            ask(3, "detection", f"Where is the {name}?", answer, **where, fact=f"{name}|box 1")
        if study["prior_study_id"]:
            ask(5, "captioning", "What has changed?", "The effusion has grown." if present else "No change.")
        parts = [f"{'There is' if name in present else 'No'} {name}." for name in FINDINGS]
        ask(8, "captioning", "Write the report.", " ".join(parts))
        turns += case
    return pl.DataFrame(studies, schema=STUDIES), pl.DataFrame(turns, schema=QA)


def fake_predictions(qa: pl.DataFrame, skill: float, seed: int = 0) -> pl.DataFrame:
    """Answers of a made-up system: right with probability `skill`, else some answer of that kind."""
    random = np.random.default_rng(seed)
    pools = {qtype: qa.filter(pl.col("qtype") == qtype)["answer"].to_list() for qtype in qa["qtype"].unique()}
    given = [
        answer if random.random() < skill else pools[qtype][int(random.integers(len(pools[qtype])))]
        for qtype, answer in qa.select("qtype", "answer").iter_rows()
    ]
    unknown = pl.lit(None, pl.Float64)
    answers = pl.Series(given, dtype=pl.String)
    return qa.select("sample_id", "turn", answer=answers, prob_yes=unknown, prob_answer=unknown).cast(
        PREDICTIONS
    )


def fake_scores(qa: pl.DataFrame, skill: float, seed: int = 0) -> pl.DataFrame:
    """Scored answers of a made-up system."""
    return score_answers(qa, fake_predictions(qa, skill, seed), patients_of(qa))


def patients_of(qa: pl.DataFrame) -> pl.DataFrame:
    """sample_id and patient_id of made-up samples, whose ids are those of CheXpert."""
    patient = pl.col("sample_id").str.replace(r"/[^/]*$", "")
    return qa.select("sample_id", patient_id=patient).unique(maintain_order=True)


def fake_film(seed: int = 0, size: int = 96) -> np.ndarray:
    """uint8 (size, size): something with two dark lungs, a bright spine and noise."""
    y, x = np.mgrid[0:size, 0:size] / size
    lungs = sum(np.exp(-(((x - c) / 0.14) ** 2 + ((y - 0.45) / 0.28) ** 2)) for c in (0.3, 0.7))
    noise = np.random.default_rng(seed).normal(0, 0.03, (size, size))
    return (255 * np.clip(0.75 - 0.55 * lungs + noise, 0, 1)).astype(np.uint8)


def fake_boxes(qa: pl.DataFrame) -> pl.DataFrame:
    """The boxes table that the detection questions of `qa` were made from."""
    rows = [
        dict.fromkeys(BOXES)
        | {"sample_id": turn["sample_id"], "image_id": 1, "target": turn["target"], "reader": "simulated"}
        | dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
        for turn in qa.filter(pl.col("qtype") == "detection").iter_rows(named=True)
        for box in turn["bbox_list"]
    ]
    return pl.DataFrame(rows, schema=BOXES)
