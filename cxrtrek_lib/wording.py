"""The wording of all questions: load the stage templates, check them, fill them column-wise.

One file `templates/stageN.yaml` per stage that the study builds. A clinician may change any text; slots and
answer keys are fixed here, and every file is checked completely when it is loaded.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import yaml

from cxrtrek_lib import draws, paths, schema, tables


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


_CHANGES = {kind: "finding" for kind in ("new", "resolved", "worse", "better", "unchanged", "persistent")}
_EXPOSURES = dict.fromkeys(tables.EXPOSURES, "")
# Every question that stages.py builds: stage -> name -> slots. A stage absent here is not built (4, 7).
QUESTIONS: dict[int, dict[str, Slots]] = {
    1: {
        "view": _slots(PA="", AP="", LATERAL="", several="n view"),
        "view_choice": _slots("image", PA="", AP="", LATERAL=""),
        "exposure": _slots(**_EXPOSURES),
        "exposure_choice": _slots(**_EXPOSURES),
    },
    2: {
        "presence": _slots("finding", "kind finding", present="", absent=""),
        "one": _slots("", "kind finding"),
        "several": _slots(),
        "list": _slots("", "", some="findings", none=""),
    },
    3: {
        "side": _slots("finding", "kind finding", **dict.fromkeys(tables.SIDES, "")),
        "severity": _slots("finding", "kind finding", **dict.fromkeys(tables.SEVERITIES, "")),
        "describe": _slots("finding", "kind finding", place="place"),
        "locate": _slots("finding image", "kind finding"),
        "region": _slots("region image", "region"),
    },
    5: {
        "change": _slots("", "", **_CHANGES, none=""),
        "change_choice": _slots(
            "finding",
            "kind finding",
            **dict.fromkeys(("new", "resolved", "worse", "better", "unchanged", "both", "neither"), ""),
        ),
    },
    6: {"trend": _slots("", "", **_CHANGES, none="")},
    8: {
        "impression": _slots(),
        "findings": _slots(),
        "summary": _slots("", "", uncertain="findings", absent="findings", none=""),
    },
}
_SLOT = re.compile(r"\{([^{}]*)\}")


def load(folder: Path = paths.TEMPLATES) -> dict[int, dict[str, Template]]:
    """stage -> question name -> template, for every stage in QUESTIONS.

    Raises FileNotFoundError or ValueError, one line naming the file and the key, when a stage is missing, a
    question or answer is missing or unknown, a slot is unknown, or a text is empty.
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
    for key, known in (("task_type", schema.TASK_TYPES[stage]), ("qtype", tuple(schema.FORMATS))):
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


def word_keys(words: pl.Series, purpose: str) -> np.ndarray:
    """uint64 (N,): draws.key(purpose, word) of each word; quick where few different words repeat."""
    names = words.cast(pl.String)
    different = names.unique()
    ids = pl.Series([draws.key(purpose, word) for word in different], dtype=pl.UInt64)
    return names.replace_strict(different, ids, return_dtype=pl.UInt64).to_numpy()


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

    The slots of the template must be columns of the frame.
    """
    phrasings = [f"{ask} {style}".strip() for ask in template.ask for style in template.style]
    chosen = draws.picks(frame["bits"].to_numpy(), "phrasing", len(phrasings))
    slots = QUESTIONS[template.stage][template.name]
    texts = pl.Series("question", phrasings).gather(chosen)
    question = pl.col("question")
    for slot in sorted(slots.ask):
        question = question.str.replace(f"{{{slot}}}", pl.col(slot), literal=True)
    return frame.with_columns(texts).with_columns(question, fill(template.target).alias("target"))
