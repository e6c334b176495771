"""Normalised tables -> Q&A, column-wise and deterministic."""

from collections.abc import Iterator

import polars as pl

from cxrtrek_lib import draws, tables
from cxrtrek_lib.conversations import PLACEHOLDER
from cxrtrek_lib.findings import DEVICES, FINDINGS, REGIONS
from cxrtrek_lib.stages import BUILDERS, wording
from cxrtrek_lib.stages.question_rows import FINDING, Evidence


def questions(
    studies: pl.DataFrame,
    findings: pl.DataFrame,
    boxes: pl.DataFrame,
    seed: int,
    *,
    balance: pl.DataFrame | None = None,
    templates: dict[int, dict[str, wording.Template]] | None = None,
) -> pl.DataFrame:
    """The Q&A of the studies (tables.QA), sorted by patient, order and turn.

    balance  which share of the known answers is asked as a yes/no question (`yes_no_balance`); None = all
    Prior and next studies are compared only when they are rows of `studies` too. The current images come
    first: one placeholder per entry of `views`, in the first question; the first image of the prior study is
    shown in the first question of stage 5. The result does not depend on row order, nor on which other
    patients are in the frames. Raises ValueError (one line) for a finding, region or value that is unknown.
    """
    evidence = gather(studies, findings, boxes, seed, balance)
    templates = wording.load() if templates is None else templates
    rows = pl.concat(
        [frame for stage, builder in BUILDERS.items() for frame in builder(evidence, templates[stage])]
    )
    return _conversations(rows, evidence.studies)


def parts(
    studies: pl.DataFrame, findings: pl.DataFrame, boxes: pl.DataFrame, size: int
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]:
    """The tables in pieces of about `size` studies: whole patients, in order of patient_id.

    The questions of the pieces, put together, are exactly the questions of everything, whatever the size.
    """
    studies = studies.sort("patient_id", "order", "sample_id").with_columns(row=pl.int_range(pl.len()))
    studies = studies.with_columns(piece=pl.col("row").min().over("patient_id") // size).drop("row")
    piece_of = studies.select("sample_id", "piece")
    pieces = [
        frame.partition_by("piece", as_dict=True, include_key=False)
        for frame in (studies, *(frame.join(piece_of, on="sample_id") for frame in (findings, boxes)))
    ]
    nothing = [findings.clear(), boxes.clear()]
    for piece, part in pieces[0].items():
        yield part, *(frames.pop(piece, empty) for frames, empty in zip(pieces[1:], nothing, strict=True))


def yes_no_balance(studies: pl.DataFrame, findings: pl.DataFrame, ratio: float | None) -> pl.DataFrame | None:
    """(source, finding, status, share): which share of the known answers to ask as yes/no questions.

    Per source and finding, the commoner of present and absent is thinned to `ratio` times the rarer one. A
    finding that only ever has one of the two is not asked at all: its answer would be known without the film.
    None asks everything.
    """
    if ratio is None:
        return None
    handle = studies.select("sample_id", "source", i=pl.int_range(pl.len(), dtype=pl.UInt32))
    stated = _stated(findings.join(handle, on="sample_id")).unique(["i", "finding"])
    present, absent = (
        (pl.col("status") == status).sum().cast(pl.Float64) for status in ("present", "absent")
    )
    counts = stated.group_by("source", "finding").agg(present=present, absent=absent)
    shares = [
        counts.filter(pl.col(status) > 0).select(
            "source",
            "finding",
            status=pl.lit(status),
            share=(ratio * pl.col(other) / pl.col(status)).clip(upper_bound=1.0),
        )
        for status, other in (("present", "absent"), ("absent", "present"))
    ]
    return pl.concat(shares).sort("source", "finding", "status")


def gather(
    studies: pl.DataFrame,
    findings: pl.DataFrame,
    boxes: pl.DataFrame,
    seed: int,
    balance: pl.DataFrame | None = None,
) -> Evidence:
    """One chunk of the tables as Evidence: rows numbered, several rows about a finding put together."""
    _reject_unknown(findings, "finding", set(FINDINGS), "findings")
    _reject_unknown(boxes, "target", set(FINDINGS) | set(REGIONS), "boxes")
    studies = studies.sort("patient_id", "order", "sample_id").with_row_index("i")
    keys = draws.keys(seed, studies["sample_id"].to_list())
    numbers = studies.select("sample_id", other="i")
    studies = (
        studies.with_columns(
            pl.Series("key", keys, dtype=pl.UInt64), n_images=pl.col("views").list.len().cast(pl.Int16)
        )
        .join(numbers.rename({"other": "prior"}), left_on="prior_study_id", right_on="sample_id", how="left")
        .join(numbers.rename({"other": "next"}), left_on="next_study_id", right_on="sample_id", how="left")
        .sort("i")
    )
    known = _known(findings.join(studies.select("sample_id", "i", "key", "source"), on="sample_id"))
    known = known.with_columns(balanced=_drawn_in(known, balance)).drop("source")
    return Evidence(
        studies, known, boxes.join(studies.select("sample_id", "i", "key", "n_images"), on="sample_id")
    )


def _drawn_in(known: pl.DataFrame, balance: pl.DataFrame | None) -> pl.Series:
    """Whether each row's answer may be asked as a yes/no question: a draw below the balance's share."""
    if balance is None:
        return pl.repeat(True, known.height, eager=True)
    drawn = draws.uniforms(known["key"].to_numpy(), wording.word_keys(known["name"], "balance"))
    on = ["source", "finding", "status"]
    shares = known.select(on).join(balance, on=on, how="left", maintain_order="left")["share"]
    return pl.Series(drawn) < shares.fill_null(0.0)


def _reject_unknown(frame: pl.DataFrame, column: str, known: set[str], table: str) -> None:
    unknown = sorted(set(frame[column].unique()) - known)
    if unknown:
        raise ValueError(f"table {table}: unknown {column} {unknown[0]!r}; add it to cxrtrek_lib/findings.py")


def _stated(findings: pl.DataFrame) -> pl.DataFrame:
    """The rows that decide a finding's status: present wins over uncertain, uncertain over absent.

    Absences at tier 3 say nothing and are dropped. `finding` becomes FINDING, which sorts by the vocabulary.
    """
    findings = findings.filter((pl.col("status") != "absent") | (pl.col("evidence_tier") <= 2))
    rank = pl.col("status").replace_strict({"present": 0, "uncertain": 1, "absent": 2}, return_dtype=pl.Int8)
    findings = findings.with_columns(finding=pl.col("finding").cast(FINDING), rank=rank)
    return findings.filter(pl.col("rank") == pl.col("rank").min().over("i", "finding"))


def _known(findings: pl.DataFrame) -> pl.DataFrame:
    """One row per study and finding, from all rows that decide its status.

    Sides of several present rows are united; a present row without a side leaves the side unknown. Severity,
    place and certainty are kept when all rows agree.
    """
    findings = _stated(findings)
    single = findings.filter(pl.len().over("i", "finding") == 1)
    several = findings.filter(pl.len().over("i", "finding") > 1)
    side = pl.col("laterality")
    columns = {"side": side, "severity": pl.col("severity"), "place": pl.col("location")}

    def agreed(column: pl.Expr) -> pl.Expr:
        return pl.when((column.n_unique() == 1) & column.is_not_null().all()).then(column.first())

    several = several.sort("i", "finding", "source_column").group_by("i", "finding").agg(
        pl.first("key", "source", "status"),
        tier=pl.col("evidence_tier").min(),
        side=pl.when(side.is_null().any()).then(None).when(side.n_unique() == 1).then(side.first())
        .otherwise(pl.lit("bilateral")),
        severity=agreed(pl.col("severity")),
        place=agreed(pl.col("location")),
        certainty=agreed(pl.col("certainty")),
        evidence=pl.col("source_column").unique(maintain_order=True).str.join("; "),
    )  # fmt: skip
    single = single.select(
        "i",
        "finding",
        "key",
        "source",
        "status",
        "certainty",
        tier="evidence_tier",
        evidence="source_column",
        **columns,
    )
    known = pl.concat([single.select(several.columns), several])
    present = pl.col("status") == "present"
    return known.with_columns(
        *(pl.when(present).then(column).alias(column) for column in ("side", "severity", "place")),
        name=pl.col("finding").cast(pl.String),
        kind=pl.when(pl.col("finding").cast(pl.String).is_in(list(DEVICES)))
        .then(pl.lit("foreign_body"))
        .otherwise(pl.lit("abnormality")),
    ).sort("i", "finding")


def _conversations(rows: pl.DataFrame, studies: pl.DataFrame) -> pl.DataFrame:
    """Question rows in conversation order, with turns and image placeholders (tables.QA)."""
    rows = rows.sort("i", "stage", "rank", "bits").join(
        studies.select("i", "sample_id", "n_images"), on="i", how="left", maintain_order="left"
    )
    turn = pl.int_range(pl.len(), dtype=pl.Int16).over("i")
    fifth = pl.col("stage") == 5
    first_fifth = fifth & (fifth.cum_sum().over("i") == 1)
    rows = rows.with_columns(turn=turn, first_fifth=first_fifth, compared=fifth.any().over("i"))
    prior_shown = pl.col("compared") & (pl.col("stage") >= 5)
    current = pl.when(pl.col("turn") == 0).then(pl.lit(PLACEHOLDER).repeat_by("n_images").list.join(""))
    prior = pl.when(pl.col("first_fifth")).then(pl.lit(PLACEHOLDER))
    films = pl.concat_str(current, prior, ignore_nulls=True)
    rows = rows.with_columns(
        question=pl.when(films != "")
        .then(pl.concat_str(films, pl.lit("\n"), "question"))
        .otherwise("question"),
        image_input_count=pl.col("n_images") + prior_shown.cast(pl.Int16),
        is_joint_sent=pl.when(pl.col("qtype") == "captioning").then(pl.lit(False)),
    )
    return rows.select(pl.col(c).cast(dtype) for c, dtype in tables.QA.items())
