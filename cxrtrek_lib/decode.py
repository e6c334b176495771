"""Greedy decoding of many conversations at once; what one of them has read is never read twice.

Every conversation has a row; what it has read fills the slots of that row from 0 on. Rows may differ in
length, and any of them may be fed while the others wait, so that no row waits for the longest answer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from cxrtrek_lib import model as models
from cxrtrek_lib.batches import joined
from cxrtrek_lib.chat import Film, Renderer

# Masks that are built here; any other kind of layer keeps a state that cannot be taken up again.
KINDS = {"full_attention", "sliding_attention"}
# Taking rows out copies what they have read, about three times the work of attending to it.
SHARE = 0.3


def uncached(model) -> str | None:
    """Why the history must be read again for each question of this model; None when it need not be."""
    config = models.core(model).config
    text = config.get_text_config()
    if kinds := set(getattr(text, "layer_types", None) or []) - KINDS:
        return f"its language model has layers of kind {', '.join(sorted(kinds))}"
    if text._attn_implementation != "sdpa":
        return f"its attention is {text._attn_implementation}, not sdpa"
    # What token types do to a mask is known for Gemma3 only: tokens of one film see each other.
    if models.type_name(model) == "token_type_ids" and config.model_type != "gemma3":
        return f"the masks of {config.model_type} are its own"
    return None


class RowLayer(DynamicLayer):
    """Keys and values of one layer, float [rows, heads, slots, width], with room to grow.

    Hugging Face's DynamicLayer copies the whole cache for every new token and gives all rows one length.
    """

    def __init__(self, decoder: "Decoder"):
        super().__init__()
        self.decoder = decoder
        self.room: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        """Write [n, H, Q, D] where the decoder says; keys and values of the fed rows, to the last slot."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        decoder, found = self.decoder, []
        if not self.room or decoder.end > self.room[0].shape[2]:
            self.grow(key_states, value_states)
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[decoder.fed.unsqueeze(1), :, decoder.slots] = states.transpose(1, 2)
            seen = room[:, :, : decoder.end]
            span = decoder.span
            found.append(seen[span.start : span.stop] if span else seen.index_select(0, decoder.fed))
        self.keys, self.values = found
        return self.keys, self.values

    def grow(self, *states: Tensor) -> None:
        slots = max(256, self.decoder.end * 3 // 2)
        # Zeros, not empty: a slot that is masked still enters the product, and 0 times NaN is NaN.
        grown = [one.new_zeros(self.decoder.rows, one.shape[1], slots, one.shape[3]) for one in states]
        for new, old in zip(grown, self.room, strict=False):
            new[:, :, : old.shape[2]] = old
        self.room = grown


class Decoder:
    """Rows of conversations in the making.

    length  int [rows]: slots that count; what stands behind them is overwritten
    after   int [rows]: position of the next token (more than its slot where films are grids: Qwen2.5-VL)
    """

    def __init__(self, model, renderer: Renderer, rows: int):
        self.network = models.core(model)
        self.base = self.network.base_model
        self.head = models.head(model)
        self.renderer = renderer
        self.rows = rows
        self.device = self.network.device
        self.length = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.after = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.cache = Cache(layer_class_to_replicate=lambda: RowLayer(self))
        text = self.network.config.get_text_config()
        self.kinds = set(getattr(text, "layer_types", None) or [])
        self.sliding = getattr(text, "sliding_window", None)
        self.in_blocks = renderer.type_ids == "token_type_ids"
        self.in_grids = hasattr(self.base, "get_rope_index")

    @torch.inference_mode()
    def feed(
        self, rows: Sequence[int], tokens: Sequence[Sequence[int]], films: Sequence[Film] = ()
    ) -> Tensor:
        """Append tokens to some rows, one or more each; logits after each row's last one: [len(rows), V].

        films  those whose image tokens are among the tokens, in their order
        """
        rows, tokens = list(rows), list(tokens)
        width, back = max(len(row) for row in tokens), list(range(len(rows)))
        span = range(min(rows), max(rows) + 1)
        if width == 1 and len(rows) > SHARE * len(span):
            # Feeding those that wait in between too is cheaper than taking the others out; it is not kept.
            back = [row - span.start for row in rows]
            given = dict(zip(rows, tokens, strict=True))
            rows, tokens = list(span), [given.get(row, [0]) for row in span]
        self.span = span if rows == list(span) else None
        counts = torch.tensor([len(row) for row in tokens], device=self.device)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens], device=self.device)
        self.fed = torch.tensor(rows, device=self.device)
        steps = torch.arange(width, device=self.device)
        self.slots = self.length[self.fed].unsqueeze(1) + steps
        self.end = int(self.slots[:, -1].max()) + 1
        real = steps < counts.unsqueeze(1)
        types = self.renderer.types(ids)
        inputs = models.typed(self.network, joined(films)) if films else {}
        hidden = self.base(
            input_ids=ids,
            attention_mask=self.masks(types),
            position_ids=self.positions(ids, real, types, inputs),
            past_key_values=self.cache,
            use_cache=True,
            **inputs,
            **types,
        ).last_hidden_state
        kept = torch.tensor(back, device=self.device)
        fed = self.fed[kept]
        self.length[fed] += counts[kept]
        self.after[fed] = self.next[kept]
        logits = self.head(hidden[kept, counts[kept] - 1]).float()
        # A film is shown, never written.
        logits[:, self.network.config.image_token_id] = -torch.inf
        return logits

    def masks(self, types: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """Who sees whom, bool [n, 1, Q, slots], by kind of layer where there are several."""
        keys, at = torch.arange(self.end, device=self.device), self.slots.unsqueeze(2)
        full = keys <= at
        near = full & (keys > at - self.sliding) if self.sliding else full
        if self.in_blocks and (film := types["token_type_ids"].bool()).any():
            # Films are numbered where they begin; -1 is text.
            begins = film & ~torch.nn.functional.pad(film, (1, 0))[:, :-1]
            block = torch.where(film, begins.cumsum(1), -1)
            of_keys = torch.full((len(block), self.end), -1, device=self.device).scatter_(
                1, self.slots, block
            )
            same = (block.unsqueeze(2) == of_keys.unsqueeze(1)) & film.unsqueeze(2)
            full, near = full | same, near | same
        full, near = full.unsqueeze(1), near.unsqueeze(1)
        if self.kinds == KINDS:
            return {"full_attention": full, "sliding_attention": near}
        return near if self.sliding and self.kinds != {"full_attention"} else full

    def positions(self, ids: Tensor, real: Tensor, types: dict, inputs: dict) -> Tensor:
        """Positions int [n, Q], or [3, n, Q] where a film is a grid; sets each row's next one."""
        if not self.in_grids:
            self.next = self.length[self.fed] + real.sum(1)
            return self.slots
        if inputs:
            grid = {name: value for name, value in inputs.items() if name == "image_grid_thw"}
            found, _ = self.base.get_rope_index(ids, attention_mask=real.long(), **grid, **types)
        else:
            found = torch.arange(ids.shape[1], device=self.device).expand(3, *ids.shape)
        found = found + self.after[self.fed].unsqueeze(1)
        self.next = torch.where(real, found, -1).amax((0, 2)) + 1
        return found

    @torch.inference_mode()
    def copy(self, source: int, rows: Sequence[int]) -> None:
        """Let rows begin with all that another one has read."""
        n = int(self.length[source])
        for layer in self.cache.layers:
            for room in layer.room:
                room[rows, :, :n] = room[source, :, :n].clone()
        self.length[rows], self.after[rows] = n, int(self.after[source])

    def forget(self, row: int, n_tokens: int | None = None) -> None:
        """Take a row's last tokens (of text) back, or all of them."""
        n = n_tokens if n_tokens is not None else self.length[row].clone()
        self.length[row] -= n
        self.after[row] = self.after[row] - n if n_tokens is not None else 0
