"""A case as the model sees it: chat messages, token ids, answer spans, image slots. The one renderer.

Training and prediction both go through `Renderer`, piece by piece: the text between two answers is one
piece, and each piece is tokenised on its own, exactly as it is when an answer has just been generated.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from cxrtrek_lib.conversations import PLACEHOLDER, format_of, split_label

_COORDINATE = re.compile(r"(?<![\d.])(\d{1,3}\.\d{2})(?![\d.])")
# Marks where an answer stands while the chat template renders; no question or answer holds this character.
_ANSWER = "\x01"


@dataclass(frozen=True)
class Turn:
    """One question of a case and its gold answer; `n_images` films have been shown when it is asked.

    fact  what it asks about, as in tables.QA ("pneumothorax|presence"); empty where that is not known
    """

    turn: int
    stage: int
    qtype: str
    question: str
    answer: str
    n_images: int
    fact: str = ""


@dataclass(frozen=True)
class Case:
    """One study: its films (the current one first, then the prior) and its turns in stage order."""

    sample_id: str
    patient_id: str
    images: tuple[Path, ...]
    turns: tuple[Turn, ...]


def cases(studies: pl.DataFrame, qa: pl.DataFrame, folder: Path) -> list[Case]:
    """The cases of `studies`, in its order, with the turns of `qa`; image names are relative to `folder`.

    The answer to a choice is the text of its right options without their labels: a label can only be written
    by who has chosen already, and a small decoder, which has to choose while it writes, chose at random
    (right to 0.25 of 675 validation questions with labels, to 0.58 without, after equal training). Scores
    read both (metrics.chosen).
    Raises ValueError naming the first study that has no question or fewer films than its questions show.
    """
    turns: dict[str, list[Turn]] = {}
    columns = (
        "sample_id",
        "turn",
        "stage",
        "qtype",
        "question",
        "answer",
        "answer_list",
        "image_input_count",
    )
    for sample_id, turn, stage, qtype, question, answer, right, n_images, fact in (
        qa.select(*columns, "fact").sort("sample_id", "stage", "turn").iter_rows()
    ):
        question = question.replace(PLACEHOLDER, "").strip()
        if format_of(qtype) == "choice":
            answer = ", ".join(split_label(option)[1] for option in right)
        turns.setdefault(sample_id, []).append(
            Turn(turn, stage, qtype, whole_percent(question), whole_percent(answer), n_images, fact or "")
        )
    found = []
    for sample_id, patient_id, images in studies.select("sample_id", "patient_id", "images").iter_rows():
        if sample_id not in turns:
            raise ValueError(f"{folder}: study {sample_id} has no question; build its Q&A again")
        asked = turns[sample_id]
        if max(t.n_images for t in asked) > len(images):
            raise ValueError(f"{folder}: study {sample_id} shows more films than its {len(images)}")
        found.append(Case(sample_id, patient_id, tuple(folder / i for i in images), tuple(asked)))
    return found


def whole_percent(text: str) -> str:
    """Coordinates to the nearest whole percent, in the authors' two-decimal format.

    A small decoder then needs one token per coordinate; the cost is at most half a percent of the film.

    >>> whole_percent("(12.49, 40.50)")
    '(12.00, 41.00)'
    """
    return _COORDINATE.sub(lambda match: f"{int(float(match[1]) + 0.5)}.00", text)


def messages(turns: Sequence[Turn]) -> list[dict]:
    """Hugging Face chat messages; a film stands in the first question that may look at it.

    A prior film therefore appears with the first question of stage 5 (or with the first question asked,
    when that one already compares).
    """
    chat, shown = [], 0
    for turn in turns:
        new = max(turn.n_images - shown, 0)
        shown += new
        content = [{"type": "image"}] * new + [{"type": "text", "text": turn.question}]
        chat.append({"role": "user", "content": content})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return chat


@dataclass(frozen=True)
class Film:
    """One film as a checkpoint takes it.

    text    what stands for it in the prompt: its image tokens, as many as the processor wants, framed
    inputs  tensors of a forward (pixel_values, image_grid_thw ...), joined over films by the first dimension
    """

    text: str
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Tokens:
    """One conversation: token ids, and for each answer its span [start, end), end-of-turn token included.

    `turns` are those it holds: all that were asked, or the last of them when all are longer than the window.
    """

    ids: list[int]
    answers: list[tuple[int, int]]
    turns: tuple[Turn, ...]

    @property
    def n_images(self) -> int:
        return max(turn.n_images for turn in self.turns)


class Renderer:
    """Turns -> token ids, by the checkpoint's own processor and chat template.

    processor  a Hugging Face processor with a chat template and an image token
    window     longest sequence of the model, in tokens; None for no limit
    packs      may questions asked alone share one copy of the films? see model.packs
    type_ids   name under which the model wants to know which tokens are films' (token_type_ids), or None
    Raises ValueError when the processor lacks what a chat needs.
    """

    def __init__(
        self, processor, *, window: int | None = None, packs: bool = True, type_ids: str | None = None
    ):
        self.processor = processor
        self.window = window
        self.packs = packs
        self.type_ids = type_ids
        self.image_token = getattr(processor, "image_token", None)
        if self.image_token is None or not getattr(processor, "chat_template", None):
            raise ValueError(
                "the checkpoint's processor has no image token or no chat template; use a chat checkpoint"
            )
        self.tokenise = lru_cache(maxsize=100_000)(self._tokenise)
        self.opening: list[int] = []
        self.closing: list[int] = []
        before, after = self.pieces([Turn(0, 1, "captioning", "?", "!", 0)], [])
        tokenizer = processor.tokenizer
        # As the processor itself does: a template that forgets the beginning-of-text token gets it.
        if (bos := tokenizer.bos_token_id) is not None and tokenizer("?")["input_ids"][0] == bos != before[0]:
            self.opening = [bos]
        # A template that closes no answer: the tokenizer's end-of-text token does, as trained.
        if not after or after[0] not in tokenizer.get_added_vocab().values():
            if tokenizer.eos_token_id is None:
                raise ValueError(
                    "the chat template closes no answer and the tokenizer has no eos_token; set it"
                )
            self.closing = [tokenizer.eos_token_id]
        self.end_of_turn = [*self.closing, *after][0]

    def _tokenise(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def pieces(self, turns: Sequence[Turn], films: Sequence[Film]) -> list[list[int]]:
        """Token ids before the first answer, between answers, and after the last: len(turns) + 1 pieces.

        films  those of the case, in its order; the first few are shown
        Every piece but the first begins with the end-of-turn token that closes the answer before it.
        """
        chat = messages(turns)
        for message in chat[1::2]:
            message["content"] = [{"type": "text", "text": _ANSWER}]
        text = self.processor.apply_chat_template(chat, tokenize=False)
        between = text.split(self.image_token)
        shown = max(turn.n_images for turn in turns)
        if len(between) != shown + 1:
            raise ValueError(
                f"the chat template writes {len(between) - 1} image tokens for {shown} films; "
                "use a checkpoint whose template shows films"
            )
        text = between[0] + "".join(film.text + part for film, part in zip(films, between[1:], strict=False))
        found = text.split(_ANSWER)
        if len(found) != len(turns) + 1:
            raise ValueError("the chat template drops or repeats answers; this checkpoint cannot be used")
        first, *rest = (self.tokenise(piece) for piece in found)
        return [self.opening + first, *(self.closing + piece for piece in rest)]

    def conversation(self, case: Case, turns: Sequence[Turn], films: Mapping[Path, Film]) -> Tokens:
        """The turns one after another, each with all earlier questions and answers before it.

        Where they are longer than the window, the earliest are left out, question and answer, as many as
        must be; films shown there are shown in the first turn that is left. Raises ValueError naming case
        and turn when a single turn is too long.
        """
        shown = [films[path] for path in case.images]
        for first in range(len(turns)):
            left = turns[first:]
            ids: list[int] = []
            spans = []
            *prompts, _ = self.pieces(left, shown)
            for prompt, turn in zip(prompts, left, strict=True):
                ids += prompt
                start = len(ids)
                ids += self.tokenise(turn.answer)
                spans.append((start, len(ids) + 1))
            ids.append(self.end_of_turn)
            if self.window is None or len(ids) <= self.window:
                return Tokens(ids, spans, tuple(left))
        raise self.too_long(case, turns[-1], len(ids))

    def too_long(self, case: Case, turn: Turn, length: int) -> ValueError:
        return ValueError(
            f"case {case.sample_id}, turn {turn.turn}: {length} tokens with its films, the model's window "
            f"is {self.window}; use a checkpoint with a longer window or fewer image tokens"
        )

    def alone(
        self, case: Case, turns: Sequence[Turn], films: Mapping[Path, Film]
    ) -> tuple[Tokens, list[int], list[int]]:
        """Every turn as if it were the only one, packed behind one copy of the films.

        Returns (tokens, group, positions): tokens of group 0 are the films, of group k the k-th turn; a
        turn sees the films it may look at and itself, and its positions follow those films directly.
        `alone_mask` turns the groups into an attention mask.
        """
        alone = [self.conversation(case, [turn], films) for turn in turns]
        starts = [self.after_films(one.ids) for one in alone]
        widest = max(range(len(turns)), key=lambda i: starts[i])
        ids = list(alone[widest].ids[: starts[widest]])
        group, positions, spans = [0] * len(ids), list(range(len(ids))), []
        for k, (one, start) in enumerate(zip(alone, starts, strict=True), 1):
            if one.ids[:start] != ids[:start]:
                raise ValueError(
                    "the chat template changes the text before the films; alone-training needs it fixed"
                )
            (first, last), shift = one.answers[0], len(ids) - start
            spans.append((first + shift, last + shift))
            ids += one.ids[start:]
            group += [k] * (len(one.ids) - start)
            positions += range(start, len(one.ids))
        return Tokens(ids, spans, tuple(turns)), group, positions

    def after_films(self, ids: list[int]) -> int:
        """Index of the first token after the last film."""
        of_films = set(self.processor.image_token_ids)
        return next((i + 1 for i in range(len(ids) - 1, -1, -1) if ids[i] in of_films), 0)

    def types(self, ids: Tensor) -> dict[str, Tensor]:
        """What the model wants to know of tokens int [B, L] beside them: 1 where a film stands, else 0."""
        if self.type_ids is None:
            return {}
        films = torch.tensor(self.processor.image_token_ids, device=ids.device)
        return {self.type_ids: torch.isin(ids, films).long()}


def alone_mask(group: Tensor, positions: Tensor) -> Tensor:
    """Who sees whom when turns are packed alone: bool [B, 1, L, L] from group and positions, int [B, L].

    A token sees its own group up to itself, and of the films (group 0) those that come before its turn's
    first position: a question about the current film never sees the prior one. Padding is group -1 and
    sees only itself, so that no row of the softmax is empty.
    """
    causal = torch.ones(group.shape[1], group.shape[1], dtype=torch.bool, device=group.device).tril()
    same = group.unsqueeze(2) == group.unsqueeze(1)
    film = (group == 0).unsqueeze(1)
    first = torch.full_like(group, 0)
    for k in range(1, int(group.max()) + 1):
        inside = group == k
        start = torch.where(inside, positions, positions.max() + 1).amin(1, keepdim=True)
        first = torch.where(inside, start, first)
    before = positions.unsqueeze(1) < first.unsqueeze(2)
    return ((same & causal) | (film & before)).unsqueeze(1)
