"""What trivial predictors answer without the film: learned on the training split, scored on the test split.

They read the question, its options, the source of the study or its other gold answers, never an image. A
system that is to be believed must beat the best of them.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm

from cxrtrek_lib.conversations import PLACEHOLDER
from cxrtrek_lib.dataset_statistics.audits import names_finding, says_yes
from cxrtrek_lib.dataset_statistics.dataset_counts import (
    LABEL,
    about,
    answer_format,
    labelled,
    question_kind,
    spread,
)
from cxrtrek_lib.inference_stats import cluster_weights, interval, patient_sums

# Predictor -> what it looks up.
LOOKED_UP = {
    "majority answer": [],
    "majority per finding": ["finding"],
    "majority per finding and source": ["finding", "source"],
    "any other Yes in the study": ["other_yes"],
    "finding, source and number of other Yes": ["finding", "source", "n_other_yes"],
}
WORDS = "words of the question (logistic regression)"
OPTION = "option words"
OPTION_KEYS = {
    "option position": ["kind", "n_options", "position"],
    "option length (longest, second, ...)": ["kind", "n_options", "length"],
    OPTION: ["kind", "option"],
    "option words after the same question": ["kind", "asked", "option"],
}
ALL = "all"
_ABOUT = ["patient_id", "source", "split"]
_TEST = pl.col("split") == "test"
_QUESTION = pl.col("question").str.replace_all(PLACEHOLDER, "", literal=True).str.strip_chars()


def shortcuts(
    studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame, *, n_boot: int, seed: int
) -> pl.DataFrame:
    """Scores of the film-blind predictors on the test split: all of it, each source, each stage.

    close-ended   P(Yes) among the training answers with the same LOOKED_UP values, or from a logistic
                  regression on the question's words and pairs of words. score is the balanced accuracy when
                  Yes is said wherever P(Yes) exceeds its mean in training: what a system can reach that plays
                  for this metric. accuracy is that of saying Yes above one half. "Other Yes" are those
                  about findings and devices.
    single-choice, multi-choice
                  how often an option with the same OPTION_KEYS was right in training; where they were never
                  seen, how often one with the same words was, else 0. The best options are chosen, the first
                  of equals: one, or in multi-choice as many as were most often right among so many options.
                  score is the share of questions whose exact set of options is chosen.
    Returns format, subset ("all", a source, or "stage 2"), predictor, n (questions), patients, chance (score
    of a random answer), score, low, high (95 % interval, patients resampled n_boot times; null where a subset
    has only one of Yes and No), accuracy (close-ended only). A format without questions in the training or
    the test split has no rows; ValueError when none has any.
    """
    formats = tqdm((_yes_no, _choices), desc="film-blind predictors", unit="format", delay=1)
    parts = [part for of_format in formats for part in of_format(studies, qa, n_boot, seed)]
    if not parts:
        raise ValueError(
            "no yes/no or choice question in both the training and the test split; build more patients"
        )
    return pl.concat(parts)


def _rate(train: pl.DataFrame, test: pl.DataFrame, keys: list[str], truth: str) -> pl.Series:
    """Share of true rows in training with the same keys, for each test row; null where there is none."""
    if not keys:
        return pl.Series(np.full(test.height, train[truth].mean()))
    rates = train.group_by(keys).agg(rate=pl.col(truth).mean())
    return test.select(keys).join(rates, on=keys, how="left", maintain_order="left")["rate"]


def _scores(
    hits: np.ndarray, classes: np.ndarray, subsets: np.ndarray, patients: pl.Series, n_boot: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over classes of the hit rate within each: [S, P], and draws of it, patients resampled: [B, S, P].

    hits     bool [N, P], did predictor p answer row n rightly?
    classes  bool [N, C]; subsets bool [N, S]; NaN where a class has no row in a subset
    """
    n, size = hits.shape
    sums = []
    for one in classes.T:
        inside = subsets & one[:, None]
        counted = np.concatenate([hits[:, None] & inside[..., None], inside[..., None]], axis=2)
        sums.append(patient_sums(counted.reshape(n, -1), patients)[0])
    values = np.stack(sums)  # [C, patients, S x (P + 1)], the last of each P + 1 counts the class

    def score(totals: np.ndarray) -> np.ndarray:
        totals = totals.reshape(*totals.shape[:2], -1, size + 1)
        with np.errstate(invalid="ignore"):
            return (totals[..., :-1] / totals[..., -1:]).mean(0)

    draws = [score(weights @ values) for weights in cluster_weights(values.shape[1], n_boot, seed)]
    return score(values.sum(1, keepdims=True))[0], np.concatenate(draws)


def _subsets(test: pl.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows, bool [N], of all test rows, of each source and of each stage."""
    yield ALL, np.ones(test.height, dtype=bool)
    for source in test["source"].unique().sort():
        yield source, (test["source"] == source).to_numpy()
    for stage in test["stage"].unique().sort():
        yield f"stage {stage}", (test["stage"] == stage).to_numpy()


def _tables(
    kind: str, test: pl.DataFrame, hits: dict[str, np.ndarray], classes: np.ndarray, n_boot: int, seed: int
) -> list[pl.DataFrame]:
    """Rows of the result for one format: test has source, stage, patient_id, chance; classes: _scores."""
    answered = np.stack(list(hits.values()), 1)
    subsets = dict(_subsets(test))
    masks = np.stack(list(subsets.values()), 1)
    scores, draws = _scores(answered, classes, masks, test["patient_id"], n_boot, seed)
    tables = []
    for k, (subset, here) in enumerate(subsets.items()):
        rows = test.filter(here)
        ends = np.array([interval(column) for column in draws[:, k].T])
        columns = {
            "format": kind, "subset": subset, "predictor": list(hits), "n": rows.height,
            "patients": rows["patient_id"].n_unique(), "chance": rows["chance"].mean(),
            "score": scores[k], "low": ends[:, 0], "high": ends[:, 1],
        }  # fmt: skip
        tables.append(pl.DataFrame(columns).with_columns(pl.col("score", "low", "high").fill_nan(None)))
    return tables


def _yes_no(
    studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame, n_boot: int, seed: int
) -> list[pl.DataFrame]:
    rows = labelled(studies, qa, ["stage", "qtype", "question", "answer", "fact", "target"], _ABOUT)
    rows = rows.filter((pl.col("qtype") == "yes_no") & pl.col("split").is_in(["train", "test"]))
    columns = {"question": _QUESTION.cast(pl.Categorical), "finding": about().cast(pl.Categorical)}
    rows = spread(rows.select("i", "stage", *_ABOUT, **columns, yes=says_yes(), named=names_finding()))
    yes = pl.col("yes") & pl.col("named")
    others = (yes.sum().over("i") - yes).clip(upper_bound=3)
    rows = rows.with_columns(n_other_yes=others, other_yes=others > 0)
    train, test = rows.filter(~_TEST), rows.filter(_TEST)
    if not (train.height and test.height):
        return []
    base, yes = train["yes"].mean(), test["yes"].to_numpy()
    p = {name: _rate(train, test, keys, "yes").fill_null(base).to_numpy() for name, keys in LOOKED_UP.items()}
    p[WORDS] = _logistic(train, test)
    test = test.with_columns(chance=pl.lit(0.5))
    hits = {name: (chance > base) == yes for name, chance in p.items()}
    table = pl.concat(_tables("close-ended", test, hits, np.c_[yes, ~yes], n_boot, seed))
    right = [(chance > 0.5) == yes for chance in p.values()]
    accuracy = [float(hit[here].mean()) for _, here in _subsets(test) for hit in right]
    return [table.with_columns(accuracy=pl.Series(accuracy))]


def _logistic(train: pl.DataFrame, test: pl.DataFrame) -> np.ndarray:
    """P(Yes) of each test row, [N], from a logistic regression on words and pairs of words of its question.

    Fitted on the different questions with their counts: the same as on all rows, and far faster.
    """
    asked = (
        train.group_by(pl.col("question").cast(pl.String))
        .agg(yes=pl.col("yes").sum(), n=pl.len())
        .sort("question")
    )
    words = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"[^\W_]+")
    features = words.fit_transform(asked["question"].to_list())
    model = LogisticRegression(max_iter=500)
    counts = np.r_[asked["yes"].to_numpy(), (asked["n"] - asked["yes"]).to_numpy()]
    model.fit(vstack([features, features]), np.repeat([1, 0], asked.height), sample_weight=counts)
    texts = test["question"].cast(pl.String)
    different = texts.unique().sort()
    p = model.predict_proba(words.transform(different.to_list()))[:, 1]
    return texts.replace_strict(different, pl.Series(p)).to_numpy()


def _options(studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame, split: str) -> pl.LazyFrame:
    """The options of the choice questions of a split, one row each: i, turn, stage, patient_id, source,
    OPTION_KEYS, n_right, chance, right.
    """
    columns = ["turn", "stage", "qtype", "question", "option_list", "answer_list"]
    rows = labelled(studies.filter(split=split), qa, columns, ["patient_id", "source"])
    n, single = pl.col("option_list").list.len(), pl.col("qtype") == "single-choice"
    length = pl.element().str.replace(LABEL, "").str.len_chars().rank("ordinal", descending=True)
    rows = rows.filter(answer_format() == "choice").select(
        "i", "turn", "stage", "patient_id", "source", "answer_list", "option_list",
        kind=question_kind(),
        asked=_QUESTION.str.extract(r"(?s)^(.*?[.?!])(?:\s|$)"),  # the first sentence
        n_options=n, n_right=pl.col("answer_list").list.len(),
        position=pl.int_ranges(n), length=pl.col("option_list").list.eval(length),
        chance=pl.when(single).then(1 / n).otherwise(1 / (2**n - 1)),
    )  # fmt: skip
    rows = rows.explode("option_list", "position", "length")
    option = pl.col("option_list").str.replace(LABEL, "").str.to_lowercase()
    return rows.with_columns(right=pl.col("option_list").is_in(pl.col("answer_list")), option=option).drop(
        "option_list", "answer_list"
    )


def _choices(
    studies: pl.DataFrame, qa: pl.DataFrame | pl.LazyFrame, n_boot: int, seed: int
) -> list[pl.DataFrame]:
    train = _options(studies, qa, "train")
    rates = [train.group_by(keys).agg(rate=pl.col("right").mean()) for keys in OPTION_KEYS.values()]
    sizes = train.group_by("kind", "n_options", "n_right").len()
    *rates, sizes = pl.collect_all([*rates, sizes], engine="streaming")
    rates = dict(zip(OPTION_KEYS, rates, strict=True))
    sizes = sizes.sort("len", "n_right", descending=[True, False]).unique(["kind", "n_options"], keep="first")
    test = spread(_options(studies, qa, "test")).sort("i", "turn", "position")
    test = test.join(sizes.select("kind", "n_options", most="n_right"), on=["kind", "n_options"], how="left")
    test = test.with_columns(pl.col("most").fill_null(1))
    place = pl.struct(-pl.col("rate"), "position").rank("ordinal").over("i", "turn")
    tables = []
    for kind in sorted(set(test["kind"]) & set(rates[OPTION]["kind"])):
        rows, hits = test.filter(kind=kind).sort("i", "turn", "position"), {}
        fallback = _joined(rows, rates[OPTION], OPTION)
        for name in OPTION_KEYS:
            rate = pl.coalesce(_joined(rows, rates[name], name), fallback, pl.lit(0.0))
            chosen = rows.with_columns(rate=rate).with_columns(place=place)
            same = ((pl.col("place") <= pl.col("most")) == pl.col("right")).all()
            hits[name] = chosen.group_by("i", "turn", maintain_order=True).agg(same=same)["same"].to_numpy()
        questions = rows.unique(["i", "turn"], keep="first", maintain_order=True)
        tables += _tables(kind, questions, hits, np.ones((questions.height, 1), dtype=bool), n_boot, seed)
    return [table.with_columns(accuracy=pl.lit(None, pl.Float64)) for table in tables]


def _joined(rows: pl.DataFrame, rates: pl.DataFrame, name: str) -> pl.Series:
    return rows.join(rates, on=OPTION_KEYS[name], how="left", maintain_order="left")["rate"]
