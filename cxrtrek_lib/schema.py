"""What a case and a turn are: stages, task types, response formats, box text, conversations, validation.

The Q&A columns carry the field names of the dataset's authors (section 5 of the design).
"""

import re

import polars as pl

# Stage number -> (title, task types of that stage in the authors' data).
STAGES = {
    1: ("Image validation", ("Quality_Assessment", "View_Information")),
    2: ("Findings identification", ("Findings_Identification",)),
    3: (
        "Attributes and location",
        ("Attributes_Description", "Findings_Detection", "Phrase_Grounding"),
    ),
    4: ("Relationships", ("Relationships_Analysis",)),
    5: ("Comparison with prior", ("Differences_Comparison", "Differences_Comparison[Choice]")),
    6: ("Future trend", ("Future_Trend_Analysis",)),
    7: ("Diagnosis and advice", ("Diagnosis_Advice",)),
    8: ("Report", ("Report_Generation[Impression]", "Report_Generation[Findings]", "Report_Generation[ALL]")),
}
TASK_TYPES = {stage: tasks for stage, (_, tasks) in STAGES.items()}

# qtype -> response format. "multi-choice-N" names the number of options.
FORMATS = {
    "captioning": "open-ended",
    "yes_no": "close-ended",
    "single-choice": "choice",
    "multi-choice": "choice",
    **{f"multi-choice-{n}": "choice" for n in range(2, 11)},
    "detection": "detection",
}

PLACEHOLDER = "<image>"
UNFILLED = r"\{[A-Za-z_][^{}]*\}"
_PAIR = r"\(\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\)"
_BOX = re.compile(_PAIR + r"\s*,\s*" + _PAIR)


def format_of(qtype: str) -> str:
    """Response format of a qtype: open-ended, close-ended, choice or detection. ValueError when unknown."""
    if qtype not in FORMATS:
        raise ValueError(f"unknown qtype {qtype!r}; known: {', '.join(FORMATS)}")
    return FORMATS[qtype]


def format_boxes(name: str, boxes: list[list[float]]) -> str:
    """Answer text of a detection: the authors' format, percent of the image, two decimals.

    Several boxes of one name follow each other inside one answer.

    >>> format_boxes("heart", [[12, 40.5, 45.1, 88]])
    '<|ref|> heart <|/ref|> <|box|>(12.00, 40.50), (45.10, 88.00)<|/box|>'
    """
    texts = [f"<|box|>({x1:.2f}, {y1:.2f}), ({x2:.2f}, {y2:.2f})<|/box|>" for x1, y1, x2, y2 in boxes]
    return f"<|ref|> {name} <|/ref|> " + " ".join(texts)


def parse_boxes(text: str) -> list[list[float]]:
    """All boxes [x1, y1, x2, y2] that stand in a text, in order; [] when there is none.

    Coordinates are returned as written: a caller that scores must reject inverted boxes itself
    (`is_box`). Two points in brackets make a box, with or without the markers around them.

    >>> parse_boxes("<|ref|> heart <|/ref|> <|box|>(12.00, 40.50), (45.10, 88.00)<|/box|>")
    [[12.0, 40.5, 45.1, 88.0]]
    """
    return [[float(number) for number in match.groups()] for match in _BOX.finditer(text)]


def is_box(box: list[float]) -> bool:
    """Whether four numbers are a box in percent: 0 <= x1 < x2 <= 100 and 0 <= y1 < y2 <= 100."""
    return len(box) == 4 and 0 <= box[0] < box[2] <= 100 and 0 <= box[1] < box[3] <= 100


def cases(studies: pl.DataFrame, qa: pl.DataFrame) -> list[dict]:
    """The conversations: one dict per study that has questions, in the order of `studies`.

    Each holds the columns of `studies` and `turns`, a list of Q&A dicts in turn order (without sample_id).
    """
    turns: dict[str, list[dict]] = {}
    for row in qa.sort("sample_id", "turn").iter_rows(named=True):
        turns.setdefault(row.pop("sample_id"), []).append(row)
    return [
        {**study, "turns": turns[study["sample_id"]]}
        for study in studies.iter_rows(named=True)
        if study["sample_id"] in turns
    ]


def validate(qa: pl.DataFrame, studies: pl.DataFrame) -> list[str]:
    """Violations of the Q&A schema's rules, one line each: the rule, how many rows, the first sample.

    qa, studies  frames in the schemas of this module; [] means that every rule holds
    Turns out of stage order are legal: 39 of the authors' 100 conversations are not ordered.
    """
    study = studies.select("sample_id", "order", "prior_study_id", n_views=pl.col("views").list.len())
    prior_order = studies.select(prior_study_id="sample_id", prior_order="order")
    study = study.join(prior_order, on="prior_study_id", how="left")
    rows = qa.sort("sample_id", "turn").join(study, on="sample_id", how="left", maintain_order="left")
    fmt = pl.col("qtype").replace_strict(FORMATS, default=None)
    rows = rows.with_columns(
        format=fmt, films=pl.col("question").str.count_matches(PLACEHOLDER, literal=True)
    )
    shown = pl.col("films").cum_sum().over("sample_id")
    compares = (pl.col("stage") == 5).any().over("sample_id")
    texts = pl.concat_str("question", "answer", pl.col("option_list").list.join(" "), ignore_nulls=True)
    corners = pl.element()
    inside = corners.list.len() == 4
    inside &= (corners.list.get(0, null_on_oob=True) < corners.list.get(2, null_on_oob=True)).fill_null(False)
    inside &= (corners.list.get(1, null_on_oob=True) < corners.list.get(3, null_on_oob=True)).fill_null(False)
    inside &= (corners.list.min() >= 0) & (corners.list.max() <= 100)
    choice, detection = pl.col("format") == "choice", pl.col("format") == "detection"
    joined = pl.col("answer_list").list.join(", ")
    rules = {
        "sample_id is not in studies": pl.col("n_views").is_null(),
        "(sample_id, turn) is not unique": pl.struct("sample_id", "turn").is_duplicated(),
        "turns do not count 0, 1, 2, ...": pl.col("turn") != pl.int_range(pl.len()).over("sample_id"),
        "stage is outside 1-8": ~pl.col("stage").is_between(1, 8),
        "task_type is unknown at its stage": ~pl.concat_str("stage", pl.lit(" "), "task_type").is_in(
            [f"{stage} {task}" for stage, tasks in TASK_TYPES.items() for task in tasks]
        ),
        "qtype is unknown": pl.col("format").is_null(),
        "question or answer is empty": (pl.col("question") == "") | (pl.col("answer") == ""),
        "a {template} word is not filled": texts.str.contains(UNFILLED),
        "image_input_count is not the number of placeholders so far": pl.col("image_input_count") != shown,
        "placeholders do not match the images": shown.last().over("sample_id")
        != pl.col("n_views") + compares,
        "stage 5 without a prior study": (pl.col("stage") == 5) & pl.col("prior_study_id").is_null(),
        "the prior study is not earlier": pl.col("prior_order") >= pl.col("order"),
        "yes_no answer does not begin with Yes or No": (pl.col("format") == "close-ended")
        & ~pl.col("answer").str.contains(r"^(Yes|No)\b"),
        "choice without two different options": choice
        & (pl.col("option_list").list.n_unique().fill_null(0) < 2),
        "option repeated": choice
        & (pl.col("option_list").list.n_unique() != pl.col("option_list").list.len()),
        "choice without a right option": choice & (pl.col("answer_list").list.len().fill_null(0) < 1),
        "answer_list is not among the options": choice
        & (pl.col("answer_list").list.set_difference("option_list").list.len() > 0),
        "choice answer does not begin with its options": choice & ~pl.col("answer").str.starts_with(joined),
        "detection without a box": detection & (pl.col("bbox_list").list.len().fill_null(0) < 1),
        "box outside 0-100 or inverted": ~pl.col("bbox_list").list.eval(inside).list.all(),
        "image_id is not among the images": detection
        & ~pl.col("image_id").is_between(1, pl.col("num_of_images")).fill_null(False),
        "detection without a target": detection & pl.col("target").is_null(),
    }
    found = []
    for rule, wrong in rules.items():
        marked = rows.filter(wrong.fill_null(False))
        if marked.height:
            found.append(
                f"{rule}: {marked.height} rows, first {marked['sample_id'][0]} turn {marked['turn'][0]}"
            )
    crossing = studies.filter(pl.col("split").n_unique().over("patient_id") > 1)
    if crossing.height:
        found.append(
            f"a patient is in two splits: {crossing.height} studies, first {crossing['sample_id'][0]}"
        )
    return found
