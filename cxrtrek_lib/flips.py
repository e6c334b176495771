"""Which early answer is turned into its opposite, to see what later answers make of it.

A module of its own: the step that answers with the flipped context must not run again when scoring changes.
"""

import polars as pl

from cxrtrek_lib import draws
from cxrtrek_lib.tables import KEYS

OPPOSITE = {"yes": "No.", "no": "Yes."}
_SAID = pl.col("answer").str.to_lowercase().str.extract(r"^\W*(yes|no)\b")


def flips(qa: pl.DataFrame, answers: pl.DataFrame, seed: int) -> dict[tuple[str, int], str]:
    """One early answer of each case and what is put in its place: (sample_id, turn) -> "Yes." or "No.".

    qa       rows of the Q&A table (tables.QA) of the cases to be asked
    answers  what the model answered with its own answers as context: sample_id, turn, answer
    Drawn by hash of (seed, sample) among the yes/no questions of stage 2 on the presence of one finding that
    were answered with a yes or a no. A case without such an answer has no flip.
    """
    asked = qa.filter(
        pl.col("stage") == 2,
        pl.col("qtype") == "yes_no",
        pl.col("fact").str.contains(r"^[^;|]+\|presence$"),
    )
    given = asked.select("sample_id", "turn").join(answers.select("sample_id", "turn", "answer"), on=KEYS)
    said = given.with_columns(said=_SAID).filter(pl.col("said").is_not_null()).sort("sample_id", "turn")
    found = {}
    for (sample,), part in said.group_by("sample_id", maintain_order=True):
        turn, word = draws.pick(seed, sample, "flip", part.select("turn", "said").rows())
        found[sample, turn] = OPPOSITE[word]
    return found
