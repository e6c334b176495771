"""Every rule of the record, checked column-wise: what must hold, and the oddities that a reader accepts."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from cxrtrek_lib.conversations import BOX, FORMATS, PLACEHOLDER, TARGET, TASK_TYPES, UNFILLED, Cases
from cxrtrek_lib.study_rules import STUDY_RULES, history, marked, studies_of


class Report(NamedTuple):
    """What `validate` found.

    violations  file, case, turn (null where the whole case is meant), rule, detail; by case and turn
    oddities    name -> how often: what the authors' files do and a reader accepts
    """

    violations: pl.DataFrame
    oddities: dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether every rule holds; oddities do not count."""
        return self.violations.is_empty()

    def lines(self) -> list[str]:
        """One line per violation: file, case, turn: rule (detail)."""
        lines = []
        for file, case, turn, rule, detail in self.violations.iter_rows():
            place = f"{file}, {case}" if turn is None else f"{file}, {case}, turn {turn}"
            lines.append(f"{place}: {rule}" if detail is None else f"{place}: {rule} ({detail})")
        return lines


def validate(cases: Cases | Iterable[Cases]) -> Report:
    """Check every rule of the record (section 5 of the design).

    cases  all at once, or a lazy sequence of parts that need not fit into memory together; a part holds whole
           conversations and the studies that they are about
    In our own tables a prior study that no question of stage 5 compares with is history, not a reference.
    That `messages` equal the questions and answers is checked where a file is read.
    """
    found, oddities, histories = [], Counter(), []
    for part in [cases] if isinstance(cases, Cases) else cases:
        studies = studies_of(part)
        rows = _rows(part, studies)
        kinds = {"any": rows} | {kind: rows.filter(where) for kind, where in _KINDS.items()}
        kinds["boxed"] = kinds["boxed"].with_columns(differs=_text_differs())
        for kind, rule, wrong, detail in _TURN_RULES:
            found.append(marked(kinds[kind].filter(wrong.fill_null(False)), rule, detail, pl.col("turn")))
        for rule, wrong, detail in STUDY_RULES:
            found.append(marked(studies.filter(wrong.fill_null(False)), rule, detail))
        for kind, oddity, odd in _ODDITIES:
            oddities[oddity] += kinds[kind].select(odd.fill_null(False).sum()).item()
        oddities["study listed more than once"] += studies["repeated"].sum()
        oddities["image list of the sample is not that of its cxrtrek_data"] += studies["other_images"].sum()
        histories.append(studies)
    found += history(pl.concat(histories).unique("sample_id", keep="first", maintain_order=True))
    violations = pl.concat(found).unique(maintain_order=True)
    violations = violations.sort("file", "case", "turn", maintain_order=True)
    return Report(violations, {name: n for name, n in oddities.items() if n})


def _rows(part: Cases, studies: pl.DataFrame) -> pl.DataFrame:
    """The Q&A in order, with what the rules compare them to."""
    known = studies.unique("sample_id", keep="first", maintain_order=True).with_row_index("i")
    known = known.select("sample_id", "i", "prior_study_id", "n_own", "n_images", "is_sample")
    qa = part.qa.drop("fact", "evidence", "extra", strict=False)
    rows = qa.join(known, on="sample_id", how="left").with_columns(lost=pl.col("i").is_null())
    if rows["lost"].any():
        rows = rows.with_columns(
            pl.coalesce("i", known.height + pl.col("sample_id").rank("dense")).alias("i")
        )
    rows = rows.sort("i", "turn", maintain_order=True).with_columns(
        file=pl.lit(part.file),
        format=pl.col("qtype").replace_strict(FORMATS, default=None, return_dtype=pl.String),
        films=pl.col("question").str.count_matches(PLACEHOLDER, literal=True),
        fifth=pl.col("stage") == 5,
        skipped=pl.col("turn") != pl.int_range(pl.len()).over("i"),
        again=(pl.col("i") == pl.col("i").shift(1)).fill_null(False),
    )
    fifths, skips = (pl.col(column).cum_sum().over("i") for column in ("fifth", "skipped"))
    boxes_in = pl.col("answer").str.contains("<|box|>", literal=True)
    return rows.with_columns(
        shown=pl.col("films").cum_sum().over("i"),
        first_fifth=pl.col("fifth") & (fifths == 1),
        first_skipped=pl.col("skipped") & (skips == 1),
        compares=pl.col("fifth").any().over("i"),
        last=~pl.col("again").shift(-1).fill_null(False),
        back=pl.col("again") & (pl.col("stage") < pl.col("stage").shift(1)),
        box_text=pl.when(boxes_in).then("answer").otherwise("question"),
    ).with_columns(first_back=pl.col("back") & (pl.col("back").cum_sum().over("i") == 1))


_STAGE_OF = {task: stage for stage, tasks in TASK_TYPES.items() for task in tasks}
_FAMILY = pl.col("task_type").str.replace(r"\[.*$", "")  # Report_Generation[ALL] -> Report_Generation
_FAMILY_STAGE = _FAMILY.replace_strict(
    {task.partition("[")[0]: stage for task, stage in _STAGE_OF.items()}, default=None, return_dtype=pl.Int8
)
_TEXTS = pl.concat_str("question", "answer", pl.col("option_list").list.join(" "), ignore_nulls=True)
_TO_SHOW = pl.when("is_sample").then("n_images").otherwise(pl.col("n_own") + pl.col("compares"))
_OPTIONS, _ANSWERS = pl.col("option_list").list, pl.col("answer_list").list
_OUTSIDE = _ANSWERS.set_difference("option_list")
_N_ASKED = pl.col("qtype").str.extract(r"-(\d+)$").cast(pl.Int64)
_NUMBER = r"-?\d+(?:\.\d+)?"
_NUMBERS = pl.col("box_text").str.extract_all(BOX).list.join(" ").str.extract_all(_NUMBER)
_SAID = _NUMBERS.cast(pl.List(pl.Float64))
_CORNERS = pl.col("bbox_list").list.eval(pl.element().explode())


def _inside() -> pl.Expr:
    """Whether each box of `bbox_list` is four percentages, 0 <= x1 < x2 <= 100 and y alike."""
    x1, y1, x2, y2 = (pl.element().list.get(n, null_on_oob=True) for n in range(4))
    inside = (pl.element().list.min() >= 0) & (pl.element().list.max() <= 100)
    return (inside & (x1 < x2) & (y1 < y2) & (pl.element().list.len() == 4)).fill_null(False)


def _said_inside() -> pl.Expr:
    """The same of the boxes in the text; null where there is none."""
    x1, y1, x2, y2 = (_SAID.list.gather_every(4, n) for n in range(4))
    ordered = ((x2 - x1).list.min() > 0) & ((y2 - y1).list.min() > 0)
    return ordered & (_SAID.list.min() >= 0) & (_SAID.list.max() <= 100)


def _missing(*columns: str) -> pl.Expr:
    """The names of the columns that are null, in one text; "" when none is."""
    names = [pl.when(pl.col(column).is_null()).then(pl.lit(column)) for column in columns]
    return pl.concat_str(names, separator=", ", ignore_nulls=True)


def _of_another_qtype() -> pl.Expr:
    choice, captioning = pl.col("format") == "choice", pl.col("format") == "open-ended"
    lists = pl.col("option_list").is_not_null() | pl.col("answer_list").is_not_null()
    return (lists & ~choice) | (pl.col("is_joint_sent").is_not_null() & ~captioning)


# Rows that a rule is about; "any" are all.
_KINDS = {
    "choice": pl.col("format") == "choice",
    "closed": pl.col("format") == "close-ended",
    "detection": pl.col("format") == "detection",
    "open": pl.col("format") == "open-ended",
    "boxed": pl.col("bbox_list").is_not_null() | pl.col("box_text").str.contains("<|box|>", literal=True),
}
_NOTHING = pl.lit(None)
_DETECTION = ("bbox_list", "image_id", "num_of_images", "target")
# (rows, rule, where it is broken, detail)
_TURN_RULES = (
    ("any", "study is not in studies", pl.col("lost"), _NOTHING),
    ("any", "turns do not count 0, 1, 2, ...", pl.col("first_skipped"), _NOTHING),
    ("any", "stage is not 1 to 8", ~pl.col("stage").is_between(1, 8), pl.col("stage")),
    (
        "any", "task_type is unknown at its stage",
        pl.col("stage").is_between(1, 8) & (_FAMILY_STAGE != pl.col("stage")).fill_null(True),
        pl.col("task_type"),
    ),
    ("any", "qtype is unknown", pl.col("format").is_null(), pl.col("qtype")),
    ("any", "question is empty", pl.col("question") == "", _NOTHING),
    ("any", "answer is empty", pl.col("answer") == "", _NOTHING),
    (
        "any", "a {template} word is not filled", _TEXTS.str.contains(UNFILLED),
        _TEXTS.str.extract(f"({UNFILLED})"),
    ),
    ("any", "placeholder in an answer", pl.col("answer").str.contains(PLACEHOLDER, literal=True), _NOTHING),
    (
        "any", "image_input_count is not the number of placeholders so far",
        pl.col("image_input_count") != pl.col("shown"),
        pl.format("{}, shown {}", "image_input_count", "shown"),
    ),
    (
        "any", "placeholders do not match the images", pl.col("last") & (pl.col("shown") != _TO_SHOW),
        pl.format("{} placeholders, {} images", "shown", _TO_SHOW),
    ),
    (
        "any", "stage 5 without a reference study",
        pl.col("first_fifth") & pl.col("prior_study_id").is_null() & ~pl.col("lost"), _NOTHING,
    ),
    (
        "any", "reference study without stage 5",
        pl.col("last") & pl.col("is_sample") & pl.col("prior_study_id").is_not_null() & ~pl.col("compares"),
        pl.col("prior_study_id"),
    ),
    (
        "any", "reference image is not shown by the first question of stage 5",
        pl.col("first_fifth") & pl.col("prior_study_id").is_not_null() & (pl.col("shown") <= pl.col("n_own")),
        _NOTHING,
    ),
    (
        "choice", "choice without option_list or answer_list",
        _missing("option_list", "answer_list") != "", _missing("option_list", "answer_list"),
    ),
    ("choice", "choice without two different options", _OPTIONS.n_unique() < 2, _OPTIONS.join("; ")),
    (
        "choice", "option repeated", (_OPTIONS.n_unique() >= 2) & (_OPTIONS.n_unique() != _OPTIONS.len()),
        _OPTIONS.join("; "),
    ),
    ("choice", "choice without a right option", _ANSWERS.len() == 0, _NOTHING),
    (
        "choice", "answer_list is not among the options",
        (pl.col("qtype") != "single-choice") & (_OUTSIDE.list.len() > 0), _OUTSIDE.list.join("; "),
    ),
    (
        "choice", "single-choice with several right options",
        (pl.col("qtype") == "single-choice") & (_ANSWERS.len() > 1), _ANSWERS.join("; "),
    ),
    (
        "choice", "multi-choice-N has not N options", _N_ASKED != _OPTIONS.len(),
        pl.format("{}: {} options", "qtype", _OPTIONS.len()),
    ),
    ("closed", "yes_no without target", pl.col("target").is_null(), _NOTHING),
    (
        "closed", "target is not in the grammar",
        pl.col("stage").is_in([2, 3]) & ~pl.col("target").str.contains(TARGET), pl.col("target"),
    ),
    ("open", "captioning without is_joint_sent", pl.col("is_joint_sent").is_null(), _NOTHING),
    (
        "detection", "detection without bbox_list, image_id, num_of_images or target",
        _missing(*_DETECTION) != "", _missing(*_DETECTION),
    ),
    ("detection", "detection without a box", pl.col("bbox_list").list.len() == 0, _NOTHING),
    (
        "detection", "target of a detection is not a bare name",
        pl.col("target").str.contains(TARGET) | (pl.col("target") == ""), pl.col("target"),
    ),
    (
        "detection", "image_id is not among the images shown",
        ~pl.col("image_id").is_between(1, pl.min_horizontal("num_of_images", "image_input_count")),
        pl.format("{} of {}, shown {}", "image_id", "num_of_images", "image_input_count"),
    ),
    (
        "boxed", "box outside 0-100 or inverted",
        ~pl.col("bbox_list").list.eval(_inside()).list.all() | ~_said_inside(),
        pl.coalesce(_CORNERS, _SAID).cast(pl.List(pl.String)).list.join(", "),
    ),
    (
        "boxed", "box in the text has not two decimals",
        ~_NUMBERS.list.eval(pl.element().str.contains(r"^-?\d+\.\d\d$")).list.all(), _NUMBERS.list.join(", "),
    ),
    (
        "boxed", "boxes in the text are not bbox_list", pl.col("differs"), _NUMBERS.list.join(", "),
    ),
)  # fmt: skip
# (rows, oddity, where)
_ODDITIES = (
    ("any", "conversation not in stage order", pl.col("first_back")),
    (
        "any", "task type that the published samples do not name",
        (_FAMILY_STAGE == pl.col("stage")) & ~pl.col("task_type").is_in(list(_STAGE_OF)),
    ),
    ("any", "field that belongs to another qtype", _of_another_qtype()),
    (
        "any", "target that is not in the grammar",
        ~pl.col("target").str.contains(TARGET) & (pl.col("format") != "detection")
        & ~((pl.col("format") == "close-ended") & pl.col("stage").is_in([2, 3])),
    ),
    (
        "closed", "yes_no answer that does not begin with Yes or No",
        ~pl.col("answer").str.contains(r"^(Yes|No)\b"),
    ),
    (
        "choice", "single-choice answer that matches no option",
        (pl.col("qtype") == "single-choice") & (_OUTSIDE.list.len() > 0),
    ),
    (
        "choice", "choice answer that does not repeat its right options",
        ~pl.col("answer").str.contains(_ANSWERS.join(", "), literal=True),
    ),
)  # fmt: skip


def _text_differs() -> pl.Expr:
    """Whether the boxes of a text are others than `bbox_list`, which the text tells to two decimals."""
    as_many = _SAID.list.len() == _CORNERS.list.len()
    off = _SAID - pl.when(as_many).then(_CORNERS).otherwise(_SAID)
    return ~as_many | (off.list.eval(pl.element().abs()).list.max() > 0.0051).fill_null(False)
