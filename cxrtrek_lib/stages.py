"""What each stage asks, and from which evidence: known facts -> question rows, column-wise.

Every builder takes `Evidence` (one chunk of studies) and the templates of its stage, and returns frames with
the columns of ROW. A stage without evidence for a study gives no row. Rules that hold everywhere:
- "No" needs an absence at tier 1 or 2; nothing is asked about findings of unknown or uncertain status.
- Wrong options are false by evidence: findings known to be absent (and not a special or general form of a
  present one), or the other values of an attribute whose value is known.
- What is drawn (phrasing, options, order) depends on the study's key and the question only.
Stages 4 (relationships) and 7 (diagnosis and advice) have no evidence in these tables and are not built.
"""

import re

import polars as pl

from cxrtrek_lib import draws, wording
from cxrtrek_lib.findings import CORE, DEVICES, FINDINGS, REGIONS, related
from cxrtrek_lib.question_rows import (
    Evidence,
    Templates,
    answer_words,
    choice_options,
    closed_choice,
    draw,
    image_words,
    question_rows,
    sentence,
    with_bits,
)
from cxrtrek_lib.schema import EXPOSURES, SEVERITIES, SIDES, format_boxes
from cxrtrek_lib.wording import Template

IMPLIED_NO = 3  # questions per study whose "No" only follows from a study-level "normal"
REGIONS_ASKED = 4  # anatomical regions to locate per image
MOST_PRESENT, MOST_ABSENT = 6, 3  # items of a composed report: at most 40 words


def image_validation(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 1: the projection when the table knows it, the exposure when the scene knows it."""
    views = evidence.studies.select("i", "key", "views", "n_images", "source").with_columns(
        known=pl.col("views").list.eval(pl.element() != "UNKNOWN")
    )
    # One question per study: open or choice by the draw; open only when every view is known.
    coin = pl.Series("coin", draws.uniforms(views["key"].to_numpy(), "view/format"))
    views = views.with_columns(coin).filter(pl.col("known").list.any())
    is_open = pl.col("known").list.all() & (pl.col("coin") < 0.5)
    views = views.with_columns(is_open.alias("open"), evidence=pl.concat_str("source", pl.lit(": view")))

    template = templates["view"]
    several = wording.fill(template.answers["several"])
    answers = (
        views.filter("open").explode("views").with_columns(n=pl.int_range(1, pl.len() + 1).over("i"))
        .with_columns(view=answer_words(template, "views"))
        .with_columns(text=pl.when(pl.col("n_images") > 1).then(several).otherwise("view"))
        .group_by("i", "key", "evidence", maintain_order=True).agg(pl.col("text").str.join("; "))
        .with_columns(answer=sentence(pl.col("text")), fact=pl.lit("view"))
    )  # fmt: skip
    frames = [question_rows(template, with_bits(template, answers), 0)]

    template = templates["view_choice"]
    single = with_bits(template, views.filter(~pl.col("open")))
    single = single.with_columns(n_known=pl.col("known").list.sum())
    position = draws.picks(single["bits"].to_numpy(), "image", single["n_known"].to_numpy())
    single = (
        single.with_columns(pl.Series("position", position))
        .explode("views", "known").with_columns(n=pl.int_range(1, pl.len() + 1).over("i")).filter("known")
        .filter(pl.int_range(pl.len()).over("i") == pl.col("position"))
        .with_columns(
            about=pl.lit("view"), image=image_words("n", "n_images"),
            fact=pl.concat_str(pl.lit("view|"), "n"),
        )
    )  # fmt: skip
    frames.append(
        question_rows(template, closed_choice(template, single, "views", ("PA", "AP", "LATERAL")), 0)
    )

    exposed = evidence.studies.filter(pl.col("exposure").is_not_null()).with_columns(
        about=pl.lit("exposure"),
        fact=pl.lit("exposure"),
        evidence=pl.concat_str("source", pl.lit(": exposure")),
    )
    coin = draws.uniforms(exposed["key"].to_numpy(), "exposure/format") < 0.5
    template = templates["exposure"]
    rows = with_bits(template, exposed.filter(pl.Series(coin))).with_columns(
        answer=answer_words(template, "exposure")
    )
    frames.append(question_rows(template, rows, 1))
    template = templates["exposure_choice"]
    rows = closed_choice(
        template, with_bits(template, exposed.filter(pl.Series(~coin))), "exposure", EXPOSURES
    )
    return [*frames, question_rows(template, rows, 1)]


def identification(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 2: yes/no for findings of known status, choices, and the open list."""
    known = evidence.known
    certain = known.filter(pl.col("status") != "uncertain")
    implied = (pl.col("status") == "absent") & (pl.col("tier") == 2)
    certain = certain.with_columns(pl.Series("drawn", draw(certain, "name", "presence/order")))
    place = pl.col("drawn").rank("ordinal").over("i", implied.alias("implied"))
    asked = certain.with_columns(implied.alias("implied")).with_columns(place=place)
    asked = asked.filter(~pl.col("implied") | (pl.col("place") <= IMPLIED_NO))
    template = templates["presence"]
    asked = asked.with_columns(
        rank=pl.col("drawn").rank("ordinal").over("i"),
        finding="name",
        answer=answer_words(template, "status"),
        fact=pl.concat_str("name", pl.lit("|presence")),
    )
    frames = [question_rows(template, with_bits(template, asked, "name"), pl.col("rank"))]

    present = known.filter(pl.col("status") == "present")
    fair = _fair_distractors(known, present)
    for name, rank in (("one", 1000), ("several", 1001)):
        frames.append(_choice_of_findings(templates[name], present, fair, rank))
    return [*frames, *_list(templates["list"], known)]


def _fair_distractors(known: pl.DataFrame, present: pl.DataFrame) -> pl.DataFrame:
    """Absent findings (i, key, name, evidence) that are no general or special form of a present one."""
    pairs = [(name, other) for name in FINDINGS for other in related([name])]
    lines = pl.DataFrame(pairs, schema=["name", "other"], orient="row")
    unfair = present.select("i", "name").join(lines, on="name").select("i", name="other").unique()
    absent = known.filter(pl.col("status") == "absent").select("i", "key", "name", "evidence")
    return absent.join(unfair, on=["i", "name"], how="anti")


def _choice_of_findings(
    template: Template, present: pl.DataFrame, fair: pl.DataFrame, rank: int
) -> pl.DataFrame:
    """One choice per study: 1 right of 3-4 options ("one"), or 2-3 right of 3-5 ("several")."""
    several = template.name == "several"
    most_right, most_wrong, least_right, least_wrong = (3, 2, 2, 1) if several else (1, 3, 1, 2)
    sides = []
    for frame, right, most in ((present, True, most_right), (fair, False, most_wrong)):
        frame = frame.select("i", "key", "name", "evidence")
        drawn = pl.Series("drawn", draw(frame, "name", f"{template.name}/options"))
        place = pl.col("drawn").rank("ordinal").over("i")
        sides.append(frame.with_columns(drawn).filter(place <= most).with_columns(right=pl.lit(right)))
    long = pl.concat(sides)
    right = pl.col("right").sum().over("i")
    long = long.filter((right >= least_right) & (pl.len().over("i") - right >= least_wrong))
    long = long.with_columns(about=pl.lit(template.name))
    device = pl.when(pl.col("name").is_in(DEVICES)).then(pl.lit("foreign_body"))
    long = long.with_columns(kind=device.otherwise(pl.lit("abnormality")))
    frame = (
        long.sort("i", "name").group_by("i", "key", "about", maintain_order=True).agg(
            pl.col("name").filter("right").str.join("|presence; ").alias("facts"),
            pl.col("name").filter("right").first().alias("finding"),
            pl.col("kind").filter("right").first(),
            pl.col("evidence").unique(maintain_order=True).str.join("; "),
        ).with_columns(fact=pl.concat_str("facts", pl.lit("|presence")))
    )  # fmt: skip
    frame = with_bits(template, frame)
    return question_rows(
        template, choice_options(frame, long.select("i", "about", "right", option="name")), rank
    )


def _list(template: Template, known: pl.DataFrame) -> list[pl.DataFrame]:
    """The open list of what is present; "none" only when most of the common findings are known absent."""
    present = (
        known.filter(pl.col("status") == "present").sort("i", "finding")
        .group_by("i", "key", maintain_order=True)
        .agg(
            pl.col("name").str.join(", ").alias("findings"),
            pl.col("evidence").unique(maintain_order=True).str.join("; "),
        )
        .with_columns(answer=wording.fill(template.answers["some"]))
    )  # fmt: skip
    normal = normal_studies(known).with_columns(answer=pl.lit(template.answers["none"]))
    rows = pl.concat([frame.select("i", "key", "answer", "evidence") for frame in (present, normal)])
    rows = with_bits(template, rows.with_columns(fact=pl.lit("composite|list of findings")))
    return [question_rows(template, rows, 1002)]


def normal_studies(known: pl.DataFrame) -> pl.DataFrame:
    """(i, key, evidence) of studies without any finding: called normal as a whole, or a scene without one.

    Nothing is present or uncertain, and the absences rest on a study-level "normal" (tier 2) or on the truth
    of a simulated scene; a few explicit negatives alone do not make a normal study.
    """
    return (
        known.group_by("i", "key")
        .agg(
            (pl.col("status") == "absent").all().alias("clear"),
            ((pl.col("tier") == 2) | (pl.col("evidence") == "simulated")).any().alias("whole"),
            pl.col("evidence").unique().sort().str.join("; "),
        )
        .filter(pl.col("clear") & pl.col("whole"))
        .select("i", "key", "evidence")
    )


def finding_phrase(place_words: str) -> pl.Expr:
    """ "moderate right pleural effusion in the lower lobe", from the columns severity, side, name, place."""
    place = pl.when(pl.col("place").is_not_null()).then(wording.fill(place_words))
    return pl.concat_str("severity", "side", "name", place, separator=" ", ignore_nulls=True)


def attributes(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 3: side, severity, description and boxes of present findings, boxes of regions."""
    # Questions about one finding stay together, in the order of the vocabulary: rank 10 x finding + step.
    order = pl.col("finding").to_physical().cast(pl.Int32) * 10
    present = evidence.known.filter(pl.col("status") == "present").with_columns(rank=order, about="name")
    frames = []
    for name, column, keys, step in (("side", "side", SIDES, 0), ("severity", "severity", SEVERITIES, 1)):
        rows = present.filter(pl.col(column).is_not_null())
        rows = with_bits(templates[name], rows, "name").with_columns(
            fact=pl.concat_str("name", pl.lit(f"|{name}"))
        )
        rows = closed_choice(templates[name], rows, column, keys)
        frames.append(question_rows(templates[name], rows, pl.col("rank") + step))

    template = templates["describe"]
    described = present.filter(pl.any_horizontal(pl.col("side", "severity", "place").is_not_null()))
    place_fact = pl.concat_str("name", pl.lit("|place"))
    described = described.with_columns(
        answer=sentence(finding_phrase(template.answers["place"])),
        fact=pl.when(pl.col("place").is_not_null())
        .then(place_fact)
        .otherwise(pl.lit("composite|description")),
    )
    described = with_bits(template, described, "name")
    frames.append(question_rows(template, described, pl.col("rank") + 2))
    return [*frames, *_detection(evidence, present, templates)]


def _detection(evidence: Evidence, present: pl.DataFrame, templates: Templates) -> list[pl.DataFrame]:
    """Boxes of present findings, all of an image in one answer, and of a few drawn regions per image."""
    box = pl.concat_list("x1", "y1", "x2", "y2")
    boxes = (
        evidence.boxes.sort("i", "image_id", "target", "x1", "y1")
        .group_by("i", "key", "n_images", "image_id", "target", maintain_order=True)
        .agg(
            box.alias("bbox_list"),
            pl.col("reader").unique(maintain_order=True).str.join("; ").alias("evidence"),
        )
        .with_columns(
            image=image_words("image_id", "n_images"),
            num_of_images="n_images",
            about=pl.concat_str("image_id", pl.lit("/"), "target"),
            fact=pl.concat_str("target", pl.lit("|box "), "image_id"),
        )
    )  # fmt: skip
    answers = [format_boxes(*row) for row in boxes.select("target", "bbox_list").iter_rows()]
    boxes = boxes.with_columns(pl.Series("answer", answers, dtype=pl.String))
    found = boxes.join(
        present.select("i", "name", "rank", "kind"), left_on=["i", "target"], right_on=["i", "name"]
    )
    found = with_bits(templates["locate"], found.with_columns(finding="target"), "about")
    regions = boxes.filter(pl.col("target").is_in(list(REGIONS))).with_columns(region="target")
    drawn = pl.Series("drawn", draw(regions, "about", "regions"))
    regions = regions.with_columns(drawn).with_columns(
        place=pl.col("drawn").rank("ordinal").over("i", "image_id").cast(pl.Int32)
    )
    regions = with_bits(templates["region"], regions.filter(pl.col("place") <= REGIONS_ASKED), "about")
    return [
        question_rows(templates["locate"], found, pl.col("rank") + 3),
        question_rows(templates["region"], regions, 10_000 + pl.col("place")),
    ]


def report(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 8: the real sections where there are any, else a summary composed of the known statuses."""
    frames, written = [], []
    for rank, name in enumerate(("findings", "impression")):
        texts = evidence.studies.filter(pl.col(f"{name}_text").is_not_null()).select(
            "i", "key", "source", pl.col(f"{name}_text").alias("text")
        )
        kept = pl.Series("answer", [legible(text) for text in texts["text"]], dtype=pl.String)
        texts = texts.with_columns(kept).filter(pl.col("answer") != "")
        cut = pl.when(pl.col("answer") != pl.col("text")).then(pl.lit(", sentences with XXXX left out"))
        texts = texts.with_columns(
            fact=pl.lit(f"report|{name}"),
            evidence=pl.concat_str("source", pl.lit(f": {name}_text"), cut.otherwise(pl.lit(""))),
        )
        frames.append(question_rows(templates[name], with_bits(templates[name], texts), rank))
        written.append(texts.select("i"))
    composed = evidence.known.join(pl.concat(written), on="i", how="anti")
    return [*frames, _summary(templates["summary"], composed)]


def legible(text: str) -> str:
    """A report text without the sentences that hold XXXX, the mark of removed words, or no word at all.

    >>> legible("Normal chest x-XXXX. . The heart is normal.")
    'The heart is normal.'
    """
    sentences = re.split(r"(?<=[.!?])(?<!\d\.)\s+", text)
    return " ".join(
        sentence for sentence in sentences if "XXXX" not in sentence and re.search(r"\w", sentence)
    )


def _summary(template: Template, known: pl.DataFrame) -> pl.DataFrame:
    """One composed impression per study: present findings with side and grade, possible ones, denied ones."""
    core = {name: place for place, name in enumerate(CORE)}
    denied = known.filter((pl.col("status") == "absent") & pl.col("name").is_in(CORE)).with_columns(
        order=pl.col("name").replace_strict(core, return_dtype=pl.Int32)
    )
    stated = known.filter(pl.col("status") != "absent").with_columns(
        order=pl.col("finding").to_physical().cast(pl.Int32)
    )
    normal = normal_studies(known).select("i", "key", normal=pl.lit(template.answers["none"]))
    denied_text = wording.fill(template.answers["absent"])
    possible_text = wording.fill(template.answers["uncertain"])
    parts = known.group_by("i", "key").agg(pl.col("evidence").unique().sort().str.join("; ").alias("columns"))
    for column, frame, most, text in (
        ("present", stated.filter(pl.col("status") == "present"), MOST_PRESENT, None),
        ("possible", stated.filter(pl.col("status") == "uncertain"), MOST_ABSENT, possible_text),
        ("denied", denied, MOST_ABSENT, denied_text),
    ):
        phrase = sentence(pl.concat_str("severity", "side", "name", separator=" ", ignore_nulls=True))
        words = phrase if text is None else pl.col("name")
        joined = (
            frame.sort("i", "order").group_by("i", maintain_order=True)
            .agg(words.head(most).str.join(" " if text is None else ", ").alias("findings"))
            .select("i", (pl.col("findings") if text is None else text).alias(column))
        )  # fmt: skip
        parts = parts.join(joined, on="i", how="left")
    parts = parts.join(normal.select("i", "normal"), on="i", how="left").with_columns(
        answer=pl.concat_str("normal", "present", "possible", "denied", separator=" ", ignore_nulls=True),
        fact=pl.lit("composite|summary"),
        evidence=pl.concat_str(pl.lit("composed of "), "columns"),
    )
    return question_rows(template, with_bits(template, parts.filter(pl.col("answer") != "")), 2)
