"""Stages 5 and 6: what changed between two studies of a patient, finding by finding and side by side.

Both studies must know the finding: present, or absent at tier 1 or 2. Severities are compared when both are
known; sides when both are known. A finding that is present in both, with nothing to compare, is "persistent":
never called unchanged.
"""

import polars as pl

from cxrtrek_lib.identification import normal_studies
from cxrtrek_lib.question_rows import Evidence, Templates, closed_choice, question_rows, sentence, with_bits
from cxrtrek_lib.tables import SEVERITIES
from cxrtrek_lib.wording import Template

MOST_CHANGES = 6  # items of an open answer; real changes come before persistent findings
GRADED_OPTIONS = ("new", "resolved", "worse", "better", "unchanged")
PLAIN_OPTIONS = ("new", "resolved", "both", "neither")


def comparison(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 5: the open comparison with the prior study, and one choice per changed or persistent finding."""
    links = evidence.studies.filter(pl.col("prior").is_not_null()).select("i", "key", then="prior", now="i")
    changed = changes(evidence.known, links)
    open_rows = _open(templates["change"], changed, evidence.known, links)
    template = templates["change_choice"]
    single = changed.filter(pl.col("kind_of_change") != "sides").with_columns(
        about="name", finding="name", fact=pl.concat_str("name", pl.lit("|change"))
    )
    single = with_bits(template, single, "name")
    is_graded = pl.col("graded")
    plain = pl.col("kind_of_change").replace(
        {"persistent": "both", "unchanged": "both", "worse": "both", "better": "both"}
    )
    frames = [
        closed_choice(template, single.filter(is_graded), "kind_of_change", GRADED_OPTIONS),
        closed_choice(
            template,
            single.filter(~is_graded).with_columns(kind_of_change=plain),
            "kind_of_change",
            PLAIN_OPTIONS,
        ),
    ]
    return [
        *(question_rows(template, frame, pl.col("order")) for frame in frames),
        question_rows(templates["change"], open_rows, 1000),
    ]


def trend(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 6: the same comparison towards the next study, asked where it shows more than persistence."""
    links = evidence.studies.filter(pl.col("next").is_not_null()).select("i", "key", then="i", now="next")
    changed = changes(evidence.known, links)
    telling = changed.filter((pl.col("kind_of_change") != "persistent").any().over("i"))
    return [question_rows(templates["trend"], _open(templates["trend"], telling, evidence.known, None), 0)]


def changes(known: pl.DataFrame, links: pl.DataFrame) -> pl.DataFrame:
    """One row per finding that is present in at least one of two linked studies and known in both.

    links  i, key (the study that is asked about), then, now (rows of the earlier and the later study)
    Returns i, key, name, kind, order, evidence, graded (severity known wherever present), kind_of_change
    (new, resolved, worse, better, unchanged, persistent, or sides: present in both, other side or sides),
    items: the list of (kind of change, side) that the change consists of, most telling first.
    """
    certain = known.filter(pl.col("status") != "uncertain").select(
        "i", "finding", "name", "kind", "side", "severity", "evidence", there=pl.col("status") == "present"
    )
    earlier = certain.select(pl.all().name.prefix("then_"))
    later = certain.select(pl.all().name.prefix("now_"))
    pairs = (
        links.join(earlier, left_on="then", right_on="then_i")
        .join(later, left_on=["now", "then_finding"], right_on=["now_i", "now_finding"])
        .filter(pl.col("then_there") | pl.col("now_there"))
    )
    grade = {word: place for place, word in enumerate(SEVERITIES)}
    step = [
        pl.col(f"{when}_severity").replace_strict(grade, default=None, return_dtype=pl.Int8)
        for when in ("now", "then")
    ]
    difference = step[0] - step[1]
    both = pl.col("then_there") & pl.col("now_there")
    sides_differ = (pl.col("then_side") != pl.col("now_side")).fill_null(False)
    known_grade = [
        ~pl.col(f"{when}_there") | pl.col(f"{when}_severity").is_not_null() for when in ("then", "now")
    ]
    kind = (
        pl.when(~pl.col("then_there")).then(pl.lit("new"))
        .when(~pl.col("now_there")).then(pl.lit("resolved"))
        .when(sides_differ).then(pl.lit("sides"))
        .when(difference > 0).then(pl.lit("worse"))
        .when(difference < 0).then(pl.lit("better"))
        .when(difference == 0).then(pl.lit("unchanged"))
        .otherwise(pl.lit("persistent"))
    )  # fmt: skip
    pairs = pairs.with_columns(
        kind_of_change=kind,
        graded=known_grade[0] & known_grade[1],
        order=pl.col("then_finding").to_physical().cast(pl.Int32),
        # A change of both sides at once is told of the sides that both studies name.
        side=pl.when(both).then(pl.when(pl.col("then_side") == pl.col("now_side")).then("now_side"))
        .otherwise(pl.coalesce("now_side", "then_side")),
        evidence=pl.concat_str("now_evidence", pl.lit("; prior "), "then_evidence"),
        name="then_name",
        kind="then_kind",
    )  # fmt: skip
    return pairs.select(
        "i",
        "key",
        "name",
        "kind",
        "order",
        "evidence",
        "graded",
        "kind_of_change",
        "side",
        "then_side",
        "now_side",
    )


def _items(changed: pl.DataFrame) -> pl.DataFrame:
    """(i, key, order, change, words): changes told side by side where the sides differ."""
    plain = changed.filter(pl.col("kind_of_change") != "sides").with_columns(change="kind_of_change")
    sides = changed.filter(pl.col("kind_of_change") == "sides")
    each = []
    for side in ("right", "left"):
        then, now = (pl.col(f"{when}_side").is_in([side, "bilateral"]) for when in ("then", "now"))
        change = (
            pl.when(then & now)
            .then(pl.lit("persistent"))
            .when(now)
            .then(pl.lit("new"))
            .when(then)
            .then(pl.lit("resolved"))
        )
        each.append(sides.with_columns(change=change, side=pl.lit(side)).drop_nulls("change"))
    rows = pl.concat([plain, *each])
    words = pl.concat_str("side", "name", separator=" ", ignore_nulls=True)
    return rows.select("i", "key", "order", "change", "evidence", finding=words)


def _open(
    template: Template, changed: pl.DataFrame, known: pl.DataFrame, links: pl.DataFrame | None
) -> pl.DataFrame:
    """Rows of the open question: the items in order; "none" where both studies are normal (links given)."""
    items = _items(changed)
    text = pl.col("change").replace_strict(template.answers, return_dtype=pl.String)
    text = text.str.replace("{finding}", pl.col("finding"), literal=True)
    telling = pl.col("change") != "persistent"
    rows = (
        items.with_columns(text=text)
        .sort("i", ~telling, "order", "finding")
        .group_by("i", "key", maintain_order=True)
        .agg(
            sentence(pl.col("text").head(MOST_CHANGES).str.join("; ")).alias("answer"),
            pl.col("evidence").unique(maintain_order=True).str.join("; "),
        )
    )  # fmt: skip
    if links is not None:
        normal = normal_studies(known).select("i", "evidence")
        both = links.join(normal, left_on="now", right_on="i").join(
            normal.select("i"), left_on="then", right_on="i", how="semi"
        )
        none = both.select("i", "key", pl.lit(template.answers["none"]).alias("answer"), "evidence")
        rows = pl.concat([rows, none])
    return with_bits(template, rows.with_columns(fact=pl.lit("composite|changes")))
