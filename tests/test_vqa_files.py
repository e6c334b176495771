"""vqa_files.py: tiny files in the published form of each question set, with films on disk."""

import json

import numpy as np
import pytest
from PIL import Image

from cxrtrek_lib import tables, vqa_files


def film(path, colour=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    picture = np.stack([grey, grey[::-1], grey.T], axis=-1) if colour else grey
    Image.fromarray(picture).save(path, quality=95)


def rad(name, **rest):
    row = {
        "qid": 1, "phrase_type": "test_freeform", "image_name": name, "image_organ": "CHEST",
        "question": "Is there a pneumothorax?", "answer": "No", "answer_type": "CLOSED",
    }  # fmt: skip
    return row | rest


@pytest.fixture
def vqa_rad(tmp_path):
    film(tmp_path / "VQA_RAD Image Folder" / "synpic1.jpg")
    film(tmp_path / "VQA_RAD Image Folder" / "synpic2.jpg", colour=True)
    (tmp_path / "VQA_RAD Image Folder" / "synpic3.jpg").write_bytes(b"cut off")
    rows = [
        rad("synpic1.jpg"),
        rad("synpic1.jpg", question="Where is the lesion?", answer="Right upper lobe", answer_type="OPEN",
            phrase_type="test_para"),
        rad("synpic1.jpg", answer=" "),
        rad("synpic1.jpg", phrase_type="freeform"),  # of the training questions
        rad("synpic9.jpg", image_organ="HEAD"),
        rad("synpic2.jpg"), rad("synpic3.jpg"), rad("synpic4.jpg"), rad("synpic4.jpg"),
    ]  # fmt: skip
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    return tmp_path


def test_vqa_rad_test_questions_about_the_chest(vqa_rad):
    found = vqa_files.read("vqa_rad", vqa_rad)
    assert found.qa.select("qtype", "answer").rows() == [
        ("yes_no", "No."),
        ("captioning", "Right upper lobe"),
    ]
    (study,) = found.studies.to_dicts()
    assert (vqa_rad / study["images"][0]).is_file() and study["image_origin"] == "real"
    assert study["split"] == "external" and study["patient_id"] == "vqa_rad/synpic1.jpg"
    assert found.studies.schema == tables.STUDIES and found.qa.schema == tables.QA


def test_what_cannot_be_asked_is_listed_with_the_number_of_questions(vqa_rad):
    left = {row[0].split("/")[-1]: row[1:] for row in vqa_files.read("vqa_rad", vqa_rad).left_out.rows()}
    assert left["synpic1.jpg"][0] == vqa_files.NO_ANSWER
    assert left["synpic2.jpg"][0] == vqa_files.BAD_IMAGE and "colour" in left["synpic2.jpg"][1]
    assert left["synpic3.jpg"][0] == vqa_files.BAD_IMAGE
    assert left["synpic4.jpg"] == (vqa_files.NO_IMAGE, "", 2)


def test_slake_takes_english_questions_about_radiographs(tmp_path):
    film(tmp_path / "imgs" / "xmlab1" / "source.jpg")
    row = {
        "img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Is the lung healthy?", "answer": "No",
        "q_lang": "en", "location": "Lung", "modality": "X-Ray", "answer_type": "CLOSED", "qid": 1,
    }  # fmt: skip
    rows = [row, row | {"q_lang": "zh"}, row | {"modality": "CT"}]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    found = vqa_files.read("slake", tmp_path)
    assert found.qa["question"].to_list() == ["Is the lung healthy?"]
    assert found.studies["source"].to_list() == ["nih"], (
        "its radiographs are NIH's: the leakage guard must know"
    )


def test_mimic_cxr_vqa_answers_are_lists(tmp_path):
    film(tmp_path / "files" / "p10" / "p10000032" / "s1" / "a.jpg")
    row = {"split": "test", "idx": 0, "subject_id": "10000032", "study_id": "1", "image_id": "a",
           "image_path": "p10/p10000032/s1/a.jpg", "semantic_type": "verify",
           "question": "Is there any edema?", "answer": ["yes"]}  # fmt: skip
    query = row | {"question": "Which findings are there?", "semantic_type": "query"}
    rows = [row, query | {"answer": ["edema", "atelectasis"]}, query | {"answer": []}]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    found = vqa_files.read("mimic_cxr_vqa", tmp_path)
    assert found.qa["answer"].to_list() == ["Yes.", "edema, atelectasis", "none"]
    assert found.studies["patient_id"].to_list() == ["mimic/p10000032"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "not a JSON file"),
        ("{}", "must be a list"),
        ('[{"question": "?"}]', "row 0 has no img_name"),
        ("[]", "no question of slake"),
    ],
)
def test_another_file_is_one_line(tmp_path, content, said):
    if content is not None:
        (tmp_path / "test.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        vqa_files.read("slake", tmp_path)
    assert "\n" not in str(error.value)


def test_no_folder_no_set_and_no_film_are_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"transfer.folders.slake: .*no such folder"):
        vqa_files.read("slake", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="unknown question set 'pathvqa'; known: vqa_rad, slake"):
        vqa_files.read("pathvqa", tmp_path)
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps([rad("x.jpg")]))
    with pytest.raises(ValueError, match="none of 1 images of vqa_rad can be used"):
        vqa_files.read("vqa_rad", tmp_path)
