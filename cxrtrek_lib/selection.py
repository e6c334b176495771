"""Which studies of the built dataset become the cases of a simulated cohort, and which become prior films.

A film shows five findings (simulate.RENDERABLE). What the annotation says in other words is shown in three
ways:
- a general finding is *realised* as the special one that a film can show (REALISED_AS), and is then present
  exactly when the film shows that one;
- a diagnosis that is present makes the film show the finding by which it is seen (SEEN_AS). It is never
  concluded from the film: consolidation does not prove pneumonia. Its status stays the annotation's, and one
  that is absent, uncertain or not mentioned puts nothing on the film;
- what the patient's next study showed is read from the annotation alone. That study gets no film.
"""

from typing import NamedTuple

import polars as pl

from cxrtrek_lib import draws, paths, tables
from cxrtrek_lib.simulate import RENDERABLE

# A general finding that the annotation names is realised as the special one that a film can show.
REALISED_AS = {
    "lung opacity": "consolidation",
    "airspace opacity": "consolidation",
    "support devices": "pacemaker",
}
# A diagnosis that the annotation calls present, and the finding by which our film lets it be seen: the one
# sign of it that can be rendered, our own choice. Diagnoses without one (copd) can only be absent in a case.
SEEN_AS = {"pneumonia": "consolidation", "heart failure": "cardiomegaly"}
FRONTAL = ("PA", "AP")
NO_FINDING = "no finding"
# Cases are even over these. Consolidation with pneumonia and without are two kinds, else hardly a case in a
# hundred would have a diagnosis.
BALANCED = (*RENDERABLE, *SEEN_AS, NO_FINDING)
PRIOR_SHARE = 0.36  # of a training cohort's cases show a prior film, if enough studies have an eligible one
SUSPECTED = "nothing present, something uncertain"
NOT_ADJUDICATED = "findings not adjudicated by the panel of radiologists"
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
    """

    cases: pl.DataFrame
    priors: pl.DataFrame
    futures: pl.DataFrame
    findings: pl.DataFrame
    excluded: dict[str, int]
    counts: pl.DataFrame


def select(
    studies: pl.DataFrame, findings: pl.DataFrame, n_per_split: dict[str, int], *, seed: int
) -> Selection:
    """Choose n_per_split[split] cases of each split, as even as can be over BALANCED.

    A study is eligible when every present or uncertain finding can be shown (itself, or as REALISED_AS says)
    or is a diagnosis of SEEN_AS, when its first view is PA or AP, and when something is present or nothing is
    even suspected. A prior study needs the first two. PRIOR_SHARE of the cases get a prior film, as far as
    eligible ones go. Order is by hash of (seed, sample_id). Raises ValueError when a split has fewer eligible
    studies than asked.
    """
    asked = studies.filter(pl.col("split").is_in(list(n_per_split)))
    marked = _eligibility(asked, findings)
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
    alone = pl.lit(None, dtype=pl.String)
    studies = studies.filter((pl.col("source") == name) & (pl.col("split") == "external")).with_columns(
        prior_study_id=alone, next_study_id=alone
    )
    kept = adjudicated(studies, findings) if name == "nih" else studies
    selection = select(kept, findings, {"external": sizes["external"][name]}, seed=seed)
    left_out = {NOT_ADJUDICATED: len(studies) - len(kept)} if len(kept) < len(studies) else {}
    return selection._replace(excluded=left_out | selection.excluded)


def adjudicated(studies: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """The studies of NIH ChestX-ray14 whose findings a panel of radiologists adjudicated (4,376 in full)."""
    panel = findings.filter(pl.col("source_column").str.starts_with("nih: google2019"))
    return studies.join(panel.select("sample_id").unique(), on="sample_id", how="semi")


def shown_as() -> pl.Expr:
    """The finding that a film shows for a row (finding, status) of tables.FINDINGS; else the name itself."""
    name = pl.col("finding").replace(REALISED_AS)
    return pl.when(pl.col("status") == "present").then(name.replace(SEEN_AS)).otherwise(name)


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


def _eligibility(studies: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """studies with `present` (names of BALANCED, sorted) and `reason` ("" = eligible)."""
    rows = findings.join(studies.select("sample_id"), on="sample_id", how="semi").with_columns(
        shown=shown_as()
    )
    shown, status = pl.col("shown"), pl.col("status")
    possible = shown.is_in([*RENDERABLE, *SEEN_AS])
    facts = rows.group_by("sample_id").agg(
        present=shown.filter(status == "present").unique().sort(),
        suspected=shown.filter(status == "uncertain").unique(),
        impossible=(~possible & (status != "absent")).any(),
        denied=shown.filter((status == "absent") & (pl.col("finding") == shown)).unique(),
        diagnosed=pl.col("finding").filter((status == "present") & pl.col("finding").is_in(SEEN_AS)).unique(),
    )
    marked = studies.join(facts, on="sample_id", how="left", maintain_order="left")
    claimed = pl.concat_list("present", "suspected")
    reason = (
        pl.when(pl.col("present").is_null())
        .then(pl.lit("no finding stated present or absent"))
        .when(~pl.col("views").list.first().is_in(FRONTAL).fill_null(False))
        .then(pl.lit("first view not known to be PA or AP"))
        .when("impossible").then(pl.lit("a finding that cannot be simulated yet"))
        .when(pl.col("denied").list.set_intersection(claimed).list.len() > 0)
        .then(pl.lit("a finding whose only renderable form is denied"))
        .when((pl.col("present").list.len() == 0) & (pl.col("suspected").list.len() > 0))
        .then(pl.lit(SUSPECTED))
        .otherwise(pl.lit(""))
    )  # fmt: skip
    signs = pl.col("diagnosed").list.eval(pl.element().replace(SEEN_AS))
    named = pl.col("present").list.set_difference(signs).list.set_union("diagnosed").list.sort()
    return marked.with_columns(reason=reason, present=named).drop(
        "suspected", "impossible", "denied", "diagnosed"
    )


def _balanced(pool: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """n studies: always the next one, in hash order, of the name in BALANCED that has fewest cases so far.

    While fewer than PRIOR_SHARE of the cases have a prior, the next one that has is taken, else the next
    one that has none; whichever there is when the other kind has run out.
    """
    keys = draws.keys(seed, pool["sample_id"].to_list())
    pool = pool.with_columns(drawn=pl.Series(draws.mix(keys, "cohort/order"))).sort("drawn")
    present = pool["present"].to_list()
    has_prior = pool["prior_study_id"].is_not_null().to_list()
    queues = {(name, kind): [] for name in BALANCED for kind in (True, False)}
    for i in range(len(pool) - 1, -1, -1):  # reversed, so that pop() gives the first
        for name in present[i] or [NO_FINDING]:
            queues[name, has_prior[i]].append(i)
    tally = dict.fromkeys(BALANCED, 0)
    taken: set[int] = set()
    with_prior = 0
    while len(taken) < n:
        name = min(tally, key=lambda each: (tally[each], BALANCED.index(each)))
        wanted = with_prior < PRIOR_SHARE * (len(taken) + 1)
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
