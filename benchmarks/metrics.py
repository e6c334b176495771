"""Speed and memory of scoring: 2,000 bootstrap draws on a million answers; the text metrics apart.

    PYTHONPATH=. python benchmarks/metrics.py [--answers 1000000] [--draws 2000] [--texts 2000]

Made-up answers of made-up patients (26 a patient) in the formats close-ended, choice and detection, half of
them right. Scored once and resampled as notebook 06 does: every stage x format, stage and the whole. Then
the rate of scoring open-ended answers, each text new, as finding-F1 reads texts with spaCy. One process.
"""

import argparse
import resource
import time

import numpy as np
import polars as pl

from cxrtrek_lib import evaluation, metrics
from cxrtrek_lib.conversations import format_boxes
from cxrtrek_lib.tables import QA

TURNS = 26
OPTIONS = ["A. left", "B. right", "C. bilateral"]
WORDS = "No small left right pleural effusion pneumothorax nodule . consolidation the heart is normal".split()


def cohort(n_answers: int, random: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """(questions, answers, studies) without open-ended questions."""
    n = n_answers // TURNS * TURNS
    case, turn = np.divmod(np.arange(n), TURNS)
    kind = turn % 3
    corners = np.round(random.uniform(1, 50, (n, 2)), 2)
    boxes = [[x, y, x + 30, y + 30] for x, y in corners.tolist()]
    right, guess = random.integers(0, 3, (2, n))
    same = random.random(n) < 0.5
    texts, said, picked = [], [], []
    for k in range(n):
        if kind[k] == 0:
            pair = "Yes." if right[k] else "No.", "Yes." if guess[k] else "No."
        elif kind[k] == 1:
            pair = OPTIONS[right[k]], OPTIONS[guess[k]]
        else:
            pair = format_boxes("nodule", [boxes[k]]), format_boxes("nodule", [boxes[k - 1]])
        texts.append(pair[0])
        said.append(pair[0] if same[k] else pair[1])
        picked.append([pair[0]] if kind[k] == 1 else None)
    qtype = np.array(["yes_no", "single-choice", "detection"])[kind]
    columns = {
        "sample_id": [f"made/patient{c}/study" for c in case],
        "turn": turn,
        "stage": turn // 4 + 1,
        "qtype": qtype,
        "answer": texts,
        "option_list": [OPTIONS if k == 1 else None for k in kind],
        "answer_list": picked,
        "bbox_list": [[box] if k == 2 else None for box, k in zip(boxes, kind, strict=True)],
        "target": "nodule",
        "fact": "nodule",
    }
    qa = pl.DataFrame(columns, schema_overrides={name: QA[name] for name in columns})
    answers = qa.select("sample_id", "turn", answer=pl.Series(said))
    studies = qa.select("sample_id", patient_id=pl.col("sample_id").str.strip_suffix("/study")).unique()
    return qa, answers, studies


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--texts", type=int, default=2_000)
    asked = parser.parse_args()

    random = np.random.default_rng(0)
    qa, answers, studies = cohort(asked.answers, random)
    patients = studies["patient_id"].n_unique()
    print(f"{qa.height:,} answers of {patients:,} patients; {peak_gb():.2f} GB with the tables", flush=True)
    start = time.perf_counter()
    rows = metrics.score_answers(qa, answers, studies)
    scored = time.perf_counter() - start
    print(f"scored in {scored:.1f} s, {qa.height / scored:,.0f} answers/s; {peak_gb():.2f} GB", flush=True)
    table = evaluation.stage_scores(rows, n_boot=asked.draws, seed=0)
    seconds = time.perf_counter() - start
    print(f"{asked.draws:,} draws in {seconds - scored:.1f} s, {table.height} rows", flush=True)
    print(f"together {seconds:.1f} s, peak memory {peak_gb():.2f} GB", flush=True)

    texts = [" ".join(random.choice(WORDS, 30)) for _ in range(2 * asked.texts)]
    start = time.perf_counter()
    for gold, said in zip(texts[::2], texts[1::2], strict=True):
        metrics.text_score(gold, said)
    rate = asked.texts / (time.perf_counter() - start)
    print(f"open-ended: {rate:,.0f} answers/s, 30 words each, gold and answer new")


if __name__ == "__main__":
    main()
