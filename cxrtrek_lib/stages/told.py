"""What stages 5 to 8 may tell of a study, and how a sentence writes it."""

import polars as pl

from cxrtrek_lib.stages.choices import IMPLIES, touched

# Names that a sentence writes in another way: abbreviations and proper names.
WRITTEN = {"copd": "COPD", "chilaiditi sign": "Chilaiditi sign"}


def tellable(known: pl.DataFrame) -> pl.DataFrame:
    """The rows of Evidence.known that can be told as they stand.

    Left out: the absence of a general finding whose special form is present or possible, whatever the table
    says; and what a simulated film hides, which is uncertain but nothing that anybody could suspect there.
    """
    contradicted = (known["status"] == "absent") & touched(known, IMPLIES)
    hidden = (known["status"] == "uncertain") & (known["evidence"] == "simulated")
    return known.filter(~contradicted & ~hidden)


def written(name: pl.Expr) -> pl.Expr:
    """The name of a finding as a sentence writes it."""
    return name.replace(WRITTEN)


def capital(text: pl.Expr) -> pl.Expr:
    """The text with its first letter in upper case."""
    return text.str.head(1).str.to_uppercase() + text.str.slice(1)
