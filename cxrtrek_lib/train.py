"""Tune projector and language model on whole cases: one forward per case, loss on every answer token.

A third of what a small model must learn is not to answer by habit, so cases are laid out in three ways:
`alone` (every question by itself, packed behind one copy of the films), `shuffled` (questions in random
order, the report last) and `ordered` (the stages as they are). All three give the same loss per answer.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from cxrtrek_lib import draws, resume
from cxrtrek_lib.chat import Case, Renderer, Tokens, Turn, alone_mask
from cxrtrek_lib.model import coordinate_ids, core

LAYOUTS = ("alone", "shuffled", "ordered")
# Neighbouring percents share the target of a coordinate: sigma in percent of the film.
COORDINATE_SIGMA = 1.5
REPORT_STAGE = 8
LOG_EVERY = 20  # steps behind one point of the training curve


@dataclass
class Batch:
    """B cases padded to L tokens. `answer_at` holds (row, column) of every answer token."""

    input_ids: Tensor  # int [B, L]
    attention_mask: Tensor  # bool [B, L], or [B, 1, L, L] when laid out alone
    position_ids: Tensor  # int [B, L]
    films: Tensor  # float [number of films, ...]: as model.film_inputs gives them
    rows: Tensor  # int [A]: row of each answer token
    columns: Tensor  # int [A]: column of each answer token
    answer: Tensor  # int [A]: which answer of the batch it belongs to, 0 .. n_answers - 1
    stages: Tensor  # int [n_answers]

    def to(self, device) -> "Batch":
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def chosen_turns(case: Case, *, layout: str, n_questions: int | None, seed: int, visit: int) -> list[Turn]:
    """The questions of one visit to a case: at most `n_questions`, drawn anew, in the layout's order."""
    turns = list(case.turns)
    order = draws.shuffle(seed, case.sample_id, f"turns/{visit}", range(len(turns)))
    if n_questions is not None:
        order = order[:n_questions]
    if layout != "shuffled":
        return [turns[i] for i in sorted(order)]
    shuffled = [turns[i] for i in order]
    return [t for t in shuffled if t.stage != REPORT_STAGE] + [t for t in shuffled if t.stage == REPORT_STAGE]


def collate(
    cases: Sequence[Case],
    turns: Sequence[Sequence[Turn]],
    layout: str,
    renderer: Renderer,
    film_inputs: dict[Path, Tensor],
) -> Batch:
    """Lay out some turns of each case as one batch; `film_inputs` as model.film_inputs gives them."""
    groups: list[list[int]] = []
    positions: list[list[int]] = []
    rendered: list[Tokens] = []
    for asked in turns:
        if layout == "alone":
            tokens, group, position = renderer.alone(asked)
        else:
            tokens = renderer.conversation(asked)
            group, position = [0] * len(tokens.ids), list(range(len(tokens.ids)))
        rendered.append(tokens)
        groups.append(group)
        positions.append(position)
    length = max(len(tokens.ids) for tokens in rendered)
    pad = renderer.processor.tokenizer.pad_token_id

    def padded(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])

    group = padded(groups, -1)
    position_ids = padded(positions, 0)
    at = [
        (row, column, stage)
        for row, (tokens, asked) in enumerate(zip(rendered, turns, strict=True))
        for (start, end), stage in zip(tokens.answers, (t.stage for t in asked), strict=True)
        for column in range(start, end)
    ]
    answer, stages = [], []
    for tokens, asked in zip(rendered, turns, strict=True):
        for (start, end), turn in zip(tokens.answers, asked, strict=True):
            answer += [len(stages)] * (end - start)
            stages.append(turn.stage)
    return Batch(
        input_ids=padded([tokens.ids for tokens in rendered], pad),
        attention_mask=alone_mask(group, position_ids) if layout == "alone" else group >= 0,
        position_ids=position_ids,
        films=torch.stack(
            [
                film_inputs[path]
                for case, tokens in zip(cases, rendered, strict=True)
                for path in case.images[: tokens.n_images]
            ]
        ),
        rows=torch.tensor([row for row, _, _ in at]),
        columns=torch.tensor([column for _, column, _ in at]),
        answer=torch.tensor(answer),
        stages=torch.tensor(stages),
    )


def answer_losses(model, batch: Batch, coordinates: list[int] | None = None) -> Tensor:
    """Mean token loss of each answer, in nats: float [n_answers].

    coordinates  token ids of 0 .. 100 percent: their targets are then smoothed over neighbours (Gaussian,
                 sigma 1.5 percent), so that a near box costs less than a far one; None for the plain loss
    """
    llava = core(model)
    hidden = llava.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        pixel_values=batch.films.to(llava.dtype),
        use_cache=False,
    ).last_hidden_state
    # The language-model head runs at answer positions only: elsewhere its output would be thrown away.
    logits = llava.lm_head(hidden[batch.rows, batch.columns - 1]).float()
    labels = batch.input_ids[batch.rows, batch.columns]
    losses = F.cross_entropy(logits, labels, reduction="none")
    if coordinates is not None:
        ids = torch.tensor(coordinates, device=labels.device)
        at, percent = (labels.unsqueeze(1) == ids).nonzero(as_tuple=True)
        if len(at):
            distance = torch.arange(len(ids), device=labels.device) - percent.unsqueeze(1)
            target = (-0.5 * (distance / COORDINATE_SIGMA).square()).softmax(-1)
            losses[at] = -(target * logits[at].log_softmax(-1)[:, ids]).sum(-1)
    n_answers = len(batch.stages)
    sums = torch.zeros(n_answers, device=losses.device).index_add(0, batch.answer, losses)
    return sums / torch.bincount(batch.answer, minlength=n_answers)


def plan(
    cases: Sequence[Case],
    *,
    epochs: int,
    batch_cases: int,
    alone_share: float,
    shuffled_share: float,
    seed: int,
) -> list[tuple[int, str, list[int]]]:
    """Every batch of a training run: (epoch, layout, case indices). A function of its arguments alone."""
    batches = []
    size = [
        sum(len(t.question) + len(t.answer) for t in case.turns) + 2000 * len(case.images) for case in cases
    ]
    for epoch in range(epochs):
        order = draws.shuffle(seed, "cases", f"epoch/{epoch}", range(len(cases)))
        pools = [order[i : i + 16 * batch_cases] for i in range(0, len(order), 16 * batch_cases)]
        # Cases of like length share a batch (less padding); batches of one pool are shuffled again.
        sorted_pools = [sorted(pool, key=lambda i: size[i]) for pool in pools]
        chunks = [
            pool[i : i + batch_cases] for pool in sorted_pools for i in range(0, len(pool), batch_cases)
        ]
        for n, chunk in enumerate(draws.shuffle(seed, "batches", f"epoch/{epoch}", chunks)):
            share = draws.uniform(seed, "layout", f"{epoch}/{n}")
            layout = LAYOUTS[(share >= alone_share) + (share >= alone_share + shuffled_share)]
            batches.append((epoch, layout, chunk))
    return batches


@torch.no_grad()
def validation_loss(model, cases, renderer, film_inputs, *, batch_cases: int, device) -> dict[str, float]:
    """Mean answer loss over whole ordered cases, in nats: overall and by stage ("stage_1", ...)."""
    model.eval()
    losses, stages = [], []
    for i in range(0, len(cases), batch_cases):
        part = cases[i : i + batch_cases]
        batch = collate(part, [c.turns for c in part], "ordered", renderer, film_inputs).to(device)
        losses.append(answer_losses(model, batch))
        stages.append(batch.stages)
    model.train()
    loss, stage = torch.cat(losses), torch.cat(stages)
    by_stage = {f"stage_{k}": loss[stage == k].mean().item() for k in sorted(set(stage.tolist()))}
    return {"validation_loss": loss.mean().item(), **by_stage}


def fit(
    model,
    renderer: Renderer,
    film_inputs: dict[Path, Tensor],
    train: Sequence[Case],
    validate: Sequence[Case],
    *,
    epochs: int,
    batch_cases: int,
    questions_per_case: int | None,
    learning_rate: float,
    warmup_steps: int,
    alone_share: float,
    shuffled_share: float,
    checkpoint_minutes: float,
    seed: int,
    work: Path,
    key: str,
) -> list[dict]:
    """Train the parameters that require gradients; the epoch of lowest validation loss stays in the model.

    work     folder for unfinished work: `decoder.pt` there, when its key matches, is where training resumes
    key      `resume.fingerprint` of everything this run depends on
    Returns the learning curve: rows of step, epoch, train_loss; at each epoch's end validation losses too.
    Same arguments and thread count, same weights, with or without an interruption (CPU, fp32). Raises
    FloatingPointError when the loss is not a number.
    """
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    coordinates = coordinate_ids(renderer.processor.tokenizer)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(trainable.values(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    batches = plan(
        train,
        epochs=epochs,
        batch_cases=batch_cases,
        alone_share=alone_share,
        shuffled_share=shuffled_share,
        seed=seed,
    )
    warmup = min(warmup_steps, len(batches) // 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, warmup, len(batches)))
    model, optimiser = accelerator.prepare(model, optimiser)
    model.train()

    curve: list[dict] = []
    best: dict[str, Tensor] = {}
    running: list[float] = []
    first = 0
    checkpoint = work / "decoder.pt"
    saved = resume.read(checkpoint, key)
    if saved is not None:
        model.load_state_dict(saved["weights"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        first, curve, best, running = saved["step"], saved["curve"], saved["best"], saved["running"]
    last_save = time.monotonic()
    bar = tqdm(total=len(batches), initial=first, desc="fine-tuning", unit="step")
    for step, (epoch, layout, index) in enumerate(batches[first:], first + 1):
        part = [train[i] for i in index]
        asked = [
            chosen_turns(case, layout=layout, n_questions=questions_per_case, seed=seed, visit=epoch)
            for case in part
        ]
        batch = collate(part, asked, layout, renderer, film_inputs).to(accelerator.device)
        with accelerator.autocast():
            loss = answer_losses(model, batch, coordinates).mean()
        if not loss.isfinite():
            raise FloatingPointError(
                f"training loss is {loss.item()} at step {step}; lower train.learning_rate ({learning_rate})"
            )
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trainable.values(), 1.0)
        optimiser.step()
        schedule.step()
        running.append(loss.item())
        bar.update()
        epoch_ends = step == len(batches) or batches[step][0] != epoch
        if epoch_ends or step % LOG_EVERY == 0:
            row = {"step": step, "epoch": epoch + 1, "train_loss": sum(running) / len(running)}
            running = []
            if epoch_ends:
                row |= validation_loss(
                    model,
                    validate,
                    renderer,
                    film_inputs,
                    batch_cases=4 * batch_cases,
                    device=accelerator.device,
                )
                if row["validation_loss"] < min(
                    (r.get("validation_loss", math.inf) for r in curve), default=math.inf
                ):
                    best = {name: p.detach().cpu().clone() for name, p in trainable.items()}
            curve.append(row)
            bar.set_postfix(
                {name: f"{row[name]:.3f}" for name in ("train_loss", "validation_loss") if name in row}
            )
        if time.monotonic() - last_save > checkpoint_minutes * 60:
            state = {
                "step": step,
                "weights": {name: p.detach().cpu() for name, p in trainable.items()},
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "curve": curve,
                "best": best,
                "running": running,
            }
            resume.write(state, checkpoint, key)
            last_save = time.monotonic()
    bar.close()
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(best[name])
    return curve


def rate(step: int, warmup: int, total: int) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to 5 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress)).item())
