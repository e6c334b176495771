"""Every path of the study, from one root: the repository that holds this package."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PARAMS = ROOT / "params.yaml"
PIPELINE = ROOT / "dvc.yaml"
PROFILES = ROOT / "profiles"
NOTEBOOKS = ROOT / "notebooks"
DOCS = ROOT / "docs"
README = ROOT / "README.md"
TEMPLATES = Path(__file__).resolve().parent / "templates"

# Outputs of the pipeline: DVC keeps them, git does not.
DATASET = ROOT / "data" / "dataset"
FILMS = ROOT / "data" / "films"
MODELS = ROOT / "models"
UNFINISHED = MODELS / "unfinished"
PREDICTIONS = ROOT / "predictions"

# Kept so as not to be worked out again, named by what they follow from; may be deleted at any time.
PHANTOM = ROOT / "data" / "phantom"
FILM_TOKENS = ROOT / "data" / "film_tokens"

# What readers look at: small files written by cheap steps.
REPORTS = ROOT / "reports"
FIGURES = REPORTS / "figures"
TABLES = REPORTS / "tables"
METRICS = REPORTS / "metrics"
EXECUTED_NOTEBOOKS = REPORTS / "notebooks"
NOTEBOOK_PAGES = EXECUTED_NOTEBOOKS / "html"
