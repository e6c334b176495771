"""A training job runs in processes of its own: one or two of them, killed or not, with the same result."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.torch import load_file

from cxrtrek_lib import conversations, finetune, paths, tables
from cxrtrek_lib import model as models
from tests import tables_by_hand, tiny
from tests.test_train import SETTINGS

# Steps of 3, 3 and 1 case: with two processes one of them has a case less, and once none.
TRAINING = {**asdict(replace(SETTINGS, epochs=2, batch_cases=3)), "processes": 1, "accelerate_config": None}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A folder with the tables and films of seven training cases and two validation cases."""
    folder = tmp_path_factory.mktemp("cohort")
    cases = tiny.cases() * 3
    studies, questions = [], []
    for n, case in enumerate(cases):
        name = f"made/p{n}/s"
        images = [f"{n}_{k}.png" for k in range(len(case.images))]
        for k, image in enumerate(images):
            pixels = np.random.default_rng([n, k]).integers(0, 255, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / image)
        split = "train" if n < 7 else "validate"
        studies.append({"sample_id": name, "patient_id": f"made/p{n}", "split": split, "images": images})
        for turn in case.turns:
            asked = {"turn": turn.turn, "stage": turn.stage, "qtype": turn.qtype, "sample_id": name}
            asked |= {"question": f"{conversations.PLACEHOLDER}\n{turn.question}", "answer": turn.answer}
            asked |= {"answer_list": [turn.answer]} if turn.qtype == "single-choice" else {}
            questions.append({**dict.fromkeys(tables.QA), **asked, "image_input_count": turn.n_images})
    tables_by_hand.studies(*studies).write_parquet(folder / "studies.parquet")
    tables.pl.DataFrame(questions, schema=tables.QA).write_parquet(folder / "qa.parquet")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The tiny checkpoint, not yet tuned."""
    folder = tmp_path_factory.mktemp("start")
    model, processor, *_ = tiny.checkpoint.__wrapped__(seed=3, std=0.05)
    models.save(model, processor, folder)
    return folder


@pytest.fixture
def job(cohort, start, tmp_path):
    """A function from changes of the `train` group and of the job to a job in a folder of its own."""

    def make(name="job", *, train=None, **changes):
        return {
            "start": str(start), "films": str(cohort), "train": TRAINING | (train or {}), "lora_rank": None,
            "tune_encoder": False, "seed": 0, "limit": {"train": None, "validate": None},
            "out": str(tmp_path / name / "out"), "work": str(tmp_path / name / "work"), **changes,
        }  # fmt: skip

    return make


def weights(job):
    return load_file(Path(job["out"]) / "model.safetensors")


def history(job):
    return json.loads((Path(job["out"]) / "history.json").read_text())


def test_two_processes_take_the_same_steps_as_one(job, capfd):
    finetune.run(job("one"))
    one, two = history(job("one")), finetune.launch(job("two"), processes=2)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert [row["step"] for row in one["decoder"]] == [3, 6]
    for a, b in zip(one["decoder"], two["decoder"], strict=True):
        assert b == pytest.approx(a, abs=1e-5)
    after, same = weights(job("one")), weights(job("two"))
    before = load_file(Path(job()["start"]) / "model.safetensors")
    assert max((after[n] - same[n]).abs().max() for n in after) < 1e-4
    assert max((after[n] - before[n]).abs().max() for n in after) > 1e-3
    shown = capfd.readouterr().err
    assert "fine-tuning: 100%" in shown and "tokens/s" in shown


def test_a_sharded_model_takes_the_same_steps_and_goes_on_after_an_end(job, tmp_path):
    """FSDP2 on two CPU processes; the second of two runs takes up what the first left."""
    adam = {"muon_rate": None}
    finetune.run(job("one", train=adam))
    asked = job("sharded", train=adam)
    file = tmp_path / "job.json"
    file.write_text(json.dumps(asked))
    script = paths.ROOT / "tests" / "sharded_on_cpu.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for again in (False, True):
        done = subprocess.run(
            [*command, script, file], env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert ("sharded:" in done.stdout) == again
    assert int(done.stdout.split("sharded:")[1].split()[0]) > 20
    assert history(asked)["processes"] == 2
    for a, b in zip(history(job("one"))["decoder"], history(asked)["decoder"], strict=True):
        assert b == pytest.approx(a, abs=1e-5)
    whole, same = weights(job("one")), weights(asked)
    # AdamW takes whole steps along gradients that are nearly 0: their last bits decide the sign.
    assert max((whole[n] - same[n]).abs().max() for n in whole) < 3e-4


def started(job, folder) -> subprocess.Popen:
    """A process that launches a job, as a notebook does; its output goes to a file."""
    code = f"from cxrtrek_lib import finetune; finetune.launch({job!r})"
    with open(folder / "output", "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", code], cwd=paths.ROOT, stdout=output, stderr=subprocess.STDOUT
        )


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return found


def test_a_killed_job_leaves_no_process_and_goes_on_with_the_same_result(job, tmp_path):
    """The parent is killed (SIGKILL) in the middle: its child ends too, and the next launch finishes."""
    long = {"epochs": 6}
    finetune.run(job("whole", train=long))
    cut = job("cut", train=long)
    parent = started(cut, tmp_path)
    checkpoint = Path(cut["work"]) / "decoder.pt"
    wait_for(checkpoint.exists)
    (child,) = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not psutil.pid_exists(child.pid) or child.status() == "zombie", 20)
    assert not (Path(cut["out"]) / "history.json").exists()
    assert finetune.launch(cut)["decoder"] == history(job("whole"))["decoder"]
    whole, same = weights(job("whole")), weights(cut)
    assert all((whole[name] == same[name]).all() for name in whole)
    shown = (tmp_path / "output").read_text()
    assert "fine-tuning" in shown


def test_the_error_of_a_job_comes_back_as_one_line(job):
    with pytest.raises(RuntimeError) as caught:
        finetune.launch(job(films="nowhere"))
    line = str(caught.value)
    assert line.startswith("nowhere/studies.parquet: no such table") and "\n" not in line
    assert "error.txt" in line, "where the traceback lies"


def test_a_job_that_is_killed_from_outside_names_what_to_change(job):
    asked = job(train={"batch_cases": 16})
    line = finetune._cause(Path(asked["work"]) / "error.txt", -9, asked, 2)
    assert "raise train.accumulation 1 -> 2" in line and "train.batch_cases 16 -> 8" in line


def test_limits_take_the_same_cases_every_time(job):
    some = finetune.cases(job(limit={"train": 3, "validate": 1}))
    assert [len(some[split]) for split in ("train", "validate")] == [3, 1]
    assert some == finetune.cases(job(limit={"train": 3, "validate": 1}))
    more = finetune.cases(job(limit={"train": 5, "validate": 99}))
    assert len(more["validate"]) == 2
    names = [{case.sample_id for case in found["train"]} for found in (some, more)]
    assert names[0] < names[1], "a larger limit keeps the cases of a smaller one"


@pytest.mark.parametrize("tune_encoder", [False, True])
def test_adapters_and_encoder_are_tuned_when_asked(job, tune_encoder):
    asked = job(lora_rank=2, tune_encoder=tune_encoder, train={"epochs": 1, "learning_rate": 0.01})
    finetune.run(asked)
    after, before = weights(asked), load_file(Path(asked["start"]) / "model.safetensors")
    assert set(after) == set(before), "adapters are merged"
    changed = {name for name in after if not (after[name] == before[name]).all()}
    assert any("q_proj" in name for name in changed)
    assert any("vision_tower" in name for name in changed) == tune_encoder
    assert not any("running_mean" in name or "embed_tokens" in name for name in changed)
    told = history(asked)["parameters"]
    assert (told["trainable"] > told["encoder"]) == tune_encoder


def test_what_a_job_depends_on(job):
    """Other settings, another film: other unfinished work. Settings of the machine take it up."""
    asked = job()
    split = finetune.cases(asked)
    key = finetune.fingerprint(asked, split)
    same = job(train={"accumulation": 2, "checkpoint_minutes": 9, "processes": 4})
    assert finetune.fingerprint(same, split) == key
    assert finetune.fingerprint(job(seed=1), split) != key
    assert finetune.fingerprint(job(train={"epochs": 9}), split) != key
    film = split["train"][0].images[0]
    content = film.read_bytes()
    try:
        film.write_bytes(content + b"x")
        assert finetune.fingerprint(asked, split) != key
    finally:
        film.write_bytes(content)


def test_launchers_configurations_are_accelerates_own():
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP"}
    for name, kind in kinds.items():
        config = load_config_from_file(str(paths.PROFILES / "accelerate" / f"{name}.yaml"))
        assert config.distributed_type == kind and config.num_machines == 1
    with pytest.raises(FileNotFoundError, match="nowhere.yaml: no such file"):
        finetune._launcher(2, "nowhere.yaml")
