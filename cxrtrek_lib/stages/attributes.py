"""Stage 3: side, severity, place and certainty of what is seen; grounding.py asks where it is."""

import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import DIAGNOSES, GRADED
from cxrtrek_lib.stages import places, wording
from cxrtrek_lib.stages.grounding import grounding
from cxrtrek_lib.stages.question_rows import (
    Evidence,
    Templates,
    answer_words,
    choice_options,
    closed_choice,
    question_rows,
    sentence,
    with_bits,
)
from cxrtrek_lib.stages.wording import Template
from cxrtrek_lib.tables import CERTAINTIES, SEVERITIES, SIDES

OPEN_SHARE = 0.5  # of the questions about side, severity and place that are asked without options

# Findings that are counted: what two or more of them are called.
SEVERAL = {
    "pleural effusion": "pleural effusions", "pneumothorax": "pneumothoraces",
    "pleural plaque": "pleural plaques",
    "pleural mass": "pleural masses", "lung opacity": "lung opacities",
    "airspace opacity": "airspace opacities", "infiltrate": "infiltrates",
    "interstitial opacity": "interstitial opacities", "ground glass opacity": "ground glass opacities",
    "air bronchogram": "air bronchograms", "lung lesion": "lung lesions", "nodule": "nodules",
    "mass": "masses", "pseudonodule": "pseudonodules", "granuloma": "granulomas",
    "calcification": "calcifications", "air-fluid level": "air-fluid levels", "lung cyst": "lung cysts",
    "bulla": "bullae", "lymph node calcification": "lymph node calcifications", "fracture": "fractures",
    "rib fracture": "rib fractures", "clavicle fracture": "clavicle fractures",
    "humeral fracture": "humeral fractures", "cervical rib": "cervical ribs",
    "soft tissue mass": "soft tissue masses", "calcified fibroadenoma": "calcified fibroadenomas",
    "pacemaker": "pacemakers", "central venous catheter": "central venous catheters",
    "chest tube": "chest tubes", "breast implant": "breast implants",
}  # fmt: skip


def attributes(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 3: attributes of each finding, its description, and boxes. Diagnoses are left to stage 7.

    Side, severity and place of a present finding are asked once each, open or with options; certainty, where
    the source tells it, of present and uncertain ones. The description puts side, severity and place
    together. Severity counts where grades are usual (findings.GRADED), place where it makes sense
    (places.sensible).
    """
    # Questions about one finding stay together, in the order of the vocabulary: rank 10 x finding + step.
    seen = evidence.known.filter(pl.col("status") != "absent", ~pl.col("name").is_in(DIAGNOSES))
    seen = seen.with_columns(
        rank=pl.col("finding").to_physical().cast(pl.Int32) * 10,
        about="name",
        severity=pl.when(pl.col("name").is_in(GRADED)).then("severity"),
        place=places.sensible(),
    )
    certainty = templates["certainty"]
    told = _about(certainty, seen.filter(pl.col("certainty").is_not_null()), "certainty")
    frames = [
        question_rows(certainty, closed_choice(certainty, told, "certainty", CERTAINTIES), pl.col("rank"))
    ]

    present = _formats(seen.filter(pl.col("status") == "present"))
    for step, (name, keys) in enumerate((("side", SIDES), ("severity", SEVERITIES)), start=1):
        rows = present.filter(pl.col(name).is_not_null())
        template = templates[f"{name}_open"]
        asked = _about(template, rows.filter(f"{name}_open"), name)
        asked = asked.with_columns(answer=answer_words(template, name))
        frames.append(question_rows(template, asked, pl.col("rank") + step))
        asked = _about(templates[name], rows.filter(~pl.col(f"{name}_open")), name)
        asked = closed_choice(templates[name], asked, name, keys)
        frames.append(question_rows(templates[name], asked, pl.col("rank") + step))
    frames += _places(present, templates)

    present = present.with_columns(phrase=phrase(templates["describe"]))
    frames.append(_describe(templates["describe"], present))
    return [*frames, *grounding(evidence, present, templates)]


def _formats(present: pl.DataFrame) -> pl.DataFrame:
    """Add side_open, severity_open, place_open: whether the question is asked without options."""
    keys = present["key"].to_numpy()
    coins = [
        pl.Series(f"{name}_open", draws.uniforms(keys, wording.word_keys(present["name"], f"{name}/format")))
        < OPEN_SHARE
        for name in ("side", "severity", "place")
    ]
    can_choose = pl.col("place").is_in([place for kind in places.KINDS for place in kind])
    return present.with_columns(coins).with_columns(place_open=pl.col("place_open") | ~can_choose)


def _about(template: Template, rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Rows about one attribute of findings, with what every question row needs."""
    return with_bits(template, rows, "name").with_columns(fact=pl.concat_str("name", pl.lit(f"|{name}")))


def _places(present: pl.DataFrame, templates: Templates) -> list[pl.DataFrame]:
    """The place of each finding that has one: open, or to choose among the places of its kind."""
    rows = present.filter(pl.col("place").is_not_null())
    template = templates["place_open"]
    asked = _about(template, rows.filter("place_open"), "place")
    asked = asked.with_columns(answer=sentence(where(template, with_side=False)))
    frames = [question_rows(template, asked, pl.col("rank") + 3)]

    template = templates["place"]
    asked = _about(template, rows.filter(~pl.col("place_open")), "place")
    asked = asked.with_columns(left=(pl.col("side") == "left").fill_null(False))
    long = asked.select("i", "about", "place", "left").join(places.rivals(), on=["place", "left"])
    asked = choice_options(asked, long.with_columns(right=pl.col("option") == pl.col("place")))
    return [*frames, question_rows(template, asked, pl.col("rank") + 3)]


def _describe(template: Template, present: pl.DataFrame) -> pl.DataFrame:
    """Side, severity and place in one phrase, unless an open question already asks for all that is known."""
    known = [pl.col(name).is_not_null() for name in ("side", "severity", "place")]
    alone = pl.sum_horizontal(known) == 1
    repeated = pl.any_horizontal(
        is_known & pl.col(f"{name}_open")
        for is_known, name in zip(known, ("side", "severity", "place"), strict=True)
    )
    described = present.filter(pl.any_horizontal(known) & ~(alone & repeated))
    described = with_bits(template, described, "name").with_columns(
        answer=sentence(pl.col("phrase")), fact=pl.lit("composite|description")
    )
    return question_rows(template, described, pl.col("rank") + 4)


def where(template: Template, *, with_side: bool) -> pl.Expr:
    """ "in the right lower lobe", "at the lung bases", from the columns place and side; null without a place.

    template  has the answers "in" and "at", each with the slot {place}
    """
    known = pl.col("place").is_not_null()
    key = pl.when(known).then(
        pl.when(pl.col("place").is_in(places.AT)).then(pl.lit("at")).otherwise(pl.lit("in"))
    )
    text = key.replace_strict(template.answers, return_dtype=pl.String)
    return text.str.replace("{place}", places.words(with_side=with_side), literal=True)


def phrase(template: Template) -> pl.Expr:
    """ "moderate right pleural effusion", "consolidation in the left lower lobe", "bilateral nodules".

    From the columns severity, side, name and place; template as in `where`. A place takes the side to itself.
    """
    side = pl.when(~places.takes_side()).then(places.side_word("side", "name"))
    name = pl.when(pl.col("side") == "bilateral").then(pl.col("name").replace(SEVERAL)).otherwise("name")
    place = where(template, with_side=True)
    return pl.concat_str("severity", side, name, place, separator=" ", ignore_nulls=True)
