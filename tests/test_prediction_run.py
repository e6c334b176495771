"""A run that is killed, or shared by processes, ends with the very table of one that was not."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cxrtrek_lib import model as models
from cxrtrek_lib import paths, predict, prediction_run, tables
from tests import families, tiny
from tests.by_hugging_face import LIMIT

KILLED = """
import os, signal, sys
from cxrtrek_lib import predict
from tests import test_prediction_run as here

decoded, answers_of = [], predict.answers_of

def killed_in_the_second_batch(*given, **settings):
    for count, one in enumerate(answers_of(*given, **settings)):
        if decoded and count == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield one
    decoded.append(1)

predict.answers_of = killed_in_the_second_batch
here.table(here.Path(sys.argv[1]), "killed")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint and five films; seven cases make three batches."""
    folder = tmp_path_factory.mktemp("run")
    model, processor, *_ = tiny.checkpoint.__wrapped__(seed=1)
    models.save(model, processor, folder / "checkpoint")
    families.films(folder)
    return folder


def cases(folder: Path):
    own = [replace(c, images=tuple(folder / p.name for p in c.images)) for c in tiny.cases()]
    return [replace(case, sample_id=f"{case.sample_id}{i}") for i in range(3) for case in own][:7]


@pytest.fixture(autouse=True)
def one_thread(threads):
    """The last bits of a probability depend on the number of threads, which processes share."""
    torch.set_num_threads(1)


def table(folder: Path, name: str, **settings) -> bytes:
    """The bytes of the table of a run with its own folder for unfinished work and films."""
    torch.set_num_threads(1)  # also in a process of its own
    given = dict(
        context="predicted", batch_cases=3, max_new_tokens=LIMIT, work=folder / name,
        film_tokens=folder / f"{name}-films",
    )  # fmt: skip
    found = prediction_run.run(folder / "checkpoint", cases(folder), **given | settings)
    tables.write_table("predictions", found, folder / f"{name}.parquet")
    return (folder / f"{name}.parquet").read_bytes()


@pytest.fixture(scope="module")
def whole(place):
    return table(place, "whole")


def test_a_run_gives_the_answers_of_the_model_in_memory(place, whole):
    model, processor = models.load(place / "checkpoint")
    films = models.film_inputs(model, processor, [path for case in cases(place) for path in case.images])
    answers = predict.answer(
        model, models.renderer(model, processor), cases(place), films,
        context="predicted", batch_cases=3, max_new_tokens=LIMIT,
    )  # fmt: skip
    found = tables.read_table("predictions", place / "whole.parquet")
    assert found.equals(answers) and found.height == sum(len(case.turns) for case in cases(place))


def test_a_killed_run_goes_on_and_ends_the_same(place, whole, monkeypatch, capfd):
    child = subprocess.run([sys.executable, "-c", KILLED, place], cwd=paths.ROOT, timeout=120)
    assert child.returncode == -signal.SIGKILL
    (kept,) = (place / "killed").rglob("*.jsonl")
    before = kept.stat().st_mtime_ns
    decoded, answers_of = [], predict.answers_of
    monkeypatch.setattr(
        predict,
        "answers_of",
        lambda m, r, batch, *a, **k: decoded.append(batch) or answers_of(m, r, batch, *a, **k),
    )
    assert table(place, "killed") == whole
    assert "1 of 3 batches are kept from an interrupted run" in capfd.readouterr().out
    batches = predict.in_batches(cases(place), 3)
    assert decoded == batches[1:] and kept.stat().st_mtime_ns == before
    decoded.clear()
    assert table(place, "killed") == whole and decoded == []


def test_processes_share_a_run_and_give_the_same_table(place, whole, capfd):
    with prediction_run.shared_by(2) as pool:
        assert table(place, "shared", processes=2, pool=pool) == whole
        # An error in one of them is told as it is; what a bar shows goes on.
        (place / "film4.png").rename(place / "elsewhere.png")
        try:
            with pytest.raises(FileNotFoundError, match="film4.png: this film is missing") as caught:
                table(place, "shared", processes=2, pool=pool)
        finally:
            (place / "elsewhere.png").rename(place / "film4.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [dict(max_new_tokens=LIMIT - 1), dict(batch_cases=4), dict(context="gold"), dict(blank=True)],
    ids=str,
)
def test_another_run_begins_anew(place, whole, change):
    table(place, "other")
    (first,) = (place / "other").iterdir()
    table(place, "other", **change)
    (second,) = (place / "other").iterdir()
    assert first != second


def test_other_weights_films_or_replaced_answers_are_another_run(place):
    asked = predict.in_batches(cases(place), 3)
    settings = prediction_run.Settings(place / "checkpoint", False, "predicted", False, LIMIT, None)
    key = prediction_run.fingerprint(settings, asked, {})
    assert key == prediction_run.fingerprint(settings, asked, {})
    assert key != prediction_run.fingerprint(settings, asked, {("a0", 1): "No."})
    for file in (place / "checkpoint" / "model.safetensors", place / "film0.png"):
        content = file.read_bytes()
        file.write_bytes(content + b"\0")
        assert key != prediction_run.fingerprint(settings, asked, {})
        file.write_bytes(content)
    assert key == prediction_run.fingerprint(settings, asked, {})


def test_bad_input_is_told_in_one_line(place, whole):
    def told(**change) -> str:
        with pytest.raises(ValueError) as caught:
            table(place, "whole", **change)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    kept = sorted((place / "whole").rglob("*.jsonl"))[1]
    content = kept.read_text()
    for damaged in ("", content[:40], content.replace("[", "{", 1), "\n".join(content.splitlines()[1:])):
        kept.write_text(damaged)
        assert told() == f"{kept}: damaged (a power cut?); delete it and run again"
    kept.write_text(content)
    assert table(place, "whole") == whole
    assert told(context="past").startswith("unknown context 'past'")
    assert "cannot make this folder" in told(work=place / "film0.png")
