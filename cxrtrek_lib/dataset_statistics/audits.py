"""What a dataset gives away: answers that earlier answers already hold, repeated texts, crossing patients.

Every audit takes (studies, qa), with qa a frame or a scan of a whole table, and counts every Q&A of it.
What can be answered without the film is measured in shortcuts.py.
"""

import polars as pl

from cxrtrek_lib.conversations import KINDS
from cxrtrek_lib.dataset_statistics import published
from cxrtrek_lib.dataset_statistics.dataset_counts import (
    COMPOSITE,
    LABEL,
    answer_format,
    in_parts,
    labelled,
    question_kind,
    spread,
)

FORMAT = pl.Enum(KINDS)


def plain(text: pl.Expr) -> pl.Expr:
    """Words only, in lower case, one space around each, so that " edema " is found as a whole word."""
    words = text.str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", " ").str.strip_chars()
    return pl.concat_str(pl.lit(" "), words, pl.lit(" "))


def says_yes() -> pl.Expr:
    """Whether column `answer` begins with yes."""
    return pl.col("answer").str.to_lowercase().str.starts_with("yes")


def names_finding() -> pl.Expr:
    """Whether a yes/no question is about findings or devices (column target, in the authors' grammar)."""
    return pl.col("target").str.starts_with("yes_no_").fill_null(False)


def claims(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame) -> pl.LazyFrame:
    """What questions ask to affirm or deny: i, turn, stage, format, said, true.

    A yes/no question about a finding (its target says so) claims its fact, true when the answer is yes; a
    choice claims each of its options, true when it is right. said is the fact or the option as written;
    `_claimed` has the words.
    """
    columns = ["turn", "stage", "qtype", "answer", "option_list", "answer_list", "fact", "target"]
    rows = labelled(studies, qa, columns, []).with_columns(format=answer_format().cast(FORMAT))
    keys = ["i", "turn", "stage", "format"]
    single = names_finding() & ~pl.col("fact").str.starts_with(COMPOSITE)
    binary = rows.filter(single, format="close-ended").select(*keys, said="fact", true=says_yes())
    options = rows.filter(format="choice").explode("option_list")
    right = pl.col("option_list").is_in(pl.col("answer_list"))
    return pl.concat([binary, options.select(*keys, said="option_list", true=right)])


def _claimed() -> pl.Expr:
    """The words of `said`, plain: the finding of a fact ("edema|presence"), an option without its label."""
    said, binary = pl.col("said"), pl.col("format") == "close-ended"
    finding = said.str.split("|").list.first()
    return plain(pl.when(binary).then(finding).otherwise(said.str.replace(LABEL, "")))


def context_leak(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """How often the words of a claim already stood in an earlier gold answer of the same conversation.

    A model that is given the gold answers as context can copy them; so can a reader of its scores be fooled.
    Yes/No answers themselves name nothing and are not searched.
    Returns one row per stage and format of the question, and per format over all stages (stage null): stage,
    format, true (right claims: positive yes/no questions, right options), true_earlier (share of them whose
    words stood earlier), false, false_earlier, from_stage and from_format (where the right claims' words
    stood first, most often), published (share in the authors' samples: yes/no questions over all stages).
    A gap between the two shares is what the context betrays.
    """
    counted = pl.concat([_leak_counts(part, qa) for part in in_parts(studies, "context leak")])
    return _leak_table(pl.concat([counted, counted.with_columns(stage=pl.lit(None, pl.Int8))]))


def _leak_counts(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Claims by stage, format, true and place of the first mention (null: not before the question), n."""
    asked = claims(studies, qa)
    # Texts repeat: their words are taken once per different text, and numbered.
    said = spread(asked.select("format", "said").unique()).with_columns(key=_claimed())
    keys = said.select("key").unique().sort("key").with_row_index("k")
    said = said.join(keys, on="key").select("format", "said", "k")
    asked = asked.join(said.lazy(), on=["format", "said"]).drop("said")
    answers = labelled(studies, qa, ["turn", "stage", "qtype", "answer"], [])
    answers = answers.with_columns(format=answer_format().cast(FORMAT)).filter(
        pl.col("format") != "close-ended"
    )
    texts = spread(answers.select("answer").unique())
    found = plain(pl.col("answer")).str.extract_many(keys["key"].to_list(), overlapping=True)
    hits = texts.select("answer", key=found).explode("key", empty_as_null=False).unique()
    hits = hits.join(keys, on="key").select("answer", "k")
    # The turn and, in its lowest digits, stage and format: the smallest is the first mention.
    answers = answers.with_columns(pl.col("turn", "stage").cast(pl.Int64))
    place = pl.col("turn") * 100 + pl.col("stage") * 10 + pl.col("format").to_physical()
    first = answers.join(hits.lazy(), on="answer").group_by("i", "k").agg(place=place.min())
    asked = asked.join(first, on=["i", "k"], how="left")
    asked = asked.with_columns(
        place=pl.when(pl.col("place") // 100 < pl.col("turn")).then(pl.col("place") % 100)
    )
    return spread(asked.group_by("stage", "format", "true", "place").agg(n=pl.len().cast(pl.Int64)))


def _leak_table(counted: pl.DataFrame) -> pl.DataFrame:
    keys, n = ["stage", "format"], pl.col("n")
    earlier, true = pl.col("place").is_not_null(), pl.col("true")
    table = counted.group_by(keys).agg(
        true=n.filter(true).sum(), true_earlier=n.filter(true & earlier).sum() / n.filter(true).sum(),
        false=n.filter(~true).sum(), false_earlier=n.filter(~true & earlier).sum() / n.filter(~true).sum(),
    )  # fmt: skip
    places = counted.filter(true & earlier).group_by(*keys, "place").agg(n.sum())
    most = places.sort("n", "place", descending=[True, False]).unique(keys, keep="first", maintain_order=True)
    digits = pl.col("place")
    most = most.select(
        *keys, from_stage=(digits // 10).cast(pl.Int8),
        from_format=(digits % 10).replace_strict(dict(enumerate(KINDS)), return_dtype=pl.String),
    )  # fmt: skip
    yes_no = (pl.col("format") == "close-ended") & pl.col("stage").is_null()
    return (
        table.join(most, on=keys, how="left", nulls_equal=True)
        .with_columns(
            pl.col("true_earlier", "false_earlier").fill_nan(None),
            published=pl.when(yes_no).then(published.LEAKED / published.LEAK_OF),
        )
        .sort("stage", "format", nulls_last=True)
        .with_columns(pl.col("format").cast(pl.String))
    )


def repeated_texts(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame, stage: int = 8) -> pl.DataFrame:
    """Answers of a stage that occur word for word for another patient: what memory alone can answer.

    Returns one row per source, split and task type: n (answers), different (texts), repeated (share whose
    text stands for another patient, any split and source), same_split (for another patient of the same
    split), in_training (for another patient of the training split). Texts are compared as written.
    """
    rows = labelled(studies, qa, ["stage", "task_type", "answer"], ["patient_id", "source", "split"])
    rows = rows.filter(stage=stage).select(
        "source", "split", "task_type", text=pl.col("answer").hash(), patient=pl.col("patient_id").hash()
    )
    rows = spread(rows)
    train = pl.col("split") == "train"

    def patients(*within: str) -> pl.Expr:
        return pl.col("patient").n_unique().over("text", *within)

    trained = rows.filter(train).group_by("text").agg(trained=pl.col("patient").n_unique())
    rows = rows.with_columns(everywhere=patients(), inside=patients("split")).join(
        trained, on="text", how="left"
    )
    own = train.cast(pl.Int64)  # a training answer's own patient does not count
    table = rows.group_by("source", "split", "task_type").agg(
        n=pl.len().cast(pl.Int64), different=pl.col("text").n_unique(),
        repeated=(pl.col("everywhere") > 1).mean(), same_split=(pl.col("inside") > 1).mean(),
        in_training=(pl.col("trained").fill_null(0) > own).mean(),
    )  # fmt: skip
    return table.sort("source", "split", "task_type")


def crossing_patients(studies: pl.DataFrame) -> pl.DataFrame:
    """Patients with studies in more than one split: patient_id, splits; an empty frame when all is well."""
    splits = studies.group_by("patient_id").agg(splits=pl.col("split").unique().sort())
    return splits.filter(pl.col("splits").list.len() > 1).sort("patient_id")


def repeated_questions(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Q&A of one study about the same fact that demand the same: the mark of paraphrase padding.

    Two questions demand the same when their kind is the same: open-ended, close-ended, single-choice,
    multi-choice or detection. Facts put together from others (COMPOSITE) are compared within their stage and
    target. Returns stage, task_type, kind, repeated (Q&A beyond the first of each group), of (all Q&A there);
    one row per stage, task type and kind that has a repetition.
    """
    counted = pl.concat([_repetitions(part, qa) for part in in_parts(studies, "repetitions")])
    table = counted.group_by("stage", "task_type", "kind").agg(pl.col("repeated", "of").sum())
    return table.filter(pl.col("repeated") > 0).sort("stage", "task_type", "kind")


def _repetitions(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    composite = pl.col("fact").str.starts_with(COMPOSITE)
    within = pl.when(composite).then(pl.concat_str("stage", pl.lit(" "), pl.col("target").fill_null("")))
    keys = ["stage", "task_type", "kind"]
    rows = labelled(studies, qa, ["turn", "stage", "task_type", "qtype", "fact", "target"], [])
    rows = rows.with_columns(kind=question_kind())
    group = pl.struct("i", "kind", "fact", within.alias("within")).hash()
    rows = spread(rows.select(*keys, "turn", group=group)).sort("group", "stage", "turn")
    rows = rows.with_columns(again=~pl.col("group").is_first_distinct())
    counted = rows.group_by(keys).agg(repeated=pl.col("again").sum(), of=pl.len())
    return counted.with_columns(pl.col("repeated", "of").cast(pl.Int64))
