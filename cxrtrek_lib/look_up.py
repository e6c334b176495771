"""How an assembled checkpoint starts: image tokens carry names, and the small decoder looks names up.

To answer "Do you see a hiatal hernia?" a decoder must find the image token that the question names and take
what it says to the end of the question: two steps of attention, of which neither is of use alone. From random
weights they were not learnt within 4,800 cases (balanced accuracy of 549 validation questions on presence:
0.60); started as below, 600 cases give 0.84 (simpler: 0.75, without heads for sides and without a place to
look for words that name nothing). The idea is that of A. Trockman and J. Z. Kolter, "Mimetic
initialization of self-attention layers" (ICML 2023, arXiv 2305.09828): training begins near what a trained
network would do. All of it is trained on.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from cxrtrek_lib.encoder import CONCLUSION, FEATURE, GRID, SCALARS

BEGIN = "<|begin|>"  # the first token of every conversation
SKETCHES = 64  # random tokens per name from which the projector's start is solved
CONCLUDES = 0.7  # length of what a token concludes, beside its name of length 1
MATCH = 2.0  # sharpness of matching words with names
ELSE = 10.0  # score of the first token: a word that matches no name better looks there
NEAR = 2.0  # sharpness of attending to the last words only
COPY = 0.4  # twice this step: of what is attended to, 0.16 is passed on
# Cosines of these frequencies (radians a token) agree over the 20 words of a question and differ over a film.
SLOW, FAST = 0.005, 0.1
THETA = 1e7  # of rotary positions: over half of the channels then hardly turn over a film and its question


class Start(NamedTuple):
    """What the two halves of the small decoder's start agree on; D channels, in heads.

    turn   orthogonal [D, D]: names are written turned by it, so that they match no word by themselves
    still  bool [D]: channels that rotary positions hardly turn; names stand there, conclusions elsewhere
    side   bool [D]: the second half of the heads. The first finds what is on the left, this what is on the
           right: in one head, a word would see only that of a finding's two tokens which it matches better
    """

    turn: Tensor
    still: Tensor
    side: Tensor


def start_of(model: LlavaForConditionalGeneration) -> Start:
    """A random start for the model's decoder."""
    config = model.config.text_config
    size, heads = config.hidden_size, config.num_attention_heads
    still = frequencies(size // heads) < SLOW
    return Start(
        turn=torch.linalg.qr(torch.randn(size, size))[0],
        still=still.repeat(heads),
        side=torch.arange(heads).repeat_interleave(size // heads) >= heads / 2,
    )


def frequencies(head_dim: int) -> Tensor:
    """Radians a token by which rotary positions turn each channel of a head: float [head_dim]."""
    return (THETA ** (-torch.arange(head_dim // 2) / (head_dim // 2))).repeat(2)


@torch.no_grad()
def name_image_tokens(model: LlavaForConditionalGeneration, tokenizer, *, start: Start | None = None) -> None:
    """Start the projector so that the image token of a finding or region resembles the words of its name.

    start  of the small decoder (`attend_to_names`). Beside the name, which leaves out the side, then stand
           the token's conclusions, a finding's presence in the direction from "No" to "Yes". None: names as
           the words have them, only
    The second layer of the projector is the ridge solution for tokens whose features are noise of mean 0 and
    the spread that standardised features have.
    """
    encoder, projector = model.model.vision_tower, model.model.multi_modal_projector
    config = encoder.config
    findings = [name.partition("|")[::2] for name in config.findings]
    names = [name if start else f"{side} {name}" for name, side in findings] + config.regions
    pieces = [tokenizer(f" {name.strip()}", add_special_tokens=False)["input_ids"] for name in names]
    embedding = model.get_input_embeddings().weight
    # A sum of n independent vectors is root n times as long as one: every name gets the length of one word.
    named = torch.stack([embedding[ids].sum(0) / len(ids) ** 0.5 for ids in pieces])
    if start is not None:
        length = named.norm(dim=1).mean()
        named = named @ start.turn
        sides = [side for _, side in findings] + [""] * len(config.regions)
        both = torch.ones_like(start.side)
        found_by = {"": both, "left": ~start.side, "right": start.side if start.side.any() else both}
        named *= torch.stack([start.still & found_by[side] for side in sides])
        named *= length / named.norm(dim=1, keepdim=True)
    n_names = config.n_extra + 1
    tokens = torch.randn(SKETCHES, len(named), config.hidden_size) * FEATURE
    tokens[..., :-n_names][..., -SCALARS:] *= CONCLUSION / FEATURE
    tokens[..., -n_names:] = encoder.names()[GRID * GRID :][: len(named)]
    target = named.expand(SKETCHES, -1, -1)
    if start is not None:
        directions = torch.randn(SCALARS, named.shape[1])
        directions[0] = word(embedding, tokenizer, "Yes") - word(embedding, tokenizer, "No")
        directions[:, start.still] = 0.0
        directions *= CONCLUDES * length / CONCLUSION / directions.norm(dim=1, keepdim=True)
        target = target + tokens[..., :-n_names][..., -SCALARS:] @ directions
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
def attend_to_names(model: LlavaForConditionalGeneration, tokenizer, start: Start) -> None:
    """Start the first two layers of a small Llama decoder (with biases of attention) as a look-up.

    In the first layer a word attends to image tokens whose name, turned, it resembles, or else to the first
    token of all; in the second, a token attends to the words just before it. Both pass on what they attend
    to. A decoder of one layer gets the first step only.
    """
    first, *later = model.model.language_model.layers
    size, head_dim = len(start.turn), first.self_attn.head_dim
    one = torch.eye(size)
    first.self_attn.q_proj.weight.mul_(0.3).add_(MATCH * start.turn.T * start.still[:, None])
    first.self_attn.k_proj.weight.mul_(0.3).add_(MATCH * one * start.still[:, None])
    # Scaled so that its score with the first token's key, MATCH times a vector of length root D, is ELSE.
    begin = word(model.get_input_embeddings().weight, tokenizer, BEGIN)
    begin = (begin / begin.norm() * start.still).view(-1, head_dim)
    scale = begin.square().sum(1, keepdim=True) * MATCH * (size / head_dim) ** 0.5
    first.self_attn.q_proj.bias.copy_((ELSE * begin / scale).flatten())
    for layer in (first, *later[:1]):
        layer.self_attn.v_proj.weight.mul_(0.3).add_(COPY * one)
        layer.self_attn.o_proj.weight.mul_(0.3).add_(COPY * one)
    for layer in later[:1]:
        # A constant in queries and keys, turned by rotary positions, attends by distance alone.
        turning = frequencies(head_dim)
        near = NEAR * ((turning > SLOW) & (turning < FAST)) * (torch.arange(head_dim) < head_dim // 2)
        layer.self_attn.q_proj.bias.copy_(near.repeat(size // head_dim))
        layer.self_attn.k_proj.bias.copy_(near.repeat(size // head_dim))


def prepare(model: LlavaForConditionalGeneration, tokenizer) -> None:
    """Both, for a decoder that starts from random weights."""
    found = start_of(model)
    name_image_tokens(model, tokenizer, start=found)
    attend_to_names(model, tokenizer, found)
