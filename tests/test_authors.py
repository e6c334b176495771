"""The authors' JSON: everything comes back as it was, in little memory, and bad files are named."""

import copy
import json
import tracemalloc
from pathlib import Path

import polars as pl
import pytest
from conversations_by_hand import SAMPLES, own_cases, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrtrek_lib import authors, schema, tables


def canonical(path: Path) -> str:
    return json.dumps(json.loads(path.read_text(encoding="utf-8")), sort_keys=True)


def write_list(samples, path: Path) -> None:
    path.write_text(json.dumps(samples), encoding="utf-8")


def write_lines(samples, path: Path) -> None:
    path.write_text("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), "utf-8")


@pytest.mark.parametrize("write", [write_list, write_lines])
def test_the_hand_written_file_comes_back(tmp_path, write):
    write(samples(), tmp_path / "in.json")
    schema.write_authors_json(schema.read_authors_json(tmp_path / "in.json"), tmp_path / "out.json")
    assert canonical(tmp_path / "out.json") == json.dumps(samples(), sort_keys=True)


def test_the_columns_say_what_the_file_says():
    studies, qa, file = schema.read_authors_json(SAMPLES)
    assert file == str(SAMPLES)
    tables.conform("studies", studies.drop("extra"))
    tables.conform("qa", qa.drop("extra"))
    assert studies.select("sample_id", "patient_id", "prior_study_id", "next_study_id").rows() == [
        ("invented/s50002", "invented/p100", "invented/s50001", None),
        ("invented/60001", "invented/200", None, "invented/60002"),
        ("made up/p/3/study1", "made up/p/3", None, None),
    ]
    assert studies["study_id"].to_list() == ["s50002", "60001", "study1"]
    assert studies["views"].list.len().to_list() == [2, 1, 1]  # the third image of the first is the reference
    assert studies["images"].list.len().to_list() == [3, 1, 1]
    contents = [sample["data_dict"]["cxrtrek_data"]["content"] for sample in samples()]
    assert qa["turn"].to_list() == [n for content in contents for n in range(len(content))]
    for column in set(tables.QA) - {"sample_id", "turn", "fact", "evidence"}:
        assert qa[column].to_list() == [entry.get(column) for content in contents for entry in content]
    assert set(qa["evidence"]) == {"authors"} and qa["fact"][3] == "stage 3|pleural effusion"


def test_own_images_without_a_study_in_their_path(tmp_path):
    """Those shown before the first question of stage 5, at most all but one."""
    sample = samples()[0]
    images = ["a.png", "b.png", "c.png"]
    sample |= {"image": images}
    sample["data_dict"]["cxrtrek_data"]["image"] = images
    write_list([sample], tmp_path / "a.json")
    assert schema.read_authors_json(tmp_path / "a.json").studies["views"].list.len().to_list() == [2]


# Any sample of the format.

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.integers(-(10**12), 10**12) | st.floats(-1e12, 1e12)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
identifier = text | st.integers() | st.floats(-1e12, 1e12)
small = st.integers(-5, 40)


def unknown(*known: str):
    return st.dictionaries(text.filter(lambda key: key not in known), json_value, max_size=2)


ENTRY = {
    "stage": small, "task_type": text, "qtype": text, "image_input_count": small, "question": text,
    "answer": text,
}  # fmt: skip
OPTIONAL = {
    "option_list": st.lists(text, max_size=3), "answer_list": st.lists(text, max_size=2),
    "bbox_list": st.lists(st.lists(number, max_size=5), max_size=2), "image_id": small,
    "num_of_images": small, "target": text, "is_joint_sent": st.booleans(), "fact": text,
    "evidence": text | st.just("authors"),
    "polish": json_value, "link_tag": json_value, "qwen_accepted": json_value,
}  # fmt: skip


@st.composite
def sample_of_the_format(draw) -> dict:
    optional = {key: st.none() | value for key, value in OPTIONAL.items()}
    entry = st.fixed_dictionaries(ENTRY, optional=optional)
    content = [draw(entry) | draw(unknown(*ENTRY, *OPTIONAL)) for _ in range(draw(st.integers(0, 3)))]
    message = draw(unknown("role", "content"))
    system = draw(
        st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": text | st.none()}), max_size=2)
    )
    said = [
        {"role": role, "content": entry[key], **message}
        for entry in content
        for role, key in (("user", "question"), ("assistant", "answer"))
    ]
    data = {
        "source": draw(text), "pat_id": draw(identifier), "study_id": draw(identifier),
        "ref_study_id": draw(st.none() | identifier), "pos_study_id": draw(st.none() | identifier),
        "image": draw(st.lists(text, max_size=3)), "content": content,
    }  # fmt: skip
    data |= draw(unknown(*data))
    data_dict = {"cxrtrek_data": data} | draw(unknown("cxrtrek_data"))
    image = draw(st.just(data["image"]) | st.lists(text, max_size=2))
    sample = {"messages": [*system, *said], "image": image, "data_dict": data_dict}
    return sample | draw(unknown(*sample))


@settings(max_examples=150)
@given(st.lists(sample_of_the_format(), max_size=3), st.sampled_from([write_list, write_lines]))
def test_any_file_comes_back(tmp_path_factory, written, write):
    folder = tmp_path_factory.mktemp("any")
    write(written, folder / "in.json") if written else write_list(written, folder / "in.json")
    cases = schema.read_authors_json(folder / "in.json")
    schema.write_authors_json(cases, folder / "out.json")
    assert canonical(folder / "out.json") == json.dumps(written, sort_keys=True)
    tables.conform("qa", cases.qa.drop("extra"))
    assert cases.studies["sample_id"].is_unique().all()  # also where a study is listed twice


def test_an_edited_column_wins_over_the_form_of_the_file(tmp_path):
    studies, qa, file = schema.read_authors_json(SAMPLES)
    studies = studies.with_columns(pl.col("patient_id").str.replace("200", "anonymous"))
    qa = qa.with_columns(
        bbox_list=pl.when(pl.col("target") == "pleural effusion")
        .then([[1.0, 2.0, 3.0, 4.0]])
        .otherwise("bbox_list"),
        target=pl.col("target").fill_null("other_abnormalities"),
    ).filter(pl.col("sample_id") != "made up/p/3/study1")
    schema.write_authors_json(schema.Cases(studies, qa, file), tmp_path / "a.json")
    first, second, third = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert second["data_dict"]["cxrtrek_data"]["pat_id"] == "anonymous"
    assert second["data_dict"]["cxrtrek_data"]["study_id"] == 60001
    assert first["data_dict"]["cxrtrek_data"]["content"][3]["bbox_list"] == [[1.0, 2.0, 3.0, 4.0]]
    assert second["data_dict"]["cxrtrek_data"]["content"][0]["target"] == "other_abnormalities"
    assert [message["role"] for message in third["messages"]] == ["system"]  # its questions were taken away


def test_our_own_tables_as_samples(tmp_path):
    cases = own_cases()
    schema.write_authors_json(cases, tmp_path / "a.json")
    second, third = json.loads((tmp_path / "a.json").read_text())  # the first study has no question
    data = second["data_dict"]["cxrtrek_data"]
    assert (
        second["image"] == data["image"] == ["2.png", "2l.png", "1.png"]
    )  # the prior's first image is the last
    assert [data[key] for key in ("source", "pat_id", "study_id", "ref_study_id", "pos_study_id")] == [
        "made", "p", "p/2", "p/1", "p/3",
    ]  # fmt: skip
    assert data["content"][1] == {
        "stage": 5, "task_type": "Differences_Comparison", "qtype": "captioning", "image_input_count": 3,
        "question": "<image>\nNew?", "answer": "PA.", "is_joint_sent": False, "fact": "composite|changes",
        "evidence": "made: view",
    }  # fmt: skip
    # Nothing compares the third with its prior study: no reference, and only its own image.
    assert third["image"] == ["3.png"] and third["data_dict"]["cxrtrek_data"]["ref_study_id"] == ""
    back = schema.read_authors_json(tmp_path / "a.json")
    assert back.qa.drop("extra").equals(cases.qa)
    assert schema.validate(back).ok
    schema.write_authors_json(back, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_reference_that_nobody_holds_is_named(tmp_path):
    studies, qa, file = own_cases()
    with pytest.raises(ValueError) as error:
        schema.write_authors_json(schema.Cases(studies[1:], qa, file), tmp_path / "a.json")
    assert "made/p/2 is compared with made/p/1" in one_line(error)
    with pytest.raises(ValueError) as error:
        schema.write_authors_json(schema.Cases(studies[:2], qa, file), tmp_path / "a.json")
    assert "made/p/3 has questions but is not in studies" in one_line(error)
    assert list(tmp_path.iterdir()) == []  # nothing half written


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def many(n: int, path: Path) -> None:
    """A file of n samples, each under a study id of its own."""
    with path.open("w") as file:
        for i in range(n):
            sample = samples()[i % 3]
            sample["data_dict"]["cxrtrek_data"]["study_id"] = f"study{i}"
            file.write(json.dumps(sample) + "\n")


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for n in (150, 900):
        many(n, tmp_path / f"{n}.jsonl")
        parts = authors.read_batches(tmp_path / f"{n}.jsonl", size=50)
        tracemalloc.start()
        schema.write_authors_json(parts, tmp_path / "out.json")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(json.loads((tmp_path / "out.json").read_text())) == n
    assert peaks[1] < 1.3 * peaks[0]


def test_reading_and_writing_go_hand_in_hand(tmp_path):
    """A part is asked for only when the one before it is written."""
    many(600, tmp_path / "in.jsonl")
    seen = []

    def parts():
        for part in authors.read_batches(tmp_path / "in.jsonl", size=200):
            seen.append(sum(file.stat().st_size for file in tmp_path.glob(".out.json*")))
            yield part

    schema.write_authors_json(parts(), tmp_path / "out.json")
    assert len(seen) == 3 and seen[0] <= 1 and 200_000 < seen[1] < seen[2]


def entry(sample: dict, n: int) -> dict:
    return sample["data_dict"]["cxrtrek_data"]["content"][n]


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda s: s["messages"][1].update(content="other"), ["content 0", "`messages` differ"]),
        (lambda s: s["messages"].pop(), ["content 8", "`messages` differ"]),
        (lambda s: s["messages"][1].update(role="assistant"), ["content 0", "`messages` differ"]),
        (lambda s: s["messages"][1].update(role="human"), ["messages.1.role"]),
        (lambda s: s["data_dict"]["cxrtrek_data"].pop("pat_id"), ["cxrtrek_data.pat_id", "required"]),
        (lambda s: entry(s, 1).pop("qtype"), ["content.1.qtype", "required"]),
        (lambda s: entry(s, 1).update(stage="3"), ["content.1.stage", "valid integer"]),
        (lambda s: entry(s, 1).update(stage=True), ["content.1.stage", "valid integer"]),
        (lambda s: entry(s, 1).update(image_input_count=70_000), ["content.1.image_input_count"]),
        (lambda s: entry(s, 3).update(bbox_list=[["1"]]), ["content.3.bbox_list.0.0", "valid number"]),
        (lambda s: entry(s, 2).update(target=["a"]), ["content.2.target", "valid string"]),
        (lambda s: s.pop("data_dict"), ["data_dict", "required"]),
        (lambda s: s.update(image="a.png"), ["image", "valid list"]),
    ],
)  # fmt: skip
def test_a_bad_sample_is_named(tmp_path, spoil, parts):
    good, bad = samples()[2], copy.deepcopy(samples()[0])
    spoil(bad)
    write_list([good, bad], tmp_path / "a.json")
    with pytest.raises(ValueError) as error:
        schema.read_authors_json(tmp_path / "a.json")
    assert all(part in one_line(error) for part in ["a.json, sample 1", *parts])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[{", "not valid JSON"), (b'[{"messages": NaN}]', "not valid JSON"), (b"[] []", "not valid JSON"),
        (b"", "expected a list"), (b'"text"', "expected a list"), (b"[1]", "sample 0: the sample"),
        (b'{"data": []}', "sample 0: messages"), (b"[\xff]", "not valid JSON"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path, content, part):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        schema.read_authors_json(path)
    assert str(path) in one_line(error) and part in one_line(error)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        schema.read_authors_json(tmp_path / "a.json")
    assert "a.json: no such file" in one_line(error)


def test_an_empty_list_is_a_file(tmp_path):
    write_list([], tmp_path / "a.json")
    cases = schema.read_authors_json(tmp_path / "a.json")
    assert cases.studies.is_empty() and cases.qa.is_empty()
    schema.write_authors_json(cases, tmp_path / "b.json")
    assert canonical(tmp_path / "b.json") == "[]"
