"""English report text -> sections: what was seen and concluded, apart from history, technique and drafts.

Reports differ in layout: headings in capitals with a colon, "FINDINGS AND IMPRESSION:" in one, a heading that
names the study ("CHEST, TWO VIEWS:") in the place of FINDINGS, paragraphs under no heading at all, a draft
("WET READ", "PROVISIONAL FINDINGS IMPRESSION") before or after the final report, an addendum around it.
Source of the headings and their counts in MIMIC-CXR: MIT-LCP/mimic-cxr, txt/section_parser.py.
"""

import difflib
import re
from functools import lru_cache

import polars as pl

from cxrtrek_lib.sources import common

# Section -> its headings in lower case. One that is not here, nor nearly here, is a sub-heading ("LUNGS:").
HEADINGS = common.inverted({
    "findings": (
        "findings", "finding", "report", "findings and impression", "findings/impression",
        "findings / impression", "impression and findings",
    ),
    "impression": ("impression", "impressions", "conclusion", "conclusions"),
    "recommendation": ("recommendation", "recommendations", "recommendation(s)"),
    "examination": ("examination", "exam", "type of examination", "study", "procedure"),
    "history": (
        "indication", "indications", "clinical indication", "reason for examination", "reason for exam",
        "reason for the exam", "reason for study", "reason", "history", "clinical history", "patient history",
        "clinical information",
    ),
    "technique": ("technique", "views", "number of views", "radiation dose", "contrast"),
    "comparison": (
        "comparison", "comparisons", "comparison exam", "comparison film", "comparison study",
        "reference exam", "prior study", "date",
    ),
    "notice": ("notification", "notifications", "communication", "attending", "dictated by"),
    "addendum": ("addendum", "final addendum"),
    "draft": (
        "wet read", "wetread", "preliminary report", "preliminary read", "pfi",
        "provisional findings impression", "provisional findings impression (pfi)",
    ),
})  # fmt: skip
# Sections in which one paragraph is said and the next one, under no heading, is already the report's body.
CONTEXT = ("examination", "history", "technique", "comparison")
_STUDY = re.compile(r"\b(chest|portable|frontal|lateral|views?|radiographs?|ribs)\b")
_HEADING = re.compile(
    r"^[ \t]*(?:(?P<loud>[A-Z][A-Z ()/,&'-]+)[ \t]*(?P<colon>:(?=\s|$)|$)"
    r"|(?P<plain>[A-Z][a-z]+(?: [a-z]+){0,2})[ \t]*:(?=\s|$))",
    re.M,
)
_DRAFT = re.compile(r"^[ \t]*WET READ\b.*$", re.M)
_FINAL = re.compile(r"^[ \t]*FINAL REPORT[ \t]*:?[ \t]*$", re.M)
_RULE = re.compile(r"^[ \t]*_{10,}[ \t]*$", re.M)
_BLANK = re.compile(r"\n[ \t]*\n")
_LEAD = re.compile(r"\A[^\n]*(?:\n[ \t]*[^\s][^\n]*)?:[ \t]*\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"[a-z]{2}.*[.]", re.S)


def sections(text: str) -> dict[str, str]:
    """Section -> its text, stripped, without its heading; sections that say nothing are left out.

    Keys: findings, impression, recommendation, examination, history, technique, comparison, notice, addendum,
    draft. "FINDINGS AND IMPRESSION" is findings: one text is not told twice. Where no heading says FINDINGS,
    they are the text under a heading that names the study, and the paragraphs under no heading, as far as
    they hold a sentence. Text before the last line "FINAL REPORT" is a draft, and so is what stands between
    WET READ and the next heading or ruled line. Several sections of one name are joined in their order. A
    paragraph that only leads in ("AP chest compared to ___:") is left out.

    >>> sections("FINAL REPORT\\n INDICATION: Cough.\\n\\n The lungs are clear.\\n\\n IMPRESSION: Normal.\\n")
    {'history': 'Cough.', 'impression': 'Normal.', 'findings': 'The lungs are clear.'}
    """
    text = text.replace("\r\n", "\n")
    final = list(_FINAL.finditer(text))
    parts = [("draft", _RULE.sub("", text[: final[-1].start()]))] if final else []
    for piece in _RULE.split(text[final[-1].end() :] if final else text):
        parts.extend(_piece(piece))
    found: dict[str, list[str]] = {}
    unnamed = []
    for name, content in parts:
        content = _LEAD.sub("", content.strip())
        if name in ("study", "body"):
            unnamed.extend([content] if _SENTENCE.search(content) else [])
        elif content:
            found.setdefault(name, []).append(content)
    if "findings" not in found and unnamed:
        found["findings"] = unnamed
    return {name: "\n\n".join(contents) for name, contents in found.items()}


def concluded(parts: dict[str, str]) -> dict[str, str]:
    """The sections with a recommendation at the end of the impression, or else of the findings.

    >>> concluded({"impression": "Nodule.", "recommendation": "CT."})["impression"]
    'Nodule.\\n\\nCT.'
    """
    name = next((name for name in ("impression", "findings") if name in parts), None)
    if name is None or "recommendation" not in parts:
        return parts
    return parts | {name: f"{parts[name]}\n\n{parts['recommendation']}"}


def _piece(text: str) -> list[tuple[str, str]]:
    """(section, text) of a stretch of the report that no ruled line parts."""
    marks = []  # (start of heading, end of heading, section)
    for match in sorted([*_DRAFT.finditer(text), *_HEADING.finditer(text)], key=lambda match: match.start()):
        if match.re is _DRAFT:
            name = "draft"
        elif marks and match.start() < marks[-1][1]:
            continue  # the same line, already read as the heading of a draft
        elif match["loud"]:
            name = _section(match["loud"].lower().strip(), bool(match["colon"]))
        else:
            name = HEADINGS.get(match["plain"].lower())
        # Inside what was seen or concluded, "CHEST WALL:" is a sub-heading, not the name of the study.
        if name and not (name == "study" and marks and marks[-1][2] in ("findings", "impression")):
            marks.append((match.start(), match.end(), name))
    first = marks[0][0] if marks else len(text)
    parts = [("body", paragraph) for paragraph in _BLANK.split(text[:first])]
    ends = [start for start, _, _ in marks[1:]] + [len(text)]
    for (_, start, name), end in zip(marks, ends[: len(marks)], strict=True):
        content, rest = text[start:end].strip(), []
        if name in CONTEXT:
            content, *rest = _BLANK.split(content)
        parts.extend([(name, content), *(("body", paragraph) for paragraph in rest)])
    return parts


@lru_cache(maxsize=4096)
def _section(heading: str, colon: bool) -> str | None:
    """Section of a heading in capitals, given in lower case; None when it is a sub-heading inside a section.

    colon  whether a colon follows: only then is it taken with a typing error, or as the study's name
    """
    if heading in HEADINGS or not colon:
        return HEADINGS.get(heading)
    near = difflib.get_close_matches(heading, HEADINGS, n=1, cutoff=0.85)
    if near:
        return HEADINGS[near[0]]
    return "study" if _STUDY.search(heading) else None


def cleaned(column: str) -> pl.Expr:
    """A text column with single spaces, XXXX for removed words ("___"), null where no word is left.

    XXXX is Open-i's mark, and the one that the study's text columns share: who makes answers of them drops
    the sentences that hold it.
    """
    text = pl.col(column).str.replace_all(r"_{2,}", "XXXX").str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(text.str.contains(r"[A-Za-z]{2}") & ~text.str.contains(r"^(XXXX\W*)+$")).then(text)
