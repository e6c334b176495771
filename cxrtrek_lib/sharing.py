"""How processes share the cases of a step, what each answer weighs, and the validation they do together."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from cxrtrek_lib.batches import Batch, collate
from cxrtrek_lib.conversations import KINDS, STAGES
from cxrtrek_lib.train_settings import Settings


def shares(index: Sequence[int], *, rank: int, world: int, accumulation: int) -> list[tuple[list[int], bool]]:
    """The forwards of one process for a step: (cases, whether they count).

    Collective operations need the same number of forwards everywhere: a process that has no case left takes
    the first one again, at weight 0.
    """
    n = min(accumulation, -(-len(index) // world))
    mine = list(index[rank::world])
    return [(mine[k::n], True) if mine[k::n] else ([index[0]], False) for k in range(n)]


def weights(batch: Batch, loss_per: str) -> Tensor:
    """What each answer of a batch weighs, float [n_answers]: 1, its tokens, or their root."""
    tokens = torch.bincount(batch.answer, minlength=len(batch.stages)).float()
    return tokens ** {"answer": 0.0, "root": 0.5, "token": 1.0}[loss_per]


def added(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The sum over all processes; on the CPU."""
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values.to(accelerator.device))
    return values.cpu()


@torch.no_grad()
def validation_loss(
    losses_of, cases, renderer, films, *, settings: Settings, accelerator
) -> dict[str, float]:
    """Loss over whole ordered cases, in nats: overall, by stage ("stage_1", ...) and by format (KINDS).

    losses_of  an AnswerLosses module, wrapped or not
    Overall weighs as `settings.loss_per` says; a stage or a format is the mean of its answers.
    """
    names = ["validation_loss", *(f"stage_{k}" for k in STAGES), *KINDS]
    sums = torch.zeros(2, len(names), dtype=torch.float64)
    world, size = accelerator.num_processes, 4 * settings.batch_cases
    for start in range(0, len(cases), size):
        index = range(start, min(start + size, len(cases)))
        for chosen, counts in shares(
            index, rank=accelerator.process_index, world=world, accumulation=settings.accumulation
        ):
            part = [cases[i] for i in chosen]
            batch = collate(part, [case.turns for case in part], "ordered", renderer, films)
            losses = losses_of(batch.to(accelerator.device), False).double().cpu()
            if not counts:
                continue
            weight = weights(batch, settings.loss_per).double()
            sums[:, 0] += torch.stack([(losses * weight).sum(), weight.sum()])
            each = torch.stack([losses, torch.ones_like(losses)])
            sums.index_add_(1, batch.stages, each)
            sums.index_add_(1, 1 + len(STAGES) + batch.formats, each)
    total, n = added(accelerator, sums)
    return {name: (total[i] / n[i]).item() for i, name in enumerate(names) if n[i]}
