"""The films, truth tables and questions of a cohort that selection.py chose.

Truth has two origins here, and `source_column` tells them apart. What can be seen comes from the scene that
was rendered ("simulated"). A diagnosis, and what the next study showed, come from the annotation ("chexpert:
Pneumonia"): a film cannot prove a diagnosis, and no film foretells the next one.
"""

import json
from pathlib import Path

import polars as pl

from cxrtrek_lib import build, files, paths, signs, tables
from cxrtrek_lib.findings import DIAGNOSES
from cxrtrek_lib.selection import Selection
from cxrtrek_lib.signs import REALISED_AS, SEEN_AS
from cxrtrek_lib.simulate import plan, render, truth_tables
from cxrtrek_lib.simulate.catalogue import RENDERABLE, SHOWN
from cxrtrek_lib.tables import CORNERS

AS_ANNOTATED = ", as annotated"  # marks the row of a next study, which may have a film of its own elsewhere
# A film knows of every finding whether it is there, and lacks most of them. Training cases are asked about
# all (each visit draws as many Yes as No, see batches.py) and so are external ones (AUROC needs no balance);
# in the other splits the commoner answer is asked so many times the rarer, at most (build.yes_no_balance).
EVERY_ANSWER, EVEN = 1e6, 1.0
YES_NO_RATIO = {"train": EVERY_ANSWER, "validate": EVEN, "test": EVEN, "external": EVERY_ANSWER}


def make(
    name: str, selection: Selection, *, size_px: int, seed: int, workers: int, folder: Path | None = None
) -> dict:
    """Render a cohort and write its tables and questions under data/films/<name>/ (or `folder`).

    png/<film>.png         one film per case and per prior study
    studies.parquet        the cases: images [current, prior], views [current], exposure, quality
    findings.parquet       truth of every film, cases and priors: each finding of catalogue.SHOWN present or
                           absent at tier 1 (source_column "simulated"), uncertain when it was planned and is
                           too faint to see, and without a row when the film leaves it open or it only follows
                           from another one (truth_tables.spoken); general names where they are annotated
                           (signs.REALISED_AS); diagnoses as annotated (see `diagnoses`)
    boxes.parquet          truth of every film under its own sample_id with image_id 1, and again as image_id
                           2 of the case that shows it as prior; reader "simulated"
    scenes.parquet         one row per film, see SCENES
    qa.parquet             the questions of the cases
    summary.json           what was chosen, left out, drawn and not visible; also returned
    An interrupted run goes on with the films that are already whole. Raises ValueError (one line).
    """
    folder = paths.FILMS / name if folder is None else Path(folder)
    studies = pl.concat([selection.cases, selection.priors])
    shown = signs.shown_as(selection.findings, studies, seed)
    known = _facts(studies, selection.findings, shown, selection.marks)
    names = [f"png/{sample_id.replace('/', '_')}.png" for sample_id in studies["sample_id"]]
    truths = render.render_all(
        [(facts, folder / file) for facts, file in zip(known, names, strict=True)],
        size_px=size_px,
        seed=seed,
        workers=workers,
    )
    told = {
        facts["sample_id"]: truth_tables.spoken(truth, _claimed(facts))
        for facts, truth in zip(known, truths, strict=True)
    }
    scenes = truth_tables.scenes(told, names)
    findings = pl.concat([
        truth_tables.findings(told, _general(selection.findings, shown)),
        diagnoses(selection.findings, told),
    ])  # fmt: skip
    boxes = truth_tables.boxes(told)
    rendered = _as_rendered(studies, scenes.select("sample_id", "film", "view", "exposure", "quality"))
    cases = rendered.filter(pl.col("sample_id").is_in(selection.cases["sample_id"].to_list()))
    qa = _questions(rendered, selection, findings, boxes, seed)
    pairs = cases.filter(pl.col("prior_study_id").is_not_null()).select("sample_id", prior="prior_study_id")
    second = boxes.rename({"sample_id": "prior"}).join(pairs, on="prior").with_columns(image_id=pl.lit(2))
    boxes = pl.concat([boxes, second.select(boxes.columns)], how="vertical_relaxed")
    tables.write_table("findings", findings, folder / "findings.parquet")
    tables.write_table("boxes", boxes, folder / "boxes.parquet")
    tables.write_table("qa", qa, folder / "qa.parquet")
    tables.write_table("studies", cases, folder / "studies.parquet")
    with files.whole(folder / "scenes.parquet") as temporary:
        scenes.write_parquet(temporary)
    summary = _summary(name, selection, told, size_px)
    with files.whole(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n")
    clear(folder, [*names, "scenes.parquet"])
    return summary


def clear(folder: Path, written: list[str]) -> None:
    """Delete what an earlier cohort left there: films, and tables of real films where these are simulated.

    written  files of this cohort, relative to its folder, beside the tables and the summary that each has
    """
    tables_of_all = [*(f"{name}.parquet" for name in ("studies", "findings", "boxes", "qa")), "summary.json"]
    kept = {folder / name for name in (*written, *tables_of_all)}
    for stray in {path for path in folder.rglob("*") if path.is_file()} - kept:
        stray.unlink()


def diagnoses(annotated: pl.DataFrame, told: dict[str, dict]) -> pl.DataFrame:
    """tables.FINDINGS rows of the diagnoses that the annotation states of the films in `told`.

    annotated  tables.FINDINGS of the films' studies; told  sample_id -> truth
    Status, tier, certainty and source_column stay the annotation's: "absent" is what a reader or a report
    said, and a diagnosis that is not mentioned has no row. A present one becomes uncertain when the film does
    not show any finding that stands for it (SEEN_AS). Side, place and grade are left out: the scene has its
    own.
    """
    seen = [
        (sample_id, name)
        for sample_id, truth in told.items()
        for row in truth["findings"]
        for name, all_signs in SEEN_AS.items()
        if row["status"] == "present" and row["finding"] in all_signs
    ]
    seen = pl.DataFrame(seen, schema={"sample_id": pl.String, "finding": pl.String}, orient="row").unique()
    rows = annotated.filter(
        pl.col("finding").is_in(list(DIAGNOSES)) & pl.col("sample_id").is_in(list(told))
    ).join(seen.with_columns(seen=True), on=["sample_id", "finding"], how="left", maintain_order="left")
    hidden = (pl.col("status") == "present") & pl.col("seen").is_null()
    nothing = pl.lit(None, dtype=pl.String)
    rows = rows.with_columns(
        status=pl.when(hidden).then(pl.lit("uncertain")).otherwise("status"),
        certainty=pl.when(~hidden).then("certainty"),
        laterality=nothing,
        location=nothing,
        severity=nothing,
    )
    return tables.conform("findings", rows.select(list(tables.FINDINGS)))


def changes(cases: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """How findings changed from the prior film of a case to its own: finding, change, cases (their number).

    cases     tables.STUDIES with prior_study_id; findings  the truth of all their films
    change    new, resolved, worse, better (by grade), other side, unchanged: present on both all the same
    """
    grade = {word: place for place, word in enumerate(tables.SEVERITIES)}
    told = findings.filter((pl.col("source_column") == "simulated") & (pl.col("status") != "uncertain"))
    told = told.select(
        "sample_id", "finding", "status", "laterality",
        grade=pl.col("severity").replace_strict(grade, default=None, return_dtype=pl.Int8),
    )  # fmt: skip
    pairs = cases.select("sample_id", prior="prior_study_id").drop_nulls().join(told, on="sample_id")
    pairs = pairs.join(told.rename({"sample_id": "prior"}), on=["prior", "finding"], suffix="_then")
    now, then = pl.col("status") == "present", pl.col("status_then") == "present"
    change = (
        pl.when(now & ~then).then(pl.lit("new"))
        .when(then & ~now).then(pl.lit("resolved"))
        .when(pl.col("laterality").ne_missing(pl.col("laterality_then"))).then(pl.lit("other side"))
        .when(pl.col("grade") > pl.col("grade_then")).then(pl.lit("worse"))
        .when(pl.col("grade") < pl.col("grade_then")).then(pl.lit("better"))
        .otherwise(pl.lit("unchanged"))
    )  # fmt: skip
    changed = pairs.filter(now | then).group_by("finding", change=change)
    return changed.agg(cases=pl.len()).sort("finding", "change")


def _facts(
    studies: pl.DataFrame, findings: pl.DataFrame, shown: pl.DataFrame, marks: pl.DataFrame | None
) -> list[dict]:
    """What scene.film needs of each study: one row per finding of the film that is stated.

    findings  the annotated ones; shown  what they are shown as (signs.shown_as)
    marks     readers' boxes to show, of one finding a study, one a side (tables.BOXES); None for none
    """
    absent = findings.filter((pl.col("status") == "absent") & pl.col("finding").is_in(RENDERABLE))
    absent = absent.with_columns(shown="finding", as_status="status")
    rows: dict[str, dict[str, list[dict]]] = {}
    for row in pl.concat([shown.drop_nulls("shown"), absent], how="diagonal").iter_rows(named=True):
        rows.setdefault(row["sample_id"], {}).setdefault(row["shown"], []).append(row)
    boxes: dict[str, dict[str, dict[str, list[float]]]] = {}
    for mark in () if marks is None else marks.iter_rows(named=True):
        of_finding = boxes.setdefault(mark["sample_id"], {}).setdefault(mark["target"], {})
        of_finding[mark["laterality"]] = [mark[corner] for corner in CORNERS]
    facts = []
    for study in studies.iter_rows(named=True):
        stated = [_united(name, each) for name, each in sorted(rows.get(study["sample_id"], {}).items())]
        drawn = boxes.get(study["sample_id"], {})
        stated = [_boxed(row, drawn[row["finding"]]) if row["finding"] in drawn else row for row in stated]
        facts.append({
            "sample_id": study["sample_id"], "patient_id": study["patient_id"], "view": study["views"][0],
            "sex": study["sex"], "findings": stated,
        })  # fmt: skip
    return facts


def _boxed(row: dict, boxes: dict[str, list[float]]) -> dict:
    """A finding's row with readers' boxes {side: box}, on their sides."""
    return row | {"laterality": "bilateral" if len(boxes) > 1 else next(iter(boxes)), "boxes": boxes}


def _claimed(facts: dict) -> set[str]:
    return {row["finding"] for row in facts["findings"] if row["status"] != "absent"}


def _united(name: str, rows: list[dict]) -> dict:
    """One row from all about a finding: present, else uncertain, else absent; attributes where all agree.

    A side, grade or place that no film can show is left open: the scene draws its own.
    """
    status = next(s for s in ("present", "uncertain", "absent") if any(row["as_status"] == s for row in rows))
    rows = [row for row in rows if row["as_status"] == status]
    sides = {row["laterality"] for row in rows} - {None}
    side = None if not sides else sides.pop() if len(sides) == 1 else "bilateral"

    def agreed(column: str) -> str | None:
        values = {row[column] for row in rows} - {None}
        return values.pop() if len(values) == 1 else None

    united = {
        "finding": name, "status": status, "laterality": side if side in SHOWN[name].sides else None,
        "location": agreed("location"), "severity": agreed("severity") if SHOWN[name].graded else None,
    }  # fmt: skip
    return united | {"location": None} if plan.impossible(united) else united


def _as_rendered(studies: pl.DataFrame, films: pl.DataFrame) -> pl.DataFrame:
    """Studies rows as the cohort shows them: one frontal view each, images [current, prior]."""
    prior = films.select(prior_study_id="sample_id", prior_film="film")
    rows = studies.drop("exposure", "quality").join(films, on="sample_id", maintain_order="left")
    rows = rows.join(prior, on="prior_study_id", how="left", maintain_order="left")
    return rows.with_columns(
        prior_study_id=pl.when(pl.col("prior_film").is_not_null()).then("prior_study_id"),
        views=pl.concat_list("view"),
        images=pl.concat_list("film", "prior_film").list.drop_nulls(),
        image_origin=pl.lit("simulated"),
    ).select(list(tables.STUDIES))


def _questions(
    rendered: pl.DataFrame, selection: Selection, findings: pl.DataFrame, boxes: pl.DataFrame, seed: int
) -> pl.DataFrame:
    """The questions of the cases. Their next studies take part as rows of their own, never asked about.

    rendered, findings, boxes  studies, truth and diagnoses of every film
    A next study is told by its annotation, also where it has a film of its own: that film's sides and grades
    are drawn, so nobody could foretell them. Only presence is left to compare: side, place and grade are
    taken out. A finding that it does not mention stays unknown; one that only it mentions is new, since the
    case's film does not show it.
    """
    later = selection.futures["sample_id"].to_list()
    nothing = pl.lit(None, dtype=pl.String)
    renamed = pl.concat_str("sample_id", pl.lit(AS_ANNOTATED)).alias("sample_id")
    futures = selection.futures.with_columns(renamed, prior_study_id=nothing, next_study_id=nothing)
    stated = selection.findings.filter(pl.col("sample_id").is_in(later)).with_columns(
        renamed, laterality=nothing, location=nothing, severity=nothing
    )
    linked = rendered.with_columns(next_study_id=pl.concat_str("next_study_id", pl.lit(AS_ANNOTATED)))
    studies, told = pl.concat([linked, futures]), pl.concat([findings, stated])
    asked = []
    for ratio in sorted(set(YES_NO_RATIO.values())):
        here = pl.col("split").is_in([split for split, its in YES_NO_RATIO.items() if its == ratio])
        cases = selection.cases.filter(here)["sample_id"].to_list()
        if cases:
            balance = build.yes_no_balance(rendered.filter(here), findings, ratio)
            # Splits are of whole patients: no question of one needs a study of another.
            qa = build.questions(studies.filter(here), told, boxes, seed, balance=balance)
            asked.append(qa.filter(pl.col("sample_id").is_in(cases)))
    return pl.concat(asked)


def _general(findings: pl.DataFrame, shown: pl.DataFrame) -> dict[str, dict[str, tuple[str, ...]]]:
    """sample_id -> {general finding that the annotation names: findings of a film, any of which is it}.

    One that is shown is that one alone, one that is absent could be any of its special ones.
    """
    named = findings.filter(pl.col("finding").is_in(list(REALISED_AS)))
    shown = shown.select("sample_id", "finding", "shown").unique()
    named = named.select("sample_id", "finding").unique(maintain_order=True)
    general: dict[str, dict[str, tuple[str, ...]]] = {}
    rows = named.join(shown, on=["sample_id", "finding"], how="left", maintain_order="left")
    for sample_id, finding, special in rows.iter_rows():
        general.setdefault(sample_id, {})[finding] = (special,) if special else signs.specials(finding)
    return general


def _summary(name: str, selection: Selection, told: dict[str, dict], size_px: int) -> dict:
    hidden = [row["finding"] for truth in told.values() for row in truth["not_visible"]]
    return {
        "cohort": name,
        "size_px": size_px,
        "image_origin": "simulated",
        "n_cases": len(selection.cases),
        "n_cases_with_prior": len(selection.cases.filter(pl.col("prior_study_id").is_not_null())),
        "n_cases_with_next_study": len(selection.futures),
        "n_films": len(told),
        "excluded": dict(sorted(selection.excluded.items())),
        "cases_per_split_and_finding": selection.counts.to_dicts(),
        "realised_as": REALISED_AS,
        "seen_as": SEEN_AS,
        "not_visible": {finding: hidden.count(finding) for finding in sorted(set(hidden))},
    }
