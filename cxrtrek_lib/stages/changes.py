"""Stages 5 and 6: what changed between two studies of a patient, and what the next study went on to show.

A finding is compared when both studies know it: present, possible (uncertain), or absent at tier 1 or 2.
Severities are compared when both are known; sides when both are known. A finding that is present in both,
with nothing else to compare, is "persistent": never called unchanged. Where only one of two studies has
attributes, as between a simulated film and its annotated next study, only presence is compared.

Most findings persist, so that "present in both studies" would win most choices unseen. Therefore a study in
which something changed is asked about at most as many findings that are present in both, and absent in both,
as changed; of the others a drawn share is asked about one of each, or being asked would tell of a change.
Possible findings need no such bound: none of their five answers is common.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import FINDINGS
from cxrtrek_lib.stages.choices import apart
from cxrtrek_lib.stages.identification import normal_studies
from cxrtrek_lib.stages.question_rows import (
    Evidence,
    Templates,
    closed_choice,
    draw,
    lay_out,
    question_rows,
    with_bits,
)
from cxrtrek_lib.stages.told import tellable, written
from cxrtrek_lib.stages.wording import Template
from cxrtrek_lib.tables import SEVERITIES

# (status then, status now) -> kind of change; "persistent" is refined by side and severity.
KINDS = {
    ("absent", "present"): "new", ("present", "absent"): "resolved",
    ("uncertain", "present"): "confirmed", ("absent", "uncertain"): "suspected",
    ("uncertain", "absent"): "excluded", ("present", "uncertain"): "doubted",
    ("uncertain", "uncertain"): "undecided",
    ("present", "present"): "persistent", ("absent", "absent"): "neither",
}  # fmt: skip
CHANGED, STAYED = ("new", "resolved", "worse", "better"), ("unchanged", "persistent")
POSSIBLE = ("confirmed", "excluded", "doubted", "suspected", "undecided")
GRADED_OPTIONS = (*CHANGED, "unchanged")
PLAIN_OPTIONS = ("new", "resolved", "both", "neither")
# The order in which an open answer tells of them: "sides" as what each side did, "neither" not at all.
TOLD = (
    "new", "worse", "confirmed", "suspected", "resolved", "better", "excluded", "doubted", "unchanged",
    "undecided", "persistent",
)  # fmt: skip

MOST_TOLD = 8  # findings of an open answer; what changed comes before what stayed
LONE_SHARE = 0.125  # of the studies in which nothing changed, asked about one finding that stayed
LEAST_OPTIONS = 3  # of a choice of several; the most is choices.MOST


class Comparison(NamedTuple):
    """Two linked studies as a stage sees them: the words that tell the stages apart.

    name   begins the names of the questions, and goes into every draw
    fact   what a question about one finding is about: "pleural effusion|change"
    other  what the evidence calls the study that is not asked about
    most   findings per study that a choice of one asks about
    """

    name: str
    fact: str
    other: str
    most: int


WITH_PRIOR = Comparison("change", "|change", "prior", 6)
WITH_NEXT = Comparison("trend", "|next", "next", 3)


def comparison(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 5: findings compared with the prior study one by one, several at once, and all in one answer."""
    links = evidence.studies.filter(pl.col("prior").is_not_null()).select("i", "key", then="prior", now="i")
    pairs = changes(evidence.known, links, WITH_PRIOR)
    return [
        *_one_by_one(templates, asked_about(pairs, WITH_PRIOR), WITH_PRIOR),
        _which_changed(templates["change_several"], pairs),
        _told(templates["change"], pairs, _both_normal(evidence.known, links, WITH_PRIOR)),
    ]


def trend(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 6: the same towards the next study, whose annotations answer and whose images are never shown.

    What persists is asked as well as what changes, or being asked would tell that something does.
    """
    links = evidence.studies.filter(pl.col("next").is_not_null()).select("i", "key", then="i", now="next")
    pairs = changes(evidence.known, links, WITH_NEXT)
    return [
        *_one_by_one(templates, asked_about(pairs, WITH_NEXT), WITH_NEXT),
        _which_next(templates["trend_several"], pairs),
        _told(templates["trend"], pairs, _both_normal(evidence.known, links, WITH_NEXT)),
    ]


def changes(known: pl.DataFrame, links: pl.DataFrame, comparison: Comparison) -> pl.DataFrame:
    """One row per finding that two linked studies both know.

    known  Evidence.known
    links  i, key (the study that is asked about), then, now (rows of the earlier and the later study)
    Returns i, key, name, text (the name as it is written), kind, order, evidence, change (a value of KINDS,
    worse, better, unchanged, or sides: present on both films, other side or sides), graded (severity known
    wherever present), there (present in the later study), side, then_side, now_side.
    """
    columns = tellable(known).select("i", "finding", "kind", "status", "side", "severity", "evidence")
    pairs = links.join(columns.select(pl.all().name.prefix("then_")), left_on="then", right_on="then_i").join(
        columns.select(pl.all().exclude("kind").name.prefix("now_")),
        left_on=["now", "then_finding"],
        right_on=["now_i", "now_finding"],
    )
    statuses = pl.concat_str("then_status", "now_status", separator=" ")
    kinds = {f"{then} {now}": kind for (then, now), kind in KINDS.items()}
    kind = statuses.replace_strict(kinds, return_dtype=pl.String)
    both = kind == "persistent"
    grade = {word: place for place, word in enumerate(SEVERITIES)}
    now, then = (
        pl.col(f"{when}_severity").replace_strict(grade, default=None, return_dtype=pl.Int8)
        for when in ("now", "then")
    )
    # A scene knows every side. A table names sides and denies none: a side that only one study names may have
    # been there in both, so that only a side that both name is told.
    shown = (pl.col("then_evidence") == "simulated") & (pl.col("now_evidence") == "simulated")
    sides_differ = (pl.col("then_side") != pl.col("now_side")).fill_null(False)
    unsure = sides_differ & ~shown
    common = pl.when(pl.col("then_side") == "bilateral").then("now_side")
    common = common.when(pl.col("now_side") == "bilateral").then("then_side")
    own, other = ("now", "then") if comparison.other == "prior" else ("then", "now")
    name = pl.col("then_finding").cast(pl.String)
    return pairs.select(
        "i",
        "key",
        "then_side",
        "now_side",
        name=name,
        text=written(name),
        kind="then_kind",
        order=pl.col("then_finding").to_physical().cast(pl.Int32),
        evidence=pl.concat_str(f"{own}_evidence", pl.lit(f"; {comparison.other} "), f"{other}_evidence"),
        change=pl.when(~both).then(kind)
        .when(unsure).then(pl.lit("persistent"))
        .when(sides_differ).then(pl.lit("sides"))
        .when(now > then).then(pl.lit("worse"))
        .when(now < then).then(pl.lit("better"))
        .when(now == then).then(pl.lit("unchanged"))
        .otherwise(pl.lit("persistent")),
        graded=pl.when(kind == "new").then(now.is_not_null())
        .when(kind == "resolved").then(then.is_not_null())
        .otherwise(both & ~unsure & now.is_not_null() & then.is_not_null()),
        there=pl.col("now_status") == "present",
        # A side is told where both studies name it, or where only one has the finding.
        side=pl.when(kind == "new").then("now_side").when(kind == "resolved").then("then_side")
        .when(unsure).then(common)
        .when(pl.col("then_side") == pl.col("now_side")).then("now_side"),
    )  # fmt: skip


def asked_about(pairs: pl.DataFrame, comparison: Comparison) -> pl.DataFrame:
    """The findings, at most `comparison.most` per study, that choices of one ask about; none is a giveaway.

    Findings that changed, possible ones, ones present in both and ones absent in both take turns: the first
    of each kind, then the second, and so on. No more of the last two kinds are asked than have changed; where
    nothing has, one of each in a drawn share of the studies.
    """
    turns = {
        **dict.fromkeys(CHANGED, 0),
        **dict.fromkeys(POSSIBLE, 1),
        **dict.fromkeys(STAYED, 2),
        "neither": 3,
    }
    turn = pl.col("change").replace_strict(turns, default=None, return_dtype=pl.Int8)
    drawn = draws.uniforms(pairs["key"].to_numpy(), f"{comparison.name}/lone") < LONE_SHARE
    pairs = pairs.with_columns(turn=turn, lone=pl.Series(drawn)).drop_nulls("turn")
    n_changed = (pl.col("turn") == 0).sum().over("i")
    pairs = pairs.with_columns(
        most=pl.when(n_changed > 0).then(n_changed).otherwise(pl.col("lone").cast(pl.UInt32))
    )
    pairs = pairs.filter((pl.col("turn") <= 1) | (pl.col("most") > 0))
    pairs = pairs.with_columns(pl.Series("drawn", draw(pairs, "name", f"{comparison.name}/asked")))
    pairs = pairs.sort("i", "turn", "drawn").with_columns(nth=pl.int_range(pl.len()).over("i", "turn"))
    pairs = pairs.filter((pl.col("turn") <= 1) | (pl.col("nth") < pl.col("most")))
    # Whether present or absent in both comes first is drawn, or the cut would always fall on the same one.
    swap = pl.Series(draws.uniforms(pairs["key"].to_numpy(), f"{comparison.name}/turns") < 0.5)
    swapped = pl.when(swap & (pl.col("turn") >= 2)).then(5 - pl.col("turn")).otherwise("turn")
    pairs = pairs.with_columns(turn=swapped).sort("i", "nth", "turn")
    pairs = pairs.filter(pl.int_range(pl.len()).over("i") < comparison.most)
    return pairs.drop("turn", "lone", "most", "drawn", "nth")


def _one_by_one(templates: Templates, asked: pl.DataFrame, comparison: Comparison) -> list[pl.DataFrame]:
    """One choice of one per row: by grade, by presence, or by how certain it was and is."""
    rows = asked.with_columns(
        about="name", finding="text", fact=pl.concat_str("name", pl.lit(comparison.fact)), value="change"
    )
    # Half of the graded ones are asked by presence: else that question would tell that nothing is graded.
    coin = pl.Series(draw(rows, "name", f"{comparison.name}/by grade") < (1 << 63))
    rows = rows.with_columns(by_grade=pl.col("graded") & coin)
    name, possible = comparison.name, pl.col("change").is_in(POSSIBLE)
    plain = pl.col("change").replace(dict.fromkeys(("persistent", "unchanged", "worse", "better"), "both"))
    frames = []
    for template, part, keys in (
        (templates[f"{name}_grade"], rows.filter("by_grade"), GRADED_OPTIONS),
        (templates[f"{name}_choice"], rows.filter(~pl.col("by_grade") & ~possible).with_columns(value=plain),
         PLAIN_OPTIONS),
        (templates[f"{name}_possible"], rows.filter(possible), POSSIBLE),
    ):  # fmt: skip
        chosen = closed_choice(template, with_bits(template, part, "name"), "value", keys)
        frames.append(question_rows(template, chosen, pl.col("order")))
    return frames


def _which_changed(template: Template, pairs: pl.DataFrame) -> pl.DataFrame:
    """Stage 5, one per study: which findings are new, or gone, or present in both, whichever is drawn."""
    certain = pairs.filter(pl.col("change").is_in((*CHANGED, *STAYED, "neither")))
    kinds = {"new": ("new",), "resolved": ("resolved",), "both": ("worse", "better", *STAYED)}
    rows = pl.concat(
        certain.with_columns(about=pl.lit(key), right=pl.col("change").is_in(of)) for key, of in kinds.items()
    )
    asked = _several(template, rows, WITH_PRIOR)
    asked = asked.with_columns(pl.Series("drawn", draw(asked, "about", "change/several")))
    asked = asked.filter(pl.col("drawn") == pl.col("drawn").min().over("i"))
    words = {key: template.answers[key] for key in kinds}
    asked = asked.with_columns(change=pl.col("about").replace_strict(words, return_dtype=pl.String))
    return question_rows(template, asked, 1000)


def _which_next(template: Template, pairs: pl.DataFrame) -> pl.DataFrame:
    """Stage 6, one per study: which of these findings the next study shows."""
    rows = pairs.filter(~pl.col("change").is_in(("suspected", "doubted", "undecided")))
    asked = _several(template, rows.with_columns(about=pl.lit("next"), right="there"), WITH_NEXT)
    return question_rows(template, asked, 1000)


def _several(template: Template, rows: pl.DataFrame, comparison: Comparison) -> pl.DataFrame:
    """Choices of several, with options: one per study and `about` that has right and wrong ones to offer.

    rows  i, key, about, name, order, evidence, right: the findings that may be options
    Right and wrong ones are taken by turns, none that overlaps with one before; three or four, as is drawn.
    """
    mixed = pl.col("right").any().over("i", "about") & ~pl.col("right").all().over("i", "about")
    rows = rows.filter(mixed & (pl.len().over("i", "about") >= LEAST_OPTIONS))
    rows = rows.with_columns(pl.Series("drawn", draw(rows, "name", f"{comparison.name}/options")))
    rows = rows.sort("i", "about", "right", "drawn").with_columns(
        nth=pl.int_range(pl.len()).over("i", "about", "right")
    )
    rows = rows.sort("i", "about", "nth", "drawn").with_row_index("turn")
    frame = rows.select("i", "key", "about").unique(maintain_order=True).with_row_index("question")
    rows = rows.join(frame.select("i", "about", "question"), on=["i", "about"], maintain_order="left")
    finding, right = rows["order"].to_numpy(), rows["right"].to_numpy()
    taken = apart(rows["question"].to_numpy(), finding, rows["turn"].to_numpy(), frame.height)
    taken[draw(frame, "about", f"{comparison.name}/fewer") < (1 << 63), LEAST_OPTIONS:] = -1
    offered = taken >= 0
    rights = offered & right[taken] if len(right) else offered
    kept = rights.any(axis=1) & (offered & ~rights).any(axis=1) & (offered.sum(axis=1) >= LEAST_OPTIONS)
    taken, rights, frame = taken[kept], rights[kept], frame.filter(pl.Series(kept))
    told = rows[np.sort(taken[taken >= 0])]
    fact = pl.concat_str(pl.col("name").filter("right"), pl.lit(comparison.fact)).str.join("; ")
    told = told.sort("i", "about", "order").group_by("i", "about", maintain_order=True).agg(
        fact=fact, evidence=pl.col("evidence").unique(maintain_order=True).str.join("; ")
    )  # fmt: skip
    frame = with_bits(template, frame.join(told, on=["i", "about"], maintain_order="left"), "about")
    codes = np.where(taken >= 0, finding[taken], -1) if len(finding) else taken
    names = pl.DataFrame({"name": list(FINDINGS)}).select(written(pl.col("name")))["name"].to_list()
    return lay_out(frame, names, codes, rights)


def _told(template: Template, pairs: pl.DataFrame, normal: pl.DataFrame) -> pl.DataFrame:
    """The open question: what is new, worse, ..., persistent, in this order; "none" where both are normal."""
    place = {kind: nth for nth, kind in enumerate(TOLD)}
    items = _items(pairs).with_columns(place=pl.col("change").replace_strict(place, return_dtype=pl.Int8))
    items = items.sort("i", "place", "order", "words").filter(pl.int_range(pl.len()).over("i") < MOST_TOLD)
    text = pl.col("change").replace_strict(template.answers, return_dtype=pl.String)
    rows = (
        items.group_by("i", "key", "change", maintain_order=True)
        .agg(pl.col("words").str.join(", "), "evidence")
        .with_columns(text=text.str.replace("{findings}", pl.col("words"), literal=True))
        .group_by("i", "key", maintain_order=True)
        .agg(pl.col("text").str.join(" ").alias("answer"), pl.col("evidence").explode())
        .with_columns(pl.col("evidence").list.unique(maintain_order=True).list.join("; "))
    )
    none = normal.with_columns(answer=pl.lit(template.answers["none"]))
    rows = pl.concat([rows, none.select(rows.columns)]).with_columns(fact=pl.lit("composite|changes"))
    return question_rows(template, with_bits(template, rows), 1001)


def _items(pairs: pl.DataFrame) -> pl.DataFrame:
    """(i, key, order, change, evidence, words): what is told, side by side where the sides differ."""
    plain = pairs.filter(~pl.col("change").is_in(("sides", "neither")))
    sides = pairs.filter(pl.col("change") == "sides")
    each = []
    for side in ("right", "left"):
        then, now = (pl.col(f"{when}_side").is_in([side, "bilateral"]) for when in ("then", "now"))
        change = pl.when(then & now).then(pl.lit("persistent")).when(now).then(pl.lit("new"))
        change = change.when(then).then(pl.lit("resolved"))
        each.append(sides.with_columns(change=change, side=pl.lit(side)).drop_nulls("change"))
    words = pl.concat_str("side", "text", separator=" ", ignore_nulls=True)
    rows = pl.concat([plain, *each])
    return rows.select("i", "key", "order", "change", "evidence", words=words)


def _both_normal(known: pl.DataFrame, links: pl.DataFrame, comparison: Comparison) -> pl.DataFrame:
    """(i, key, evidence) of the links between two normal studies."""
    normal = normal_studies(known).select("i", "evidence")
    both = links.join(normal.select(now="i", later="evidence"), on="now").join(
        normal.select(then="i", earlier="evidence"), on="then"
    )
    own, other = ("later", "earlier") if comparison.other == "prior" else ("earlier", "later")
    return both.select("i", "key", evidence=pl.concat_str(own, pl.lit(f"; {comparison.other} "), other))
