"""What one forward per case saves: against one example per question, and against transformers.Trainer.

    PYTHONPATH=. python benchmarks/train.py [--checkpoint FOLDER] [--cases 16] [--repeats 3]

Prints, from one run on training cases and their questions about the current film: CPU-seconds of a forward
and backward over the same answers, whole case of 26 questions against one example per question with its
history, and how far the two differ in each answer's loss and in the gradient; then tokens per CPU-second of
an epoch of `train.fit` against `transformers.Trainer` with padded batches (its collator for labels), from the
same weights on the same whole conversations at the same batch size. Medians of interleaved repeats, one
thread.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from cxrtrek_lib import batches, chat, encoder, params, paths, pretrain, tables, train
from cxrtrek_lib import model as models
from cxrtrek_lib.train_settings import Settings

QUESTIONS = 26
BATCH = 4


def benchmark_cases(n: int, questions: int | None) -> list[chat.Case]:
    """Training cases, their questions about the current film: the first so many of them, or all."""
    folder = paths.FILMS / "training"
    studies, qa = (tables.read_table(name, folder / f"{name}.parquet") for name in ("studies", "qa"))
    found = []
    for case in chat.cases(studies.filter(split="train"), qa, folder):
        turns = tuple(turn for turn in case.turns if turn.n_images == 1)[:questions]
        if len(turns) >= (questions or 1) and len(found) < n:
            found.append(chat.Case(case.sample_id, case.patient_id, case.images[:1], turns))
    if len(found) < n:
        raise SystemExit(f"{folder}: only {len(found)} cases have so many questions; lower --cases")
    return found


def length(case: chat.Case) -> int:
    return sum(len(turn.question + turn.answer) for turn in case.turns)


def fresh(settings: dict):
    """(model, processor): the small checkpoint of params.yaml, its weights as drawn."""
    films, findings, boxes = pretrain.films(paths.FILMS / "training")
    names, regions = pretrain.channels(findings, boxes)
    torch.manual_seed(0)
    tower = encoder.CxrEncoder(encoder.CxrEncoderConfig(findings=names, regions=regions))
    words = [
        text for case in benchmark_cases(100, None) for t in case.turns for text in (t.question, t.answer)
    ]
    model, processor = models.assemble("small", tower, words, settings, seed=0)
    return model.eval(), processor


def seconds(function) -> tuple[float, object]:
    """CPU-seconds of a call, and what it returned."""
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def whole_cases(model, renderer, films, cases) -> list[float]:
    """Loss of every answer, the gradient of their sum left in the model: one forward per case."""
    model.zero_grad()
    losses = []
    for start in range(0, len(cases), BATCH):
        part = cases[start : start + BATCH]
        batch = batches.collate(part, [case.turns for case in part], "ordered", renderer, films)
        found = train.answer_losses(model, batch)
        found.sum().backward()
        losses += found.tolist()
    return losses


def one_by_one(model, renderer, films, cases) -> list[float]:
    """The same from one example per question: its history, then the question; loss on its answer alone."""
    model.zero_grad()
    examples = [(case, case.turns[: k + 1]) for case in cases for k in range(len(case.turns))]
    order = sorted(range(len(examples)), key=lambda i: sum(len(t.question) for t in examples[i][1]))
    losses = [0.0] * len(examples)
    for start in range(0, len(order), BATCH):
        index = order[start : start + BATCH]
        part, asked = zip(*(examples[i] for i in index), strict=True)
        batch = batches.collate(part, asked, "ordered", renderer, films)
        last = torch.tensor([len(turns) for turns in asked]).cumsum(0) - 1
        keep = torch.isin(batch.answer, last)
        batch.rows, batch.columns = batch.rows[keep], batch.columns[keep]
        batch.answer, batch.stages = batch.rows, batch.stages[last]
        found = train.answer_losses(model, batch)
        found.sum().backward()
        for i, loss in zip(index, found.tolist(), strict=True):
            losses[i] = loss
    return losses


def compare_layouts(model, renderer, films, cases, repeats: int) -> None:
    spent, losses, gradients = {whole_cases: [], one_by_one: []}, {}, {}
    for _ in range(repeats):
        for way, times in spent.items():
            took, losses[way] = seconds(lambda way=way: way(model, renderer, films, cases))
            gradients[way] = gradient(model)
            times.append(took)
    whole, single = (statistics.median(times) for times in spent.values())
    apart = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    a, b = gradients.values()
    print(
        f"{len(cases)} cases of {QUESTIONS} questions, the same {len(losses[whole_cases])} answers\n"
        f"  one forward per case       {whole:8.2f} CPU-s\n"
        f"  one example per question   {single:8.2f} CPU-s: {single / whole:.1f} times as much\n"
        f"  largest difference of an answer's loss {apart:.1e} nats; of the gradient "
        f"{((a - b).norm() / a.norm()).item():.1e} of its length"
    )


def ours(model, renderer, films, cases) -> None:
    settings = Settings(
        short_epochs=0, epochs=1,
        patience=None, batch_cases=BATCH, accumulation=1, gradient_checkpointing=False,
        precision="fp32", loss_per="token", questions_per_case=None, learning_rate=1e-4, muon_rate=None,
        warmup_steps=0, alone_share=0.0, shuffled_share=0.0, checkpoint_minutes=60,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train.fit(model, renderer, films, cases, [], settings, seed=0, work=Path(folder), key="")


def examples_of(renderer, films, cases) -> list[dict]:
    """The conversations as Trainer takes them: ids, labels (-100 but in answers), the film's features."""
    found = []
    for case in cases:
        tokens = renderer.conversation(case, case.turns, films)
        labels = [-100] * len(tokens.ids)
        for start, end in tokens.answers:
            labels[start:end] = tokens.ids[start:end]
        (film,) = films[case.images[0]].inputs["pixel_values"]
        found.append({"input_ids": tokens.ids, "labels": labels, "pixel_values": film.numpy()})
    return found


def trainers(model, processor, examples) -> Trainer:
    folder = tempfile.mkdtemp()
    options = TrainingArguments(
        folder, per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=1e-4, use_cpu=True,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(processor.tokenizer)
    return Trainer(model, options, train_dataset=examples, data_collator=collator)


def compare_trainers(model, processor, renderer, films, cases, repeats: int) -> None:
    examples = examples_of(renderer, films, cases)
    tokens = sum(len(example["input_ids"]) for example in examples)
    spent = {"train.fit": [], "Trainer": []}
    for _ in range(repeats):
        spent["train.fit"].append(seconds(lambda: ours(copy.deepcopy(model), renderer, films, cases))[0])
        trainer = trainers(copy.deepcopy(model), processor, examples)
        spent["Trainer"].append(seconds(trainer.train)[0])
    rates = {name: tokens / statistics.median(times) for name, times in spent.items()}
    print(
        f"an epoch over {len(cases)} whole cases, {tokens:,} tokens, batches of {BATCH}\n"
        f"  train.fit             {rates['train.fit']:8,.0f} tokens per CPU-s\n"
        f"  transformers.Trainer  {rates['Trainer']:8,.0f} tokens per CPU-s: "
        f"train.fit is {rates['train.fit'] / rates['Trainer']:.2f} times as fast"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="a checkpoint's folder; else `small`, assembled anew")
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.checkpoint:
        model, processor = models.load(asked.checkpoint, dtype=torch.float32)
    else:
        model, processor = fresh(params.load().groups()["model"])
    # Cases of like length together, so that neither way of laying them out loses time on padding.
    cut = sorted(benchmark_cases(asked.cases, QUESTIONS), key=length)
    whole = benchmark_cases(2 * asked.cases, None)
    films = models.film_inputs(model, processor, [case.images[0] for case in (*cut, *whole)])
    renderer = models.renderer(model, processor)
    compare_layouts(model, renderer, films, cut, asked.repeats)
    compare_trainers(model, processor, renderer, films, whole, asked.repeats)


if __name__ == "__main__":
    main()
