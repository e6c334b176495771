"""Answer every question of a case, stage by stage, each answer appended to the context of the next.

Cases are decoded together, greedily. One key-value cache lives through a whole case: films and history are
read once, whatever the number of questions. The answers are those of `generate` on the full history.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.cache_utils import Cache, DynamicLayer

from cxrtrek_lib import tables
from cxrtrek_lib.chat import Case, Renderer, Turn

# predicted: the model's own earlier answers (the headline); gold: the annotated ones; none: no history.
CONTEXTS = ("predicted", "gold", "none")
MODES = (*CONTEXTS, "blank_image")


def answer(
    model,
    renderer: Renderer,
    cases: Sequence[Case],
    film_inputs: dict[Path, Tensor],
    *,
    context: str,
    batch_cases: int,
    max_new_tokens: int,
) -> pl.DataFrame:
    """One row per turn (tables.PREDICTIONS), sorted by sample and turn.

    film_inputs  of every film path, as model.film_inputs gives them
    context      predicted | gold | none; ValueError for any other
    prob_yes     P(yes) / (P(yes) + P(no)) at the first answer token, yes/no questions only
    """
    if context not in CONTEXTS:
        raise ValueError(f"unknown context {context!r}; known: {', '.join(CONTEXTS)}")
    if context == "none":
        cases = [replace(case, turns=(turn,)) for case in cases for turn in case.turns]
    # Cases of like length finish together; the answers do not depend on the order.
    cases = sorted(cases, key=lambda case: (len(case.turns), case.turns[0].qtype, case.sample_id))
    rows: list[tuple] = []
    with tqdm(
        total=sum(len(case.turns) for case in cases), desc=f"answers ({context})", unit="answer"
    ) as bar:
        for start in range(0, len(cases), batch_cases):
            part = cases[start : start + batch_cases]
            found = answer_batch(
                model, renderer, part, film_inputs, gold=context == "gold", limit=max_new_tokens
            )
            rows += found
            bar.update(len(found))
    return tables.conform("predictions", pl.DataFrame(rows, schema=tables.PREDICTIONS, orient="row")).sort(
        "sample_id", "turn"
    )


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer in a buffer with room to grow.

    Hugging Face's DynamicLayer copies the whole cache for every new token; at hundreds of short answers a
    case that copying is most of the work.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        """Append [B, H, n, D]; returns views of all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not start or end > self.room[0].shape[-2]:
            shape = (*key_states.shape[:2], 2 * end, key_states.shape[-1])
            grown = key_states.new_empty(shape), value_states.new_empty(shape)
            for new, old in zip(grown, (self.keys, self.values), strict=True):
                if start:
                    new[:, :, :start] = old
            self.room = grown
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values


@dataclass
class Decoder:
    """Conversations in the making: their cache, which of its slots count, each row's next position."""

    model: torch.nn.Module
    rows: int
    cache: Cache = field(default_factory=lambda: Cache(layer_class_to_replicate=GrowingLayer))

    def __post_init__(self):
        self.seen = torch.zeros(self.rows, 0, dtype=torch.bool, device=self.model.device)
        self.position = torch.zeros(self.rows, dtype=torch.long, device=self.model.device)

    @torch.no_grad()
    def feed(self, tokens: Sequence[Sequence[int]], films: Tensor | None = None) -> Tensor:
        """Append tokens to each row (rows may differ in length, also 0); logits after the last: [B, V]."""
        width = max(len(row) for row in tokens)
        device = self.model.device
        # Padding stands on the left, so that the last column is every row's last token; nothing sees it.
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in tokens], device=device)
        real = torch.tensor(
            [[False] * (width - len(row)) + [True] * len(row) for row in tokens], device=device
        )
        self.seen = torch.cat([self.seen, real], 1)
        position_ids = (self.position.unsqueeze(1) + real.cumsum(1) - 1).clamp_min(0)
        self.position += real.sum(1)
        logits = self.model(
            input_ids=ids,
            attention_mask=self.seen.long(),
            position_ids=position_ids,
            pixel_values=films,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        # A film is shown, never written.
        logits[:, self.model.config.image_token_id] = -torch.inf
        return logits

    def forget(self, slots: int) -> None:
        """Take the last `slots` columns out of every row's history."""
        if slots:
            self.position -= self.seen[:, -slots:].sum(1)
            self.seen[:, -slots:] = False


def answer_batch(
    model,
    renderer: Renderer,
    cases: Sequence[Case],
    film_inputs: dict[Path, Tensor],
    *,
    gold: bool,
    limit: int,
) -> list[tuple]:
    """(sample_id, turn, answer, prob_yes) of every turn of a few cases decoded together."""
    tokenizer = renderer.processor.tokenizer
    yes, no = yes_no_ids(tokenizer)
    prompts = [renderer.pieces(case.turns) for case in cases]
    decoder = Decoder(model, len(cases))
    shown = [0] * len(cases)
    # Tokens of the last answer that the cache has not seen yet.
    pending: list[list[int]] = [[] for _ in cases]
    rows = []
    for k in range(max(len(case.turns) for case in cases)):
        asked = [case.turns[k] if k < len(case.turns) else None for case in cases]
        films, tokens = [], []
        for i, (case, turn) in enumerate(zip(cases, asked, strict=True)):
            tokens.append(pending[i] + prompts[i][k] if turn else [])
            if turn:
                films += [film_inputs[path] for path in case.images[shown[i] : turn.n_images]]
                shown[i] = max(shown[i], turn.n_images)
        logits = decoder.feed(tokens, torch.stack(films).to(model.device, model.dtype) if films else None)
        probability = yes_probability(logits, yes, no)
        written, fed = generate(
            decoder, logits, [turn is not None for turn in asked], renderer.end_of_turn, limit
        )
        if gold:
            decoder.forget(fed)
        for i, turn in enumerate(asked):
            if turn is None:
                continue
            text = tokenizer.decode(written[i], skip_special_tokens=False).strip()
            rows.append(
                (cases[i].sample_id, turn.turn, text, probability[i] if turn.qtype == "yes_no" else None)
            )
            pending[i] = list(renderer.tokenise(turn.answer)) if gold else written[i][fed:]
    return rows


def generate(
    decoder: Decoder, logits: Tensor, active: list[bool], end: int, limit: int
) -> tuple[list[list[int]], int]:
    """Greedy answers (without the end-of-turn token) of the active rows, and how many columns were fed.

    An answer that reaches `limit` tokens stops there; its last token is then not in the cache yet.
    """
    written: list[list[int]] = [[] for _ in active]
    writing = list(active)
    fed = 0
    while True:
        chosen = logits.argmax(-1).tolist()
        for i, token in enumerate(chosen):
            if writing[i] and token == end:
                writing[i] = False
            elif writing[i]:
                written[i].append(token)
        writing = [w and len(text) < limit for w, text in zip(writing, written, strict=True)]
        if not any(writing):
            return written, fed
        # A row that has just reached the limit is fed too, so that rows stay in step.
        logits = decoder.feed([text[fed : fed + 1] for text in written])
        fed += 1


def yes_no_ids(tokenizer) -> tuple[list[int], list[int]]:
    """Ids of the first token of every way to begin a yes and a no."""

    def first(words: Sequence[str]) -> list[int]:
        return sorted({tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words})

    yes, no = first(["Yes", "Yes.", "yes", " Yes"]), first(["No", "No.", "no", " No"])
    # A tokenizer that begins both words alike (with a bare space, or byte by byte) tells nothing there.
    shared = set(yes) & set(no)
    return [i for i in yes if i not in shared], [i for i in no if i not in shared]


def yes_probability(logits: Tensor, yes: list[int], no: list[int]) -> list[float]:
    """P(yes) / (P(yes) + P(no)) of each row, float in [0, 1]."""
    probability = logits.float().softmax(-1)
    p_yes, p_no = probability[:, yes].sum(-1), probability[:, no].sum(-1)
    return (p_yes / (p_yes + p_no).clamp_min(1e-12)).tolist()


def of_mode(mode: str) -> tuple[str, bool]:
    """(context, are the films blanked) of a prediction mode. ValueError when unknown."""
    if mode not in MODES:
        raise ValueError(f"unknown prediction mode {mode!r}; known: {', '.join(MODES)}")
    return ("predicted", True) if mode == "blank_image" else (mode, False)


def ask(
    model, renderer: Renderer, case: Case, film_inputs: dict[Path, Tensor], question: str, *, limit: int = 96
) -> str:
    """The model's answer to one free question about a case's films, without history."""
    turn = Turn(0, 1, "captioning", question, "", len(case.images))
    rows = answer_batch(model, renderer, [replace(case, turns=(turn,))], film_inputs, gold=False, limit=limit)
    return rows[0][2]
