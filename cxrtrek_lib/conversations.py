"""What a conversation is: stages, task types, formats, box text; a set of them as two tables; what it shows.

Names and formats are those of the dataset's authors (section 5 of the design).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cxrtrek_lib import tables

# Stage number -> (title, task types of that stage in the authors' data).
STAGES = {
    1: ("Image validation", ("Quality_Assessment", "View_Information")),
    2: ("Findings identification", ("Findings_Identification",)),
    3: (
        "Attributes and location",
        ("Attributes_Description", "Findings_Detection", "Phrase_Grounding", "box->finding"),
    ),
    4: ("Relationships", ("Relationships_Analysis",)),
    5: ("Comparison with prior", ("Differences_Comparison", "Differences_Comparison[Choice]")),
    6: ("Future trend", ("Future_Trend_Analysis",)),
    7: ("Diagnosis and advice", ("Diagnosis_Advice",)),
    8: ("Report", ("Report_Generation[Impression]", "Report_Generation[Findings]", "Report_Generation[ALL]")),
}
REPORT_STAGE = 8  # the last one, whatever the order of the others
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
KINDS = tuple(dict.fromkeys(FORMATS.values()))  # the four response formats, in the order of the figures

# What `target` may be; that of a detection is the bare name of a region or finding.
TARGET = (
    r"^((abnormality|foreign_body|location|severity)_.+"
    r"|yes_no_(abnormality|foreign_body)|other_abnormalities)$"
)
PLACEHOLDER = "<image>"
UNFILLED = r"\{[A-Za-z_][^{}]*\}"
_POINT = r"\(\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\)"
_LABEL = re.compile(r"\s*\(?([A-Za-z]|\d{1,2})\s*[.):]+\s*(?=\S)")
BOX = _POINT + r"\s*,\s*" + _POINT


def split_label(option: str) -> tuple[str | None, str]:
    """Label and text of one option of a choice.

    >>> split_label("2). left"), split_label("left lung")
    (('2', 'left'), (None, 'left lung'))
    """
    found = _LABEL.match(option)
    return (found[1], option[found.end() :]) if found else (None, option)


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
    return [[float(number) for number in match.groups()] for match in re.finditer(BOX, text)]


def is_box(box: list[float]) -> bool:
    """Whether four numbers are a box in percent: 0 <= x1 < x2 <= 100 and 0 <= y1 < y2 <= 100."""
    return len(box) == 4 and 0 <= box[0] < box[2] <= 100 and 0 <= box[1] < box[3] <= 100


class Cases(NamedTuple):
    """Conversations: the studies, what was asked and answered, and where they lie.

    studies  tables.STUDIES. A frame read from the authors' JSON has the column `extra` too; a row where it is
             not null is one sample: `images` is all that it shows, `prior_study_id` its reference study
    qa       tables.QA, and `extra` when read
    file     named in messages
    """

    studies: pl.DataFrame
    qa: pl.DataFrame
    file: str


def shown(cases: Cases) -> Cases:
    """Only the studies that are samples or are asked about, each with exactly the images that are shown.

    A row of our own tables shows its own images (one per view), and where a question of stage 5 exists the
    reference image: the entry of `images` after them, else the first image of the prior study's row. Raises
    ValueError, one line, when there is neither, or when a question is about a study that is not in `studies`.
    `studies` of the result has the column `extra`: null in our own rows.
    """
    studies = cases.studies
    if "extra" not in studies.columns:
        studies = studies.with_columns(extra=pl.lit(None, dtype=pl.String))
    asked = cases.qa.group_by("sample_id").agg(compares=(pl.col("stage") == 5).any())
    lost = asked.join(studies, on="sample_id", how="anti")
    if lost.height:
        raise ValueError(f"{cases.file}: study {lost['sample_id'].min()} has questions but is not in studies")
    studies = studies.join(asked, on="sample_id", how="left", maintain_order="left")
    studies = studies.filter(pl.col("compares").is_not_null() | pl.col("extra").is_not_null())
    firsts = cases.studies.select(prior_study_id="sample_id", image=pl.col("images").list.first())
    firsts = firsts.unique("prior_study_id", keep="first", maintain_order=True)
    studies = studies.join(firsts, on="prior_study_id", how="left", maintain_order="left")
    n_own = pl.col("views").list.len()
    own = pl.col("images").list.head(n_own)
    reference = pl.coalesce(pl.col("images").list.get(n_own, null_on_oob=True), "image")
    ours, compares = pl.col("extra").is_null(), pl.col("compares")
    alone = studies.filter(ours & compares & reference.is_null())
    if alone.height:
        names = f"{alone['sample_id'][0]} is compared with {alone['prior_study_id'][0]}"
        raise ValueError(f"{cases.file}: {names}, which is not in studies; give the whole patient's studies")
    images = pl.when(ours & compares).then(pl.concat_list(own, reference)).when(ours).then(own)
    studies = studies.with_columns(images=images.otherwise("images"))
    return Cases(studies.drop("compares", "image"), cases.qa, cases.file)


def splits(folder: Path) -> list[str]:
    """The splits of a cohort's folder, in the order of tables.SPLITS."""
    there = tables.read_table("studies", Path(folder) / "studies.parquet", ["split"])["split"].unique()
    return [split for split in tables.SPLITS if split in there]


def batches(folder: Path, split: str | None = None, size: int = 2000) -> Iterator[Cases]:
    """The conversations of a cohort's folder (studies.parquet, qa.parquet), about `size` studies at a time.

    Whole conversations, in the order of qa.parquet; `images` of a study are exactly those that its
    conversation shows. split: only these studies. Raises ValueError or FileNotFoundError, one line, when a
    table is missing or damaged, or when the questions of a study do not stand together.
    """
    folder = Path(folder)
    file = folder / "qa.parquet"
    studies = tables.read_table("studies", folder / "studies.parquet")
    rest, seen = pl.DataFrame(schema=tables.QA), set()
    for last, chunk in _last_marked(tables.read_chunks("qa", file)):
        chunk = pl.concat([rest, chunk])
        ids = chunk["sample_id"].unique(maintain_order=True).to_list()
        rest = chunk.clear() if last else chunk.filter(pl.col("sample_id") == ids[-1])
        ids = ids if last else ids[:-1]
        if not seen.isdisjoint(ids):
            raise ValueError(f"{file}: the questions of a study do not stand together; build the table again")
        seen.update(ids)
        chunk = chunk.filter(pl.col("sample_id").is_in(ids))
        part = shown(Cases(_with_priors(studies, chunk), chunk, str(file)))
        kept = pl.DataFrame({"sample_id": ids}, schema={"sample_id": pl.String})
        kept = kept.join(part.studies, on="sample_id", maintain_order="left")
        kept = kept if split is None else kept.filter(pl.col("split") == split)
        for some in kept.iter_slices(size):
            yield Cases(some, chunk.join(some, on="sample_id", how="semi"), str(file))


def _last_marked(chunks: Iterator[pl.DataFrame]) -> Iterator[tuple[bool, pl.DataFrame]]:
    """(whether it is the last, chunk) for every chunk that is not empty."""
    before = None
    for chunk in chunks:
        if chunk.height:
            if before is not None:
                yield False, before
            before = chunk
    if before is not None:
        yield True, before


def _with_priors(studies: pl.DataFrame, qa: pl.DataFrame) -> pl.DataFrame:
    """The studies of the questions, and those that they may be compared with."""
    asked = studies.join(qa, on="sample_id", how="semi")
    priors = studies.join(asked, left_on="sample_id", right_on="prior_study_id", how="semi")
    return pl.concat([asked, priors]).unique("sample_id", maintain_order=True)
