r"""One training as a job: a JSON file in, a Hugging Face folder out; in one process, or shared by many.

    python -m cxrtrek_lib.finetune JOB.json
    accelerate launch --config_file profiles/accelerate/ddp.yaml --num_processes 8 \
        -m cxrtrek_lib.finetune JOB.json

A job names, all of it needed but the last two:
    start         the assembled checkpoint, not yet tuned: a folder, or a Hugging Face id
    films         folder of the cohort: tables and films
    train         the `train` group of params.yaml
    lora_rank     rank of the adapters, or null: the language model is tuned whole
    tune_encoder  true tunes the vision tower too, at a tenth of the learning rate; its films are then read
                  anew at every step
    seed          of the order of cases, the questions and the adapters
    limit         {"train": n, "validate": n}: so many cases of each split, drawn by hash of the seed, or null
    out           folder of the tuned checkpoint; its history.json is written last
    work          folder for unfinished work, which the caller removes; a killed job goes on from it
    trust_remote_code  true runs Python code that comes with the checkpoint
    film_tokens   folder that keeps what a frozen encoder made of each film, for the next job
`launch` runs a job from a notebook in processes of its own, so that their number is free and their memory is
given back, and shows their progress.
"""

import argparse
import codecs
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import polars as pl
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from cxrtrek_lib import (
    batches,
    chat,
    draws,
    encoder,
    files,
    muon,
    paths,
    resume,
    sharing,
    tables,
    train,
    train_settings,
)
from cxrtrek_lib import model as models

# Keys of the `train` group that say how the job is started, not what it does.
OF_THE_LAUNCHER = ("processes", "accelerate_config")
# Settings of the machine: another value takes up the same unfinished work.
OF_THE_MACHINE = ("checkpoint_minutes", "accumulation", "gradient_checkpointing")
ERROR = "error.txt"


def launch(job: dict, *, processes: int = 1, config: str | Path | None = None) -> dict:
    """Run a job in processes of its own and show their progress; returns its history.

    processes  how many share the cases of a step; one needs no launcher
    config     accelerate's configuration file, from the repository's root; None for plain data parallel
    The processes end when this one does, however it ends. Raises RuntimeError with the job's own line of
    error; FileNotFoundError when `config` is missing.
    """
    work = Path(job["work"])
    error = work / ERROR
    error.unlink(missing_ok=True)
    with files.whole(work / "job.json") as temporary:
        temporary.write_text(json.dumps(job, indent=1))
    module = ["-m", "cxrtrek_lib.finetune", str(work / "job.json"), "--attended"]
    # stdin ends for every process below when this one ends, even when it is killed: see _end_with_parent.
    child = subprocess.Popen(
        [sys.executable, *_launcher(processes, config), *module],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment(),
    )  # fmt: skip
    try:
        _show(child.stdout, unless=error)
        status = child.wait()
    finally:
        child.stdin.close()
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
    if status:
        raise RuntimeError(_cause(error, status, job, processes))
    return json.loads((Path(job["out"]) / "history.json").read_text())


def _launcher(processes: int, config: str | Path | None) -> list[str]:
    if processes == 1 and config is None:
        return []
    config = paths.ROOT / (config or paths.PROFILES / "accelerate" / "ddp.yaml")
    if not config.is_file():
        raise FileNotFoundError(f"{config}: no such file; see train.accelerate_config in params.yaml")
    options = {"--config_file": config, "--num_processes": processes}
    options["--num_cpu_threads_per_process"] = max(1, torch.get_num_threads() // processes)
    return ["-m", "accelerate.commands.launch", *(str(word) for pair in options.items() for word in pair)]


def _environment() -> dict[str, str]:
    known = {"PYTHONIOENCODING": "utf-8", "TOKENIZERS_PARALLELISM": "false", "GOMP_SPINCOUNT": "1000"}
    path = os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))
    return {**known, **os.environ, "PYTHONPATH": path}


def _show(stream, *, unless: Path) -> None:
    """Pass on what the job prints, as it comes: a progress bar overwrites itself here as it does there.

    Once the job has told its error (`unless` exists), what its launcher prints about it is left out.
    """
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    while piece := os.read(stream.fileno(), 1 << 16):
        if not unless.exists():
            sys.stderr.write(decode(piece))
            sys.stderr.flush()


def _cause(error: Path, status: int, job: dict, processes: int) -> str:
    """One line: what the job itself told, or how it ended."""
    if error.exists():
        return f"{error.read_text().splitlines()[0]} (traceback: {error})"
    advice = train_settings.memory_advice(_settings(job), processes)
    if abs(status) in (9, 137):
        return f"training was killed, most likely for want of memory; {advice}"
    return f"training ended with status {status} and told no reason; if memory ran out, {advice}"


def _settings(job: dict) -> train_settings.Settings:
    return train_settings.Settings(**{k: v for k, v in job["train"].items() if k not in OF_THE_LAUNCHER})


def cases(job: dict) -> dict[str, list[chat.Case]]:
    """The training and validation cases of a job, in the order of the cohort's tables."""
    folder = Path(job["films"])
    studies, qa = (tables.read_table(name, folder / f"{name}.parquet") for name in ("studies", "qa"))
    found = {}
    for split in ("train", "validate"):
        rows = studies.filter(split=split)
        limit = job["limit"][split]
        if limit is not None:
            drawn = draws.shuffle(job["seed"], split, "limit", rows["sample_id"].to_list())[:limit]
            rows = rows.filter(pl.col("sample_id").is_in(drawn))
        found[split] = chat.cases(rows, qa, folder)
    return found


def network(job: dict, settings: train_settings.Settings, *, sharded: bool):
    """(model, processor) to tune: precision, adapters and what is frozen as the job says."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = train_settings.precision(settings.precision, device)
    frozen = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[kind]
    # Sharding wants weights of one type; weights that are tuned are kept in fp32 (see train.fit),
    # and so are all of them on a processor, where bf16 is for products only.
    whole = job["lora_rank"] is None or sharded or device == "cpu"
    trust = job.get("trust_remote_code", False)
    model, processor = models.load(
        job["start"], trust_remote_code=trust, dtype=torch.float32 if whole else frozen
    )
    torch.manual_seed(job["seed"])
    if job["lora_rank"] is not None:
        model = models.add_lora(model, rank=job["lora_rank"])
    if job["tune_encoder"]:
        models.vision_tower(model).requires_grad_(True)
    return model, processor


def fingerprint(job: dict, split: dict[str, list[chat.Case]]) -> str:
    """What the job's result depends on: settings, the checkpoint's files, tables, films, code."""
    own = {k: v for k, v in job["train"].items() if k not in (*OF_THE_LAUNCHER, *OF_THE_MACHINE)}
    places = ("out", "work", "films", "film_tokens")
    settings = {k: v for k, v in job.items() if k not in places} | {"train": own}
    code = (batches, chat, draws, encoder, models, muon, resume, sharing, tables, train, train_settings)
    films = {path for some in split.values() for case in some for path in case.images}
    start = Path(job["start"])
    inputs = [*sorted(Path(job["films"]).glob("*.parquet")), *sorted(films)]
    inputs += [path for path in sorted(start.rglob("*")) if path.is_file()] if start.is_dir() else []
    return resume.fingerprint(settings, [*inputs, __file__, *(module.__file__ for module in code)])


def run(job: dict) -> None:
    """Do a job: read the cases, tune, save. Every process of it calls this."""
    began = time.monotonic()
    state = PartialState(cpu=not torch.accelerator.is_available())
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if sharded and not torch.accelerator.is_available():
        raise ValueError("train.accelerate_config: sharding (FSDP) needs GPUs, found none; write null")
    settings, split = _settings(job), cases(job)
    model, processor = network(job, settings, sharded=sharded)
    if not sharded:  # a sharded model may not fit on one device
        model.to(state.device)
    films = [path for some in split.values() for case in some for path in case.images]
    # Each process begins elsewhere and finds in the cache what the others have read.
    begin = len(films) * state.process_index // state.num_processes
    films = films[begin:] + films[:begin]
    cache = Path(job["film_tokens"]) if job.get("film_tokens") else None
    inputs = models.film_inputs(model, processor, films, cache=cache)
    parameters = models.count_parameters(model)
    train_settings.few_threads(model)
    key = [fingerprint(job, split) if state.is_main_process else ""]
    history, weights = train.fit(
        model,
        models.renderer(model, processor),
        inputs,
        split["train"],
        split["validate"],
        settings,
        seed=job["seed"],
        work=Path(job["work"]),
        key=broadcast_object_list(key)[0] if state.num_processes > 1 else key[0],
    )
    if state.is_main_process:
        if sharded:  # its own weights are in pieces: put them into a whole model
            model, processor = network(job, settings, sharded=sharded)
            model.load_state_dict(weights, strict=False)
        out = Path(job["out"])
        models.save(model, processor, out)
        history |= {
            "parameters": parameters,
            "cases": {name: len(some) for name, some in split.items()},
            "seconds": time.monotonic() - began,
        }
        with files.whole(out / "history.json") as temporary:
            temporary.write_text(json.dumps(history, indent=1) + "\n")
    state.wait_for_everyone()
    state.destroy_process_group()


def _end_with_parent() -> None:
    """Wait until stdin ends, then end at once: nothing goes on training for a notebook that is gone."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(argv: list[str] | None = None) -> int:
    """The command line of the module docstring; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cxrtrek_lib.finetune", description=__doc__.splitlines()[0]
    )
    parser.add_argument("job", type=Path)
    parser.add_argument("--attended", action="store_true", help="end when stdin ends, as `launch` wants it")
    asked = parser.parse_args(argv)
    if asked.attended:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        sys.stderr = open(os.devnull, "w")  # one bar of several is enough
    try:
        job = json.loads(asked.job.read_text())
        run(job)
    except Exception as error:
        told = isinstance(error, ValueError | FileNotFoundError | FloatingPointError | MemoryError)
        line = (str(error) if told else f"{type(error).__name__}: {error}").splitlines()[0]
        _tell(line, asked.job.parent / ERROR)
        print(line, file=sys.stderr)
        return 1
    return 0


def _tell(line: str, place: Path) -> None:
    """Leave the error where `launch` looks for it; the first process that fails knows the cause."""
    try:
        with open(place, "x") as file:
            file.write(f"{line}\n\n{traceback.format_exc()}")
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
