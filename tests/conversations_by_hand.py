"""Conversations written by hand: three samples in the authors' format, three studies in our tables."""

import json
from pathlib import Path

import polars as pl
from tables_by_hand import studies

from cxrtrek_lib import schema, tables

# Invented text in the published format (design, section 5). The first sample has every format, a reference
# study, turns out of stage order and flags; the second numeric ids, unknown keys, a box in a question and an
# answer that matches no option; the third keys in its messages and another image list at the top.
SAMPLES = Path(__file__).parent / "samples" / "authors.json"


def samples() -> list[dict]:
    return json.loads(SAMPLES.read_text(encoding="utf-8"))


def own_cases() -> schema.Cases:
    """Three studies of one patient: the first has no question, the second is compared, the third is not."""
    history = studies(
        {"sample_id": "made/p/1", "patient_id": "made/p", "next_study_id": "made/p/2", "images": ["1.png"]},
        {"sample_id": "made/p/2", "patient_id": "made/p", "order": 1, "prior_study_id": "made/p/1",
         "next_study_id": "made/p/3", "views": ["PA", "LATERAL"], "images": ["2.png", "2l.png"]},
        {"sample_id": "made/p/3", "patient_id": "made/p", "order": 2, "prior_study_id": "made/p/2",
         "images": ["3.png", "2.png"]},
    )  # fmt: skip
    plain = {"task_type": "View_Information", "qtype": "captioning", "answer": "PA.", "is_joint_sent": False,
             "fact": "view", "evidence": "made: view"}  # fmt: skip
    compared = {**plain, "task_type": "Differences_Comparison", "fact": "composite|changes"}
    box = "<|ref|> heart <|/ref|> <|box|>(12.00, 40.50), (45.10, 88.00)<|/box|>"
    detection = {**plain, "task_type": "Findings_Detection", "qtype": "detection", "is_joint_sent": None,
                 "answer": box, "bbox_list": [[12.0, 40.5, 45.1, 88.0]], "image_id": 1, "num_of_images": 1,
                 "target": "heart", "fact": "heart|box"}  # fmt: skip
    rows = [
        {"sample_id": "made/p/2", "turn": 0, "stage": 1, "image_input_count": 2,
         "question": "<image><image>\nView?", **plain},
        {"sample_id": "made/p/2", "turn": 1, "stage": 5, "image_input_count": 3, "question": "<image>\nNew?",
         **compared},
        {"sample_id": "made/p/3", "turn": 0, "stage": 1, "image_input_count": 1, "question": "<image>\nView?",
         **plain},
        {"sample_id": "made/p/3", "turn": 1, "stage": 3, "image_input_count": 1, "question": "Where is it?",
         **detection},
    ]  # fmt: skip
    return schema.Cases(history, tables.conform("qa", pl.DataFrame(rows, schema=tables.QA)), "made")
