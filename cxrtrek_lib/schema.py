"""The record in one place: what a case and a turn are, the authors' JSON, validation.

The Q&A columns carry the field names of the dataset's authors (section 5 of the design). The names below
stand in conversations.py, authors.py and rules.py.
"""

from cxrtrek_lib.authors import read_authors_json, write_authors_json
from cxrtrek_lib.conversations import (
    FORMATS,
    PLACEHOLDER,
    STAGES,
    TASK_TYPES,
    Cases,
    format_boxes,
    format_of,
    is_box,
    parse_boxes,
)
from cxrtrek_lib.rules import Report, validate

__all__ = [
    "FORMATS", "PLACEHOLDER", "STAGES", "TASK_TYPES", "Cases", "Report", "format_boxes", "format_of",
    "is_box", "parse_boxes", "read_authors_json", "validate", "write_authors_json",
]  # fmt: skip
