"""Stages 1 and 2: what kind of image this is, and which findings there are."""

import numpy as np
import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.findings import DIAGNOSES, REGION_OF
from cxrtrek_lib.stages import wording
from cxrtrek_lib.stages.choices import IMPLIES, choices, touched
from cxrtrek_lib.stages.free_zones import free_zones
from cxrtrek_lib.stages.question_rows import (
    Evidence,
    Templates,
    answer_words,
    closed_choice,
    draw,
    image_words,
    listed,
    question_rows,
    with_bits,
)
from cxrtrek_lib.stages.told import capital
from cxrtrek_lib.stages.wording import Template, coded
from cxrtrek_lib.tables import EXPOSURES, STATUSES

VIEWS = ("PA", "AP", "LATERAL")
PROJECTIONS = {"PA": {"PA", "frontal"}, "AP": {"AP", "frontal"}, "LATERAL": {"LATERAL"}, "UNKNOWN": set()}
ABNORMAL_SHARE = 0.3  # of abnormal studies, asked whether anything is abnormal: normal ones are fewer
MOST_RULED_OUT = 6  # findings that the open answer about absences names


def image_validation(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 1: the projection when the table knows it; exposure and quality when table or scene know them."""
    return [
        *_projection(evidence.studies, templates),
        *_exposure(evidence.studies, templates),
        *_quality(evidence.studies, templates),
    ]


def _projection(studies: pl.DataFrame, templates: Templates) -> list[pl.DataFrame]:
    """One question per study, open or choice by the draw, and yes or no where every view is known."""
    # Few different sequences of views occur: what each allows is worked out once.
    sequences, code = coded(studies["views"].list.join(" "))
    said = _sequences(templates["view"], sequences)
    studies = studies.select("i", "key", "n_images", evidence=pl.concat_str("source", pl.lit(": view")))
    n_known = said["known"].list.len().to_numpy()[code]
    complete = (n_known > 0) & (n_known == studies["n_images"].to_numpy())
    keys = studies["key"].to_numpy()
    is_open = complete & (draws.uniforms(keys, "view/format") < 0.5)

    def rows_of(template: Template, asked: np.ndarray, *columns: str) -> pl.DataFrame:
        sequence = said.select(columns)[code[asked]]
        return with_bits(template, studies.filter(pl.Series(asked)).with_columns(sequence))

    rows = rows_of(templates["view"], is_open, "answer", "fact")
    frames = [question_rows(templates["view"], rows, 0)]

    template, asked = templates["view_choice"], ~is_open & (n_known > 0)
    rows = rows_of(template, asked, "views", "known")
    place = pl.Series(draws.picks(rows["bits"].to_numpy(), "image", n_known[asked]))
    rows = rows.with_columns(n=pl.col("known").list.get(place)).with_columns(
        view=pl.col("views").list.get(pl.col("n") - 1),
        image=image_words("n", "n_images"),
        fact=pl.concat_str(pl.lit("view|"), "n"),
    )
    frames.append(question_rows(template, closed_choice(template, rows, "view", VIEWS), 0))

    # Yes or No is drawn first, then a projection of which it is true: so both are equally likely.
    yes = (draws.uniforms(keys, "view/yes") < 0.5) | (said["others"].list.len() == 0).to_numpy()[code]
    several = (studies["n_images"] > 1).to_numpy()
    for name, part in (("view_check", ~several), ("view_included", several)):
        template = templates[name]
        for status, column, of in (("present", "projections", yes), ("absent", "others", ~yes)):
            rows = rows_of(template, complete & part & of, column, "fact")
            place = draws.picks(rows["bits"].to_numpy(), "projection", rows[column].list.len().to_numpy())
            view = pl.col(column).list.get(pl.Series(place))
            rows = rows.with_columns(
                view=view.replace_strict(template.answers, return_dtype=pl.String),
                answer=pl.lit(template.answers[status]),
            )
            frames.append(question_rows(template, rows, 1))
    return frames


def _sequences(template: Template, sequences: list[str]) -> pl.DataFrame:
    """One row per sequence of views ("PA LATERAL").

    views        the sequence as a list
    known        numbers, from 1, of the images whose view is known
    answer       the sequence in words; fact: "view|1; view|2"
    projections  what is among the images (PA, AP, LATERAL, frontal); others: what is not
    """
    rows = []
    for sequence in sequences:
        views = sequence.split()
        words = [template.answers.get(view, view) for view in views]
        if len(views) > 1:
            several = template.answers["several"]
            words = [
                several.replace("{n}", str(n)).replace("{view}", word)
                for n, word in enumerate(words, start=1)
            ]
        text = "; ".join(words)
        shown = set().union(*(PROJECTIONS[view] for view in views))
        rows.append({
            "views": views,
            "known": [n for n, view in enumerate(views, start=1) if view != "UNKNOWN"],
            "answer": f"{text[:1].upper()}{text[1:]}.",
            "fact": "; ".join(f"view|{n}" for n in range(1, len(views) + 1)),
            "projections": sorted(shown),
            "others": sorted({*VIEWS, "frontal"} - shown),
        })  # fmt: skip
    texts = pl.List(pl.String)
    return pl.DataFrame(rows, schema={
        "views": texts, "known": pl.List(pl.Int64), "answer": pl.String, "fact": pl.String,
        "projections": texts, "others": texts,
    })  # fmt: skip


def _from(column: str) -> pl.Expr:
    """Evidence of what the scene decides when the film is simulated, and the source's table otherwise."""
    simulated = pl.col("image_origin") == "simulated"
    return pl.concat_str(
        pl.when(simulated).then(pl.lit("simulated")).otherwise("source"), pl.lit(f": {column}")
    )


def _exposure(studies: pl.DataFrame, templates: Templates) -> list[pl.DataFrame]:
    """One question per study of known exposure, open or choice by the draw."""
    studies = studies.filter(pl.col("exposure").is_not_null()).with_columns(
        fact=pl.lit("exposure"), evidence=_from("exposure")
    )
    heads = pl.Series(draws.uniforms(studies["key"].to_numpy(), "exposure/format") < 0.5)
    template = templates["exposure"]
    rows = with_bits(template, studies.filter(heads)).with_columns(answer=answer_words(template, "exposure"))
    choice = templates["exposure_choice"]
    chosen = closed_choice(choice, with_bits(choice, studies.filter(~heads)), "exposure", EXPOSURES)
    return [question_rows(template, rows, 2), question_rows(choice, chosen, 2)]


def _quality(studies: pl.DataFrame, templates: Templates) -> list[pl.DataFrame]:
    """One question per study of known quality: open, or yes/no by the draw where the film is simulated.

    Tables name what is wrong with a study, never that nothing is: a yes/no question would have one answer.
    """
    studies = studies.filter(pl.col("quality").is_not_null()).with_columns(
        fact=pl.lit("quality"), evidence=_from("quality"), defects=pl.col("quality").list.join(", ")
    )
    heads = pl.Series(draws.uniforms(studies["key"].to_numpy(), "quality/format") < 0.5)
    closed = heads & (studies["image_origin"] == "simulated")
    limited = pl.col("quality").list.len() > 0
    template, check = templates["quality"], templates["quality_check"]
    some, none = wording.fill(template.answers["some"]), pl.lit(template.answers["none"])
    rows = studies.filter(~closed).with_columns(answer=pl.when(limited).then(some).otherwise(none))
    status = pl.when(limited).then(pl.lit("present")).otherwise(pl.lit("absent"))
    checked = studies.filter(closed).with_columns(status=status)
    checked = checked.with_columns(answer=answer_words(check, "status"))
    return [
        question_rows(template, with_bits(template, rows), 3),
        question_rows(check, with_bits(check, checked), 3),
    ]


def identification(evidence: Evidence, templates: Templates) -> list[pl.DataFrame]:
    """Stage 2: yes/no questions first, then choices, then lists. Diagnoses are left to stage 7."""
    known = evidence.known
    # Where a special form is present or possible, the general finding is not absent, whatever the table says.
    contradicted = (known["status"] == "absent") & touched(known, IMPLIES)
    seen = known.filter(~contradicted & ~known["name"].is_in(list(DIAGNOSES)))
    present = seen.filter(pl.col("status") == "present")
    abnormal, devices = (
        listed(present.filter(pl.col("kind") == kind)) for kind in ("abnormality", "foreign_body")
    )
    normal = normal_studies(known.filter(pl.col("kind") == "abnormality"))
    without = _without_devices(seen)
    asked = seen.filter(pl.col("balanced") & (pl.col("status") != "uncertain"))
    device_rows, asked = _any_device(templates["any_device"], asked, devices, without)
    return [
        _any_abnormality(templates["any_abnormality"], asked, abnormal, normal),
        device_rows,
        _presence(templates["presence"], asked),
        *choices(known, evidence.studies.height, templates),
        _status(templates["status"], seen),
        _list(templates["devices"], devices, without, 6),
        _list(templates["list"], abnormal, normal, 7),
        free_zones(evidence, templates["free_zones"], 8),
        *_unsure_and_ruled_out(templates, seen),
        _by_region(templates["by_region"], present),
    ]


def _presence(template: Template, asked: pl.DataFrame) -> pl.DataFrame:
    """Yes or no for every finding in `asked`, in drawn order."""
    asked = asked.select(
        "i", "key", "kind", "evidence", "finding", answer=answer_words(template, "status"),
        fact=pl.concat_str("name", pl.lit("|presence")),
    )  # fmt: skip
    return question_rows(template, with_bits(template, asked, "finding"), 1)


def _any_abnormality(
    template: Template, asked: pl.DataFrame, abnormal: pl.DataFrame, normal: pl.DataFrame
) -> pl.DataFrame:
    """Yes for a share of the abnormal studies that answer a yes/no question with Yes, No for normal ones."""
    share = pl.Series(draws.uniforms(abnormal["key"].to_numpy(), "any abnormality") < ABNORMAL_SHARE)
    yes = asked.filter((pl.col("status") == "present") & (pl.col("kind") == "abnormality")).select("i")
    yes = abnormal.filter(share).join(yes, on="i", how="semi")
    return question_rows(template, with_bits(template, _yes_and_no(template, yes, normal)), 0)


def _any_device(
    template: Template, asked: pl.DataFrame, devices: pl.DataFrame, without: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Question rows, and `asked` without the rows that they replace.

    Of a study that knows a single device ("support devices"), asking for that one and for any would be one
    question in other words: one of the two is drawn.
    """
    known = asked.filter(pl.col("kind") == "foreign_body")
    known = known.group_by("i").agg(pl.len(), shown=(pl.col("status") == "present").any())
    rows = _yes_and_no(template, devices, without).join(known, on="i")
    rows = rows.filter(pl.col("shown") == (pl.col("status") == "present"))
    heads = pl.Series(draws.uniforms(rows["key"].to_numpy(), "any device") < 0.5)
    rows = rows.filter((pl.col("len") > 1) | heads)
    replaced = rows.filter(pl.col("len") == 1).select("i", kind=pl.lit("foreign_body"))
    asked = asked.join(replaced, on=["i", "kind"], how="anti", maintain_order="left")
    return question_rows(template, with_bits(template, rows), 0), asked


def _yes_and_no(template: Template, yes: pl.DataFrame, no: pl.DataFrame) -> pl.DataFrame:
    """(i, key, evidence, status, answer, fact) of studies whose answer is Yes or No."""
    columns = ("i", "key", "evidence")
    rows = [
        frame.select(*columns, status=pl.lit(status)) for frame, status in ((yes, "present"), (no, "absent"))
    ]
    fact = pl.lit(f"composite|{template.name.replace('_', ' ')}")
    return pl.concat(rows).with_columns(answer=answer_words(template, "status"), fact=fact)


def _status(template: Template, seen: pl.DataFrame) -> pl.DataFrame:
    """Present, absent or possible? Asked of every possible finding, and of at most twice as many present and
    twice as many absent ones.

    A study without a possible finding is not asked: the answer would never be "possible". Nor is what a film
    hides, which is uncertain as well, but nothing that anybody could suspect there.
    """
    possible = pl.col("status") == "uncertain"
    seen = seen.filter(~(possible & (pl.col("evidence") == "simulated")) & (possible | pl.col("balanced")))
    seen = seen.join(seen.filter(possible).group_by("i").agg(most=2 * pl.len()), on="i")
    code = seen["status"].cast(pl.Enum(STATUSES)).to_physical().to_numpy().astype(np.int64)
    group = seen["i"].to_numpy().astype(np.int64) * len(STATUSES) + code
    order = np.lexsort((draw(seen, "finding", "stage2/status"), group))
    group = group[order]
    place = np.arange(len(group)) - np.searchsorted(group, group)
    asked = seen[order[place < seen["most"].to_numpy()[order]]]
    asked = asked.with_columns(fact=pl.concat_str("name", pl.lit("|presence")))
    chosen = closed_choice(template, with_bits(template, asked, "finding"), "status", STATUSES)
    return question_rows(template, chosen, 5)


def _list(template: Template, some: pl.DataFrame, none: pl.DataFrame, rank: int) -> pl.DataFrame:
    """The open list of what is present; "none" only where absence is known."""
    answer = wording.fill(template.answers["some"].replace("{findings}", "{names}"))
    some = some.with_columns(answer=capital(answer))
    none = none.with_columns(answer=pl.lit(template.answers["none"]))
    rows = pl.concat([frame.select("i", "key", "answer", "evidence") for frame in (some, none)])
    rows = rows.with_columns(fact=pl.lit(f"composite|{template.name}"))
    return question_rows(template, with_bits(template, rows), rank)


def _by_region(template: Template, present: pl.DataFrame) -> pl.DataFrame:
    """The list region by region, as a reader searches, of studies with findings in two regions or more."""
    # A region without a word in the template (devices) is left out.
    words = {name: template.answers.get(region) for name, region in REGION_OF.items()}
    rows = present.with_columns(region=pl.col("name").replace_strict(words, default=None))
    rows = rows.drop_nulls("region").filter(pl.col("region").n_unique().over("i") > 1)
    lists = rows.group_by("i", "region", maintain_order=True).agg(
        pl.first("key"),
        names=pl.col("name").str.join(", "),
        evidence=pl.col("evidence").unique(maintain_order=True).str.join("; "),
    )
    answer = capital(wording.fill(template.answers["some"].replace("{findings}", "{names}")))
    lists = lists.with_columns(answer=answer, fact=pl.concat_str(pl.lit("composite|"), "region"))
    return question_rows(template, with_bits(template, lists, "region"), 11)


def _unsure_and_ruled_out(templates: Templates, seen: pl.DataFrame) -> list[pl.DataFrame]:
    """The open lists of what the report calls possible, and of what it denies in so many words (tier 1).

    What a simulated film hides is uncertain, too, but nothing that could be seen there: it is not listed.
    """
    unsure = seen.filter((pl.col("status") == "uncertain") & (pl.col("evidence") != "simulated"))
    denied = seen.filter((pl.col("status") == "absent") & (pl.col("tier") == 1))
    study = denied["i"].to_numpy()
    denied = denied.filter(pl.Series(np.arange(len(study)) - np.searchsorted(study, study) < MOST_RULED_OUT))
    frames = []
    for name, rows, rank in (("uncertain", unsure, 9), ("ruled_out", denied, 10)):
        template = templates[name]
        rows = listed(rows).with_columns(
            most=pl.lit(MOST_RULED_OUT), fact=pl.lit(f"composite|{name}"),
            answer=wording.fill(template.answers["some"].replace("{findings}", "{names}")),
        )  # fmt: skip
        frames.append(question_rows(template, with_bits(template, rows), rank))
    return frames


def normal_studies(known: pl.DataFrame) -> pl.DataFrame:
    """(i, key, evidence) of studies without any finding: called normal as a whole, or a scene without one.

    Nothing is present or uncertain, and the absences rest on a study-level "normal" (tier 2) or on the truth
    of a simulated scene; a few explicit negatives alone do not make a normal study.
    """
    whole = (pl.col("tier") == 2) | (pl.col("evidence") == "simulated")
    return _without(known.with_columns(whole=whole))


def _without_devices(known: pl.DataFrame) -> pl.DataFrame:
    """(i, key, evidence) of studies without foreign bodies: all devices are denied, or a scene has none."""
    whole = (pl.col("name") == "support devices") | (pl.col("evidence") == "simulated")
    return _without(known.filter(pl.col("kind") == "foreign_body").with_columns(whole=whole))


def _without(known: pl.DataFrame) -> pl.DataFrame:
    """(i, key, evidence) of studies all of whose rows are absences, one of them about the `whole`."""
    return (
        known.with_columns(clear=pl.col("status") == "absent")
        .group_by("i", maintain_order=True)
        .agg(pl.first("key"), pl.col("clear").all(), pl.col("whole").any(), "evidence")
        .filter(pl.col("clear") & pl.col("whole"))
        .select("i", "key", pl.col("evidence").list.unique().list.sort().list.join("; "))
    )
