"""Assembled checkpoints are ordinary Hugging Face folders; adapters tune what they should and "
"nothing else."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, dynamic_module_utils

from cxrtrek_lib import assembled
from cxrtrek_lib import model as models
from tests import tiny


def test_a_saved_checkpoint_reloads_to_the_same_answers(tmp_path):
    model, processor, renderer, tokens = tiny.checkpoint()
    models.save(model, processor, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again, processor_again = models.load(tmp_path)
    case = tiny.cases()[0]
    ids = torch.tensor([renderer.conversation(case, tiny.TURNS[:3], tokens).ids])
    film = tokens[case.images[0]].inputs
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, **film).logits, again(input_ids=ids, **film).logits)
    assert processor_again.chat_template == processor.chat_template
    assert again.generation_config.eos_token_id == renderer.end_of_turn


def test_the_processor_counts_the_image_tokens_the_encoder_makes():
    model, processor, _, _ = tiny.checkpoint()
    film = models.film(processor, np.zeros((300, 200), np.float32))
    tokens = models.vision_tower(model)(film.inputs["pixel_values"]).last_hidden_state
    assert film.text == "<image>" * tokens.shape[1] == "<image>" * model.config.image_seq_length


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
    fresh = assembled.assemble_small(
        model.model.vision_tower, ["a b"], vocabulary=300, hidden_size=64, layers=1, heads=2, seed=0
    )[0]
    ids = assembled.coordinate_ids(processor.tokenizer)
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


@pytest.mark.parametrize("damage", ["cut short", "missing", "lacking a layer"])
def test_a_half_written_checkpoint_is_named_in_one_line(tmp_path, damage):
    model, processor, *_ = tiny.checkpoint()
    models.save(model, processor, tmp_path)
    file = tmp_path / "model.safetensors"
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "missing":
        file.unlink()
    else:
        weights = load_file(file)
        del weights[next(name for name in weights if "layers.1.mlp" in name)]
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not a loadable|half-written .*: 1 weights are missing") as error:
        models.load(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_adapters_that_match_nothing_are_refused(monkeypatch):
    model, *_ = tiny.checkpoint()
    monkeypatch.setattr(type(model), "get_decoder", lambda self: torch.nn.LayerNorm(4))
    with pytest.raises(ValueError, match="LoRA matches nothing.*LayerNorm.*lora_rank"):
        models.add_lora(model, rank=4)


def test_a_missing_film_is_named_before_anything_is_read(tmp_path):
    model, processor, *_ = tiny.checkpoint()
    with pytest.raises(FileNotFoundError, match="nothing.png: this film is missing"):
        models.film_inputs(model, processor, [tmp_path / "nothing.png"])


def test_films_are_tokens_while_the_encoder_is_frozen_and_pixels_while_it_is_tuned(tmp_path):
    model, processor, *_ = tiny.checkpoint.__wrapped__(seed=5)
    path = tmp_path / "film.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224), dtype=np.uint8)).save(path)
    frozen = models.film_inputs(model, processor, [path])[path]
    models.vision_tower(model).requires_grad_(True)
    tuned = models.film_inputs(model, processor, [path])[path]
    assert frozen.text == tuned.text and tuned.inputs["pixel_values"].shape == (1, 3, 224, 224)
    with torch.no_grad():
        tokens = models.vision_tower(model)(tuned.inputs["pixel_values"]).last_hidden_state
    assert torch.equal(tokens, frozen.inputs["pixel_values"])


def test_tokens_are_kept_until_film_encoder_or_processor_changes(tmp_path, monkeypatch):
    model, processor, *_ = tiny.checkpoint.__wrapped__(seed=6)
    models.vision_tower(model).requires_grad_(False)
    path, cache = tmp_path / "film.png", tmp_path / "cache"

    def draw(seed: int) -> None:
        noise = np.random.default_rng(seed).integers(0, 255, (224, 224), dtype=np.uint8)
        Image.fromarray(noise).save(path)

    def tokens() -> torch.Tensor:
        return models.film_inputs(model, processor, [path], cache=cache)[path].inputs["pixel_values"]

    draw(0)
    first = tokens()
    n_read = []
    read = models.images.read
    monkeypatch.setattr(models.images, "read", lambda path: n_read.append(path) or read(path))
    assert torch.equal(tokens(), first) and not n_read
    draw(1)
    assert not torch.equal(tokens(), first) and len(n_read) == 1
    with torch.no_grad():
        models.vision_tower(model).film_head.weight.add_(0.1)
    changed = tokens()
    assert len(n_read) == 2
    processor.image_processor.image_mean = [0.4] * 3
    assert not torch.equal(tokens(), changed) and len(n_read) == 3
    assert torch.equal(tokens(), models.film_inputs(model, processor, [path])[path].inputs["pixel_values"])


def test_pickled_weights_are_not_read(tmp_path):
    model, processor, *_ = tiny.checkpoint()
    models.save(model, processor, tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="not a loadable image-text-to-text checkpoint.*safetensors"):
        models.load(tmp_path)


def test_code_of_a_checkpoint_runs_only_when_the_user_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    model, processor, *_ = tiny.checkpoint()
    models.save(model, processor, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(
        ValueError, match="not a loadable.*custom code|not a loadable.*trust_remote_code"
    ) as error:
        models.load(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="not a loadable"):
        models.load(tmp_path, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
