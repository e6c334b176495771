"""One forward per case has the losses of one example per question; a killed run ends as if it had not."""

import math

import pytest
import torch

from cxrtrek_lib import resume, train
from cxrtrek_lib.model import coordinate_ids
from tests import tiny


def fit(work, *, key="k", epochs=3, **changes):
    model, _, renderer, tokens = tiny.checkpoint.__wrapped__(seed=1, std=0.05)
    settings = dict(
        epochs=epochs,
        batch_cases=2,
        questions_per_case=3,
        learning_rate=3e-3,
        warmup_steps=1,
        alone_share=0.4,
        shuffled_share=0.3,
        checkpoint_minutes=1e-9,
        seed=0,
    )
    settings.update(changes)
    cases = tiny.cases()
    curve = train.fit(model, renderer, tokens, cases, cases[:1], work=work, key=key, **settings)
    return model, curve


@pytest.mark.parametrize("layout", ["ordered", "alone"])
def test_per_answer_losses_equal_one_example_per_question(layout):
    model, processor, renderer, tokens = tiny.checkpoint()
    cases = tiny.cases()
    batch = train.collate(cases, [case.turns for case in cases], layout, renderer, tokens)
    with torch.no_grad():
        together = train.answer_losses(model, batch).tolist()
    one_by_one = []
    for case in cases:
        for k, turn in enumerate(case.turns):
            turns = case.turns[: k + 1] if layout == "ordered" else [turn]
            ids = renderer.conversation(turns)
            labels = torch.full((1, len(ids.ids)), -100)
            start, end = ids.answers[-1]
            labels[0, start:end] = torch.tensor(ids.ids[start:end])
            with torch.no_grad():  # Hugging Face's own loss on the last answer alone
                reference = model(
                    input_ids=torch.tensor([ids.ids]),
                    pixel_values=torch.stack([tokens[path] for path in case.images[: ids.n_images]]),
                    labels=labels,
                )
            one_by_one.append(reference.loss.item())
    assert together == pytest.approx(one_by_one, abs=1e-4)


def test_smoothed_coordinate_target_is_the_gaussian_of_the_docstring():
    model, processor, renderer, tokens = tiny.checkpoint()
    case = tiny.cases()[1]
    batch = train.collate([case], [case.turns[2:3]], "ordered", renderer, tokens)
    ids = coordinate_ids(processor.tokenizer)
    with torch.no_grad():
        smoothed = train.answer_losses(model, batch, ids).item()
        logits = model(
            input_ids=batch.input_ids, pixel_values=batch.films, attention_mask=batch.attention_mask.long()
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


def test_plan_visits_every_case_once_an_epoch_in_a_fixed_order():
    arguments = dict(epochs=2, batch_cases=2, alone_share=0.5, shuffled_share=0.25, seed=3)
    batches = train.plan(tiny.cases() * 5, **arguments)
    for epoch in (0, 1):
        assert sorted(i for e, _, chunk in batches if e == epoch for i in chunk) == list(range(15))
    assert batches == train.plan(tiny.cases() * 5, **arguments)
    assert batches != train.plan(tiny.cases() * 5, **{**arguments, "seed": 4})


def test_layout_shares_are_those_asked_for():
    batches = train.plan(
        tiny.cases() * 40, epochs=20, batch_cases=2, alone_share=0.5, shuffled_share=0.25, seed=0
    )
    share = {layout: sum(b[1] == layout for b in batches) / len(batches) for layout in train.LAYOUTS}
    assert share == pytest.approx({"alone": 0.5, "shuffled": 0.25, "ordered": 0.25}, abs=0.05)


def test_report_comes_last_when_shuffled():
    for visit in range(20):
        turns = train.chosen_turns(tiny.cases()[0], layout="shuffled", n_questions=None, seed=0, visit=visit)
        assert turns[-1].stage == 8
        assert sorted(t.turn for t in turns) == [0, 1, 2, 3, 4]


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


def test_the_epoch_of_lowest_validation_loss_is_kept(tmp_path, monkeypatch):
    losses = iter([2.0, 1.0, 3.0])
    kept = {}

    def measured(model, *_, **__):
        loss = next(losses)
        kept[loss] = model.lm_head.weight.detach().clone()
        return {"validation_loss": loss}

    monkeypatch.setattr(train, "validation_loss", measured)
    model, _ = fit(tmp_path)
    assert torch.equal(model.lm_head.weight, kept[1.0]) and not torch.equal(kept[1.0], kept[3.0])


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


def test_learning_rate_warms_up_and_falls():
    rates = [train.rate(step, 10, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[-1] < 0.06
    assert rates[10:] == sorted(rates[10:], reverse=True)
