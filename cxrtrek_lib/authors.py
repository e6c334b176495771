"""The Q&A JSON of the dataset's authors: read it into our tables, write our tables as it, lose nothing.

A file is a list of samples, or one sample per line. A sample holds `messages` (system, then user and
assistant for every Q&A), `image` (paths, those of the study first, then the reference study's), and
`data_dict.cxrtrek_data` with source, pat_id, study_id, ref_study_id, pos_study_id ("" if none), image and
content, one entry per Q&A (section 5 of the design).

What our columns cannot say (another system message, unknown keys, a key that is there but null, 12 where we
write 12.0, an id that is a number) is kept as JSON text in the column `extra` of both frames: the difference
from what `write_authors_json` would write. A column that was edited since wins over it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import ijson
import polars as pl
from pydantic import BaseModel, Field, ValidationError
from tqdm.auto import tqdm

from cxrtrek_lib import files, tables
from cxrtrek_lib.conversations import Cases, shown

SYSTEM = "You are a radiologist reading chest radiographs step by step."
AUTHORS = "authors"  # `evidence` of a Q&A whose file names none
BATCH = 1000  # samples in memory at a time: about 30 MB

_LINKS = {"pat_id": "patient_id", "study_id": "sample_id", "ref_study_id": "prior_study_id",
          "pos_study_id": "next_study_id"}  # fmt: skip
_ENTRY = ("stage", "task_type", "qtype", "image_input_count", "question", "answer")
_Small = Annotated[int, Field(ge=-(2**15), lt=2**15)]
_Number = Annotated[float, Field(gt=-1e15, lt=1e15)]
_OPTIONAL = tuple(column for column in tables.QA if column not in (*_ENTRY, "sample_id", "turn"))


def read_authors_json(path: Path) -> Cases:
    """All samples of a file; see `read_batches`, which needs memory for a few of them only."""
    batches = [_frames([], [], path), *read_batches(path)]
    return Cases(*(pl.concat([batch[i] for batch in batches]) for i in (0, 1)), str(path))


def read_batches(path: Path, size: int = BATCH) -> Iterator[Cases]:
    """The samples of a file, `size` at a time, in file order; with a progress bar.

    sample_id is "source/study_id", followed by "#2" when the file lists the study a second time. A sample
    does not tell the views: they are UNKNOWN, one per image of the study itself; `images` holds the reference
    images too. Oddities and broken rules are read as they are: `schema.validate` names them. Raises
    FileNotFoundError or ValueError, one line naming the file, the sample's position and the key, when a field
    is missing or of another type, or `messages` differ from `content`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of the authors' JSON")
    studies, turns, seen = [], [], set()
    for position, sample in enumerate(_samples(path)):
        _check(sample, f"{path}, sample {position}")
        data = sample["data_dict"]["cxrtrek_data"]
        sample_id = _free(f"{data['source']}/{data['study_id']}", seen)
        turns += [_turn(sample_id, n, entry) for n, entry in enumerate(data["content"])]
        studies.append(_study(sample_id, sample, data))
        if len(studies) == size:
            yield _frames(studies, turns, path)
            studies, turns = [], []
    if studies:
        yield _frames(studies, turns, path)


def _frames(studies: list[dict], turns: list[dict], path: Path) -> Cases:
    extra = {"extra": pl.String}
    frames = (
        pl.DataFrame(rows, schema={**tables.TABLES[name], **extra})
        for name, rows in (("studies", studies), ("qa", turns))
    )
    return Cases(*frames, str(path))


def _samples(path: Path) -> Iterator[dict]:
    """The samples of a file as Python values, one at a time."""
    with (
        path.open("rb") as file,
        tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, delay=1) as bar,
    ):
        head = file.read(1 << 16).lstrip()[:1]
        if head not in (b"[", b"{"):
            raise ValueError(f"{path}: expected a list of samples or one sample per line; export it again")
        file.seek(0)
        samples = ijson.items(file, "item" if head == b"[" else "", multiple_values=head == b"{")
        try:
            for sample in samples:
                bar.update(file.tell() - bar.n)
                yield _plain(sample)
        except ijson.JSONError as error:
            reason = str(error).splitlines()[0]
            place = f"{path}, byte {file.tell()} or before"
            raise ValueError(f"{place}: not valid JSON ({reason}); export it again") from None


def _plain(value):
    """A parsed value with floats as json.loads gives them: ijson's C parser says Decimal."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _free(sample_id: str, seen: set[str]) -> str:
    free, n = sample_id, 1
    while free in seen:
        n += 1
        free = f"{sample_id}#{n}"
    seen.add(free)
    return free


class _Entry(BaseModel, strict=True):
    """Types of a Q&A; unknown keys are free."""

    stage: Annotated[int, Field(ge=-(2**7), lt=2**7)]
    task_type: str
    qtype: str
    image_input_count: _Small
    question: str
    answer: str
    option_list: list[str] | None = None
    answer_list: list[str] | None = None
    bbox_list: list[list[_Number]] | None = None
    image_id: _Small | None = None
    num_of_images: _Small | None = None
    target: str | None = None
    is_joint_sent: bool | None = None
    fact: str | None = None
    evidence: str | None = None


class _Data(BaseModel, strict=True):
    source: str
    pat_id: str | int | _Number
    study_id: str | int | _Number
    ref_study_id: str | int | _Number | None
    pos_study_id: str | int | _Number | None
    image: list[str]
    content: Annotated[list[_Entry], Field(max_length=2**15)]


class _DataDict(BaseModel, strict=True):
    cxrtrek_data: _Data


class _Message(BaseModel, strict=True):
    role: Literal["system", "user", "assistant"]
    content: Any


class _Sample(BaseModel, strict=True):
    messages: list[_Message]
    image: list[Any]
    data_dict: _DataDict


def _check(sample, where: str) -> None:
    """Raise ValueError, one line, unless a sample has the required keys, their types, and equal texts."""
    try:
        _Sample.model_validate(sample)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the sample"
        raise ValueError(f"{where}: {place}: {first['msg']}; see the format in authors.py") from None
    said = [message for message in sample["messages"] if message["role"] != "system"]
    meant = _said(sample["data_dict"]["cxrtrek_data"]["content"])
    for n, (a, b) in enumerate(zip_longest(said, meant, fillvalue={})):
        if (a.get("role"), a.get("content")) != (b.get("role"), b.get("content")):
            raise ValueError(
                f"{where}, content {n // 2}: `messages` differ from the questions and answers of `content`"
            )


def _study(sample_id: str, sample: dict, data: dict) -> dict:
    """One row of tables.STUDIES with `extra`; what the sample does not tell is null."""
    source = data["source"]

    def linked(key: str) -> str | None:
        return None if data[key] in (None, "") else f"{source}/{data[key]}"

    row = {
        **dict.fromkeys(tables.STUDIES),
        "sample_id": sample_id,
        "source": source,
        "patient_id": linked("pat_id") or f"{source}/",
        "study_id": str(data["study_id"]).rpartition("/")[2],
        "order": 0 if linked("ref_study_id") is None else 1,
        "prior_study_id": linked("ref_study_id"),
        "next_study_id": linked("pos_study_id"),
        "split": "external",
        "views": ["UNKNOWN"] * _own_images(data),
        "images": data["image"],
        "image_origin": "real",
    }
    plain = _data(row, data["image"], [])
    extra = {
        "top": _difference(sample, {"image": data["image"]}, ("messages", "data_dict")),
        "data_dict": _difference(sample["data_dict"], {}, ("cxrtrek_data",)),
        "cxrtrek_data": _difference(data, plain, ("content",)),
        **_voices(sample["messages"], _said(data["content"])),
    }
    row["extra"] = _json({key: value for key, value in extra.items() if value != {}})
    return row


def _own_images(data: dict) -> int:
    """How many of a sample's images are of the study itself.

    Those whose path does not name the reference study, if any path does; else those shown before the first
    question of stage 5, which leaves at least one for the reference study.
    """
    n, reference = len(data["image"]), data["ref_study_id"]
    fifth = next((k for k, entry in enumerate(data["content"]) if entry["stage"] == 5), None)
    if reference in (None, "") or not n:
        return n
    names = {f"/{reference}/", f"/s{reference}/"}
    paths = [f"/{re.sub('[.][A-Za-z]+$', '', path)}/" for path in data["image"]]
    named = sum(any(name in path for name in names) for path in paths)
    if named or fifth is None:
        return n - named
    before = data["content"][fifth - 1]["image_input_count"] if fifth else 0
    return max(1, min(before, n - 1))


def _turn(sample_id: str, turn: int, entry: dict) -> dict:
    """One row of tables.QA with `extra`."""
    row = {"sample_id": sample_id, "turn": turn, **{key: entry[key] for key in _ENTRY}}
    row |= {key: entry.get(key) for key in _OPTIONAL}
    if row["bbox_list"] is not None:
        row["bbox_list"] = [[float(number) for number in box] for box in row["bbox_list"]]
    if row["fact"] is None or row["evidence"] is None:
        target = entry.get("target") or entry["task_type"]
        row |= {"fact": f"stage {entry['stage']}|{target}", "evidence": AUTHORS}
    row["extra"] = _json(_difference(entry, _entry(row)))
    return row


def _difference(raw: dict, plain: dict, but: tuple[str, ...] = ()) -> dict:
    """The keys of `raw`, except those in `but`, that `plain` lacks or says otherwise (12 is not 12.0)."""
    return {
        key: value
        for key, value in raw.items()
        if key not in but and (key not in plain or repr(plain[key]) != repr(value))
    }


def _json(extra: dict) -> str:
    return json.dumps(extra, sort_keys=True, ensure_ascii=False) if extra else ""


def _said(content: list[dict]) -> list[dict]:
    return [
        {"role": role, "content": entry[key]}
        for entry in content
        for role, key in (("user", "question"), ("assistant", "answer"))
    ]


def _voices(messages: list[dict], said: list[dict]) -> dict:
    """What `_messages` needs to give the messages back: nothing, the system text, or all but what is said."""
    system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
    for form in ({}, {"system": system}):
        if messages == _messages(form, said):
            return form
    silent = [
        message if message["role"] == "system" else {k: v for k, v in message.items() if k != "content"}
        for message in messages
    ]
    return {"messages": silent}


def _messages(extra: dict, said: list[dict]) -> list[dict]:
    """All messages of a sample; those of the file give way where questions were added or taken away since."""
    if "messages" not in extra:
        system = extra.get("system", SYSTEM)
        return [*([] if system is None else [{"role": "system", "content": system}]), *said]
    silent, spoken = extra["messages"], iter(said)
    if sum(message["role"] != "system" for message in silent) == len(said):
        return [message if message["role"] == "system" else message | next(spoken) for message in silent]
    return [*(message for message in silent if message["role"] == "system"), *said]


def write_authors_json(cases: Cases | Iterable[Cases], path: Path) -> None:
    """Write the conversations as the authors' JSON, one sample per line of one list, replacing `path` whole.

    cases  all at once, or a lazy sequence of parts that need not fit into memory together (a part holds whole
           conversations). `fact` and `evidence` are written as optional keys; ref_study_id of our own rows is
           "" where nothing is compared. Raises ValueError as `conversations.shown` does.
    """
    with files.whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        between = "\n"
        for sample in tqdm(_written(cases), desc=f"writing {Path(path).name}", unit="case", delay=1):
            file.write(between + json.dumps(sample, ensure_ascii=False))
            between = ",\n"
        file.write("\n]\n")


def _written(cases: Cases | Iterable[Cases]) -> Iterator[dict]:
    """The samples of all parts, in the order of their studies."""
    for part in [cases] if isinstance(cases, Cases) else cases:
        studies, qa, _ = shown(part)
        numbers = studies.select("sample_id", i=pl.int_range(pl.len()))
        qa = qa.join(numbers, on="sample_id").sort("i", "turn", maintain_order=True)
        for start in range(0, studies.height, BATCH):
            first, last = qa["i"].search_sorted(pl.Series([start, start + BATCH]))
            said: dict[int, list[dict]] = {}
            for row in qa[first:last].iter_rows(named=True):
                said.setdefault(row["i"], []).append(row)
            for i, study in enumerate(studies[start : start + BATCH].iter_rows(named=True), start):
                yield _sample(study, said.get(i, []))


def _sample(study: dict, turns: list[dict]) -> dict:
    """One case as a sample of the authors' file."""
    extra = json.loads(study["extra"] or "{}")
    if study["extra"] is None and not any(turn["stage"] == 5 for turn in turns):
        study = {**study, "prior_study_id": None}
    content = [_with(_entry(turn), json.loads(turn.get("extra") or "{}")) for turn in turns]
    data = _with(_data(study, study["images"], content), extra.get("cxrtrek_data", {}))
    return {
        "messages": _messages(extra, _said(content)),
        "image": study["images"],
        "data_dict": {"cxrtrek_data": data, **extra.get("data_dict", {})},
        **extra.get("top", {}),
    }


def _data(study: dict, images: list[str], content: list[dict]) -> dict:
    source = study["source"]
    ids = {key: (study[column] or "").removeprefix(f"{source}/") for key, column in _LINKS.items()}
    return {"source": source, **ids, "image": images, "content": content}


def _entry(turn: dict) -> dict:
    """What the columns of one Q&A say, as an entry of `content`."""
    entry = {key: turn[key] for key in _ENTRY}
    entry |= {key: turn[key] for key in _OPTIONAL if turn[key] is not None}
    if turn["evidence"] == AUTHORS:
        del entry["fact"], entry["evidence"]
    return entry


def _with(plain: dict, extra: dict) -> dict:
    """`plain` with what the file said besides; where a column was edited since, the column wins."""

    def edited(new, old) -> bool:
        form = re.escape("" if old is None else str(old)) + r"(#\d+)?"
        return new != old and not (isinstance(new, str) and re.fullmatch(form, new))

    return plain | {k: v for k, v in extra.items() if k not in plain or not edited(plain[k], v)}
