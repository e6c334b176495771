"""The wording of all questions: load the stage templates, check them, fill them column-wise.

One file `templates/stageN.yaml` per stage that the study builds. A clinician may change any text; slots and
answer keys are fixed here, and every file is checked completely when it is loaded.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import yaml

from cxrtrek_lib import conversations, draws, paths, tables
from cxrtrek_lib.findings import BODY_REGIONS


class Template(NamedTuple):
    """One kind of question. ask x style are its phrasings; answers: key -> text of an answer or option."""

    stage: int
    name: str
    task_type: str
    qtype: str
    target: str
    ask: tuple[str, ...]
    style: tuple[str, ...]
    answers: dict[str, str]


class Slots(NamedTuple):
    """What a template must and may say: slots of ask and target; answer key -> slots of that answer."""

    ask: frozenset[str]
    target: frozenset[str]
    answers: dict[str, frozenset[str]]


def _slots(ask: str = "", target: str = "", **answers: str) -> Slots:
    def words(text: str) -> frozenset[str]:
        return frozenset(text.split())

    return Slots(words(ask), words(target), {key: words(text) for key, text in answers.items()})


# Kinds of change: told in an open answer, and the options of the choices of stages 5 and 6.
_GRADES = ("new", "resolved", "worse", "better", "unchanged")
_POSSIBLE = ("confirmed", "excluded", "doubted", "suspected", "undecided")
_TOLD = dict.fromkeys((*_GRADES, *_POSSIBLE, "persistent"), "findings") | {"none": ""}
_REGIONS = dict.fromkeys(BODY_REGIONS, "")
_SEARCHED = {region: "" for region in BODY_REGIONS if region not in ("devices", "elsewhere")}


def _change(*options: str) -> Slots:
    return _slots("finding", "kind name", **dict.fromkeys(options, ""))


_EXPOSURES = dict.fromkeys(tables.EXPOSURES, "")
_VIEWS = dict.fromkeys(("PA", "AP", "LATERAL"), "")
_YES_NO = {"present": "", "absent": ""}
# Every question that stages.py builds: stage -> name -> slots.
QUESTIONS: dict[int, dict[str, Slots]] = {
    1: {
        "view": _slots(**_VIEWS, several="n view"),
        "view_choice": _slots("image", **_VIEWS),
        "view_check": _slots("view", "", **_YES_NO, **_VIEWS, frontal=""),
        "view_included": _slots("view", "", **_YES_NO, **_VIEWS, frontal=""),
        "exposure": _slots(**_EXPOSURES),
        "exposure_choice": _slots(**_EXPOSURES),
        "quality": _slots("", "", some="defects", none=""),
        "quality_check": _slots(**_YES_NO),
    },
    2: {
        "any_abnormality": _slots(**_YES_NO),
        "any_device": _slots(**_YES_NO),
        "presence": _slots("finding", "kind finding", **_YES_NO),
        "one": _slots(none=""),
        "absent": _slots(),
        "several": _slots(),
        "status": _slots("finding", "kind finding", **dict.fromkeys(tables.STATUSES, "")),
        "list": _slots("", "", some="findings", none=""),
        "by_region": _slots("region", "", some="findings", **_SEARCHED),
        "devices": _slots("", "", some="findings", none=""),
        "ruled_out": _slots("most", "", some="findings"),
        "uncertain": _slots("", "", some="findings"),
        "free_zones": _slots("image", "", some="zones", none=""),
    },
    3: {
        "certainty": _slots("finding", "kind finding", **dict.fromkeys(tables.CERTAINTIES, "")),
        "side": _slots("finding", "kind finding", **dict.fromkeys(tables.SIDES, "")),
        "side_open": _slots("finding", "kind finding", **dict.fromkeys(tables.SIDES, "")),
        "severity": _slots("finding", "kind finding", **dict.fromkeys(tables.SEVERITIES, "")),
        "severity_open": _slots("finding", "kind finding", **dict.fromkeys(tables.SEVERITIES, "")),
        "place": _slots("finding", "kind finding"),
        "place_open": _slots("finding", "kind finding", **{"in": "place", "at": "place"}),
        "describe": _slots("finding", "kind finding", **{"in": "place", "at": "place"}),
        "locate": _slots("finding image", "kind finding"),
        "phrase": _slots("phrase image", "kind finding"),
        "box": _slots("box image", "kind finding"),
        "box_open": _slots("box image", "kind finding"),
        "region": _slots("region image", "region"),
        "in_region": _slots("region image", "region", some="findings", none=""),
    },
    4: {
        "together": _slots("finding", "kind finding", some="findings"),
        "both": _slots("finding other", "kind", present="", absent=""),
        "sides": _slots("finding other", "kind finding", same="", opposite="", one="", both=""),
        "higher": _slots("finding other image", "kind finding"),
    },
    5: {
        "change_grade": _change(*_GRADES),
        "change_choice": _change("new", "resolved", "both", "neither"),
        "change_possible": _change(*_POSSIBLE),
        "change_several": _slots("change", "", new="", resolved="", both=""),
        "change": _slots("", "", **_TOLD),
    },
    6: {
        "trend_grade": _change(*_GRADES),
        "trend_choice": _change("new", "resolved", "both", "neither"),
        "trend_possible": _change(*_POSSIBLE),
        "trend_several": _slots(),
        "trend": _slots("", "", **_TOLD),
    },
    7: {
        "presence": _slots("finding", "", present="", absent=""),
        "status": _slots("finding", "kind name", **dict.fromkeys(tables.STATUSES, "")),
        "diagnosis": _slots("", "", present="finding", uncertain="finding", none=""),
        "advice": _slots(),
    },
    8: {
        "findings": _slots(),
        "impression": _slots(),
        "regions": _slots(**_REGIONS, **dict.fromkeys(("present", "uncertain", "absent"), "findings")),
        "summary": _slots(uncertain="findings", absent="findings", none=""),
        "whole": _slots(both="findings impression"),
    },
}
_SLOT = re.compile(r"\{([^{}]*)\}")
_LIMITING = re.compile(r"\b(at most|no more than|up to|within|fewer than|less than|maximum)\b", re.IGNORECASE)
_LIMIT = re.compile(r"\b(?:at most|no more than|up to|within) (?P<number>[1-9]\d*) words?\b", re.IGNORECASE)


def load(folder: Path = paths.TEMPLATES) -> dict[int, dict[str, Template]]:
    """stage -> question name -> template, for every stage in QUESTIONS.

    Raises FileNotFoundError or ValueError, one line naming the file and the key, when a stage is missing, a
    question or answer is missing or unknown, a slot is unknown, a text is empty, repeated or without its full
    stop or question mark, or a length limit is no number of words.
    """
    folder = Path(folder)
    for path in sorted(folder.glob("stage*.yaml")):
        if path.name not in {f"stage{stage}.yaml" for stage in QUESTIONS}:
            known = ", ".join(map(str, QUESTIONS))
            raise ValueError(
                f"{path}: no question is built for this stage; remove it (built stages: {known})"
            )
    return {stage: _load_stage(folder / f"stage{stage}.yaml", stage) for stage in QUESTIONS}


def _load_stage(path: Path, stage: int) -> dict[str, Template]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the template of stage {stage} is missing; restore it from git")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        line = error.problem_mark.line + 1 if getattr(error, "problem_mark", None) else "?"
        raise ValueError(
            f"{path}, line {line}: not valid YAML ({getattr(error, 'problem', error)})"
        ) from None
    _same_keys(path, "the file", content, {"stage", "questions"})
    if content["stage"] != stage:
        raise ValueError(f"{path}: stage is {content['stage']!r} but the file name says {stage}")
    _same_keys(path, "questions", content["questions"], set(QUESTIONS[stage]))
    return {name: _template(path, stage, name, content["questions"][name]) for name in QUESTIONS[stage]}


def _same_keys(path: Path, where: str, found: object, wanted: set[str]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {where} must hold keys ({', '.join(sorted(wanted))}), not {found!r}")
    for key in wanted - set(found):
        raise ValueError(f"{path}: {where} has no key {key!r}; add it")
    for key in set(found) - wanted:
        raise ValueError(f"{path}: {where} has an unknown key {key!r}; known: {', '.join(sorted(wanted))}")


def _template(path: Path, stage: int, name: str, entry: dict) -> Template:
    """One checked question of a stage file."""
    where, slots = f"questions.{name}", QUESTIONS[stage][name]
    _same_keys(path, where, entry, set(Template._fields) - {"stage", "name"})
    _same_keys(path, f"{where}.answers", entry["answers"], set(slots.answers))
    for key, known in (
        ("task_type", conversations.TASK_TYPES[stage]),
        ("qtype", tuple(conversations.FORMATS)),
    ):
        if entry[key] not in known:
            raise ValueError(f"{path}: {where}.{key} is {entry[key]!r}; allowed: {', '.join(known)}")
    for key in ("ask", "style"):
        if not isinstance(entry[key], list) or not entry[key]:
            raise ValueError(f"{path}: {where}.{key} must be a list of texts with at least one entry")
    texts = [(f"{where}.ask[{i}]", text, slots.ask, False) for i, text in enumerate(entry["ask"])]
    texts += [(f"{where}.style[{i}]", text, frozenset(), True) for i, text in enumerate(entry["style"])]
    texts += [(f"{where}.target", entry["target"], slots.target, False)]
    texts += [(f"{where}.answers.{k}", entry["answers"][k], s, False) for k, s in slots.answers.items()]
    for key, text, known, may_be_empty in texts:
        if not isinstance(text, str) or not (text or may_be_empty):
            raise ValueError(f"{path}: {key} must be a text, not {text!r}; put it in quotes")
        for slot in _SLOT.findall(text):
            if slot not in known:
                allowed = ", ".join(sorted(known)) or "none"
                raise ValueError(f"{path}: {key} has the unknown slot {{{slot}}}; known there: {allowed}")
    _check_phrasings(path, where, entry["ask"], entry["style"])
    for i, text in enumerate(entry["ask"]):
        # A question about a finding that does not name it could not be answered.
        for slot in slots.ask - {"image"} - set(_SLOT.findall(text)):
            raise ValueError(f"{path}: {where}.ask[{i}] lacks the slot {{{slot}}}")
    if entry["qtype"] == "yes_no":
        for key, word in (("present", "Yes"), ("absent", "No")):
            if not re.match(rf"{word}\b", entry["answers"][key]):
                raise ValueError(f"{path}: {where}.answers.{key} must begin with {word!r}")
    return Template(
        stage, name, entry["task_type"], entry["qtype"], entry["target"],
        tuple(entry["ask"]), tuple(entry["style"]), dict(entry["answers"]),
    )  # fmt: skip


def _check_phrasings(path: Path, where: str, ask: list[str], style: list[str]) -> None:
    """Punctuation, repetitions and length limits of a question's phrasings."""
    for key, texts in (("ask", ask), ("style", style)):
        for i, text in enumerate(texts):
            if text in texts[:i]:
                raise ValueError(f"{path}: {where}.{key}[{i}] repeats {text!r}; remove one")
            if text and not text.endswith((".", "?")[: 2 if key == "ask" else 1]):
                end = "a question mark or a full stop" if key == "ask" else "a full stop"
                raise ValueError(f"{path}: {where}.{key}[{i}] {text!r} must end with {end}")
    for i, text in enumerate(style):
        if _LIMITING.search(text) and length_limit(text) is None:
            example = "'Answer in at most 20 words.'"
            place = f"{path}: {where}.style[{i}]"
            raise ValueError(f"{place} {text!r} must give a number of words, as in {example}")
    if all(length_limit(text) for text in style):
        raise ValueError(f"{path}: {where}.style needs an entry without a limit, for longer answers; add one")


def coded(words: pl.Series) -> tuple[list[str], np.ndarray]:
    """The different words of a column, in any order, and the place of each row's word among them, int (N,).

    An Enum column costs nothing: its categories are the words. Raises ValueError when a word is null.
    """
    if words.null_count():
        raise ValueError(f"column {words.name!r} has {words.null_count()} empty words; give every row one")
    if words.dtype != pl.Enum:
        words = words.cast(pl.String)
        words = words.cast(pl.Enum(words.unique()))
    return words.dtype.categories.to_list(), words.to_physical().to_numpy()


def numbered(code: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The different numbers in code (int (N,), each below size), and the place of each row's among them."""
    if size > 20_000_000:  # two slots with thousands of words each: sorting is cheaper than a table
        return np.unique(code, return_inverse=True)
    occurs = np.zeros(size, dtype=bool)
    occurs[code] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[code]


_key = lru_cache(1 << 16)(draws.key)  # the same few words come back in every chunk


def word_keys(words: pl.Series, purpose: str) -> np.ndarray:
    """uint64 (N,): draws.key(purpose, word) of each word; quick where few different words repeat."""
    different, codes = coded(words)
    return np.array([_key(purpose, word) for word in different], dtype=np.uint64)[codes]


def question_bits(template: Template, keys: np.ndarray, about: pl.Series | None = None) -> np.ndarray:
    """uint64 (N,): the hash bits of each question, from the sample's key, the template and what it is about.

    about  what tells questions of one template apart within a sample (a finding), text (N,)
    """
    name = f"stage{template.stage}/{template.name}"
    return draws.mix(keys, name if about is None else word_keys(about, name))


def fill(text: str) -> pl.Expr:
    """Expression: the text with each {slot} replaced by the column of that name; null where that is null."""
    slots = _SLOT.findall(text)
    return pl.format(_SLOT.sub("{}", text), *map(pl.col, slots)) if slots else pl.lit(text)


def asked(template: Template, frame: pl.DataFrame) -> pl.DataFrame:
    """Add `question` and `target` to the rows, the phrasing drawn by the column `bits` (question_bits).

    The slots of the template must be columns of the frame, and so must `answer`: a phrasing that limits the
    answer's length is only used where the answer keeps to it.
    """
    phrasings = [f"{ask} {style}".strip() for ask in template.ask for style in template.style]
    limits = np.array([length_limit(style) or 0 for _ in template.ask for style in template.style])
    bits = frame["bits"].to_numpy()
    chosen = draws.picks(bits, "phrasing", len(phrasings))
    limited = np.flatnonzero(limits[chosen])
    if len(limited):
        words = frame["answer"].gather(limited).str.count_matches(" ", literal=True).to_numpy() + 1
        long = limited[words > limits[chosen[limited]]]
        free = np.flatnonzero(limits == 0)
        chosen[long] = free[draws.picks(bits[long], "phrasing without a limit", len(free))]
    question = _filled(phrasings, chosen, frame)
    target = _filled([template.target], np.zeros(frame.height, dtype=np.int64), frame)
    return frame.with_columns(question.alias("question"), target.alias("target"))


def length_limit(style: str) -> int | None:
    """The most words that an answer-style suffix allows; None when it sets no limit.

    >>> length_limit("Answer in at most 20 words.")
    20
    """
    found = _LIMIT.search(style)
    return int(found["number"]) if found else None


def _filled(texts: list[str], chosen: np.ndarray, frame: pl.DataFrame) -> pl.Series:
    """texts[chosen] with their slots filled from the frame; each different text is written only once."""
    slots = sorted({slot for text in texts for slot in _SLOT.findall(text)})
    rows, code = pl.DataFrame({"text": texts}), chosen
    for slot in slots:
        words, codes = coded(frame[slot])
        different, code = numbered(code * len(words) + codes, rows.height * len(words))
        word = pl.Series(slot, words, dtype=pl.String)[different % len(words)]
        rows = rows[different // len(words)].with_columns(word)
    text = pl.col("text")
    for slot in slots:
        text = text.str.replace_all(f"{{{slot}}}", pl.col(slot), literal=True)
    return rows.select(text)["text"].gather(code)
