"""Export conversations: a Hugging Face `datasets` folder, chat JSONL for TRL and ms-swift, the authors' JSON.

    python -m cxrtrek_lib.export {hub,trl,swift,authors} --cohort training --out FOLDER [--images FOLDER]

cohort  a folder of data/films (training, nih, ...), or "dataset" for the whole dataset
out     a new or empty folder, relative to where you are; it appears when everything is written
images  trl and swift: where the radiographs lie when they are not in the cohort's own folder
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from cxrtrek_lib import chat, hub, paths
from cxrtrek_lib.authors import write_authors_json
from cxrtrek_lib.conversations import BOX, PLACEHOLDER, batches, splits


def to_hub(folder: Path, out: Path) -> None:
    """A folder that `datasets.load_dataset(str(out))` reads: see hub.py."""
    with _whole_folder(out) as temporary:
        hub.write(Path(folder), temporary, Path(out).name)


def to_trl(folder: Path, out: Path, images: Path | None = None) -> None:
    """<split>.jsonl in TRL's conversational vision format: one case per line.

    {"sample_id": ..., "images": [path, ...], "messages": [{"role": ..., "content": [{"type": "image"},
    {"type": "text", "text": ...}]}, ...]}

    Messages are those of chat.py (coordinates to the whole percent); the n-th image part is the n-th path.
    Cast the column before training: `load_dataset("json", ...).cast_column("images", List(Image()))`.
    Source: TRL's documentation, "Dataset formats", vision datasets. Raises ValueError naming a film that is
    not there.
    """
    _write_jsonl(folder, out, images, lambda case, _: {"messages": chat.messages(case.turns)})


def to_swift(folder: Path, out: Path, images: Path | None = None) -> None:
    """<split>.jsonl in ms-swift's standard format: one case per line.

    {"sample_id": ..., "images": [path, ...], "messages": [{"role": ..., "content": ...}, ...],
     "objects": {"ref": [...], "bbox": [[x1, y1, x2, y2], ...], "bbox_type": "norm1", "image_id": [...]}}
    Texts are those of chat.py with "<image>" where a film is shown. In place of names and boxes stand
    <ref-object> and <bbox>, which ms-swift fills from `objects` in the form of the model that is trained;
    boxes are fractions of the image, image_id is 0-based. A case without a box has no `objects`; a case with
    a named one comes first, because readers take the columns from the first lines.
    Source: ms-swift's documentation, "Custom dataset", grounding. Raises ValueError naming a film that is not
    there.
    """
    _write_jsonl(folder, out, images, _swift)


def to_authors(folder: Path, out: Path) -> None:
    """<split>.json in the authors' format: see authors.py."""
    with _whole_folder(out) as temporary:
        for split in splits(folder):
            write_authors_json(batches(folder, split), temporary / f"{split}.json")


NONE = {"ref": []}


def _write_jsonl(folder: Path, out: Path, images: Path | None, render) -> None:
    """One JSONL file per split; `render` gives a case's line without its id and images."""
    images = Path(folder if images is None else images).absolute()
    with _whole_folder(out) as temporary:
        for split in splits(folder):
            named = (
                line for line in _lines(folder, split, images, render) if line.get("objects", NONE)["ref"]
            )
            boxed = next(named, None)
            with (temporary / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                if boxed is not None:
                    file.write(json.dumps(boxed, ensure_ascii=False) + "\n")
                for line in tqdm(_lines(folder, split, images, render), desc=split, unit="case", delay=1):
                    if boxed is None or line["sample_id"] != boxed["sample_id"]:
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _lines(folder: Path, split: str, images: Path, render) -> Iterator[dict]:
    for part in batches(folder, split):
        films = part.qa.select("sample_id", "turn", "image_id").drop_nulls().rows()
        film_of = {(sample_id, turn): number - 1 for sample_id, turn, number in films}
        for case in chat.cases(part.studies, part.qa, images):
            missing = next((film for film in case.images if not film.is_file()), None)
            if missing is not None:
                raise ValueError(
                    f"{missing}: no such film ({case.sample_id}); name the radiographs' folder with --images"
                )
            line = {"sample_id": case.sample_id, **render(case, film_of)}
            yield line | {"images": [str(film) for film in case.images]}


_REF_OR_BOX = re.compile(rf"<\|ref\|>\s*(?P<ref>.*?)\s*<\|/ref\|>|(?:<\|box\|>\s*)?{BOX}(?:\s*<\|/box\|>)?")


def _swift(case: chat.Case, film_of: dict[tuple[str, int], int]) -> dict:
    refs: list[str] = []
    boxes: list[list[float]] = []
    films: list[int] = []

    def tagged(text: str, film: int) -> str:
        def tag(match: re.Match) -> str:
            if match["ref"] is not None:
                refs.append(match["ref"])
                return "<ref-object>"
            boxes.append([round(float(corner) / 100, 6) for corner in match.groups()[1:]])
            films.append(film)
            return "<bbox>"

        return re.sub(r">\s+(?=<bbox>)", ">", _REF_OR_BOX.sub(tag, text))

    messages = []
    for turn, (question, answer) in zip(case.turns, _pairs(chat.messages(case.turns)), strict=True):
        film = film_of.get((case.sample_id, turn.turn), 0)
        for message in (question, answer):
            parts = [
                PLACEHOLDER if part["type"] == "image" else tagged(part["text"], film)
                for part in message["content"]
            ]
            messages.append({"role": message["role"], "content": "".join(parts)})
    if not boxes:
        return {"messages": messages}
    objects = {"ref": refs, "bbox": boxes, "bbox_type": "norm1", "image_id": films}
    return {"messages": messages, "objects": objects}


def _pairs(messages: list[dict]) -> Iterator[tuple[dict, dict]]:
    return zip(messages[::2], messages[1::2], strict=True)


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place when the block ends without an error."""
    out = Path(out).absolute()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out}: exists already; name a new folder, or remove this one")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    except OSError as error:
        raise ValueError(
            f"{out}: cannot write ({error.strerror}); make room or name another folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


FORMS = {"hub": to_hub, "trl": to_trl, "swift": to_swift, "authors": to_authors}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m cxrtrek_lib.export", description=__doc__.splitlines()[0])
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--cohort", default="training", help='a folder of data/films, or "dataset"')
    parser.add_argument("--out", required=True, type=Path, help="a new or empty folder")
    parser.add_argument("--images", type=Path, help="trl, swift: folder of the radiographs")
    asked = parser.parse_args(arguments)
    folder = paths.DATASET if asked.cohort == "dataset" else paths.FILMS / asked.cohort
    try:
        if not (folder / "studies.parquet").is_file():
            there = sorted(file.parent.name for file in paths.FILMS.glob("*/studies.parquet"))
            names = ", ".join([*there, "dataset"])
            raise ValueError(f"--cohort {asked.cohort}: not built; there are {names}; run `dvc repro` first")
        if asked.images is not None and asked.form not in ("trl", "swift"):
            raise ValueError(f"--images: {asked.form} names no films by path; leave it out")
        FORMS[asked.form](folder, asked.out, *([] if asked.images is None else [asked.images]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"export: {error}")
    print(f"{asked.out}: written")


if __name__ == "__main__":
    main()
