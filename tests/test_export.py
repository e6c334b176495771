"""Exports: read back by the libraries they are for, equal to the tables and to what chat.py renders."""

import json
import re
import tracemalloc

import datasets
import numpy as np
import polars as pl
import pytest
import yaml
from conversations_by_hand import own_cases
from PIL import Image

from cxrtrek_lib import chat, conversations, export, hub, paths, schema, tables
from tests import tiny

datasets.disable_progress_bars()


def cohort(folder, *, origin="simulated"):
    """A cohort on disk: three studies of one patient (train), two of another that have no box (test)."""
    studies, qa, _ = own_cases()
    q = ["made/q/1", "made/q/2"]
    more = studies[:2].with_columns(
        pl.Series("sample_id", q),
        split=pl.lit("test"), patient_id=pl.lit("made/q"), prior_study_id=pl.Series([None, q[0]]),
        next_study_id=pl.Series([q[1], None]), images=pl.Series([["4.png"], ["5.png", "5l.png"]]),
    )  # fmt: skip
    asked = qa.filter(pl.col("sample_id") == "made/p/2").with_columns(sample_id=pl.lit(q[1]))
    studies = pl.concat([studies, more]).with_columns(image_origin=pl.lit(origin))
    tables.write_table("studies", studies, folder / "studies.parquet")
    tables.write_table("qa", pl.concat([qa, asked]), folder / "qa.parquet")
    for n, name in enumerate(studies["images"].explode().unique().sort()):
        Image.fromarray(np.full((8, 8), 20 * n, dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def made(tmp_path):
    (tmp_path / "cohort").mkdir()
    return cohort(tmp_path / "cohort")


def qa_of(folder, split):
    ids = tables.read_table("studies", folder / "studies.parquet").filter(pl.col("split") == split)
    return tables.read_table("qa", folder / "qa.parquet").join(ids, on="sample_id", how="semi")


def load(out, tmp_path, *config):
    return datasets.load_dataset(str(out), *config, cache_dir=str(tmp_path / "cache"))


# Hugging Face datasets


def test_hub_gives_the_rows_of_the_tables(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export.to_hub(made, tmp_path / "out")
    loaded = load(tmp_path / "out", tmp_path)
    assert list(loaded) == ["train", "test"]
    for split, rows in loaded.items():
        assert rows.to_list() == qa_of(made, split).to_dicts()
        assert rows.features["bbox_list"] == datasets.List(datasets.List(datasets.Value("float64")))
        assert rows.features["stage"] == datasets.Value("int8")
    assert set(loaded["test"]["bbox_list"]) == {None}  # all null, and typed all the same


def test_hub_holds_studies_and_simulated_films(made, tmp_path):
    export.to_hub(made, tmp_path / "out")
    loaded = load(tmp_path / "out", tmp_path, "studies")
    studies = tables.read_table("studies", made / "studies.parquet")
    for split, rows in loaded.items():
        assert rows.remove_columns("films").to_list() == studies.filter(pl.col("split") == split).to_dicts()
        for row in rows:
            for film, name in zip(row["films"], row["images"], strict=True):
                assert np.array_equal(np.asarray(film), np.asarray(Image.open(made / name)))


def test_hub_never_holds_radiographs_of_a_source(tmp_path):
    (tmp_path / "cohort").mkdir()
    export.to_hub(cohort(tmp_path / "cohort", origin="real"), tmp_path / "out")
    assert set(load(tmp_path / "out", tmp_path, "studies")["train"]["films"]) == {None}


def test_hub_in_several_shards(made, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "SHARD", 2)
    monkeypatch.setattr(hub, "batches", lambda folder, split: conversations.batches(folder, split, size=1))
    export.to_hub(made, tmp_path / "out")
    files = sorted(file.name for file in (tmp_path / "out" / "questions").iterdir())
    assert files == ["test-00000.parquet", "train-00000.parquet", "train-00001.parquet"]
    assert load(tmp_path / "out", tmp_path)["train"].to_list() == qa_of(made, "train").to_dicts()


def test_the_card_says_what_is_inside(made, tmp_path):
    export.to_hub(made, tmp_path / "made cohort")
    text = (tmp_path / "made cohort" / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    questions, studies = header["dataset_info"]
    assert {s["name"]: s["num_examples"] for s in questions["splits"]} == {"train": 4, "test": 2}
    assert {s["name"]: s["num_examples"] for s in studies["splits"]} == {"train": 3, "test": 2}
    assert {"name": "bbox_list", "list": {"list": "float64"}} in questions["features"]
    assert "| train | 3 | 1 | 4 | 2.00 |" in text and "| test | 2 | 1 | 2 | 2.00 |" in text
    assert "| 3 Attributes and location | 0 | 0 | 0 | 1 | 1 |" in text
    assert "| made | 5 | ask the source |" in text and "simulated from the chest CT" in text


def test_every_source_has_its_terms():
    names = {file.stem for file in (paths.ROOT / "cxrtrek_lib" / "sources").glob("*.py")}
    assert set(hub.TERMS) <= names  # each names a source that there is
    packaged = {"chexpert", "padchest", "nih", "vindr", "openi", "rsna", "siim"}
    assert packaged | {"mimic", "chexpert_plus"} == set(hub.TERMS)


# Chat messages


def lines(out, split):
    return [json.loads(line) for line in (out / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def rendered(folder, split):
    """The cases of a split as chat.py gives them."""
    studies, qa, _ = next(conversations.batches(folder, split))
    return {case.sample_id: case for case in chat.cases(studies, qa, folder)}


@pytest.mark.parametrize("form", ["trl", "swift"])
def test_films_are_named_in_the_order_in_which_they_are_shown(made, tmp_path, form):
    export.FORMS[form](made, tmp_path / "out")
    for split in ("train", "test"):
        assert len(lines(tmp_path / "out", split)) == len(rendered(made, split))
        for line in lines(tmp_path / "out", split):
            films = [str(film) for film in rendered(made, split)[line["sample_id"]].images]
            assert line["images"] == films and films[0].startswith("/")
    second = next(each for each in lines(tmp_path / "out", "train") if each["sample_id"] == "made/p/2")
    assert [film.rpartition("/")[2] for film in second["images"]] == ["2.png", "2l.png", "1.png"]


def test_trl_messages_are_those_of_chat(made, tmp_path):
    export.to_trl(made, tmp_path / "out")
    _, processor, renderer, _ = tiny.checkpoint()
    for split in ("train", "test"):
        for line in lines(tmp_path / "out", split):
            case = rendered(made, split)[line["sample_id"]]
            assert line["messages"] == chat.messages(case.turns)
            # What a trainer does with them gives the conversation that our own training sees.
            text = processor.apply_chat_template(line["messages"], tokenize=False)
            image = renderer.image_token
            film = chat.Film(image * 3, {})  # a film of three image tokens
            ids = processor.tokenizer(text.replace(image, film.text), add_special_tokens=False)["input_ids"]
            assert ids == renderer.conversation(case, case.turns, dict.fromkeys(case.images, film)).ids
            assert text.count(image) == len(line["images"])


def test_trl_lines_load_and_fit_its_rules(made, tmp_path):
    """TRL: every content is a list of typed parts, and there are as many image parts as images."""
    export.to_trl(made, tmp_path / "out")
    files = {split: str(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "test")}
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    loaded = loaded.cast_column("images", datasets.List(datasets.Image()))
    for row in (row for split in loaded.values() for row in split):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        parts = [part for message in row["messages"] for part in message["content"]]
        assert {part["type"] for part in parts} == {"image", "text"}
        assert sum(part["type"] == "image" for part in parts) == len(row["images"])
        assert all(part["text"] for part in parts if part["type"] == "text")
        assert row["images"][0].size == (8, 8)


def filled(line) -> list[str]:
    """The texts of an ms-swift line with names and boxes back in our format, an independent way round."""
    names, boxes = iter(line["objects"]["ref"]), iter(line["objects"]["bbox"])
    texts = []
    for message in line["messages"]:
        text = re.sub("<ref-object>", lambda _: f"<|ref|> {next(names)} <|/ref|>", message["content"])
        text = re.sub("(?<=>)<bbox>", " <bbox>", text)
        texts.append(
            re.sub("<bbox>", lambda _: "<|box|>({:.2f}, {:.2f}), ({:.2f}, {:.2f})<|/box|>".format(
                *(100 * corner for corner in next(boxes))
            ), text)
        )  # fmt: skip
    assert next(names, None) is None and next(boxes, None) is None
    return texts


def test_swift_texts_are_those_of_chat(made, tmp_path):
    export.to_swift(made, tmp_path / "out")
    first, second = lines(tmp_path / "out", "train")
    assert first["sample_id"] == "made/p/3"  # the case with a box comes first
    assert first["messages"][3]["content"] == "<ref-object><bbox>"
    assert first["objects"] == {
        "ref": ["heart"], "bbox": [[0.12, 0.41, 0.45, 0.88]], "bbox_type": "norm1", "image_id": [0],
    }  # fmt: skip
    case = rendered(made, "train")["made/p/3"]
    texts = [text for turn in case.turns for text in (turn.question, turn.answer)]
    assert filled(first) == ["<image>" + texts[0], *texts[1:]]
    assert "objects" not in second
    assert [message["content"] for message in second["messages"]] == [
        "<image><image>View?", "PA.", "<image>New?", "PA.",
    ]  # fmt: skip


def test_swift_boxes_of_several_films_and_in_questions(made, tmp_path):
    two = conversations.format_boxes("left lung", [[1, 2, 3, 4], [5, 6, 7, 8]])
    asked = "<image><image>\nWhat is at (10.00, 20.00), (30.00, 40.00)?"
    first, second = ((pl.col("sample_id") == "made/p/2") & (pl.col("turn") == turn) for turn in (0, 1))
    qa = tables.read_table("qa", made / "qa.parquet").with_columns(
        answer=pl.when(second).then(pl.lit(two)).otherwise("answer"),
        question=pl.when(first).then(pl.lit(asked)).otherwise("question"),
        image_id=pl.when(second).then(3).otherwise("image_id"),
    )
    tables.write_table("qa", qa, made / "qa.parquet")
    export.to_swift(made, tmp_path / "out")
    line = lines(tmp_path / "out", "train")[0]
    contents = [message["content"] for message in line["messages"]]
    assert contents[0] == "<image><image>What is at <bbox>?" and contents[3] == "<ref-object><bbox><bbox>"
    assert line["objects"]["bbox"] == [
        [0.1, 0.2, 0.3, 0.4],
        [0.01, 0.02, 0.03, 0.04],
        [0.05, 0.06, 0.07, 0.08],
    ]
    assert line["objects"]["image_id"] == [0, 2, 2] and line["objects"]["ref"] == ["left lung"]


def test_swift_lines_load_though_only_a_late_case_has_a_box(tmp_path):
    """A reader takes the columns from its first block of lines: the late boxes would not fit."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    studies, qa, _ = own_cases()
    plain, boxed = qa[:2], qa[2:]
    many = [plain.with_columns(sample_id=pl.lit(f"made/n/{i}")) for i in range(50)]
    rows = [
        studies[1:2].with_columns(
            sample_id=pl.lit(f"made/n/{i}"), next_study_id=pl.lit(None, dtype=pl.String)
        )
        for i in range(50)
    ]
    tables.write_table("studies", pl.concat([*rows, studies]), folder / "studies.parquet")
    tables.write_table("qa", pl.concat([*many, boxed]), folder / "qa.parquet")
    for name in ("1.png", "2.png", "2l.png", "3.png"):
        Image.new("L", (4, 4)).save(folder / name)
    export.to_swift(folder, tmp_path / "out")
    file = str(tmp_path / "out" / "train.jsonl")
    loaded = datasets.load_dataset(
        "json", data_files=file, split="train", cache_dir=str(tmp_path / "cache"), chunksize=2000
    )
    assert len(loaded) == 51 and loaded[0]["sample_id"] == "made/p/3"
    assert loaded[0]["objects"]["ref"] == ["heart"] and loaded[50]["objects"] is None


def test_a_missing_film_is_named(made, tmp_path):
    (made / "2l.png").unlink()
    for form in ("trl", "swift", "hub"):
        with pytest.raises(ValueError, match="2l.png: no such film"):
            export.FORMS[form](made, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["cohort"]  # nothing half written


def test_films_may_lie_elsewhere(made, tmp_path):
    films = tmp_path / "elsewhere"
    films.mkdir()
    for film in made.glob("*.png"):
        film.rename(films / film.name)
    export.to_trl(made, tmp_path / "out", films)
    assert lines(tmp_path / "out", "test")[0]["images"][0] == str(films / "5.png")


# The authors' JSON


def test_authors_files_hold_the_questions(made, tmp_path):
    export.to_authors(made, tmp_path / "out")
    for split in ("train", "test"):
        cases = schema.read_authors_json(tmp_path / "out" / f"{split}.json")
        assert cases.qa.drop("extra").equals(qa_of(made, split))
        assert schema.validate(cases).ok


# Batches


def test_a_study_that_two_row_groups_share_stays_whole(made):
    qa = tables.read_table("qa", made / "qa.parquet")
    tables.write_chunks("qa", [qa[:1], qa[:0], qa[1:3], qa[3:]], made / "qa.parquet")
    parts = list(conversations.batches(made))
    assert pl.concat([part.qa for part in parts]).equals(qa)
    asked = [set(part.qa["sample_id"]) for part in parts]
    assert all(ids == set(part.studies["sample_id"]) for ids, part in zip(asked, parts, strict=True))
    assert sum(len(ids) for ids in asked) == 3
    assert schema.validate(conversations.batches(made)).ok


def test_torn_questions_are_named(made):
    qa = tables.read_table("qa", made / "qa.parquet")
    tables.write_chunks("qa", [qa[:1], qa[2:4], qa[1:2]], made / "qa.parquet")
    with pytest.raises(ValueError, match="do not stand together"):
        list(conversations.batches(made))


def test_a_chunk_is_read_when_it_is_asked_for(made, monkeypatch):
    qa = tables.read_table("qa", made / "qa.parquet")
    read = []

    def counted(*_):
        for piece in (qa[:4], qa[4:5], qa[5:]):
            read.append(piece.height)
            yield piece

    monkeypatch.setattr(tables, "read_chunks", counted)
    parts = conversations.batches(made)
    next(parts)
    assert len(read) == 2  # its own, and whether that is the last
    next(parts)
    assert len(read) == 3


def test_memory_does_not_grow_with_the_cohort(tmp_path):
    """Four times the questions (the table of studies is the same)."""
    studies, qa, _ = own_cases()
    n = 2000
    ids = pl.DataFrame({"new": [f"made/n/{i}" for i in range(n)]})
    rows = studies[2:].join(ids, how="cross").with_columns(
        sample_id="new", prior_study_id=pl.lit(None, dtype=pl.String), image_origin=pl.lit("none")
    ).drop("new")  # fmt: skip
    asked = qa[2:].join(ids, how="cross").with_columns(sample_id="new").drop("new").sort("sample_id", "turn")
    peaks = []
    for share in (4, 1):
        folder = tmp_path / str(share)
        tables.write_table("studies", rows, folder / "studies.parquet")
        pieces = (asked[start : start + 250] for start in range(0, asked.height // share, 250))
        tables.write_chunks("qa", pieces, folder / "qa.parquet")
        tracemalloc.start()
        export.to_authors(folder, tmp_path / f"out{share}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(json.loads((tmp_path / "out1" / "train.json").read_text())) == n
    assert peaks[1] - peaks[0] < 400 * n * 3 / 4  # bytes per case more: its id, not its text


# The command


def run(monkeypatch, made, *arguments):
    monkeypatch.setattr(paths, "FILMS", made.parent)
    monkeypatch.setattr(paths, "DATASET", made.parent / "nowhere")
    export.main(list(arguments))


def test_the_command_writes_where_the_user_is(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, made, "trl", "--cohort", "cohort", "--out", "mine/out")
    assert "mine/out: written" in capsys.readouterr().out
    assert lines(tmp_path / "mine" / "out", "test")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ("hub", "--cohort", "chort", "--out", "out"),
            "--cohort chort: not built; there are cohort, dataset",
        ),
        (("hub", "--cohort", "dataset", "--out", "out"), "not built"),
        (("hub", "--cohort", "cohort", "--out", "cohort"), "exists already"),
        (("hub", "--cohort", "cohort", "--out", "out", "--images", "x"), "leave it out"),
        (("trl", "--cohort", "cohort", "--out", "out", "--images", "x"), "no such film"),
    ],
)
def test_a_wrong_command_says_why_in_one_line(made, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, made, *arguments)
    assert part in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_form_is_refused(capsys):
    with pytest.raises(SystemExit):
        export.main(["csv", "--out", "x"])
    assert "invalid choice: 'csv'" in capsys.readouterr().err


def test_an_empty_folder_is_filled(made, tmp_path):
    (tmp_path / "out").mkdir()
    export.to_authors(made, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["test.json", "train.json"]
