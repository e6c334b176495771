"""Tune an image encoder on real films; epoch and rate are chosen on patients neither trained on nor scored.

Every tuning is a job of one thread in a process of its own: what comes out does not depend on their number.
"""

import os
from collections.abc import Sequence
from concurrent.futures import as_completed
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from cxrtrek_lib import pools, pretrain
from cxrtrek_lib.encoder import CHANNELS, CxrEncoder

RATES, EPOCHS, BATCH, SHIFT_PX = (3e-4, 1e-3), 6, 8, 12


class Parts(NamedTuple):
    """Row numbers: trained on, chosen on, scored; no patient is in two of them."""

    train: np.ndarray
    validate: np.ndarray
    test: np.ndarray


class Tuned(NamedTuple):
    """Of one task: logits of the test films, float [tests], and the best rate and epoch (from 1)."""

    logits: np.ndarray
    rate: float
    epoch: int


def tune_all(
    encoders: dict[str, CxrEncoder],
    pixels: Tensor,
    labels: np.ndarray,
    split: Sequence[Parts],
    *,
    epochs: int = EPOCHS,
    seed: int,
    workers: int | None = None,
) -> dict[tuple[str, int, int], Tuned]:
    """(encoder's name, fold, task) -> what its tuning with the lowest validation loss says.

    pixels uint8 [N, 1, S, S]; labels bool [N, tasks]; split one Parts per fold
    workers  processes, None = one per core
    """
    jobs = [(name, fold, rate) for name in encoders for fold in range(len(split)) for rate in RATES]
    done = {}
    with pools.spawned(workers or len(os.sched_getaffinity(0))) as pool:
        waiting = {}
        for name, fold, rate in jobs:
            settings = {"rate": rate, "epochs": epochs, "seed": seed + fold}
            job = pool.submit(tune, encoders[name], pixels, labels, split[fold], **settings)
            waiting[job] = name, fold, rate
        for job in tqdm(as_completed(waiting), total=len(jobs), desc="tuning on real films", unit="run"):
            done[waiting[job]] = job.result()
    best = {}
    for name in encoders:
        for fold in range(len(split)):
            for task in range(labels.shape[1]):
                _, rate, epoch = min(
                    (loss, rate, epoch)
                    for rate in RATES
                    for epoch, loss in enumerate(done[name, fold, rate][0][:, task])
                )
                best[name, fold, task] = Tuned(done[name, fold, rate][1][epoch, :, task], rate, epoch + 1)
    return best


def tune(
    encoder: CxrEncoder,
    pixels: Tensor,
    labels: np.ndarray,
    part: Parts,
    *,
    rate: float,
    epochs: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(validation losses [epochs, tasks], logits of the test films [epochs, tests, tasks]) after each epoch.

    The encoder's features and one linear layer for all tasks are tuned together (AdamW, one cycle). The
    encoder that was given stays as it is.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    own = CxrEncoder(encoder.config)
    own.load_state_dict(encoder.state_dict())
    own.requires_grad_(True).to(memory_format=torch.channels_last)
    head = nn.Linear(2 * CHANNELS, labels.shape[1])
    nn.init.zeros_(head.weight)
    known = torch.from_numpy(labels.astype(np.float32))
    weights = [*own.fine.parameters(), *own.coarse.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.02)
    steps = epochs * -(-len(part.train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, steps, pct_start=0.15, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    losses, logits = [], []
    for _ in range(epochs):
        own.train()
        order = torch.from_numpy(part.train)[torch.randperm(len(part.train), generator=generator)]
        for index in order.split(BATCH):
            dx, dy = torch.randint(-SHIFT_PX, SHIFT_PX + 1, (2,), generator=generator).tolist()
            shown = pretrain.as_pixels(pretrain.moved(pixels[index], dx, dy)).contiguous(
                memory_format=torch.channels_last
            )
            loss = F.binary_cross_entropy_with_logits(head(_pooled(own, shown)), known[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
        with torch.inference_mode():
            seen = head(torch.from_numpy(features(own, pixels[np.concatenate([part.validate, part.test])])))
            validated = seen[: len(part.validate)]
            losses.append(
                F.binary_cross_entropy_with_logits(validated, known[part.validate], reduction="none").mean(0)
            )
            logits.append(seen[len(part.validate) :])
    return torch.stack(losses).numpy(), torch.stack(logits).numpy()


@torch.inference_mode()
def features(encoder: CxrEncoder, pixels: Tensor) -> np.ndarray:
    """float32 [N, 2 CHANNELS]: mean and maximum over the film of each coarse feature."""
    encoder.eval()
    return torch.cat([_pooled(encoder, pretrain.as_pixels(part)) for part in pixels.split(32)]).numpy()


def _pooled(encoder: CxrEncoder, pixels: Tensor) -> Tensor:
    coarse = encoder.features(pixels)[1]
    return torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], 1)
