"""Rules about studies: links through a patient's history, whose images are shown, splits."""

from collections.abc import Iterator

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrtrek_lib.conversations import Cases


def marked(rows: pl.DataFrame, rule: str, detail: pl.Expr, turn: pl.Expr | None = None) -> pl.DataFrame:
    """Rows (file, sample_id, ...) as violations: file, case, turn, rule, detail."""
    turn = pl.lit(None) if turn is None else turn
    return rows.select(
        "file",
        pl.col("sample_id").alias("case"),
        turn.cast(pl.Int16).alias("turn"),
        pl.lit(rule).alias("rule"),
        detail.cast(pl.String).alias("detail"),
    )


def studies_of(part: Cases) -> pl.DataFrame:
    """One row per study, with what the rules need of it."""
    studies = part.studies
    if "extra" not in studies.columns:
        studies = studies.with_columns(extra=pl.lit(None, dtype=pl.String))
    is_sample = pl.col("extra").is_not_null()
    return studies.select(
        "sample_id", "source", "patient_id", "order", "prior_study_id", "next_study_id", "split", "images",
        is_sample.alias("is_sample"),
        file=pl.lit(part.file),
        n_own=pl.col("views").list.len().cast(pl.Int64),
        n_images=pl.col("images").list.len().cast(pl.Int64),
        twice=~pl.col("sample_id").is_first_distinct(),
        asked=pl.col("sample_id").is_in(part.qa["sample_id"].unique().implode()),
        repeated=is_sample & pl.col("sample_id").str.contains(r"#\d+$"),
        other_images=pl.col("extra").str.json_path_match("$.top.image").is_not_null(),
    )  # fmt: skip


STUDY_RULES = (
    ("study is twice in studies", pl.col("twice"), pl.lit(None)),
    ("sample without a question", pl.col("is_sample") & ~pl.col("asked"), pl.lit(None)),
    (
        "images are not one per view and one of the reference study at most",
        ~pl.col("is_sample") & ~(pl.col("n_images") - pl.col("n_own")).is_between(0, 1),
        pl.format("{} views, {} images", "n_own", "n_images"),
    ),
)


def history(studies: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """What only all studies together show: their order in time, whose images are shown, splits."""
    orders = studies.select("sample_id", other="order")
    ours = studies.filter(~pl.col("is_sample"))  # samples do not tell the order of studies, only the links
    prior = ours.join(orders, left_on="prior_study_id", right_on="sample_id")
    after = ours.join(orders, left_on="next_study_id", right_on="sample_id")
    circular, images = _circular(studies), _images(studies)
    torn = studies.filter(pl.col("split").n_unique().over("patient_id") > 1).sort("sample_id")
    torn = torn.unique("patient_id", keep="first", maintain_order=True)
    late, early = "reference study is not earlier", "next study is not later"
    found = (
        (late, prior.filter(pl.col("other") >= pl.col("order")), "prior_study_id"),
        (late, circular.filter("to_prior"), "prior_study_id"),
        (early, after.filter(pl.col("other") <= pl.col("order")), "next_study_id"),
        (early, circular.filter(~pl.col("to_prior")), "next_study_id"),
        ("future study is shown", images.filter("future"), "image"),
        ("reference image before the study's own", images.filter("late"), "image"),
        ("patient is in two splits", torn, "patient_id"),
    )
    for rule, rows, detail in found:
        yield marked(rows, rule, pl.col(detail))


def _circular(studies: pl.DataFrame) -> pl.DataFrame:
    """Links that contradict each other: following earlier -> later comes back to the same study."""
    links = pl.concat(
        studies.filter(pl.col(link).is_not_null()).with_columns(
            pl.col(earlier).alias("earlier"), pl.col(later).alias("later"), to_prior=pl.lit(link == earlier)
        )
        for link, earlier, later in (
            ("prior_study_id", "prior_study_id", "sample_id"),
            ("next_study_id", "sample_id", "next_study_id"),
        )
    )
    codes = pl.concat([links["earlier"], links["later"]]).rank("dense").to_numpy()
    earlier, later = codes[: links.height], codes[links.height :]
    n = int(codes.max(initial=0)) + 1
    graph = coo_array((np.ones(links.height, dtype=np.int8), (earlier, later)), shape=(n, n))
    _, group = connected_components(graph, connection="strong")
    return links.filter(pl.Series(group[earlier] == group[later], dtype=pl.Boolean))


def _images(studies: pl.DataFrame) -> pl.DataFrame:
    """One row per image: whether it is of the study's future, or its own behind one of the reference study.

    An image is of a study when it is among that study's own in `studies`, or when a folder in its path is the
    study's id, with or without a leading "s".
    """
    own = studies.select(owner="sample_id", image=pl.col("images").list.head("n_own")).explode("image")
    linked = studies.filter(pl.any_horizontal(pl.col("prior_study_id", "next_study_id").is_not_null()))
    rows = linked.with_columns(image="images", place=pl.int_ranges("n_images")).explode("image", "place")
    path = pl.concat_str(pl.lit("/"), pl.col("image").str.replace(r"\.[A-Za-z]+$", ""), pl.lit("/"))

    def of(column: str) -> pl.Expr:
        study = pl.col(column).str.strip_prefix(pl.col("source") + "/").str.replace(r"#\d+$", "")
        named = [path.str.contains(pl.format(form, study), literal=True) for form in ("/{}/", "/s{}/")]
        mine = pl.struct(pl.col(column).alias("owner"), "image").is_in(own_pairs)
        return (pl.any_horizontal(named) | mine).fill_null(False)

    own_pairs = own.select(pl.struct("owner", "image").unique()).to_series().implode()
    rows = rows.with_columns(
        future=of("next_study_id") & (pl.col("next_study_id") != pl.col("sample_id")),
        of_prior=of("prior_study_id"),
        of_own=of("sample_id"),
    )
    # A column of its own: one window inside another takes ten times as long.
    rows = rows.with_columns(first_prior=pl.when("of_prior").then("place").min().over("sample_id"))
    late = pl.col("of_own") & ~pl.col("of_prior") & (pl.col("place") > pl.col("first_prior"))
    return rows.with_columns(late=late & (late.cum_sum().over("sample_id") == 1))
