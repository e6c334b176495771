"""One forward per case has the losses of one example per question; a killed run ends as if it had not."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from cxrtrek_lib import batches, resume, train
from cxrtrek_lib.assembled import coordinate_ids
from cxrtrek_lib.train_settings import Settings, memory_advice, precision, processor_precision
from tests import by_hugging_face, tiny

SETTINGS = Settings(
    short_epochs=0, epochs=3, patience=None, batch_cases=2, accumulation=1, gradient_checkpointing=False,
    precision="auto",
    loss_per="answer", questions_per_case=3, learning_rate=3e-3, muon_rate=0.01, warmup_steps=1,
    alone_share=0.4, shuffled_share=0.3, checkpoint_minutes=1e-9,
)  # fmt: skip


def fit(work, *, key="k", start=1, **changes):
    """(model, learning curve) of the tiny model on its three cases, validated on the first."""
    model, _, renderer, films = tiny.checkpoint.__wrapped__(seed=start, std=0.05)
    cases, settings = tiny.cases(), replace(SETTINGS, **changes)
    history, _ = train.fit(model, renderer, films, cases, cases[:1], settings, seed=0, work=work, key=key)
    return model, history["decoder"]


@pytest.mark.parametrize("layout", ["ordered", "alone"])
def test_per_answer_losses_equal_one_example_per_question(layout):
    model, processor, renderer, tokens = tiny.checkpoint()
    cases = tiny.cases()
    batch = batches.collate(cases, [case.turns for case in cases], layout, renderer, tokens)
    with torch.no_grad():
        together = train.answer_losses(model, batch).tolist()
    one_by_one = by_hugging_face.losses(model, renderer, cases, tokens, layout=layout)
    assert together == pytest.approx(one_by_one, abs=1e-4)


def test_smoothed_coordinate_target_is_the_gaussian_of_the_docstring():
    model, processor, renderer, tokens = tiny.checkpoint()
    case = tiny.cases()[1]
    batch = batches.collate([case], [case.turns[2:3]], "ordered", renderer, tokens)
    ids = coordinate_ids(processor.tokenizer)
    with torch.no_grad():
        smoothed = train.answer_losses(model, batch, ids).item()
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), **batch.inputs
        ).logits[0]
    by_hand = []
    for column in batch.columns.tolist():
        label = batch.input_ids[0, column].item()
        logp = logits[column - 1].log_softmax(-1)
        if label not in ids:
            by_hand.append(-logp[label].item())
            continue
        weights = [math.exp(-((i - ids.index(label)) ** 2) / (2 * 1.5**2)) for i in range(101)]
        by_hand.append(-sum(w * logp[t].item() for w, t in zip(weights, ids, strict=True)) / sum(weights))
    assert smoothed == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-4)


def test_training_lowers_the_loss_and_leaves_the_encoder_alone(tmp_path):
    before = tiny.checkpoint.__wrapped__(seed=1, std=0.05)[0].model.vision_tower.state_dict()
    model, curve = fit(tmp_path, epochs=25)
    assert curve[-1]["validation_loss"] < 0.5 * curve[0]["validation_loss"]
    after = model.model.vision_tower.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def steps_taken(monkeypatch, *, kill_at=None):
    """Watch the progress bar: steps as they are taken, from where the bar starts; or kill the run."""
    steps = []

    class Bar:
        def __init__(self, *, initial, **_):
            self.step = initial

        def update(self):
            self.step += 1
            steps.append(self.step)
            if self.step == kill_at:
                raise KeyboardInterrupt

        def set_postfix(self, *_, **__):
            pass

        def close(self):
            pass

    monkeypatch.setattr(train, "tqdm", Bar)
    return steps


def test_killed_and_resumed_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole, curve = fit(tmp_path / "whole")
    steps_taken(monkeypatch, kill_at=4)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts")
    steps = steps_taken(monkeypatch)
    resumed, resumed_curve = fit(tmp_path / "parts")
    assert steps[0] == 4, "training should go on where the last checkpoint stands, not start again"
    assert resumed_curve == curve
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_unfinished_work_of_another_run_is_not_taken_over(tmp_path, monkeypatch):
    fit(tmp_path, key="one", epochs=1)
    steps = steps_taken(monkeypatch)
    fit(tmp_path, key="two", epochs=1)
    assert steps[0] == 1


@pytest.fixture
def validation(monkeypatch):
    """A function that replaces the validation losses; it returns the head's weights at each."""

    def replace_with(*losses):
        coming, seen = iter(losses), []

        def measured(losses_of, *_, **__):
            seen.append(losses_of.model.lm_head.weight.detach().clone())
            return {"validation_loss": next(coming)}

        monkeypatch.setattr(train, "validation_loss", measured)
        return seen

    return replace_with


def test_the_epoch_of_lowest_validation_loss_is_kept(tmp_path, validation):
    weights = validation(2.0, 1.0, 3.0)
    model, _ = fit(tmp_path)
    assert torch.equal(model.lm_head.weight, weights[1]) and not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize(("patience", "last"), [(1, 3), (2, 4), (None, 6)])
def test_training_stops_after_so_many_epochs_without_a_new_lowest_loss(tmp_path, validation, patience, last):
    weights = validation(3.0, 2.0, 2.5, 2.2, 1.0, 1.5)
    model, curve = fit(tmp_path, epochs=6, patience=patience)
    assert len(weights) == curve[-1]["epoch"] == last
    assert torch.equal(model.lm_head.weight, weights[1 if patience else 4])


def test_a_key_is_of_settings_and_file_bytes(tmp_path):
    file = tmp_path / "qa"
    file.write_bytes(b"one")
    key = resume.fingerprint({"seed": 0}, [file])
    assert key == resume.fingerprint({"seed": 0}, [file])
    assert key != resume.fingerprint({"seed": 1}, [file])
    file.write_bytes(b"two")
    assert key != resume.fingerprint({"seed": 0}, [file])


def test_a_loss_that_is_no_number_stops_with_one_line(tmp_path):
    with pytest.raises(FloatingPointError, match="lower train.learning_rate"):
        fit(tmp_path, learning_rate=float("1e30"), epochs=5, warmup_steps=0)


def test_muon_gets_the_language_models_matrices_and_a_rate_of_its_own():
    model, *_ = tiny.checkpoint.__wrapped__()
    told = SimpleNamespace(settings=SETTINGS, sharded=False)
    adam, orthogonal = train._Run.optimisers_of(told, model)
    (group,) = orthogonal.param_groups
    assert group["peak"] == 0.01 and adam.param_groups[0]["peak"] == 3e-3
    names = {id(p): name for name, p in model.named_parameters()}
    # Two layers of seven matrices each; norms, embedding, head and projector stay with AdamW.
    found = [names[id(p)] for p in group["params"]]
    assert len(found) == 14 and all("layers." in name and "_proj" in name for name in found)
    n_adam = sum(len(group["params"]) for group in adam.param_groups)
    assert n_adam + 14 == sum(p.requires_grad for p in model.parameters())
    told.settings = replace(SETTINGS, muon_rate=None)
    assert len(train._Run.optimisers_of(told, model)) == 1


def test_a_sharded_model_has_no_whole_matrices_for_muon():
    model, *_ = tiny.checkpoint()
    with pytest.raises(ValueError, match="train.muon_rate: Muon needs whole matrices.*write null"):
        train._Run.optimisers_of(SimpleNamespace(settings=SETTINGS, sharded=True), model)


def test_learning_rate_warms_up_and_falls():
    rates = [train.rate(step, 10, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[-1] < 0.06
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    "change",
    [{"accumulation": 2}, {"gradient_checkpointing": True}, {"loss_per": "token", "accumulation": 3}],
)
def test_less_memory_same_training(tmp_path, change):
    """Several forwards a step, or activations computed twice: the trajectory stays."""
    # From weights of seeds 1 and 5 a gradient is so near to 0 that rounding alone turns AdamW's step round.
    plain = {"batch_cases": 3, "loss_per": change.get("loss_per", "answer"), "start": 4}
    one, curve = fit(tmp_path / "one", **plain)
    other, same = fit(tmp_path / "other", **plain | change)
    for a, b in zip(curve, same, strict=True):
        assert b == pytest.approx(a, abs=1e-5)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-4), name


@pytest.mark.parametrize(
    ("world", "accumulation", "n"), [(1, 1, 5), (2, 1, 5), (4, 2, 5), (3, 8, 7), (4, 1, 2)]
)
def test_processes_share_a_step_out(world, accumulation, n):
    """Every case is counted once, and every process makes the same number of forwards, none of them empty."""
    index = list(range(100, 100 + n))
    found = [train.shares(index, rank=r, world=world, accumulation=accumulation) for r in range(world)]
    assert sorted(i for one in found for part, counts in one for i in part if counts) == index
    assert len({len(one) for one in found}) == 1 and len(found[0]) <= accumulation
    assert all(part for one in found for part, _ in one)


def batch_of_two(model, renderer, films):
    cases = tiny.cases()[:2]
    batch = batches.collate(cases, [case.turns for case in cases], "ordered", renderer, films)
    with torch.no_grad():
        return batch, train.answer_losses(model, batch).tolist()


def test_equal_weight_per_answer_or_per_token():
    model, _, renderer, films = tiny.checkpoint()
    batch, _ = batch_of_two(model, renderer, films)
    asked = [turn for case in tiny.cases()[:2] for turn in case.turns]
    tokens = [len(renderer.tokenise(turn.answer)) + 1 for turn in asked]
    assert train.weights(batch, "token").tolist() == tokens
    assert train.weights(batch, "answer").tolist() == [1.0] * len(asked)


@pytest.mark.parametrize("batch_cases", [1, 4])
def test_validation_loss_overall_by_stage_and_by_format(batch_cases):
    model, _, renderer, films = tiny.checkpoint()
    _, losses = batch_of_two(model, renderer, films)
    asked = [turn for case in tiny.cases()[:2] for turn in case.turns]
    formats = {"single-choice": "choice", "yes_no": "close-ended", "captioning": "open-ended"}
    by = {}
    for turn, loss in zip(asked, losses, strict=True):
        for name in ("validation_loss", f"stage_{turn.stage}", formats.get(turn.qtype, turn.qtype)):
            by.setdefault(name, []).append(loss)
    found = train.validation_loss(
        train.AnswerLosses(model, None), tiny.cases()[:2], renderer, films,
        settings=replace(SETTINGS, batch_cases=batch_cases), accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    assert found == pytest.approx({name: sum(some) / len(some) for name, some in by.items()}, abs=1e-4)


def test_what_a_device_can_compute_in(monkeypatch):
    assert [precision(asked, "cpu") for asked in ("auto", "fp32")] == ["fp32", "fp32"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert processor_precision("bf16") == "fp32"
    for device in ("cpu", "mps"):
        for asked in ("bf16", "fp16"):
            told = f"train.precision: this {device} has no {asked}; write auto or fp32"
            with pytest.raises(ValueError, match=told):
                precision(asked, device)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True})
    assert [precision(asked, "cpu") for asked in ("auto", "bf16", "fp32")] == ["fp32", "bf16", "fp32"]
    assert [processor_precision(asked) for asked in ("auto", "bf16", "fp16")] == ["fp32", "bf16", "fp32"]
    for has_bf16, best in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bf16, **_: has)
        assert precision("auto", "cuda") == best
    with pytest.raises(ValueError, match="this cuda has no bf16; write auto or fp16"):
        precision("bf16", "cuda")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_parameter_to_change(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(train, "answer_losses", fail)
    with pytest.raises(MemoryError) as caught:
        fit(tmp_path, batch_cases=16)
    assert "train.accumulation 1 -> 2 (same result)" in str(caught.value)
    assert "train.batch_cases 16 -> 8" in str(caught.value) and "\n" not in str(caught.value)


def test_memory_advice_ends_with_the_model():
    settings, told = replace(SETTINGS, batch_cases=4, accumulation=4, questions_per_case=None), []
    for change in (
        {},
        {"gradient_checkpointing": True},
        {"questions_per_case": 12},
        {"questions_per_case": 1},
    ):
        settings = replace(settings, **change)
        told.append(memory_advice(settings, 1))
    assert [line.split(" ", 1)[1][:30] for line in told[:3]] == [
        "train.gradient_checkpointing f", "train.questions_per_case null ", "train.questions_per_case 12 ->",
    ]  # fmt: skip
    assert "model.checkpoint" in told[3]


def test_another_error_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "answer_losses", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        fit(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    path = tmp_path / "state.pt"
    for step in (1, 2):
        resume.write({"step": step}, path, "k")
    assert resume.read(path, "k") == {"step": 2}
    path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"")
    with pytest.warns(UserWarning, match="state.pt: damaged"):
        assert resume.read(path, "k") == {"step": 1}
    path.unlink()  # killed between two moves
    assert resume.read(path, "k") == {"step": 1}
    assert resume.read(path, "other") is None
