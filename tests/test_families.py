"""Any family of checkpoint goes the one way: adapters, one forward per case, save, load, decode."""

import numpy as np
import pytest
import torch
from PIL import Image

from cxrtrek_lib import batches, chat, predict, train
from cxrtrek_lib import model as models
from tests import by_hugging_face, families

EACH = pytest.mark.parametrize("name", families.FAMILIES)


def read(name, folder):
    """(model, renderer, cases, films) of a family."""
    model, processor, renderer = families.checkpoint(name)
    cases = families.films(folder)
    return model, renderer, cases, models.film_inputs(model, processor, [p for c in cases for p in c.images])


@EACH
def test_tokens_and_films_are_those_of_the_processor_itself(name, tmp_path):
    """Golden tokens: Hugging Face's processor on the whole conversation, films and all."""
    _, renderer, cases, films = read(name, tmp_path)
    case, tokenizer = cases[0], renderer.processor.tokenizer
    text = renderer.processor.apply_chat_template(chat.messages(case.turns), tokenize=False)
    colour = [np.asarray(Image.open(path).convert("RGB")) for path in case.images]
    has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    whole = renderer.processor(
        text=[text], images=colour, return_tensors="pt", add_special_tokens=not has_bos
    )
    theirs = whole["input_ids"][0].tolist()
    ours = renderer.conversation(case, case.turns, films).ids
    if name == "LLaVA":  # its template closes no answer; we end each with the end-of-text token
        ours = [i for i in ours if i != renderer.end_of_turn]
    theirs_text = tokenizer.decode(theirs)
    # After the last end of turn some templates write a line break, which no answer needs.
    assert (
        theirs_text.startswith(tokenizer.decode(ours)) and len(theirs_text) - len(tokenizer.decode(ours)) < 2
    )
    if name in ("Qwen2.5-VL", "Gemma3", "InternVL"):
        assert ours == theirs[: len(ours)]
    # The others write a space before an answer, which a tokenizer that reads both together may join to it.
    for key, value in batches.joined([films[path] for path in case.images]).items():
        assert torch.equal(value.flatten(), whole[key].flatten()), key


@EACH
@pytest.mark.parametrize("layout", ["ordered", "alone"])
def test_one_forward_per_case_has_the_losses_of_one_example_per_question(name, layout, tmp_path):
    model, renderer, cases, films = read(name, tmp_path)
    batch = batches.collate(cases, [case.turns for case in cases], layout, renderer, films)
    with torch.no_grad():
        together = train.answer_losses(model, batch).tolist()
    one_by_one = by_hugging_face.losses(model, renderer, cases, films, layout=layout)
    assert together == pytest.approx(one_by_one, abs=1e-4)


@EACH
@pytest.mark.parametrize("context", predict.CONTEXTS)
def test_answers_equal_generate_on_the_full_history(name, context, tmp_path):
    model, renderer, cases, films = read(name, tmp_path)
    by_hugging_face.assert_answers_are_those_of_generate(
        model, renderer, cases, films, context=context, batch_cases=2
    )


@EACH
def test_tuned_saved_loaded_and_asked(name, tmp_path):
    """Adapters, three steps, an ordinary folder, and on from there."""
    torch.manual_seed(0)
    model, processor = families.FAMILIES[name]()
    models.save(model, processor, tmp_path / "start")
    cases = families.films(tmp_path)

    def steps(folder):
        model, processor = models.assemble(str(folder), None, [], {}, seed=0)
        renderer = models.renderer(model, processor)
        tower = {n: p.clone() for n, p in models.vision_tower(model).named_parameters()}
        model = models.add_lora(model, rank=4)
        tuned = {n for n, p in model.named_parameters() if p.requires_grad}
        kinds = ("lora_", *models.PROJECTORS)
        assert tuned and all(any(kind in n for kind in kinds) for n in tuned)
        films = models.film_inputs(model, processor, [p for c in cases for p in c.images])
        batch = batches.collate(cases, [c.turns for c in cases], "alone", renderer, films)
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.005)
        losses = []
        model.train()
        for _ in range(4):
            loss = train.answer_losses(model, batch).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        with torch.no_grad():
            losses.append(train.answer_losses(model.eval(), batch).mean().item())
        assert all(torch.equal(p, tower[n]) for n, p in models.vision_tower(model).named_parameters())
        return model, processor, renderer, batch, films, losses

    model, processor, renderer, batch, films, losses = steps(tmp_path / "start")
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.03
    models.save(model, processor, tmp_path / "end")
    again, _ = models.load(tmp_path / "end")
    with torch.no_grad():  # adapters merged into the weights: the same function up to rounding
        assert train.answer_losses(again, batch).mean().item() == pytest.approx(losses[-1], abs=1e-4)
    assert steps(tmp_path / "end")[-1][0] == pytest.approx(losses[-1], abs=1e-4), (
        "training goes on from there"
    )
    found = predict.answer(
        again, renderer, cases[:1], films, context="predicted", batch_cases=1, max_new_tokens=4
    )
    assert found.height == len(cases[0].turns)
