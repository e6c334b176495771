"""The Q&A JSON of the dataset's authors: read it into our tables, write our tables as it.

A file is a list of samples: `messages` (system, then user and assistant for every Q&A), `image` (paths, those
of the study first, then the reference study's), and `data_dict.cxrtrek_data` with source, pat_id, study_id,
ref_study_id, pos_study_id ("" if none), image and content, one entry per Q&A. Optional keys of an entry
(`polish...`, `link_tag`, `reason`, ...) are kept in the column `extra` as JSON text.
"""

import json
from pathlib import Path

import polars as pl

from cxrtrek_lib import files, schema, tables

SYSTEM = "You are a radiologist reading chest radiographs step by step."
_SAMPLE = ("source", "pat_id", "study_id", "ref_study_id", "pos_study_id", "image", "content")
_ENTRY = ("stage", "task_type", "qtype", "image_input_count", "question", "answer")
_OPTIONAL = tuple(
    column
    for column in tables.QA
    if column not in (*_ENTRY, "sample_id", "turn")
)  # fmt: skip


def read_authors_json(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(studies, qa) of a file; qa has the columns of tables.QA and `extra` (String, "" when there is none).

    sample_id is "source/study_id". A sample does not tell the views: they are UNKNOWN, one per image of the
    study itself, while `images` also holds the reference image. Oddities of the authors' data are accepted:
    turns out of stage order, answers that match no option. Raises FileNotFoundError or ValueError, one line
    naming the file, the sample's position and the key, when a field is missing or `messages` differ from
    `content`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of the authors' JSON")
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); download or export it again") from None
    if not isinstance(samples, list):
        raise ValueError(f"{path}: expected a list of samples, found {type(samples).__name__}")
    studies, turns = [], []
    for position, sample in enumerate(samples):
        data = _data(sample, f"{path}, sample {position}")
        studies.append(_study(data))
        turns += [_turn(studies[-1]["sample_id"], n, entry) for n, entry in enumerate(data["content"])]
    frame = pl.DataFrame(studies, schema=tables.STUDIES)
    return tables.conform("studies", frame), pl.DataFrame(turns, schema={**tables.QA, "extra": pl.String})


def _data(sample: dict, where: str) -> dict:
    """The sample's cxrtrek_data, checked."""
    try:
        messages, data = sample["messages"], sample["data_dict"]["cxrtrek_data"]
    except (KeyError, TypeError):
        raise ValueError(f"{where}: no `messages` or no `data_dict.cxrtrek_data`") from None
    for key in _SAMPLE:
        if key not in data:
            raise ValueError(f"{where}: cxrtrek_data has no key {key!r}")
    for n, entry in enumerate(data["content"]):
        for key in _ENTRY:
            if key not in entry:
                raise ValueError(f"{where}, content {n}: no key {key!r}")
    said = [message["content"] for message in messages if message["role"] != "system"]
    if said != [entry[key] for entry in data["content"] for key in ("question", "answer")]:
        raise ValueError(f"{where}: `messages` differ from the questions and answers of `content`")
    return data


def _study(data: dict) -> dict:
    """One row of tables.STUDIES; what the sample does not tell is null."""
    source = data["source"]

    def linked(key: str) -> str | None:
        return f"{source}/{data[key]}" if data[key] else None

    current = [entry["image_input_count"] for entry in data["content"] if entry["stage"] < 5]
    return {
        **dict.fromkeys(tables.STUDIES),
        "sample_id": f"{source}/{data['study_id']}",
        "source": source,
        "patient_id": f"{source}/{data['pat_id']}",
        "study_id": str(data["study_id"]).rpartition("/")[2],
        "order": 1 if data["ref_study_id"] else 0,
        "prior_study_id": linked("ref_study_id"),
        "next_study_id": linked("pos_study_id"),
        "split": "external",
        "views": ["UNKNOWN"] * max(current, default=len(data["image"])),
        "images": data["image"],
        "image_origin": "real",
    }


def _turn(sample_id: str, turn: int, entry: dict) -> dict:
    """One row of tables.QA with `extra`."""
    extra = {key: value for key, value in entry.items() if key not in (*_ENTRY, *_OPTIONAL)}
    row = {"sample_id": sample_id, "turn": turn, **{key: entry[key] for key in _ENTRY}}
    row |= {key: entry.get(key) for key in _OPTIONAL}
    row["fact"] = entry.get("fact", f"stage {entry['stage']}|{entry.get('target', entry['task_type'])}")
    row["evidence"] = entry.get("evidence", "authors")
    return {**row, "extra": json.dumps(extra, sort_keys=True, ensure_ascii=False) if extra else ""}


def write_authors_json(studies: pl.DataFrame, qa: pl.DataFrame, path: Path) -> None:
    """Write the conversations of `qa` as the authors' JSON, replacing `path` in one step.

    The reference image is the last entry of `images` where that is longer than `views`, else the first image
    of the prior study's row. `fact` and `evidence` are written as optional keys. Raises ValueError when a
    case compares with a prior study that is not in `studies`.
    """
    path = Path(path)
    rows = {row["sample_id"]: row for row in studies.iter_rows(named=True)}
    samples = [_sample(case, rows) for case in schema.cases(studies, qa)]
    with files.whole(path) as temporary:
        temporary.write_text(json.dumps(samples, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _sample(case: dict, rows: dict[str, dict]) -> dict:
    """One case as a sample of the authors' file."""
    source = case["source"]
    images = list(case["images"])
    if any(turn["stage"] == 5 for turn in case["turns"]) and len(images) == len(case["views"]):
        prior = rows.get(case["prior_study_id"])
        if prior is None:
            raise ValueError(
                f"{case['sample_id']}: its prior study {case['prior_study_id']} is not in studies"
            )
        images.append(prior["images"][0])
    content = []
    for turn in case["turns"]:
        entry = {key: turn[key] for key in _ENTRY}
        entry |= {key: turn[key] for key in _OPTIONAL if turn[key] is not None}
        content.append(entry | json.loads(turn.get("extra") or "{}"))
    said = [
        {"role": role, "content": entry[key]}
        for entry in content
        for role, key in (("user", "question"), ("assistant", "answer"))
    ]

    def bare(sample_id: str | None) -> str:
        return (sample_id or "").removeprefix(f"{source}/")

    data = {
        "source": source,
        "pat_id": bare(case["patient_id"]),
        "study_id": bare(case["sample_id"]),
        "ref_study_id": bare(case["prior_study_id"]),
        "pos_study_id": bare(case["next_study_id"]),
        "image": images,
        "content": content,
    }
    messages = [{"role": "system", "content": SYSTEM}, *said]
    return {"messages": messages, "image": images, "data_dict": {"cxrtrek_data": data}}
