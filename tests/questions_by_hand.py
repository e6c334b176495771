"""Small tables of studies and Q&A written by hand, for the tests of counts, tables and audits."""

import polars as pl

from cxrtrek_lib.tables import QA


def studies(*rows: tuple) -> pl.DataFrame:
    """Tuples (sample_id, patient_id, source, split)."""
    frame = pl.DataFrame(rows, schema=["sample_id", "patient_id", "source", "split"], orient="row")
    return frame.with_columns(views=pl.lit(["PA"]), prior_study_id=pl.lit(None, pl.String))


def turn(sample: str, stage: int, qtype: str, question: str, answer: str, fact: str = "x", **more) -> dict:
    """One Q&A; `options` and `right` are lists of texts. A yes/no question is about an abnormality."""
    options = {"option_list": more.pop("options", None), "answer_list": more.pop("right", None)}
    target = "yes_no_abnormality" if qtype == "yes_no" else None
    return dict.fromkeys(QA) | options | {
        "sample_id": sample, "stage": stage, "qtype": qtype, "question": question, "answer": answer,
        "fact": fact, "target": target, "task_type": "Findings_Identification", "evidence": "made up",
        "image_input_count": 1,
    } | more  # fmt: skip


def questions(*turns: dict) -> pl.DataFrame:
    """The Q&A in the order given; turns are counted per sample."""
    numbers: dict[str, int] = {}
    for row in turns:
        row["turn"] = numbers.setdefault(row["sample_id"], 0)
        numbers[row["sample_id"]] += 1
    return pl.DataFrame(list(turns), schema=QA)
