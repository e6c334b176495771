"""A whole prediction run: batch by batch, each kept as it is done, shared by processes, in the end one table.

What is kept and shared is the batch, the cases that are decoded side by side. Which cases those are depends
on the run's cases and `batch_cases` alone, so a batch gets the same bits whenever and in whichever process it
is decoded: a killed run that goes on ends with the table of one that was never killed. (Bits of another
machine, or of another number of threads, may differ in the last place of a probability.)
"""

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl
import torch

from cxrtrek_lib import assembled, batches, chat, decode, dialogue, encoder, files, pools, predict, resume
from cxrtrek_lib import model as models
from cxrtrek_lib.chat import Case
from cxrtrek_lib.dialogue import Answer

CODE = (assembled, batches, chat, decode, dialogue, encoder, models, predict)


@dataclass(frozen=True)
class Settings:
    """What all batches of a run have in common; see `run`."""

    checkpoint: Path
    trust_remote_code: bool
    context: str
    blank: bool
    max_new_tokens: int
    film_tokens: Path | None


def run(
    checkpoint: Path,
    cases: Sequence[Case],
    *,
    context: str,
    batch_cases: int,
    max_new_tokens: int,
    work: Path,
    processes: int = 1,
    pool: ProcessPoolExecutor | None = None,
    blank: bool = False,
    replaced: Mapping[tuple[str, int], str] = predict.NOTHING,
    film_tokens: Path | None = None,
    trust_remote_code: bool = False,
) -> pl.DataFrame:
    """One row per turn (tables.PREDICTIONS), sorted by sample and turn, from the checkpoint of a folder.

    context, batch_cases, max_new_tokens, replaced  as in predict.answer
    work         folder for unfinished work, which the caller removes; a killed run goes on from it and loses
                 at most the batch that each process is decoding. What another run left there is removed
    processes    share the batches between them, and the cores; on GPUs, give each one of its own
    pool         these processes, where they wait already (`shared_by`): several runs follow one another
    blank        every film is replaced by one of uniform mid-grey
    film_tokens  folder that keeps what a frozen encoder made of each film (model.film_inputs)
    Raises ValueError or FileNotFoundError, one line, as predict.answer and the readers of checkpoint and
    films do; RuntimeError when a process was killed.
    """
    said = predict.in_context(cases, context, replaced)
    settings = Settings(Path(checkpoint), trust_remote_code, context, blank, max_new_tokens, film_tokens)
    asked = predict.in_batches(cases, batch_cases)
    place = _workplace(work, fingerprint(settings, asked, said))
    kept = [place / f"{number:06}.jsonl" for number in range(len(asked))]
    missing = {number: batch for number, batch in enumerate(asked) if not kept[number].is_file()}
    if len(missing) < len(asked):
        print(f"{len(asked) - len(missing)} of {len(asked)} batches are kept from an interrupted run")
    done = n_turns(cases) - sum(n_turns(batch) for batch in missing.values())
    with predict.progress(cases, context, done=done) as bar, ExitStack() as own:
        if processes > 1 and len(missing) > 1:
            pool = pool or own.enter_context(shared_by(min(processes, len(missing))))
            finished = _shared(settings, missing, said, pool, bar)
        else:
            finished = _alone(settings, missing, said, bar)
        for number, answers in finished:
            with files.whole(kept[number]) as temporary:
                temporary.write_text("".join(f"{json.dumps(one)}\n" for one in answers), encoding="ascii")
    return predict.table(
        one for file, batch in zip(kept, asked, strict=True) for one in _read(file, n_turns(batch))
    )


def n_turns(cases: Sequence[Case]) -> int:
    return sum(len(case.turns) for case in cases)


def fingerprint(settings: Settings, asked: Sequence[Sequence[Case]], said: Mapping) -> str:
    """What the answers depend on: settings, batches, the checkpoint's files, films, code, kind of device."""
    told = {
        name: value for name, value in asdict(settings).items() if name not in ("checkpoint", "film_tokens")
    }
    told |= {
        "batches": json.dumps([[asdict(case) for case in batch] for batch in asked], default=str),
        "said": [[*question, text] for question, text in sorted(said.items())],
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    if not settings.checkpoint.is_dir():  # of a folder the files count
        told["checkpoint"] = str(settings.checkpoint)
    films = {path for batch in asked for case in batch for path in case.images if not settings.blank}
    inputs = [*sorted(settings.checkpoint.rglob("*")), *sorted(films), *(module.__file__ for module in CODE)]
    # A missing one is told by whoever wants to read it.
    return resume.fingerprint(told, [path for path in (*inputs, __file__) if Path(path).is_file()])


def _workplace(work: Path, key: str) -> Path:
    """The folder of the run with this key; those of other runs are removed."""
    for other in work.glob("[0-9a-f]" * len(key)):
        if other.name != key:
            shutil.rmtree(other)
    try:
        (work / key).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{work}: cannot make this folder ({error.strerror}); check its owner") from None
    return work / key


def _read(file: Path, n: int) -> list[Answer]:
    """The answers that were kept; ValueError when they are not all there."""
    try:
        found = [Answer(*json.loads(line)) for line in file.read_text(encoding="ascii").splitlines()]
    except (ValueError, TypeError):
        found = []
    if len(found) != n:
        raise ValueError(f"{file}: damaged (a power cut?); delete it and run again")
    return found


def _load(checkpoint: Path, trust_remote_code: bool) -> tuple:
    """(model, processor, renderer), once they are wanted."""
    model, processor = models.load(checkpoint, trust_remote_code=trust_remote_code)
    return model, processor, models.renderer(model, processor)


def _decode(loaded: tuple, settings: Settings, batch: Sequence[Case], said: Mapping) -> Iterator[Answer]:
    """The answers to one batch, as they come."""
    model, processor, renderer = loaded
    paths = [path for case in batch for path in case.images]
    films = models.film_inputs(model, processor, paths, blank=settings.blank, cache=settings.film_tokens)
    return predict.answers_of(
        model, renderer, batch, films, context=settings.context, said=said, limit=settings.max_new_tokens
    )


def _alone(settings: Settings, missing: dict, said: Mapping, bar) -> Iterator[tuple[int, list[Answer]]]:
    """(number, answers) of each missing batch, decoded in this process."""
    if not missing:
        return
    loaded = _load(settings.checkpoint, settings.trust_remote_code)
    predict.tell_uncached(decode.uncached(loaded[0]))
    for number, batch in missing.items():
        answers = []
        for one in _decode(loaded, settings, batch, said):
            answers.append(one)
            bar.update()
        yield number, answers


@contextmanager
def shared_by(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that share the batches of one run, or of several that follow one another (`run`, pool).

    They take seconds to start, and load a checkpoint once.
    """
    started = multiprocessing.get_context("spawn").Value("i", 0)
    with pools.spawned(processes, _begin, started, max(1, torch.get_num_threads() // processes)) as pool:
        yield pool


def _shared(
    settings: Settings, missing: dict, said: Mapping, pool: ProcessPoolExecutor, bar
) -> Iterator[tuple[int, list[Answer]]]:
    """The same, decoded in several processes, as they finish."""
    told = False
    jobs = {}
    for number, batch in missing.items():
        names = {case.sample_id for case in batch}
        own = {question: text for question, text in said.items() if question[0] in names}
        jobs[pool.submit(_decode_there, settings, batch, own)] = number
    try:
        for job in as_completed(jobs):
            answers, reason = job.result()
            if not told:
                predict.tell_uncached(reason)
                told = True
            bar.update(len(answers))
            yield jobs[job], answers
    except BrokenProcessPool:
        raise RuntimeError(
            "a process that answers was killed, most likely for want of memory; lower predict.processes "
            "or predict.batch_cases and run again: finished batches are kept"
        ) from None


def _begin(started, threads: int) -> None:
    """Prepare a process: its share of the cores, a GPU of its own, quiet."""
    torch.set_num_threads(threads)
    with started.get_lock():
        rank, started.value = started.value, started.value + 1
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    sys.stderr = open(os.devnull, "w")  # the parent's bar is enough


_loaded = lru_cache(maxsize=1)(_load)  # once per process of a pool, not once per batch or run


def _decode_there(
    settings: Settings, batch: Sequence[Case], said: Mapping
) -> tuple[list[Answer], str | None]:
    """(answers to one batch, why the history is read anew for each or None), in a process of a pool."""
    loaded = _loaded(settings.checkpoint, settings.trust_remote_code)
    return list(_decode(loaded, settings, batch, said)), decode.uncached(loaded[0])
