"""The flow of all stages: every builder's rows are its own stage's, complete, and told in stage order."""

from functools import cache

import polars as pl
import pytest
import yaml
from real_tables import sample

from cxrtrek_lib import build, conversations, paths
from cxrtrek_lib.stages import BUILDERS, question_rows, wording

# Columns of a question row that always say something.
FULL = ("i", "stage", "rank", "bits", "task_type", "qtype", "question", "answer", "fact", "evidence")


@cache
def evidence():
    return build.gather(*sample()[:3], 0)


def test_every_stage_has_a_builder_and_a_template():
    assert list(BUILDERS) == list(conversations.STAGES) == list(wording.QUESTIONS)
    files = {int(path.stem.removeprefix("stage")): path for path in paths.TEMPLATES.glob("stage*.yaml")}
    assert {stage: yaml.safe_load(path.read_text())["stage"] for stage, path in files.items()} == {
        stage: stage for stage in BUILDERS
    }


@pytest.mark.parametrize("stage", BUILDERS)
def test_rows_of_a_stage(stage):
    templates = wording.load()[stage]
    frames = BUILDERS[stage](evidence(), templates)
    rows = pl.concat(frames)
    assert rows.height and rows.schema == pl.Schema(question_rows.ROW)
    assert set(rows["stage"]) == {stage} and set(rows["task_type"]) <= set(conversations.TASK_TYPES[stage])
    for column in FULL:
        assert rows[column].null_count() == 0, column
    texts = rows.select(pl.col("question", "answer", "fact", "evidence"))
    assert not texts.select(pl.any_horizontal(pl.all() == "")).to_series().any()
    assert not texts.select(pl.any_horizontal(pl.all().str.contains(r"[{}]"))).to_series().any()
    formats = rows["qtype"].replace_strict(conversations.FORMATS)
    choice = rows.filter(formats == "choice")
    assert choice["option_list"].null_count() == choice["answer_list"].null_count() == 0
    assert (rows.filter(formats != "choice")["option_list"].is_null()).all()
    # No question twice to one study: neither the same draw nor the same words and answer.
    assert not rows.select("i", "bits").is_duplicated().any()
    assert not rows.select("i", "question", "answer").is_duplicated().any()


def test_conversations_go_through_the_stages_in_order():
    qa = build.questions(*sample()[:3], 0)
    assert qa.select((pl.col("stage").diff().over("sample_id") >= 0).fill_null(True).all()).item()
    assert set(qa["stage"]) == set(BUILDERS)
    yes_no = pl.col("qtype") == "yes_no"
    second = qa.filter(pl.col("stage") == 2).with_columns(late=pl.col("qtype") == "captioning")
    last_yes_no = pl.col("turn").filter(yes_no).max().over("sample_id")
    assert (second.filter("late").select(pl.col("turn") > last_yes_no.fill_null(-1))).to_series().any()
