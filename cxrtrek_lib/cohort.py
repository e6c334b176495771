"""A cohort: studies whose annotated findings a simulated film can show, their films, truth and questions."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from cxrtrek_lib import build, draws, files, images, paths, tables
from cxrtrek_lib.simulate import RENDERABLE, render, truth_tables
from cxrtrek_lib.simulate.scene import GRADED, SIDED

# A general finding that the annotation names is realised as the special one that a film can show.
REALISED_AS = {
    "lung opacity": "consolidation",
    "airspace opacity": "consolidation",
    "support devices": "pacemaker",
}
FRONTAL = ("PA", "AP")
NO_FINDING = "no finding"
PRIOR_SHARE = 0.36  # of a training cohort's cases show a prior film, if enough studies have an eligible one
_SUSPECTED = "nothing present, something uncertain"


class Selection(NamedTuple):
    """The studies of a cohort.

    cases     studies rows (tables.STUDIES) in hash order within each split; prior_study_id only where the
              prior study gets a film
    priors    studies rows of prior films that are no cases themselves
    findings  annotated findings of cases and priors (tables.FINDINGS)
    excluded  reason -> number of studies of the asked splits that cannot be cases
    counts    split, finding (or "no finding"), cases, available: cases with it and eligible studies with it
    """

    cases: pl.DataFrame
    priors: pl.DataFrame
    findings: pl.DataFrame
    excluded: dict[str, int]
    counts: pl.DataFrame


def select(
    studies: pl.DataFrame,
    findings: pl.DataFrame,
    n_per_split: dict[str, int],
    *,
    seed: int,
    prior_share: float = PRIOR_SHARE,
) -> Selection:
    """Choose n_per_split[split] cases of each split, as even over the renderable findings and none as can be.

    A study is eligible when every present or uncertain finding can be rendered (itself, or as REALISED_AS
    says), when its first view is PA or AP, and when some finding is present or none is even suspected. A
    prior study needs the first two. prior_share: share of cases with a prior film, as far as eligible ones
    go. Order is by hash of (seed, sample_id). Raises ValueError when a split has fewer eligible studies than
    asked.
    """
    marked = _eligibility(studies.filter(pl.col("split").is_in(list(n_per_split))), findings)
    excluded = dict(marked.filter(pl.col("reason") != "")["reason"].value_counts(sort=True).iter_rows())
    eligible = marked.filter(pl.col("reason") == "")
    can_be_prior = marked.filter(pl.col("reason").is_in(["", _SUSPECTED]))["sample_id"].to_list()
    eligible = eligible.with_columns(
        prior_study_id=pl.when(pl.col("prior_study_id").is_in(can_be_prior)).then("prior_study_id")
    )
    chosen = []
    for split, n in n_per_split.items():
        pool = eligible.filter(pl.col("split") == split)
        if len(pool) < n:
            raise ValueError(
                f"cohort: {n} cases of split {split} asked, {len(pool)} studies can be simulated; lower the "
                "cohort's size or raise dataset.max_patients"
            )
        chosen.append(_balanced(pool, n, prior_share, seed))
    cases = pl.concat(chosen)
    priors = studies.filter(
        pl.col("sample_id").is_in(cases["prior_study_id"].drop_nulls().to_list())
        & ~pl.col("sample_id").is_in(cases["sample_id"].to_list())
    )
    both = pl.concat([cases.select("sample_id"), priors.select("sample_id")])
    counts = _per_finding(cases).rename({"studies": "cases"})
    counts = _per_finding(eligible).rename({"studies": "available"}).join(counts, on=["split", "finding"])
    return Selection(
        cases.select(list(tables.STUDIES)),
        priors.select(list(tables.STUDIES)),
        findings.join(both, on="sample_id", how="semi"),
        excluded,
        counts.select("split", "finding", "cases", "available").sort("split", "finding"),
    )


def choose(name: str, sizes: dict, *, seed: int) -> Selection:
    """The cases of a named cohort from the built dataset (data/dataset/), as sized in params.yaml.

    name   "training", or an external source ("nih": adjudicated studies only; "openi")
    sizes  the `cohort` group: {"training": {split: cases}, "external": {source: cases}, ...}
    External cohorts have no prior films: their tasks are about one study.
    """
    studies = tables.read_table("studies", paths.DATASET / "studies.parquet")
    findings = tables.read_table("findings", paths.DATASET / "findings.parquet")
    if name == "training":
        return select(studies, findings, sizes["training"], seed=seed)
    if name not in sizes["external"]:
        known = ", ".join(["training", *sizes["external"]])
        raise ValueError(f"cohort {name!r} is unknown; params.yaml sizes {known}")
    studies = studies.filter((pl.col("source") == name) & (pl.col("split") == "external"))
    studies = adjudicated(studies, findings) if name == "nih" else studies
    return select(studies, findings, {"external": sizes["external"][name]}, seed=seed, prior_share=0.0)


def adjudicated(studies: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """The studies of NIH ChestX-ray14 whose findings a panel of radiologists adjudicated (4,376 in full)."""
    panel = findings.filter(pl.col("source_column").str.starts_with("nih: google2019"))
    return studies.join(panel.select("sample_id").unique(), on="sample_id", how="semi")


def _per_finding(studies: pl.DataFrame) -> pl.DataFrame:
    present = pl.when(pl.col("present").list.len() == 0).then(pl.lit([NO_FINDING])).otherwise("present")
    rows = studies.select("split", finding=present).explode("finding")
    return rows.group_by("split", "finding").agg(studies=pl.len())


def _eligibility(studies: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """studies with `present` (renderable names, sorted) and `reason` ("" = eligible)."""
    rows = findings.join(studies.select("sample_id"), on="sample_id", how="semi").with_columns(
        shown=pl.col("finding").replace(REALISED_AS)
    )
    shown, status = pl.col("shown"), pl.col("status")
    facts = rows.group_by("sample_id").agg(
        present=shown.filter(status == "present").unique().sort(),
        suspected=shown.filter(status == "uncertain").unique(),
        impossible=(~shown.is_in(RENDERABLE) & (status != "absent")).any(),
        denied=shown.filter((status == "absent") & (pl.col("finding") == shown)).unique(),
    )
    marked = studies.join(facts, on="sample_id", how="left")
    claimed = pl.concat_list("present", "suspected")
    reason = (
        pl.when(pl.col("present").is_null())
        .then(pl.lit("no finding stated present or absent"))
        .when(~pl.col("views").list.first().is_in(FRONTAL).fill_null(False))
        .then(pl.lit("first view not known to be PA or AP"))
        .when("impossible").then(pl.lit("a finding that cannot be simulated yet"))
        .when(pl.col("denied").list.set_intersection(claimed).list.len() > 0)
        .then(pl.lit("a general finding whose only renderable form is denied"))
        .when((pl.col("present").list.len() == 0) & (pl.col("suspected").list.len() > 0))
        .then(pl.lit(_SUSPECTED))
        .otherwise(pl.lit(""))
    )  # fmt: skip
    return marked.with_columns(reason=reason).drop("suspected", "impossible", "denied")


def _balanced(pool: pl.DataFrame, n: int, prior_share: float, seed: int) -> pl.DataFrame:
    """n studies: always the next one, in hash order, of the finding (or none) that has fewest cases so far.

    While fewer than prior_share of the cases have a prior, the next one that has is taken, else the next
    one that has none; whichever there is when the other kind has run out.
    """
    keys = draws.keys(seed, pool["sample_id"].to_list())
    pool = pool.with_columns(drawn=pl.Series(draws.mix(keys, "cohort/order"))).sort("drawn")
    present = pool["present"].to_list()
    has_prior = pool["prior_study_id"].is_not_null().to_list()
    names = (*RENDERABLE, NO_FINDING)
    queues = {(name, kind): [] for name in names for kind in (True, False)}
    for i in range(len(pool) - 1, -1, -1):  # reversed, so that pop() gives the first
        for name in present[i] or [NO_FINDING]:
            queues[name, has_prior[i]].append(i)
    tally = dict.fromkeys(names, 0)
    taken: set[int] = set()
    with_prior = 0
    while len(taken) < n:
        name = min(tally, key=lambda each: (tally[each], names.index(each)))
        wanted = with_prior < prior_share * (len(taken) + 1)
        i = _pop(queues[name, wanted], taken)
        i = _pop(queues[name, not wanted], taken) if i is None else i
        if i is None:
            del tally[name]  # no study left with it: its place goes to the others
            continue
        taken.add(i)
        with_prior += has_prior[i]
        for other in present[i] or [NO_FINDING]:
            if other in tally:
                tally[other] += 1
    return pool[sorted(taken)].drop("drawn")


def _pop(queue: list[int], taken: set[int]) -> int | None:
    """The first index of a reversed queue that is not taken yet; None when there is none."""
    while queue:
        if (i := queue.pop()) not in taken:
            return i
    return None


def make(
    name: str, selection: Selection, *, size_px: int, seed: int, workers: int, folder: Path | None = None
) -> dict:
    """Render a cohort and write its tables and questions under data/films/<name>/ (or `folder`).

    png/<film>.png         one film per case and per prior study
    studies.parquet        the cases: images [current, prior], views [current], exposure as rendered
    findings.parquet       truth of every film, cases and priors: each renderable finding present or absent
                           at tier 1 (source_column "simulated"); annotated general names (REALISED_AS)
                           follow the special one; planned findings too faint to see are uncertain
    boxes.parquet          truth of every film under its own sample_id with image_id 1, and again as image_id
                           2 of the case that shows it as prior; reader "simulated"
    scenes.parquet         one row per film, see SCENES
    qa.parquet             the questions of the cases
    summary.json           what was chosen, left out, drawn and not visible; also returned
    An interrupted run goes on with the films that are already whole. Raises ValueError (one line).
    """
    folder = paths.FILMS / name if folder is None else Path(folder)
    studies = pl.concat([selection.cases, selection.priors])
    known = _facts(studies, selection.findings)
    names = [f"png/{sample_id.replace('/', '_')}.png" for sample_id in studies["sample_id"]]
    truths = render.render_all(
        [(facts, folder / file) for facts, file in zip(known, names, strict=True)],
        size_px=size_px,
        seed=seed,
        workers=workers,
    )
    told = dict(zip(studies["sample_id"], truths, strict=True))
    scenes = truth_tables.scenes(told, names)
    findings = truth_tables.findings(told, _general(selection.findings))
    boxes = truth_tables.boxes(told)
    films = scenes.select("sample_id", "film", "view", "exposure")
    rendered = _as_rendered(studies, films)
    asked = selection.cases.select("sample_id")
    cases = rendered.join(asked, on="sample_id", how="semi", maintain_order="left")
    qa = build.questions(rendered, findings, boxes, seed).join(asked, on="sample_id", how="semi")
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
    wanted = {folder / file for file in names}
    for stray in set((folder / "png").iterdir()) - wanted:  # films of an earlier selection
        stray.unlink()
    return summary


def examples(folder: Path, each: int = 2) -> tuple[list[np.ndarray], list[str], list[list[list[float]]]]:
    """Films for a contact sheet: `each` current films per renderable finding and of none, by sample_id.

    Returns images (H, W), titles (two lines) and the boxes of the findings, percent.
    """
    scenes = pl.read_parquet(folder / "scenes.parquet")
    cases = tables.read_table("studies", folder / "studies.parquet")
    boxes = tables.read_table("boxes", folder / "boxes.parquet").filter(pl.col("image_id") == 1)
    boxes = boxes.filter(pl.col("target").is_in(RENDERABLE))
    rows = scenes.join(cases.select("sample_id"), on="sample_id", how="semi").sort("sample_id")
    alone = pl.col("rendered").list.len()
    picked = [
        rows.filter(pl.col("rendered").list.contains(name)).sort(alone, maintain_order=True).head(each)
        for name in RENDERABLE
    ]
    picked = pl.concat([*picked, rows.filter(alone == 0).head(each)]).unique("sample_id", maintain_order=True)
    films, titles, marked = [], [], []
    for row in picked.iter_rows(named=True):
        films.append(images.read(folder / row["film"]))
        titles.append(f"{', '.join(row['rendered']) or NO_FINDING}\n{row['view']}, {row['exposure']}")
        here = boxes.filter(pl.col("sample_id") == row["sample_id"])
        marked.append([list(box) for box in here.select("x1", "y1", "x2", "y2").iter_rows()])
    return films, titles, marked


def _facts(studies: pl.DataFrame, findings: pl.DataFrame) -> list[dict]:
    """What scene.film needs of each study: one row per renderable finding that is stated."""
    rows: dict[str, dict[str, list[dict]]] = {}
    for row in findings.iter_rows(named=True):
        shown = REALISED_AS.get(row["finding"], row["finding"])
        if shown in RENDERABLE:
            rows.setdefault(row["sample_id"], {}).setdefault(shown, []).append(row)
    facts = []
    for study in studies.iter_rows(named=True):
        stated = [_united(name, each) for name, each in sorted(rows.get(study["sample_id"], {}).items())]
        facts.append({
            "sample_id": study["sample_id"], "patient_id": study["patient_id"], "view": study["views"][0],
            "sex": study["sex"], "findings": stated,
        })  # fmt: skip
    return facts


def _united(name: str, rows: list[dict]) -> dict:
    """One row from all about a finding: present, else uncertain, else absent; attributes where all agree."""
    status = next(s for s in ("present", "uncertain", "absent") if any(row["status"] == s for row in rows))
    rows = [row for row in rows if row["status"] == status]
    sides = {row["laterality"] for row in rows} - {None}
    side = None if not sides else sides.pop() if len(sides) == 1 else "bilateral"
    if name not in SIDED or (side == "bilateral" and "bilateral" not in SIDED[name]):
        side = None

    def agreed(column: str) -> str | None:
        values = {row[column] for row in rows} - {None}
        return values.pop() if len(values) == 1 else None

    return {
        "finding": name, "status": status, "laterality": side, "location": agreed("location"),
        "severity": agreed("severity") if name in GRADED else None,
    }  # fmt: skip


def _as_rendered(studies: pl.DataFrame, films: pl.DataFrame) -> pl.DataFrame:
    """Studies rows as the cohort shows them: one frontal view each, images [current, prior], no future study.

    A next study is no part of a cohort: its severities are drawn, so no present film could foretell them.
    """
    prior = films.select(prior_study_id="sample_id", prior_film="film")
    rows = studies.drop("exposure").join(films, on="sample_id", maintain_order="left")
    rows = rows.join(prior, on="prior_study_id", how="left", maintain_order="left")
    return rows.with_columns(
        prior_study_id=pl.when(pl.col("prior_film").is_not_null()).then("prior_study_id"),
        next_study_id=pl.lit(None, dtype=pl.String),
        views=pl.concat_list("view"),
        images=pl.concat_list("film", "prior_film").list.drop_nulls(),
        image_origin=pl.lit("simulated"),
    ).select(list(tables.STUDIES))


def _general(findings: pl.DataFrame) -> dict[str, dict[str, str]]:
    """sample_id -> {general finding that the annotation names: the renderable one that realises it}."""
    named = findings.filter(pl.col("finding").is_in(list(REALISED_AS)))
    general: dict[str, dict[str, str]] = {}
    for sample_id, finding in named.select("sample_id", "finding").unique(maintain_order=True).iter_rows():
        general.setdefault(sample_id, {})[finding] = REALISED_AS[finding]
    return general


def _summary(name: str, selection: Selection, told: dict[str, dict], size_px: int) -> dict:
    hidden = [row["finding"] for truth in told.values() for row in truth["not_visible"]]
    return {
        "cohort": name,
        "size_px": size_px,
        "image_origin": "simulated",
        "n_cases": len(selection.cases),
        "n_cases_with_prior": len(selection.cases.filter(pl.col("prior_study_id").is_not_null())),
        "n_films": len(told),
        "excluded": dict(sorted(selection.excluded.items())),
        "cases_per_split_and_finding": selection.counts.to_dicts(),
        "realised_as": REALISED_AS,
        "not_visible": {finding: hidden.count(finding) for finding in sorted(set(hidden))},
    }
