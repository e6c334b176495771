"""Question sets that bring their own questions and real films, in their published files, as ordinary cases.

name           files in its folder                                what is asked
vqa_rad        "VQA_RAD Dataset Public.json", the images below    test questions (phrase_type test_*) about
                                                                  images of the chest (Lau et al. 2018)
slake          test.json, imgs/xmlab*/source.jpg                  English test questions about radiographs
                                                                  (Liu et al. 2021)
mimic_cxr_vqa  test.json with answers, MIMIC-CXR-JPG's files/     its test questions (Bae et al. 2023)

A question of which only Yes or No is an answer is close-ended, all others are open: none lists its options.
VQA-RAD does not say whether an image of the chest is a radiograph or CT; colour images and images that are no
film are left out and counted (images.read). A reader of another set is one function here and its line in
`READERS`, in params_schema.VqaFolders and in params.yaml (transfer.folders).
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from tqdm.auto import tqdm

from cxrtrek_lib import images, tables

STAGE = 3  # where these questions stand: after the flow's stages 1 and 2
NO_IMAGE, BAD_IMAGE, NO_ANSWER = "no such image", "image that cannot be used", "no question or answer"
_YES_NO = {"yes": "Yes.", "no": "No."}


class Question(NamedTuple):
    """One row of a file: image is a path below the folder; patient as far as the file knows one."""

    image: str
    patient: str
    question: str
    answer: str


class QuestionSet(NamedTuple):
    """Films that can be read, and the questions about them (tables.STUDIES and QA).

    left_out  image, reason, detail, questions: what is not asked, and how many questions that takes
    """

    studies: pl.DataFrame
    qa: pl.DataFrame
    left_out: pl.DataFrame


def read(name: str, folder: Path) -> QuestionSet:
    """The question set of a folder; every film is read once, and one that cannot be is left out.

    Raises ValueError or FileNotFoundError, one line, for an unknown set, a file that is missing, no JSON or
    of another form (with the row and the key), and when no question is left.
    """
    if name not in READERS:
        raise ValueError(f"unknown question set {name!r}; known: {', '.join(READERS)}")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"transfer.folders.{name}: {folder}: no such folder; correct it, or null")
    asked = list(READERS[name](folder))
    if not asked:
        raise ValueError(
            f"{folder}: no question of {name} is about a chest radiograph; is it another release?"
        )
    films: dict[str, list[Question]] = {}
    for question in asked:
        films.setdefault(question.image, []).append(question)
    kept, left_out = {}, []
    for image, questions in tqdm(films.items(), desc=f"films of {name}", unit="film"):
        whole = [each for each in questions if each.question.strip() and each.answer.strip()]
        if len(whole) < len(questions):
            left_out.append((image, NO_ANSWER, "", len(questions) - len(whole)))
        try:
            images.read(folder / image)
        except FileNotFoundError:
            left_out.append((image, NO_IMAGE, "", len(whole)))
        except ValueError as error:
            left_out.append((image, BAD_IMAGE, str(error).removeprefix(f"{folder / image}: "), len(whole)))
        else:
            if whole:
                kept[image] = whole
    if not kept:
        raise ValueError(
            f"{folder}: none of {len(films)} images of {name} can be used; first: {left_out[0][:2]}"
        )
    shape = {"image": pl.String, "reason": pl.String, "detail": pl.String, "questions": pl.Int64}
    return QuestionSet(*_tables(name, kept), pl.DataFrame(left_out, schema=shape, orient="row"))


def _tables(name: str, films: dict[str, list[Question]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    studies, rows = [], []
    for image, questions in films.items():
        sample_id = f"{name}/{image}"
        studies.append({
            **dict.fromkeys(tables.STUDIES), "sample_id": sample_id, "source": IMAGES_OF.get(name, name),
            "patient_id": questions[0].patient, "study_id": image, "order": 0, "split": "external",
            "views": ["UNKNOWN"], "images": [image], "image_origin": "real",
        })  # fmt: skip
        for turn, each in enumerate(questions):
            closed = _YES_NO.get(each.answer.strip().strip(".").lower())
            rows.append({
                **dict.fromkeys(tables.QA), "sample_id": sample_id, "turn": turn, "stage": STAGE,
                "task_type": "Findings_Identification", "qtype": "yes_no" if closed else "captioning",
                "image_input_count": 1, "question": each.question.strip(),
                "answer": closed or each.answer.strip(), "fact": f"{name}|{turn}", "evidence": name,
            })  # fmt: skip
    return tuple(
        tables.conform(kind, pl.DataFrame(found, schema_overrides=shape))
        for kind, found, shape in (("studies", studies, tables.STUDIES), ("qa", rows, tables.QA))
    )


def _rows(path: Path, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, each with these keys."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the folder must hold it under its published name")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file ({str(error).splitlines()[0]}); take it anew") from None
    if not isinstance(content, list):
        raise ValueError(f"{path}: must be a list of questions, is a {type(content).__name__}")
    for number, row in enumerate(content):
        lacking = [key for key in keys if not isinstance(row, dict) or key not in row]
        if lacking:
            raise ValueError(
                f"{path}: row {number} has no {lacking[0]}; this release is another than the published one"
            )
        yield row


def vqa_rad(folder: Path) -> Iterator[Question]:
    """Test questions of VQA-RAD about the chest. It names no patient: every image counts as its own."""
    path = folder / "VQA_RAD Dataset Public.json"
    places = {file.name: str(file.relative_to(folder)) for file in sorted(folder.rglob("*.jpg"))}
    for row in _rows(path, ("image_name", "image_organ", "phrase_type", "question", "answer")):
        if str(row["image_organ"]).upper() == "CHEST" and str(row["phrase_type"]).startswith("test"):
            name = str(row["image_name"])
            yield Question(
                places.get(name, name), f"vqa_rad/{name}", str(row["question"]), str(row["answer"])
            )


def slake(folder: Path) -> Iterator[Question]:
    """English test questions of SLAKE about radiographs, all of the chest; each image counts as a patient."""
    keys = ("img_name", "question", "answer", "q_lang", "modality")
    for row in _rows(folder / "test.json", keys):
        if row["q_lang"] == "en" and str(row["modality"]).lower().replace("-", "") == "xray":
            name = str(row["img_name"])
            yield Question(f"imgs/{name}", f"slake/{name}", str(row["question"]), str(row["answer"]))


def mimic_cxr_vqa(folder: Path) -> Iterator[Question]:
    """Test questions of MIMIC-CXR-VQA. An answer is a list of names, empty for none."""
    for row in _rows(folder / "test.json", ("image_path", "subject_id", "question", "answer")):
        answer = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        image = str(row["image_path"])
        place = image if image.startswith("files/") else f"files/{image}"
        said = ", ".join(map(str, answer)) or "none"
        yield Question(place, f"mimic/p{row['subject_id']}", str(row["question"]), said)


READERS: dict[str, Callable[[Path], Iterator[Question]]] = {
    "vqa_rad": vqa_rad, "slake": slake, "mimic_cxr_vqa": mimic_cxr_vqa,
}  # fmt: skip
# Whose films they are, where that is another source: SLAKE took its radiographs from NIH ChestX-ray14.
IMAGES_OF = {"slake": "nih", "mimic_cxr_vqa": "mimic"}
