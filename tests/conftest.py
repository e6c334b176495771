"""What every test needs: quiet libraries, reproducible hypothesis runs, no window for a figure."""

import os

import pytest
import torch
from hypothesis import settings

from cxrtrek_lib import paths

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as run.py does: spinning threads starve each other

# A shared 2-core machine stalls for seconds at times: a slow example is no failed property.
settings.register_profile("study", deadline=None, derandomize=True)
settings.load_profile("study")


def pytest_configure():
    """Workers of pytest-xdist share the cores, instead of waiting for one another's threads."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # processes of a test have as many


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Figures and tables are written under a scratch folder, which is returned."""
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(paths, "TABLES", tmp_path / "tables")
    return tmp_path


@pytest.fixture(autouse=True)
def threads():
    """A test that lets PyTorch use fewer threads leaves the next one as many as before: bits depend on it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    """The pipeline's run first: it takes as long as all other tests, which a second process then runs."""
    items.sort(key=lambda item: "smoke" not in item.keywords)
