"""The packaged annotation tables, each read once per test session."""

from functools import cache
from importlib import import_module

from cxrtrek_lib import params, paths


@cache
def table(name):
    return import_module(f"cxrtrek_lib.sources.{name}").read()


@cache
def sample():
    """The sources of the default parameters, 300 patients of each."""
    from cxrtrek_lib import corpus  # here, so that the tests of the readers do not wait for the builders

    dataset = params.load(paths.PROFILES / "default.yaml").groups()["dataset"]
    return corpus.read_sources(dataset["roles"], 300, dataset["split"], dataset["folders"])
