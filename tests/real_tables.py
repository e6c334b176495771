"""The packaged annotation tables, each read once per test session."""

from functools import cache
from importlib import import_module

from cxrtrek_lib import build


@cache
def table(name):
    return import_module(f"cxrtrek_lib.sources.{name}").read()


@cache
def sample():
    """All four sources, 300 patients of each."""
    split = {"validate": 0.05, "test": 0.05}
    return build.read_sources(["chexpert", "padchest"], ["nih", "openi"], split, 300)
