"""Which studies of the built dataset become the cases of a simulated cohort, and which become prior films.

A film shows the findings of simulate.catalogue.SHOWN, and what the annotation names otherwise as signs.py
says. A study with any other finding is left out: its film would lack what the annotation states. What the
patient's next study showed is read from the annotation alone; that study gets no film.
"""

from typing import NamedTuple

import polars as pl

from cxrtrek_lib import draws, leakage, paths, signs, tables
from cxrtrek_lib.signs import SEEN_AS
from cxrtrek_lib.simulate.catalogue import IMPLIES, RENDERABLE

FRONTAL = ("PA", "AP")
# Source -> the view of all its films, which its table does not state (Nguyen et al. 2022, Scientific Data 9).
PUBLISHED_VIEW = {"vindr": "PA"}
NO_FINDING = "no finding"
# Cases are even over these. Consolidation with pneumonia and without are two kinds, else hardly a case in a
# hundred would have a diagnosis.
BALANCED = (*RENDERABLE, *SEEN_AS, NO_FINDING)
NORMAL_WEIGHT = 0.5  # a case without a finding counts half: there are twice as many as of any one finding
LOOK_AHEAD = 30  # studies of a kind, in hash order, of which the one with most rare findings is taken
PRIOR_SHARE = 0.36  # of a training cohort's cases show a prior film, if enough studies have an eligible one
NOTHING_STATED = "no finding stated present or absent"
NOT_FRONTAL = "first view not known to be PA or AP"
NOT_SHOWN = "a finding that no film can show"
CONTRADICTED = "a finding denied in the same study, itself or all that shows it"
SUSPECTED = "nothing present, something uncertain"
NOT_ADJUDICATED = "findings not adjudicated by the panel of radiologists"
SEVERAL_BOXES = "several boxes in one lung, where a film shows one lesion"
NOT_NEEDED = "could be a case, but the cohort is full"


class Selection(NamedTuple):
    """The studies of a cohort.

    cases     studies rows (tables.STUDIES) in hash order within each split; prior_study_id only where the
              prior study gets a film, next_study_id only where the next study is in `futures`
    priors    studies rows of prior films that are no cases themselves
    futures   studies rows of the cases' next studies, of the same patient and split: never shown. One may be
              a case or a prior film of its own all the same
    findings  annotated findings of cases, priors and futures (tables.FINDINGS)
    excluded  reason -> number of studies; with the cases they are all studies of the asked splits
    counts    split, finding (or diagnosis, or "no finding"), cases, available: cases with it and eligible
              studies with it; a diagnosis counts instead of the finding by which it is seen
    marks     readers' boxes that the films are to show, with the side of the lung (tables.BOXES), or None
    """

    cases: pl.DataFrame
    priors: pl.DataFrame
    futures: pl.DataFrame
    findings: pl.DataFrame
    excluded: dict[str, int]
    counts: pl.DataFrame
    marks: pl.DataFrame | None = None


def select(
    studies: pl.DataFrame, findings: pl.DataFrame, n_per_split: dict[str, int], *, seed: int
) -> Selection:
    """Choose n_per_split[split] cases of each split, as even as can be over BALANCED.

    A study is eligible when all that is present can be shown (itself, or as signs.py says) and is denied
    nowhere in the study, when its first view is PA or AP, and when something is present or nothing is even
    suspected. What is only possible and cannot be shown puts nothing on the film. A prior study needs all but
    the last. PRIOR_SHARE of the cases get a prior film, as far as eligible ones go. Order is by hash of
    (seed, sample_id). Raises ValueError when a split has fewer eligible studies than asked.
    """
    asked = studies.filter(pl.col("split").is_in(list(n_per_split)))
    marked = _eligibility(asked, findings, seed)
    eligible = marked.filter(pl.col("reason") == "")
    can_be_prior = marked.filter(pl.col("reason").is_in(["", SUSPECTED]))["sample_id"].to_list()
    eligible = eligible.with_columns(
        prior_study_id=pl.when(pl.col("prior_study_id").is_in(can_be_prior)).then("prior_study_id")
    )
    chosen = []
    for split, n in n_per_split.items():
        pool = eligible.filter(pl.col("split") == split)
        if len(pool) < n:
            raise ValueError(
                f"cohort: {n} cases of split {split} asked, {len(pool)} studies can be simulated; lower the "
                "cohort's size or raise dataset.scale"
            )
        chosen.append(_balanced(pool, n, seed))
    cases = _with_futures(pl.concat(chosen), asked)
    case_ids, prior_ids, next_ids = (
        cases[column].drop_nulls().to_list() for column in ("sample_id", "prior_study_id", "next_study_id")
    )
    sample = pl.col("sample_id")
    excluded = marked.with_columns(
        reason=pl.when(pl.col("reason") == "").then(pl.lit(NOT_NEEDED)).otherwise("reason")
    ).filter(~sample.is_in(case_ids))
    counts = _per_finding(eligible).rename({"studies": "available"})
    counts = counts.join(
        _per_finding(cases).rename({"studies": "cases"}), on=["split", "finding"], how="left"
    ).with_columns(pl.col("cases").fill_null(0))
    return Selection(
        cases.select(list(tables.STUDIES)),
        studies.filter(sample.is_in(prior_ids) & ~sample.is_in(case_ids)),
        studies.filter(sample.is_in(next_ids)),
        findings.filter(sample.is_in([*case_ids, *prior_ids, *next_ids])),
        dict(excluded["reason"].value_counts(sort=True).sort("count", "reason", descending=True).iter_rows()),
        counts.select("split", "finding", "cases", "available").sort("split", "finding"),
    )


def choose(name: str, sizes: dict, *, seed: int) -> Selection:
    """The cases of a named cohort from the built dataset (data/dataset/), as sized in params.yaml.

    name   "training", or an external source ("nih": adjudicated studies only; "openi")
    sizes  the `cohort` group: {"training": {split: cases}, "external": {source: cases}, ...}
    External cases have neither a prior film nor a next study: their tasks are about one study.
    """
    studies = tables.read_table("studies", paths.DATASET / "studies.parquet")
    findings = tables.read_table("findings", paths.DATASET / "findings.parquet")
    if name == "training":
        return select(studies, findings, sizes["training"], seed=seed)
    if name not in sizes["external"]:
        known = ", ".join(["training", *sizes["external"]])
        raise ValueError(f"cohort {name!r} is unknown; params.yaml sizes {known}")
    studies = external(studies, name)
    kept = adjudicated(studies, findings) if name == "nih" else studies
    marks = None
    if name == "rsna":
        marks = sided(tables.read_table("boxes", paths.DATASET / "boxes.parquet"), studies)
        several = marks.filter(pl.len().over("sample_id", "laterality") > 1)
        kept = studies.join(several, on="sample_id", how="anti", maintain_order="left")
    selection = select(kept, findings, {"external": sizes["external"][name]}, seed=seed)
    left_out = NOT_ADJUDICATED if name == "nih" else SEVERAL_BOXES
    left_out = {left_out: len(studies) - len(kept)} if len(kept) < len(studies) else {}
    return selection._replace(excluded=left_out | selection.excluded, marks=marks)


def external(studies: pl.DataFrame, name: str) -> pl.DataFrame:
    """The studies of an external source, each alone; ValueError when they share anything with training."""
    mine = studies.filter((pl.col("source") == name) & (pl.col("split") == "external"))
    leakage.refuse_shared(mine, studies.filter(pl.col("split") != "external"))
    alone = pl.lit(None, dtype=pl.String)
    mine = mine.with_columns(prior_study_id=alone, next_study_id=alone)
    if name in PUBLISHED_VIEW:
        mine = mine.with_columns(views=pl.concat_list(pl.lit(PUBLISHED_VIEW[name])))
    return mine


def adjudicated(studies: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """The studies of NIH ChestX-ray14 whose findings a panel of radiologists adjudicated (4,376 in full)."""
    panel = findings.filter(pl.col("source_column").str.starts_with("nih: google2019"))
    return studies.join(panel.select("sample_id").unique(), on="sample_id", how="semi")


def sided(boxes: pl.DataFrame, studies: pl.DataFrame) -> pl.DataFrame:
    """The boxes of these studies, each with the side in whose half of the film its middle lies.

    The patient's right is on the left of a frontal film.
    """
    middle = (pl.col("x1") + pl.col("x2")) / 2
    side = pl.when(middle < 50).then(pl.lit("right")).otherwise(pl.lit("left"))
    return boxes.join(studies, on="sample_id", how="semi").with_columns(laterality=side)


def _with_futures(cases: pl.DataFrame, studies: pl.DataFrame) -> pl.DataFrame:
    """The cases with next_study_id only where that study is at hand, of the same patient and split."""
    link = ["next_study_id", "patient_id", "split"]
    known = studies.select(pl.col("sample_id").alias(link[0]), *link[1:], future="sample_id")
    cases = cases.join(known, on=link, how="left", maintain_order="left")
    return cases.with_columns(next_study_id="future").drop("future")


def _per_finding(studies: pl.DataFrame) -> pl.DataFrame:
    present = pl.when(pl.col("present").list.len() == 0).then(pl.lit([NO_FINDING])).otherwise("present")
    rows = studies.select("split", finding=present).explode("finding")
    return rows.group_by("split", "finding").agg(studies=pl.len())


def _eligibility(studies: pl.DataFrame, findings: pl.DataFrame, seed: int) -> pl.DataFrame:
    """studies with `present` (names of BALANCED, sorted) and `reason` ("" = eligible)."""
    findings = findings.join(studies.select("sample_id"), on="sample_id", how="semi")
    status, finding = pl.col("status"), pl.col("finding")
    stated = findings.group_by("sample_id").agg(
        suspected=(status == "uncertain").any(),
        impossible=((status == "present") & ~finding.is_in(signs.NAMED)).any(),
    )
    shown = signs.shown_as(findings, studies, seed)
    there = pl.col("as_status") == "present"
    diagnosed = there & pl.col("shown").is_not_null() & finding.is_in(list(SEEN_AS))
    facts = shown.group_by("sample_id").agg(
        shown=pl.col("shown").filter(there).drop_nulls().unique(),
        signs=pl.col("shown").filter(diagnosed).unique(),
        diagnosed=finding.filter(diagnosed).unique(),
        not_to_show=((status == "present") & pl.col("shown").is_null()).any(),
    )
    # A film with a finding shows what that one implies (an effusion blunts the angle).
    implied = [(name, other) for name in RENDERABLE for other in (name, *IMPLIES[name])]
    implied = pl.DataFrame(implied, schema=["shown", "finding"], orient="row")
    claims = shown.select("sample_id", "shown", "as_status").join(implied, on="shown")
    denied = findings.filter(status == "absent").join(claims, on=["sample_id", "finding"], how="semi")
    also = claims.filter(there, pl.col("shown") != finding).group_by("sample_id").agg(also=finding.unique())
    facts = facts.join(also, on="sample_id", how="left")
    marked = studies.join(stated, on="sample_id", how="left", maintain_order="left")
    marked = marked.join(facts, on="sample_id", how="left", maintain_order="left").with_columns(
        pl.col("shown", "signs", "diagnosed", "also").fill_null([]),
        contradicted=pl.col("sample_id").is_in(denied["sample_id"].unique().to_list())
        | pl.col("not_to_show").fill_null(False),
    )
    reason = (
        pl.when(pl.col("suspected").is_null()).then(pl.lit(NOTHING_STATED))
        .when(~pl.col("views").list.first().is_in(FRONTAL).fill_null(False)).then(pl.lit(NOT_FRONTAL))
        .when("impossible").then(pl.lit(NOT_SHOWN))
        .when("contradicted").then(pl.lit(CONTRADICTED))
        .when((pl.col("shown").list.len() == 0) & pl.col("suspected")).then(pl.lit(SUSPECTED))
        .otherwise(pl.lit(""))
    )  # fmt: skip
    # What another finding implies, or stands for a diagnosis, is no kind of its own.
    named = pl.col("shown").list.set_difference("signs").list.set_difference("also")
    named = named.list.set_union("diagnosed").list.sort()
    return marked.select(*studies.columns, reason=reason, present=named)


def _balanced(pool: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """n studies, one after the other, of the name in BALANCED that has fewest cases so far.

    Of the next LOOK_AHEAD studies with that name, in hash order, the one is taken that names most kinds that
    have fewer cases than the mean: what comes along with a finding helps to even out. While fewer than
    PRIOR_SHARE of the cases have a prior, it is one that has, else one that has none; whichever there is when
    the other kind has run out.
    """
    keys = draws.keys(seed, pool["sample_id"].to_list())
    pool = pool.with_columns(drawn=pl.Series(draws.mix(keys, "cohort/order"))).sort("drawn")
    named = [present or [NO_FINDING] for present in pool["present"].to_list()]
    has_prior = pool["prior_study_id"].is_not_null().to_list()
    queues = {(name, kind): [] for name in BALANCED for kind in (True, False)}
    for i in range(len(pool) - 1, -1, -1):  # reversed, so that the first is the last, and cheap to remove
        for name in named[i]:
            queues[name, has_prior[i]].append(i)
    tally = dict.fromkeys(BALANCED, 0.0)
    taken: set[int] = set()
    with_prior = 0
    while len(taken) < n:
        rarest = min(tally, key=lambda each: (tally[each], BALANCED.index(each)))
        wanted = with_prior < PRIOR_SHARE * (len(taken) + 1)
        coming = _next(queues[rarest, wanted], taken) or _next(queues[rarest, not wanted], taken)
        if not coming:
            del tally[rarest]  # no study left with it: its place goes to the others
            continue
        rare = {name for name in tally if tally[name] <= sum(tally.values()) / len(tally)}
        i = max(coming, key=lambda each, rare=rare: len(rare.intersection(named[each])))
        taken.add(i)
        with_prior += has_prior[i]
        for name in tally.keys() & named[i]:
            tally[name] += NORMAL_WEIGHT if name == NO_FINDING else 1
    return pool[sorted(taken)].drop("drawn")


def _next(queue: list[int], taken: set[int]) -> list[int]:
    """The first LOOK_AHEAD indices of a reversed queue that are not taken yet; taken ones leave it."""
    found: list[int] = []
    while queue and len(found) < LOOK_AHEAD:
        if (i := queue.pop()) not in taken:
            found.append(i)
    queue += reversed(found)
    return found
