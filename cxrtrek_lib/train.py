"""The training loop: one forward per case, loss on every answer token, in one process or shared by many.

A third of what a small model must learn is not to answer by habit, so a share of the steps asks every
question alone and another shuffles the stages (batches.py). What a step learns from does not depend on how
many processes share it, nor on how many forwards each of them takes for its share.
"""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import functional as F
from tqdm.auto import tqdm

from cxrtrek_lib import model as models
from cxrtrek_lib import muon, resume
from cxrtrek_lib.assembled import coordinate_ids
from cxrtrek_lib.batches import Batch, chosen_turns, collate, even_answers, plan
from cxrtrek_lib.chat import Case, Renderer
from cxrtrek_lib.sharing import added, shares, validation_loss, weights
from cxrtrek_lib.train_settings import Settings, memory_told, precision

# Neighbouring percents share the target of a coordinate: sigma in percent of the film.
COORDINATE_SIGMA = 1.5
LOG_EVERY = 20  # steps behind one point of the training curve
# A pretrained encoder is tuned more gently than the projector and decoder behind it.
ENCODER_RATE = 0.1


def answer_losses(model, batch: Batch, coordinates: list[int] | None = None) -> Tensor:
    """Mean token loss of each answer, in nats: float [n_answers].

    coordinates  token ids of 0 .. 100 percent: their targets are then smoothed over neighbours (Gaussian,
                 sigma 1.5 percent), so that a near box costs less than a far one; None for the plain loss
    """
    hidden = models.hidden_states(model, batch)
    # The language-model head runs at answer positions only: elsewhere its output would be thrown away.
    logits = models.head(model)(hidden[batch.rows, batch.columns - 1]).float()
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


class AnswerLosses(nn.Module):
    """`answer_losses` as a module: what data-parallel and sharded training wrap is a module's forward."""

    def __init__(self, model, coordinates: list[int] | None):
        super().__init__()
        self.model = model
        self.coordinates = coordinates

    def forward(self, batch: Batch, smooth: bool) -> Tensor:
        return answer_losses(self.model, batch, self.coordinates if smooth else None)


def rate(step: int, warmup: int, total: int) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to 5 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    model,
    renderer: Renderer,
    films: Mapping,
    train: Sequence[Case],
    validate: Sequence[Case],
    settings: Settings,
    *,
    seed: int,
    work: Path,
    key: str,
) -> tuple[dict, dict[str, Tensor]]:
    """Train the parameters that require gradients; (history, weights of the epoch of lowest validation loss).

    validate  may be empty: the weights of the last epoch are then kept
    films     as model.film_inputs gives them
    work      folder for unfinished work: `decoder.pt` there, when its key matches, is where training resumes
    key       `resume.fingerprint` of everything this run depends on
    history   decoder: rows of step, epoch, train_loss, and validation losses at each epoch's end;
              processes, precision, tokens_per_second, peak_memory_gb, dropped_turns
    Unless the model is sharded, those weights are also put into it. Same arguments, processes and thread
    count, same weights, with or without an interruption (CPU, fp32). Raises FloatingPointError when the loss
    is not a number, MemoryError (which parameter to change) when memory does not suffice.
    """
    run = _Run(model, renderer, films, train, validate, settings, seed)
    with memory_told(settings, run.accelerator.num_processes):
        run.resume(work / "decoder.pt", key)
        return run.history(), run.finish()


class _Run:
    """The state of one training: what is wrapped, how far it is, what it has measured."""

    def __init__(self, model, renderer, films, train, validate, settings: Settings, seed: int):
        self.renderer, self.films, self.train, self.validate = renderer, films, train, validate
        self.settings, self.seed, self.model = settings, seed, model
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = precision(settings.precision, device)
        tower = models.vision_tower(model)
        tuned_tower = any(p.requires_grad for p in tower.parameters())
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=self.precision.replace("fp32", "no"),
            # A tower has parts that only its own pretraining uses.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=tuned_tower)],
        )
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if settings.gradient_checkpointing:
            models.core(model).activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        tower.eval()  # batch norm keeps the statistics of pretraining, tuned or not
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # small steps would be rounded away in 16 bits
        optimisers = self.optimisers_of(model)
        self.losses_of, *self.optimisers = self.accelerator.prepare(
            AnswerLosses(model, coordinate_ids(renderer.processor.tokenizer)), *optimisers
        )
        self.batches = plan(
            train, short_epochs=settings.short_epochs, epochs=settings.epochs,
            batch_cases=settings.batch_cases,
            alone_share=settings.alone_share, shuffled_share=settings.shuffled_share, seed=seed,
        )  # fmt: skip
        self.even = even_answers(train)
        self.first, self.curve, self.best = 0, [], {}
        self.running: list[Tensor] = []  # this process's share of the loss of each step since the last row
        self.dropped_turns = 0
        self.seen, self.seconds = 0, 0.0  # tokens of all processes, time behind them

    def optimisers_of(self, model) -> list[torch.optim.Optimizer]:
        """AdamW, and Muon for the language model's matrices where `muon_rate` asks for it.

        Each group's `peak` is its learning rate after warm-up.
        """
        settings, orthogonal = self.settings, []
        if settings.muon_rate is not None:
            if self.sharded:
                raise ValueError(
                    "train.muon_rate: Muon needs whole matrices, this model is sharded; write null"
                )
            orthogonal = muon.matrices(models.core(model).get_decoder())
        own = {id(p) for p in orthogonal}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        tower = {id(p) for p in models.vision_tower(model).parameters()}
        groups = [
            {"params": [p for p in rest if id(p) not in tower], "peak": settings.learning_rate},
            {"params": [p for p in rest if id(p) in tower], "peak": ENCODER_RATE * settings.learning_rate},
        ]
        groups = [group for group in groups if group["params"]]
        found = [torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)]
        if orthogonal:
            group = {"params": orthogonal, "peak": settings.muon_rate}
            found.append(muon.Muon([group], lr=settings.muon_rate, weight_decay=0.01))
        return found

    # One step

    def micro_batches(self, step: int) -> list[tuple[Batch, Tensor]]:
        """What this process takes through the model in step 1, 2, ...: batches and their answers' weights."""
        epoch, layout, index = self.batches[step - 1]
        found = []
        for chosen, counts in shares(
            index,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            accumulation=self.settings.accumulation,
        ):
            part = [self.train[i] for i in chosen]
            asked = [
                chosen_turns(
                    case,
                    layout=layout,
                    n_questions=self.settings.questions_per_case,
                    seed=self.seed,
                    visit=epoch,
                    even=self.even,
                )
                for case in part
            ]
            batch = collate(part, asked, layout, self.renderer, self.films)
            found.append((batch, weights(batch, self.settings.loss_per) * counts))
        return found

    def learn(self, step: int, parts: list[tuple[Batch, Tensor]], *, due: bool) -> bool:
        """One optimiser step; whether a checkpoint is due (the main process decides, all must agree)."""
        real = [batch for batch, weight in parts if weight.any()]
        counted = [
            sum(weight.sum().item() for _, weight in parts),
            due and self.accelerator.is_main_process,
            sum(batch.n_tokens for batch in real),
            sum(batch.dropped_turns for batch in real),
        ]
        total, due, tokens, dropped = added(self.accelerator, torch.tensor(counted).double()).tolist()
        self.seen += int(tokens)
        self.dropped_turns += int(dropped)
        warmup = min(self.settings.warmup_steps, len(self.batches) // 5)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate(step - 1, warmup, len(self.batches))
        torch.manual_seed(self.seed + step)  # dropout, where a checkpoint has any, survives an interruption
        self.losses_of.zero_grad(set_to_none=True)
        mine = 0.0
        for n, (batch, weight) in enumerate(parts, 1):
            batch, weight = batch.to(self.accelerator.device), weight.to(self.accelerator.device)
            waits = self.accelerator.no_sync(self.losses_of) if n < len(parts) else nullcontext()
            with waits:
                loss = (self.losses_of(batch, True) * weight).sum() / total
                # Gradients are averaged over processes; what is wanted is their sum.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            mine = mine + loss.detach()
        self.accelerator.clip_grad_norm_(self.losses_of.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.running.append(mine)
        return due > 0

    def running_losses(self, step: int) -> list[float]:
        """The loss of each step since the last row of the curve, over all processes, up to step `step`."""
        if not self.running:
            return []
        losses = added(self.accelerator, torch.stack(self.running)).tolist()
        for before, loss in enumerate(reversed(losses)):
            if not math.isfinite(loss):
                peaks = f"({self.settings.learning_rate}) or train.muon_rate ({self.settings.muon_rate})"
                raise FloatingPointError(
                    f"training loss is {loss} at step {step - before}; lower train.learning_rate {peaks}"
                )
        return losses

    # All steps

    def resume(self, checkpoint: Path, key: str) -> None:
        """Take up what `checkpoint` holds of this run, train to the end, leave the finished state there."""
        self.restore(resume.read(checkpoint, key))
        last_save = last = time.monotonic()
        bar = tqdm(
            total=len(self.batches), initial=self.first, desc="fine-tuning", unit="step",
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        shown: dict[str, str] = {}
        coming = _ahead(self.micro_batches, self.first + 1, len(self.batches))
        for step, parts in enumerate(coming, self.first + 1):
            epoch = self.batches[step - 1][0]
            due = time.monotonic() - last_save > self.settings.checkpoint_minutes * 60
            due = self.learn(step, parts, due=due)
            epoch_ends = step == len(self.batches) or self.batches[step][0] != epoch
            stop = False
            if epoch_ends or step % LOG_EVERY == 0:
                losses = self.running_losses(step)
                self.seconds += time.monotonic() - last
                row = {"step": step, "epoch": epoch + 1, "train_loss": sum(losses) / len(losses)}
                self.running = []
                if epoch_ends:
                    stop = self.measure(row)
                self.curve.append(row)
                last = time.monotonic()
                shown |= {k: f"{row[k]:.3f}" for k in ("train_loss", "validation_loss") if k in row}
                bar.set_postfix(shown | {"tokens/s": f"{self.tokens_per_second:,.0f}"})
            bar.update()
            if stop:
                break
            if due:
                self.save(checkpoint, key, step)
                last_save = time.monotonic()
        bar.close()
        self.save(checkpoint, key, len(self.batches))

    def measure(self, row: dict) -> bool:
        """Add validation losses to an epoch's row, keep its weights when best; whether to stop early."""
        if not self.validate:
            self.best = self.weights()
            return False
        self.losses_of.eval()
        row |= validation_loss(
            self.losses_of, self.validate, self.renderer, self.films,
            settings=self.settings, accelerator=self.accelerator,
        )  # fmt: skip
        self.losses_of.train()
        models.vision_tower(self.model).eval()
        measured = [r for r in self.curve if "validation_loss" in r]
        best = min(measured, key=lambda r: r["validation_loss"], default=None)
        if best is None or row["validation_loss"] < best["validation_loss"]:
            self.best = self.weights()
            return False
        patience = self.settings.patience
        return patience is not None and row["epoch"] - best["epoch"] >= patience

    # What is kept

    @property
    def tokens_per_second(self) -> float:
        return self.seen / self.seconds if self.seconds else 0.0

    def options(self, **more) -> StateDictOptions:
        return StateDictOptions(full_state_dict=self.sharded, cpu_offload=True, **more)

    def bare(self) -> list[torch.optim.Optimizer]:
        """The optimisers under accelerate's wrapper."""
        return [optimiser.optimizer for optimiser in self.optimisers]

    def weights(self) -> dict[str, Tensor]:
        """A copy of the tuned weights, named as in the model; of a sharded model on the main process only."""
        found = get_model_state_dict(self.losses_of, options=self.options(ignore_frozen_params=True))
        return {name.removeprefix("model."): value.clone() for name, value in found.items()}

    def put(self, weights: dict[str, Tensor]) -> None:
        options = self.options(strict=False, broadcast_from_rank0=self.sharded)
        named = {f"model.{name}": value for name, value in weights.items()}
        set_model_state_dict(self.losses_of, named, options=options)

    def save(self, checkpoint: Path, key: str, step: int) -> None:
        """Write all that `restore` needs; a loss that is no number is told first, and nothing is written."""
        losses = self.running_losses(step)
        optimiser = get_optimizer_state_dict(self.losses_of, self.bare(), options=self.options())
        state = {
            "step": step, "weights": self.weights(), "optimiser": optimiser, "curve": self.curve,
            "best": self.best, "running": losses, "dropped_turns": self.dropped_turns,
            "seen": self.seen, "seconds": self.seconds,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
        }  # fmt: skip
        if self.accelerator.is_main_process:
            resume.write(state, checkpoint, key)
        self.accelerator.wait_for_everyone()

    def restore(self, saved: dict | None) -> None:
        if saved is None:
            return
        self.put(saved["weights"])
        options = self.options(broadcast_from_rank0=self.sharded)
        optimiser = saved["optimiser"]
        set_optimizer_state_dict(self.losses_of, self.bare(), optimiser, options=options)
        if self.accelerator.scaler and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.first, self.curve, self.best = saved["step"], saved["curve"], saved["best"]
        self.dropped_turns = saved["dropped_turns"]
        self.seen, self.seconds = saved["seen"], saved["seconds"]
        here = float(self.accelerator.is_main_process)  # the sum over processes is what was saved
        self.running = [
            torch.tensor(loss * here, device=self.accelerator.device) for loss in saved["running"]
        ]

    def history(self) -> dict:
        """What the run has measured, as it stands in history.json."""
        gpu = self.accelerator.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() if gpu else 1024 * getrusage(RUSAGE_SELF).ru_maxrss
        return {
            "decoder": self.curve,
            "processes": self.accelerator.num_processes,
            "precision": self.precision,
            "tokens_per_second": self.tokens_per_second,
            "peak_memory_gb": peak / 1e9,
            "dropped_turns": self.dropped_turns,
        }

    def finish(self) -> dict[str, Tensor]:
        """The best epoch's weights, which the model then holds too unless it is sharded."""
        if not self.sharded:
            self.model.load_state_dict(self.best, strict=False)
        return self.best


def _ahead(make, first: int, last: int):
    """make(first), ... make(last), each made in the background while the one before it is used."""
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(make, first) if first <= last else None
        for step in range(first, last + 1):
            ready = coming.result()
            coming = worker.submit(make, step + 1) if step < last else None
            yield ready
