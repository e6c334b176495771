"""The question rows of one stage alone, with the sample they belong to."""

import re
from functools import cache

import polars as pl

from cxrtrek_lib import build
from cxrtrek_lib.stages import BUILDERS, wording


@cache
def templates():
    return wording.load()


def stage_rows(stage, studies, findings, boxes, seed=0, ratio=None):
    """Rows (sample_id, ROW) of a stage; ratio is dataset.yes_no_ratio."""
    balance = build.yes_no_balance(studies, findings, ratio)
    evidence = build.gather(studies, findings, boxes, seed, balance)
    rows = pl.concat(BUILDERS[stage](evidence, templates()[stage]))
    return evidence.studies.select("i", "sample_id").join(rows, on="i").sort("i", "rank", "bits").drop("i")


def bare(option):
    """An option without its label."""
    return re.sub(r"^(?:[A-J]\.|\d+\.|\d+\)\.) ", "", option)
