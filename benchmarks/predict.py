"""What keeping the history saves: answers per second against `generate` on the full history of each question.

    PYTHONPATH=. python benchmarks/predict.py [--checkpoint FOLDER] [--cohort FOLDER] [--cases 32]

Prints, for test cases cut to 26 questions, own answers as context: answers per CPU-second of the decoding
engine with all cases side by side, and of Hugging Face's `generate` on the whole conversation so far, one
question after another (films already encoded for both; its own cache within an answer on). Stops when one
token differs. One thread, fp32.
"""

import argparse
import time
from pathlib import Path

import torch

from cxrtrek_lib import chat, params, paths, predict, tables
from cxrtrek_lib import model as models
from tests import by_hugging_face

QUESTIONS = 26


def benchmark_cases(folder: Path, n: int) -> list[chat.Case]:
    """The first test cases with so many questions, cut to them."""
    studies, qa = (tables.read_table(name, folder / f"{name}.parquet") for name in ("studies", "qa"))
    found = [
        chat.Case(case.sample_id, case.patient_id, case.images, case.turns[:QUESTIONS])
        for case in chat.cases(studies.filter(split="test"), qa, folder)
        if len(case.turns) >= QUESTIONS
    ][:n]
    if len(found) < n:
        raise SystemExit(f"{folder}: {len(found)} test cases have {QUESTIONS} questions; lower --cases")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=paths.MODELS / "trained")
    parser.add_argument("--cohort", type=Path, default=paths.FILMS / "training")
    parser.add_argument("--cases", type=int, default=32)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    limit = params.load().groups()["predict"]["max_new_tokens"]
    model, processor = models.load(asked.checkpoint, dtype=torch.float32)
    renderer = models.renderer(model, processor)
    cases = benchmark_cases(asked.cohort, asked.cases)
    films = models.film_inputs(model, processor, [path for case in cases for path in case.images])

    start = time.process_time()
    ours = predict.answer(
        model, renderer, cases, films, context="predicted", batch_cases=asked.cases, max_new_tokens=limit
    )
    engine = ours.height / (time.process_time() - start)
    start, theirs = time.process_time(), {}
    for case in cases:
        with torch.inference_mode():
            texts = by_hugging_face.answers(model, renderer, case, films, context="predicted", limit=limit)
        theirs |= {(case.sample_id, t.turn): text for t, text in zip(case.turns, texts, strict=True)}
    generate = len(theirs) / (time.process_time() - start)
    for *question, text in ours.select("sample_id", "turn", "answer").iter_rows():
        assert theirs[tuple(question)] == text, (question, theirs[tuple(question)], text)
    print(
        f"{len(cases)} cases of {QUESTIONS} questions, all {len(theirs)} answers alike\n"
        f"  engine    {engine:7.1f} answers per CPU-s\n"
        f"  generate  {generate:7.1f} answers per CPU-s: the engine is {engine / generate:.1f} times as fast"
    )


if __name__ == "__main__":
    main()
