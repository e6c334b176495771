"""How an assembled checkpoint starts: image tokens carry names, and the small decoder looks names up.

To answer "Do you see a hiatal hernia?" a decoder must find the image token that the question names and take
what it says to the end of the question: two steps of attention, of which neither is of use alone. From random
weights they were not learnt within 4,800 cases (balanced accuracy of 549 validation questions on presence:
0.60); started as below, 1,200 cases gave 0.80. The idea is that of A. Trockman and J. Z. Kolter, "Mimetic
initialization of self-attention layers" (ICML 2023, arXiv 2305.09828): training begins near what a trained
network would do. All of it is trained on.
"""

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from cxrtrek_lib.encoder import CONCLUSION, FEATURE, GRID, SCALARS

SKETCHES = 64  # random tokens per name from which the projector's start is solved
CONCLUDES = 0.7  # length of what a token concludes, beside its name of length 1
MATCH = 2.0  # sharpness of matching words with names
NEAR = 2.0  # sharpness of attending to the last words only
COPY = 0.4  # twice this step: of what is attended to, 0.16 is passed on
# Cosines of these frequencies (radians a token) agree over the 20 words of a question and differ over a film.
SLOW, FAST = 0.005, 0.1
THETA = 1e7  # of rotary positions: half of the channels then hardly turn over a film and its question


@torch.no_grad()
def name_image_tokens(model: LlavaForConditionalGeneration, tokenizer, *, turn: Tensor | None = None) -> None:
    """Start the projector so that the image token of a finding or region resembles the words of its name.

    turn  orthogonal matrix [D, D] for the small decoder (`attend_to_names`): names are written turned by it,
          so that they match no word by themselves, and beside the name stand the token's conclusions, a
          finding's presence in the direction from "No" to "Yes". None: names as the words have them, only
    The second layer of the projector is the ridge solution for tokens whose features are noise of mean 0 and
    the spread that standardised features have.
    """
    encoder, projector = model.model.vision_tower, model.model.multi_modal_projector
    config = encoder.config
    names = [" ".join(reversed(name.split("|"))) for name in config.findings] + config.regions
    pieces = [tokenizer(" " + name, add_special_tokens=False)["input_ids"] for name in names]
    embedding = model.get_input_embeddings().weight
    # A sum of n independent vectors is root n times as long as one: every name gets the length of one word.
    named = torch.stack([embedding[ids].sum(0) / len(ids) ** 0.5 for ids in pieces])
    n_names = config.n_extra + 1
    tokens = torch.randn(SKETCHES, len(names), config.hidden_size) * FEATURE
    tokens[..., :-n_names][..., -SCALARS:] *= CONCLUSION / FEATURE
    tokens[..., -n_names:] = encoder.names()[GRID * GRID :][: len(names)]
    target = named.expand(SKETCHES, -1, -1)
    if turn is not None:
        directions = torch.randn(SCALARS, named.shape[1])
        directions[0] = word(embedding, tokenizer, "Yes") - word(embedding, tokenizer, "No")
        length = CONCLUDES * named.norm(dim=1).mean() / CONCLUSION
        directions *= length / directions.norm(dim=1, keepdim=True)
        target = target @ turn + tokens[..., :-n_names][..., -SCALARS:] @ directions
    hidden = projector.act(projector.linear_1(tokens)).flatten(0, 1)
    inputs = torch.cat([hidden, torch.ones(len(hidden), 1)], 1).double()
    ridge = 1e-2 * SKETCHES * torch.eye(inputs.shape[1], dtype=torch.double)
    solved = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ target.flatten(0, 1).double()).float()
    projector.linear_2.weight.copy_(solved[:-1].T)
    projector.linear_2.bias.copy_(solved[-1])


def word(embedding: Tensor, tokenizer, text: str) -> Tensor:
    """The embedding of a text's first token."""
    return embedding[tokenizer(text, add_special_tokens=False)["input_ids"][0]]


@torch.no_grad()
def attend_to_names(model: LlavaForConditionalGeneration, *, turn: Tensor) -> None:
    """Start the first two layers of a small Llama decoder (with biases of attention) as a look-up.

    turn  as for name_image_tokens
    In the first layer a word attends to image tokens whose name, turned, it resembles; in the second, a
    token attends to the words just before it. Both pass on what they attend to. A decoder of one layer gets
    the first step only.
    """
    first, *later = model.model.language_model.layers
    one = torch.eye(len(turn))
    first.self_attn.q_proj.weight.mul_(0.3).add_(MATCH * turn.T)
    first.self_attn.k_proj.weight.mul_(0.3).add_(MATCH * one)
    for layer in (first, *later[:1]):
        layer.self_attn.v_proj.weight.mul_(0.3).add_(COPY * one)
        layer.self_attn.o_proj.weight.mul_(0.3).add_(COPY * one)
    for layer in later[:1]:
        # A constant in queries and keys, turned by rotary positions, attends by distance alone.
        half = layer.self_attn.head_dim // 2
        frequency = THETA ** (-torch.arange(half) / half)
        near = NEAR * ((frequency > SLOW) & (frequency < FAST))
        constant = torch.cat([near, torch.zeros(half)]).repeat(len(turn) // (2 * half))
        layer.self_attn.q_proj.bias.copy_(constant)
        layer.self_attn.k_proj.bias.copy_(constant)


def orthogonal(size: int) -> Tensor:
    """A random orthogonal matrix [size, size], uniform but for signs."""
    return torch.linalg.qr(torch.randn(size, size))[0]


def start(model: LlavaForConditionalGeneration, tokenizer) -> None:
    """Both, for a decoder that starts from random weights."""
    turn = orthogonal(model.get_input_embeddings().weight.shape[1])
    name_image_tokens(model, tokenizer, turn=turn)
    attend_to_names(model, turn=turn)
