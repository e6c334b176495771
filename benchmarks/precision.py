"""What bf16 saves on this processor: a step of the encoder's pretraining, and one of the decoder.

    PYTHONPATH=. python benchmarks/precision.py [--steps 8]

Prints, for the encoder (8 films, all threads) and for each layout of the small decoder (2 cases, one thread),
the wall seconds of forward, loss and backward in fp32 and in bf16, their ratio, and how far the losses are
apart. Medians of interleaved steps. Needs the films (`dvc repro cohort_images`).
"""

import argparse
import statistics
import time

import torch
from train import benchmark_cases, fresh

from cxrtrek_lib import batches, params, paths, pretrain, train
from cxrtrek_lib import model as models
from cxrtrek_lib.encoder import CxrEncoder, CxrEncoderConfig

FILMS, CASES = 8, 2


def encoder_losses(n: int):
    """One function for each of n steps: () -> loss of FILMS films."""
    folder = paths.FILMS / "training"
    films, findings, boxes = pretrain.films(folder)
    films = films.filter(split="train").head(n * FILMS)
    names, regions = pretrain.channels(findings, boxes)
    torch.manual_seed(0)
    tower = CxrEncoder(CxrEncoderConfig(findings=names, regions=regions)).train()
    tower.to(memory_format=torch.channels_last)
    pixels = pretrain.as_pixels(pretrain.load_films(films["path"].to_list(), tower.config.image_size))
    known = pretrain.truth(films, findings, boxes, tower.config)
    weight = pretrain.rarity(known)

    def loss(index: torch.Tensor) -> torch.Tensor:
        reading, *_ = tower.read(pixels[index].contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", enabled=False):
            parts = pretrain.loss(reading.float(), known.rows(index), weight)
        return sum(pretrain.WEIGHTS[name] * value for name, value in parts.items())

    return [lambda index=index: loss(index) for index in torch.arange(n * FILMS).split(FILMS)]


def decoder_losses(n: int, layout: str, settings: params.Params):
    """One function for each of n steps: () -> mean loss of the answers of CASES cases."""
    model, processor = fresh(settings.model.model_dump())
    cases = benchmark_cases(n * CASES, None)
    films = models.film_inputs(model, processor, [path for case in cases for path in case.images])
    renderer, even = models.renderer(model, processor), batches.even_answers(cases)
    found = []
    for start in range(0, len(cases), CASES):
        part = cases[start : start + CASES]
        asked = [
            batches.chosen_turns(
                case, layout=layout, n_questions=settings.train.questions_per_case, seed=0, visit=0, even=even
            )
            for case in part
        ]
        batch = batches.collate(part, asked, layout, renderer, films)
        found.append(lambda batch=batch: train.answer_losses(model, batch).mean())
    return found


def compare(name: str, steps) -> None:
    """Print the line of one kind of step."""
    times, apart = {False: [], True: []}, []
    for step in [steps[0], *steps]:  # the first one warms up
        losses = []
        for bf16, taken in times.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = step()
            loss.backward()
            taken.append(time.perf_counter() - start)
            losses.append(loss.item())
        apart.append(abs(losses[1] / losses[0] - 1))
    fp32, bf16 = (statistics.median(taken[1:]) for taken in times.values())
    print(
        f"{name:8} fp32 {1000 * fp32:5.0f} ms, bf16 {1000 * bf16:5.0f} ms: {bf16 / fp32:.2f} of the time; "
        f"losses apart by {100 * statistics.median(apart):.2f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    asked, settings = parser.parse_args(), params.load()
    compare("encoder", encoder_losses(asked.steps))
    torch.set_num_threads(1)
    for layout in ("presence", "short", "alone", "ordered"):
        compare(layout, decoder_losses(asked.steps, layout, settings))


if __name__ == "__main__":
    main()
