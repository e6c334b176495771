"""Questions of the external tasks as ordinary cases: asked after stages 1 and 2 of the reading, or alone."""

from collections.abc import Sequence

import polars as pl

from cxrtrek_lib import build, draws, signs, tables
from cxrtrek_lib.findings import DEVICES
from cxrtrek_lib.simulate.catalogue import RENDERABLE
from cxrtrek_lib.stages import question_rows, wording
from cxrtrek_lib.stages.grounding import answered, rounded
from cxrtrek_lib.tables import KEYS

# What stages 1 and 2 ask of every film, whatever is known of it: the history must not tell the truth, as the
# options of a choice or the choice of the findings asked about would. The authors ask about 9 questions here.
FLOW = {1: ("view", "exposure", "quality"), 2: ("any_abnormality", "list", "devices")}
# tables.QA, and the task that a question belongs to; null: a question of the flow, which is not scored.
ROW = {**tables.QA, "task": pl.String}


def conversations(studies: pl.DataFrame, asked: dict[str, pl.DataFrame], *, seed: int) -> pl.DataFrame:
    """The questions of all tasks, each study's behind stages 1 and 2 (ROW; turns counted anew from 0).

    studies  tables.STUDIES; one that no task asks about is left out
    asked    task -> its questions (tables.QA)
    The questions of `FLOW` have no annotated answer ("").
    """
    tasks = pl.concat([
        rows.select(pl.col(column).cast(kind) for column, kind in tables.QA.items())
        .with_columns(task=pl.lit(name)) for name, rows in asked.items()
    ])  # fmt: skip
    about = studies.join(tasks, on="sample_id", how="semi")
    rows = pl.concat([_flow(about, seed), tasks], how="diagonal").with_columns(
        first=pl.col("task").is_not_null()  # the task comes after all of the flow
    )
    rows = rows.sort("sample_id", "first", "stage", "turn", "fact", maintain_order=True)
    turn = pl.int_range(pl.len(), dtype=pl.Int16).over("sample_id")
    shown = rows.join(about.select("sample_id", n=pl.col("views").list.len()), on="sample_id", how="left")[
        "n"
    ]
    rows = rows.with_columns(turn=turn, image_input_count=shown.cast(pl.Int16))
    return rows.select(pl.col(name).cast(kind) for name, kind in ROW.items())


def alone(qa: pl.DataFrame) -> pl.DataFrame:
    """The questions of the tasks without the flow before them, turns as in `conversations`."""
    return qa.filter(pl.col("task").is_not_null())


def _flow(studies: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The questions of FLOW about every study; their answers are not known here."""
    templates = wording.load()
    frames = []
    for stage, names in FLOW.items():
        for rank, name in enumerate(names):
            frame = _keyed(studies, seed).with_columns(
                answer=pl.lit(""), fact=pl.lit(f"flow|{name}"), evidence=pl.lit("")
            )
            template = templates[stage][name]
            frames.append(
                question_rows.question_rows(template, question_rows.with_bits(template, frame), rank)
            )
    return _of_studies(pl.concat(frames), studies)


def presence(
    studies: pl.DataFrame, findings: pl.DataFrame, names: Sequence[str], *, general: bool = False, seed: int
) -> pl.DataFrame:
    """Whether it is there (yes_no), of every film and finding whose status is known (tables.QA).

    general  a general name that the table does not state (signs.REALISED_AS) follows from its special cases,
             of which a simulated film knows each: present with one of them, absent when all are
    """
    known = _known(studies, findings, names, general, seed)
    template = wording.load()[2]["presence"]
    frame = known.with_columns(
        answer=question_rows.answer_words(template, "status"),
        fact=pl.concat_str("finding", pl.lit("|presence")),
        evidence=pl.lit("status"),
    )
    rows = question_rows.question_rows(template, question_rows.with_bits(template, frame, "finding"), 0)
    return _of_studies(rows, studies)


def locations(
    studies: pl.DataFrame, findings: pl.DataFrame, boxes: pl.DataFrame, names: Sequence[str], *, seed: int
) -> pl.DataFrame:
    """Where it is (detection), of every film and finding whose boxes are known (tables.QA).

    A film without the finding has no box: what is boxed there is a false alarm. So it is asked of all films,
    and how sure a box is says the answer to `presence`. A finding that is present without a box is left out.
    """
    known = _known(studies, findings, names, False, seed)
    numbered = _named(boxes.filter(pl.col("image_id") == 1), names).join(
        _keyed(studies, seed).select("i", "key", "sample_id"), on="sample_id"
    )
    drawn = answered(rounded(numbered.with_columns(n_images=pl.lit(1, pl.Int16))))
    frame = known.join(
        drawn.select("i", "bbox_list", "answer", finding="target"), on=["i", "finding"], how="left",
        maintain_order="left",
    )  # fmt: skip
    boxed = pl.col("bbox_list").is_not_null()
    frame = (
        frame.filter(boxed == (pl.col("status") == "present"))
        .with_columns(
            pl.col("bbox_list").fill_null([]),
            pl.col("answer").fill_null("No box."),
            fact=pl.concat_str("finding", pl.lit("|box 1")),
            image_id=pl.lit(1),
            num_of_images=pl.lit(1),
            evidence=pl.lit("boxes"),
            about=pl.concat_str(pl.lit("1/"), "finding"),
        )
        .with_columns(image=question_rows.image_words("image_id", "num_of_images"))
    )
    template = wording.load()[3]["locate"]
    rows = question_rows.question_rows(template, question_rows.with_bits(template, frame, "about"), 1)
    return _of_studies(rows, studies)


def tagged(qa: pl.DataFrame, tags: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """The questions of stages 2 and 3 that a report's tags answer: presence, side, severity, place, box.

    qa    questions of the cohort (tables.QA)
    tags  tables.FINDINGS of its reports: presence and box are asked of each finding that is present, side,
          severity and place where the tag states them. To these come as many drawn findings that the film
          does not have, at least one a study
    """
    there = tags.filter(pl.col("status") == "present")
    stated = {
        "presence": None,
        "box 1": None,
        "side": "laterality",
        "severity": "severity",
        "place": "location",
    }
    facts = pl.concat([
        (there if column is None else there.filter(pl.col(column).is_not_null())).select(
            "sample_id", fact=pl.concat_str("finding", pl.lit(f"|{of}"))
        )
        for of, column in stated.items()
    ])  # fmt: skip
    qa = qa.filter(pl.col("stage").is_in([2, 3]), pl.col("task_type") != "box->finding")
    found = qa.join(facts.unique(), on=["sample_id", "fact"], how="semi", maintain_order="left")
    presence = (pl.col("qtype") == "yes_no") & pl.col("fact").str.ends_with("|presence")
    closed = pl.concat([found.filter(presence), qa.filter(presence, pl.col("answer") == "No.")]).unique(
        KEYS, maintain_order=True
    )
    return pl.concat([found.filter(~presence), evened(closed, seed=seed)])


def evened(presence: pl.DataFrame, *, seed: int) -> pl.DataFrame:
    """Every question that is answered Yes, and of each study as many drawn ones answered No, at least one."""
    no = presence["answer"] == "No."
    denied = presence.filter(no)
    keys = draws.keys(seed, (denied["sample_id"] + denied["fact"]).to_list())
    yes = presence.filter(~no).group_by("sample_id").agg(yes=pl.len())
    denied = denied.with_columns(drawn=pl.Series(draws.mix(keys, "transfer/denied"))).join(
        yes, on="sample_id", how="left", maintain_order="left"
    )
    place = pl.col("drawn").rank("ordinal").over("sample_id")
    denied = denied.filter(place <= pl.max_horizontal(pl.col("yes").fill_null(1), 1))
    return pl.concat([presence.filter(~no), denied.select(presence.columns)])


def _named(boxes: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The boxes of these findings; of a general name without boxes of its own, those of its special cases."""
    own = boxes.filter(pl.col("target").is_in(list(names)))
    found = [own]
    for name in signs.REALISED_AS:
        if name in names:
            special = boxes.filter(pl.col("target").is_in(signs.specials(name)))
            special = special.with_columns(target=pl.lit(name))
            found.append(special.join(own, on=["sample_id", "target"], how="anti", maintain_order="left"))
    return pl.concat(found)


def _keyed(studies: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The studies with a number `i` and the `key` of their draws."""
    keys = draws.keys(seed, studies["sample_id"].to_list())
    return (
        studies.select("sample_id").with_row_index("i").with_columns(pl.Series("key", keys, dtype=pl.UInt64))
    )


def _of_studies(rows: pl.DataFrame, studies: pl.DataFrame) -> pl.DataFrame:
    """Question rows (question_rows.ROW) with the sample_id of study `i`; `turn` is their rank."""
    names = studies.select("sample_id").with_row_index("i")
    rows = rows.join(names, on="i", how="left", maintain_order="left").with_columns(
        turn=pl.col("rank"), image_input_count=pl.lit(1), is_joint_sent=pl.lit(None)
    )
    return rows.select(pl.col(name).cast(kind) for name, kind in tables.QA.items())


def _known(
    studies: pl.DataFrame, findings: pl.DataFrame, names: Sequence[str], general: bool, seed: int
) -> pl.DataFrame:
    """i, key, finding, kind, status ("present" or "absent") of the films and findings where it is known."""
    nothing = pl.DataFrame(schema=tables.BOXES)
    alone = studies.with_columns(
        prior_study_id=pl.lit(None, pl.String), next_study_id=pl.lit(None, pl.String)
    )
    gathered = build.gather(alone, findings, nothing, seed)
    known = gathered.known.join(gathered.studies.select("i", "sample_id"), on="i")
    known = known.select("sample_id", finding="name", status="status")
    found = [known.filter(pl.col("finding").is_in(list(names)))]
    for name in signs.REALISED_AS if general else ():
        if name in names:
            special = known.filter(pl.col("finding").is_in(signs.specials(name)))
            n = len(set(signs.specials(name)) & set(RENDERABLE))
            rows = special.group_by("sample_id").agg(
                there=(pl.col("status") == "present").any(), denied=(pl.col("status") == "absent").sum()
            )
            told = (
                pl.when("there").then(pl.lit("present"))
                .when(pl.col("denied") == n).then(pl.lit("absent"))
                .otherwise(pl.lit("uncertain"))
            )  # fmt: skip
            rows = rows.select("sample_id", finding=pl.lit(name), status=told)
            found.append(rows.join(found[0], on=["sample_id", "finding"], how="anti"))
    stated = pl.concat(found).filter(pl.col("status") != "uncertain")
    order = {"finding": list(names), "order": range(len(names))}
    order = pl.DataFrame(order, schema={"finding": pl.String, "order": pl.Int64})
    device = pl.col("finding").is_in(list(DEVICES))
    return (
        _keyed(studies, seed).join(stated, on="sample_id").join(order, on="finding").sort("i", "order")
        .with_columns(kind=pl.when(device).then(pl.lit("foreign_body")).otherwise(pl.lit("abnormality")))
        .drop("sample_id", "order")
    )  # fmt: skip
